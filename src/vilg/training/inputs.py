"""What runs are trained on: pictures, their tokens, and proof that they stay the same."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vilg.config import require
from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import LeftOut, Worker, left_out_of
from vilg.data.pictures import is_data_set, list_pictures, try_picture
from vilg.data.readers.packed import split_of
from vilg.data.shards import list_splits
from vilg.data.sources import Source, open_source
from vilg.data.store import Kind, Rows, Store, StoreInfo, Writer
from vilg.errors import VilgError
from vilg.files import write_whole
from vilg.images import to_pixels
from vilg.parallel import is_first, meet, num_processes, this_process
from vilg.progress import Progress, in_batches, say
from vilg.text import LANGUAGES, TextTokenizer, train_vocabulary
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.into_store import encode_texts, tokenize
from vilg.training.augment import AugmentConfig, augment

# Pictures that the tokenizer's samples show: held out if the data set holds any out, and far enough
# apart in the list to be of all styles.
SHOWN = "unseen_concept"
SHOWN_STRIDE = 20
NUM_SHOWN = 8

MOST_SPELLED = 0.02  # of the captions' characters
_OF_STORES = ("source", "max_rejects")  # all of `DataConfig` that has a meaning for tokens


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pairs; for an image tokenizer, which pictures.

    Attributes:
        source: a folder, a file or a glob of any format that `vilg data check` reads; for an image tokenizer
            any folder of pictures too; for a generator also what `vilg data tokenize` wrote, all of it.
        format: its name, where it should not be guessed.
        pictures: the folder of the pictures, where they do not lie beside the source.
        only: "tag=value" each: pairs that have one of the values given for each tag.
        split: of a packed data set.
        ids: a file with the ids of the pairs to take, one a line, as `vilg data filter` writes it.
        translations: a file of `vilg data translate`, whose captions are added.
        limit: at most this many, for trials.
        max_rejects: share of the pairs or pictures that may be left out.
    """

    source: str
    format: str | None = None
    pictures: Path | None = None
    only: tuple[str, ...] = ()
    split: str | None = None
    ids: Path | None = None
    translations: Path | None = None
    limit: int | None = None
    max_rejects: float = 0.1

    def __post_init__(self) -> None:
        require(self.limit is None or self.limit >= 1, "limit must be at least 1, or null")
        require(all("=" in each for each in self.only), "only must be a list of tag=value")
        require(0 <= self.max_rejects <= 1, "max_rejects must be from 0 to 1")

    @property
    def is_store(self) -> bool:
        """Whether the pairs are tokens already."""
        return (Path(self.source) / "store.json").is_file()

    def open(self) -> Source:
        """Recognise the source.

        Raises:
            DataError: as `open_source`.
        """
        return open_source(
            self.source,
            self.format,
            self.pictures,
            only=self.only,
            split=self.split,
            ids=self.ids,
            limit=self.limit,
            translations=self.translations,
        )


@dataclass(frozen=True)
class Pictures:
    """What an image tokenizer is trained on: pairs, or files.

    Attributes:
        held_out: a few that samples show; none where the data set holds none out.
        digest: tells whether they are the same when training goes on.
        rejects: what of the source is no picture.
        others: how many files of a folder are no pictures by their names, by what they are.
    """

    training: Sequence[Pair | Path]
    held_out: Sequence[Pair]
    digest: str
    rejects: Sequence[LeftOut] = ()
    others: Counter[str] = field(default_factory=Counter)


def read_pictures(data: DataConfig, out: Path, log: TextIO) -> Pictures:
    """Find the pictures of a source of pairs, or all of a folder, captioned or not.

    Raises:
        DataError: there is none, or the run is to be written where they are read.
    """
    source = data.open()
    source.check_outside(out)
    if source.format.name == "folder" and data.ids is None and not data.only:
        return _list_pictures(source, log)
    say(source.recognised, log)
    pairs, rejects = list[Pair](), list[LeftOut]()
    for item in _reading(source):
        if isinstance(item, Pair) and item.picture is not None:
            pairs.append(item)
        else:
            none = [LeftOut(item.place, item.id, "no picture")]
            rejects += none if isinstance(item, Pair) else left_out_of(item)
    if not pairs:
        raise DataError(
            f"{data.source} holds no picture for an image tokenizer to learn from: name pairs with "
            "pictures, or a folder of pictures"
        )
    folder, held_out = Path(data.source), list[Pair]()
    if is_data_set(folder) and SHOWN in list_splits(folder):
        others = replace(source, only=(), ids=split_of(folder, SHOWN), limit=None)
        held_out = list(pairs_of(others))[::SHOWN_STRIDE]
    return Pictures(pairs, held_out[:NUM_SHOWN], source.identity.sha256, rejects)


def _list_pictures(source: Source, log: TextIO) -> Pictures:
    say(f"{source.given}: all pictures of the folder", log)
    found, others, digest = list[Path](), Counter[str](), hashlib.sha256()
    for folder in source.files:
        files, more = list_pictures(folder)
        found += files
        others += more
        for file in files:
            line = f"{file.relative_to(folder)} {file.stat().st_size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return Pictures(found[: source.limit], (), digest.hexdigest(), others=others)


def load_readable(
    pictures: Pictures, size: int, max_rejects: float, rejects: Path
) -> NDArray[np.uint8]:
    """Decode the pictures to learn from; return bytes_NYX3.

    Those that cannot be read are left out like the other rejects, which stand in a file with them.

    Raises:
        DataError: that is more than a share of all.
    """
    arrays_NYX3 = np.empty((len(pictures.training), size, size, 3), dtype=np.uint8)
    num, left_out = 0, list(pictures.rejects)
    for batch in in_batches(len(pictures.training), 256, "pictures"):
        for source in pictures.training[batch]:
            picture = try_picture(source, size)
            if isinstance(picture, VilgError):
                place, id = (
                    (str(source), None) if isinstance(source, Path) else (source.place, source.id)
                )
                left_out.append(LeftOut(place, id, str(picture)))
            else:
                arrays_NYX3[num] = picture
                num += 1
    if left_out:
        total, first = num + len(left_out), left_out[0]
        if num == 0 or len(left_out) > max_rejects * total:
            more = f"; data.max_rejects allows {100 * max_rejects:g}%" if num else ""
            raise DataError(
                f"{len(left_out)} of {total} pictures cannot be used{more}; the first is {first.place}: "
                f"{first.reason}"
            )
        if is_first():
            write_whole(rejects, "".join(item.line() for item in left_out))
    return arrays_NYX3[:num]


def _reading(source: Source) -> Iterator[Pair | Reject]:
    """Yield all of a source, and say how far it is read where that takes long."""
    with Progress("pairs", what="reading") as progress:
        for number, item in enumerate(source, start=1):
            yield item
            progress(number, None)


def pairs_of(source: Source) -> Iterator[Pair]:
    """Yield a source's pairs alone."""
    return (item for item in _reading(source) if isinstance(item, Pair))


def texts_of(pair: Pair) -> Iterator[str]:
    """Yield all texts of a pair."""
    for texts in (*pair.captions.values(), *pair.prompts.values()):
        yield from texts
    for question in pair.questions:
        yield from (question.text, *question.answers)


def is_learnable(pair: Pair, words: TextTokenizer, max_text: int) -> bool:
    """Say whether a pair has a picture and a caption that a model of this length reads."""
    alone = replace(pair, prompts={}, questions=())
    return pair.picture is not None and bool(encode_texts(alone, words, max_text)[0])


def rows_of(store: Store, source: Source) -> list[Pair]:
    """Return the pairs of a store's rows: all of its source, in order, but those that were left out.

    An id does not tell them: where the first pair of an id was left out, the row is the second one's.

    Raises:
        DataError: the store was made from other pairs.
    """
    with (store.folder / "rejects.jsonl").open(encoding="utf-8") as file:
        rejects = [row for row in map(json.loads, file) if row["left_out"] == "pair"]
    left_out = {(row["place"], row["id"]) for row in rejects}
    pairs = [pair for pair in pairs_of(source) if (pair.place, pair.id) not in left_out]
    if [pair.id for pair in pairs] != store.ids(np.arange(len(store))):
        raise DataError(f"{store.folder} was made from other pairs: tokenize them anew")
    return pairs


@dataclass(frozen=True)
class Pairs:
    """What a generator is trained on.

    Attributes:
        source: None where the data are tokens already.
        words: the run's vocabulary.
    """

    source: Source | None
    words: TextTokenizer


def read_pairs(
    data: DataConfig, vocabulary: Path, or_built: bool, max_text: int, out: Path, log: TextIO
) -> Pairs:
    """Recognise a generator's pairs, say so, and find their vocabulary.

    Args:
        vocabulary: a tokenizer.json.
        or_built: build one from the captions where that one would spell too many.

    Raises:
        DataError: no pair that a model of this length could learn from, tokens that do not fit, or the run
            is to be written where they are read.
    """
    words = TextTokenizer.from_file(vocabulary)
    if data.is_store:
        open_store(data, words, max_text)
        say(f"{data.source}: tokens of vilg data tokenize", log)
        return Pairs(None, words)
    source = data.open()
    source.check_outside(out)
    say(source.recognised, log)
    if untagged := source.identity.untagged:
        say(f"languages told by characters, since no tag tells them: {untagged:,} captions", log)
    if or_built:
        words = find_words(words, source)
    if not any(is_learnable(pair, words, max_text) for pair in pairs_of(source)):
        raise DataError(
            f"{data.source} has no picture with a caption that the model can read: it reads "
            f"{max_text - 1} tokens a text, which generator.max_text sets"
        )
    return Pairs(source, words)


def find_words(words: TextTokenizer, source: Source) -> TextTokenizer:
    """Return a vocabulary, or one built from a source's texts where it would spell too many of them."""
    spelled = characters = 0
    for pair in pairs_of(source):
        for text in texts_of(pair):
            spelled += len(words.spelled(text))
            characters += len(text)
    if spelled <= MOST_SPELLED * characters:
        return words
    return train_vocabulary(text for pair in pairs_of(source) for text in texts_of(pair))


def find_store(
    data: DataConfig,
    pairs: Pairs,
    image_tokenizer: ImageTokenizer,
    max_text: int,
    folder: Path,
) -> Store:
    """Return a run's tokens: those that its data are, or those of the folder, which are made once.

    Raises:
        DataError: tokens of other tokenizers, or texts that are too long.
    """
    if pairs.source is None:
        store = open_store(data, pairs.words, max_text)
    else:  # goes on where it was broken off, and is over at once where all is there
        tokenize(
            pairs.source,
            folder,
            image_tokenizer,
            pairs.words,
            max_text=max_text,
            max_rejects=data.max_rejects,
            worker=Worker(this_process(), num_processes()),
        )
        meet()
        store = Store(folder)
    if store.info.image_tokenizer != image_tokenizer.fingerprint():
        raise DataError(
            f"{store.folder} holds the tokens of another image tokenizer: tokenize anew"
        )
    return store


def open_store(data: DataConfig, words: TextTokenizer, max_text: int) -> Store:
    """Open tokens made beforehand; those of another vocabulary are refused, and texts too long for a model."""
    chosen = [name for name, value in vars(data).items() if value and name not in _OF_STORES]
    if chosen:
        raise DataError(
            f"{data.source} holds tokens, which are taken as they are: leave out data.{chosen[0]}, and "
            "choose pairs when they are tokenized"
        )
    store = Store(Path(data.source))
    if store.info.text_tokenizer != words.fingerprint:
        raise DataError(f"{store.folder} holds the tokens of another vocabulary: tokenize anew")
    if store.info.max_text > max_text:
        raise DataError(
            f"{store.folder} holds texts of up to {store.info.max_text} tokens: set "
            "generator.max_text to as many, or tokenize anew"
        )
    return store


def captions_told(store: Store, words: TextTokenizer, most: int = 100_000) -> dict[str, list[str]]:
    """Return the captions of the first rows by language; none of a language that there is none in."""
    texts = store.texts_of(np.arange(min(len(store), most)))
    told = {}
    for i, lang in enumerate(LANGUAGES):
        chosen = texts.text_P[(texts.kind_P == Kind.CAPTION) & (texts.lang_P == i)]
        if len(chosen):
            told[lang] = [words.decode(tokens.tolist()) for tokens in store.tokens_of(chosen)]
    return told


def moved_tokens(
    tokenizer: ImageTokenizer,
    pictures_SYX3: NDArray[np.uint8],
    seed: int,
    config: AugmentConfig,
    step: int,
    ids: NDArray[np.int64],
) -> Tensor:
    """Return the tokens of a batch's pictures, image_ids_BN, as they are moved about at a step."""
    return tokenizer.encode(
        to_pixels(augment(pictures_SYX3[ids], seed, step, ids, config))
    ).flatten(1)


def stored_tokens(
    folder: Path, ids: Sequence[str], by: str, make: Callable[[], NDArray[np.uint16]]
) -> NDArray[np.uint16]:
    """Return every picture's ids from a store of pictures alone, which is made where there is none.

    Args:
        ids: of the samples, one a row.
        by: what makes the tokens.

    Raises:
        DataError: the store is damaged, or holds tokens of others.
    """
    if not (folder / "store.json").is_file() and is_first():
        tokens_SN = make()
        with Writer(folder) as writer:
            writer.append(Rows(ids, tokens_SN, [[]] * len(ids)))
            grid = (1, tokens_SN.shape[1])
            writer.close(
                partial(
                    StoreInfo,
                    grid=grid,
                    image_tokenizer=by,
                    text_tokenizer="",
                    max_text=1,
                    rejects=0,
                )
            )
    meet()
    store = Store(folder)
    rows_S = np.arange(len(store))
    if store.info.image_tokenizer != by or store.ids(rows_S) != list(ids):
        raise DataError(
            f"{folder} holds tokens of other samples or by {store.info.image_tokenizer}, not by {by}: "
            "delete the folder, it will be made anew"
        )
    return store.image_ids(rows_S).astype(np.uint16)

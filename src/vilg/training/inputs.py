"""What runs are trained on: pictures, their tokens, and proof that they stay the same."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vilg.config import require
from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import Worker
from vilg.data.pictures import check_outside, is_data_set, list_pictures
from vilg.data.readers.packed import split_of
from vilg.data.shards import list_splits
from vilg.data.sources import Source, open_source
from vilg.data.store import Kind, Store
from vilg.data.tokens import has_tokens, load_tokens, save_tokens
from vilg.images import to_pixels
from vilg.parallel import is_first, meet, num_processes, this_process
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


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pairs; for an image tokenizer, which pictures.

    Attributes:
        source: a folder, a file or a glob of any format that `vilg data check` reads; for an image tokenizer
            any folder of pictures too; for a generator also what `vilg data tokenize` wrote.
        format: its name, where it should not be guessed.
        pictures: the folder of the pictures, where they do not lie beside the source.
        only: "tag=value" each: pairs that have one of the values given for each tag.
        split: of a packed data set.
        limit: at most this many, for trials.
        max_rejects: share of the pairs that may be left out.
    """

    source: str
    format: str | None = None
    pictures: Path | None = None
    only: tuple[str, ...] = ()
    split: str | None = None
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
            limit=self.limit,
        )


@dataclass(frozen=True)
class Pictures:
    """What an image tokenizer is trained on: pairs, or files.

    Attributes:
        shown: the few that samples show; held out, if the data set holds any out.
        digest: tells whether they are the same when training goes on.
        left_out: how many others there are, by what they are.
    """

    training: Sequence[Pair | Path]
    shown: Sequence[Pair | Path]
    digest: str
    left_out: Counter[str]


def read_pictures(data: DataConfig, out: Path) -> Pictures:
    """Find the pictures of a source of pairs, or of any folder, in which nothing may be written."""
    folder = Path(data.source)
    if not folder.is_dir() or is_data_set(folder) or data.format is not None:
        source = data.open()
        source.check_outside(out)
        items = list(source)
        pairs = [item for item in items if isinstance(item, Pair) and item.picture is not None]
        left_out = Counter("rejected pair" for item in items if isinstance(item, Reject))
        if is_data_set(folder) and SHOWN in list_splits(folder):
            held_out = replace(source, only=(), ids=split_of(folder, SHOWN), limit=None)
            shown = [item for item in held_out if isinstance(item, Pair)][::SHOWN_STRIDE]
        else:
            shown = pairs[:: max(1, len(pairs) // NUM_SHOWN)]
        return Pictures(pairs, shown[:NUM_SHOWN], source.identity.sha256, left_out)
    require(
        not data.only and data.split is None,
        f"{folder} is a plain folder of pictures: leave out only and split",
    )
    check_outside(folder, out)
    found, left_out = list_pictures(folder)
    lines = [f"{file.relative_to(folder)} {file.stat().st_size}\n" for file in found]
    digest = hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    files = found[: data.limit]
    return Pictures(files, files[:: max(1, len(files) // NUM_SHOWN)][:NUM_SHOWN], digest, left_out)


def pairs_of(source: Source) -> Iterator[Pair]:
    """Yield a source's pairs alone."""
    return (item for item in source if isinstance(item, Pair))


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


def find_words(vocabulary: Path, or_built: bool, source: Source) -> TextTokenizer:
    """Return the vocabulary of a run: the one it names, or one built from its captions."""
    words = TextTokenizer.from_file(vocabulary)
    if not or_built:
        return words
    texts = [text for pair in pairs_of(source) for text in texts_of(pair)]
    if sum(len(words.spelled(text)) for text in texts) <= MOST_SPELLED * sum(map(len, texts)):
        return words
    return train_vocabulary(texts)


def find_store(
    config: DataConfig,
    image_tokenizer: ImageTokenizer,
    words: TextTokenizer,
    max_text: int,
    folder: Path,
) -> Store:
    """Return a run's tokens: those that its data are, or those of the folder, which are made once.

    Raises:
        DataError: tokens of other tokenizers, or texts that are too long.
    """
    if config.is_store:
        folder = Path(config.source)
    else:  # goes on where it was broken off, and is over at once where all is there
        tokenize(
            config.open(),
            folder,
            image_tokenizer,
            words,
            max_text=max_text,
            max_rejects=config.max_rejects,
            worker=Worker(this_process(), num_processes()),
        )
        meet()
    store = Store(folder)
    check_store(store, words, max_text)
    if store.info.image_tokenizer != image_tokenizer.fingerprint():
        raise DataError(f"{folder} holds the tokens of another image tokenizer: tokenize anew")
    return store


def check_store(store: Store, words: TextTokenizer, max_text: int) -> None:
    """Refuse texts in tokens of another vocabulary, or longer ones than a model reads."""
    if store.info.text_tokenizer != words.fingerprint:
        raise DataError(f"{store.folder} holds the tokens of another vocabulary: tokenize anew")
    if store.info.max_text > max_text:
        raise DataError(
            f"{store.folder} holds texts of up to {store.info.max_text} tokens: set "
            "generator.max_text to as many, or tokenize anew"
        )


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
    store: Path, ids: Sequence[str], by: str, make: Callable[[], NDArray[np.uint16]]
) -> NDArray[np.uint16]:
    """Return every picture's ids from the store, which is made where there is none.

    Args:
        ids: of the samples, one a row.
        by: what makes the tokens; a store of another is refused.
    """
    if not has_tokens(store) and is_first():
        save_tokens(store, ids, make(), by)
    meet()
    return load_tokens(store, ids, by)

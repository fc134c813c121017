"""Pairs of any source become a store of tokens (`data/store.py`)."""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilg.data.pairs import DataError, Pair, Reject
from vilg.data.parts import (
    LeftOut,
    Work,
    Worker,
    check_share,
    id_hashes,
    left_out_of,
    second_of_one_id,
)
from vilg.data.pictures import try_picture
from vilg.data.sources import Source
from vilg.data.store import Kind, Rows, StoreInfo, Writer, open_over, read_info
from vilg.errors import VilgError
from vilg.images import batch_of, to_pixels
from vilg.progress import Progress
from vilg.text import LANGUAGES, TextError, TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer

Text = tuple[int, Kind, Sequence[int] | NDArray[np.uint16]]

_MOST_IDS = 2**16  # of uint16


@dataclass(frozen=True)
class _Made:
    """What became of a part's items.

    Attributes:
        places: of the rows.
    """

    rows: Rows
    places: list[str]
    left_out: list[LeftOut]


def tokenize(
    source: Source,
    out: Path,
    image_tokenizer: ImageTokenizer,
    words: TextTokenizer,
    *,
    max_text: int,
    max_rejects: float = 0.1,
    worker: Worker | None = None,
) -> bool:
    """Write a source's tokens; return whether the store is whole, or other workers are still at it.

    Parts that are there already are kept, so that the same command goes on after a kill. The worker
    who finds all of them there joins them; so do two who find them at once, to the same bytes.

    Args:
        max_text: tokens that a text may have at most, its language token included; longer texts are left
            out, and so is a pair that has no other.
        max_rejects: share of the pairs that may be left out.

    Raises:
        DataError: no pairs, or too much left out of them; or what is there was made from something else.
    """
    identity = source.identity
    if not identity.items:
        raise DataError(f"{source.given} holds no pairs: name another source")
    if max(image_tokenizer.config.num_codes, len(words)) > _MOST_IDS:
        raise DataError(f"a store holds ids below {_MOST_IDS}: take smaller vocabularies")
    made_from = _MadeFrom(
        pairs=identity.sha256,
        image_tokenizer=image_tokenizer.fingerprint(),
        text_tokenizer=words.fingerprint,
        max_text=max_text,
    )
    work = Work(
        whole=out / "store.json",
        parts=out / "parts",
        suffix=".npz",
        made_from=vars(made_from),
        others="other pairs or tokenizers",
        what="tokens",
    )
    grid = image_tokenizer.config.grid_size
    if not work.run(
        source,
        worker or Worker(),
        lambda _, items: _packed(_encode_part(image_tokenizer, words, max_text, items)),
        lambda paths: _join(paths, out, made_from, grid, identity.items, max_rejects),
    ):
        return False
    info = read_info(out)
    if made_from != _MadeFrom(**{name: getattr(info, name) for name in vars(made_from)}):
        raise DataError(
            f"{out} holds a store of other pairs or tokenizers: name another folder, or remove it first"
        )
    for path in out.glob(".store-*.part"):  # of a kill, or of another who joins what is joined
        path.unlink(missing_ok=True)
    return True


@dataclass(frozen=True, kw_only=True)
class _MadeFrom:
    pairs: str
    image_tokenizer: str
    text_tokenizer: str
    max_text: int


def _encode_part(
    image_tokenizer: ImageTokenizer,
    words: TextTokenizer,
    max_text: int,
    items: Sequence[Pair | Reject],
) -> _Made:
    """Return the rows of a part's items, and what is left out of it."""
    left_out: list[LeftOut] = []
    rows: list[tuple[Pair, list[Text]]] = []
    for item in items:
        left_out += left_out_of(item)
        if isinstance(item, Reject):
            continue
        texts, reasons = encode_texts(item, words, max_text)
        left_out += [LeftOut(item.place, item.id, reason, is_pair=False) for reason in reasons]
        if item.picture is None or not texts:
            reason = "no picture" if item.picture is None else "no text that the model can read"
            left_out.append(LeftOut(item.place, item.id, reason))
            continue
        rows.append((item, texts))
    ids, places, tokens, kept = [], [], [], []
    for batch, pictures in _decoded(rows, image_tokenizer.config.image_size):
        good = [picture for picture in pictures if not isinstance(picture, VilgError)]
        for (pair, texts), picture in zip(batch, pictures, strict=True):
            if isinstance(picture, VilgError):
                left_out.append(LeftOut(pair.place, pair.id, str(picture)))
            else:
                ids.append(pair.id)
                places.append(pair.place)
                kept.append(texts)
        if good:
            ids_BHW = image_tokenizer.encode(to_pixels(np.stack(good), image_tokenizer.device))
            tokens.append(ids_BHW.flatten(1).cpu().numpy())
    num_cells = image_tokenizer.config.grid_size**2
    image_ids_SN = np.concatenate([*tokens, np.empty((0, num_cells), np.int64)]).astype(np.uint16)
    return _Made(Rows(ids, image_ids_SN, kept), places, left_out)


def encode_texts(pair: Pair, words: TextTokenizer, max_text: int) -> tuple[list[Text], list[str]]:
    """Return a pair's texts in tokens, and why others are none."""
    found: list[Text] = []
    reasons: list[str] = []

    def encode(lang: str, kind: Kind, text: str) -> bool:
        start = text if len(text) < 40 else text[:40] + "..."
        try:
            tokens = words.encode(text)
        except TextError:  # a mark of direction alone, say
            reasons.append(f"{start!r} has no visible character")
            return False
        if len(tokens) >= max_text:
            reasons.append(f"{start!r} has {len(tokens)} tokens, the model reads {max_text - 1}")
            return False
        found.append((LANGUAGES.index(lang), kind, tokens))
        return True

    for kind, texts_by_language in ((Kind.CAPTION, pair.captions), (Kind.PROMPT, pair.prompts)):
        for lang, texts in texts_by_language.items():
            for text in texts:
                encode(lang, kind, text)
    for question in pair.questions:
        if encode(question.lang, Kind.QUESTION, question.text):
            for answer in question.answers:
                encode(question.lang, Kind.ANSWER, answer)
    return found, reasons


Batch = list[tuple[Pair, list[Text]]]
Pictures = list[NDArray[np.uint8] | VilgError]


def _decoded(rows: Batch, size: int) -> Iterator[tuple[Batch, Pictures]]:
    """Yield batches with their pictures, which are decoded while the last batch is encoded."""
    batches = [rows[i : i + batch_of(size)] for i in range(0, len(rows), batch_of(size))]

    def decode(row: tuple[Pair, list[Text]]) -> NDArray[np.uint8] | VilgError:
        return try_picture(row[0], size)

    with ThreadPoolExecutor(2) as pool:
        ahead: list[Iterator[NDArray[np.uint8] | VilgError]] = []
        for i, batch in enumerate(batches):
            ahead += [pool.map(decode, later) for later in batches[i + len(ahead) : i + 2]]
            yield batch, list(ahead.pop(0))


def _packed(made: _Made) -> bytes:
    """Write a part and what is left out of it as one file."""
    rows = made.rows
    flat = [text for texts in rows.texts for text in texts]
    others = {
        "ids": list(rows.ids),
        "places": made.places,
        "left_out": [vars(item) for item in made.left_out],
    }
    stream = io.BytesIO()
    np.savez(
        stream,
        image_ids=rows.image_ids_SN,
        num_texts=np.array([len(texts) for texts in rows.texts], np.int64),
        lengths=np.array([len(tokens) for _, _, tokens in flat], np.int64),
        langs=np.array([lang for lang, _, _ in flat], np.uint8),
        kinds=np.array([kind for _, kind, _ in flat], np.uint8),
        tokens=np.array([token for _, _, tokens in flat for token in tokens], np.uint16),
        others=np.frombuffer(json.dumps(others).encode(), np.uint8),
    )
    return stream.getvalue()


def _unpacked(path: Path, with_tokens: bool = True) -> _Made:
    """Read what `_packed` wrote; the rows of a part without tokens are empty."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            others = json.loads(arrays["others"].tobytes())
            ids, places = others["ids"], others["places"]
            left_out = [LeftOut(**item) for item in others["left_out"]]
            if not with_tokens:
                empty = np.empty((len(ids), 0), np.uint16)
                return _Made(Rows(ids, empty, [[]] * len(ids)), places, left_out)
            tokens = np.split(arrays["tokens"], np.cumsum(arrays["lengths"])[:-1])
            kinds = map(Kind, arrays["kinds"])
            flat = list(zip(arrays["langs"].tolist(), kinds, tokens, strict=False))
            ends = np.cumsum(arrays["num_texts"]).tolist()
            texts = [flat[end - n : end] for n, end in zip(arrays["num_texts"], ends, strict=True)]
            return _Made(Rows(ids, arrays["image_ids"], texts), places, left_out)
    except (
        zipfile.BadZipFile,
        ValueError,
        LookupError,
        TypeError,
        EOFError,
        RuntimeError,
    ) as error:
        raise DataError(f"{path} is damaged: remove it and run the same command again") from error


def _join(
    paths: Sequence[Path],
    out: Path,
    made_from: _MadeFrom,
    grid: int,
    num_items: int,
    max_rejects: float,
) -> None:
    """Join the parts in order; of two pairs of one id the first one stays."""
    hashes, num_left_out = [np.empty(0, np.uint64)], 0
    for path in paths:
        made = _unpacked(path, with_tokens=False)
        hashes.append(id_hashes(made.rows.ids))
        num_left_out += sum(item.is_pair for item in made.left_out)
    second = second_of_one_id(np.concatenate(hashes))
    num_left_out += len(second)
    firsts = np.cumsum([0, *map(len, hashes[1:])])
    again = [second[slice(*np.searchsorted(second, span))] - span[0] for span in pairwise(firsts)]
    with open_over(out / "rejects.jsonl") as rejects:
        for path, some in zip(paths, again, strict=True):
            made = _unpacked(path, with_tokens=False)
            for i in some:
                reason = "an earlier pair has this id"
                made.left_out.append(LeftOut(made.places[i], made.rows.ids[i], reason))
            rejects.writelines(item.line().encode() for item in made.left_out)
        rejects.truncate()
    check_share(num_left_out, num_items, max_rejects, out / "rejects.jsonl")
    if num_left_out == num_items:
        raise DataError(f"all {num_items} pairs were left out: see {out / 'rejects.jsonl'}")
    with Writer(out) as writer, Progress("parts", what="joining") as progress:
        for number, (path, some) in enumerate(zip(paths, again, strict=True), start=1):
            rows = _unpacked(path).rows
            keep = np.delete(np.arange(len(rows.ids)), some).tolist()
            writer.append(
                Rows(
                    [rows.ids[i] for i in keep],
                    rows.image_ids_SN[keep],
                    [rows.texts[i] for i in keep],
                )
            )
            progress(number, len(paths))
        writer.close(partial(StoreInfo, grid=(grid, grid), rejects=num_left_out, **vars(made_from)))

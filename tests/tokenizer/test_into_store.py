"""Pairs become a store: the same bytes whoever makes it and whatever is killed, and nothing is lost unsaid."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.cli.conftest import full_disk
from tests.tokenizer.test_refine import tokenizer_of
from tests.training.conftest import forking
from vilg.data.pairs import DataError
from vilg.data.parts import ITEMS, Worker
from vilg.data.sources import Source, open_source
from vilg.data.store import Kind, Store
from vilg.images import open_picture, square, to_array, to_pixels
from vilg.text import LANGUAGES, TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.into_store import tokenize

WORDS = TextTokenizer("红苹果青梨，", ["apple", "▁apple", "red", "▁green"])
MAX_TEXT = 8
MANY = 2 * ITEMS + 100
NUM_PICTURES = 20


def image_tokenizer() -> ImageTokenizer:
    """Of 8 x 8 pixels and 2 x 2 cells."""
    with torch.random.fork_rng():
        return tokenizer_of(num_codes=50).eval()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Many:
    """A source of several parts, a few of whose items are no pairs, and its store as one worker makes it."""

    source: Path
    store: Path


def lay_pictures(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(NUM_PICTURES):
        pixels = rng.integers(0, 256, (8 + i % 3, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(source: Path | str, out: Path, rank: int = 0, world: int = 1, **more: Any) -> bool:
    """Tokenize as one of some workers; in a process of its own too."""
    torch.set_num_threads(1)
    return tokenize(
        open_source(str(source)),
        out,
        image_tokenizer(),
        WORDS,
        max_text=MAX_TEXT,
        worker=Worker(rank, world),
        **more,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Many:
    folder = tmp_path_factory.mktemp("many")
    lay_pictures(folder / "pictures")
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    records: list[Any] = []
    for i in range(MANY):
        picture = "broken" if i % 500 == 7 else str(i % NUM_PICTURES)
        texts: dict[str, Any] = {
            "zh": "红苹果" * (1 + (i % 97 == 0)),
            "en": ["red apple", "a" * (i % 5 + 1)],
        }
        id = i - 1000 if i % 1001 == 1000 else i  # a second one in the next part
        records.append({"id": id, "image": f"pictures/{picture}.png", **texts})
        if i % 700 == 699:
            records.append(["no object"])
    source = write_lines(folder / "pairs.jsonl", records)
    assert run(source, folder / "store")
    return Many(source, folder / "store")


def test_rows_are_the_pairs_one_by_one(tmp_path: Path) -> None:
    """Against each picture encoded alone, whatever stands between."""
    lay_pictures(tmp_path / "pictures")
    records: list[dict[str, Any]] = [
        {
            "id": f"k{i}",
            "image": f"pictures/{i % NUM_PICTURES}.png",
            "en": f"red {i}",
            "zh": ["青梨", "红"],
        }
        for i in range(45)
    ]
    records[4] |= {"questions": [{"question": "apple？", "answer": ["red", "green"], "lang": "en"}]}
    records[30]["image"] = "pictures/missing.png"
    out = tmp_path / "out"
    assert run(write_lines(tmp_path / "pairs.jsonl", records), out)
    store, kept = Store(out), [i for i in range(45) if i != 30]
    store.check()
    rows = np.arange(len(store))
    assert store.ids(rows) == [f"k{i}" for i in kept]
    tokenizer = image_tokenizer()
    for i, image_ids in zip(kept, store.image_ids(rows), strict=True):
        picture = square(open_picture(tmp_path / "pictures" / f"{i % NUM_PICTURES}.png"), 8)
        alone_1HW = tokenizer.encode(to_pixels(to_array(picture)[None]))
        assert image_ids.tolist() == alone_1HW.flatten().tolist()
    texts = store.texts_of(rows)
    tokens = store.tokens_of(texts.text_P)
    found: list[list[Any]] = [[] for _ in kept]
    for owner, lang, kind, text in zip(
        texts.owner_P, texts.lang_P, texts.kind_P, tokens, strict=True
    ):
        found[owner].append((LANGUAGES[lang], Kind(kind).name, WORDS.decode(text)))
    for i, own in zip(kept, found, strict=True):
        captions = [
            ("en", "CAPTION", f"red {i}"),
            ("zh", "CAPTION", "青梨"),
            ("zh", "CAPTION", "红"),
        ]
        asked = [("QUESTION", "apple？"), ("ANSWER", "red"), ("ANSWER", "green")]
        assert own == captions + [("en", *each) for each in asked if i == 4]
    info = store.info
    assert (info.rows, info.rejects, info.max_text, info.grid) == (44, 1, MAX_TEXT, (2, 2))
    assert info.image_tokenizer == tokenizer.fingerprint()
    assert info.text_tokenizer == WORDS.fingerprint
    assert {path.name for path in out.iterdir()} == {
        *("store.json", "rejects.jsonl", "image_ids.bin", "rows.bin"),
        *("texts.bin", "tokens.bin", "ids.bin"),
    }


def test_whatever_is_left_out_is_said_with_its_place(tmp_path: Path) -> None:
    lay_pictures(tmp_path / "pictures")
    whole = (tmp_path / "pictures" / "0.png").read_bytes()
    (tmp_path / "pictures" / "cut.png").write_bytes(whole[:60])
    (tmp_path / "pictures" / "words.png").write_text("no picture")
    good = {"image": "pictures/1.png", "en": "red"}
    records = [
        good | {"id": "a"},
        good | {"id": "b", "zh": ["红" * 7, "红" * 8]},
        good | {"id": "c", "en": "apple " * 20},
        good | {"id": "d", "image": "pictures/cut.png"},
        good | {"id": "e", "image": "pictures/words.png"},
        good | {"id": "f", "image": "pictures/missing.png"},
        good | {"id": "g", "en": ["", "red"]},
        good | {"id": "a", "en": "green"},
        good | {"id": "h", "en": "\u200e"},
        good | {"id": "i", "en": ["\u200e", "red"]},
        good | {"id": "j", "en": " "},
        good | {"id": "k", "fr": "rouge", "en": {"de": "rot", "en": "red"}},
        "no object",
        good | {"id": "a", "en": "red"},
        good | {"id": "z"},
    ]
    source = write_lines(tmp_path / "pairs.jsonl", records)
    assert run(source, tmp_path / "out", max_rejects=0.9)
    store = Store(tmp_path / "out")
    assert store.ids(np.arange(len(store))) == ["a", "b", "g", "i", "k", "z"]
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()
    ]
    found = {(line["place"], line["id"], line["left_out"]): line["reason"] for line in lines}
    assert len(found) == len(lines)
    for line, id, what, reason in (
        (2, "b", "text", f"{'红' * 8!r} has 8 tokens, the model reads 7"),
        (3, "c", "text", "'apple apple apple apple apple apple appl...' has 20 tokens"),
        (3, "c", "pair", "no text that the model can read"),
        (4, "d", "pair", "the picture is not a readable picture"),
        (5, "e", "pair", "the picture is not a readable picture"),
        (6, "f", "pair", "the picture 'pictures/missing.png' is not there"),
        (7, "g", "text", "an empty caption"),
        (8, "a", "pair", "an earlier pair has this id"),
        (9, "h", "text", "has no visible character"),
        (9, "h", "pair", "no text that the model can read"),
        (10, "i", "text", "has no visible character"),
        (11, "j", "pair", "an empty caption"),
        (12, "k", "text", "a caption in 'de'"),
        (13, None, "pair", "no JSON object"),
        (14, "a", "pair", "an earlier pair has this id"),
    ):
        said = found.pop((f"pairs.jsonl line {line}", id, what))
        assert reason in said, said
    assert not found
    assert store.info.rejects == 9 == len(records) - len(store)


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1), (0, 1, 2, 3, 4)])
def test_any_number_of_workers_makes_the_same_bytes(
    many: Many, tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Of five workers two have nothing to do."""
    *first, last = order
    for rank in first:
        whole = run(many.source, tmp_path / "out", rank, len(order))
        assert not whole or rank >= 2
    assert run(many.source, tmp_path / "out", last, len(order))
    assert contents(tmp_path / "out") == contents(many.store)
    info = Store(many.store).info
    assert info.rows + info.rejects == len(many.source.read_text().splitlines())


def start(source: Path, out: Path, rank: int = 0, world: int = 1) -> Any:
    process = forking().Process(target=run, args=(source, out, rank, world))
    process.start()
    return process


def test_workers_at_the_same_time_make_the_same_bytes(many: Many, tmp_path: Path) -> None:
    """Even two of one number, of whom nobody knows which is the last."""
    for i, ranks in enumerate([(0, 1, 2), (0, 0, 1, 1)]):
        out = tmp_path / str(i)
        processes = [start(many.source, out, rank, max(ranks) + 1) for rank in ranks]
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * len(ranks)
        assert contents(out) == contents(many.store)


def test_who_joins_at_the_same_time_does_no_harm(many: Many, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max-rejects"):
        run(many.source, tmp_path / "made", max_rejects=0.0)
    for i in range(3):
        out = shutil.copytree(tmp_path / "made", tmp_path / str(i))
        processes = [start(many.source, out) for _ in range(3)]
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * 3
        assert contents(out) == contents(many.store)


def test_a_store_that_is_whole_is_left_alone(many: Many, tmp_path: Path) -> None:
    out = shutil.copytree(many.store, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "parts").mkdir()  # as a kill leaves them
    (out / "parts" / "00000000.npz").touch()
    (out / ".store-1-2.part").touch()
    for rank in range(2):
        assert run(many.source, out, rank, 2)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def refused(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_parts_of_something_else_are_refused(many: Many, tmp_path: Path) -> None:
    """Neither what is half made nor what is whole is mixed with other pairs or other tokenizers."""
    lay_pictures(tmp_path / "pictures")
    records = [{"id": i, "image": "pictures/1.png", "en": "red"} for i in range(ITEMS + 1)]
    source = write_lines(tmp_path / "pairs.jsonl", records)
    half, whole = tmp_path / "half", tmp_path / "whole"
    assert not run(source, half, 0, 2) and run(source, whole)
    before = contents(half), contents(whole)
    same: dict[str, Any] = {
        "source": open_source(str(source)),
        "image_tokenizer": image_tokenizer(),
        "words": WORDS,
        "max_text": MAX_TEXT,
    }
    other_pairs = write_lines(
        tmp_path / "other.jsonl", [*records[:-1], records[-1] | {"en": "green"}]
    )
    changes: list[dict[str, Any]] = [
        {"source": open_source(str(other_pairs))},
        {"source": open_source(str(source), limit=ITEMS)},
        {"image_tokenizer": tokenizer_of(seed=1)},
        {"words": TextTokenizer("红", [])},
        {"max_text": MAX_TEXT + 1},
    ]
    for change in changes:
        for out in (half, whole):
            line = refused(partial(tokenize, out=out, **(same | change)))
            assert str(out) in line and "remove it first" in line
    assert (contents(half), contents(whole)) == before
    assert run(source, half, 1, 2)
    assert contents(half) == contents(whole)


def test_other_pictures_with_the_same_texts_are_refused(tmp_path: Path) -> None:
    lay_pictures(tmp_path / "pictures")
    lines = [{"id": i, "image": f"pictures/{i}.png", "en": "red"} for i in range(9)]
    source = write_lines(tmp_path / "pairs.jsonl", lines)
    assert run(source, tmp_path / "out")
    Image.new("RGB", (200, 200)).save(tmp_path / "pictures" / "3.png")
    assert "holds a store of other pairs" in refused(lambda: run(source, tmp_path / "out"))


def test_too_many_rejects_leave_no_store(many: Many, tmp_path: Path) -> None:
    info = Store(many.store).info
    share = info.rejects / (info.rows + info.rejects)
    out = tmp_path / "out"
    line = refused(lambda: run(many.source, out, max_rejects=share - 1e-6))
    assert f"{info.rejects} of {info.rows + info.rejects} pairs were left out" in line
    assert f"{out / 'rejects.jsonl'}" in line
    assert (out / "rejects.jsonl").read_bytes() == (many.store / "rejects.jsonl").read_bytes()
    assert not (out / "store.json").exists() and not (out / "image_ids.bin").exists()
    assert run(many.source, out, max_rejects=share)  # made of the parts that are there
    assert contents(out) == contents(many.store)


def test_a_source_without_pairs_is_refused(tmp_path: Path) -> None:
    lay_pictures(tmp_path / "pictures")
    empty = write_lines(tmp_path / "empty.jsonl", [])
    assert f"{empty} holds nothing that is known as pairs" in refused(
        lambda: run(empty, tmp_path / "out")
    )
    assert not (tmp_path / "out").exists()
    nothing = write_lines(tmp_path / "nothing.jsonl", [["no object"], {"image": "missing.png"}])
    line = refused(lambda: run(nothing, tmp_path / "out", max_rejects=1.0))
    assert "all 2 pairs were left out" in line and "rejects.jsonl" in line
    assert not (tmp_path / "out" / "store.json").exists()


def test_a_prompt_without_a_picture_is_no_row(tmp_path: Path) -> None:
    from vilg.data.pairs import Pair

    class Prompts(Source):
        def __iter__(self) -> Iterator[Any]:
            yield from source
            yield Pair(id="p", place="prompts.txt line 1", picture=None, captions={"en": ("red",)})

    lay_pictures(tmp_path / "pictures")
    lines = [{"id": "a", "image": "pictures/1.png", "en": "red"}]
    source = open_source(str(write_lines(tmp_path / "pairs.jsonl", lines)))
    both = Prompts(source.given, source.format, source.files)
    assert tokenize(both, tmp_path / "out", image_tokenizer(), WORDS, max_text=9, max_rejects=0.5)
    line = json.loads((tmp_path / "out" / "rejects.jsonl").read_text())
    assert line == {
        "place": "prompts.txt line 1",
        "id": "p",
        "reason": "no picture",
        "left_out": "pair",
    }


def test_ids_that_do_not_fit_are_refused(many: Many, tmp_path: Path) -> None:
    words = TextTokenizer(map(chr, range(0x20000, 0x20000 + 2**16)), [])
    line = refused(
        lambda: tokenize(
            open_source(str(many.source)), tmp_path / "out", image_tokenizer(), words, max_text=9
        )
    )
    assert "below 65536" in line


def test_a_full_disk_costs_nothing_but_time(many: Many, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for after in (100, 20_000):
        with full_disk(after), pytest.raises(OSError, match="too large"):
            run(many.source, out)
        assert not (out / "store.json").exists()
    assert run(many.source, out)
    assert contents(out) == contents(many.store)


def test_a_damaged_part_is_one_line(tmp_path: Path) -> None:
    lay_pictures(tmp_path / "pictures")
    lines = [{"id": i, "image": f"pictures/{i}.png", "en": "red"} for i in range(9)]
    source = write_lines(tmp_path / "pairs.jsonl", [*lines, "no object"])
    assert run(source, tmp_path / "whole")
    refused(lambda: run(source, tmp_path / "made", max_rejects=0.0))
    rng, part = random.Random(0), Path("parts", "00000000.npz")
    content = (tmp_path / "made" / part).read_bytes()
    num_refused = 0
    for i in range(100):
        out = shutil.copytree(tmp_path / "made", tmp_path / str(i))
        place = rng.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        (out / part).write_bytes(content[:place] + flipped[: rng.choice([0, None])])
        try:
            assert run(source, out)
            assert contents(out) == contents(tmp_path / "whole")  # a bit that says nothing
        except DataError as error:
            assert str(error).startswith(f"{out / part} is damaged: remove it")
            num_refused += 1
    assert num_refused > 60

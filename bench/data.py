"""The store and `vilg data tokenize`: what 145 million pairs cost beside 100 thousand.

    python -m bench.data                             7 minutes, 10 GB of disk
    python -m bench.data store|speed|check|memory   one part of it

Seconds are those that the processor worked, so that a shared machine does not count. The large
store is as long as a real one; its pictures' tokens, texts' tokens and ids are holes, and where each text begins
is written. A first round, which fills the disk's cache, is thrown away. Writes its sections of docs/benchmarks.md.
"""

import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.measure import machine, peak_bytes, publish, say, table
from vilg.api import Vilg
from vilg.config import to_json
from vilg.data.batches import choose_captions, choose_prompts, disturbed, padded, targets
from vilg.data.check import check
from vilg.data.filter import choose, parse_rule, write_columns
from vilg.data.order import batch_ids
from vilg.data.pack import pack
from vilg.data.sources import open_source
from vilg.data.store import NAMES, ROW, TEXT, Store, StoreInfo, files_of
from vilg.images import batch_of, open_picture, square, to_array, to_pixels
from vilg.shipped.emoji import VOCABULARY
from vilg.text import TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.into_store import tokenize
from vilg.tokenizer.vqgan import VQGANConfig

SMALL, LARGE = 100_000, 145_000_000  # pairs; the paper's number (section 4.1)
BATCHES, BATCH = 1000, 256
SIDE = 16
TEXTS, TOKENS, ID_BYTES = 2, 12, 9  # texts of a pair, tokens of a text
ROUNDS = 5
FEW, MANY = 1000, 100_000  # pairs that each verb is given
TIMED = 200
CHECKED, HELPERS = 100_000, (os.cpu_count() or 1) - 1  # as the verb has them
TINY = VQGANConfig(
    image_size=8,
    channels=8,
    channel_multipliers=(1, 2, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    latent_channels=8,
    num_codes=32,
    code_dim=4,
    norm_groups=4,
)


def write_store(folder: Path, rows: int) -> None:
    """Write a store of this many rows, each with a caption in either language."""
    info = StoreInfo(
        rows=rows,
        texts=rows * TEXTS,
        tokens=rows * TEXTS * TOKENS,
        id_bytes=rows * ID_BYTES,
        grid=(SIDE, SIDE),
        image_tokenizer="none",
        text_tokenizer="none",
        max_text=64,
        rejects=0,
        sha256=tuple((name, "") for name in NAMES),
    )
    folder.mkdir()
    for name, (kind, shape) in files_of(info).items():
        with (folder / name).open("wb") as file:
            if name in ("rows.bin", "texts.bin"):
                for first in range(0, shape[0], 2**20):
                    places = np.arange(first, min(first + 2**20, shape[0]))
                    part = np.zeros(len(places), kind)
                    if kind == ROW:
                        part["text"], part["id"] = places * TEXTS, places * ID_BYTES
                    else:
                        assert kind == TEXT
                        part["token"], part["lang"] = places * TOKENS, places % 2
                    part.tofile(file)
            file.truncate(int(np.prod(shape)) * kind.itemsize)
    (folder / "store.json").write_text(to_json(info))


def read(store: Store) -> None:
    """Read all that training asks for in 1,000 steps, in both directions."""
    language_ids = np.array([4, 5])
    for step in range(BATCHES):
        rows_B = batch_ids(0, step, BATCH, len(store))
        image_ids_BN = store.image_ids(rows_B)
        disturbed(store, rows_B, image_ids_BN, 0, step, 0.5)
        padded(store, choose_prompts(store, rows_B, 0, step, caption_drop=0.1, prompt_share=0.15))
        texts_R, langs_R = choose_captions(store, rows_B, 0, step, 1)
        targets(store, texts_R, language_ids[langs_R])


def permute(rows: int) -> None:
    """Find the rows of the same steps."""
    for step in range(BATCHES):
        batch_ids(0, step, BATCH, rows)


def open_and_read(folder: Path) -> Callable[[], None]:
    return lambda: read(Store(folder))


def processor_seconds(action: Callable[[], object]) -> float:
    started = time.process_time()
    action()
    return time.process_time() - started


def of_store() -> str:
    measured: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {rows: Path(scratch, str(rows)) for rows in (SMALL, LARGE)}
        for rows, folder in folders.items():
            write_store(folder, rows)
            say(f"{rows:,} rows are written")
        seconds: dict[tuple[int, str], list[float]] = {}
        for round in range(ROUNDS + 1):
            for rows, folder in folders.items():
                case: dict[str, Callable[[], object]] = {
                    "open": partial(Store, folder),
                    "permute": partial(permute, rows),
                    "read": partial(read, Store(folder)),
                }
                for name, action in case.items():
                    taken = processor_seconds(action)
                    if round:
                        seconds.setdefault((rows, name), []).append(taken)
                    say(f"{rows:,} rows, {name}: {taken:.4f} s")
        for rows, folder in folders.items():
            measured[rows] = {
                name: statistics.median(values)
                for (of, name), values in seconds.items()
                if of == rows
            }
            measured[rows]["memory"] = peak_bytes(open_and_read, folder)
            sizes = [(folder / name).stat().st_size for name in NAMES]
            measured[rows]["size"] = sum(sizes)
    small, large = measured[SMALL], measured[LARGE]
    speeds = [BATCHES * BATCH / each["read"] for each in (small, large)]
    lines = [
        [
            "bytes of the store, GB",
            *(f"{each['size'] / 1e9:.2f}" for each in (small, large)),
            "",
            "",
        ],
        line("opening, ms", small["open"] * 1e3, large["open"] * 1e3, 1.2),
        line("permuting 1,000 batches of 256, s", small["permute"], large["permute"], 1.2),
        line("permuting and reading them, s", small["read"], large["read"], 1.2),
        [
            "rows a second and core",
            *(f"{speed:,.0f}" for speed in speeds),
            "",
            "at least 20,000",
        ],
        [
            "growth of the process at its peak, MB",
            *(f"{each['memory'] / 1e6:.0f}" for each in (small, large)),
            "",
            "at most 100",
        ],
    ]
    header = ["", f"{SMALL:,} rows", f"{LARGE:,} rows", "ratio", "target"]
    return table(header, lines)


def line(name: str, small: float, large: float, most: float) -> list[str]:
    return [name, f"{small:.2f}", f"{large:.2f}", f"{large / small:.2f}", f"at most {most}"]


@contextmanager
def source_of(number: int, pictures: list[bytes], suffix: str) -> Iterator[Path]:
    """Lay out pairs that share a few pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for i, picture in enumerate(pictures):
            (folder / f"{i}.{suffix}").write_bytes(picture)
        with (folder / "pairs.jsonl").open("w") as file:
            for i in range(number):
                record = {
                    "id": i,
                    "image": f"{i % len(pictures)}.{suffix}",
                    "en": f"a red apple, number {i}",
                    "zh": "红色的苹果",
                }
                file.write(json.dumps(record) + "\n")
        yield folder / "pairs.jsonl"


def random_pictures(number: int, side: int, form: str) -> list[bytes]:
    """Make pictures as smooth as photographs are, or files would be far too large."""
    rng, found = np.random.default_rng(0), []
    for _ in range(number):
        coarse = rng.integers(0, 256, (max(2, side // 8),) * 2 + (3,), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(stream, form)
        found.append(stream.getvalue())
    return found


def of_speed() -> str:
    torch.set_num_threads(1)  # threads that wait for each other count as work
    model, rows = Vilg.from_pretrained(None), []
    tokenizer, size = model.image_tokenizer, model.image_size
    for what, side, form in (("PNG", size, "png"), ("JPEG", 256, "jpeg")):
        pictures = random_pictures(100, side, form)
        arrays = [to_array(square(open_picture(picture), size)) for picture in pictures]
        ready = np.stack([arrays[i % len(arrays)] for i in range(TIMED)])

        def bare(ready: NDArray[np.uint8] = ready) -> None:
            for first in range(0, TIMED, batch_of(size)):
                tokenizer.encode(to_pixels(ready[first : first + batch_of(size)]))

        def whole(source: Path) -> None:
            with tempfile.TemporaryDirectory() as out:
                opened = open_source(str(source))
                tokenize(opened, Path(out), tokenizer, model.text_tokenizer, max_text=64)

        with source_of(TIMED, pictures, form) as source:
            cases: dict[str, Callable[[], None]] = {"bare": bare, "whole": partial(whole, source)}
            taken = [
                {name: processor_seconds(case) for name, case in cases.items()}
                for _ in range(ROUNDS + 1)
            ][1:]
        seconds = {name: statistics.median(each[name] for each in taken) for name in cases}
        say(f"{what}: {seconds}")
        rows.append(
            [
                f"{what} of {side} x {side}",
                f"{TIMED / seconds['bare']:.0f}",
                f"{TIMED / seconds['whole']:.0f}",
                f"{seconds['bare'] / seconds['whole']:.0%}",
                "at least 90%",
            ]
        )
    header = ["pictures", "tokenizer alone, a second", "`tokenize`, a second", "share", "target"]
    return table(header, rows)


def of_check() -> str:
    """Measure seconds on the wall, with those in which a helper loads: the target is a machine's."""
    words, rows = TextTokenizer.from_file(VOCABULARY), []
    for what, side, form in (("PNG", 64, "png"), ("JPEG", 64, "jpeg")):
        with source_of(CHECKED, random_pictures(100, side, form), form) as source:
            taken = {"read": list[float](), "check": list[float]()}
            for _ in range(2):
                for name, action in (
                    ("read", partial(read_files, source)),
                    ("check", partial(check, open_source(str(source)), words, 64, HELPERS)),
                ):
                    started = time.perf_counter()
                    action()
                    taken[name].append(time.perf_counter() - started)
        speeds = {name: CHECKED / statistics.median(values) for name, (_, *values) in taken.items()}
        say(f"{what}: {speeds}")
        rows.append(
            [
                f"{what} of {side} x {side}",
                f"{speeds['read']:,.0f}",
                f"{speeds['check']:,.0f}",
                "at least 5,000, or the disk's",
            ]
        )
    return table(["pictures", "files read, a second", "`check`, a second", "target"], rows)


def read_files(source: Path) -> None:
    """Read the pictures' files and no more: the disk's limit."""
    pictures = [path for path in sorted(source.parent.iterdir()) if path != source]
    for i in range(CHECKED):
        pictures[i % len(pictures)].read_bytes()


def of_verb(verb: str, number: int) -> Callable[[], None]:
    """Prepare what a verb does with so many pairs of tiny pictures."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer, words = ImageTokenizer(TINY).eval(), TextTokenizer.from_file(VOCABULARY)

    def case() -> None:
        with (
            source_of(number, random_pictures(20, 8, "png"), "png") as path,
            tempfile.TemporaryDirectory() as folder,
        ):
            source, out = open_source(str(path)), Path(folder, "out")
            if verb == "check":
                check(source, words, 64)
            elif verb == "filter":
                write_columns(source, out)
                choose(out, [parse_rule("words<15")], near=None, max_rejects=1)
            elif verb == "pack":
                pack(source, out, "many")
            else:
                tokenize(source, out, tokenizer, words, max_text=64)

    return case


def of_memory() -> str:
    rows = []
    for verb in ("check", "filter", "pack", "tokenize"):
        peaks = [peak_bytes(of_verb, verb, number) for number in (FEW, MANY)]
        say(f"{verb}: {peaks}")
        rows.append([f"`{verb}`", *(f"{peak / 1e6:.0f}" for peak in peaks)])
    return table(["growth of the process at its peak, MB", f"{FEW:,} pairs", f"{MANY:,}"], rows)


PARTS = {"store": of_store, "speed": of_speed, "check": of_check, "memory": of_memory}


def main() -> None:
    for name in sys.argv[1:] or PARTS:
        text = PARTS[name]()
        publish(f"data_{name}", f"Machine: {machine()}.\n\n{text}")


if __name__ == "__main__":
    main()

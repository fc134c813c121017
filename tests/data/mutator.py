"""Damages small sources of every format and looks that readers neither crash, hang nor miscount.

    python -m tests.data.mutator --number 10000 --seed 0

Case N of a seed is always the same: `--first N --number 1` repeats it alone. What must hold of a case:

- nothing is raised but a VilgError, within the time limit;
- every item is a pair or a reject; its place names a file or folder of the source; its texts can be written;
- where the records of the damaged source can be counted, as many items come out;
- a pair's picture is read and decoded, or refused by a VilgError;
- no picture outside of the source's folder is read, nor a text beside one.
"""

import argparse
import base64
import io
import os
import random
import re
import shutil
import signal
import struct
import tarfile
import tempfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.data.readers.fixtures import FIXTURES, tar_of
from vilg.data.pairs import Pair, Reject, shown
from vilg.data.sources import open_source
from vilg.errors import VilgError
from vilg.images import open_picture

SECONDS = 10  # of a case; the longest takes well under one
_PICTURES = (".png", ".jpg")
_STORES = (".tar", ".parquet", ".img.tsv")  # that hold pictures themselves
_TEXTS = (".txt", ".token", ".json", ".jsonl", ".csv", ".tsv")


@dataclass
class Source:
    """A source in memory, as it is damaged.

    Attributes:
        files: by their paths below its folder; what is no file is a function that makes it.
        given: the path that is opened; "" for the folder.
        keeps: items stay as many as they were; lines stay as many as they were.
    """

    name: str
    format: str
    files: dict[str, bytes | Callable[[Path], object]]
    given: str
    keeps: set[str] = field(default_factory=lambda: {"items", "lines"})
    steps: list[str] = field(default_factory=list)

    def pick(self, rng: random.Random, *suffixes: str) -> str | None:
        """Choose a file by its suffix; not one that is no file by now."""
        fit = [
            name
            for name, content in sorted(self.files.items())
            if name.endswith(suffixes) and isinstance(content, bytes)
        ]
        return rng.choice(fit) if fit else None

    def text(self, rng: random.Random) -> str | None:
        """Choose a file of text, that given if it is one."""
        if self.given.endswith(_TEXTS) and rng.random() < 0.8:
            return self.given if isinstance(self.files.get(self.given), bytes) else None
        return self.pick(rng, *_TEXTS)


Mutation = Callable[[Source, random.Random], bool]


def _bytes(change: Callable[[bytes, random.Random], bytes]) -> Mutation:
    """Damage the bytes of any file."""

    def mutate(source: Source, rng: random.Random) -> bool:
        name = source.given if source.given and rng.random() < 0.6 else source.pick(rng, "")
        content = source.files.get(name or "")
        if not isinstance(content, bytes):
            return False
        source.files[str(name)] = change(content, rng)
        if not str(name).endswith(_PICTURES):
            source.keeps.clear()
        return True

    return mutate


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 8]) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def cut_start(content: bytes, rng: random.Random) -> bytes:
    return content[rng.randrange(len(content) + 1) :]


def double(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:]


def leave_out(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:first] + content[last:]


def leave_blocks_out(content: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(content) // 512 + 1) * 512
    return content[:first] + content[first + 512 * rng.randrange(1, 4) :]


def zeros(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + bytes(rng.choice([1, 7, 512, 1024])) + content[place:]


def zero_out(content: bytes, rng: random.Random) -> bytes:
    place, size = rng.randrange(len(content) + 1), rng.choice([1, 8, 512])
    return content[:place] + bytes(len(content[place : place + size])) + content[place + size :]


def nothing(content: bytes, rng: random.Random) -> bytes:
    return b""


def joined(content: bytes, rng: random.Random) -> bytes:
    return content + content


def large_numbers(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    number = rng.choice([b"\xff" * 8, b"\x80" + b"\xff" * 11, b"9" * 5000, b"77777777777"])
    return content[:place] + number + content[place + len(number) :]


def _text(change: Callable[[bytes, random.Random], bytes], *, keeps: str = "") -> Mutation:
    """Damage a file of text."""

    def mutate(source: Source, rng: random.Random) -> bool:
        name = source.text(rng)
        if name is None:
            return False
        content = source.files[name]
        assert isinstance(content, bytes)
        changed = change(content, rng)
        source.files[name] = changed
        source.keeps &= set(keeps.split())
        return changed != content

    return mutate


def _inserted(*values: bytes) -> Callable[[bytes, random.Random], bytes]:
    """Insert bytes where a character begins."""

    def change(content: bytes, rng: random.Random) -> bytes:
        places = [place for place, byte in enumerate(content) if byte & 0xC0 != 0x80] + [
            len(content)
        ]
        place = rng.choice(places)
        return content[:place] + rng.choice(values) + content[place:]

    return change


def bom(content: bytes, rng: random.Random) -> bytes:
    return b"\xef\xbb\xbf" + content.removeprefix(b"\xef\xbb\xbf")


def crlf(content: bytes, rng: random.Random) -> bytes:
    return content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def cr(content: bytes, rng: random.Random) -> bytes:
    return content.replace(b"\r\n", b"\n").replace(b"\n", b"\r")


def other_coding(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return text.encode(rng.choice(["utf-16", "utf-16-le", "gb18030"]), "replace")


def doubled_key(content: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb'"[\w ]+"\s*:', content))
    if not found:
        return content
    key = rng.choice(found)
    return content[: key.start()] + key[0] + b" 0, " + content[key.start() :]


def other_value(content: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb':\s*("[^"]*"|\d+)', content))
    if not found:
        return content
    value = rng.choice(found)
    values = [
        b"null",
        b"true",
        b"-1",
        b"1e999",
        b"NaN",
        b"[]",
        b"{}",
        b'""',
        b'"\\ud800"',
        b"[[[1]]]",
    ]
    return content[: value.start(1)] + rng.choice(values) + content[value.end(1) :]


def doubled_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"".join(lines)


def shuffled_lines(content: bytes, rng: random.Random) -> bytes:
    first, *lines = content.splitlines(keepends=True) or [b""]
    rng.shuffle(lines)
    return first + b"".join(lines)


def other_name(content: bytes, rng: random.Random) -> bytes:
    found = list(re.finditer(rb"[\w.-]+\.(png|jpg)", content))
    if not found:
        return content
    name = rng.choice(found)
    names = [
        b"/etc/passwd",
        b"../outside.png",
        b"a/../../outside.png",
        b".",
        b"/",
        b"~",
        b"//",
        b"\\\\",
    ]
    names += [
        b"x" * 5000,
        b"C:\\a.png",
        b"nul",
        b"/dev/zero",
        b"/dev/stdin",
        b"/proc/self/mem",
        b"%s",
    ]
    return content[: name.start()] + rng.choice(names) + content[name.end() :]


def _normal(form: Any) -> Callable[[bytes, random.Random], bytes]:
    return lambda content, rng: unicodedata.normalize(
        form, content.decode("utf-8", "replace")
    ).encode()


def accent(source: Source, rng: random.Random) -> bool:
    """Give a picture a name with an accent, in one way on the disk and in another in the texts."""
    name = source.pick(rng, *_PICTURES)
    if name is None:
        return False
    forms = rng.choices(["NFC", "NFD"], k=2)
    stem = Path(name).stem
    on_disk, written = (unicodedata.normalize(form, f"{stem}é") for form in forms)
    source.files[str(Path(name).with_name(on_disk + Path(name).suffix))] = source.files.pop(name)
    for other, content in source.files.items():
        if other.endswith(_TEXTS) and isinstance(content, bytes):
            source.files[other] = content.replace(stem.encode(), written.encode())
    source.keeps.clear()
    return True


def odd_picture(source: Source, rng: random.Random) -> bool:
    """Replace a picture, on the disk or in a store, by one that decoders do not see daily."""
    kind = rng.choice(sorted(ODD))
    content = ODD[kind]
    name = source.pick(rng, *_PICTURES, *_STORES)
    if name is None:
        return False
    source.steps.append(kind)
    stored = source.files[name]
    assert isinstance(stored, bytes)
    try:
        if name.endswith(".tar"):
            content = _swap_in_tar(stored, content, rng)
        elif name.endswith(".parquet"):
            content = _swap_in_parquet(stored, content, rng)
        elif name.endswith(".tsv"):
            lines = stored.split(b"\n")
            number = rng.randrange(len(lines))
            lines[number] = lines[number].partition(b"\t")[0] + b"\t" + base64.b64encode(content)
            content = b"\n".join(lines)
            source.keeps.clear()
    except Exception:  # the store is damaged already
        return False
    source.files[name] = content
    return True


def _swap_in_tar(stored: bytes, content: bytes, rng: random.Random) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(stored)) as archive:
        members = [
            (member.name, file.read())
            for member in archive
            if (file := archive.extractfile(member))
        ]
    pictures = [number for number, (name, _) in enumerate(members) if name.endswith(_PICTURES)]
    chosen = rng.choice(pictures)
    members[chosen] = (members[chosen][0], content)
    return tar_of(members)


def _swap_in_parquet(stored: bytes, content: bytes, rng: random.Random) -> bytes:
    table = pyarrow.parquet.read_table(io.BytesIO(stored))
    images = table.column("image").to_pylist()
    images[rng.randrange(len(images))]["bytes"] = rng.choice([content, content, None])
    column = pyarrow.array(images, table.schema.field("image").type)
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table.set_column(0, "image", column), stream, row_group_size=4)
    return stream.getvalue()


def no_file(source: Source, rng: random.Random) -> bool:
    """Put something else in the place of a picture or a text beside it, or nothing."""
    name = source.pick(rng, *_PICTURES, ".txt")
    if name is None or name == source.given:
        return False
    kind = rng.choice(sorted(NO_FILES))
    source.steps.append(kind)
    if kind == "gone":
        del source.files[name]
    else:
        source.files[name] = NO_FILES[kind]
    # In a folder, a text without a picture is an item too.
    if source.format == "folder" or name.endswith(".txt"):
        source.keeps.discard("items")
    return True


def file_away(source: Source, rng: random.Random) -> bool:
    """Take a file away that is no picture, nor that which is opened."""
    names = [
        name
        for name in sorted(source.files)
        if not name.endswith(_PICTURES) and name != source.given
    ]
    if not names:
        return False
    del source.files[rng.choice(names)]
    source.keeps.clear()
    return True


def _linked(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


NO_FILES: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: None,
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "link outside": lambda path: path.symlink_to(
        next(top for top in path.parents if (top / "outside.png").is_file())
        / f"outside{path.suffix.replace('jpg', 'png')}"
    ),
    "link to the outside folder": lambda path: path.symlink_to(path.parents[2]),
    "link to /dev/zero": _linked("/dev/zero"),
    "link to nothing": _linked("nowhere.png"),
    "link to itself": lambda path: path.symlink_to(path),
}


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(Image.new("RGB", (8, 6)), "JPEG", exif=exif)


def _bomb(side: int = 20_000) -> bytes:
    """Return a small PNG of a large white square; Pillow would need the memory to make one."""
    packer = zlib.compressobj(1)
    row = b"\0" + b"\xff" * (side // 8)
    rows = b"".join([packer.compress(row) for _ in range(side)] + [packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    )


def _frames() -> list[Image.Image]:
    return [Image.new("RGB", (8, 6), (40 * number, 0, 0)) for number in range(3)]


ODD = {
    "bomb": _bomb(),
    "bomb GIF": b"GIF89a"
    + b"\xff\xff" * 2
    + b"\0\0\0,\0\0\0\0"
    + b"\xff\xff" * 2
    + b"\0\x02\x01\0\0;",
    "CMYK": _saved(Image.new("CMYK", (8, 6), (9, 8, 7, 6)), "JPEG"),
    "16 bit": _saved(Image.new("I;16", (8, 6), 40_000), "PNG"),
    "palette": _saved(Image.new("P", (8, 6), 3), "PNG", transparency=3),
    "transparent": _saved(Image.new("LA", (8, 6), (9, 0)), "PNG"),
    "floats": _saved(Image.new("F", (8, 6), 0.5), "TIFF"),
    "animated GIF": _saved(_frames()[0], "GIF", save_all=True, append_images=_frames()[1:]),
    "animated WebP": _saved(_frames()[0], "WEBP", save_all=True, append_images=_frames()[1:]),
    "turned": _turned(),
    "one pixel": _saved(Image.new("RGB", (1, 1)), "PNG"),
    "long": _saved(Image.new("RGB", (1, 5000)), "PNG"),
    "no bytes": b"",
    "text": b"<svg/>",
}

MUTATIONS: dict[str, Mutation] = {
    change.__name__: _bytes(change)
    for change in (
        flip,
        cut,
        cut_start,
        double,
        leave_out,
        leave_blocks_out,
        zeros,
        zero_out,
        nothing,
        joined,
        large_numbers,
    )
} | {
    "bom": _text(bom, keeps="items lines"),
    "crlf": _text(crlf, keeps="items lines"),
    "cr": _text(cr),
    "other coding": _text(other_coding),
    "invalid UTF-8": _text(
        _inserted(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"), keeps="lines"
    ),
    "broken JSON": _text(
        _inserted(b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u12"), keeps="lines"
    ),
    "quoting": _text(_inserted(b'"', b'""', b'"",', b"'")),
    "separators": _text(_inserted(b",", b"\t", b"#", b"|", b";"), keeps="lines"),
    "line ends": _text(_inserted(b"\n", b"\r", b"\r\n", b"\x0b", b"\xe2\x80\xa8", b"\x0c")),
    "zero bytes": _text(_inserted(b"\0", b"\\u0000"), keeps="lines"),
    "duplicate key": _text(doubled_key, keeps="lines"),
    "other value": _text(other_value, keeps="lines"),
    "doubled line": _text(doubled_line),
    "shuffled lines": _text(shuffled_lines),
    "other name": _text(other_name, keeps="lines"),
    "NFD": _text(_normal("NFD"), keeps="lines"),
    "NFC": _text(_normal("NFC"), keeps="lines"),
    "accent": accent,
    "odd picture": odd_picture,
    "no file": no_file,
    "file away": file_away,
}


_SECRET = "what no source may read"
_OUTSIDE = _saved(Image.new("RGB", (3, 3)), "PNG")  # like it


class Fault(AssertionError):
    """What must not happen; says which case it was."""


class _TooLong(BaseException):
    """The time limit; no Exception, which a decoder might take for its own."""


def _alarm(number: int, frame: object) -> None:
    raise _TooLong


def load_sources() -> list[Source]:
    """Make every fixture once, and keep it in memory."""
    sources = []
    for name, (make, format, _) in FIXTURES.items():
        with tempfile.TemporaryDirectory() as folder:
            given = make(Path(folder) / "source")
            root = Path(folder) / "source"
            files = {
                path.relative_to(root).as_posix(): path.read_bytes()
                for path in root.rglob("*")
                if path.is_file()
            }
            relative = given.relative_to(root).as_posix()
        sources.append(Source(name, format, dict(files), "" if relative == "." else relative))
    return sources


def mutated(sources: list[Source], seed: int, number: int) -> Source:
    """Return the source of a case."""
    rng = random.Random(f"{seed}-{number}")
    plain = rng.choice(sources)
    source = Source(plain.name, plain.format, dict(plain.files), plain.given)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        while True:  # until one fits this source
            name = rng.choice(list(MUTATIONS))
            if MUTATIONS[name](source, rng):
                source.steps.append(name)
                break
    return source


def run_case(source: Source, number: int, folder: Path, num_items: int | None) -> Counter[str]:
    """Read a damaged source and count what came out.

    Raises:
        Fault: something that must not happen.
    """
    root = folder / f"case-{number}" / "source"
    for name, content in source.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
    signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(SECONDS)
    try:
        return _checked(source, number, root, num_items)
    except (Exception, _TooLong) as error:
        what = (
            "took too long" if isinstance(error, _TooLong) else f"{type(error).__name__}: {error}"
        )
        raise Fault(
            f"case {number}, {source.name} after {', '.join(source.steps)}: {what}"
        ) from error
    finally:
        signal.alarm(0)
        shutil.rmtree(root.parent)


def _checked(source: Source, number: int, root: Path, num_items: int | None) -> Counter[str]:
    counts, items = Counter(cases=1), list[Pair | Reject]()
    try:
        items += open_source(str(root / source.given), name=source.format if number % 2 else None)
    except VilgError as error:
        assert str(error), "an error without a sentence"
        str(error).encode()
        counts["sources refused"] += 1
    names = {shown(path.name) for path in root.rglob("*")} | {shown(str(root))}
    for item in items:
        _check_texts(item)
        # Files of captions and splits may be links, as in the cache of the Hugging Face hub.
        is_read = source.format == "folder" and _SECRET in str(item)
        assert not is_read, f"{item.place}: read over a link"
        assert any(name in item.place for name in names), f"{item.place!r} names no file"
    pairs = [item for item in items if isinstance(item, Pair)]
    if not counts["sources refused"]:
        counts += _check_number(source, root, items, num_items)
    counts["pairs"] += len(pairs)
    counts["rejects"] += len(items) - len(pairs)
    for pair in pairs:
        if pair.picture is not None:
            try:
                content = pair.picture()
                assert content != _OUTSIDE, f"{pair.place}: read over a link"
                assert open_picture(content).mode == "RGB"
                counts["pictures"] += 1
            except VilgError:
                counts["pictures refused"] += 1
    return counts


def _check_texts(item: Pair | Reject) -> None:
    """Look that an item can be written into a file, and says something."""
    texts = [item.place, item.id or ""]
    if isinstance(item, Reject):
        assert item.reason.strip(), f"{item.place}: no reason"
        texts.append(item.reason)
    else:
        assert item.id and (item.captions or item.questions), f"{item.place}: an empty pair"
        texts += [text for group in item.captions.values() for text in group]
        texts += [
            text for question in item.questions for text in (question.text, *question.answers)
        ]
        texts += [text for tag in item.tags.items() for text in tag] + list(item.faults)
    "".join(texts).encode("utf-8")


def _check_number(
    source: Source, root: Path, items: list[Pair | Reject], num_items: int | None
) -> Counter[str]:
    """Look that as many items come out as there are records, where those can be counted."""
    # Neighbouring rows of a table are one pair, so a table's rows are counted, and not its pairs.
    is_table = source.name in ("csv", "tsv", "captions.txt", "parti")
    if num_items is not None and "items" in source.keeps and not is_table:
        found, expected = len(items), num_items
    elif not isinstance(content := source.files.get(source.given), bytes):
        return Counter()
    else:
        lines: list[bytes] | list[str] = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        if not source.given.endswith(".jsonl"):  # text has more kinds of white space than JSON
            lines = (
                content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n")
            )
            if source.given.endswith((".csv", "captions.txt")):  # as spreadsheets write blank rows
                lines = [line.strip().strip(",") for line in lines]
        expected = sum(bool(line.strip()) for line in lines)
        if source.name in ("geneval", "prompts") or (
            source.name == "jsonl" and "lines" in source.keeps
        ):
            found = len(items)
        elif is_table and "lines" in source.keeps:
            if any(
                # No names of columns, no rows; those of one picture without a caption are one item.
                item.place.endswith(" line 1") or _has_no_caption(item)
                for item in items
            ):
                return Counter()
            found, expected = sum(map(_num_rows, items)), max(0, expected - 1)
        else:
            return Counter()
    assert found == expected, f"{found} items, not {expected}"
    return Counter(counted=1)


def _has_no_caption(item: Pair | Reject) -> bool:
    return isinstance(item, Reject) and item.reason.startswith("no caption")


def _num_rows(item: Pair | Reject) -> int:
    """Return how many rows of one caption each an item comes from."""
    if isinstance(item, Reject):
        return 1
    return len(item.faults) + sum(map(len, item.captions.values()))


def run(number: int, seed: int, first: int = 0) -> tuple[Counter[str], list[Fault]]:
    """Run cases; return what came out of all, and what must not have happened."""
    counts, faults, sources = Counter[str](), list[Fault](), load_sources()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "outside.png").write_bytes(_OUTSIDE)
        (folder / "outside.txt").write_text(_SECRET)
        before = {
            source.name: run_case(source, index, folder, None)
            for index, source in enumerate(sources)
        }
        for case in range(first, first + number):
            source = mutated(sources, seed, case)
            plain = before[source.name]
            try:
                counts += run_case(source, case, folder, plain["pairs"] + plain["rejects"])
            except Fault as fault:
                faults.append(fault)
    return counts, faults


def main() -> int:
    """Run cases as the command line says; 1 if any fault was found."""
    parser = argparse.ArgumentParser(description="damage sources of every format")
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    counts, faults = run(options.number, options.seed, options.first)
    for fault in faults:
        print(fault)
    print(
        ", ".join(f"{number:,} {what}" for what, number in counts.items()),
        f"; {len(faults)} faults",
    )
    return bool(faults)


if __name__ == "__main__":
    raise SystemExit(main())

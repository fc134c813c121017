"""Two sets of pictures with texts that Debian brings, by the data verbs, and every pair accounted for.

    apt-get download tuxpaint-stamps-default=2022.06.04-1 \\
        openclipart-png=1:0.18+dfsg-19 openclipart-svg=1:0.18+dfsg-19
    for DEB in *.deb; do dpkg-deb -x "$DEB" debian; done
    python runs/published_pairs.py debian OUT

Tux Paint's stamps have a text each, English in its first line and then a line for each of 70 languages,
among them zh_CN and zh_TW; some are SVG only, two have no picture. Open Clip Art has titles and
descriptions in the metadata of its SVG files, and PNG of the same names, some of them links. As neither
layout is ours, `stamps` and `clip_art` write JSON lines and a table of them, as a user would.

What is expected of the verbs is counted from the published files by this script, which imports nothing of
vilg; each item must be where it belongs, and a difference ends the script. About 8 minutes on 2 busy
cores; the figures are in docs/data.md.
"""

import csv
import json
import struct
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RULES = ("words<15", "nouns>=1", "special=0", "width>=32", "height>=32", "aspect<4")
BITS = 3
MOST_PIXELS = 2**27
_DC = "{http://purl.org/dc/elements/1.1/}"


@dataclass(frozen=True)
class Item:
    """What is published: a picture's name below its folder, and texts with the languages told of them."""

    image: str
    texts: tuple[tuple[str, str], ...]

    @property
    def id(self) -> str:
        return self.image.rpartition(".")[0]

    def captions(self) -> set[tuple[str, str]]:
        """Return the different ones in English and Chinese."""
        told = ((lang.lower().replace("_", "-").split("-")[0] or "en", t) for lang, t in self.texts)
        return {
            (lang, text.strip()) for lang, text in told if lang in ("en", "zh") and text.strip()
        }


def stamps(folder: Path, out: Path) -> list[Item]:
    """Write Tux Paint's stamps as JSON lines: captions by language."""
    items = []
    names = {path.with_suffix("") for path in folder.rglob("*") if path.suffix in (".png", ".txt")}
    for name in sorted(names):
        suffix = ".png" if name.with_suffix(".png").exists() else ".svg"
        text = name.with_suffix(".txt")
        first, *others = text.read_text("utf-8").splitlines() if text.exists() else [""]
        texts = [("en", first), *(line.split(".utf8=", 1) for line in others if line.strip())]
        image = name.relative_to(folder).as_posix() + suffix
        items.append(Item(image, tuple((lang, text) for lang, text in texts)))
    with out.open("w", encoding="utf-8") as file:
        for item in items:
            captions = dict(item.texts)
            assert len(captions) == len(item.texts)
            file.write(json.dumps({"image": item.image, "caption": captions}) + "\n")
    return items


def clip_art(folder: Path, out: Path) -> list[Item]:
    """Write Open Clip Art as a table with a row for each title and description."""
    items = []
    for path in sorted(folder.rglob("*.png")):
        name = path.relative_to(folder).as_posix()
        svg = folder.parent / "svg" / name.replace(".png", ".svg")
        work = next(one for one in ET.parse(svg).iter() if one.tag.endswith("}Work"))
        lang = work.findtext(_DC + "language") or ""
        texts = [work.findtext(_DC + field) or "" for field in ("title", "description")]
        items.append(Item(name, tuple((lang, text) for text in texts if text.strip())))
    with out.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "lang", "caption"])
        for item in items:
            table.writerows((item.image, lang, text) for lang, text in item.texts or [("", "")])
    return items


def vilg(*arguments: object) -> str:
    """Run a verb; return what it prints."""
    command = [sys.executable, "-m", "vilg", "data", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def rejects(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "rejects.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def agree(what: str, found: object, counted: object) -> None:
    if found != counted:
        sys.exit(f"{what}: {found} by vilg, {counted} by this script")
    print(f"  {what}: {found}" if isinstance(found, int) else f"  {what}: the same")


def is_readable(path: Path) -> bool:
    """Say whether it is a PNG, and none of the huge ones that are refused."""
    if path.suffix != ".png":
        return False
    width, height = size_of(path)
    return width * height < MOST_PIXELS


def size_of(png: Path) -> tuple[int, int]:
    """Return width and height, which follow the name of the first chunk."""
    with png.open("rb") as file:
        width, height = struct.unpack(">8x8xII", file.read(24))
    return width, height


def is_left_out_for(reason: str, item: Item, folder: Path) -> bool | None:
    """Say whether an item is to be left out for this reason; None where this script can't tell."""
    path = folder / item.image
    if reason.startswith("no caption"):
        return not item.captions()
    if not path.exists():
        return reason == f"the picture {item.image!r} is not there"
    if not is_readable(path):
        return reason.startswith("the picture")
    width, height = size_of(path)
    english = [len(text.split()) for lang, text in item.captions() if lang == "en"]
    tests: dict[str, Callable[[], bool]] = {
        "not width>=32": lambda: width < 32,
        "not height>=32": lambda: height < 32,
        "not aspect<4": lambda: max(width, height) / min(width, height) >= 4,
    }
    if all(lang == "en" for lang, _ in item.captions()):
        tests["not words<15"] = lambda: max(english) >= 15
    return tests[reason]() if reason in tests else None


def account(name: str, folder: Path, items: list[Item], source: Path, out: Path) -> None:
    """Run the verbs one after another, and hold each number and each id against what is published."""
    print(f"{name}: {len(items)} items in {source}", flush=True)
    by_id = {item.id: item for item in items}
    agree("different ids", len(by_id), len(items))
    there = [item for item in items if (folder / item.image).exists()]
    some = [item for item in there if item.captions()]
    given = (source, "--pictures", folder)

    found = json.loads(vilg("check", *given, "--json"))
    agree("check, pairs", found["pairs"], len(some))
    for lang in ("en", "zh"):
        number = sum(one == lang for item in some for one, _ in item.captions())
        agree(f"check, captions {lang}", found["captions"].get(lang, 0), number)
    faults = {
        kind: sum(of["number"] for of in some.values()) for kind, some in found["faults"].items()
    }
    agree("check, no pairs", faults["rejects"], len(items) - len(some))
    drawn = [item for item in some if is_readable(folder / item.image)]
    agree("check, pictures that can be read", found["pictures"], len(drawn))

    everything = out / f"{name}-all"
    vilg("tokenize", *given, "--out", everything, "--max-rejects", 1)
    store, lost = json.loads((everything / "store.json").read_bytes()), rejects(everything)
    agree("tokenize all, rows", store["rows"], len(items) - len(ids_of(lost)))
    agree("tokenize all, rows as check has them", store["rows"], found["usable"])
    long = Counter(line["id"] for line in lost if "the model reads" in line["reason"])
    fits = sum(len(item.captions()) - long[item.id] for item in drawn)
    agree("tokenize all, texts", store["texts"], fits)
    gone = {line["id"] for line in lost if line["left_out"] == "pair"}
    wanted = [item.id for item in drawn if len(item.captions()) > long[item.id]]
    agree("tokenize all, ids left out", sorted(gone), sorted(by_id.keys() - set(wanted)))

    chosen = out / f"{name}-chosen"
    print(
        vilg(
            "filter", *given, "--out", chosen, "--keep", *RULES, "--near", BITS, "--max-rejects", 1
        )
    )
    kept, left_out = (chosen / "kept.txt").read_text("utf-8").splitlines(), rejects(chosen)
    agree("filter, ids kept or left out", sorted(kept + ids_of(left_out)), sorted(by_id))
    for line in left_out:
        if is_left_out_for(line["reason"], by_id[line["id"]], folder) is False:
            sys.exit(f"filter, {line['id']}: {line['reason']!r} is not so")
    known = ("no caption", *(f"not {rule}" for rule in RULES))
    wrong = [id for id in kept for why in known if is_left_out_for(why, by_id[id], folder)]
    agree("filter, kept against a rule", wrong, [])
    files = Counter((folder / by_id[id].image).resolve() for id in kept)
    agree("filter, one file kept under two names", max(files.values()), 1)
    print("  filter, left out for:", *told(line["reason"] for line in left_out), sep="\n   ")

    packed = out / f"{name}-packed"
    vilg("pack", *given, "--ids", chosen / "kept.txt", "--out", packed)
    agree("pack, left out", ids_of(rejects(packed)), [])
    texts = dict[str, set[tuple[str, str]]]()
    for picture, pair in members(packed):
        said = pair["captions"].items()
        texts[pair["id"]] = {(lang, text) for lang, some in said for text in some}
        if picture != (folder / by_id[pair["id"]].image).read_bytes():
            sys.exit(f"pack: the picture of {pair['id']} has other bytes than are published")
    agree("pack, ids in their order", list(texts), kept)
    agree("pack, captions", texts, {id: by_id[id].captions() for id in kept})

    tokens = out / f"{name}-tokens"
    vilg("tokenize", packed, "--out", tokens)
    store, lost = json.loads((tokens / "store.json").read_bytes()), rejects(tokens)
    agree("tokenize, rows", store["rows"], len(kept) - len(ids_of(lost)))
    num_texts = sum(map(len, texts.values())) - sum(line["left_out"] == "text" for line in lost)
    agree("tokenize, texts", store["texts"], num_texts)
    print("  tokenize, left out for:", *told(line["reason"] for line in lost), sep="\n   ")


def members(packed: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield pictures and what is said of them: KEY.png stands before KEY.json."""
    for shard in sorted((packed / "shards").glob("*.tar")):
        with tarfile.open(shard) as archive:
            contents = [file.read() for one in archive if (file := archive.extractfile(one))]
        for picture, said in zip(contents[::2], contents[1::2], strict=True):
            yield picture, json.loads(said)


def ids_of(lines: list[dict[str, Any]]) -> list[str]:
    return [line["id"] for line in lines if line["left_out"] == "pair"]


def told(reasons: Iterable[str]) -> list[str]:
    return [f"{number:6d}  {reason}" for reason, number in Counter(reasons).most_common(12)]


if __name__ == "__main__":
    share, out = Path(sys.argv[1], "usr/share"), Path(sys.argv[2])
    out.mkdir(parents=True)
    for name, folder, prepare, file in (
        ("tuxpaint", share / "tuxpaint/stamps", stamps, out / "tuxpaint.jsonl"),
        ("openclipart", share / "openclipart/png", clip_art, out / "openclipart.csv"),
    ):
        account(name, folder, prepare(folder, file), file, out)

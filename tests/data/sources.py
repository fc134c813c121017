"""Small sources of pairs, and what a folder holds."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vilg.data.pack import pack
from vilg.data.pairs import Pair
from vilg.data.sources import source_of


def picture(shade: int, format: str = "PNG", size: tuple[int, int] = (4, 4)) -> bytes:
    stream = io.BytesIO()
    color = (shade % 256, shade // 256 % 256, 99)
    Image.new("RGB", size, color).save(stream, format=format)
    return stream.getvalue()


def write_jsonl(folder: Path, records: Iterable[dict[str, Any]], name: str = "pairs.jsonl") -> Path:
    """Write records, and for each that names a picture which is not there a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    with path.open("w", encoding="utf-8") as file:
        for number, record in enumerate(records):
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            if not (folder / record["image"]).exists() and "lost" not in record["image"]:
                (folder / record["image"]).write_bytes(picture(number))
    return path


def write_packed(folder: Path, pairs: Sequence[Pair], splits: Mapping[str, Iterable[str]]) -> Path:
    """Pack pairs, and write the ids of some as splits."""
    pack(source_of(pairs, "toy pairs"), folder, "toy", max_rejects=0)
    (folder / "splits").mkdir()
    for split, ids in splits.items():
        (folder / "splits" / f"{split}.txt").write_text("".join(f"{id}\n" for id in ids))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what all files below a folder hold."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }

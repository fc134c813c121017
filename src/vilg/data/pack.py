"""Writes a data set of tar shards, as `shards.py` reads it.

The same samples give the same bytes, whenever and wherever they are written.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from vilg.data.pictures import open_sample
from vilg.data.shards import (
    PICTURE_SUFFIXES,
    DataError,
    Sample,
    check_distinct,
    sample_of,
    suffix_of,
)
from vilg.files import write_whole
from vilg.images import to_array

SAMPLES_PER_SHARD = 1000


def save_samples(
    folder: Path, name: str, samples: Sequence[Sample], splits: Mapping[str, Sequence[str]]
) -> None:
    """Write a data set into a new folder.

    Args:
        name: of the data set; its shards are called after it.
        splits: ids of each split.

    Raises:
        DataError: the folder holds a data set, an id occurs twice or cannot be a file's name, or a
            sample lacks what `load_samples` asks for.
    """
    if (folder / "manifest.json").exists():
        raise DataError(f"{folder} holds a data set: name another folder, or remove it first")
    ids = [sample.id for sample in samples]
    check_distinct(ids, str(folder))
    for split, chosen in splits.items():
        check_distinct(chosen, f"the split {split}")
        if unknown := {*chosen} - {*ids}:
            raise DataError(f"the split {split}: no sample has the id {min(unknown)}")
    for text in (name, *splits, *ids):
        if not text or text != text.strip() or any(c < " " or c in "/\x7f" for c in text):
            raise DataError(
                f"{text!r} cannot be the name of a file: leave out slashes, line breaks and spaces "
                "at the ends"
            )
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    (folder / "splits").mkdir(exist_ok=True)
    shards = []
    for first in range(0, len(samples), SAMPLES_PER_SHARD):
        part = samples[first : first + SAMPLES_PER_SHARD]
        content = _shard(part)
        file = f"{name}-{first // SAMPLES_PER_SHARD:04d}.tar"
        (folder / "shards" / file).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        shards.append({"file": file, "samples": len(part), "sha256": sha256})
    for split, chosen in splits.items():
        text = "".join(f"{id}\n" for id in sorted(chosen))
        (folder / "splits" / f"{split}.txt").write_text(text, encoding="utf-8")
    manifest = {
        "name": name,
        "samples": len(samples),
        "content_sha256": hash_content(samples),
        "shards": shards,
    }
    # Written last: a folder without it is not a data set.
    text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    write_whole(folder / "manifest.json", text)


def hash_content(samples: Sequence[Sample]) -> str:
    """Hash what training sees of samples, however the files are packed."""
    return hash_rows(
        (sample.id, to_array(open_sample(sample)).tobytes(), sample.captions) for sample in samples
    )


def hash_rows(rows: Iterable[tuple[str, bytes, Mapping[str, Sequence[str]]]]) -> str:
    """Hash ids, decoded RGB pixels and captions by language, in the order of the ids."""
    # Pixels are hashed as they come: all of them at once would fill the memory.
    hashed = [(id, hashlib.sha256(pixels).hexdigest(), captions) for id, pixels, captions in rows]
    total = hashlib.sha256()
    for row in sorted(hashed, key=lambda row: row[0]):
        total.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8") + b"\n")
    return total.hexdigest()


def _shard(samples: Sequence[Sample]) -> bytes:
    stream = io.BytesIO()
    # PAX writes as USTAR does, except names of over 100 characters or beyond ASCII.
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for sample in samples:
            fields = asdict(sample)
            picture = fields.pop("picture")
            try:
                text = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError(f"{sample.id!r}: a text is no Unicode ({error.reason})") from error
            sample_of(
                sample.id, json.loads(text), picture, sample.id
            )  # or it could not be read again
            add_member(archive, f"{sample.id}.{_suffix(sample)}", picture)
            add_member(archive, f"{sample.id}.json", text)
    return stream.getvalue()


def _suffix(sample: Sample) -> str:
    """Name the format by the first bytes of the file."""
    suffix = suffix_of(sample.picture)
    if suffix is None:
        raise DataError(f"{sample.id}: the picture is none of {', '.join(PICTURE_SUFFIXES)}")
    return suffix


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file whose owner, mode and time are fixed."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))

"""Builds the emoji data set from its pinned npm packages.

    python datasets/emoji/build.py --packages DIR [--out datasets/emoji]

About two minutes on one core. Packages that are not in DIR are fetched with npm; the integrity of
each is checked. The README beside this file says what a rebuild guarantees.
"""

import argparse
import hashlib
import io
import json
import os
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from artwork import SIZE, STYLES, Style, draw_all, is_foreign, open_style
from concepts import LANGUAGES, Concept, read_concepts
from packages import NAMES, PACKAGES, BuildError, fetch
from PIL import Image, features
from splits import SPLITS, split_samples

from vilg.data.pack import add_member, hash_rows

SAMPLES_PER_SHARD = 1000
COMMAS = {"zh": "，", "en": ", "}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One concept as one artist drew it."""

    concept: Concept
    style: Style
    image: Image.Image

    @property
    def id(self) -> str:
        """The sample's key in the shards; a dot would end the key in a tar of samples."""
        return f"{self.style.key}-{self.concept.hexcode}"

    @property
    def pixels(self) -> bytes:
        """The decoded pixels, row by row, RGB."""
        return self.image.tobytes()

    @property
    def captions(self) -> dict[str, list[str]]:
        """The canonical captions: name and style."""
        return {
            language: [
                self.concept.names[language] + COMMAS[language] + self.style.phrases[language]
            ]
            for language in LANGUAGES
        }

    def describe(self) -> dict[str, Any]:
        """Return what KEY.json holds."""
        return {
            "id": self.id,
            "concept": self.concept.hexcode,
            "style": self.style.key,
            "group": self.concept.group,
            "subgroup": self.concept.subgroup,
            "names": self.concept.names,
            "captions": self.captions,
            "keywords": self.concept.keywords,
            "license": self.style.license,
        }


def draw_pictures(packages: Path) -> tuple[list[Picture], dict[str, Any]]:
    """Draw all styles; return the pictures to keep and the list of those left out, by reason."""
    concepts = read_concepts(fetch(NAMES, packages))
    pictures: list[Picture] = []
    foreign: list[str] = []
    for style in STYLES:
        archive = fetch(style.package, packages)
        drawings = open_style(style, archive, concepts)
        foreign += [
            f"{style.key}-{concept.hexcode}"
            for concept in concepts
            if concept.hexcode in drawings and is_foreign(style, concept)
        ]
        pictures += [
            Picture(concept=concept, style=style, image=image)
            for concept, image in draw_all(style, drawings, concepts)
        ]
        print(f"drew {style.key}: {len(pictures)} pictures so far", file=sys.stderr)
    kept, blanks, duplicates = drop_useless(pictures)
    dropped = {"blank": sorted(blanks), "duplicate": duplicates, "foreign": sorted(foreign)}
    return kept, dropped


def drop_useless(
    pictures: Iterable[Picture],
) -> tuple[list[Picture], list[str], dict[str, str]]:
    """Separate the pictures worth keeping from blank ones and exact copies of earlier ones.

    Returns:
        The kept pictures, the ids of the blank ones, and the id of the kept picture that each
        copy equals, by the copy's id.
    """
    kept: list[Picture] = []
    blanks: list[str] = []
    copies: dict[str, str] = {}
    first_with: dict[bytes, str] = {}
    for picture in pictures:
        if picture.image.getcolors(maxcolors=1) is not None:  # one colour all over
            blanks.append(picture.id)
        elif picture.pixels in first_with:
            copies[picture.id] = first_with[picture.pixels]
        else:
            first_with[picture.pixels] = picture.id
            kept.append(picture)
    return kept, blanks, copies


def encode_picture(image: Image.Image) -> bytes:
    """Encode losslessly as WebP; quality 100 would save 2% of the bytes in eleven times the time."""
    stream = io.BytesIO()
    image.save(stream, format="WEBP", lossless=True, quality=90, method=6)
    return stream.getvalue()


def write_shard(path: Path, pictures: Iterable[Picture]) -> None:
    """Write KEY.webp and KEY.json of every picture; nothing in the tar depends on when or where."""

    def write(stream: io.BufferedWriter) -> None:
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for picture in pictures:
                text = json.dumps(picture.describe(), ensure_ascii=False, sort_keys=True)
                add_member(archive, f"{picture.id}.webp", encode_picture(picture.image))
                add_member(archive, f"{picture.id}.json", text.encode("utf-8"))

    write_file(path, write)


def write_file(path: Path, write: Callable[[io.BufferedWriter], object]) -> None:
    """Write a file under another name first, so that nobody ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as stream:
        write(stream)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8 with Unix line ends on every system."""
    write_file(path, lambda stream: stream.write(text.encode("utf-8")))


def write_shards(folder: Path, pictures: list[Picture]) -> list[dict[str, Any]]:
    """Write all shards, each a mixture of styles and groups; return the manifest's list of them."""
    mixed = sorted(pictures, key=lambda picture: hashlib.sha256(picture.id.encode()).digest())
    num_shards = max(1, round(len(mixed) / SAMPLES_PER_SHARD))
    entries: list[dict[str, Any]] = []
    for index in range(num_shards):
        # Shards of equal size, to within one sample.
        start, end = (len(mixed) * (index + step) // num_shards for step in (0, 1))
        path = folder / f"emoji-{index:04d}.tar"
        write_shard(path, mixed[start:end])
        content = path.read_bytes()
        entries.append(
            {
                "file": path.name,
                "samples": end - start,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        )
    for stale in set(folder.glob("emoji-*.tar")) - {folder / entry["file"] for entry in entries}:
        stale.unlink()
    return entries


def count_samples(pictures: list[Picture], split_of: dict[str, str]) -> dict[str, Any]:
    """Count the samples by style, group and split, and within each split by style."""
    by_split = {
        split: Counter(picture.style.key for picture in pictures if split_of[picture.id] == split)
        for split in SPLITS
    }
    return {
        "concept": len({picture.concept.hexcode for picture in pictures}),
        "style": Counter(picture.style.key for picture in pictures),
        "group": Counter(picture.concept.group for picture in pictures),
        "split": {split: counter.total() for split, counter in by_split.items()},
        "split_by_style": by_split,
    }


def build(packages: Path, out: Path) -> dict[str, Any]:
    """Build everything that is generated below `out`, and return the manifest."""
    pictures, dropped = draw_pictures(packages)
    pairs = split_samples((picture.concept.hexcode, picture.style.key) for picture in pictures)
    split_of = {
        picture.id: pairs[picture.concept.hexcode, picture.style.key] for picture in pictures
    }
    for split in SPLITS:
        ids = sorted(id for id, its_split in split_of.items() if its_split == split)
        write_text(out / "splits" / f"{split}.txt", "".join(f"{id}\n" for id in ids))
    manifest = {
        "name": "emoji",
        "picture": {"width": SIZE, "height": SIZE, "mode": "RGB", "encoding": "lossless WebP"},
        "samples": len(pictures),
        "content_sha256": hash_rows(
            (picture.id, picture.pixels, picture.captions) for picture in pictures
        ),
        "counts": count_samples(pictures, split_of),
        "shards": write_shards(out / "shards", pictures),
        "dropped": dropped,
        "packages": {
            package.name: {"version": package.version, "integrity": package.integrity}
            for package in PACKAGES
        },
        # What the bytes of the shards depend on; the content hash depends on the first two only.
        "built_with": {
            "resvg-py": version("resvg_py"),
            "pillow": version("pillow"),
            "libwebp": features.version("webp"),
        },
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1, sort_keys=True)
    write_text(out / "manifest.json", text + "\n")
    return manifest


def main() -> int:
    """Read the command line and build; an error is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Build the emoji data set from npm packages.")
    parser.add_argument("--packages", type=Path, required=True, help="folder of npm archives")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write")
    options = parser.parse_args()
    try:
        manifest = build(options.packages, options.out)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(manifest["counts"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

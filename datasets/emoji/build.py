"""Builds the emoji data set from its pinned npm packages.

    python datasets/emoji/build.py --packages DIR --out FOLDER

About two minutes on one core. Packages that are not in DIR are fetched with npm; the integrity of
each is checked. The README beside this file says what a rebuild guarantees.
"""

import argparse
import hashlib
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from artwork import SIZE, STYLES, Style, draw_all, is_foreign, open_style
from concepts import LANGUAGES, Concept, read_concepts
from packages import NAMES, PACKAGES, BuildError, fetch
from PIL import Image, features
from splits import SPLITS, split_samples

from vilg.data.pack import pack
from vilg.data.pairs import Pair
from vilg.data.sources import source_of
from vilg.errors import VilgError
from vilg.files import write_whole

COMMAS = {"zh": "，", "en": ", "}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One concept as one artist drew it."""

    concept: Concept
    style: Style
    image: Image.Image

    @property
    def id(self) -> str:
        """Style and concept."""
        return f"{self.style.key}-{self.concept.hexcode}"

    @property
    def pixels(self) -> bytes:
        """The decoded pixels, row by row, RGB."""
        return self.image.tobytes()

    @property
    def pair(self) -> Pair:
        """Its pair: described by name and style, and drawn from with each keyword in the name's place too."""
        names, languages = self.concept.names, sorted(LANGUAGES)
        ends = {language: COMMAS[language] + self.style.phrases[language] for language in languages}
        return Pair(
            id=self.id,
            place=self.id,
            picture=partial(encode_picture, self.image),
            captions={language: (names[language] + ends[language],) for language in languages},
            prompts={
                language: tuple(word + ends[language] for word in self.concept.keywords[language])
                for language in languages
            },
            tags={
                "concept": self.concept.hexcode,
                "style": self.style.key,
                "group": self.concept.group,
                "subgroup": self.concept.subgroup,
                **{f"name.{language}": names[language] for language in languages},
                "license": self.style.license,
            },
        )


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


def hash_content(pictures: Iterable[Picture]) -> str:
    """Hash ids, decoded pixels and captions, all that training sees, however the files are packed."""
    total = hashlib.sha256()
    for picture in sorted(pictures, key=lambda picture: picture.id):
        row = (picture.id, hashlib.sha256(picture.pixels).hexdigest(), picture.pair.captions)
        total.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf-8") + b"\n")
    return total.hexdigest()


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
    """Build everything that is generated in a new folder, and return the manifest."""
    pictures, dropped = draw_pictures(packages)
    places = split_samples((picture.concept.hexcode, picture.style.key) for picture in pictures)
    split_of = {
        picture.id: places[picture.concept.hexcode, picture.style.key] for picture in pictures
    }
    # Each shard is a mixture of styles and groups.
    mixed = sorted(pictures, key=lambda picture: hashlib.sha256(picture.id.encode()).digest())
    pack(source_of([picture.pair for picture in mixed], "the emoji"), out, "emoji", max_rejects=0)
    (out / "rejects.jsonl").unlink()  # empty, since none are allowed
    (out / "splits").mkdir(exist_ok=True)
    for split in SPLITS:
        ids = sorted(id for id, its_split in split_of.items() if its_split == split)
        write_whole(out / "splits" / f"{split}.txt", "".join(f"{id}\n" for id in ids))
    manifest = {
        "name": "emoji",
        "picture": {"width": SIZE, "height": SIZE, "mode": "RGB", "encoding": "lossless WebP"},
        "samples": len(pictures),
        "content_sha256": hash_content(pictures),
        "counts": count_samples(pictures, split_of),
        "shards": json.loads((out / "manifest.json").read_bytes())["shards"],
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
    write_whole(out / "manifest.json", text + "\n")
    return manifest


def main() -> int:
    """Read the command line and build; an error is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description="Build the emoji data set from npm packages.")
    parser.add_argument("--packages", type=Path, required=True, help="folder of npm archives")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    try:
        manifest = build(options.packages, options.out)
    except (BuildError, VilgError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(manifest["counts"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The pictures of the four styles, drawn 256 pixels wide and reduced to what the shards hold.

Apart from the build because each package stores and names its artwork in its own way; from here
on a picture is a style, a hexcode and 64x64 RGB.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import resvg_py
from concepts import Concept, hexcode_of, slug_of
from packages import FLUENT_3D, FLUENT_FLAT, NOTO, TWEMOJI, Package, read_json, read_members
from PIL import Image

SIZE = 64
DRAWN = 256
WHITE = (255, 255, 255, 255)

Render = Callable[[], Image.Image]


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """One artist's set: where it comes from, and how a caption calls it."""

    key: str
    package: Package
    license: str
    phrases: dict[str, str]


STYLES = (
    Style(
        key="noto",
        package=NOTO,
        license="Apache-2.0",
        phrases={"zh": "Noto风格", "en": "Noto style"},
    ),
    Style(
        key="fluent_3d",
        package=FLUENT_3D,
        license="MIT",
        phrases={"zh": "三维风格", "en": "3D render"},
    ),
    Style(
        key="fluent_flat",
        package=FLUENT_FLAT,
        license="MIT",
        phrases={"zh": "扁平风格", "en": "flat style"},
    ),
    Style(
        key="twemoji",
        package=TWEMOJI,
        license="CC-BY-4.0",
        phrases={"zh": "推特风格", "en": "Twitter style"},
    ),
)


def is_foreign(style: Style, concept: Concept) -> bool:
    """Tell whether the style's package shows another artist's picture for this concept.

    Fluent has no country flags: the package fills the gap with flat waving ones that look like
    Noto's. They are neither 3D renders nor Microsoft's to license.
    """
    return style.key == "fluent_3d" and concept.subgroup == "country-flag"


def open_style(style: Style, archive: Path, concepts: list[Concept]) -> dict[str, Render]:
    """Return how to draw each concept that the style has a picture of, by hexcode."""
    if style.package is FLUENT_3D:
        drawings = _open_webp(read_members(archive, (".webp",)))
    elif style.package is TWEMOJI:
        drawings = _open_svg(read_members(archive, (".svg",)))
    else:
        drawings = _open_iconify(read_members(archive, (".json",)), concepts)
    wanted = {concept.hexcode for concept in concepts}
    return {hexcode: drawing for hexcode, drawing in drawings.items() if hexcode in wanted}


def reduce_picture(drawn: Image.Image) -> Image.Image:
    """Paste a drawing on a white square and reduce it to SIZE x SIZE."""
    square = Image.new("RGBA", (DRAWN, DRAWN), WHITE)
    if max(drawn.size) != DRAWN:
        scale = DRAWN / max(drawn.size)
        drawn = drawn.resize(
            (round(drawn.width * scale), round(drawn.height * scale)), Image.Resampling.LANCZOS
        )
    corner = ((DRAWN - drawn.width) // 2, (DRAWN - drawn.height) // 2)
    square.alpha_composite(drawn, corner)
    return square.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _open_webp(members: dict[str, bytes]) -> dict[str, Render]:
    # Two emoji have two files, with and without U+FE0F, of nearly equal renders: the later name
    # in sorted order wins.
    return {
        hexcode_of(Path(name).stem): _draw_webp(content)
        for name, content in sorted(members.items())
    }


def _open_svg(members: dict[str, bytes]) -> dict[str, Render]:
    return {
        hexcode_of(Path(name).stem): _draw_svg(content.decode("utf-8"), 1.0)
        for name, content in sorted(members.items())
    }


def _open_iconify(members: dict[str, bytes], concepts: list[Concept]) -> dict[str, Render]:
    icon_set = read_json(members, "icons.json")
    names = {
        hexcode_of(code): name for code, name in sorted(read_json(members, "chars.json").items())
    }
    for concept in concepts:
        # chars.json leaves out what is drawn as another icon's mirror image (the hand that points
        # right); such an icon is found by its English name.
        slug = slug_of(concept.names["en"])
        if concept.hexcode not in names and slug in icon_set["aliases"]:
            names[concept.hexcode] = slug
    return {hexcode: _draw_icon(icon_set, name) for hexcode, name in names.items()}


def _draw_icon(icon_set: dict[str, Any], name: str) -> Render:
    """Return how to draw an icon, an alias of one, or a mirrored alias of one."""
    mirrored = False
    while name in icon_set["aliases"]:
        alias = icon_set["aliases"][name]
        mirrored ^= alias.get("hFlip", False)
        name = alias["parent"]
    icon = icon_set["icons"][name]
    width = icon.get("width", icon_set["width"])
    height = icon.get("height", icon_set["height"])
    body = icon["body"]
    if mirrored:
        body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 {width} {height}" width="{width}" height="{height}">{body}</svg>'
    )
    return _draw_svg(svg, height / width)


def _draw_webp(content: bytes) -> Render:
    return lambda: Image.open(io.BytesIO(content)).convert("RGBA")


def _draw_svg(svg: str, ratio: float) -> Render:
    """Return how to draw an SVG so that its longer side is DRAWN pixels; ratio = height / width."""
    width, height = (None, DRAWN) if ratio > 1 else (DRAWN, None)

    def draw() -> Image.Image:
        # No picture holds text, and a machine's fonts must never change the data set.
        png = resvg_py.svg_to_bytes(
            svg_string=svg, width=width, height=height, skip_system_fonts=True
        )
        return Image.open(io.BytesIO(png)).convert("RGBA")

    return draw


def draw_all(
    style: Style, drawings: dict[str, Render], concepts: list[Concept]
) -> Iterator[tuple[Concept, Image.Image]]:
    """Draw every concept the artist has a picture of, in the concepts' order."""
    for concept in concepts:
        if concept.hexcode in drawings and not is_foreign(style, concept):
            yield concept, reduce_picture(drawings[concept.hexcode]())

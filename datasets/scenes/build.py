"""Builds scenes: one to four emoji on a plain coloured ground, with captions that are exact.

    python datasets/scenes/build.py --num 16 --size 256 --out runs/scenes

Real artwork (datasets/emoji), synthetic layout and captions. A scene is a function of its number and
the seed, whatever else is built. Meant for tests of composition: what is where, how many, on which
colour.
"""

import argparse
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw

from vilg.data.pack import pack
from vilg.data.pairs import Pair
from vilg.data.sources import load_pairs, source_of
from vilg.images import open_picture
from vilg.randomness import integers

EMOJI = Path(__file__).parents[1] / "emoji"
# People and flags are near-copies of each other; symbols are often a letter.
GROUPS = ("smileys-emotion", "animals-nature", "food-drink", "travel-places", "objects")
# Flat edges and few colours survive being enlarged.
ONLY = ("style=twemoji", *(f"group={group}" for group in GROUPS))


@dataclass(frozen=True)
class Words:
    en: str
    zh: str


GROUNDS = {
    "#fde047": Words("yellow", "黄"),
    "#93c5fd": Words("blue", "蓝"),
    "#86efac": Words("green", "绿"),
    "#f9a8d4": Words("pink", "粉"),
    "#e5e7eb": Words("grey", "灰"),
    "#fdba74": Words("orange", "橙"),
}
RELATIONS = {  # by kind of scene: the words, and the centres of the first and the second
    1: (Words("left of", "左边"), [(0.26, 0.5), (0.74, 0.5)]),
    2: (Words("above", "上边"), [(0.5, 0.26), (0.5, 0.74)]),
}
NUMBERS = (Words("two", "两个"), Words("three", "三个"), Words("four", "四个"))  # "three times X"


def cut_out(pair: Pair, side: int) -> Image.Image:
    """Enlarge an emoji and make the white around it transparent; white within it stays."""
    picture = (
        open_picture(pair.picture()).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    )
    # One pixel of white all round joins the corners, so that one flood reaches all of the outside.
    framed = Image.new("RGB", (side + 2, side + 2), "white")
    framed.paste(picture, (1, 1))
    marker = (255, 0, 254)
    flooded = framed.copy()
    ImageDraw.floodfill(flooded, (0, 0), marker, thresh=40)
    outside = ImageChops.difference(flooded, Image.new("RGB", flooded.size, marker)).convert("L")
    alpha = outside.point(lambda value: 255 if value else 0).crop((1, 1, side + 1, side + 1))
    picture.putalpha(alpha)
    return picture


def compose(
    parts: list[Image.Image], centres: list[tuple[float, float]], ground: str, size: int
) -> bytes:
    """Paste the parts, each at a centre in shares of the side; return a lossless WebP."""
    scene = Image.new("RGB", (size, size), ground)
    for part, (x, y) in zip(parts, centres, strict=True):
        corner = (round(x * size - part.width / 2), round(y * size - part.height / 2))
        scene.paste(part, corner, part)
    stream = io.BytesIO()
    scene.save(stream, format="WEBP", lossless=True, quality=90, method=6)
    return stream.getvalue()


def layout_of(kind: int, first: Words, second: Words, count: int, ground: Words) -> tuple:
    """Return the share of the side of an emoji, the centres, which emoji goes where, and the captions."""
    if kind == 0:
        return (
            0.6,
            [(0.5, 0.5)],
            [0],
            Words(f"{first.en} on {ground.en}", f"{ground.zh}色底上的{first.zh}"),
        )
    if kind in RELATIONS:
        relation, centres = RELATIONS[kind]
        caption = Words(
            f"{first.en} {relation.en} {second.en} on {ground.en}",
            f"{ground.zh}色底上，{first.zh}在{second.zh}{relation.zh}",
        )
        return 0.42, centres, [0, 1], caption
    number = NUMBERS[count - 2]
    corners = [(0.27, 0.27), (0.73, 0.73), (0.73, 0.27), (0.27, 0.73)][:count]
    caption = Words(
        f"{number.en} times {first.en} on {ground.en}", f"{ground.zh}色底上的{number.zh}{first.zh}"
    )
    return 0.42, corners, [0] * count, caption


def make_scene(number: int, seed: int, emoji: list[Pair], size: int) -> Pair:
    """Return scene `number`: a single one, a pair side by side or one above the other, or several."""
    first, second = (int(integers(seed, f"emoji {i}", len(emoji) - i, number)) for i in (0, 1))
    second += second >= first  # two different ones
    colour = list(GROUNDS)[int(integers(seed, "ground", len(GROUNDS), number))]
    kind = int(integers(seed, "kind", 4, number))
    count = 2 + int(integers(seed, "count", 3, number))
    chosen = [emoji[first], emoji[second]]
    names = [Words(pair.tags["name.en"], pair.tags["name.zh"]) for pair in chosen]
    share, centres, which, caption = layout_of(kind, *names, count, GROUNDS[colour])
    parts = [cut_out(chosen[i], round(share * size)) for i in which]
    word = RELATIONS[kind][0].en if kind in RELATIONS else "one" if kind == 0 else "several"
    return Pair(
        id=f"scene-{number:06d}",
        place=f"scene {number} of seed {seed}, {size} x {size}",
        picture=partial(compose, parts, centres, colour, size),
        captions={"en": (caption.en,), "zh": (caption.zh,)},
        tags={"kind": word},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Build scenes of emoji with exact captions.")
    parser.add_argument("--num", type=int, required=True, help="how many")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args()
    emoji = load_pairs(EMOJI, "train", ONLY)
    scenes = [make_scene(i, options.seed, emoji, options.size) for i in range(options.num)]
    pack(source_of(scenes, "scenes of emoji"), options.out, "scenes", max_rejects=0)
    print(f"{options.out}: {len(scenes)} scenes of {options.size} x {options.size}")


if __name__ == "__main__":
    main()

"""60 pictures of one's own, with captions: as five sources, and how many captions a model has exactly.

    python runs/own_pairs.py make DIR [en|zh|both]    pictures and captions as folder, JSON lines, CSV, tar, parquet
    python runs/own_pairs.py score DIR MODEL          captions of all 60 by the model, exactly right or not

In between: `vilg train pairs --data DIR/folder` (or another of the five), about 6 minutes on 2 cores.
"""

import csv
import io
import json
import math
import sys
import tarfile
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    ("red", "红色"): (220, 30, 40),
    ("green", "绿色"): (30, 160, 60),
    ("blue", "蓝色"): (40, 70, 210),
    ("yellow", "黄色"): (245, 215, 50),
    ("purple", "紫色"): (130, 50, 160),
}
SHAPES = {
    "circle": "圆形",
    "square": "方块",
    "triangle": "三角形",
    "ring": "圆环",
    "cross": "十字",
    "star": "星星",
}
GROUNDS = {("white", "白色"): (255, 255, 255), ("black", "黑色"): (0, 0, 0)}
# Five ways to say it, in both languages.
ENGLISH = (
    "a {0} {1} on {2}",
    "{0} {1}, {2} ground",
    "on {2}, a {0} {1}",
    "one {1} in {0} on {2}",
    "the {0} {1} over {2}",
)
CHINESE = (
    "{2}背景上的{0}{1}",
    "{0}{1}，{2}背景",
    "{2}上面有一个{0}{1}",
    "一个{0}的{1}，{2}底",
    "{0}的{1}在{2}上",
)


def draw(shape: str, colour: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (96, 96), ground)
    pen = ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse((20, 20, 76, 76), fill=colour)
    elif shape == "square":
        pen.rectangle((22, 22, 74, 74), fill=colour)
    elif shape == "triangle":
        pen.polygon([(48, 14), (80, 78), (16, 78)], fill=colour)
    elif shape == "ring":
        pen.ellipse((16, 16, 80, 80), outline=colour, width=12)
    elif shape == "cross":
        pen.rectangle((40, 12, 56, 84), fill=colour)
        pen.rectangle((12, 40, 84, 56), fill=colour)
    else:
        corners = ((36 if k % 2 == 0 else 15, math.pi * k / 5) for k in range(10))
        pen.polygon([(48 + r * math.sin(a), 48 - r * math.cos(a)) for r, a in corners], fill=colour)
    return picture


def pairs(captions: str) -> dict[str, tuple[bytes, list[str]]]:
    """Return PNG and captions of each, by id."""
    made = {}
    for (colour, colour_zh), rgb in COLOURS.items():
        for shape, shape_zh in SHAPES.items():
            for (ground, ground_zh), behind in GROUNDS.items():
                stream = io.BytesIO()
                draw(shape, rgb, behind).save(stream, "PNG")
                english = [text.format(colour, shape, ground) for text in ENGLISH]
                chinese = [text.format(colour_zh, shape_zh, ground_zh) for text in CHINESE]
                texts = {"en": english[:1], "zh": chinese[:1], "both": english + chinese}[captions]
                made[f"{len(made):02d}"] = (stream.getvalue(), texts)
    return made


def make(folder: Path, captions: str) -> None:
    import pyarrow
    import pyarrow.parquet

    pictures = folder / "folder"
    pictures.mkdir(parents=True)
    made = pairs(captions)
    for id, (png, texts) in made.items():
        (pictures / f"{id}.png").write_bytes(png)
        (pictures / f"{id}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for id, (_, texts) in made.items():
            line = {"image": f"folder/{id}.png", "id": id, "caption": texts}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "image", "caption"])
        table.writerows(
            [id, f"folder/{id}.png", text] for id, (_, texts) in made.items() for text in texts
        )
    with tarfile.open(folder / "pairs.tar", "w") as archive:
        for id, (png, texts) in made.items():
            for name, content in ((f"{id}.png", png), (f"{id}.txt", "\n".join(texts).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    rows = [
        {"id": id, "image": {"bytes": png, "path": None}, "caption": texts}
        for id, (png, texts) in made.items()
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pairs.parquet")


def score(folder: Path, model: str) -> None:
    from vilg import Vilg

    vilg = Vilg.from_pretrained(model)
    for lang in vilg.model.languages:
        right = 0
        for text in sorted((folder / "folder").glob("*.txt")):
            wanted = text.read_text(encoding="utf-8").splitlines()
            (found,) = vilg.caption(text.with_suffix(".png"), lang)
            right += found in wanted
        print(f"{lang}: {right} of 60 captions exactly one of the picture's own (learnt by heart)")


if __name__ == "__main__":
    what, folder, *more = sys.argv[1:]
    if what == "make":
        make(Path(folder), *(more or ["en"]))
    else:
        score(Path(folder), *more)

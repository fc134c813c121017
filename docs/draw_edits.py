"""Draw what the shipped model edits and chooses: two contact sheets.

    .venv/bin/python docs/draw_edits.py        writes docs/images/edits.png and best-of.png

edits.png, for each picture of the data set: itself, then a prompt drawn into its middle, its lower half
drawn anew, and variations of it; three of each, every one the best of three by the likelihood of what was
kept. best-of.png: the best of 1, 4 and 16 candidates of each prompt, by the model's own captions.
"""

from pathlib import Path

from PIL import Image, ImageDraw

from vilg import Vilg
from vilg.data.sources import load_pairs
from vilg.images import contact_sheet, open_picture
from vilg.shipped.recipes import EMOJI

IMAGES = Path(__file__).parent / "images"
# A picture, and what it is to become.
EDITS = (
    ("fluent_flat-1F7E6", "yellow heart, flat style"),
    ("noto-1F642", "smiling face with sunglasses, Noto style"),
    ("twemoji-1F7E0", "蓝色圆，推特风格"),
    ("fluent_3d-1F431", "猫脸，三维风格"),
)
PROMPTS = (
    "sunflower, Twitter style",
    "whale, flat style",
    "pizza, 3D render",
    "墨镜笑脸，Noto风格",
    "黄心，三维风格",
    "绿色圆，Noto风格",
)
NUM = 3
BEST_OF = (1, 4, 16)


def middle_mask(size: int) -> Image.Image:
    """White in the middle half of the picture, where the prompt is to be drawn."""
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).rectangle((size // 4, size // 4, 3 * size // 4, 3 * size // 4), fill=255)
    return mask


def edits(vilg: Vilg) -> Image.Image:
    by_id = {sample.id: sample for sample in load_pairs(EMOJI)}
    mask, rows = middle_mask(vilg.image_size), []
    half = vilg.generator.config.grid.height // 2
    for id, prompt in EDITS:
        picture = open_picture(by_id[id].picture())
        row = [picture]
        for area in ({"mask": mask}, {"first_row": half}, {"share": 0.3}):
            row += vilg.edit(picture, prompt, NUM, seed=0, best_of=NUM, **area)
        rows.append(row)
    return contact_sheet(rows, scale=2)


def best_of(vilg: Vilg) -> Image.Image:
    rows = [
        [vilg.generate(prompt, seed=0, best_of=num)[0] for prompt in PROMPTS] for num in BEST_OF
    ]
    return contact_sheet(rows, scale=2)


def main() -> None:
    vilg = Vilg.from_pretrained()
    edits(vilg).save(IMAGES / "edits.png")
    best_of(vilg).save(IMAGES / "best-of.png")


if __name__ == "__main__":
    main()

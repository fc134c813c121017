"""Draw which cells one cell may read, for each pattern, from the mask that the tests hold to be true.

    .venv/bin/python docs/draw_masks.py        writes docs/images/masks.png

Above, a picture that is being generated (causal); below, one that is read (two-way).
"""

from pathlib import Path

from PIL import Image, ImageDraw

from vilg.model.patterns import Pattern, mask

SIDE, QUERY = 16, 16 * 9 + 4  # a grid wider than the window, and a cell whose window wraps
CELL, GAP, HEAD = 14, 28, 22
INK, WHITE, LINE = "#1f2937", "#ffffff", "#d1d5db"
QUERY_COLOUR, KEY_COLOUR = "#dc2626", "#60a5fa"


def draw_grid(
    draw: ImageDraw.ImageDraw, left: int, top: int, pattern: Pattern, causal: bool
) -> int:
    """Draw one grid; return how many cells the query reads."""
    see_N = mask(pattern, SIDE, SIDE, causal=causal)[QUERY]
    for cell, is_seen in enumerate(see_N.tolist()):
        x, y = left + cell % SIDE * CELL, top + cell // SIDE * CELL
        colour = QUERY_COLOUR if cell == QUERY else KEY_COLOUR if is_seen else WHITE
        draw.rectangle((x, y, x + CELL, y + CELL), fill=colour, outline=LINE)
    return int(see_N.sum())


def main() -> None:
    patterns = (Pattern.ROW, Pattern.COLUMN, Pattern.CONVOLUTION, Pattern.DENSE)
    size = SIDE * CELL
    sheet = Image.new(
        "RGB", (GAP + len(patterns) * (size + GAP), GAP // 2 + 2 * (size + HEAD + GAP)), WHITE
    )
    draw = ImageDraw.Draw(sheet)
    for row, causal in enumerate((True, False)):
        for column, pattern in enumerate(patterns):
            left = GAP + column * (size + GAP)
            top = GAP // 2 + row * (size + HEAD + GAP)
            count = draw_grid(draw, left, top + HEAD, pattern, causal)
            form = "causal" if causal else "two-way"
            draw.text((left, top + 4), f"{pattern}, {form}: {count} of {SIDE**2}", fill=INK)
    out = Path(__file__).parent / "images" / "masks.png"
    sheet.save(out, optimize=True)
    print(out)


if __name__ == "__main__":
    main()

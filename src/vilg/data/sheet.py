"""A contact sheet of pairs: pictures as a model sees them, with their captions beneath.

Apart from `images.contact_sheet`, which knows no texts and no fonts.
"""

import re
from collections.abc import Sequence
from itertools import islice

from PIL import Image, ImageDraw, ImageFont

from vilg.data.pairs import Pair
from vilg.images import WHITE, contact_sheet, open_picture, square
from vilg.text import IDEOGRAPH

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_SIDE, _LINE, _LINES, _FONT_SIZE, _COLUMNS = 160, 15, 6, 12, 6
_INK = (40, 40, 40)
# Fonts with Chinese characters that systems bring, as Pillow finds them by name.
_CHINESE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "uming.ttc",
    "PingFang.ttc",
    "STHeiti Light.ttc",
    "msyh.ttc",
    "simsun.ttc",
)
# A Chinese character, or a word with the space behind it.
_UNIT = re.compile(r"[⺀-鿿　-〿＀-￯]|[^\s⺀-鿿　-〿＀-￯]+\s*|\s+")


def find_chinese_font() -> Font | None:
    """Return a font of this machine that has Chinese characters."""
    for name in _CHINESE_FONTS:
        try:
            return ImageFont.truetype(name, _FONT_SIZE)
        except OSError:
            continue
    return None


def captions_sheet(pairs: Sequence[Pair], chinese: Font | None) -> Image.Image:
    """Lay out pictures with their captions, the first two of a language.

    Args:
        chinese: writes Chinese captions, which are left out without it.
    """
    tiles = [_tile(pair, chinese) for pair in pairs]
    rows = [tiles[i : i + _COLUMNS] for i in range(0, len(tiles), _COLUMNS)]
    return contact_sheet(rows)


def _tile(pair: Pair, chinese: Font | None) -> Image.Image:
    assert pair.picture is not None
    plain = ImageFont.load_default(size=_FONT_SIZE)
    tile = Image.new("RGB", (_SIDE, _SIDE + _LINES * _LINE), WHITE)
    tile.paste(square(open_picture(pair.picture()), _SIDE), (0, 0))
    texts = [text for texts in pair.captions.values() for text in texts[:2]]
    texts += [question.text for question in pair.questions[:1]]
    lines: list[tuple[str, Font]] = []
    for text in [text for text in texts if chinese or not IDEOGRAPH.search(text)]:
        font = chinese if chinese and IDEOGRAPH.search(text) else plain
        room = max(1, _LINES // len(texts))
        lines += [(line, font) for line in _wrap(text, font, room)]
    draw = ImageDraw.Draw(tile)
    for i, (line, font) in enumerate(lines[:_LINES]):
        draw.text((0, _SIDE + i * _LINE), line, fill=_INK, font=font)
    return tile


def _wrap(text: str, font: Font, room: int) -> list[str]:
    """Break a text into lines of the tile's width; what has no room is cut, with an ellipsis."""
    lines = [""]
    for unit in islice(_UNIT.findall(text), _SIDE):
        if lines[-1] and font.getlength((lines[-1] + unit).rstrip()) > _SIDE:
            lines.append("")
        lines[-1] += unit
    kept = [_cut(line.rstrip(), font) for line in lines[:room]]
    if len(lines) > room:
        kept[-1] = _cut(kept[-1] + "...", font)
    return kept


def _cut(line: str, font: Font) -> str:
    line = line[:_SIDE]
    if font.getlength(line) <= _SIDE:
        return line
    while line and font.getlength(line + "...") > _SIDE:
        line = line[:-1]
    return line + "..."

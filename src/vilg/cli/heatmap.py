"""The page of `vilg score --html`: text and picture through the model in both directions.

The picture as its tokens have it, once for every word of the text with the cells that the word makes
likelier, and the text as the picture has it, word by word, beside the captions that the model writes.
"""

import base64
import html
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

import vilg
from vilg.api import Score, Vilg
from vilg.cli.output import png
from vilg.text import LANGUAGES, guess_language

_PAGE = Path(__file__).parents[1] / "assets" / "score.html"
_SIDE = 256  # pixels of a picture on the page
# Colours that people of all kinds of sight tell apart: orange speaks for the word, blue against it.
_FOR, _AGAINST = (230, 97, 1), (33, 113, 181)
# At most this much of a cell's colour is laid over the picture.
_COVER = 0.75


def heatmap_page(model: Vilg, image: Image.Image, text: str, lang: str | None, score: Score) -> str:
    """Return the page as HTML, complete in itself.

    Args:
        lang: as `Vilg.score` has it.
    """
    by_word = model.word_map(image, text)
    picture = model.decode(model.encode([image]))[0].resize(
        (_SIDE, _SIDE), Image.Resampling.LANCZOS
    )
    strongest = max(abs(gain) for _, gains in by_word for gain in gains) or 1.0
    grid = model.generator.config.grid
    figures = [
        _figure(
            _overlaid(picture, np.array(gains).reshape(grid.height, grid.width) / strongest),
            word,
            f"{sum(gains):+.2f}",
        )
        for word, gains in by_word
    ]
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        model=html.escape(str(model.weights_hash)),
        version=vilg.__version__,
        lang=lang or guess_language(text),
        text=html.escape(text),
        strongest=f"{strongest:.2f}",
        gain=f"{sum(score.image_gains):+.2f}",
        picture=_figure(picture, "the picture in tokens", ""),
        figures="\n".join(figures),
        tokens="\n".join(
            f"<tr><td>{html.escape(token)}</td><td>{value:.3f}</td><td>{np.exp(value):.1%}</td></tr>"
            for token, value in zip(score.text_tokens, score.text_log_probs, strict=True)
        ),
        captions="\n".join(
            f'<dt>{x}</dt><dd lang="{x}">{html.escape(model.caption(image, x)[0])}</dd>'
            for x in LANGUAGES
        ),
    )


def _overlaid(picture: Image.Image, gains_HW: np.ndarray) -> Image.Image:
    """Lay cells over a picture, the more opaque the stronger the gain; 1 and -1 are the strongest."""
    colours_HW3 = np.where(gains_HW[..., None] > 0, _FOR, _AGAINST).astype(np.uint8)
    cover_HW = (np.abs(gains_HW) * _COVER * 255).round().astype(np.uint8)
    colours, cover = (
        Image.fromarray(array).resize(picture.size, Image.Resampling.NEAREST)
        for array in (colours_HW3, cover_HW)
    )
    # Pale and grey beneath, or the colour of "for" could not be told from a red apple.
    pale = Image.blend(
        picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, "white"), 0.4
    )
    return Image.composite(colours, pale, cover)


def _figure(picture: Image.Image, title: str, sum_of_gains: str) -> str:
    content = base64.b64encode(png(picture, {})).decode("ascii")
    title = html.escape(title)
    caption = f"<strong>{title}</strong> {sum_of_gains}".strip()
    return (
        f'<li><figure><img src="data:image/png;base64,{content}" width="{_SIDE}" '
        f'height="{_SIDE}" alt="{title}"><figcaption>{caption}</figcaption></figure></li>'
    )

"""The demo: fixed prompts and pictures, all results shown, as one sheet and one page.

    vilg demo

Nothing measured goes into the files, so that a second run gives the same bytes. Apart from the
command because it returns what the command writes.
"""

import base64
import dataclasses
import html
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import vilg
from vilg.api import Vilg
from vilg.data.pairs import DataError, Pair
from vilg.data.pictures import load_pictures
from vilg.data.shards import load_split
from vilg.data.sources import load_pairs
from vilg.images import WHITE, to_array
from vilg.text import LANGUAGES, normalise

_ASSETS = Path(__file__).parents[1] / "assets"
_SPLIT_NAMES = {"train": "seen", "unseen_combination": "unseen combination"}

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# The sheet, in pixels: rows of 4 pairs, rows of 6 single pictures.
_TILE = 128
_GAP = 12
_MARGIN = 20
_LINE = 16
_FONT_SIZE = 12
_PAIR_WIDTH = 2 * _TILE + _GAP
_SHEET_WIDTH = 4 * _PAIR_WIDTH + 3 * _GAP
_SINGLE_WIDTH = (_SHEET_WIDTH - 5 * _GAP) // 6
_INK = (29, 29, 31)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A fixed prompt; `split` says whether training has seen it, `gloss` is its English."""

    text: str
    lang: str
    split: str
    gloss: str


@dataclass(frozen=True)
class Answer:
    """A picture drawn for a prompt, and the training picture nearest to it.

    Attributes:
        distance: mean squared distance of their pixels, black 0 and white 1.
    """

    prompt: Prompt
    picture: Image.Image
    nearest: Pair
    nearest_picture: Image.Image
    distance: float


@dataclass(frozen=True)
class Captioned:
    """A picture of the data set with the model's caption in each language."""

    sample: Pair
    split: str
    picture: Image.Image
    captions: Mapping[str, str]


@dataclass(frozen=True)
class Demo:
    """What the demo shows: a contact sheet, and a page in HTML."""

    sheet: Image.Image
    page: str


def make_demo(model: Vilg, data: Path, say: Callable[[str], None]) -> Demo:
    """Draw the fixed prompts, describe the fixed pictures, and lay both out.

    Args:
        data: folder of the emoji data set.
        say: gets a line on how long each part took.

    Raises:
        DataError: no data set there, or one without the fixed pictures.
    """
    fixed = json.loads((_ASSETS / "demo_prompts.json").read_text(encoding="utf-8"))
    prompts = [Prompt(**prompt) for prompt in fixed["prompts"]]
    with _timed("data set read", say):
        samples = {sample.id: sample for sample in load_pairs(data)}
        train = [samples[id] for id in load_split(data, "train")]
        shown = [_find(samples, data, picture["id"]) for picture in fixed["pictures"]]
    with _timed(f"{len(prompts)} pictures drawn", say):
        seeds = [fixed["seed"]] * len(prompts)
        pictures = model.pictures(model.draw([prompt.text for prompt in prompts], seeds))
    with _timed(f"nearest of {len(train)} training pictures found", say):
        arrays_NYX3 = load_pictures(train, model.image_size)
        indices, distances = nearest(arrays_NYX3, np.stack([to_array(p) for p in pictures]))
        drawn = [
            Answer(prompt, picture, train[i], Image.fromarray(arrays_NYX3[i]), distance)
            for prompt, picture, i, distance in zip(
                prompts, pictures, indices, distances, strict=True
            )
        ]
    with _timed(f"{len(shown)} pictures described in {len(LANGUAGES)} languages", say):
        tiles = [Image.fromarray(array) for array in load_pictures(shown, model.image_size)]
        captioned = [
            Captioned(sample, picture["split"], tile, _captions(model, tile))
            for sample, picture, tile in zip(shown, fixed["pictures"], tiles, strict=True)
        ]
    glosses = {
        normalise(sample.captions["zh"][0]): sample.captions["en"][0] for sample in samples.values()
    }
    seed = fixed["seed"]
    settings = [made_with(model, seed), f"All prompts are shown. {_choice(model)}"]
    sheet = _sheet(drawn, captioned, glosses, settings)
    return Demo(sheet, _page(model, seed, drawn, captioned))


@contextmanager
def _timed(what: str, say: Callable[[str], None]) -> Iterator[None]:
    begin = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - begin:.1f} s")


def _find(samples: Mapping[str, Pair], data: Path, id: str) -> Pair:
    if id not in samples:
        raise DataError(f"{data} has no sample {id}, which the demo shows: pass the emoji data set")
    return samples[id]


def _captions(model: Vilg, picture: Image.Image) -> dict[str, str]:
    return {lang: model.caption(picture, lang)[0] for lang in LANGUAGES}


def nearest(
    arrays_NYX3: NDArray[np.uint8], pictures_BYX3: NDArray[np.uint8], chunk: int = 512
) -> tuple[list[int], list[float]]:
    """Return which picture is nearest to each of `pictures`, and their mean squared distance.

    |a - b|^2 = |a|^2 - 2 a b + |b|^2. The sums are whole numbers that double precision holds
    exactly, so no rounding decides who is nearest; of equals it is the first.
    """
    targets_BP = pictures_BYX3.reshape(len(pictures_BYX3), -1).astype(np.float64)
    sums: list[NDArray[np.float64]] = []
    for first in range(0, len(arrays_NYX3), chunk):
        part_CYX3 = arrays_NYX3[first : first + chunk]
        part_CP = part_CYX3.reshape(len(part_CYX3), -1).astype(np.float64)
        sums.append(np.square(part_CP).sum(1)[:, None] - 2 * part_CP @ targets_BP.T)
    sums_NB = np.concatenate(sums) + np.square(targets_BP).sum(1)
    distances_B = sums_NB.min(0) / (targets_BP.shape[1] * 255**2)
    return sums_NB.argmin(0).tolist(), distances_B.tolist()


def made_with(model: Vilg, seed: int) -> str:
    """Return in a line what pictures were drawn with: every setting of the model's own."""
    settings = dataclasses.asdict(model.model.sampling)
    names = [
        f"{name.replace('_', ' ')} {'off' if value is None else value}"
        for name, value in settings.items()
    ]
    return f"Model {model.weights_hash}, vilg {vilg.__version__}, seed {seed}, {', '.join(names)}."


def _choice(model: Vilg) -> str:
    count = model.model.sampling.best_of
    if count == 1:
        return "Each picture is the first and only one drawn."
    return (
        f"Each picture is the one of {count} drawn that, to the model, is likeliest to have the "
        "prompt as its caption."
    )


def _page(model: Vilg, seed: int, drawn: Sequence[Answer], captioned: Sequence[Captioned]) -> str:
    return Template((_ASSETS / "demo.html").read_text(encoding="utf-8")).substitute(
        made=html.escape(made_with(model, seed)),
        choice=_choice(model),
        drawn="\n".join(_drawn_item(item) for item in drawn),
        captioned="\n".join(_captioned_item(item) for item in captioned),
    )


def _drawn_item(item: Answer) -> str:
    prompt, caption = item.prompt, html.escape(item.nearest.captions["en"][0])
    text = html.escape(prompt.text)
    gloss = f'<p class="gloss">{html.escape(prompt.gloss)}</p>' if prompt.lang != "en" else ""
    return f"""<li>
<h3 lang="{prompt.lang}">{text}</h3>{gloss}
{_split_mark(prompt.split)}
<div class="pair">
<figure>{_image(item.picture, f"Drawn for: {text}")}<figcaption>drawn</figcaption></figure>
<figure>{_image(item.nearest_picture, f"Nearest training picture: {caption}")}
<figcaption>nearest: {caption}; distance {item.distance:.4f}</figcaption></figure>
</div>
</li>"""


def _captioned_item(item: Captioned) -> str:
    rows = "".join(
        f'<dt>{lang}, data set</dt><dd lang="{lang}">{html.escape(item.sample.captions[lang][0])}</dd>'
        f'<dt>{lang}, model</dt><dd lang="{lang}"><strong>{html.escape(caption)}</strong></dd>'
        for lang, caption in item.captions.items()
    )
    name = html.escape(item.sample.captions["en"][0])
    return f"""<li>
<h3>{name}</h3>
{_split_mark(item.split)}
<div class="pair">
<figure>{_image(item.picture, name)}</figure>
<dl>{rows}</dl>
</div>
</li>"""


def _split_mark(split: str) -> str:
    return f'<span class="split {split}">{_SPLIT_NAMES[split]}</span>'


def _image(picture: Image.Image, escaped_text: str) -> str:
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    width, height = picture.size
    return (
        f'<img src="data:image/png;base64,{content}" width="{width}" height="{height}" '
        f'alt="{escaped_text}">'
    )


def _sheet(
    drawn: Sequence[Answer],
    captioned: Sequence[Captioned],
    glosses: Mapping[str, str],
    settings: Sequence[str],
) -> Image.Image:
    """Lay all out on one picture. Its font has Latin letters only: Chinese is given in English."""
    pairs = [
        _card(
            [item.picture, item.nearest_picture],
            _PAIR_WIDTH,
            f"{item.prompt.lang}: {item.prompt.gloss}",
            _SPLIT_NAMES[item.prompt.split],
            f"nearest: {item.nearest.captions['en'][0]}",
            f"distance {item.distance:.4f}",
        )
        for item in drawn
    ]
    unknown = "no caption of the data set, see index.html"
    singles = [
        _card(
            [item.picture],
            _SINGLE_WIDTH,
            f"en: {item.captions['en']}",
            f"zh: {glosses.get(normalise(item.captions['zh']), unknown)}",
            f"true: {item.sample.captions['en'][0]}",
            _SPLIT_NAMES[item.split],
        )
        for item in captioned
    ]
    parts = [
        _card(
            [], _SHEET_WIDTH, "Left, drawn for the words below; right, nearest training picture."
        ),
        *_rows(pairs),
        _card([], _SHEET_WIDTH, "Captions by the model, the likeliest token each time."),
        *_rows(singles),
        _card([], _SHEET_WIDTH, *settings),
    ]
    return _column(parts)


def _card(pictures: Sequence[Image.Image], width: int, *labels: str) -> Image.Image:
    """Put pictures side by side with labels under them."""
    font = ImageFont.load_default(size=_FONT_SIZE)
    lines = [line for label in labels for line in _wrap(label, font, width)]
    top = _TILE + _GAP // 2 if pictures else 0
    card = Image.new("RGB", (width, top + _LINE * len(lines)), WHITE)
    for i, picture in enumerate(pictures):
        tile = picture.resize((_TILE, _TILE), Image.Resampling.NEAREST)
        card.paste(tile, (i * (_TILE + _GAP), 0))
    draw = ImageDraw.Draw(card)
    for i, line in enumerate(lines):
        draw.text((0, top + i * _LINE), line, fill=_INK, font=font)
    return card


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a text at spaces; what isn't ASCII becomes "?"."""
    lines = [""]
    for word in text.encode("ascii", "replace").decode().split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _rows(cards: Sequence[Image.Image]) -> list[Image.Image]:
    """Lay cards of one width in rows that fill the sheet."""
    width = cards[0].width
    columns = (_SHEET_WIDTH + _GAP) // (width + _GAP)
    rows = []
    for first in range(0, len(cards), columns):
        here = cards[first : first + columns]
        row = Image.new("RGB", (_SHEET_WIDTH, max(card.height for card in here)), WHITE)
        for i, card in enumerate(here):
            row.paste(card, (i * (width + _GAP), 0))
        rows.append(row)
    return rows


def _column(parts: Sequence[Image.Image]) -> Image.Image:
    height = _MARGIN + sum(part.height + _MARGIN for part in parts)
    sheet = Image.new("RGB", (_SHEET_WIDTH + 2 * _MARGIN, height), WHITE)
    y = _MARGIN
    for part in parts:
        sheet.paste(part, (_MARGIN, y))
        y += part.height + _MARGIN
    return sheet

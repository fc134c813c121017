"""A toy data set of coloured squares, and a generator that knows two of them by heart."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.data.sources import write_packed
from vilg.api import Vilg
from vilg.data.pairs import Pair
from vilg.evaluation.judge import Judge, load_judge
from vilg.model.folder import Model
from vilg.model.generator import Generator, image_to_text_log_probs, text_to_image_log_probs
from vilg.shipped.samples import Splits
from vilg.text import LANGUAGES

STYLES = {
    "flat": {"zh": "扁平风格", "en": "flat style"},
    "noto": {"zh": "Noto风格", "en": "Noto style"},
}
NAMES = (
    ("苹果", "apple"),
    ("红苹果", "red apple"),
    ("苹果派", "apple pie"),
    ("狗脸", "dog face"),
    ("狗", "dog"),
    ("房子", "house"),
    ("按键: #", "keycap: #"),
    ("月亮", "moon"),
)


def toy_samples() -> list[Pair]:
    return [
        make_sample(concept, style) for concept in range(len(NAMES)) for style in sorted(STYLES)
    ]


def make_sample(concept: int, style: str) -> Pair:
    names = dict(zip(LANGUAGES, NAMES[concept], strict=True))
    commas = {"zh": "，", "en": ", "}
    colour = (30 * concept, 255 - 30 * concept, 200 if style == "flat" else 20)
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "png")
    return Pair(
        id=f"{style}-{concept}",
        place=f"toy {style}-{concept}",
        picture=stream.getvalue,
        captions={lang: (names[lang] + commas[lang] + STYLES[style][lang],) for lang in LANGUAGES},
        tags={
            "concept": str(concept),
            "style": style,
            "group": "food-drink" if concept < 4 else "objects",
            **{f"name.{lang}": name for lang, name in names.items()},
        },
    )


@pytest.fixture
def square_data(tmp_path: Path) -> Path:
    """A data set of them with the three splits."""
    splits = {
        split: [f"{style}-{concept}" for concept in concepts for style in sorted(STYLES)]
        for split, concepts in (
            ("train", range(1, 6)),
            ("unseen_concept", (0, 7)),
            ("unseen_combination", (6,)),
        )
    }
    return write_packed(tmp_path / "data", toy_samples(), splits)


@pytest.fixture(scope="session")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="session")
def two_pairs() -> Splits:
    """Two pictures of one style as the train split; all toy names compete."""
    samples = [make_sample(concept, "flat") for concept in (1, 3)]
    return Splits(toy_samples(), {"train": samples}, {"train": samples})


@pytest.fixture(scope="session")
def two_images(toy_model: Model) -> dict[str, torch.Tensor]:
    """Their tokens, made up."""
    cells = torch.arange(16)
    return {"train": torch.stack([cells % 32, 31 - cells])}


@pytest.fixture(scope="session")
def memoriser(toy_model: Model, two_pairs: Splits, two_images: dict[str, torch.Tensor]) -> Vilg:
    """A generator trained on the two pairs until it knows them by heart."""
    tokenizer = toy_model.text_tokenizer
    assert toy_model.generator is not None
    assert tokenizer is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        generator = Generator(toy_model.generator.config)
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-2)
    images = two_images["train"].repeat(2, 1)
    samples = two_pairs.chosen["train"]
    texts = [tokenizer.encode(sample.captions[lang][0]) for lang in LANGUAGES for sample in samples]
    languages = [tokenizer.language_id(lang) for lang in LANGUAGES for _ in samples]
    for _ in range(60):
        image_log_probs = text_to_image_log_probs(generator, texts, images)
        text_log_probs, _ = image_to_text_log_probs(generator, images, languages, texts)
        optimizer.zero_grad()
        (-image_log_probs.mean() - text_log_probs.sum() / len(texts)).backward()
        optimizer.step()
    generator.eval().requires_grad_(False)
    return Vilg(Model(toy_model.image_tokenizer, generator, tokenizer))

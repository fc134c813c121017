"""A toy data set of coloured squares, and a generator that knows two of them by heart."""

import dataclasses
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from vilg.api import Vilg
from vilg.data.shards import Sample
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


def toy_samples() -> list[Sample]:
    return [
        make_sample(concept, style) for concept in range(len(NAMES)) for style in sorted(STYLES)
    ]


def make_sample(concept: int, style: str) -> Sample:
    names = dict(zip(LANGUAGES, NAMES[concept], strict=True))
    commas = {"zh": "，", "en": ", "}
    colour = (30 * concept, 255 - 30 * concept, 200 if style == "flat" else 20)
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "png")
    return Sample(
        id=f"{style}-{concept}",
        concept=str(concept),
        style=style,
        group="food-drink" if concept < 4 else "objects",
        subgroup="",
        names=names,
        captions={lang: (names[lang] + commas[lang] + STYLES[style][lang],) for lang in LANGUAGES},
        keywords={lang: () for lang in LANGUAGES},
        picture=stream.getvalue(),
    )


@pytest.fixture
def square_data(tmp_path: Path) -> Path:
    """A folder with one shard and the three splits."""
    folder = tmp_path / "data"
    (folder / "shards").mkdir(parents=True)
    (folder / "splits").mkdir()
    samples = toy_samples()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for sample in samples:
            fields = dataclasses.asdict(sample)
            text = json.dumps({**fields, "picture": None}).encode()
            for suffix, content in (("png", sample.picture), ("json", text)):
                member = tarfile.TarInfo(f"{sample.id}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    shard = stream.getvalue()
    (folder / "shards" / "toy-0000.tar").write_bytes(shard)
    digest = hashlib.sha256(shard).hexdigest()
    entry = {"file": "toy-0000.tar", "samples": len(samples), "sha256": digest}
    manifest = {"content_sha256": "toy content", "shards": [entry]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    concepts = {"unseen_concept": {"0", "7"}, "train": {"1", "2", "3", "4", "5"}}
    for split in ("train", "unseen_concept"):
        ids = [sample.id for sample in samples if sample.concept in concepts[split]]
        (folder / "splits" / f"{split}.txt").write_text("\n".join(ids) + "\n")
    (folder / "splits" / "unseen_combination.txt").write_text("flat-6\nnoto-6\n")
    return folder


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

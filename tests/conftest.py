"""A toy model and a toy data set for everybody."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from vilg.data.pairs import Pair
    from vilg.model.folder import Model

# No test may ask the hub anything. huggingface_hub reads this when it is imported, which is why
# vilg is imported inside the fixtures.
os.environ["HF_HUB_OFFLINE"] = "1"
# Each process of pytest-xdist computes on one thread, and so do the commands that a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

EMOJI = Path(__file__).parent.parent / "datasets" / "emoji"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        for item in needing:
            item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


def save_toy(folder: Path) -> Path:
    """Write a model folder: random weights, 16 image tokens, the real vocabulary."""
    import torch
    from torch import nn

    from vilg.model.folder import Model, save_model
    from vilg.model.generator import Generator, GeneratorConfig
    from vilg.model.patterns import paper_patterns
    from vilg.text import LANGUAGES, TextTokenizer
    from vilg.tokenizer.image_tokenizer import ImageTokenizer
    from vilg.tokenizer.vqgan import VQGANConfig

    text_tokenizer = TextTokenizer.from_file(EMOJI / "tokenizer.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image_tokenizer = ImageTokenizer(
            VQGANConfig(
                image_size=32,
                channels=8,
                channel_multipliers=(1, 1, 1, 1),
                num_res_blocks=1,
                attention_resolutions=(),
                latent_channels=8,
                num_codes=32,
                code_dim=4,
                norm_groups=4,
            )
        )
        grid = image_tokenizer.config.grid_size
        generator = Generator(
            GeneratorConfig(
                width=32,
                num_heads=2,
                patterns=paper_patterns(4),
                grid_height=grid,
                grid_width=grid,
                num_codes=image_tokenizer.config.num_codes,
                vocabulary_size=len(text_tokenizer),
                max_text=24,
            )
        )
        # At their usual start the logits of all tokens are nearly equal: nothing would be tested.
        for weight in generator.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.2)
    networks = image_tokenizer.eval(), generator.eval()
    save_model(folder, Model(*networks, text_tokenizer, answer_languages=LANGUAGES))
    return folder


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy model."""
    return save_toy(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="session")
def toy_model(toy_folder: Path) -> "Model":
    """The same, loaded; tests must not change it."""
    from vilg.model.folder import load_model

    return load_model(toy_folder)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of plain squares, with the pictures that the demo shows in their real splits."""
    fixed = ["noto-1F34C", "fluent_3d-1F60E", "twemoji-1F33B"]
    splits = {
        "train": sorted([*fixed, *(f"noto-{number}" for number in range(12))]),
        "unseen_combination": ["fluent_flat-1F697", "noto-1F7E2", "twemoji-1F427"],
        "unseen_concept": ["noto-100", "noto-101"],
    }
    from tests.data.sources import write_packed

    ids = [id for members in splits.values() for id in members]
    pairs = [_square(number, id) for number, id in enumerate(ids)]
    return write_packed(tmp_path_factory.mktemp("data"), pairs, splits)


def _square(number: int, id: str) -> "Pair":
    from vilg.data.pairs import Pair

    stream = io.BytesIO()
    color = (37 * number % 256, 101 * number % 256, 199 * number % 256)
    Image.new("RGB", (32, 32), color).save(stream, format="PNG")
    style, _, concept = id.partition("-")
    names = {"zh": f"方块{concept}", "en": f"square {concept}"}
    return Pair(
        id=id,
        place=id,
        picture=stream.getvalue,
        captions={"zh": (f"{names['zh']}，{style}",), "en": (f"{names['en']}, {style}",)},
        prompts={"zh": (f"方块，{style}",), "en": (f"square, {style}",)},
        tags={"concept": concept, "style": style, "group": "symbols"}
        | {f"name.{lang}": name for lang, name in names.items()},
    )

"""A toy model and a toy data set for everybody."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
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
    from vilg.text import TextTokenizer
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
    save_model(folder, Model(image_tokenizer.eval(), generator.eval(), text_tokenizer))
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
    folder = tmp_path_factory.mktemp("data")
    stream = io.BytesIO()
    ids = [id for members in splits.values() for id in members]
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number, id in enumerate(ids):
            for name, content in ((f"{id}.png", _square(number)), (f"{id}.json", _fields(id))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (folder / "shards").mkdir()
    (folder / "shards" / "toy.tar").write_bytes(stream.getvalue())
    (folder / "splits").mkdir()
    for split, members in splits.items():
        (folder / "splits" / f"{split}.txt").write_text("\n".join(members) + "\n")
    sha256 = hashlib.sha256(stream.getvalue()).hexdigest()
    shard = {"file": "toy.tar", "sha256": sha256, "samples": len(ids)}
    (folder / "manifest.json").write_text(json.dumps({"shards": [shard], "content_sha256": sha256}))
    return folder


def _square(number: int) -> bytes:
    stream = io.BytesIO()
    color = (37 * number % 256, 101 * number % 256, 199 * number % 256)
    Image.new("RGB", (32, 32), color).save(stream, format="PNG")
    return stream.getvalue()


def _fields(id: str) -> bytes:
    style, _, concept = id.partition("-")
    fields = {
        "id": id,
        "concept": concept,
        "style": style,
        "group": "symbols",
        "subgroup": "geometric",
        "names": {"zh": f"方块{concept}", "en": f"square {concept}"},
        "captions": {"zh": [f"方块{concept}，{style}"], "en": [f"square {concept}, {style}"]},
        "keywords": {"zh": ["方块"], "en": ["square"]},
    }
    return json.dumps(fields, ensure_ascii=False).encode()

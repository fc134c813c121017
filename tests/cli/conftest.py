"""The command run in an empty folder, and what it left there."""

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests.tokenizer import published
from vilg.cli import main

VILG = Path(sys.executable).with_name("vilg")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*argv: str | Path) -> Result:
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def generate(run: Run, toy_folder: Path) -> Callable[..., list[Path]]:
    """Run `vilg generate` with the toy model and return the paths that it printed."""

    def call(*argv: str | Path) -> list[Path]:
        result = run("generate", *argv, "--model", toy_folder)
        assert result.status == 0, result.err
        return [Path(line) for line in result.out.splitlines()]

    return call


@pytest.fixture
def picture(run: Run) -> Path:
    """A picture that is neither square nor as large as the model's."""
    picture = Image.linear_gradient("L").resize((50, 40))
    picture.convert("RGB").save("picture.png")
    return Path("picture.png")


@pytest.fixture(scope="session")
def published_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small published networks: taming.safetensors and .yaml, llamagen likewise, vqvae/."""
    folder = tmp_path_factory.mktemp("published")
    for name, settings, shapes in (
        ("taming", published.taming_settings(), published.taming_shapes),
        ("llamagen", published.llamagen_settings(), published.llamagen_shapes),
        ("diffusers", published.diffusers_settings(), published.diffusers_shapes),
    ):
        state = published.random_state(shapes(settings))
        if name == "taming":
            for leaf in ("bias", "weight"):  # of training
                state[f"loss.discriminator.main.0.{leaf}"] = torch.zeros(3)
        save_file(state, folder / f"{name}.safetensors")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    (folder / "vqvae").mkdir()
    (folder / "diffusers.safetensors").rename(
        folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    )
    settings = published.diffusers_settings()
    (folder / "vqvae" / "config.json").write_text(json.dumps(settings))
    return folder


def notes_of(path: Path | str) -> dict[str, str]:
    """Return the text chunks of a PNG file."""
    with Image.open(path) as picture:
        return dict(picture.text)  # type: ignore[attr-defined]


def files_under(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file, and None for every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


class full_disk:
    """Let no file grow beyond a size, which fails in the middle of a write as a full disk does."""

    def __init__(self, after: int):
        self.after = after

    def __enter__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.after, self.limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)

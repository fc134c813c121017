"""Named complete runs, and what help says of each without loading torch."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vilg.training.settings import Recipe


@dataclass(frozen=True, kw_only=True)
class Named:
    """A recipe as it is listed.

    Attributes:
        module: where the function of this name is.
        summary: what it trains, in one line.
        time: on 2 cores, unless it needs a GPU; only what a log or the paper says.
    """

    name: str
    module: str
    summary: str
    time: str = "not measured"
    needs_gpu: bool = False

    @property
    def line(self) -> str:
        cost = (
            f"{self.time}; needs a GPU, which nothing here uses yet"
            if self.needs_gpu
            else self.time
        )
        return f"{self.name} ({cost}): {self.summary}"

    def recipe(self) -> "Recipe":
        return getattr(import_module(self.module), self.name)()


OWN_AND_PAPER = (
    Named(
        name="pairs",
        module="vilg.recipes.own",
        summary="a model of your own pictures with captions, which draws and describes them",
        time="6 min",
    ),
    Named(
        name="picture_tokenizer",
        module="vilg.recipes.own",
        summary="an image tokenizer of your own pictures, at 64x64",
        time="50 min on one core with bf16",
    ),
    Named(
        name="vqgan_f8_8192",
        module="vilg.recipes.paper",
        summary="the paper's image tokenizer: 1,024 tokens of 8,192 codes at 256x256",
        needs_gpu=True,
    ),
    Named(
        name="dvae_f8_8192",
        module="vilg.recipes.paper",
        summary="the ablation model's image tokenizer, DALL-E's: 1,024 tokens of 8,192 codes at 256x256",
        needs_gpu=True,
    ),
    Named(
        name="lite_300m",
        module="vilg.recipes.paper",
        summary="the paper's ablation model: 24 layers, 300 M parameters",
        needs_gpu=True,
    ),
    Named(
        name="base_10b",
        module="vilg.recipes.paper",
        summary="the paper's main model: 48 layers, 10 B parameters; one machine seldom holds it",
        needs_gpu=True,
    ),
)

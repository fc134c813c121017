"""The verb that says what a training will take, before anything is bought or made."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

from vilg.cli.options import APP, UsageError
from vilg.progress import say
from vilg.shipped.emoji import RECIPES

if TYPE_CHECKING:
    from vilg.model.generator import GeneratorConfig
    from vilg.training.plan import Step
    from vilg.training.settings import Recipe

_UNITS = {"": 1, "MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@APP.command(name="plan")
@dataclass(frozen=True, kw_only=True)
class Plan:
    """Say what training a generator takes: memory, operations, steps and hours.

    Formulas, held against what is really allocated on a CPU; on a GPU never yet.

    Example: vilg plan base_10b --devices 64 --memory 80GB --pairs 145000000
    """

    recipe: Annotated[str, Positional, arg(metavar="RECIPE", help_behavior_hint="")]
    """a recipe that trains a generator; vilg train --help lists them"""
    devices: Annotated[int, arg(metavar="K")] = 1
    """devices that train together"""
    shards: Annotated[
        int | None, arg(metavar="K", help_behavior_hint="(default: the recipe's, or a machine's 8)")
    ] = None
    """devices that weights, gradients, moments and averages are divided among; groups hold copies"""
    memory: Annotated[str, arg(metavar="SIZE")] = "80GB"
    """memory of a device, in MB, GB, MiB or GiB"""
    pairs: Annotated[int | None, arg(metavar="K", help_behavior_hint="")] = None
    """pairs of the data, to say how often the run sees each"""
    peak: Annotated[float, arg(metavar="TFLOPS")] = 312
    """what a device computes at most, in 10^12 operations a second; an A100's in bf16 is 312"""
    share: Annotated[float, arg(metavar="X")] = 0.4
    """share of the peak that hours are stated at"""
    settings: Annotated[
        tuple[tuple[str, ...], ...], UseAppendAction, arg(name="set", metavar="KEY=VALUE...")
    ] = ()
    """settings of the recipe to change, in dotted form"""

    def run(self) -> None:
        from vilg.config import override
        from vilg.training.plan import advice, fit, whole_step

        if self.recipe not in RECIPES:
            raise UsageError(f"no recipe is called {self.recipe}; there are {', '.join(RECIPES)}")
        if self.devices < 1 or (self.shards or 1) < 1:
            raise UsageError("--devices and --shards must be at least 1")
        if self.peak <= 0 or not 0 < self.share <= 1 or (self.pairs or 1) < 1:
            raise UsageError("--peak and --pairs must be above 0, and --share from 0 to 1")
        memory = _bytes(self.memory)
        changes = [change for changes in self.settings for change in changes]
        recipe = override(RECIPES[self.recipe].recipe(), changes)
        if recipe.generator is None:
            raise UsageError(f"{self.recipe} trains no generator, and plan counts nothing else yet")
        shards = self.shards or min(self.devices, recipe.generator.parallel.shard_over or 8)
        whole = whole_step(recipe.generator, _shape(recipe), self.devices, shards)
        print(f"{self.recipe}: {_size(whole)}")
        print(
            f"{self.devices} devices of {self.memory}, {recipe.generator.loop.precision} products, "
            f"weights sharded over {shards}"
        )
        print()
        print(_table(whole, memory))
        print()
        chosen = fit(whole, memory)
        print(f"best: {advice(chosen)}")
        print(self._time(recipe, whole))
        print(_cache(chosen))

    def _time(self, recipe: "Recipe", whole: "Step") -> str:
        from vilg.training.plan import operations_of

        assert recipe.generator is not None
        loop = recipe.generator.loop
        positions = sum(B * layout.length for B, layout in whole.layouts) * self.devices
        operations = operations_of(whole) * self.devices
        seconds = loop.num_steps * operations / (self.devices * self.peak * 1e12 * self.share)
        epochs = (
            f", {loop.num_steps * loop.batch_size / self.pairs:.1f} times each pair"
            if self.pairs
            else ""
        )
        return (
            f"a step: {loop.batch_size:,} pairs, {positions / 1e6:,.2f} M positions in both directions, "
            f"{operations:.2e} operations\n"
            f"the run: {loop.num_steps:,} steps{epochs}, {seconds / 3600:,.0f} hours at "
            f"{self.share:.0%} of {self.peak:g} TFLOP/s a device"
        )


def _bytes(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]i?B)?", text.strip())
    if not found or (found[2] or "") not in _UNITS or float(found[1]) == 0:
        raise UsageError(f"--memory must be a size such as 80GB or 24GiB, not {text[:40]}")
    return float(found[1]) * _UNITS[found[2] or ""]


def _shape(recipe: "Recipe") -> "GeneratorConfig":
    from vilg.model.folder import ModelError, find_model, read_config
    from vilg.text import TextTokenizer
    from vilg.tokenizer.vqgan import VQGANConfig

    run = recipe.generator
    assert run is not None
    words = len(TextTokenizer.from_file(run.vocabulary))
    if recipe.tokenizer is not None:
        return run.shape(recipe.tokenizer.model, words)
    try:
        return run.shape(read_config(find_model(run.image_tokenizer)).image_tokenizer, words)
    except ModelError:
        say(f"{run.image_tokenizer} is not there yet: planned for 1,024 tokens of 8,192 codes")
        return run.shape(VQGANConfig(), words)


def _size(step: "Step") -> str:
    from vilg.training.plan import num_weights

    shape = step.shape
    return (
        f"{num_weights(shape) / 1e6:,.0f} M weights, {len(shape.patterns)} layers of width {shape.width}, "
        f"{shape.grid.num_cells:,} image tokens, up to {shape.max_text} text tokens"
    )


def _table(whole: "Step", memory: float) -> str:
    """Return what each way to save memory takes, at its largest micro-batch or else at one pair."""
    from vilg.training.plan import largest, memory_of, savings

    columns = []
    for tried in savings(whole):
        step = largest(tried, memory)
        shown = step or replace(tried, drawn=1, described=1, micro_batches=max(2, whole.drawn))
        bytes_ = {name: f"{value / 1e9:,.2f} GB" for name, value in vars(memory_of(shown)).items()}
        pairs = max(step.drawn, step.described) if step else 0
        fits = f"{pairs} x {step.micro_batches}" if step else "none fits"
        columns.append({"pairs x micro-batches": fits, **bytes_})
    heads = ("as it is", "recompute", "and offload")
    lines = [("", *heads), *((name, *(column[name] for column in columns)) for name in columns[0])]
    return "\n".join(
        f"{name:22}" + "".join(f"{cell:>14}" for cell in cells) for name, *cells in lines
    )


def _cache(step: "Step") -> str:
    from vilg.training.plan import cache_of

    candidate, prompt = cache_of(step.shape, step.product_bytes)
    return (
        f"drawing: {candidate / 1e6:,.1f} MB of keys and values a candidate and {prompt / 1e6:,.1f} MB a prompt, "
        "both twice with guidance"
    )

"""The verbs that look after models and data, each a dataclass of its options, with `run`.

Results go to stdout, everything else to stderr. Torch is imported inside `run`. The verbs that draw
and describe are in `sampling`.
"""

import json
import os
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from vilg.cli.options import (
    APP,
    DataFolder,
    DeviceName,
    Flag,
    ModelName,
    PrecisionName,
    Reading,
    UsageError,
    choose,
    load,
)
from vilg.progress import say
from vilg.shipped.emoji import EMOJI, RECIPES


@APP.command(name="demo")
@dataclass(frozen=True, kw_only=True)
class Demo:
    """Show the model at work: fixed prompts and captions, as demo.png and index.html.

    Example: vilg demo --out demo
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("demo")
    """folder to write to"""
    model: ModelName = None
    device: DeviceName = "auto"
    data: DataFolder = EMOJI
    """folder of the emoji data set, for the nearest training pictures"""

    def run(self) -> None:
        from vilg.cli.output import check_folder, png, write
        from vilg.shipped.demo import make_demo

        if not (self.data / "manifest.json").is_file():
            raise UsageError(
                f"no data set at {self.data}: a clone of vilg has it as datasets/emoji, a wheel has "
                "not; name it with --data"
            )
        check_folder(self.out)
        model = load(self.model, self.device)
        made = make_demo(model, self.data, say)
        for name, content in (
            ("demo.png", png(made.sheet, {})),
            ("index.html", made.page.encode()),
        ):
            write(self.out / name, content)
            print(self.out / name)


@APP.command(name="train")
@dataclass(frozen=True, kw_only=True)
class Train(Reading):
    """Train an image tokenizer, a generator, or one after the other.

    Example: vilg train emoji_cpu_tiny --set generator.loop.num_steps=400
    """

    recipe: Annotated[
        str,
        Positional,
        arg(
            metavar="RECIPE",
            help="\n\n".join(
                ["a complete run; here with its time on 2 cores:"]
                + [named.line for named in RECIPES.values()]
            ),
            help_behavior_hint="",
        ),
    ]
    data: Annotated[str | None, arg(metavar="SOURCE", help_behavior_hint="")] = None
    """pairs to train on: a folder, a file or a glob of any format that `vilg data check` reads"""
    settings: Annotated[
        tuple[tuple[str, ...], ...], UseAppendAction, arg(name="set", metavar="KEY=VALUE...")
    ] = ()
    """settings of the recipe to change, in dotted form"""
    show: Flag = False
    """print all settings, as they are changed, with what they mean, and train nothing"""
    resume: Flag = False
    """go on exactly where the run in --out stopped, with its own settings"""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/RECIPE)")] = (
        None
    )
    """folder of the run"""
    device: DeviceName = "auto"

    def run(self) -> None:
        from vilg.parallel import joined

        with joined():
            self._train()

    def _train(self) -> None:
        from vilg.cli.output import check_folder
        from vilg.config import explain, override
        from vilg.parallel import is_first
        from vilg.training.memory import keep_freed_memory
        from vilg.training.run import run
        from vilg.training.run_folder import read_recipe

        if self.recipe not in RECIPES:
            raise UsageError(f"no recipe is called {self.recipe}; there are {', '.join(RECIPES)}")
        changes = [change for changes in self.settings for change in changes]
        out = self.out or Path("runs") / self.recipe
        check_folder(out)
        recipe = read_recipe(out) if self.resume else RECIPES[self.recipe].recipe()
        stages = [name for name, stage in vars(recipe).items() if stage is not None]
        recipe = override(recipe, [*self._data_settings(stages), *changes])
        if self.show:
            for assignment, meaning in explain(recipe):
                print(f"--set {shlex.quote(assignment)}  # {meaning}")
            return
        keep_freed_memory()
        device = choose(self.device)
        try:
            folder = run(recipe, out, resume=self.resume, device=device, log=sys.stderr)
        except KeyboardInterrupt:
            if (out / "config.json").exists():
                resume = f"vilg train {self.recipe} --resume --out {shlex.quote(str(out))}"
                say(f"go on from the last checkpoint: {resume}")
            else:
                say(f"nothing was saved yet: {out} is free for the next run")
            raise
        if is_first():
            say(f"done; the verbs read this model with --model {folder}")
            print(folder)

    def _data_settings(self, stages: list[str]) -> list[str]:
        """Return what is said of the data, as settings of all stages."""
        paths = {"source": self.data} | {
            name: getattr(self, name) for name in ("pictures", "ids", "translations")
        }
        # --resume may come from elsewhere.
        given = {name: os.path.abspath(path) for name, path in paths.items() if path is not None}
        if self.format is not None:
            given["format"] = self.format
        return [
            f"{stage}.data.{name}={json.dumps(value)}"
            for stage in stages
            for name, value in given.items()
        ]


_SUITES = (
    "generator: how often captions are right, and how likely picture and text make each other",
    'tokenizer: how well pictures are rebuilt from their tokens; needs the extra "eval"',
    'drawing: how often a judge finds what was drawn for a prompt; needs the extra "eval"',
)


@APP.command(name="evaluate")
@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model, by one of three suites.

    Example: vilg evaluate generator --limit 100

    Example: vilg evaluate tokenizer --splits unseen_concept --refine 60
    """

    suite: Annotated[
        str, Positional, arg(metavar="SUITE", help="\n\n".join(_SUITES), help_behavior_hint="")
    ]
    model: ModelName = None
    device: DeviceName = "auto"
    data: DataFolder = EMOJI
    """folder of a data set"""
    out: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: out/evaluation/SUITE)")
    ] = None
    """folder for the numbers and their manifest"""
    limit: Annotated[int | None, arg(metavar="K", help_behavior_hint="")] = None
    """measure on this many pictures of each split only"""
    only: Annotated[tuple[str, ...], arg(metavar="TAG=VALUE...", help_behavior_hint="")] = ()
    """measure on the pairs with these tags only, such as group=symbols: those that the model was trained on"""
    splits: Annotated[tuple[str, ...], arg(metavar="SPLIT...", help_behavior_hint="")] = ()
    """measure a tokenizer on these splits of the data only"""
    precision: PrecisionName = None
    """bf16 and int8 measure a generator with rounded weights; bf16 also makes --refine faster"""
    refine: Annotated[int, arg(metavar="STEPS")] = 0
    """measure by tokens searched for each picture in so many steps; needs the extra "train" too"""

    def run(self) -> None:
        from vilg.cli.output import check_folder
        from vilg.sampling.precision import Precision
        from vilg.shipped.samples import Settings
        from vilg.shipped.suites import evaluate
        from vilg.training.memory import keep_freed_memory

        out = self.out or Path("out/evaluation") / self.suite
        check_folder(out)
        keep_freed_memory()  # a search for tokens runs through the decoder as training does
        settings = Settings(
            limit=self.limit,
            only=self.only,
            splits=self.splits or None,
            precision=Precision(self.precision) if self.precision else None,
            refine_steps=self.refine,
        )
        evaluate(self.suite, self.model, self.data, out, settings, choose(self.device))


@APP.command(name="import")
@dataclass(frozen=True, kw_only=True)
class Import:
    """Turn a published image tokenizer into a model folder.

    Example: vilg import last.ckpt --config model.yaml --out vqgan-f16
    """

    source: Annotated[str, Positional, arg(metavar="SOURCE", help_behavior_hint="")]
    """a file of weights, a folder of diffusers, or the hub id of one: OWNER/NAME/FOLDER"""
    kind: Annotated[
        str | None,
        arg(
            metavar="taming|llamagen|diffusers",
            help_behavior_hint="(default: what the names of the weights say)",
        ),
    ] = None
    """whose weights they are: taming's VQModel or GumbelVQ, LlamaGen's VQ-8 or VQ-16, diffusers' VQModel"""
    config: Annotated[
        Path | None,
        arg(metavar="FILE", help_behavior_hint="(needed for taming; default: as published)"),
    ] = None
    """the settings published beside the weights, as YAML or JSON"""
    image_size: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: what the settings say)")
    ] = None
    """side of the pictures in pixels; needed where diffusers' sample_size is 32, its default"""
    out: Annotated[Path, arg(metavar="DIR")]
    """folder of the model"""

    def run(self) -> None:
        from vilg.cli.output import check_folder
        from vilg.model.folder import Model, save_model
        from vilg.tokenizer.importers import Origin, import_tokenizer

        if self.kind not in (None, *Origin):
            raise UsageError(f"--kind must be {', '.join(Origin)}, not {self.kind}")
        check_folder(self.out)
        if (self.out / "config.json").exists():
            raise UsageError(f"{self.out} holds a model already: name another folder")
        origin = Origin(self.kind) if self.kind else None
        imported = import_tokenizer(self.source, origin, self.config, self.image_size)
        vqgan = imported.build()
        save_model(self.out, Model(vqgan))
        if imported.left_out:
            first, *others = imported.left_out
            more = f" and {len(others)} more" if others else ""
            say(f"left out what only training needs: {first}{more}")
        shape, weights = imported.config, sum(value.numel() for value in imported.state.values())
        print(
            f"{self.out}: VQGAN f{shape.image_size // shape.grid_size}, {shape.num_codes} codes of "
            f"{shape.code_dim}, {shape.grid_size} x {shape.grid_size} tokens for "
            f"{shape.image_size} x {shape.image_size} pixels, {weights / 1e6:.1f} M weights, "
            f"fingerprint {vqgan.fingerprint()}"
        )


@APP.command(name="export")
@dataclass(frozen=True, kw_only=True)
class Export:
    """Write one model folder out of a run, of one of its checkpoints, or of another model folder.

    Example: vilg export runs/pairs --out my-model --dtype bf16

    Example: vilg export emoji-64 --merge my-adapter --out my-model
    """

    source: Annotated[str, Positional, arg(metavar="RUN|CHECKPOINT|MODEL", help_behavior_hint="")]
    """a run's folder, a stage's or a checkpoint's, trained by any number of processes; or a model"""
    out: Annotated[Path, arg(metavar="DIR")]
    """folder of the model, empty or not there yet"""
    merge: Annotated[
        tuple[str, ...], arg(metavar="ADAPTER[=WEIGHT]...", help_behavior_hint="")
    ] = ()
    """adapters to add to the weights, for good"""
    step: Annotated[int | None, arg(metavar="K", help_behavior_hint="(default: the last)")] = None
    """checkpoint of the run to take"""
    dtype: Annotated[
        Literal["fp32", "fp16", "bf16"] | None,
        arg(help_behavior_hint="(default: fp16, or what the model is in)"),
    ] = None
    """precision of the generator's weights; an image tokenizer's stay as they are, or codes would change"""
    shard_size: Annotated[float, arg(metavar="GB", help_behavior_hint="(default: 4)")] = 4.0
    """largest file, in 10^9 bytes; more than that is written as several with an index"""

    def run(self) -> None:
        from vilg.cli.output import check_folder
        from vilg.model.folder import save_model
        from vilg.model.lora import merge_adapters
        from vilg.model.weights import DTYPES, name_of
        from vilg.training.export import find_export

        check_folder(self.out)
        if self.out.exists() and any(self.out.iterdir()):
            raise UsageError(f"{self.out} is not empty: name another folder")
        if not 0 < self.shard_size < 1e9:
            raise UsageError(f"--shard-size must be over 0, not {self.shard_size:g}")
        model, origin = find_export(self.source, self.step)
        if self.merge:
            merge_adapters(model, self.merge)
            origin += f" and {', '.join(self.merge)}"
        network = model.generator or model.image_tokenizer
        stored_as = model.stored_as if model.generator else model.image_tokenizer.stored_as
        if self.dtype is not None:
            if not model.generator and DTYPES[self.dtype] is not stored_as:
                raise UsageError(
                    f"an image tokenizer stays in {name_of(stored_as)}, or it would choose other codes: "
                    "leave --dtype out"
                )
            stored_as = DTYPES[self.dtype]
            model = replace(model, stored_as=stored_as)
        save_model(self.out, model, shard_bytes=round(self.shard_size * 1e9))
        weights = sum(value.numel() for value in network.state_dict().values())
        print(f"{self.out}: {origin}, {weights / 1e6:.1f} M in {name_of(stored_as)}")

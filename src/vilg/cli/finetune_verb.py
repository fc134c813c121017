"""The verb that teaches a trained model somebody's pictures."""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction, arg

from vilg.cli.options import APP, DeviceName, Flag, Reading, UsageError, choose, clean
from vilg.progress import say
from vilg.shipped.emoji import EMOJI

if TYPE_CHECKING:
    import torch

    from vilg.training.inputs import DataConfig
    from vilg.training.settings import GeneratorRun, Recipe, ReplayConfig

_Chosen = Annotated[float | None, arg(metavar="X", help_behavior_hint="(default: chosen)")]
_Number = Annotated[int | None, arg(metavar="K", help_behavior_hint="(default: chosen)")]


@APP.command(name="finetune")
@dataclass(frozen=True, kw_only=True)
class Finetune(Reading):
    """Teach a trained model your pictures: all its weights, or an adapter beside them.

    Example: vilg finetune photos/ --lora 8

    Example: vilg finetune cats/ --prompt "my cat, 3D render" --lora 16 --out runs/cat
    """

    source: Annotated[str, Positional, arg(metavar="SOURCE", help_behavior_hint="")]
    """pictures with captions of any format that vilg data check reads, or a folder of pictures"""
    base: Annotated[
        str | None,
        arg(
            name="from",
            metavar="NAME|FOLDER|HUB_ID",
            help_behavior_hint="(default: emoji-64)",
        ),
    ] = None
    """the model to go on from"""
    prompt: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """the caption of all pictures of a folder, in its own language"""
    lora: Annotated[
        int | None, arg(metavar="RANK", help_behavior_hint="(default: all weights)")
    ] = None
    """train an adapter of this rank, which lies in a file of its own; 8 is usual"""
    steps: _Number = None
    """steps of training"""
    batch: _Number = None
    """pairs of a step, replayed ones included"""
    lr: _Chosen = None
    """highest learning rate"""
    replay: Annotated[
        str | None,
        arg(metavar="SOURCE", help_behavior_hint="(default: the shipped model's, if there)"),
    ] = None
    """pairs that the model was trained on, shown again so that it forgets less"""
    replay_share: Annotated[float, arg(metavar="X")] = 0.33
    """share of each batch that is replayed; 0 replays nothing"""
    settings: Annotated[
        tuple[tuple[str, ...], ...], UseAppendAction, arg(name="set", metavar="KEY=VALUE...")
    ] = ()
    """further settings of the run, as of vilg train"""
    resume: Flag = False
    """go on exactly where the run in --out stopped, with its own settings"""
    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/finetune")
    """folder of the run"""
    device: DeviceName = "auto"

    def run(self) -> None:
        from vilg.cli.output import check_folder
        from vilg.training.memory import keep_freed_memory
        from vilg.training.run import run
        from vilg.training.run_folder import read_recipe

        check_folder(self.out)
        if not self.resume and (self.out / "config.json").exists():
            raise UsageError(f"{self.out} holds a run: add --resume, or choose another --out")
        recipe = read_recipe(self.out) if self.resume else self._recipe()
        if recipe.generator is None or recipe.generator.init is None:
            raise UsageError(f"{self.out} holds no fine-tuning: choose another --out")
        _state(recipe.generator)
        keep_freed_memory()
        device = choose(self.device)
        try:
            folder = run(recipe, self.out, resume=self.resume, device=device, log=sys.stderr)
        except KeyboardInterrupt:
            again = ["vilg", "finetune", self.source, "--resume", "--out", str(self.out)]
            say(f"go on from the last checkpoint: {shlex.join(again)}")
            raise
        _finish(recipe.generator, folder, device)

    def _recipe(self) -> "Recipe":
        from vilg.config import override
        from vilg.data.pairs import Pair
        from vilg.model.lora import LoRAConfig
        from vilg.recipes.finetune import finetune

        data = self._data()
        source = data.open()
        num_pairs = sum(isinstance(item, Pair) and bool(item.captions) for item in source)
        if num_pairs == 0:
            raise UsageError(
                f"{self.source} has no captions: put NAME.txt beside each picture, or add --prompt for all"
            )
        lora = None if self.lora is None else LoRAConfig(rank=self.lora, alpha=2.0 * self.lora)
        recipe = finetune(self.base, data, num_pairs, lora, self._replay())
        say(f"{num_pairs} pairs with captions")
        given: dict[str, float | None]
        given = {"loop.num_steps": self.steps, "loop.batch_size": self.batch}
        given |= {"optim.peak_lr": self.lr, "optim.final_lr": self.lr and self.lr / 10}
        changes = [f"generator.{key}={value}" for key, value in given.items() if value is not None]
        return override(recipe, [*changes, *(each for some in self.settings for each in some)])

    def _data(self) -> "DataConfig":
        """Return the pairs; where one caption is given for all pictures of a folder, written down as a table."""
        from vilg.cli.output import write
        from vilg.data.pictures import list_pictures
        from vilg.recipes.finetune import FEWEST_PAIRS
        from vilg.training.inputs import DataConfig

        place = os.path.abspath(self.source)
        if self.prompt is None:
            pictures, ids, translations = (
                Path(os.path.abspath(path)) if path else None
                for path in (self.pictures, self.ids, self.translations)
            )
            return DataConfig(
                source=place,
                format=self.format,
                pictures=pictures,
                ids=ids,
                translations=translations,
            )
        files, _ = list_pictures(Path(place))
        if len(files) < FEWEST_PAIRS:
            raise UsageError(f"{self.source} has one picture: give {FEWEST_PAIRS} or more")
        names = [str(path.relative_to(place)) for path in files]
        rows = [{"id": name, "image": name, "caption": clean(self.prompt)} for name in names]
        table = self.out / "pairs.jsonl"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write(table, lines.encode("utf-8", "surrogateescape"))
        return DataConfig(source=str(table.absolute()), pictures=Path(place))

    def _replay(self) -> "ReplayConfig | None":
        from vilg.model.folder import SHIPPED, find_model
        from vilg.shipped.recipes import EMOJI_GROUPS
        from vilg.training.inputs import DataConfig
        from vilg.training.settings import ReplayConfig

        data = None
        if self.replay is not None:
            data = DataConfig(source=os.path.abspath(self.replay))
        elif find_model(self.base) == SHIPPED and (EMOJI / "manifest.json").is_file():
            data = DataConfig(source=str(EMOJI), split="train", only=EMOJI_GROUPS)
        if data is None or self.replay_share == 0:
            say("nothing is replayed: the model may forget much of what it knew")
            return None
        return ReplayConfig(data=data, share=self.replay_share)


def _state(run: "GeneratorRun") -> None:
    learnt = "all weights" if run.lora is None else f"an adapter of rank {run.lora.rank}"
    say(
        f"{learnt} of {run.init}: {run.loop.num_steps} steps of {run.loop.batch_size} pairs, "
        f"learning rate {run.optim.peak_lr:g} (--steps, --batch, --lr)"
    )


def _finish(run: "GeneratorRun", folder: Path, device: "torch.device") -> None:
    """Show and measure what was learnt, and say how it is used."""
    from vilg.cli.output import png, write
    from vilg.data.store import Store
    from vilg.model.folder import find_model, load_model
    from vilg.recipes.finetune import before_and_after, captions_of, card, likelihood, some_rows

    stage = folder.parent
    before = load_model(find_model(run.init), device=device)
    after = load_model(folder, device=device)
    before = replace(before, sampling=after.sampling)
    own = Store(Path(run.data.source) if run.data.is_store else stage / "tokens")
    prompts = captions_of(own, after)
    sheet = stage.parent / "before_after.png"
    write(sheet, png(before_and_after(before, after, prompts), {"prompts": "\n".join(prompts)}))
    lost = "not measured: none were replayed"
    if run.replay is not None:
        data = run.replay.data
        old = Store(Path(data.source) if data.is_store else stage / "replayed")
        rows = some_rows(old)
        was, now = (likelihood(model, old, rows) for model in (before, after))
        changes = [
            f"{what.replace('_', ' ')} {vars(was)[what]:.3f}, now {vars(now)[what]:.3f} nats a token "
            f"({vars(now)[what] / vars(was)[what] - 1:+.1%})"
            for what in vars(was)
        ]
        lost = f"{len(rows)} of those replayed: {'; '.join(changes)}"
    commands = _commands(run, stage, prompts)
    text = card(run, len(own), lost, commands).encode()
    for place in (folder, stage / "adapter")[: 1 if run.lora is None else 2]:
        write(place / "README.md", text)
    say(f"left before, right after, a row for each of {', '.join(map(repr, prompts))}: {sheet}")
    say(f"old pairs, {lost}")
    for command in commands:
        say(f"  {command}")
    print(folder)


def _commands(run: "GeneratorRun", stage: Path, prompts: Sequence[str]) -> list[str]:
    prompt = shlex.quote(prompts[0])
    model = shlex.quote(str(stage / "model"))
    commands = [f"vilg generate {prompt} --model {model}", f"vilg caption PICTURE --model {model}"]
    if run.lora is not None:
        names = (shlex.quote(str(run.init)), shlex.quote(str(stage / "adapter")))
        commands.insert(0, "vilg generate {} --model {} --lora {}".format(prompt, *names))
    return commands

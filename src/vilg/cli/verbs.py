"""The verbs: each a dataclass of its options, with `run`.

Results go to stdout, everything else to stderr. Torch is imported inside `run`.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, UseAppendAction, arg
from tyro.extras import SubcommandApp

from vilg.errors import VilgError

if TYPE_CHECKING:
    from vilg.pipeline import Vilg

EMOJI = Path("datasets/emoji")

APP = SubcommandApp()

ModelName = Annotated[
    str | None,
    arg(metavar="FOLDER|HUB_ID", help_behavior_hint="(default: the shipped model)"),
]
Setting = Annotated[float | None, arg(metavar="X", help_behavior_hint="(default: the model's)")]
Count = Annotated[int | None, arg(metavar="K", help_behavior_hint="(default: the model's)")]
Number = Annotated[int, arg(name="n", aliases=["-n"], metavar="K")]
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


class UsageError(VilgError):
    """Arguments that are well formed but make no sense together."""


@APP.command(name="demo")
@dataclass(frozen=True, kw_only=True)
class Demo:
    """Show the model at work: fixed prompts and captions, as demo.png and index.html.

    Example: vilg demo --out demo
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("demo")
    """folder to write to"""
    model: ModelName = None
    """a model folder, or a Hugging Face Hub id"""
    data: Annotated[Path, arg(metavar="DIR")] = EMOJI
    """folder of the emoji data set, for the nearest training pictures"""

    def run(self) -> None:
        from vilg.cli.output import check_folder, png, write
        from vilg.demo import make_demo

        if not (self.data / "manifest.json").is_file():
            raise UsageError(f"no data set at {self.data}: pass the folder of one with --data")
        check_folder(self.out)
        model = _load(self.model)
        made = make_demo(model, self.data, _say)
        for name, content in (
            ("demo.png", png(made.sheet, {})),
            ("index.html", made.page.encode()),
        ):
            write(self.out / name, content)
            print(self.out / name)


@APP.command(name="generate")
@dataclass(frozen=True, kw_only=True)
class Generate:
    """Draw pictures of prompts, in Chinese or English, as PNG files.

    Example: vilg generate "red apple, 3D render" -n 4 --seed 7 -o out/
    """

    prompt: Annotated[
        tuple[str, ...], Positional, arg(metavar="PROMPT...", help_behavior_hint="")
    ] = ()
    """what to draw; several prompts are drawn one after the other"""
    n: Number = 1
    """pictures of each prompt"""
    seed: Annotated[int, arg(metavar="S")] = 0
    """seed of a prompt's first picture; the next one has S + 1"""
    temperature: Setting = None
    """0 takes the likeliest token each time"""
    top_k: Count = None
    """draw among the K likeliest tokens only"""
    guidance: Setting = None
    """how much the prompt counts; 1 is the plain model"""
    decoder: Annotated[
        Literal["two-stage", "end-to-end"] | None, arg(help_behavior_hint="(default: the model's)")
    ] = None
    """pixels from the tokens alone, or from the generator's states (models trained end to end)"""
    out: Annotated[str, arg(aliases=["-o"], metavar="FILE|DIR/")] = "out/"
    """a folder, or for one picture a name that ends in .png"""
    model: ModelName = None
    """a model folder, or a Hugging Face Hub id"""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """a file of prompts, one a line; pictures that are there already are left as they are"""

    def run(self) -> None:
        from vilg.cli import drawing

        if bool(self.prompt) == bool(self.prompts):
            raise UsageError('give prompts or --prompts FILE, as in: vilg generate "red apple"')
        _check_number(self.n)
        prompts = (
            drawing.read_prompts(self.prompts)
            if self.prompts
            # Arguments that are no UTF-8 have lone surrogates, which no PNG file can hold.
            else [prompt.encode("utf-8", "replace").decode() for prompt in self.prompt]
        )
        jobs = drawing.plan(prompts, self.n, self.seed, self.out)
        model = _load(self.model)
        drawing.check_prompts(model, prompts)
        settings = model.settings(self.temperature, self.top_k, self.guidance, self.decoder)
        if self.prompts:
            jobs = drawing.left_to_do(model, jobs, settings, _say)
        for path in drawing.draw(model, jobs, settings):
            print(path, flush=True)


@APP.command(name="caption")
@dataclass(frozen=True, kw_only=True)
class Caption:
    """Describe pictures in Chinese or English, one caption a line.

    Example: vilg caption apple.png --lang en
    """

    image: Annotated[tuple[Path, ...], Positional, arg(metavar="IMAGE...", help_behavior_hint="")]
    """picture files; all are looked at before any is described"""
    lang: Annotated[str, arg(metavar="zh|en")] = "zh"
    """language of the captions"""
    n: Number = 1
    """captions of each picture"""
    seed: Annotated[int, arg(metavar="S")] = 0
    """seed of a picture's first caption; the next one has S + 1"""
    temperature: Annotated[
        float | None, arg(metavar="X", help_behavior_hint="(default: 0 for one caption, else 1)")
    ] = None
    """0 takes the likeliest word each time"""
    json: Flag = False
    """print one JSON object a picture"""
    model: ModelName = None
    """a model folder, or a Hugging Face Hub id"""

    def run(self) -> None:
        from vilg.images import open_picture, square

        if not self.image:
            raise UsageError("name a picture, as in: vilg caption apple.png")
        _check_number(self.n)
        model = _load(self.model)
        pictures = [square(open_picture(path), model.image_size) for path in self.image]
        for path, picture in zip(self.image, pictures, strict=True):
            texts = model.caption(
                picture, self.lang, self.n, seed=self.seed, temperature=self.temperature
            )
            # A model may write any byte, a line break too.
            captions = [" ".join(text.split()) for text in texts]
            if self.json:
                _print_json({"image": str(path), "lang": self.lang, "captions": captions})
            else:
                print(*captions, sep="\n", flush=True)


@APP.command(name="score")
@dataclass(frozen=True, kw_only=True)
class ScorePair:
    """Say how likely a picture and a text make each other, token by token.

    Example: vilg score apple.png "red apple, 3D render"
    """

    image: Annotated[Path, Positional, arg(metavar="IMAGE", help_behavior_hint="")]
    """a picture file"""
    text: Annotated[str, Positional, arg(metavar="TEXT", help_behavior_hint="")]
    """a text in Chinese or English"""
    lang: Annotated[str | None, arg(metavar="zh|en", help_behavior_hint="")] = None
    """language of the text; without it, Chinese characters decide"""
    json: Flag = False
    """print one JSON object"""
    model: ModelName = None
    """a model folder, or a Hugging Face Hub id"""

    def run(self) -> None:
        from vilg.cli.tables import score_table

        model = _load(self.model)
        score = model.score(self.image, self.text, self.lang)
        if self.json:
            _print_json({"image": str(self.image), "text": self.text, **dataclasses.asdict(score)})
        else:
            print(score_table(score, model.generator.config.grid_width))


@APP.command(name="train")
@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an image tokenizer, a generator, or one after the other.

    Example: vilg train emoji_cpu_tiny --set generator.loop.num_steps=400
    """

    recipe: Annotated[str, Positional, arg(metavar="RECIPE", help_behavior_hint="")]
    """name of a complete run; an unknown name lists the known ones"""
    settings: Annotated[
        tuple[tuple[str, ...], ...], UseAppendAction, arg(name="set", metavar="KEY=VALUE...")
    ] = ()
    """settings of the recipe to change, in dotted form"""
    resume: Flag = False
    """go on exactly where the run in --out stopped"""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: runs/RECIPE)")] = (
        None
    )
    """folder of the run"""

    def run(self) -> None:
        from vilg.cli.output import check_folder
        from vilg.config import override
        from vilg.recipes import RECIPES
        from vilg.training.memory import keep_freed_memory
        from vilg.training.run import run

        if self.recipe not in RECIPES:
            raise UsageError(f"no recipe is called {self.recipe}; there are {', '.join(RECIPES)}")
        changes = [change for changes in self.settings for change in changes]
        recipe = override(RECIPES[self.recipe](), changes)
        out = self.out or Path("runs") / self.recipe
        check_folder(out)
        keep_freed_memory()
        folder = run(recipe, out, resume=self.resume, log=sys.stderr)
        _say(f"done; the verbs read this model with --model {folder}")
        print(folder)


@APP.command(name="evaluate")
@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model; the suites are tokenizer and generator.

    Example: vilg evaluate generator --limit 100
    """

    suite: Annotated[str, Positional, arg(metavar="SUITE", help_behavior_hint="")]
    """tokenizer, which needs pip install "vilg[eval]", or generator"""
    model: ModelName = None
    """a model folder, or a Hugging Face Hub id"""
    data: Annotated[Path, arg(metavar="DIR")] = EMOJI
    """folder of a data set"""
    out: Annotated[
        Path | None, arg(metavar="DIR", help_behavior_hint="(default: out/evaluation/SUITE)")
    ] = None
    """folder for the numbers and their manifest"""
    limit: Annotated[int | None, arg(metavar="K", help_behavior_hint="")] = None
    """measure on this many pictures of a split only"""
    groups: Annotated[tuple[str, ...], arg(metavar="GROUP...", help_behavior_hint="")] = ()
    """measure on these groups of the data only, such as those that the model was trained on"""

    def run(self) -> None:
        from vilg.cli.output import check_folder
        from vilg.evaluation import evaluate

        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, not {self.limit}")
        out = self.out or Path("out/evaluation") / self.suite
        check_folder(out)
        evaluate(self.suite, self.model, self.data, out, self.limit, groups=self.groups or None)


@APP.command(name="import")
@dataclass(frozen=True, kw_only=True)
class Import:
    """Turn a published image tokenizer into a model folder.

    Example: vilg import last.ckpt --config model.yaml --out vqgan-f16
    """

    source: Annotated[str, Positional, arg(metavar="SOURCE", help_behavior_hint="")]
    """file of weights, folder of diffusers, or hub id of such a folder: OWNER/NAME/FOLDER"""
    kind: Annotated[
        str | None,
        arg(
            metavar="taming|llamagen|diffusers",
            help_behavior_hint="(default: what the names of the weights say)",
        ),
    ] = None
    """VQModel or GumbelVQ of taming, VQ-8 or VQ-16 of LlamaGen, VQModel of diffusers"""
    config: Annotated[
        Path | None,
        arg(metavar="FILE", help_behavior_hint="(taming needs it; else: what is published)"),
    ] = None
    """the settings published beside the weights, as YAML or JSON"""
    image_size: Annotated[
        int | None, arg(metavar="N", help_behavior_hint="(default: what the settings say)")
    ] = None
    """side of the pictures in pixels"""
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
            _say(f"left out what only training needs: {first}{more}")
        shape, weights = imported.config, sum(value.numel() for value in imported.state.values())
        print(
            f"{self.out}: VQGAN f{shape.image_size // shape.grid_size}, {shape.num_codes} codes of "
            f"{shape.code_dim}, {shape.grid_size} x {shape.grid_size} tokens for "
            f"{shape.image_size} x {shape.image_size} pixels, {weights / 1e6:.1f} M weights, "
            f"fingerprint {vqgan.fingerprint()}"
        )


DATA = SubcommandApp()
APP.command(
    DATA, name="data", help="Look into data sets.\n\nExample: vilg data stats datasets/emoji"
)


@DATA.command(name="stats")
@dataclass(frozen=True, kw_only=True)
class DataStats:
    """Count what a data set holds.

    Example: vilg data stats datasets/emoji
    """

    source: Annotated[Path, Positional, arg(metavar="SOURCE", help_behavior_hint="")]
    """folder of a data set"""

    def run(self) -> None:
        from vilg.cli.tables import stats_table
        from vilg.data.shards import list_splits, load_samples, load_split
        from vilg.data.stats import describe

        samples = load_samples(self.source)
        splits = {name: load_split(self.source, name) for name in list_splits(self.source)}
        print(stats_table(describe(samples, splits)))


def _load(name: str | None) -> "Vilg":
    from vilg.pipeline import Vilg

    return Vilg.from_pretrained(name)


def _check_number(n: int) -> None:
    if n < 1:
        raise UsageError(f"-n must be at least 1, not {n}")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False), flush=True)

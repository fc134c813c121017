"""The verbs that draw and describe, each a dataclass of its options, with `run`.

Results go to stdout, everything else to stderr. Torch is imported inside `run`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from vilg.cli.options import (
    APP,
    Adapters,
    Count,
    DeviceName,
    Flag,
    ModelName,
    Number,
    PrecisionName,
    Setting,
    UsageError,
    check_number,
    clean,
    load,
    print_json,
)
from vilg.progress import say

if TYPE_CHECKING:
    from vilg.api import Vilg
    from vilg.cli.picture_files import Plan
    from vilg.model.defaults import SamplingConfig

Out = Annotated[str, arg(aliases=["-o"], metavar="FILE|DIR/")]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Options of all verbs that draw."""

    n: Number = 1
    """pictures of each prompt"""
    seed: Annotated[int, arg(metavar="S")] = 0
    """seed of a prompt's first picture; the next one has S + 1"""
    best_of: Count = None
    """candidates drawn for each picture, of which the best is kept"""
    rank: Annotated[
        str | None,
        arg(metavar="FOLDER|HUB_ID", help_behavior_hint="(default: by the model's own captions)"),
    ] = None
    """a CLIP or Chinese-CLIP that says which candidate is best"""
    temperature: Setting = None
    """how freely tokens are drawn: 0 takes the likeliest each time, 1 draws as the model has learnt"""
    top_k: Count = None
    """draw among the K likeliest tokens only"""
    top_p: Setting = None
    """draw among the fewest tokens that have this much probability"""
    guidance: Setting = None
    """how strongly the prompt counts: 1 is the plain model, 0 ignores the prompt"""
    guidance_schedule: Annotated[
        Literal["constant", "rising", "falling"] | None,
        arg(metavar="constant|rising|falling", help_behavior_hint="(default: the model's)"),
    ] = None
    """whether guidance stays, rises from 1 or falls to 1 between the first token and the last"""
    decoder: Annotated[
        Literal["two-stage", "end-to-end"] | None,
        arg(metavar="two-stage|end-to-end", help_behavior_hint="(default: the model's)"),
    ] = None
    """make pixels of the tokens alone, or of the generator's states (models trained end to end)"""
    precision: PrecisionName = None
    """bf16 and int8 round the weights: faster, where the processor can, and not quite the same pictures"""
    preview: Annotated[Path | None, arg(metavar="FILE.png", help_behavior_hint="")] = None
    """a file to look at while the pictures are drawn: it shows them as far as they are"""
    out: Out = "out/"
    """a folder, or for one picture a name that ends in .png"""
    model: ModelName = None
    lora: Adapters = ()
    device: DeviceName = "auto"

    def settings(self, model: "Vilg") -> "SamplingConfig":
        from vilg.sampling.settings import Changes

        return model.settings(**{name: getattr(self, name) for name in Changes.__annotations__})

    def plan(self, model: "Vilg", prompts: Sequence[str]) -> "Plan":
        """Check settings and prompts, and load the ranker.

        Raises:
            TextError, PromptError, SettingError, RankerError: something does not fit.
        """
        from vilg.cli import picture_files
        from vilg.shipped.prompts import style_hints

        picture_files.check_prompts(model, prompts, say)
        tidied = [model.text_tokenizer.tidy(prompt) for prompt in prompts]
        for hint in style_hints(self.model, tidied):
            say(hint)
        settings = self.settings(model)
        ranker = None
        if self.rank is not None:
            from vilg.sampling.clip import ClipRanker

            if settings.best_of == 1:
                raise UsageError("--rank chooses among candidates: add --best-of K")
            ranker = ClipRanker.from_pretrained(self.rank, model.device)
            for prompt in prompts:
                ranker.check(prompt)
        return picture_files.Plan(model, settings, ranker, self.preview)


@APP.command(name="generate")
@dataclass(frozen=True, kw_only=True)
class Generate(Drawing):
    """Draw pictures of prompts, in Chinese or English, as PNG files.

    Example: vilg generate "green apple, 3D render" -n 4 --seed 7 -o out/

    Example: vilg generate "yellow heart, flat style" --best-of 8 --guidance 3 -o heart.png
    """

    prompt: Annotated[
        tuple[str, ...], Positional, arg(metavar="PROMPT...", help_behavior_hint="")
    ] = ()
    """what to draw; n pictures of each"""
    prompts: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """a file of prompts, one a line, instead of PROMPT; pictures that exist already are kept"""

    def run(self) -> None:
        from vilg.cli import picture_files

        if bool(self.prompt) == bool(self.prompts):
            raise UsageError('give prompts or --prompts FILE, as in: vilg generate "red apple"')
        check_number(self.n)
        prompts = (
            picture_files.read_prompts(self.prompts)
            if self.prompts
            else [clean(prompt) for prompt in self.prompt]
        )
        jobs = picture_files.plan(prompts, self.n, self.seed, self.out)
        picture_files.check_preview(self.preview, jobs)
        plan = self.plan(load(self.model, self.device, self.precision, self.lora), prompts)
        if self.prompts:
            jobs = picture_files.left_to_do(plan, jobs, say)
        for path in picture_files.draw(plan, jobs):
            print(path, flush=True)


@APP.command(name="edit")
@dataclass(frozen=True, kw_only=True)
class Edit(Drawing):
    """Redraw a part of a picture's middle square, at the model's size; the rest keeps its pixels.

    Example: vilg edit apple.png "tangerine, 3D render" --mask mask.png -n 4

    Example: vilg edit apple.png "green apple, 3D render" --share 0.3 -o varied.png
    """

    image: Annotated[Path, Positional, arg(metavar="IMAGE", help_behavior_hint="")]
    """a picture file"""
    prompt: Annotated[str, Positional, arg(metavar="PROMPT", help_behavior_hint="")]
    """what the whole picture is to show"""
    mask: Annotated[Path | None, arg(metavar="MASK", help_behavior_hint="")] = None
    """redraw what is white in this picture of the same size; what is transparent counts as black"""
    first_row: Annotated[int | None, arg(metavar="R", help_behavior_hint="")] = None
    """instead of --mask: redraw this row of tokens, counted from 0, and all below it"""
    share: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """instead of --mask: redraw this share of the tokens, others for every seed"""
    raw: Flag = False
    """decode the whole picture from its tokens, also where nothing is redrawn"""

    def run(self) -> None:
        from vilg.cli import picture_files
        from vilg.cli.output import check_apart
        from vilg.images import BLACK, open_picture
        from vilg.sampling.edit import Redrawn

        check_number(self.n)
        picture = open_picture(self.image)
        mask = open_picture(self.mask, ground=BLACK) if self.mask else None
        part = Redrawn(mask, self.first_row, self.share)
        jobs = picture_files.plan([clean(self.prompt)], self.n, self.seed, self.out)
        picture_files.check_preview(self.preview, jobs)
        for path in (self.preview, *(job.path for job in jobs)):
            if path is not None:
                check_apart(path, (self.image, self.mask))
        plan = self.plan(load(self.model, self.device, self.precision, self.lora), [jobs[0].prompt])
        edit = picture_files.Edit(picture, part, self.raw)
        for path in picture_files.draw(plan, jobs, edit):
            print(path, flush=True)


@APP.command(name="caption")
@dataclass(frozen=True, kw_only=True)
class Caption:
    """Describe pictures in Chinese or English, one caption a line; several pictures by their names.

    Example: vilg caption apple.png --lang en

    Example: vilg caption apple.png -n 3 --beam 8
    """

    image: Annotated[tuple[Path, ...], Positional, arg(metavar="IMAGE...", help_behavior_hint="")]
    """picture files; all are looked at before any is described"""
    lang: Annotated[
        str | None, arg(metavar="zh|en", help_behavior_hint="(default: zh, if the model knows it)")
    ] = None
    """language of the captions"""
    n: Number = 1
    """captions of each picture"""
    seed: Annotated[int | None, arg(metavar="S", help_behavior_hint="(default: 0)")] = None
    """where captions are drawn: seed of a picture's first one; the next one has S + 1"""
    temperature: Annotated[
        float | None, arg(metavar="X", help_behavior_hint="(default: the likeliest captions)")
    ] = None
    """draw the words instead of looking for the likeliest; 1 draws as the model has learnt"""
    beam: Annotated[int | None, arg(metavar="K", help_behavior_hint="")] = None
    """how many captions are followed at a time (default: 1 for one caption, at least 4 for several)"""
    best_of: Annotated[int, arg(metavar="K")] = 1
    """draw K captions and keep those that make the picture likeliest"""
    precision: PrecisionName = None
    """bf16 and int8 round the weights: faster, where the processor can; a caption may change"""
    json: Flag = False
    """print one JSON object for each picture"""
    model: ModelName = None
    lora: Adapters = ()
    device: DeviceName = "auto"

    def run(self) -> None:
        from vilg.images import open_picture, square

        if not self.image:
            raise UsageError("name a picture, as in: vilg caption apple.png")
        check_number(self.n)
        for path in self.image:  # before the model is loaded, and one at a time
            open_picture(path)
        model = load(self.model, self.device, self.precision, self.lora)
        pictures = [square(open_picture(path), model.image_size) for path in self.image]
        for path, picture in zip(self.image, pictures, strict=True):
            captions = model.caption(
                picture,
                self.lang,
                self.n,
                seed=self.seed,
                temperature=self.temperature,
                beam=self.beam,
                best_of=self.best_of,
            )
            if self.json:
                lang = self.lang or model.model.languages[0]
                about = {"image": str(path), "lang": lang, "captions": captions}
                values = {"log_probs": [caption.log_prob for caption in captions]}
                believed = {"believed": [caption.is_believed for caption in captions]}
                print_json(about | values | believed)
                continue
            name = f"{path}\t" if len(self.image) > 1 else ""
            print(*(name + caption for caption in captions), sep="\n", flush=True)
            for caption in captions:
                if not caption.is_believed:
                    say(
                        f"{path}: a guess, this model is not sure of {caption!r} "
                        f"({caption.log_prob:.2f} nats a token, sure from {model.model.believed_from})"
                    )


@APP.command(name="score")
@dataclass(frozen=True, kw_only=True)
class ScorePair:
    """Say how likely a picture and a text make each other, token by token.

    Example: vilg score apple.png "green apple, 3D render" --html score.html
    """

    image: Annotated[Path, Positional, arg(metavar="IMAGE", help_behavior_hint="")]
    """a picture file"""
    text: Annotated[str, Positional, arg(metavar="TEXT", help_behavior_hint="")]
    """a text in Chinese or English"""
    lang: Annotated[str | None, arg(metavar="zh|en", help_behavior_hint="")] = None
    """language of the text; without it, Chinese characters decide"""
    json: Flag = False
    """print one JSON object"""
    html: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """write a page that shows which cells of the picture speak for which word"""
    model: ModelName = None
    lora: Adapters = ()
    device: DeviceName = "auto"

    def run(self) -> None:
        from vilg.cli.output import check_apart, check_file, write
        from vilg.cli.reports import score_table
        from vilg.images import open_picture

        if self.html and self.json:
            raise UsageError("--html writes a page and --json prints: choose one")
        if self.html:
            check_file(self.html)
            check_apart(self.html, (self.image,))
        text, picture = clean(self.text), open_picture(self.image)
        model = load(self.model, self.device, lora=self.lora)
        score = model.score(picture, text, self.lang)
        if self.html:
            from vilg.cli.heatmap import heatmap_page

            write(self.html, heatmap_page(model, picture, text, self.lang, score).encode())
            print(self.html)
        elif self.json:
            names = ("text_given_image", "image_given_text", "gain")
            means = {name: getattr(score, name) for name in names}
            about = {"image": str(self.image), "text": text}
            print_json(about | means | dataclasses.asdict(score))
        else:
            print(score_table(score, model.generator.config.grid_width))

"""The verbs that look after pairs: `vilg data ...`, each a dataclass of its options, with `run`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from vilg.cli.options import (
    APP,
    DeviceName,
    Flag,
    ModelName,
    Reading,
    UsageError,
    choose,
    clean,
    load,
    print_json,
)
from vilg.progress import say

if TYPE_CHECKING:
    from vilg.data.pairs import Pair
    from vilg.data.parts import Worker
    from vilg.data.sources import Source
    from vilg.sampling.matching import Matcher


DATA = SubcommandApp()
APP.command(
    DATA, name="data", help="Look into data sets.\n\nExample: vilg data stats datasets/emoji"
)

# What a folder holds, by a file that it then has; every verb refuses the others' folders.
PRODUCTS = {
    "manifest.json": "packed pairs",
    "store.json": "tokens",
    "columns.jsonl": "what a filter measured",
    "config.json": "a model or a run",
}

MaxText = Annotated[
    int,
    arg(
        metavar="N",
        help="tokens of the longest text that a model reads, its language token included",
    ),
]
PART_DONE = "this worker's part is done; the last one to end joins all parts"


@dataclass(frozen=True, kw_only=True)
class FromSource(Reading):
    """The options of every verb that reads pairs."""

    source: Annotated[str, Positional, arg(metavar="SOURCE", help_behavior_hint="")]
    """pairs in any format: a folder, a file, or a glob in quotes"""

    def recognise(self) -> "Source":
        """Recognise the source."""
        from vilg.data.sources import open_source

        return open_source(
            self.source, self.format, self.pictures, ids=self.ids, translations=self.translations
        )

    def open(self) -> "Source":
        """Recognise the source and say so."""
        source = self.recognise()
        say(source.recognised)
        return source


@dataclass(frozen=True, kw_only=True)
class IntoFolder(FromSource):
    """The options of every verb that any number of workers make a folder with, from pairs."""

    product: ClassVar[str]  # one of `PRODUCTS`, by which the folder is known
    out: Annotated[Path, arg(metavar="DIR", help_behavior_hint="")]
    """folder to write"""
    max_rejects: Annotated[float, arg(metavar="SHARE")] = 0.1
    """share of the pairs that may be left out"""

    def check(self) -> None:
        """Find out before any work what cannot be."""
        from vilg.cli.output import check_folder

        if not 0 <= self.max_rejects <= 1:
            raise UsageError(f"--max-rejects must be from 0 to 1, not {self.max_rejects}")
        check_folder(self.out)
        for product, what in PRODUCTS.items():
            if product != self.product and (self.out / product).exists():
                raise UsageError(f"{self.out} holds {what}: name another folder with --out")

    def say_made(self, what: str, left_out: int) -> None:
        """Say what the folder holds and what was left out, and print its name."""
        rejects = self.out / "rejects.jsonl"
        see = f", see {rejects}" if rejects.stat().st_size else ""
        say(f"{what}; left out: {left_out} pairs{see}")
        print(self.out)


def check_max_text(number: int) -> None:
    if number < 2:
        raise UsageError(f"--max-text must be at least 2, not {number}")


def this_worker() -> "Worker":
    """Return which of several workers this is: as torchrun or a Slurm array says, or the only one."""
    from vilg.data.parts import Worker

    for rank, world, first in (
        ("RANK", "WORLD_SIZE", ""),
        ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ):
        if rank in os.environ and world in os.environ:
            begin = _whole_number(first) if first in os.environ else 0
            worker = Worker(_whole_number(rank) - begin, _whole_number(world))
            if not 0 <= worker.rank < worker.world:
                raise UsageError(
                    f"{rank}={os.environ[rank]} is none of {worker.world} workers ({world}) that count "
                    f"from {begin} without a gap"
                )
            return worker
    return Worker()


def _whole_number(variable: str) -> int:
    text = os.environ[variable]
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"{variable}={clean(text)} is no whole number: unset it, or correct it")
    return int(text)


@DATA.command(name="tokenize")
@dataclass(frozen=True, kw_only=True)
class DataTokenize(IntoFolder):
    """Turn pairs into a store of tokens, once, for any number of trainings.

    Example: vilg data tokenize photos/ --out photos-tokens

    Any number of these may run at the same time, under torchrun, as a Slurm array or with RANK and
    WORLD_SIZE set; after a kill the same command goes on.
    """

    product = "store.json"
    model: ModelName = None
    """whose image tokenizer and vocabulary make the tokens"""
    device: DeviceName = "auto"
    max_text: MaxText = 64

    def run(self) -> None:
        from vilg.data.store import Store
        from vilg.tokenizer.into_store import tokenize

        self.check()
        check_max_text(self.max_text)
        worker = this_worker()
        source, model = self.open(), load(self.model, self.device)
        whole = tokenize(
            source,
            self.out,
            model.image_tokenizer,
            model.text_tokenizer,
            max_text=self.max_text,
            max_rejects=self.max_rejects,
            worker=worker,
        )
        if not whole:
            say(PART_DONE)
            return
        info = Store(self.out).info
        self.say_made(f"{info.rows} pairs, {info.texts} texts", info.rejects)


@DATA.command(name="pack")
@dataclass(frozen=True, kw_only=True)
class DataPack(IntoFolder):
    """Write pairs of any format as a data set of shards, with their pictures as they are.

    Example: vilg data pack photos/ --out photos-packed

    Any number of these may run at the same time, as of `vilg data tokenize`; after a kill the same
    command goes on.
    """

    product = "manifest.json"
    name: Annotated[
        str | None, arg(metavar="NAME", help_behavior_hint="(default: the folder's)")
    ] = None
    """name of the data set, which its shards are called after"""

    def run(self) -> None:
        from vilg.data.pack import pack, packed

        self.check()
        whole = pack(
            self.open(),
            self.out,
            self.name if self.name is not None else self.out.resolve().name,
            max_rejects=self.max_rejects,
            worker=this_worker(),
        )
        if not whole:
            say(PART_DONE)
            return
        pairs, left_out = packed(self.out)
        self.say_made(f"{pairs} pairs", left_out)


@DATA.command(name="check")
@dataclass(frozen=True, kw_only=True)
class DataCheck(FromSource):
    """Read all of a source, every picture and text, and say what is in it and what is wrong.

    Example: vilg data check photos/ --sheet photos.png

    Status 0 means that there are pairs; what is left out of them, or is none, is counted by kind, with
    the first places.
    """

    model: ModelName = None
    """whose vocabulary texts are measured by"""
    max_text: MaxText = 64
    sheet: Annotated[Path | None, arg(metavar="FILE.png", help_behavior_hint="(default: none)")] = (
        None
    )
    """picture of some pairs with their captions, to be looked at"""
    json: Flag = False
    """print one line of JSON"""

    def run(self) -> None:
        from vilg.cli.output import check_file
        from vilg.cli.reports import check_report
        from vilg.data.check import check
        from vilg.data.sources import no_pair
        from vilg.model.folder import find_model
        from vilg.text import TextTokenizer

        check_max_text(self.max_text)
        if self.sheet is not None:
            check_file(self.sheet)
        source = self.recognise()
        words = TextTokenizer.from_file(find_model(self.model) / "tokenizer.json")
        found = check(source, words, self.max_text, helpers=(os.cpu_count() or 1) - 1)
        if found.pairs + found.rejects.number:
            report = {"format": source.format.name, **found.as_dict()}
            print_json(report) if self.json else print(check_report(report))
        if found.pairs == 0:
            raise no_pair(source, found.rejects.number)
        if self.sheet is not None:
            self._write_sheet(self.sheet, found.shown)

    def _write_sheet(self, path: Path, pairs: "list[Pair]") -> None:
        from vilg.cli.output import png, write
        from vilg.data.sheet import captions_sheet, find_chinese_font

        if not pairs:
            say(f"no sheet: there is no picture to show in {path}")
            return
        font = find_chinese_font()
        if font is None and any("zh" in pair.captions for pair in pairs):
            say("the sheet lacks Chinese captions: install a font that has them, as fonts-noto-cjk")
        write(path, png(captions_sheet(pairs, font), {}))
        say(f"{path}: {len(pairs)} pairs from all over the source")


@DATA.command(name="filter")
@dataclass(frozen=True, kw_only=True)
class DataFilter(IntoFolder):
    """Choose pairs by rules; a table says how many each rule removes, alone and in order.

    The folder gets kept.txt (the ids that are kept, for --ids of every verb), rejects.jsonl (why others are not)
    and what is measured of each pair, so that other rules cost no second look. Any number of these may run at the same time, as of `vilg data tokenize`; after a kill the same command goes on.

    Example: vilg data filter photos/ --out photos-chosen --keep 'width>=64' 'aspect<3' --near 3
    """

    product = "columns.jsonl"
    rules: Annotated[Literal["paper"] | None, arg(help_behavior_hint="(default: none)")] = None
    """paper: fewer than 15 words, at least one noun, no special character, matching score over 0.5"""
    keep: Annotated[tuple[str, ...], arg(metavar="COLUMN>VALUE", help_behavior_hint="")] = ()
    """more rules, in quotes: numbers captions, words, nouns, special, width, height, aspect, matching; language"""
    near: Annotated[int | None, arg(metavar="BITS", help_behavior_hint="(default: all stay)")] = (
        None
    )
    """leave out pictures whose looks differ in at most so many of 64 bits (0 to 7) from earlier ones'"""
    model: Annotated[
        str | None, arg(metavar="NAME|FOLDER|HUB_ID", help_behavior_hint="(default: no score)")
    ] = None
    """adds the matching score, by how likely this model makes picture and caption from each other"""
    clip: Annotated[
        str | None, arg(metavar="FOLDER|HUB_ID", help_behavior_hint="(default: no score)")
    ] = None
    """adds the matching score, by this CLIP (Chinese-CLIP, SigLIP)"""
    device: DeviceName = "auto"

    def run(self) -> None:
        from vilg.cli.reports import rules_table
        from vilg.data.filter import KEPT, PAPER, choose, has_matching, parse_rule, write_columns

        self.check()
        conditions = [*(PAPER if self.rules else ()), *self.keep]
        rules = [parse_rule(condition) for condition in conditions]
        source, worker, matcher = self.open(), this_worker(), self._matcher()
        if not source.identity.items:
            raise UsageError(f"{self.source} holds no pair")
        is_whole = write_columns(source, self.out, worker)
        if matcher:
            from vilg.sampling.matching import write_matching

            is_whole &= write_matching(source, self.out, matcher, worker)
        if not is_whole:
            say(f"{PART_DONE} and applies the rules")
            return
        if has_matching(self.out):
            self._say_calibration()
        elif any(rule.column == "matching" for rule in rules):
            say("no matching score: a rule about it applies to no pair; add --model or --clip")
        chosen = choose(self.out, rules, self.near, max_rejects=self.max_rejects)
        print(rules_table(chosen))
        say(f"the ids of {chosen.kept} pairs: {self.out / KEPT}")

    def _matcher(self) -> "Matcher | None":
        if self.model and self.clip:
            raise UsageError("--model and --clip both give the matching score: choose one")
        if self.clip:
            from vilg.sampling.clip import ClipRanker
            from vilg.sampling.matching import ClipMatcher

            return ClipMatcher(
                self.clip, ClipRanker.from_pretrained(self.clip, choose(self.device))
            )
        if self.model:
            from vilg.sampling.matching import ModelMatcher

            model = load(self.model, self.device)
            return ModelMatcher(
                self.model,
                str(model.weights_hash),
                model.generator,
                model.image_tokenizer,
                model.text_tokenizer,
            )
        return None

    def _say_calibration(self) -> None:
        from vilg.sampling.matching import CALIBRATION, read_calibration

        fit = read_calibration(self.out)
        say(
            f"matching score by {fit.by}, fitted to {fit.pairs} pairs of {fit.source} and {fit.shuffled} "
            f"shuffled ones (seed {fit.seed}; listed in {self.out / CALIBRATION}): over 0.5 are "
            f"{fit.pairs_over_half:.0%} of the pairs and {fit.shuffled_over_half:.0%} of the shuffled"
        )


@DATA.command(name="translate")
@dataclass(frozen=True, kw_only=True)
class DataTranslate(FromSource):
    """Add captions in the other language by a translation model.

    Every other verb takes the file as --translations. Pairs that have a caption in the language already get
    none. Any number of these may run at the same time, as of `vilg data tokenize`; after a kill the same
    command goes on.

    Example: vilg data translate photos/ --by Helsinki-NLP/opus-mt-en-zh --to zh --out zh.jsonl
    """

    by: Annotated[str, arg(metavar="FOLDER|HUB_ID", help_behavior_hint="")]
    """translation model: Marian (opus-mt), NLLB, M2M100, mBART, T5"""
    to: Annotated[Literal["zh", "en"], arg(help_behavior_hint="")]
    """language to translate into, from the other one"""
    out: Annotated[Path, arg(metavar="FILE.jsonl", help_behavior_hint="")]
    """file of the translations"""
    prefix: Annotated[str, arg(metavar="TEXT", help_behavior_hint="(default: none)")] = ""
    """stands before every caption, where the model wants it (T5: "translate English to Chinese: ")"""
    device: DeviceName = "auto"

    def run(self) -> None:
        from vilg.data.translate import count_translations, write_translations
        from vilg.sampling.translator import HubTranslator

        if self.out.suffix != ".jsonl":
            raise UsageError(f"--out {self.out}: name a file that ends in .jsonl")
        source = self.open()
        translator = HubTranslator.from_pretrained(
            self.by, self.to, self.prefix, choose(self.device)
        )
        if not write_translations(source, self.out, translator, self.to, this_worker()):
            say(PART_DONE)
            return
        made = count_translations(self.out, self.to)
        say(
            f"{made.texts} captions of {made.pairs} pairs translated; {made.had} pairs had captions in "
            f"{self.to} already; {made.failed} captions have no translation (see the file)"
        )
        print(self.out)


@DATA.command(name="stats")
@dataclass(frozen=True, kw_only=True)
class DataStats(FromSource):
    """Count what pairs hold: captions by language, and tags with their commonest values.

    Example: vilg data stats datasets/emoji
    """

    def run(self) -> None:
        from vilg.cli.reports import stats_table
        from vilg.data.ids import IdSet
        from vilg.data.shards import list_splits, load_split
        from vilg.data.sources import no_pair
        from vilg.data.stats import describe

        source = self.recognise()
        folder = source.files[0].parent
        names = list_splits(folder) if source.format.name == "packed" else []
        counts = describe(source, {name: IdSet(load_split(folder, name)) for name in names})
        if counts["pairs"] == 0:
            raise no_pair(source, counts["rejects"])
        print(stats_table({"format": source.format.name, **counts}))

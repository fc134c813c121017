"""Whole runs on a toy data set: from shards to a model folder, in one go or in several."""

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load

from tests.data.sources import write_packed
from tests.training.conftest import (
    OPTIM,
    SMALL_DISCRIMINATOR,
    SMALL_DVAE,
    SMALL_VQGAN,
    BrokenOff,
    log_records,
    read_checkpoint,
)
from vilg.api import Vilg
from vilg.config import from_dict, override, to_json
from vilg.data.order import permute
from vilg.data.pairs import DataError, Pair
from vilg.data.pictures import load_pictures
from vilg.data.sources import load_pairs
from vilg.data.store import Store
from vilg.errors import SettingError, VilgError
from vilg.images import open_picture, to_array, to_pixels
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.folder import Model, load_model, save_model
from vilg.model.generator import Generator
from vilg.model.patterns import paper_patterns
from vilg.sampling.images import draw_images
from vilg.sampling.texts import generate_texts
from vilg.shipped.emoji import RECIPES
from vilg.text import TextTokenizer
from vilg.tokenizer.codebooks import CodebookConfig, LearningRule
from vilg.tokenizer.discriminator import DiscriminatorConfig
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.tokens import refined_tokens
from vilg.training.augment import AugmentConfig, augment
from vilg.training.checkpoint import CheckpointError
from vilg.training.end_to_end import EndToEndConfig
from vilg.training.generator_job import GeneratorLossConfig
from vilg.training.inputs import DataConfig, moved_tokens, read_pictures
from vilg.training.loop import LoopConfig
from vilg.training.optim import OptimConfig
from vilg.training.picture_loss import PictureLossConfig
from vilg.training.run import run
from vilg.training.run_folder import RunError, held, read_recipe
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun

FRUIT = ("apple", "pear", "plum", "fig", "lime")
FLAGS = ("red flag", "blue flag")


def write_data_set(folder: Path) -> Path:
    """Pack small pictures in two styles; one concept of five is held out."""
    rng = np.random.default_rng(0)
    pairs: list[Pair] = []
    splits: dict[str, list[str]] = {"train": [], "unseen_concept": []}
    for style in ("flat", "noto"):
        for number, name in enumerate((*FRUIT, *FLAGS)):
            key = f"{style}-1F34{number}"
            splits["unseen_concept" if name == "lime" else "train"].append(key)
            pixels = rng.integers(0, 256, (20, 16, 3), dtype=np.uint8)
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "PNG")
            pairs.append(
                Pair(
                    id=key,
                    place=key,
                    picture=picture.getvalue,
                    captions={"zh": (f"果{number}，{style}",), "en": (f"{name}, {style} style",)},
                    prompts={"zh": (f"水果，{style}",), "en": ()},
                    tags={"group": "flags" if name in FLAGS else "food-drink"},
                )
            )
    return write_packed(folder, pairs, splits)


@dataclass(frozen=True)
class Finished:
    """A run that went through, which no test changes."""

    recipe: Recipe
    out: Path
    model: Path
    log: str

    @property
    def generator_only(self) -> Recipe:
        """The second stage alone, on the first one's result."""
        assert self.recipe.generator is not None
        lender = str(self.out / "tokenizer" / "model")
        return Recipe(generator=replace(self.recipe.generator, image_tokenizer=lender))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Train both stages on the fruit."""
    root = tmp_path_factory.mktemp("run")
    TextTokenizer("果水，风格", ["noto"]).save(root / "words.json")
    data = DataConfig(
        source=str(write_data_set(root / "data")), split="train", only=("group=food-drink",)
    )
    loop = LoopConfig(num_steps=6, batch_size=4, log_every=1, show_every=3, save_every=2)
    recipe = Recipe(
        tokenizer=TokenizerRun(
            data=data,
            model=replace(SMALL_VQGAN, channel_multipliers=(1, 2, 2)),
            # Codes die and restart all the time.
            codebook=CodebookConfig(decay=0.5, restart_below=0.5, alarm_below=0.0),
            augmentation=AugmentConfig(max_shift=1),
            loop=loop,
            optim=OPTIM,
        ),
        generator=GeneratorRun(
            data=data,
            vocabulary=root / "words.json",
            width=16,
            num_heads=2,
            patterns=paper_patterns(2),
            max_text=24,
            sampling=SamplingConfig(guidance=2.0),
            loop=loop,
            optim=OPTIM,
        ),
    )
    log = io.StringIO()
    return Finished(recipe, root / "out", run(recipe, root / "out", log=log), log.getvalue())


@pytest.fixture
def out(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished run to go on with."""
    shutil.copytree(finished.out, tmp_path / "out")
    return tmp_path / "out"


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def results(out: Path) -> dict[str, bytes]:
    """Everything a run leaves but its logs, which tell how fast it was, and the order of a checkpoint's notes."""
    found = {name: content for name, content in contents(out).items() if "log.jsonl" not in name}
    for name in found:
        if "/checkpoints/" in name:
            size = 8 + int.from_bytes(found[name][:8], "little")
            header = json.dumps(json.loads(found[name][8:size]), sort_keys=True)
            found[name] = header.encode() + found[name][size:]
    return found


def quietly(recipe: Recipe, out: Path, resume: bool = False) -> Path:
    return run(recipe, out, resume=resume, log=io.StringIO())


def test_a_recipe_ends_with_a_model_that_works(finished: Finished) -> None:
    assert finished.model == finished.out / "generator" / "model"
    model = load_model(finished.model)
    assert model.generator is not None and model.text_tokenizer is not None
    assert model.sampling == SamplingConfig(guidance=2.0)
    assert model.latin_words == ("noto",)  # of Chinese captions; "flat" is spelled in letters
    assert model.generator.config.grid_height == model.generator.config.grid_width == 4
    words = model.text_tokenizer
    drawn_BN = draw_images(
        model.generator, [words.encode("apple")], [0], SamplingConfig()
    ).image_ids_BN
    assert model.image_tokenizer.decode(drawn_BN.view(1, 4, 4)).shape == (1, 3, 16, 16)
    assert len(generate_texts(model.generator, drawn_BN, [words.language_id("zh")], [0])) == 1


def test_a_run_tells_what_it_is_and_what_it_did(finished: Finished) -> None:
    assert (finished.out / "config.json").read_text(encoding="utf-8") == to_json(finished.recipe)
    lines = finished.log.splitlines()
    source = finished.recipe.tokenizer.data.source
    assert lines[:2] == [f"{source}: read as packed (manifest.json of vilg data pack)"] * 2
    assert lines[2] == "tokenizer: 8 pictures" and lines[9] == "generator: 8 pairs"
    assert len(lines) == 2 * (2 + 6)
    for stage in ("tokenizer", "generator"):
        folder = finished.out / stage
        assert [record["step"] for record in log_records(folder)] == [1, 2, 3, 4, 5, 6]
        assert (folder / "samples" / "step-00000006.png").is_file()


def test_the_generator_learns_the_tokens_of_its_pictures(finished: Finished) -> None:
    lender = load_model(finished.out / "tokenizer" / "model").image_tokenizer
    samples = load_pairs(
        Path(finished.recipe.tokenizer.data.source), "train", ("group=food-drink",)
    )
    store = Store(finished.out / "generator" / "tokens")
    assert store.ids(np.arange(8)) == [sample.id for sample in samples]
    tokens_SN = store.image_ids(np.arange(len(store)))
    assert tokens_SN.shape == (8, 16)
    for sample, row in zip(samples, tokens_SN, strict=True):
        # 16 x 20 pixels: the middle square is whole.
        picture = np.ascontiguousarray(to_array(open_picture(sample.picture()))[2:18])
        assert lender.encode(to_pixels(picture[None])).flatten().tolist() == row.tolist()
    assert load_model(finished.model).image_tokenizer.fingerprint() == lender.fingerprint()


def test_the_codes_of_a_trained_tokenizer_lie_on_the_unit_sphere(finished: Finished) -> None:
    """An average of unit vectors is shorter than one, and the longest code would win too often."""
    records = log_records(finished.out / "tokenizer")
    assert sum(record["restarts"] for record in records) > 0
    codes_KD = load_model(finished.model).image_tokenizer.quantizer.codebook_KD
    assert torch.allclose(codes_KD.norm(dim=-1), torch.ones(len(codes_KD)), atol=2e-3)


def test_resuming_a_finished_run_does_nothing(finished: Finished, out: Path) -> None:
    before = contents(out)
    log = io.StringIO()
    assert run(finished.recipe, out, resume=True, log=log) == out / "generator" / "model"
    assert contents(out) == before
    assert log.getvalue() == ""


def test_resuming_skips_the_stage_that_is_finished(finished: Finished, out: Path) -> None:
    shutil.rmtree(out / "generator")
    log = io.StringIO()
    run(finished.recipe, out, resume=True, log=log)
    assert results(out) == results(finished.out)
    assert "generator: 8 pairs\nstep 1/6" in log.getvalue()


def test_a_model_that_was_not_written_is_made_from_the_last_checkpoint(
    finished: Finished, out: Path
) -> None:
    (out / "generator" / "model" / "config.json").unlink()  # written last
    log = io.StringIO()
    run(finished.recipe, out, resume=True, log=log)
    assert contents(out) == contents(finished.out)
    assert log.getvalue().splitlines()[1:] == ["generator: 8 pairs"]


class Breaking(io.StringIO):
    """A log that breaks the run off when a stage tells of a step."""

    def __init__(self, stage: str, step: int):
        super().__init__()
        self.stage, self.step, self.now = stage, step, ""

    def write(self, text: str) -> int:
        if ": " in text and not text.startswith("step"):
            self.now = text.partition(":")[0]
        if self.now == self.stage and text.startswith(f"step {self.step}/"):
            raise BrokenOff
        return super().write(text)


def test_a_run_broken_off_in_each_stage_ends_as_if_it_had_not_been(
    finished: Finished, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # Before the first checkpoint, after it, and in the next stage.
    for resume, place in enumerate((("tokenizer", 1), ("tokenizer", 5), ("generator", 4))):
        with pytest.raises(BrokenOff):
            run(finished.recipe, out, resume=resume > 0, log=Breaking(*place))
    quietly(finished.recipe, out, resume=True)
    assert results(out) == results(finished.out)
    for stage in ("tokenizer", "generator"):
        assert log_records(out / stage) == log_records(finished.out / stage)


def test_a_folder_in_use_is_left_alone(finished: Finished, out: Path) -> None:
    before = contents(out)
    with pytest.raises(RunError, match=f"{out} holds a run: add --resume"):
        quietly(finished.recipe, out)
    assert contents(out) == before


def test_other_settings_do_not_resume(finished: Finished, out: Path) -> None:
    before = contents(out)
    longer = replace(finished.recipe.generator, loop=LoopConfig(num_steps=7, batch_size=4))
    with pytest.raises(RunError, match=r"generator was begun with generator\.loop\.num_steps=6"):
        quietly(replace(finished.recipe, generator=longer), out, resume=True)
    assert contents(out) == before


def test_what_a_stage_was_made_with_is_told_by_what_it_left(finished: Finished, out: Path) -> None:
    """Not by its checkpoints, which may be thrown away, nor by the last settings that were tried."""
    shutil.rmtree(out / "tokenizer" / "checkpoints")
    shutil.rmtree(out / "generator")
    before = contents(out)
    with pytest.raises(RunError, match=r"tokenizer was begun with tokenizer\.model\.num_codes=32"):
        quietly(override(finished.recipe, ["tokenizer.model.num_codes=16"]), out, resume=True)
    assert contents(out) == before
    with pytest.raises(VilgError, match="max_text"):
        quietly(override(finished.recipe, ["generator.max_text=2"]), out, resume=True)
    assert contents(out) == before
    assert read_recipe(out) == finished.recipe


def test_settings_of_a_stage_that_saved_nothing_may_change(finished: Finished, out: Path) -> None:
    for place in ("model", "checkpoints"):
        shutil.rmtree(out / "generator" / place)
    tokenizer = contents(out / "tokenizer")
    narrow = override(finished.recipe, ["generator.width=8", "generator.data.limit=4"])
    model = load_model(quietly(narrow, out, resume=True))
    assert model.generator is not None and model.generator.config.width == 8
    assert Store(out / "generator" / "tokens").image_ids(np.arange(4)).shape == (4, 16)
    assert contents(out / "tokenizer") == tokenizer
    assert read_recipe(out) == narrow
    with pytest.raises(RunError, match=r"generator\.data\.limit=4"):
        quietly(finished.recipe, out, resume=True)


def test_two_runs_do_not_share_a_folder(finished: Finished, out: Path) -> None:
    before = contents(out)
    with held(out), pytest.raises(RunError, match="another run is at work"):
        quietly(finished.recipe, out, resume=True)
    (out / "lock").touch()  # as a killed run leaves it
    quietly(finished.recipe, out, resume=True)
    assert contents(out) == before


def test_there_must_be_something_to_resume(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to resume"):
        quietly(finished.recipe, tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["", '{"tokenizer": ', "[" * 100_000, "[]", "\xff"])
@pytest.mark.parametrize("place", [".", "generator"])
def test_damaged_settings_are_said(finished: Finished, out: Path, content: str, place: str) -> None:
    (out / place / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(VilgError, match=r"config\.json"):
        quietly(finished.recipe, out, resume=True)


def test_bad_settings_leave_nothing_behind(finished: Finished, tmp_path: Path) -> None:
    """Or the corrected command would be told that the folder holds a run."""
    out = tmp_path / "out"
    with pytest.raises(RunError, match="trains nothing"):
        quietly(Recipe(), out)
    assert not out.exists()
    generator = finished.generator_only.generator
    data = replace(generator.data, source=str(tmp_path / "missing"))
    with pytest.raises(DataError, match="missing is not there"):
        quietly(Recipe(generator=replace(generator, data=data)), out)
    with pytest.raises(VilgError, match="no model at"):
        quietly(Recipe(generator=replace(generator, image_tokenizer="missing")), out)
    quietly(finished.generator_only, out)


def test_captions_are_learnt_from_pictures_that_move(finished: Finished, tmp_path: Path) -> None:
    """The tokens of the moved pictures are the lender's own, and what is drawn does not change."""
    lender = load_model(finished.out / "tokenizer" / "model").image_tokenizer
    generator = replace(finished.generator_only.generator, augmentation=AugmentConfig(max_shift=2))
    quietly(Recipe(generator=generator), tmp_path / "out")
    moving, still = (log_records(out / "generator") for out in (tmp_path / "out", finished.out))
    assert moving[0]["t2i"] == still[0]["t2i"] and moving[0]["i2t"] != still[0]["i2t"]

    samples = load_pairs(Path(generator.data.source), "train", ("group=food-drink",))
    pictures = load_pictures(samples, 16)
    ids = np.array([5, 2])
    found = moved_tokens(lender, pictures, 0, generator.augmentation, 3, ids)
    pixels = to_pixels(augment(pictures[ids], 0, 3, ids, generator.augmentation))
    assert torch.equal(found, lender.encode(pixels).flatten(1))
    with torch.autocast("cpu", torch.bfloat16):
        within = moved_tokens(lender, pictures, 0, generator.augmentation, 3, ids)
    assert torch.equal(found, within)


def test_drawings_are_learnt_after_tokens_of_pictures_that_move(
    finished: Finished, tmp_path: Path
) -> None:
    moves = AugmentConfig(max_shift=2, flip=False, noise=40)
    generator = replace(finished.generator_only.generator, prefix_augmentation=moves)
    whole_as_broken_off(Recipe(generator=generator), tmp_path)
    moving, still = (log_records(out / "generator") for out in (tmp_path / "whole", finished.out))
    assert moving[0]["t2i"] != still[0]["t2i"] and moving[0]["i2t"] == still[0]["i2t"]


def end_to_end(finished: Finished) -> Recipe:
    """The second stage on, from the finished model, with its reconstructor and a discriminator."""
    loss = PictureLossConfig(adversarial=0.8, adversarial_from=2, discriminator=SMALL_DISCRIMINATOR)
    generator = replace(
        finished.generator_only.generator,
        init=str(finished.model),
        end_to_end=EndToEndConfig(loss=loss),
        sampling=SamplingConfig(),
    )
    return Recipe(generator=generator)


def whole_as_broken_off(recipe: Recipe, folder: Path) -> Path:
    """Train a generator in one go and broken off; both must end alike. Return the model."""
    model = quietly(recipe, folder / "whole")
    out = folder / "broken"
    with pytest.raises(BrokenOff):
        run(recipe, out, log=Breaking("generator", 5))
    quietly(recipe, out, resume=True)
    assert results(out) == results(folder / "whole")
    return model


def test_an_end_to_end_run_broken_off_ends_as_if_it_had_not_been(
    finished: Finished, tmp_path: Path
) -> None:
    recipe = end_to_end(finished)
    model = whole_as_broken_off(recipe, tmp_path)
    found = load_model(model)
    assert found.reconstructor is not None and found.generator is not None
    assert (
        found.image_tokenizer.fingerprint()
        == load_model(finished.model).image_tokenizer.fingerprint()
    )
    states = torch.zeros(1, found.generator.config.grid.num_cells, 16)
    raw = found.reconstructor(states, found.generator.config.grid)
    assert raw.shape == (1, 3, 16, 16)

    on = quietly(replace(recipe, generator=still(recipe.generator, model)), tmp_path / "on")
    again = load_model(on).reconstructor
    assert again is not None
    for name, weight in found.reconstructor.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


@pytest.mark.parametrize("kind", ["two-stage", "end-to-end"])
def test_a_run_with_shared_codes_broken_off_ends_as_if_it_had_not_been(
    finished: Finished, tmp_path: Path, kind: str
) -> None:
    whole = end_to_end(finished) if kind == "end-to-end" else finished.generator_only
    generator = replace(whole.generator, init=str(finished.model), share_codes=True)
    recipe = Recipe(generator=generator)
    model = whole_as_broken_off(recipe, tmp_path)
    alone = quietly(Recipe(generator=replace(generator, share_codes=False)), tmp_path / "alone")
    found, plain = (load(contents(path)["model.safetensors"]) for path in (model, alone))
    assert {name: w.shape for name, w in found.items()} == {n: w.shape for n, w in plain.items()}
    assert not torch.equal(found["image_head.weight"], plain["image_head.weight"])


@pytest.mark.parametrize("stage", ["tokenizer", "generator"])
def test_the_discriminator_has_settings_of_its_own(
    finished: Finished, tmp_path: Path, stage: str
) -> None:
    recipe = end_to_end(finished)
    if stage == "tokenizer":
        loss = replace(recipe.generator.end_to_end.loss, adversarial_from=0)
        recipe = Recipe(tokenizer=replace(finished.recipe.tokenizer, loss=loss))
    settings = replace(
        getattr(recipe, stage),
        loop=LoopConfig(num_steps=4, batch_size=2, save_every=1),
        discriminator_optim=OptimConfig(peak_lr=0.0, final_lr=0.0),
    )
    quietly(replace(recipe, **{stage: settings}), tmp_path)
    before, after = (
        {
            name.removeprefix("weights."): value
            for name, value in read_checkpoint(path).items()
            if name.startswith("weights.")
        }
        for path in sorted((tmp_path / stage / "checkpoints").iterdir())
    )
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"learner"} and any(name.startswith("discriminator") for name in before)


def test_samples_show_pictures_that_are_held_out(finished: Finished, tmp_path: Path) -> None:
    data = replace(finished.recipe.tokenizer.data, only=())
    shown = read_pictures(data, tmp_path, io.StringIO()).held_out
    assert [pair.id for pair in shown] == ["flat-1F344"]  # a lime


def test_what_fails_before_anything_is_saved_leaves_the_folder_free(
    finished: Finished, tmp_path: Path
) -> None:
    out, tokenizer = tmp_path / "out", finished.recipe.tokenizer
    bad = replace(tokenizer, loss=PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0))
    with pytest.raises(VilgError, match="logit_laplace"):
        quietly(Recipe(tokenizer=bad), out)
    quietly(Recipe(tokenizer=tokenizer), out)


def test_other_data_do_not_resume(finished: Finished, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    for i in range(5):
        Image.new("RGB", (20, 16), (40 * i, 0, 0)).save(folder / f"{i}.png")
    recipe = Recipe(
        tokenizer=replace(finished.recipe.tokenizer, data=DataConfig(source=str(folder)))
    )
    with pytest.raises(BrokenOff):
        run(recipe, out, log=Breaking("tokenizer", 5))
    (folder / "4.png").rename(tmp_path / "4.png")
    with pytest.raises(RunError, match=r"not those that .* began with"):
        quietly(recipe, out, resume=True)
    (tmp_path / "4.png").rename(folder / "4.png")
    quietly(recipe, out, resume=True)


def test_captions_that_are_too_long_are_said_before_training(
    finished: Finished, tmp_path: Path
) -> None:
    short = replace(finished.generator_only.generator, max_text=2)
    with pytest.raises(VilgError, match="max_text"):
        quietly(Recipe(generator=short), tmp_path / "out")


def test_limits_and_groups_choose_the_pictures(finished: Finished, tmp_path: Path) -> None:
    loop = LoopConfig(num_steps=1, batch_size=2)
    counts = {
        replace(finished.recipe.tokenizer.data, only=()): 12,
        replace(finished.recipe.tokenizer.data, limit=3): 3,
        replace(finished.recipe.tokenizer.data, only=("group=flags",)): 4,
    }
    for i, (data, expected) in enumerate(counts.items()):
        log = io.StringIO()
        recipe = Recipe(tokenizer=replace(finished.recipe.tokenizer, data=data, loop=loop))
        assert run(recipe, tmp_path / str(i), log=log) == tmp_path / str(i) / "tokenizer" / "model"
        assert f"\ntokenizer: {expected} pictures\n" in log.getvalue()


def still(generator: GeneratorRun, init: Path) -> GeneratorRun:
    """A few steps that move nothing, from an earlier model."""
    return replace(
        generator,
        init=str(init),
        loop=LoopConfig(num_steps=3, batch_size=2),
        optim=OptimConfig(peak_lr=0.0, final_lr=0.0),
    )


def test_a_run_starts_from_an_earlier_model(finished: Finished, tmp_path: Path) -> None:
    recipe = Recipe(generator=still(finished.generator_only.generator, finished.model))
    model = quietly(recipe, tmp_path / "out")
    found, expected = contents(model), contents(finished.model)
    weights = [load(files.pop("model.safetensors")) for files in (found, expected)]
    assert found == expected
    # By value: a step of no length may still turn -0.0 into 0.0.
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def narrower(model: Model) -> Model:
    config = replace(model.generator.config, width=8)
    return replace(model, generator=Generator(config))


def other_codes(model: Model) -> Model:
    return replace(model, image_tokenizer=ImageTokenizer(model.image_tokenizer.config))


def other_words(model: Model) -> Model:
    return replace(model, text_tokenizer=TextTokenizer("果水，风梨", ["noto"]))  # as many


def no_generator(model: Model) -> Model:
    return Model(model.image_tokenizer)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (narrower, "no generator of this recipe's shape"),
        (no_generator, "no generator of this recipe's shape"),
        (other_codes, "codes of another image tokenizer"),
        (other_words, "another vocabulary"),
    ],
)
def test_a_run_starts_only_from_a_model_that_fits(
    finished: Finished, tmp_path: Path, change: Callable[[Model], Model], said: str
) -> None:
    save_model(tmp_path / "earlier", change(load_model(finished.model)))
    recipe = Recipe(generator=still(finished.generator_only.generator, tmp_path / "earlier"))
    with pytest.raises(RunError, match=said) as caught:
        quietly(recipe, tmp_path / "out")
    assert str(tmp_path / "earlier") in str(caught.value)


def test_a_tokenizer_starts_from_an_earlier_one(finished: Finished, tmp_path: Path) -> None:
    tokenizer = replace(
        finished.recipe.tokenizer,
        init=str(finished.model),
        codebook=CodebookConfig(rule=LearningRule.GRADIENT, restart_below=0.0),
        loop=LoopConfig(num_steps=3, batch_size=2),
        optim=OptimConfig(peak_lr=0.0, final_lr=0.0),
    )
    model = quietly(Recipe(tokenizer=tokenizer), tmp_path / "out")
    found, expected = (load_model(path).image_tokenizer for path in (model, finished.model))
    for name, weight in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], weight, atol=1e-3), name  # files are fp16
        if not name.startswith("quantizer."):
            assert torch.equal(found.state_dict()[name], weight), name

    other = replace(tokenizer, model=replace(tokenizer.model, num_codes=7))
    with pytest.raises(RunError, match="no image tokenizer of this recipe's shape"):
        quietly(Recipe(tokenizer=other), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def decoder_alone(finished: Finished, **settings: Any) -> TokenizerRun:
    """Return a run in which the finished tokenizer's decoder learns on."""
    given = {"init": str(finished.model), "decoder_only": True} | settings
    return replace(finished.recipe.tokenizer, **given)


def test_refined_tokens_are_made_once_and_resume_exactly(
    finished: Finished, tmp_path: Path
) -> None:
    tokenizer = decoder_alone(
        finished,
        refine_steps=3,
        refine_pictures=3,
        loop=LoopConfig(num_steps=4, batch_size=2, save_every=2, seed=5),
        optim=OptimConfig(peak_lr=1e-3, warmup_steps=1),
    )
    model = quietly(Recipe(tokenizer=tokenizer), tmp_path / "out")
    found, before = (load_model(path).image_tokenizer for path in (model, finished.model))
    assert found.fingerprint() == before.fingerprint()
    store = tmp_path / "out" / "tokenizer" / "tokens"
    made = Store(store)
    chosen = [int(id) for id in made.ids(np.arange(3))]
    pictures = read_pictures(tokenizer.data, tmp_path, io.StringIO()).training
    assert chosen != [0, 1, 2]  # styles come one after the other
    assert chosen == permute(np.arange(3), 8, 5, epoch=0).tolist()
    arrays = load_pictures([pictures[i] for i in chosen], before.config.image_size)
    tokens_RN = made.image_ids(np.arange(3))
    assert np.array_equal(tokens_RN, refined_tokens(before, arrays, 3, bf16=False))
    assert not np.array_equal(tokens_RN, refined_tokens(before, arrays, 0, bf16=False))

    # Broken off after the tokens, or later: they are read, and the rest is as it was.
    written = (store / "image_ids.bin").stat().st_mtime_ns
    for step in (2, 4):
        again = tmp_path / f"again-{step}"
        shutil.copytree(tmp_path / "out", again)
        shutil.rmtree(again / "tokenizer" / "model")
        for done in range(step, 5, 2):
            shutil.rmtree(again / "tokenizer" / "checkpoints" / f"step-{done:08d}")
        resumed = run(Recipe(tokenizer=tokenizer), again, resume=True, log=io.StringIO())
        assert contents(resumed) == contents(model)
        assert (again / "tokenizer" / "tokens" / "image_ids.bin").stat().st_mtime_ns == written


def test_refined_tokens_of_another_decoder_are_refused(finished: Finished, tmp_path: Path) -> None:
    """All decoders of one tokenizer share its fingerprint, so that alone would not tell them apart."""
    init = tmp_path / "init"
    shutil.copytree(finished.model, init)
    tokenizer = decoder_alone(
        finished,
        init=str(init),
        refine_steps=1,
        refine_pictures=2,
        loop=LoopConfig(num_steps=2, batch_size=2, save_every=1),
    )
    out = tmp_path / "out"
    quietly(Recipe(tokenizer=tokenizer), out)
    shutil.rmtree(out / "tokenizer" / "model")
    shutil.rmtree(out / "tokenizer" / "checkpoints" / "step-00000002")
    model = load_model(init)
    with torch.no_grad():
        model.image_tokenizer.decoder.conv_out.bias += 0.1
    shutil.rmtree(init)
    save_model(init, model)
    with pytest.raises(DataError, match="delete the folder, it will be made anew"):
        run(Recipe(tokenizer=tokenizer), out, resume=True, log=io.StringIO())


def test_a_decoder_alone_leaves_the_tokens_and_resumes_exactly(
    finished: Finished, tmp_path: Path
) -> None:
    tokenizer = decoder_alone(
        finished,
        loss=PictureLossConfig(
            adversarial=0.5,
            discriminator=DiscriminatorConfig(channels=4, num_layers=1, norm_groups=4),
        ),
        loop=LoopConfig(num_steps=4, batch_size=2, save_every=2),
        optim=OptimConfig(peak_lr=1e-3, warmup_steps=1),
    )
    model = quietly(Recipe(tokenizer=tokenizer), tmp_path / "out")
    found, before = (load_model(path).image_tokenizer for path in (model, finished.model))
    assert found.fingerprint() == before.fingerprint()
    changed = {
        name.split(".")[0]
        for name, weight in before.state_dict().items()
        if not torch.equal(found.state_dict()[name], weight)
    }
    assert changed == {"decoder"}

    shutil.copytree(tmp_path / "out", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "tokenizer" / "model")
    shutil.rmtree(tmp_path / "again" / "tokenizer" / "checkpoints" / "step-00000004")
    again = run(Recipe(tokenizer=tokenizer), tmp_path / "again", resume=True, log=io.StringIO())
    assert contents(again) == contents(model)

    with pytest.raises(SettingError, match=r"set tokenizer\.init"):
        replace(tokenizer, init=None)
    with pytest.raises(SettingError, match=r"set tokenizer\.decoder_only=true"):
        replace(tokenizer, decoder_only=False, refine_steps=1)
    for settings, message in (
        ({"refine_steps": -1}, "refine_steps must be 0 or more"),
        ({"refine_pictures": 3}, r"set tokenizer\.refine_steps too"),
        ({"refine_steps": 1, "refine_pictures": 0}, "refine_pictures must be at least 1"),
        ({"refine_steps": 1, "model": DVAEConfig()}, "only tokens that are nearest codes"),
    ):
        with pytest.raises(SettingError, match=message):
            replace(tokenizer, **settings)
    with pytest.raises(SettingError, match=r"set tokenizer\.augmentation\.noise=0"):
        replace(tokenizer, augmentation=AugmentConfig(noise=1))


MOVES = AugmentConfig(max_shift=1, flip=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentation": AugmentConfig(recolour=0.1)}, r"set generator\.augmentation\.recolour=0"),
        (
            {"prefix_augmentation": AugmentConfig(recolour=0.1)},
            r"set generator\.prefix_augmentation\.recolour=0",
        ),
        (
            {"prefix_augmentation": AugmentConfig(flip=True)},
            r"set generator\.prefix_augmentation\.flip=false",
        ),
        (
            {"augmentation": MOVES, "loss": GeneratorLossConfig(image_to_text_share=0)},
            r"generator\.augmentation moves .* describes none",
        ),
        (
            {"prefix_augmentation": MOVES, "loss": GeneratorLossConfig(text_to_image_share=0)},
            r"prefix_augmentation moves .* draws none",
        ),
        (
            {"prefix_augmentation": MOVES, "end_to_end": EndToEndConfig()},
            r"leave generator\.prefix_augmentation out",
        ),
    ],
)
def test_moves_that_teach_nothing_true_are_refused(
    finished: Finished, settings: dict[str, Any], message: str
) -> None:
    generator = finished.generator_only.generator
    assert generator is not None
    with pytest.raises(SettingError, match=message):
        replace(generator, **settings)


def test_every_recipe_is_told_whole_by_its_json() -> None:
    assert "emoji_cpu_tiny" in RECIPES
    for name, named in RECIPES.items():
        config = named.recipe()
        assert from_dict(Recipe, json.loads(to_json(config))) == config, name
        assert config.tokenizer or config.generator


def test_the_tiny_recipe_fits_together() -> None:
    recipe = RECIPES["emoji_cpu_tiny"].recipe()
    assert recipe.tokenizer is not None and recipe.generator is not None
    assert recipe.tokenizer.data == recipe.generator.data
    assert recipe.generator.image_tokenizer is None and recipe.generator.init is None
    words = TextTokenizer.from_file(Path(__file__).parents[2] / recipe.generator.vocabulary)
    assert len(words) > 1000
    for stage in (recipe.tokenizer, recipe.generator):
        assert 0 < stage.optim.warmup_steps < stage.loop.num_steps
        assert stage.loop.save_every <= stage.loop.num_steps


def test_a_dvae_lends_its_tokens_to_a_generator(finished: Finished, tmp_path: Path) -> None:
    recipe = finished.recipe
    assert recipe.tokenizer is not None and recipe.generator is not None
    dvae = replace(
        recipe.tokenizer,
        model=replace(SMALL_DVAE, channel_multipliers=(1, 2, 2)),
        loss=PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0),
        codebook=CodebookConfig(alarm_below=0.0),
    )
    generator = replace(
        recipe.generator,
        end_to_end=EndToEndConfig(loss=dvae.loss),
        sampling=SamplingConfig(decoder=Decoder.END_TO_END),
    )
    folder = quietly(Recipe(tokenizer=dvae, generator=generator), tmp_path / "out")
    model = load_model(folder)
    assert isinstance(model.image_tokenizer.config, DVAEConfig) and model.generator is not None
    assert model.generator.config.num_codes == 16
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    ids = model.image_tokenizer.encode(pixels).flatten(1)
    assert model.text_tokenizer is not None
    language = [model.text_tokenizer.language_id("zh")]
    assert len(generate_texts(model.generator, ids, language, [0])) == 1
    losses = [record["nll"] for record in log_records(tmp_path / "out" / "tokenizer")]
    assert losses[-1] < losses[0]
    # End to end, as the paper's ablation: its reconstructor paints what the model draws.
    assert {"nll", "rec", "rec_state_grad"} <= log_records(tmp_path / "out" / "generator")[0].keys()
    vilg = Vilg(model)
    pictures = [vilg.generate("apple", 2, decoder=decoder) for decoder in Decoder]
    assert all(picture.size == (16, 16) for row in pictures for picture in row)
    assert to_array(pictures[0][0]).tobytes() != to_array(pictures[1][0]).tobytes()


def test_a_tokenizer_is_trained_on_any_folder_of_pictures(
    finished: Finished, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(9):
        colour = (25 * i, 255 - 25 * i, 100)
        Image.new("RGB", (20 + i, 31), colour).save(pictures / f"{i}.png")
    assert finished.recipe.tokenizer is not None
    own = replace(finished.recipe.tokenizer, data=DataConfig(source=str(pictures)))
    log = io.StringIO()
    folder = run(Recipe(tokenizer=own), tmp_path / "out", log=log)
    said = f"{pictures}: all pictures of the folder\ntokenizer: 9 pictures\n"
    assert log.getvalue().startswith(said)
    assert load_model(folder).generator is None
    with pytest.raises(DataError, match="holds no picture"):
        empty = replace(
            own, data=DataConfig(source=str(tmp_path / "out" / "tokenizer" / "checkpoints"))
        )
        quietly(Recipe(tokenizer=empty), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("generator.max_text=2", "it reads 1 tokens"),
        ("generator.patterns=[]", "at least one layer"),
        ("tokenizer.optim.peak_lr=-1", "peak_lr must be 0 or more"),
        ("tokenizer.optim.peak_lr=NaN", "from -2^63 to 2^63"),
        ("generator.optim.weight_decay=-1", "weight_decay must be 0 or more"),
        ("tokenizer.loop.seed=99999999999999999999", "from -2^63 to 2^63"),
        ("generator.width=100000000000000000000", "from -2^63 to 2^63"),
        ("generator.init=emoji-64", "no generator of this recipe's shape"),
        ("generator.loss.caption_drop=-1", "caption_drop must be from 0 to 1"),
        ("generator.loss.prompt_share=2", "prompt_share must be from 0 to 1"),
        ("generator.sampling.best_of=-1", "best-of must be at least 1"),
        ("generator.sampling.temperature=-1", "temperature must be 0 or more"),
    ],
)
def test_all_stages_are_checked_before_any_work(
    setting: str, said: str, tmp_path: Path, toy_data: Path
) -> None:
    squares = [
        f"{stage}.data.{key}"
        for stage in ("tokenizer", "generator")
        for key in (f"source={toy_data}", "only=[]")
    ]
    with pytest.raises(VilgError, match=re.escape(said)):
        run(override(RECIPES["emoji_cpu_tiny"].recipe(), [*squares, setting]), tmp_path / "run")
    assert not (tmp_path / "run").exists()

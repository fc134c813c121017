"""A model out of a run: of any layout of its checkpoints, and without its data."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.training.conftest import OPTIM, SMALL_VQGAN
from vilg.config import to_json
from vilg.errors import VilgError
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.folder import Model, load_model, save_model
from vilg.model.generator import Generator
from vilg.model.patterns import paper_patterns
from vilg.model.reconstructor import Reconstructor
from vilg.text import TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.training.checkpoint import CheckpointError
from vilg.training.end_to_end import EndToEndConfig
from vilg.training.export import find_export
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.settings import GeneratorRun, TokenizerRun

WORDS = TextTokenizer("红苹果", ["re", "red"])
NOWHERE = DataConfig(source="nowhere")
LOOP = LoopConfig(num_steps=6, batch_size=4, save_every=2)
GENERATOR_RUN = GeneratorRun(
    data=NOWHERE,
    vocabulary=Path("nowhere.json"),
    width=16,
    num_heads=2,
    patterns=paper_patterns(2),
    max_text=9,
    loop=LOOP,
    optim=OPTIM,
)
TOKENIZER_RUN = TokenizerRun(data=NOWHERE, model=SMALL_VQGAN, loop=LOOP, optim=OPTIM)
BASE = Model(
    ImageTokenizer(SMALL_VQGAN),
    text_tokenizer=WORDS,
    sampling=SamplingConfig(top_k=7),
    latin_words=("noto",),
    languages=("zh",),
)
SHAPE = GENERATOR_RUN.shape(SMALL_VQGAN, len(WORDS))


def random_like(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.randn_like(value) for name, value in state.items()}


def write_checkpoint(folder: Path, averages: dict[str, Tensor], processes: int = 2) -> None:
    """Write averages, and weights that must not be taken, as so many processes do (torch's hf_storage)."""
    folder.mkdir(parents=True)
    tensors = {f"averages.{name}": value for name, value in averages.items()}
    tensors |= {f"weights.{name}": torch.zeros_like(value) for name, value in averages.items()}
    for process in range(processes):
        parts, offsets = {}, {}
        for name, value in tensors.items():
            rows = value.shape[0] if value.ndim else 1
            first, end = (rows * i // processes for i in (process, process + 1))
            if value.ndim and end > first:
                parts[name] = value[first:end].contiguous()
                offsets[name] = {"saved_offsets": [first] + [0] * (value.ndim - 1)}
            elif not value.ndim and process == 0:
                parts[name], offsets[name] = value, {"saved_offsets": []}
        file = f"shard-{process + 1:05d}-model-00001-of-00001.safetensors"
        save_file(parts, folder / file, {"DCP_SHARDING_INFO": json.dumps(offsets)})


def write_stage(
    run: Path,
    settings: GeneratorRun | TokenizerRun,
    averages: dict[int, dict[str, Tensor]],
    processes: int = 2,
) -> Path:
    """Write what a stage leaves when it is broken off: settings, base, checkpoints by their steps."""
    stage = run / ("generator" if isinstance(settings, GeneratorRun) else "tokenizer")
    stage.mkdir(parents=True)
    (stage / "config.json").write_text(to_json(settings), encoding="utf-8")
    if isinstance(settings, GeneratorRun):
        save_model(stage / "base", BASE)
    for step, values in averages.items():
        write_checkpoint(stage / "checkpoints" / f"step-{step:08d}", values, processes)
    return stage


def generator_averages(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return random_like(Generator(SHAPE).state_dict())


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A generator's, with two checkpoints by two processes."""
    averages = {step: generator_averages(step) for step in (2, 4)}
    return write_stage(tmp_path / "run", GENERATOR_RUN, averages)


def equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return state.keys() == expected.keys() and all(
        torch.equal(value, expected[name]) for name, value in state.items()
    )


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_makes_the_same_model(processes: int, tmp_path: Path) -> None:
    write_stage(tmp_path / "run", GENERATOR_RUN, {2: generator_averages(0)}, processes)
    model, origin = find_export(str(tmp_path / "run"))
    assert model.generator is not None and model.generator.config == SHAPE
    assert equal(model.generator.state_dict(), generator_averages(0))
    assert origin == f"averages of step 2 of {tmp_path / 'run' / 'generator'}"
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    assert loaded.text_tokenizer is not None
    assert loaded.text_tokenizer.fingerprint == WORDS.fingerprint
    assert loaded.image_tokenizer.fingerprint() == BASE.image_tokenizer.fingerprint()
    found = (loaded.sampling, loaded.latin_words, loaded.languages)
    assert found == (BASE.sampling, BASE.latin_words, BASE.languages)


def test_the_last_step_is_taken_unless_another_is_named(stage: Path) -> None:
    for source, step, taken in (
        (stage.parent, None, 4),
        (stage, None, 4),
        (stage, 2, 2),
        (stage / "checkpoints" / "step-00000002", None, 2),
    ):
        model, origin = find_export(str(source), step)
        assert origin.startswith(f"averages of step {taken} of")
        assert model.generator is not None
        assert equal(model.generator.state_dict(), generator_averages(taken))


def test_what_is_not_whole_is_no_checkpoint(stage: Path) -> None:
    last = stage / "checkpoints" / "step-00000004"
    last.rename(last.with_name("step-00000004.incomplete"))
    assert find_export(str(stage))[1].startswith("averages of step 2 of")


def test_shared_codes_are_folded_before_they_are_rounded(tmp_path: Path) -> None:
    settings, averages = replace(GENERATOR_RUN, share_codes=True), generator_averages(0)
    expected = dict(averages)
    for part in ("image_embedding", "image_head"):
        own = averages.pop(f"{part}.weight")
        codebook, mix = torch.randn(SMALL_VQGAN.num_codes, 4), torch.randn(4, 16)
        shared = f"{part}.parametrizations.weight"
        averages |= {f"{shared}.original": own, f"{shared}.0.mix_DC": mix}
        averages[f"{shared}.0.codebook_KD"] = codebook
        expected[f"{part}.weight"] = own + codebook @ mix
    write_stage(tmp_path, settings, {2: averages})
    generator = find_export(str(tmp_path))[0].generator
    assert generator is not None
    assert equal(generator.state_dict(), expected)


def test_end_to_end_a_model_has_its_reconstructor_and_no_discriminator(tmp_path: Path) -> None:
    reconstructor = Reconstructor(16, BASE.image_tokenizer)
    averages = {f"learner.generator.{name}": x for name, x in generator_averages(0).items()}
    averages |= random_like(reconstructor.state_dict(), "learner.reconstructor.")
    averages["discriminator.weight"] = torch.zeros(2)
    sampling = SamplingConfig(decoder=Decoder.END_TO_END)
    settings = replace(GENERATOR_RUN, end_to_end=EndToEndConfig(), sampling=sampling)
    write_stage(tmp_path, settings, {2: averages})
    model, _ = find_export(str(tmp_path))
    assert model.generator is not None and model.reconstructor is not None
    assert equal(model.generator.state_dict(), generator_averages(0))
    expected = {
        name.removeprefix("learner.reconstructor."): value
        for name, value in averages.items()
        if name.startswith("learner.reconstructor.")
    }
    assert equal(model.reconstructor.state_dict(), expected)


def test_an_image_tokenizer_is_a_model_too(tmp_path: Path) -> None:
    averages = random_like(ImageTokenizer(SMALL_VQGAN).state_dict(), "learner.tokenizer.")
    averages["learner.codebook.counts"] = torch.zeros(SMALL_VQGAN.num_codes)
    write_stage(tmp_path, TOKENIZER_RUN, {2: averages})
    model, _ = find_export(str(tmp_path))
    assert model.generator is None
    for name, value in model.image_tokenizer.state_dict().items():
        assert torch.equal(value, averages[f"learner.tokenizer.{name}"])
    save_model(tmp_path / "model", model)
    load_model(tmp_path / "model")


def test_a_decoder_alone_has_the_encoder_that_it_began_with(tmp_path: Path) -> None:
    save_model(tmp_path / "init", Model(ImageTokenizer(SMALL_VQGAN)))
    init = load_model(tmp_path / "init").image_tokenizer
    averages = random_like(init.decoder.state_dict(), "learner.decoder.")
    settings = replace(TOKENIZER_RUN, init=str(tmp_path / "init"), decoder_only=True)
    write_stage(tmp_path, settings, {2: averages})
    made = find_export(str(tmp_path))[0].image_tokenizer
    assert made.fingerprint() == init.fingerprint()
    for name, value in made.decoder.state_dict().items():
        assert torch.equal(value, averages[f"learner.decoder.{name}"])


def test_a_model_folder_is_taken_as_it_is(stage: Path, tmp_path: Path) -> None:
    model, _ = find_export(str(stage))
    save_model(tmp_path / "first", replace(model, stored_as=torch.bfloat16))
    again, origin = find_export(str(tmp_path / "first"))
    assert origin == f"weights of {tmp_path / 'first'}"
    assert again.generator is not None
    held = load_file(tmp_path / "first" / "model.safetensors")
    assert equal(again.generator.state_dict(), held)
    # A run whose checkpoints were thrown away has its model still.
    save_model(stage / "model", model)
    shutil.rmtree(stage / "checkpoints")
    assert find_export(str(stage.parent))[1] == f"weights of {stage / 'model'}"


def lose_a_process(stage: Path) -> None:
    min((stage / "checkpoints/step-00000004").glob("shard-00001-*")).unlink()


def lose_the_last_process(stage: Path) -> None:
    min((stage / "checkpoints/step-00000004").glob("shard-00002-*")).unlink()


def lose_all(stage: Path) -> None:
    for file in (stage / "checkpoints/step-00000004").iterdir():
        file.unlink()


def cut(stage: Path) -> None:
    file = min((stage / "checkpoints/step-00000004").iterdir())
    file.write_bytes(file.read_bytes()[:-10])


def be_wider(stage: Path) -> None:
    (stage / "config.json").write_text(to_json(replace(GENERATOR_RUN, width=32)), encoding="utf-8")


def be_shallower(stage: Path) -> None:
    shallow = replace(GENERATOR_RUN, patterns=paper_patterns(1))
    (stage / "config.json").write_text(to_json(shallow), encoding="utf-8")


def lose_the_base(stage: Path) -> None:
    shutil.rmtree(stage / "base")


def spoil_the_settings(stage: Path) -> None:
    (stage / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose_a_process, "step-00000004 is damaged"),
        (lose_the_last_process, "step-00000004 belongs to another model, or lacks files"),
        (lose_all, "step-00000004 belongs to another model, or lacks files"),
        (cut, "step-00000004 is damaged"),
        (be_wider, "belongs to another model, or lacks files: averages.text_embedding.weight"),
        (be_shallower, "belongs to another model, or lacks files: averages.transformer.blocks.1"),
        (lose_the_base, "base/config.json: No such file"),
        (spoil_the_settings, "config.json does not hold a run's settings"),
    ],
)
def test_damage_is_said(stage: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(stage)
    with pytest.raises(VilgError) as caught:
        find_export(str(stage))
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_step_that_is_not_there_is_said(stage: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3: there are 2, 4"):
        find_export(str(stage), 3)
    with pytest.raises(VilgError, match="leave --step out"):
        find_export(str(stage / "checkpoints" / "step-00000002"), 4)
    with pytest.raises(VilgError, match="no checkpoints: leave --step out"):
        find_export("emoji-64", 4)
    with pytest.raises(VilgError, match="no model at"):
        find_export(str(stage.parent / "missing"))

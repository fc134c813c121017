"""A checkpoint brings everything back, and says plainly when it cannot."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from tests.training.conftest import (
    JOBS,
    OPTIM,
    SMALL_GENERATOR,
    SMALL_VQGAN,
    VOCABULARY,
    assert_equal_states,
    draw_tokens,
    generator_job,
    make_job,
    read_checkpoint,
    tensors,
    toy_pairs,
)
from vilg.training.checkpoint import CheckpointError, TrainState, restore, save
from vilg.training.generator_job import GeneratorLossConfig
from vilg.training.loop import Job, LoopConfig, take_turn
from vilg.training.optim import build_optimizer, update_ema
from vilg.training.tokenizer_job import TokenizerJob

LOOP = LoopConfig(num_steps=8, batch_size=4)


def fresh_state(job: Job) -> TrainState:
    averages = {name: value.clone() for name, value in job.module.state_dict().items()}
    optimizers = [build_optimizer(OPTIM, turn.module) for turn in job.turns]
    return TrainState(job.module, averages, optimizers)


def advance(job: Job, state: TrainState, steps: int) -> None:
    for _ in range(steps):
        for turn, optimizer in zip(job.turns, state.optimizers, strict=True):
            take_turn(turn, optimizer, OPTIM, state.step)
        job.after_step(state.step)
        update_ema(state.averages, job.module, OPTIM.ema_decay, state.step)
        state.step += 1


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], tuple[Job, TrainState]]:
    """Train a job for three steps and save it."""

    def build(kind: str) -> tuple[Job, TrainState]:
        job = make_job(kind, LOOP)
        state = fresh_state(job)
        advance(job, state, 3)
        save(tmp_path, state)
        return job, state

    return build


@pytest.mark.parametrize("kind", JOBS)
def test_everything_comes_back_bit_for_bit(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path, kind: str
) -> None:
    job, state = saved(kind)
    other = make_job(kind, replace(LOOP, seed=9))
    found = fresh_state(other)
    assert not torch.equal(*(next(part.module.parameters()) for part in (found, state)))
    restore(tmp_path, found)
    assert_equal_states(found, state)
    names = tensors(found)
    assert sum(name.endswith(("exp_avg", "exp_avg_sq")) for name in names) == 2 * len(
        list(job.module.parameters())
    )
    # The averages are those of the weights, not the weights again.
    assert any(not torch.equal(names[f"module {n}"], v) for n, v in found.averages.items())
    if kind == "tokenizer":
        counts_K = names["module learner.codebook.use.counts_K"]
        assert not torch.allclose(counts_K, torch.tensor(1 / 32))


def test_moments_lie_in_memory_as_their_weights_do(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path
) -> None:
    """The fused optimizer walks flat memory, and convolutions are channels-last."""
    saved("tokenizer")
    state = fresh_state(make_job("tokenizer", LOOP))
    restore(tmp_path, state)
    moments = [
        (parameter, own[name])
        for parameter, own in state.optimizers[0].state.items()
        for name in ("exp_avg", "exp_avg_sq")
    ]
    assert any(not parameter.is_contiguous() for parameter, _ in moments)
    assert all(moment.stride() == parameter.stride() for parameter, moment in moments)


@pytest.mark.parametrize("kind", JOBS)
def test_the_next_steps_are_the_same_too(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path, kind: str
) -> None:
    job, state = saved(kind)
    other = make_job(kind, LOOP)
    found = fresh_state(other)
    restore(tmp_path, found)
    advance(job, state, 2)
    advance(other, found, 2)
    assert_equal_states(found, state)


def test_a_later_change_does_not_reach_what_was_saved(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path
) -> None:
    job, state = saved("tokenizer")
    before = {name: value.clone() for name, value in tensors(state).items()}
    advance(job, state, 1)
    restore(tmp_path, state)
    assert state.step == 3
    assert all(torch.equal(value, before[name]) for name, value in tensors(state).items())


def test_the_last_two_are_kept_and_the_newest_restored(tmp_path: Path) -> None:
    job = make_job("generator", LOOP)
    state = fresh_state(job)
    advance(job, state, 1)
    for step in (8, 9, 10, 100_000):
        state.step = step
        written = save(tmp_path, state)
        assert written == tmp_path / f"step-{step:08d}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00100000"]
    restore(tmp_path, state)
    assert state.step == 100_000


def test_an_incomplete_checkpoint_is_ignored_and_replaced(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path
) -> None:
    job, state = saved("generator")
    for step in (4, 7):  # one that will be written again, and one ahead of it
        unfinished = tmp_path / f"step-{step:08d}.incomplete"
        unfinished.mkdir()
        (unfinished / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half a ")
        (unfinished / "stray").write_bytes(b"?")
    other = fresh_state(make_job("generator", LOOP))
    restore(tmp_path, other)
    assert_equal_states(other, state)

    advance(job, state, 1)
    save(tmp_path, state)
    assert not (tmp_path / "step-00000004.incomplete").exists()
    names = {path.name for path in (tmp_path / "step-00000004").iterdir()}
    assert names == {"shard-00001-model-00001-of-00001.safetensors"}
    restore(tmp_path, other)
    assert_equal_states(other, state)


def test_a_save_broken_off_before_its_end_leaves_the_last_one(
    saved: Callable[[str], tuple[Job, TrainState]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, state = saved("generator")
    before = {name: value.clone() for name, value in tensors(state).items()}
    advance(job, state, 1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr(Path, "rename", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, state)
    found = fresh_state(make_job("generator", LOOP))
    restore(tmp_path, found)
    assert found.step == 3
    assert all(torch.equal(value, before[name]) for name, value in tensors(found).items())
    save(tmp_path, state)
    restore(tmp_path, found)
    assert_equal_states(found, state)


def test_the_same_step_can_be_saved_again(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path
) -> None:
    _, state = saved("generator")
    with torch.no_grad():
        next(state.module.parameters()).fill_(7)
    save(tmp_path, state)
    found = fresh_state(make_job("generator", LOOP))
    restore(tmp_path, found)
    assert_equal_states(found, state)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    state = fresh_state(make_job("generator", LOOP))
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match=f"no checkpoint in {folder}"):
            restore(folder, state)
    (tmp_path / "step-00000004.incomplete").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        restore(tmp_path, state)


def wider() -> Job:
    job = make_job("tokenizer", LOOP)
    assert isinstance(job, TokenizerJob)
    wide = replace(SMALL_VQGAN, channels=16)
    pictures = job.pictures_NYX3
    return TokenizerJob(
        wide,
        job.picture_loss.config,
        job.codebook.config,
        job.augmentation,
        LOOP,
        pictures,
        pictures[:2],
    )


@pytest.mark.parametrize("other", [wider, lambda: make_job("generator", LOOP)])
def test_another_models_checkpoint_is_refused_in_one_line(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path, other: Callable[[], Job]
) -> None:
    saved("tokenizer")
    with pytest.raises(CheckpointError, match="step-00000003 belongs to another model") as caught:
        restore(tmp_path, fresh_state(other()))
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_named(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path
) -> None:
    _, state = saved("generator")
    (path,) = (tmp_path / "step-00000003").iterdir()
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], b""):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"step-00000003 is damaged") as caught:
            restore(tmp_path, state)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"step-00000003 .*or lacks files"):
        restore(tmp_path, state)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change tensors of a checkpoint, whose format stays."""
    tensors = read_checkpoint(folder)
    change(tensors)
    shutil.rmtree(folder)
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    save_shards(tensors, storage_writer=writer, no_dist=True)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("part", ["weights", "averages", "moments"])
def test_a_checkpoint_without_its_own_state_is_refused(
    saved: Callable[[str], tuple[Job, TrainState]], tmp_path: Path, part: str
) -> None:
    """Of every part one tensor is gone, too many, or of another shape."""
    _, state = saved("generator")
    path, tail = tmp_path / "step-00000003", ".exp_avg_sq" if part == "moments" else ""
    name = f"{part}.text_head.bias{tail}"
    original = read_checkpoint(path)[name]

    def foreign(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{part}.foreign"] = torch.zeros(2)

    def shorter(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[f"{part}.foreign"]
        tensors[name] = original[:-1].clone()

    for change in (lambda tensors: tensors.pop(name), foreign, shorter):
        rewrite(path, change)
        with pytest.raises(CheckpointError, match="step-00000003 belongs to another model"):
            restore(tmp_path, state)
    rewrite(path, lambda tensors: tensors.update({name: original}))
    restore(tmp_path, state)


def test_weights_that_no_gradient_reaches_come_back_too(tmp_path: Path) -> None:
    loss = GeneratorLossConfig(image_to_text_share=0.0)
    job = generator_job(SMALL_GENERATOR, loss, LOOP, toy_pairs(7), VOCABULARY, draw_tokens)
    state = fresh_state(job)
    advance(job, state, 2)
    save(tmp_path, state)
    found = fresh_state(job)
    restore(tmp_path, found)
    assert_equal_states(found, state)

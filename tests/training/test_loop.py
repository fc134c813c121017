"""Training goes on after any interruption as if there had been none, and stops in time."""

import io
import math
import shutil
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import (
    JOBS,
    OPTIM,
    Until,
    assert_equal_states,
    checkpoint_bytes,
    finish,
    forking,
    log_records,
    loss_of,
    make_job,
    picture_bytes,
    read_checkpoint,
    train_until,
)
from vilg.data.order import batch_ids
from vilg.images import to_pixels
from vilg.model.attend import attend, attend_dense
from vilg.model.generator import Generator, text_to_image_layout
from vilg.model.patterns import Pattern
from vilg.model.segments import Grid
from vilg.model.transformer import HeadNorm
from vilg.parallel import Share
from vilg.training.augment import AugmentConfig, augment
from vilg.training.checkpoint import CheckpointError, TrainState
from vilg.training.generator_job import GeneratorJob
from vilg.training.loop import LoopConfig, TrainingPrecision, Turn, take_turn, train
from vilg.training.optim import OptimConfig, build_optimizer, learning_rate
from vilg.training.picture_loss import PictureLoss, PictureLossConfig
from vilg.training.tokenizer_job import TokenizerJob
from vilg.training.tracking import NonFiniteLoss, Tracker

LOOP = LoopConfig(num_steps=10, batch_size=4, log_every=1, save_every=5)


@pytest.fixture(scope="module", params=JOBS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name the job."""
    return request.param


@dataclass(frozen=True)
class Whole:
    """A run of ten steps that nothing broke off; no test changes it."""

    folder: Path
    state: TrainState


@pytest.fixture(scope="module")
def whole(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Train the job in one go."""
    folder = tmp_path_factory.mktemp(kind)
    return Whole(folder, finish(kind, LOOP, folder))


def assert_equal_runs(found: Path, expected: Path) -> None:
    """Compare the log but for the time, and the last checkpoint byte for byte."""
    assert log_records(found) == log_records(expected)
    assert checkpoint_bytes(found) == checkpoint_bytes(expected)


def test_ten_steps_are_five_then_five(kind: str, whole: Whole, tmp_path: Path) -> None:
    train_until(5, kind, LOOP, tmp_path, resume=False)
    assert_equal_states(finish(kind, LOOP, tmp_path, resume=True), whole.state)
    assert_equal_runs(tmp_path, whole.folder)
    assert [record["step"] for record in log_records(tmp_path)] == list(range(1, 11))


def test_ten_steps_are_four_then_three_then_three(kind: str, whole: Whole, tmp_path: Path) -> None:
    often = replace(LOOP, save_every=1)
    train_until(4, kind, often, tmp_path, resume=False)
    train_until(7, kind, often, tmp_path, resume=True)
    assert_equal_states(finish(kind, often, tmp_path, resume=True), whole.state)
    assert_equal_runs(tmp_path, whole.folder)


def test_steps_after_the_last_checkpoint_are_done_again(
    kind: str, whole: Whole, tmp_path: Path
) -> None:
    train_until(8, kind, LOOP, tmp_path, resume=False)
    assert [record["step"] for record in log_records(tmp_path)] == list(range(1, 9))
    train_until(5, kind, LOOP, tmp_path, resume=True)  # broken off again before its first step
    assert [record["step"] for record in log_records(tmp_path)] == list(range(1, 6))
    assert_equal_states(finish(kind, LOOP, tmp_path, resume=True), whole.state)
    assert_equal_runs(tmp_path, whole.folder)


LONGER = LoopConfig(num_steps=16, batch_size=4, log_every=1, save_every=3)


class Told(io.StringIO):
    """A log that another process reads line by line."""

    def __init__(self, reader: Connection):
        super().__init__()
        self.reader = reader

    def write(self, text: str) -> int:
        self.reader.send(text)
        return len(text)


def train_until_killed(kind: str, folder: Path, reader: Connection) -> None:
    torch.set_num_threads(1)
    job = Until(make_job(kind, LONGER), 13, lambda: time.sleep(600))  # ends only by being killed
    train(job, LONGER, [OPTIM] * len(job.turns), folder, out=Told(reader))


def test_a_killed_process_resumes_exactly(kind: str, tmp_path: Path) -> None:
    uncut, parts = tmp_path / "uncut", tmp_path / "parts"
    lines, told = forking().Pipe(duplex=False)
    child = forking().Process(target=train_until_killed, args=(kind, parts, told))
    child.start()
    told.close()
    seen, line = 0, ""
    while not line.startswith("step 7/16 "):  # it runs on meanwhile, and dies where it is
        line = lines.recv()
        seen += line.startswith("step ")  # the alarm may speak between
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert seen == 7
    expected = finish(kind, LONGER, uncut)
    assert_equal_states(finish(kind, LONGER, parts, resume=True), expected)
    assert_equal_runs(parts, uncut)


def test_resuming_a_finished_run_changes_nothing(kind: str, whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.folder, tmp_path / "again")
    assert_equal_states(finish(kind, LOOP, tmp_path / "again", resume=True), whole.state)
    log = (whole.folder / "log.jsonl").read_bytes()
    assert (tmp_path / "again" / "log.jsonl").read_bytes() == log
    assert checkpoint_bytes(tmp_path / "again") == checkpoint_bytes(whole.folder)


def test_resuming_from_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        finish("generator", LOOP, tmp_path, resume=True)


def test_the_result_is_the_moving_average(kind: str, whole: Whole, tmp_path: Path) -> None:
    learnt, averages = whole.state.module.state_dict(), whole.state.averages
    assert all(torch.equal(learnt[name], value) for name, value in averages.items())
    last = finish_with(kind, replace(OPTIM, ema_decay=0.0), tmp_path)
    saved = read_checkpoint(whole.folder / "checkpoints" / "step-00000010")
    assert all(torch.equal(saved[f"weights.{name}"], value) for name, value in last.items())
    assert any(not torch.equal(last[name], value) for name, value in averages.items())


def finish_with(kind: str, optim: OptimConfig, folder: Path) -> dict[str, Tensor]:
    job = make_job(kind, LOOP)
    state = train(job, LOOP, [optim] * len(job.turns), folder, out=io.StringIO())
    return state.module.state_dict()


def test_the_rate_follows_the_schedule(whole: Whole, tmp_path: Path) -> None:
    rates = [record["lr"] for record in log_records(whole.folder)]
    assert rates == [learning_rate(OPTIM, step, 10) for step in range(10)]
    # And it is the rate that is taken: under one gradient for ever AdamW moves by just that.
    job = Slope()
    before = job.module.bias.item()
    plain = replace(OPTIM, weight_decay=0.0, ema_decay=0.0)
    train(job, LOOP, [plain], tmp_path, out=io.StringIO())
    assert before - job.module.bias.item() == pytest.approx(sum(rates), rel=1e-3)


def test_other_users_of_random_numbers_do_not_matter(
    kind: str, whole: Whole, tmp_path: Path
) -> None:
    class Noisy(Until):
        def loss(self, step: int, share: Share) -> tuple[Tensor, dict[str, Tensor]] | None:
            torch.rand(1 + step)
            np.random.rand(3)
            return super().loss(step, share)

    torch.manual_seed(123)
    before = torch.get_rng_state()
    job = make_job(kind, LOOP)
    assert torch.equal(torch.get_rng_state(), before)  # nor is anybody else disturbed
    torch.manual_seed(321)
    found = train(Noisy(job, -1), LOOP, [OPTIM] * len(job.turns), tmp_path, out=io.StringIO())
    assert_equal_states(found, whole.state)
    assert_equal_runs(tmp_path, whole.folder)


def test_the_seed_decides(kind: str) -> None:
    one, same, two = (make_job(kind, replace(LOOP, seed=seed)) for seed in (0, 0, 1))
    a, b, c = (
        torch.cat([weight.flatten() for weight in job.module.parameters()])
        for job in (one, same, two)
    )
    assert torch.equal(a, b) and not torch.isclose(a, c).all()
    # Not the initial weights alone: the order of samples and their choices differ too.
    two.module.load_state_dict(one.module.state_dict())
    assert [loss_of(one, s)[0].item() for s in range(3)] != [
        loss_of(two, s)[0].item() for s in range(3)
    ]


def test_showing_samples_changes_nothing(kind: str, whole: Whole, tmp_path: Path) -> None:
    found = finish(kind, replace(LOOP, show_every=4), tmp_path)
    assert_equal_states(found, whole.state)
    assert_equal_runs(tmp_path, whole.folder)
    assert not (whole.folder / "samples").exists()
    shown = sorted(path.name for path in (tmp_path / "samples").glob("*.png"))
    assert shown == ["step-00000004.png", "step-00000008.png"]
    first, second = (picture_bytes(tmp_path / "samples" / name) for name in shown)
    assert first != second
    if kind == "generator":
        texts = (tmp_path / "samples" / "step-00000004.tsv").read_text(encoding="utf-8")
        assert texts.count("\n") == texts.count("\t") == 8


def test_logs_and_checkpoints_come_as_often_as_asked(tmp_path: Path) -> None:
    loop = replace(LOOP, num_steps=11, log_every=4, save_every=3)
    out = io.StringIO()
    train(make_job("generator", loop), loop, [OPTIM], tmp_path, out=out)
    assert [record["step"] for record in log_records(tmp_path)] == [4, 8, 11]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000009", "step-00000011"]
    assert [line.split("  ")[0] for line in out.getvalue().splitlines()] == [
        "step 4/11",
        "step 8/11",
        "step 11/11",
    ]


def test_a_loss_that_is_no_number_stops_before_the_weights_are_touched(tmp_path: Path) -> None:
    job = make_job("generator", LOOP)
    assert isinstance(job, GeneratorJob)
    with torch.no_grad():
        job.module.text_head.bias[0] = math.inf
    before = {name: value.clone() for name, value in job.module.state_dict().items()}
    with pytest.raises(NonFiniteLoss, match=r"at step 0: .*lower peak_lr"):
        train(job, LOOP, [OPTIM], tmp_path, out=io.StringIO())
    assert all(torch.equal(job.module.state_dict()[name], v) for name, v in before.items())
    assert not (tmp_path / "log.jsonl").exists() and not (tmp_path / "checkpoints").exists()


def test_a_run_that_diverges_keeps_its_last_good_weights(kind: str, tmp_path: Path) -> None:
    """The step that a mad rate takes is finite; the loss after it is not."""
    loop, mad = replace(LOOP, save_every=1), OptimConfig(peak_lr=1e30, warmup_steps=0)
    job = make_job(kind, loop)
    with pytest.raises(NonFiniteLoss) as caught:
        train(job, loop, [mad] * len(job.turns), tmp_path, out=io.StringIO())
    records = log_records(tmp_path)
    last = records[-1]["step"]
    assert f"at step {last}:" in str(caught.value)
    other = make_job(kind, loop)
    # The newest checkpoint holds just what the module still has.
    with pytest.raises(NonFiniteLoss, match=f"at step {last}:"):
        train(other, loop, [mad] * len(job.turns), tmp_path, resume=True, out=io.StringIO())
    learnt, kept = job.module.state_dict(), other.module.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in learnt.items())
    assert all(value.isfinite().all() for value in learnt.values())
    assert log_records(tmp_path) == records


class Cliff:
    """A job whose loss is fine while its gradient is infinite: the root at zero."""

    def __init__(self) -> None:
        self.module = nn.Linear(2, 1)
        nn.init.zeros_(self.module.weight)
        self.turns = [Turn("", self.module, [self.loss])]

    def alarm(self, values: dict[str, float]) -> str | None:
        return None

    def loss(self, step: int, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self.module.weight.abs().sum().sqrt() + self.module.bias.square().sum()
        return loss, {}

    def after_step(self, step: int) -> dict[str, Tensor]:
        return {}

    def show(self, step: int, folder: Path) -> None:
        raise AssertionError("never asked for")


def test_an_infinite_gradient_under_a_finite_loss_stops_too(tmp_path: Path) -> None:
    job = Cliff()
    bias = job.module.bias.detach().clone()
    with pytest.raises(NonFiniteLoss, match=r"grad_norm is (nan|inf) at step 0"):
        train(job, LOOP, [OPTIM], tmp_path, out=io.StringIO())
    assert not job.module.weight.any() and torch.equal(job.module.bias, bias)


class Slope(Cliff):
    """A job with a long gradient that never changes."""

    def loss(self, step: int, share: Share) -> tuple[Tensor, dict[str, Tensor]]:
        return 30 * self.module.weight.sum() + 40 * self.module.bias.sum(), {}


def test_gradients_are_clipped_to_the_norm_and_logged_as_they_were(tmp_path: Path) -> None:
    state = train(Slope(), replace(LOOP, num_steps=1), [OPTIM], tmp_path, out=io.StringIO())
    norm = math.sqrt(2 * 30**2 + 40**2)
    assert log_records(tmp_path)[0]["grad_norm"] == pytest.approx(norm)
    moments = [part["exp_avg"] for part in state.optimizers[0].state_dict()["state"].values()]
    seen = torch.cat([moment.flatten() for moment in moments]) / (1 - OPTIM.betas[0])
    assert seen.norm() == pytest.approx(OPTIM.clip_norm, rel=1e-4)


class TwoSlopes(Slope):
    """A job of two turns, each with a network of its own."""

    def __init__(self) -> None:
        super().__init__()
        one, other = nn.Linear(2, 1), nn.Linear(2, 1)
        self.module = nn.ModuleDict({"one": one, "other": other})  # type: ignore[assignment]
        self.turns = [
            Turn(name, part, [lambda step, share, part=part: (50 * part.bias.sum(), {})])
            for name, part in (("", one), ("other", other))
        ]


def test_each_turn_has_its_own_rate_and_norm(tmp_path: Path) -> None:
    job, plain = TwoSlopes(), replace(OPTIM, weight_decay=0.0, ema_decay=0.0)
    other = replace(plain, peak_lr=3e-2, final_lr=3e-2, warmup_steps=0, clip_norm=4.0)
    optims = [plain, replace(other, ema_decay=0.9)]  # averages are the first one's affair
    before = [turn.module.bias.item() for turn in job.turns]
    state = train(job, LOOP, optims, tmp_path, out=io.StringIO())
    # Under one gradient for ever AdamW moves by just its rate.
    moved = [old - turn.module.bias.item() for old, turn in zip(before, job.turns, strict=True)]
    expected = [sum(learning_rate(plain, step, 10) for step in range(10)), 10 * 3e-2]
    assert moved == pytest.approx(expected, rel=1e-3)
    for optim, optimizer in zip(optims, state.optimizers, strict=True):
        moments = [part["exp_avg"] for part in optimizer.state_dict()["state"].values()]
        largest = max(float(moment.abs().max()) for moment in moments)
        assert largest / (1 - optim.betas[0] ** 10) == pytest.approx(optim.clip_norm, rel=1e-4)


def test_a_run_computes_in_the_precision_of_its_settings(tmp_path: Path) -> None:
    losses = []
    for precision in TrainingPrecision:
        loop = replace(LOOP, num_steps=1, precision=precision)
        finish("generator", loop, tmp_path / precision)
        losses.append(log_records(tmp_path / precision)[0]["loss"])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)


def test_gradients_do_not_pile_up_over_steps(tmp_path: Path) -> None:
    train(Slope(), replace(LOOP, num_steps=4), [OPTIM], tmp_path, out=io.StringIO())
    norms = [record["grad_norm"] for record in log_records(tmp_path)]
    assert norms == pytest.approx([norms[0]] * 4)


def test_a_half_written_last_line_is_dropped(tmp_path: Path) -> None:
    """Whatever the byte at which the disk was full or the process died."""
    path = tmp_path / "log.jsonl"
    tracker = Tracker(tmp_path, 10, 4, 0, io.StringIO())
    for step in (1, 2, 3):
        tracker.log(step, {"loss": 0.5})
    text = path.read_text()
    whole = text.splitlines()
    for length in range(len(text) - len(whole[2]) - 1, len(text)):
        path.write_text(text[:length])
        tracker = Tracker(tmp_path, 10, 4, 2, io.StringIO())
        assert path.read_text().splitlines() == whole[:2], f"cut at {text[:length][-20:]!r}"
        tracker.log(3, {"loss": 0.25})
        assert [record["step"] for record in log_records(tmp_path)] == [1, 2, 3]


def test_a_run_resumes_over_a_half_written_log(kind: str, whole: Whole, tmp_path: Path) -> None:
    train_until(6, kind, LOOP, tmp_path, resume=False)
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    finish(kind, LOOP, tmp_path, resume=True)
    assert_equal_runs(tmp_path, whole.folder)


def test_the_tokenizers_choices_belong_to_picture_and_step() -> None:
    """Shift and mirror of a picture do not depend on its place in the batch or its mates."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (30, 8, 8, 3), dtype=np.uint8)  # 255 is the ground
    config = AugmentConfig(max_shift=2)
    ids = np.arange(30)
    together = augment(pictures, 5, 3, ids, config)
    some = np.array([17, 2, 29])
    assert np.array_equal(augment(pictures[some], 5, 3, some, config), together[some])
    assert np.array_equal(augment(pictures, 5, 3, ids, config), together)
    assert not np.array_equal(augment(pictures, 5, 4, ids, config), together)
    assert not np.array_equal(augment(pictures, 6, 3, ids, config), together)

    seen = set()
    for before, after in zip(pictures, together, strict=True):
        white = np.pad(before, ((2, 2), (2, 2), (0, 0)), constant_values=255)
        matches = [
            (y, x, mirrored)
            for y in range(5)
            for x in range(5)
            for mirrored in (False, True)
            if np.array_equal(white[y : y + 8, x : x + 8][:, :: -1 if mirrored else 1], after)
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(5))
    assert len({(y, x) for y, x, _ in seen}) > 10  # each axis by itself
    assert {mirrored for _, _, mirrored in seen} == {False, True}

    plain = AugmentConfig(max_shift=0, flip=False)
    assert np.array_equal(augment(pictures, 5, 3, ids, plain), pictures)


def test_the_tokenizers_loss_is_its_formula() -> None:
    job = make_job("tokenizer", LOOP)
    assert isinstance(job, TokenizerJob)
    job.picture_loss = PictureLoss(PictureLossConfig(l1=0.5, l2=3.0))
    with torch.no_grad():
        total, parts = loss_of(job, 2)
    ids = batch_ids(0, 2, 4, 7)
    pixels = to_pixels(augment(job.pictures_NYX3[ids], 0, 2, ids, job.augmentation))
    with torch.no_grad():
        codes, _, commitment = job.tokenizer.quantizer(job.tokenizer.encoder(pixels))
        reconstruction = job.tokenizer.decoder(codes)
    l1 = (reconstruction - pixels).abs().mean()
    l2 = (reconstruction - pixels).square().mean()
    assert float(total) == pytest.approx(float(0.5 * l1 + 3 * l2 + 0.1 * commitment), rel=1e-5)
    assert float(parts["l1"]) == pytest.approx(float(l1), rel=1e-5)
    # Peak over error in bytes: 20 log10(255 / rmse), the mean over pictures.
    rmse_B = (reconstruction - pixels).square().mean((1, 2, 3)).sqrt() * 127.5
    psnr = sum(20 * math.log10(255 / float(rmse)) for rmse in rmse_B) / len(ids)
    assert float(parts["psnr"]) == pytest.approx(psnr, rel=1e-5)


def test_bf16_is_for_products_alone() -> None:
    """The generator's norms and softmax, and every loss, are computed in fp32."""
    job = make_job("generator", LOOP)
    assert isinstance(job, GeneratorJob)
    config = replace(job.generator.config, qk_norm=True)
    job.generator = Generator(config)
    found: dict[str, set[torch.dtype]] = {"norms": set(), "products": set(), "heads' norms": set()}

    def note(kind: str, dtype: torch.dtype) -> None:
        found[kind].add(dtype)

    for part in job.generator.modules():
        if isinstance(part, nn.LayerNorm):
            part.register_forward_hook(lambda part, x, out: note("norms", out.dtype))
        elif isinstance(part, nn.Linear):
            part.register_forward_hook(lambda part, x, out: note("products", out.dtype))
        elif isinstance(part, nn.RMSNorm):
            part.register_forward_pre_hook(lambda part, x: note("heads' norms", part.weight.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, parts = loss_of(job, 0)
    assert found["products"] == {torch.bfloat16}
    assert found["norms"] == found["heads' norms"] == {torch.float32}
    assert {loss.dtype, *(value.dtype for value in parts.values())} == {torch.float32}


def test_heads_are_normalised_in_fp32_within_a_bf16_region() -> None:
    """To the last bit that bf16 shows of the result."""
    norm, x_BTHD = HeadNorm(64, eps=1e-6), 8 * torch.randn(2, 50, 2, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x_BTHD)
    assert torch.equal(found, norm(x_BTHD.float()).bfloat16())


def test_softmax_is_fp32_within_a_bf16_region() -> None:
    """A thousand equal keys: in bf16 their sum of weights could not be counted past 256."""
    layout = text_to_image_layout(1, Grid(32, 32))
    q, k = torch.zeros(2, 1, layout.length, 1, 8).bfloat16()
    v = torch.ones_like(q)
    valid = torch.ones(1, layout.length, dtype=torch.bool)
    for pattern in Pattern:
        for form in (attend, attend_dense):
            assert torch.equal(form(pattern, layout, valid)(q, k, v), v), pattern


def test_a_step_in_bf16_is_near_and_leaves_weights_and_moments_in_fp32(kind: str) -> None:
    values = {}
    for precision in TrainingPrecision:
        job = make_job(kind, LOOP)
        turn = job.turns[0]
        optimizer = build_optimizer(OPTIM, turn.module)
        values[precision] = take_turn(turn, optimizer, OPTIM, 0, precision)
        moments = [m for state in optimizer.state.values() for m in state.values()]
        assert {tensor.dtype for tensor in [*turn.module.parameters(), *moments]} == {torch.float32}
    exact, rounded = values[TrainingPrecision.FP32], values[TrainingPrecision.BF16]
    assert rounded != exact
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert not torch.is_autocast_enabled("cpu")

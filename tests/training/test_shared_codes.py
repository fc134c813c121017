"""What codes share: nothing at first, learnt once for all that look alike, plain weights in the end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.conftest import SMALL_GENERATOR, make_job
from vilg.model.generator import text_to_image_log_probs
from vilg.training.generator_job import GeneratorJob
from vilg.training.loop import LoopConfig, TrainingPrecision, take_turn
from vilg.training.optim import OptimConfig, build_optimizer
from vilg.training.shared_codes import SharedByCodes, fold_codes, share_codes

OPTIM = OptimConfig(peak_lr=0.01, weight_decay=0.0)
DIM = 3


def codebook() -> Tensor:
    return torch.randn(SMALL_GENERATOR.num_codes, DIM, generator=torch.Generator().manual_seed(0))


def make() -> GeneratorJob:
    job = make_job("generator", LoopConfig(num_steps=3, batch_size=4))
    assert isinstance(job, GeneratorJob)
    return job


def learn(
    job: GeneratorJob, num_steps: int, precision: TrainingPrecision = TrainingPrecision.FP32
) -> None:
    (turn,) = job.turns
    optimizer = build_optimizer(OPTIM, turn.module)
    for step in range(num_steps):
        take_turn(turn, optimizer, OPTIM, step, precision)


@torch.no_grad()
def log_probs(job: GeneratorJob) -> Tensor:
    image_ids_BN = torch.from_numpy(job.store.image_ids(np.arange(3)))
    return text_to_image_log_probs(job.generator, [[7], [], [9, 8]], image_ids_BN)


def test_sharing_changes_nothing_at_first() -> None:
    job = make()
    before = log_probs(job)
    share_codes(job.generator, codebook())
    assert torch.equal(log_probs(job), before)


@pytest.mark.parametrize("precision", TrainingPrecision)
def test_a_folded_generator_computes_the_same_and_is_a_plain_one(
    precision: TrainingPrecision,
) -> None:
    job, plain = make(), make()
    share_codes(job.generator, codebook())
    learn(job, 3, precision)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is TrainingPrecision.BF16):
        trained = job.generator.image_embedding.weight.detach()
    shared = log_probs(job)
    fold_codes(job.generator)
    assert torch.equal(job.generator.image_embedding.weight, trained)
    assert torch.equal(log_probs(job), shared)
    assert set(job.generator.state_dict()) == set(plain.generator.state_dict())


def test_a_code_that_was_never_shown_learns_from_its_likes() -> None:
    """Two codes of one vector, only one of which is in the pictures, move alike; alone, one stays."""
    shown, hidden = 1, 0
    alike = codebook()
    alike[hidden] = alike[shown]
    moved = {}
    for name in ("shared", "alone"):
        job = make()
        path = job.store.folder / "image_ids.bin"
        ids = np.fromfile(path, np.uint16)
        np.where(ids == hidden, shown, ids).astype(np.uint16).tofile(path)
        before = job.generator.image_embedding.weight.detach().clone()
        if name == "shared":
            share_codes(job.generator, alike)
        learn(job, 1)
        after = job.generator.image_embedding.weight.detach()
        moved[name] = (after - before)[[shown, hidden]].norm(dim=1)
    assert moved["alone"][0] > 0.01 and moved["alone"][1] == 0
    assert moved["shared"].min() > 0.01


@pytest.mark.parametrize("dim", [1, 16, 100])
def test_vectors_of_any_scale_and_dimension_count_alike(dim: int) -> None:
    vectors_KD = torch.randn(50, dim, generator=torch.Generator().manual_seed(0))
    for given in (vectors_KD, 3 + 0.01 * vectors_KD):
        scaled_KD = SharedByCodes(given, 8).codebook_KD
        assert scaled_KD.mean(0).abs().max() < 1e-4
        assert torch.allclose(scaled_KD.square().mean(0), torch.tensor(16 / dim), rtol=1e-3)


def test_a_single_code_shares_nothing() -> None:
    shared = SharedByCodes(torch.ones(1, 4), 8)
    torch.nn.init.ones_(shared.mix_DC)
    assert torch.equal(shared(torch.zeros(1, 8)), torch.zeros(1, 8))


def test_only_the_rows_of_their_own_are_decayed() -> None:
    job = make()
    share_codes(job.generator, codebook())
    optimizer = build_optimizer(replace(OPTIM, weight_decay=0.1), job.generator)
    decayed, plain = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    names = {name: id(parameter) for name, parameter in job.generator.named_parameters()}
    assert decayed | plain == set(names.values())
    of_head = {name for name, key in names.items() if "image_head" in name and key in decayed}
    assert of_head == {"image_head.parametrizations.weight.original"}

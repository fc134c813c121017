"""A step of every training job on a device that is not the CPU: a stray tensor, or a number that is read, is an error."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.elsewhere import ELSEWHERE, move_there, other_device
from tests.training.conftest import make_job
from vilg.training.generator_job import GeneratorJob
from vilg.training.loop import LoopConfig, take_turn
from vilg.training.optim import OptimConfig
from vilg.training.tokenizer_job import TokenizerJob

LOOP = LoopConfig(num_steps=4, batch_size=4)
KINDS = (
    "tokenizer",
    "adversarial",
    "gumbel",
    "dvae",
    "decoder",
    "generator",
    "shared_codes",
    "end_to_end",
)


class Descent(torch.optim.Optimizer):
    """The plainest: AdamW in one kernel knows no `meta`."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                weight.add_(weight.grad, alpha=-0.1)


def moved(job: TokenizerJob | GeneratorJob) -> None:
    parts = [job.module]
    if isinstance(job, TokenizerJob):
        parts += [job.tokenizer, job.codebook]
    else:
        job.device = ELSEWHERE
        if job.encode_prefix is not None:
            parts += [job.encode_prefix.args[0]]
        if job.end_to_end is not None:
            parts += [job.end_to_end.image_tokenizer]
    for part in parts:
        move_there(part)


def steps(job: TokenizerJob | GeneratorJob) -> list[Tensor]:
    """Take two steps that are not read; the adversarial term begins with the second.

    Without R1: of a norm's second derivative torch makes other shapes for wrapped tensors.
    """
    if isinstance(job, GeneratorJob) and job.end_to_end is not None:
        loss = job.end_to_end.picture_loss
        loss.config = replace(loss.config, r1_penalty=0.0)
    made = [Descent(turn.module.parameters(), {}) for turn in job.turns]
    for step in range(2):
        for turn, optimizer in zip(job.turns, made, strict=True):
            take_turn(turn, optimizer, OptimConfig(), step, is_read=False)
        job.after_step(step)
    return [*job.module.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_steps(kind: str) -> None:
    here = steps(make_job(kind, LOOP))
    job = make_job(kind, LOOP)
    with other_device() as device:
        moved(job)
        there = steps(job)
        assert device.reads == 0
        found = [weight.detach().cpu() for weight in there]
    for one, other in zip(here, found, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-4, atol=1e-5)

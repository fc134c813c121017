"""End-to-end training: which loss moves which part (paper section 3.1.3), and what goes in and out.

| loss | transformer and embeddings | map | reconstructor | image tokenizer |
| --- | --- | --- | --- | --- |
| of tokens, both directions | yes | no | no | no |
| of pixels | yes; not where states are detached | yes | yes | no |
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import (
    OPTIM,
    SMALL_DISCRIMINATOR,
    SMALL_DVAE,
    SMALL_GENERATOR,
    SMALL_VQGAN,
    VOCABULARY,
    draw_tokens,
    toy_pairs,
)
from vilg.config import ConfigError
from vilg.images import to_pixels
from vilg.model.generator import text_to_image_states
from vilg.model.segments import Grid
from vilg.tokenizer.build import TokenizerConfig, build_tokenizer
from vilg.training.end_to_end import EndToEnd, EndToEndConfig
from vilg.training.generator_job import GeneratorJob, GeneratorLossConfig
from vilg.training.loop import LoopConfig, take_turn
from vilg.training.optim import build_optimizer
from vilg.training.picture_loss import PictureLossConfig

LOOP = LoopConfig(num_steps=4, batch_size=4)
PLAIN = GeneratorLossConfig(caption_drop=0.0, keyword_share=0.0)
ADVERSARIAL = PictureLossConfig(adversarial=0.8, discriminator=SMALL_DISCRIMINATOR)
KINDS = {
    "vqgan": (replace(SMALL_VQGAN, image_size=6), PictureLossConfig()),
    "adversarial": (replace(SMALL_VQGAN, image_size=6), ADVERSARIAL),
    "dvae": (
        replace(SMALL_DVAE, image_size=6),
        PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0),
    ),
}


def make(kind: str, detach_states: bool = False) -> GeneratorJob:
    """Return a job over 3x3 tokens and 6x6 pixels."""
    config, loss = KINDS[kind]
    torch.manual_seed(1)
    tokenizer = build_tokenizer(config).requires_grad_(False)
    pictures = np.random.default_rng(0).integers(0, 256, (7, 6, 6, 3), dtype=np.uint8)
    settings = EndToEndConfig(loss=loss, detach_states=detach_states)
    end_to_end = EndToEnd(settings, SMALL_GENERATOR, tokenizer, pictures, seed=3)
    return GeneratorJob(
        SMALL_GENERATOR, PLAIN, LOOP, toy_pairs(7), VOCABULARY, draw_tokens, end_to_end
    )


def end_to_end_of(job: GeneratorJob) -> EndToEnd:
    assert job.end_to_end is not None
    return job.end_to_end


def moved(job: GeneratorJob, loss: Tensor) -> dict[str, bool]:
    """Return for each part whether a loss sends it a gradient that is not exactly zero."""
    e2e = end_to_end_of(job)
    parts: dict[str, nn.Module] = {
        "transformer": job.generator.transformer,
        "embeddings": job.generator.image_embedding,
        "map": e2e.reconstructor.map,
        "reconstructor": e2e.reconstructor.decoder,
        "tokenizer": e2e.image_tokenizer,
    }
    for part in parts.values():
        part.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
        for name, part in parts.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detach_states", [False, True])
def test_each_loss_moves_the_parts_it_should(kind: str, detach_states: bool) -> None:
    job = make(kind, detach_states)
    ids = np.arange(4)
    prompts = [job.pairs[id].captions["en"] for id in ids]
    image_ids = torch.from_numpy(job.image_ids_SN[ids])
    states = text_to_image_states(job.generator, prompts, image_ids)
    rec, _ = end_to_end_of(job).loss(0, states[:, 1:], ids)
    reaches = not detach_states
    assert moved(job, rec) == {
        "transformer": reaches,
        "embeddings": reaches,
        "map": True,
        "reconstructor": True,
        "tokenizer": False,
    }
    e2e, job.end_to_end = job.end_to_end, None
    tokens, _ = job.loss(0)
    job.end_to_end = e2e
    assert moved(job, tokens) == {
        "transformer": True,
        "embeddings": True,
        "map": False,
        "reconstructor": False,
        "tokenizer": False,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_sum_with_equal_weights(kind: str) -> None:
    job = make(kind)
    total, values = job.loss(2)
    assert float(total.detach()) == pytest.approx(
        float(values["t2i"] + values["i2t"] + values["rec"]), rel=1e-5
    )
    if kind == "vqgan":
        assert float(values["rec"]) == pytest.approx(
            float(values["l1"] + 4 * 10 ** (-values["psnr"] / 10)), rel=1e-4
        )


def test_a_state_has_seen_its_own_token_and_none_after() -> None:
    """The state that stands for z_k moves with z_k, and never with what comes later."""
    job = make("vqgan")
    with torch.no_grad():
        for weight in job.generator.parameters():
            weight.normal_(std=0.5)  # first weights are so small that a leak would be too
    image_ids = torch.from_numpy(job.image_ids_SN[:1])
    prompts = [job.pairs[0].captions["en"]]
    before = text_to_image_states(job.generator, prompts, image_ids)[0, 1:]
    for k in range(9):
        other = image_ids.clone()
        other[0, k] = (other[0, k] + 1) % SMALL_GENERATOR.num_codes
        after = text_to_image_states(job.generator, prompts, other)[0, 1:]
        assert torch.equal(after[:k], before[:k])
        assert not torch.equal(after[k], before[k])


def test_the_reconstructor_begins_with_the_decoder_of_the_tokenizer() -> None:
    e2e = end_to_end_of(make("vqgan"))
    own, lent = e2e.reconstructor.decoder.state_dict(), e2e.image_tokenizer.decoder.state_dict()
    assert own.keys() == lent.keys()
    assert all(torch.equal(own[name], lent[name]) for name in own)
    assert all(p.requires_grad for p in e2e.reconstructor.parameters())
    codes_BND = torch.randn(2, 9, SMALL_VQGAN.code_dim)
    e2e.reconstructor.map = torch.nn.Identity()  # type: ignore[assignment]
    expected = e2e.image_tokenizer.decode_codes(codes_BND.view(2, 3, 3, -1).permute(0, 3, 1, 2))
    assert torch.allclose(e2e.reconstructor(codes_BND, Grid(3, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_trains_all_of_it_and_notes_both_gradients(kind: str) -> None:
    job = make(kind)
    before = {name: value.clone() for name, value in job.module.state_dict().items()}
    lent = {n: v.clone() for n, v in end_to_end_of(job).image_tokenizer.state_dict().items()}
    for turn in job.turns:
        take_turn(turn, build_optimizer(OPTIM, turn.module), OPTIM, 0)
    noted = job.after_step(0)
    assert {*noted} == {"t2i_state_grad", "rec_state_grad"}
    assert all(norm > 0 for norm in noted.values())
    after = job.module.state_dict()
    parts = {name.split(".")[1] for name in after if not torch.equal(after[name], before[name])}
    assert {"generator", "reconstructor"} <= parts
    discriminated = any(name.startswith("discriminator.") for name in after)
    assert discriminated == (kind == "adversarial")
    assert all(
        not torch.equal(after[name], before[name])
        for name in after
        if name.startswith("discriminator.") and name.endswith("weight")
    )
    assert len(job.turns) == (2 if kind == "adversarial" else 1)
    now = end_to_end_of(job).image_tokenizer.state_dict()
    assert all(torch.equal(now[name], value) for name, value in lent.items())


def test_the_pictures_are_those_of_the_pairs() -> None:
    job = make("vqgan")
    e2e, ids = end_to_end_of(job), np.array([5, 2])
    states = torch.zeros(2, 9, SMALL_GENERATOR.width)
    with torch.no_grad():
        _, values = e2e.loss(0, states, ids)
        made = e2e.reconstructor(states, Grid(3, 3))
    l1 = (made - to_pixels(e2e.pictures_SYX3[ids])).abs().mean()
    assert float(values["l1"]) == pytest.approx(float(l1), rel=1e-5)


def test_a_loss_that_is_not_the_tokenizer_s_is_refused() -> None:
    pictures = np.zeros((7, 6, 6, 3), dtype=np.uint8)
    for kind, other in (("vqgan", "dvae"), ("dvae", "vqgan")):
        settings, tokenizer = EndToEndConfig(loss=KINDS[other][1]), build_tokenizer(KINDS[kind][0])
        with pytest.raises(ConfigError, match="logit_laplace"):
            EndToEnd(settings, SMALL_GENERATOR, tokenizer, pictures, 0)


def test_disturbed_tokens_are_refused() -> None:
    config: TokenizerConfig = KINDS["vqgan"][0]
    pictures = np.zeros((7, 6, 6, 3), dtype=np.uint8)
    e2e = EndToEnd(EndToEndConfig(), SMALL_GENERATOR, build_tokenizer(config), pictures, 0)
    disturbed = replace(PLAIN, disturbed=0.5)
    with pytest.raises(ConfigError, match="disturbed=0"):
        GeneratorJob(SMALL_GENERATOR, disturbed, LOOP, toy_pairs(7), VOCABULARY, draw_tokens, e2e)

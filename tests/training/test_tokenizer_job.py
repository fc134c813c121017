"""What the turns of a tokenizer's step do and leave alone."""

import io
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.conftest import EMOJI
from tests.training.conftest import (
    OPTIM,
    SMALL_DVAE,
    SMALL_VQGAN,
    TOKENIZERS,
    log_records,
    make_job,
)
from vilg.data.order import batch_ids
from vilg.data.pictures import load_pictures
from vilg.data.sources import load_pairs
from vilg.errors import SettingError
from vilg.images import to_pixels
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.losses import adaptive_weight, logit_laplace_loss, pulls
from vilg.training.augment import AugmentConfig, augment
from vilg.training.loop import LoopConfig, Turn, take_turn, train
from vilg.training.optim import build_optimizer, learning_rate
from vilg.training.picture_loss import PerceptualNet, PictureLoss, PictureLossConfig
from vilg.training.tokenizer_job import DecoderAlone, TokenizerJob

LOOP = LoopConfig(num_steps=4, batch_size=4)


def tokenizer_job(kind: str) -> TokenizerJob:
    job = make_job(kind, LOOP)
    assert isinstance(job, TokenizerJob)
    return job


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not value.equal(before[name])}


def test_each_turn_trains_its_own_network_alone() -> None:
    job = tokenizer_job("adversarial")
    assert job.picture_loss.discriminator is not None
    first, second = job.turns
    step = 2  # the adversarial term is on
    before = weights(job.module)
    take_turn(first, build_optimizer(OPTIM, first.module), OPTIM, step)
    touched = changed(job.module, before)
    assert touched and all(name.startswith("learner.") for name in touched)
    assert {name.split(".")[2] for name in touched} == {"encoder", "decoder", "use"}
    assert all(p.grad is None for p in job.picture_loss.discriminator.parameters())

    before = weights(job.module)
    take_turn(second, build_optimizer(OPTIM, second.module), OPTIM, step)
    touched = changed(job.module, before)
    names = {f"discriminator.{name}" for name in job.picture_loss.discriminator.state_dict()}
    # While no score is beyond the hinge, real and made pictures pull at the last bias equally.
    assert names - touched <= {"discriminator.layers.5.bias"} and touched <= names
    assert all(p.grad is None for p in job.module["learner"].parameters())


def test_the_adversarial_term_begins_when_it_should() -> None:
    job = tokenizer_job("adversarial")  # from step 1 on
    assert not any(name.startswith("adv") for name in job.loss(0)[1])
    assert job.picture_loss.discriminator_loss(0) is None
    values = job.loss(1)[1]
    assert {"adversarial", "adaptive_weight", "reconstruction_grad", "adversarial_grad"} <= {
        *values
    }
    found = job.picture_loss.discriminator_loss(1)
    assert found is not None and {*found[1]} == {"scores_real", "scores_made"}


def test_the_adversarial_term_has_its_adaptive_weight() -> None:
    job = tokenizer_job("adversarial")
    assert job.picture_loss.discriminator is not None
    total, values = job.loss(1)
    ids = batch_ids(0, 1, 4, 7)
    pixels = to_pixels(augment(job.pictures_NYX3[ids], 0, 1, ids, job.augmentation))
    quantizer = job.tokenizer.quantizer
    latent = job.tokenizer.encoder(pixels)
    codes, ids_BHW, commitment = quantizer(latent)
    made = job.tokenizer.decoder(codes)
    reconstruction = (made - pixels).abs().mean() + (made - pixels).square().mean()
    adversarial = -job.picture_loss.discriminator(made).mean()
    weight, *norms = adaptive_weight(
        pulls(reconstruction, adversarial, job.tokenizer.decoder.conv_out.weight)
    )
    codebook = job.codebook.use.loss(quantizer, latent, ids_BHW)
    expected = reconstruction + 0.1 * commitment + codebook + 0.8 * weight * adversarial
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(values["adaptive_weight"]) == pytest.approx(float(weight), rel=1e-5)
    assert [float(values[f"{name}_grad"]) for name in ("reconstruction", "adversarial")] == (
        pytest.approx([float(norm) for norm in norms], rel=1e-5)
    )


def test_the_adaptive_weight_has_the_limit_of_the_settings() -> None:
    job = tokenizer_job("adversarial")
    free = float(job.loss(1)[1]["adaptive_weight"])
    limit = free / 2
    job.picture_loss.config = replace(job.picture_loss.config, adaptive_weight_limit=limit)
    assert float(job.loss(1)[1]["adaptive_weight"]) == pytest.approx(limit)


def test_the_discriminator_tells_real_pictures_from_made_ones() -> None:
    job = tokenizer_job("adversarial")
    job.loss(1)
    ids = batch_ids(0, 1, 4, 7)
    with torch.no_grad():
        pixels = to_pixels(augment(job.pictures_NYX3[ids], 0, 1, ids, job.augmentation))
        codes, _, _ = job.tokenizer.quantizer(job.tokenizer.encoder(pixels))
        assert job.picture_loss.discriminator is not None
        real, made = (
            job.picture_loss.discriminator(x) for x in (pixels, job.tokenizer.decoder(codes))
        )
    expected = ((1 - real).clamp_min(0).mean() + (1 + made).clamp_min(0).mean()) / 2
    total, values = job.picture_loss.discriminator_loss(1) or pytest.fail("it has begun")
    assert float(total.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(values["scores_real"]) == pytest.approx(float(real.mean()), rel=1e-4)
    assert float(values["scores_made"]) == pytest.approx(float(made.mean()), rel=1e-4)
    assert abs(float(values["scores_real"] - values["scores_made"])) > 1e-3


def test_the_discriminator_pays_for_its_slope_at_real_pictures() -> None:
    job = tokenizer_job("adversarial")
    loss = job.picture_loss
    assert loss.discriminator is not None
    job.loss(1)
    plain, _ = loss.discriminator_loss(1) or pytest.fail("it has begun")
    loss.config = replace(loss.config, r1_penalty=3.0)
    total, values = loss.discriminator_loss(1) or pytest.fail("it has begun")
    assert float(values["r1"]) > 0
    expected = float(plain.detach()) + 3 * float(values["r1"])
    assert float(total.detach()) == pytest.approx(expected, rel=1e-5)
    # A step of the penalty alone makes the discriminator flatter.
    optimizer = torch.optim.SGD(loss.discriminator.parameters(), lr=1e-2)
    loss.config = replace(loss.config, r1_penalty=1e4)
    before, _ = loss.discriminator_loss(1) or pytest.fail("it has begun")
    before.backward()
    torch.nn.utils.clip_grad_norm_(loss.discriminator.parameters(), 1.0)
    optimizer.step()
    _, after = loss.discriminator_loss(1) or pytest.fail("it has begun")
    assert float(after["r1"]) < float(values["r1"])


def test_the_perceptual_term_joins_with_its_weight() -> None:
    job, plain = tokenizer_job("tokenizer"), tokenizer_job("tokenizer")
    settings = PictureLossConfig(perceptual=0.5)
    job.picture_loss = PictureLoss(settings)
    with torch.no_grad():
        with_term, values = job.loss(0)
        without, _ = plain.loss(0)
    assert float(values["perceptual"]) > 0
    assert float(with_term - without) == pytest.approx(0.5 * float(values["perceptual"]), rel=1e-4)


def test_a_dvae_learns_by_likelihood_and_divergence() -> None:
    job = tokenizer_job("dvae")
    total, values = job.loss(3)
    ids = batch_ids(0, 3, 4, 7)
    pixels = to_pixels(augment(job.pictures_NYX3[ids], 0, 3, ids, job.augmentation))
    quantized = job.codebook(
        job.tokenizer.quantizer, job.tokenizer.encoder(pixels), 3, ids, 16 * 16 * 3
    )
    nll = logit_laplace_loss(job.tokenizer.decoder(quantized.codes_BDHW), pixels)
    assert float(values["nll"]) == pytest.approx(float(nll.detach()), rel=1e-5)
    assert float(total.detach()) == pytest.approx(float((nll + quantized.loss).detach()), rel=1e-5)
    assert float(quantized.loss.detach()) > 0


def test_a_dvae_s_loss_falls() -> None:
    job = tokenizer_job("dvae")
    job.pictures_NYX3[:] = np.arange(0, 210, 30, dtype=np.uint8)[:, None, None, None]  # plain greys
    job.augmentation = AugmentConfig(max_shift=0, flip=False)
    (turn,), losses = job.turns, []
    optimizer = build_optimizer(OPTIM, turn.module)
    for step in range(60):
        losses.append(take_turn(turn, optimizer, OPTIM, step)["nll"])
        job.after_step(step)
    assert sum(losses[-10:]) / 10 < losses[0] - 0.2


def test_a_dvae_learns_the_emoji() -> None:
    """The recipe's network and loss, narrower and on pictures half as large.

    The loss falls by 0.77; by 0.52 if the decoder sees no codes, and learns the mean picture.
    """
    experiments = runpy.run_path(str(EMOJI.parents[1] / "runs/experiments.py"))
    recipe = experiments["emoji_dvae"]().tokenizer
    assert recipe is not None and isinstance(recipe.model, DVAEConfig)
    config = replace(recipe.model, image_size=32, channels=8, num_codes=64, code_dim=16)
    pictures = load_pictures(load_pairs(EMOJI, "train")[::50], config.image_size)
    assert len(pictures) > 100
    loop = LoopConfig(num_steps=40, batch_size=16)
    job = TokenizerJob(
        config, recipe.loss, recipe.codebook, recipe.augmentation, loop, pictures, pictures[:2]
    )
    (turn,), losses = job.turns, []
    optimizer = build_optimizer(OPTIM, turn.module)
    for step in range(loop.num_steps):
        losses.append(take_turn(turn, optimizer, OPTIM, step)["loss"])
        job.after_step(step)
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.65


def test_the_discriminator_s_rate_begins_when_its_term_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Warm-up and decay run over its own steps, not over those before it."""
    seen: list[tuple[str, float]] = []

    def watch(turn: Turn, optimizer: torch.optim.Optimizer, *args: Any) -> dict[str, float]:
        seen.append((turn.name, optimizer.param_groups[0]["lr"]))
        return take_turn(turn, optimizer, *args)

    monkeypatch.setattr("vilg.training.loop.take_turn", watch)
    loop = LoopConfig(num_steps=6, batch_size=4)
    job = make_job("adversarial", loop)  # from step 1 on
    train(job, loop, [OPTIM, OPTIM], tmp_path, out=io.StringIO())
    rates = [rate for name, rate in seen if name == "discriminator"]
    assert rates[1:] == [learning_rate(OPTIM, step, 5) for step in range(5)]


def test_an_unused_codebook_raises_the_alarm() -> None:
    job = tokenizer_job("tokenizer")
    assert job.alarm({"usage": 0.8, "perplexity": 20.0}) is None
    found = job.alarm({"usage": 0.25, "perplexity": 3.2})
    assert found is not None and "25% of 32 codes in use, perplexity 3" in found


def test_the_alarm_is_printed_and_logged(tmp_path: Path) -> None:
    job, out = tokenizer_job("tokenizer"), io.StringIO()
    job.codebook.config = replace(job.codebook.config, alarm_below=1.0)
    train(job, LOOP, [OPTIM], tmp_path, out=out)
    (record,) = log_records(tmp_path)
    assert record["usage"] < 1
    assert record["alarm"].startswith("codebook alarm: ")
    assert record["alarm"] in out.getvalue().splitlines()


def test_loss_and_tokenizer_must_fit() -> None:
    pictures = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    _, loss, codebook = TOKENIZERS["dvae"]
    for config, terms in ((SMALL_VQGAN, loss), (SMALL_DVAE, PictureLossConfig())):
        with pytest.raises(SettingError, match="logit_laplace"):
            TokenizerJob(config, terms, codebook, AugmentConfig(), LOOP, pictures, pictures)
    with pytest.raises(SettingError, match="vgg_weights"):
        replace(loss, perceptual_net=PerceptualNet.LPIPS_VGG)


def test_a_decoder_sees_refined_tokens_and_their_pictures_as_they_are() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    refined_RHW = np.random.default_rng(1).integers(0, 32, (3, 8, 8)).astype(np.uint16)
    chosen = np.array([4, 0, 2])  # whose these are, in their order
    moves = AugmentConfig(max_shift=3)
    torch.manual_seed(0)
    alone = DecoderAlone(dict(zip(chosen.tolist(), refined_RHW, strict=True)))
    job = TokenizerJob(
        SMALL_VQGAN, PictureLossConfig(), CodebookConfig(), moves, LOOP, pictures, pictures[:1],
        init=ImageTokenizer(SMALL_VQGAN), alone=alone,
    )  # fmt: skip
    lookup, decode_codes = job.tokenizer.quantizer.lookup, job.tokenizer.decode_codes
    codes: list[Tensor] = []
    hook = job.tokenizer.decoder.register_forward_pre_hook(lambda _, args: codes.append(args[0]))
    times: dict[int, list[bool]] = {i: [] for i in range(5)}
    for step in range(60):
        ids = batch_ids(0, step, 4, 5)
        found = float(job.loss(step)[1]["l1"])
        seen = codes.pop()
        moved = to_pixels(augment(pictures[ids], 0, step, ids, moves))
        encoded = lookup(job.tokenizer.encode(moved))
        for at, i in enumerate(ids):
            row = refined_RHW[chosen.tolist().index(i)] if i in chosen else None
            code = None if row is None else lookup(torch.from_numpy(row.astype(np.int64))[None])[0]
            is_refined = code is not None and torch.equal(seen[at], code)
            times[int(i)].append(is_refined)
            if is_refined:
                moved[at] = to_pixels(pictures[i : i + 1])[0]
            else:
                assert torch.equal(seen[at], encoded[at])
        with torch.no_grad():
            expected = float((decode_codes(seen) - moved).abs().mean())
        codes.clear()
        assert found == pytest.approx(expected, rel=1e-5)
    hook.remove()
    for i, was_refined in times.items():
        share = sum(was_refined) / len(was_refined)
        assert 0.3 < share < 0.7 if i in chosen else share == 0

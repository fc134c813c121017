"""Refined tokens against every grid of tokens that there is, and what refining leaves alone."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilg.errors import SettingError
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.perceptual import PerceptualLoss, lite0_loss
from vilg.tokenizer.quantizers import QuantizerKind
from vilg.tokenizer.refine import refine, refining_encoder
from vilg.tokenizer.vqgan import VQGANConfig

NUM_CODES, CELLS = 5, 4


class Halves(nn.Module):
    """Feature maps that need no weights."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x + 2, F.avg_pool2d(x, 2) + 2]


PERCEPTUAL = PerceptualLoss(Halves())


def tokenizer_of(
    seed: int = 0, normalised: bool = True, num_codes: int = NUM_CODES
) -> ImageTokenizer:
    """Random weights: its encoder knows nothing of its decoder, so that there is much to mend."""
    torch.manual_seed(seed)
    config = VQGANConfig(
        image_size=8,
        channels=8,
        channel_multipliers=(1, 2, 2),
        num_res_blocks=1,
        attention_resolutions=(),
        latent_channels=8,
        num_codes=num_codes,
        code_dim=4,
        norm_groups=4,
        normalised=normalised,
    )
    return ImageTokenizer(config).eval().requires_grad_(False)


def pictures(tokenizer: ImageTokenizer, num: int, seed: int = 1) -> Tensor:
    """What the decoder makes of random tokens, a little changed: so there are good tokens for it."""
    generator = torch.Generator().manual_seed(seed)
    K = tokenizer.config.num_codes
    ids_BHW = torch.randint(K, (num, 2, 2), generator=generator)
    made = tokenizer.decode_codes(tokenizer.quantizer.lookup(ids_BHW))
    return made + 0.02 * torch.randn(made.shape, generator=generator)


def loss_by_hand(tokenizer: ImageTokenizer, ids_BHW: Tensor, pixels_B3YX: Tensor) -> list[float]:
    """Absolute and squared error, and the perceptual difference, picture by picture."""
    made = tokenizer.decode(ids_BHW)
    pairs = zip(made[:, None], pixels_B3YX[:, None], strict=True)
    return [float(F.l1_loss(a, b) + F.mse_loss(a, b) + PERCEPTUAL(a, b)) for a, b in pairs]


def least_of_all(tokenizer: ImageTokenizer, pixels_3YX: Tensor) -> float:
    grids = torch.tensor([*itertools.product(range(NUM_CODES), repeat=CELLS)]).view(-1, 2, 2)
    return min(loss_by_hand(tokenizer, grids, pixels_3YX.expand(len(grids), -1, -1, -1)))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("normalised", [True, False])
def test_refining_finds_most_of_what_all_grids_hold(normalised: bool) -> None:
    tokenizer = tokenizer_of(normalised=normalised)
    pixels = pictures(tokenizer, 6)
    before = loss_by_hand(tokenizer, tokenizer.encode(pixels), pixels)
    after = loss_by_hand(tokenizer, refine(tokenizer, pixels, PERCEPTUAL, 60), pixels)
    least = [least_of_all(tokenizer, picture) for picture in pixels]
    assert all(
        low - 1e-6 <= new <= old + 1e-6 for low, new, old in zip(least, after, before, strict=True)
    )
    assert mean(after) - mean(least) < 0.5 * (mean(before) - mean(least))


def by_hand(tokenizer: ImageTokenizer, pixels_13YX: Tensor, num_steps: int) -> Tensor:
    """The search for one picture, with what counts and how fast written out once more."""
    codebook_KD = tokenizer.quantizer.codebook_KD
    z = F.normalize(tokenizer.encoder(pixels_13YX), dim=1).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=1.0)
    tried = []
    for step in range(num_steps + 1):
        unit = F.normalize(z, dim=1)
        ids_1HW = torch.einsum("bdhw,kd->bkhw", unit, codebook_KD).argmax(dim=1)
        codes = codebook_KD[ids_1HW].permute(0, 3, 1, 2)
        made = tokenizer.decoder(unit + (codes - unit).detach()).clamp(-1, 1)
        loss = F.l1_loss(made, pixels_13YX) + F.mse_loss(made, pixels_13YX)
        loss = loss + PERCEPTUAL(made, pixels_13YX)
        tried.append((float(loss.detach()), ids_1HW))
        for group in optimizer.param_groups:
            largest = 0.06 * float(codebook_KD.square().mean().sqrt())
            group["lr"] = largest * (1 + math.cos(math.pi * step / num_steps)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return min(tried, key=lambda pair: pair[0])[1]


def test_refining_is_the_search_written_out() -> None:
    tokenizer = tokenizer_of(num_codes=200)
    tokenizer.decoder.conv_out.weight.mul_(6)  # beyond black and white, so that clamping counts
    pixels = pictures(tokenizer, 8).clamp(-1, 1)
    found = [refine(tokenizer, picture, PERCEPTUAL, 25) for picture in pixels.split(1)]
    expected = [by_hand(tokenizer, picture, 25) for picture in pixels.split(1)]
    # Where two codes are nearly as good, another processor's rounding may choose the other.
    assert sum(map(torch.equal, found, expected)) >= 7
    assert not torch.equal(torch.cat(found), tokenizer.encode(pixels))


def test_more_steps_are_never_worse_than_the_encoder_and_none_is_the_encoder() -> None:
    tokenizer = tokenizer_of(seed=3)
    pixels = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded = tokenizer.encode(pixels)
    assert torch.equal(refine(tokenizer, pixels, PERCEPTUAL, 0), encoded)
    assert torch.equal(refining_encoder(tokenizer, 0)(pixels), encoded)
    before = loss_by_hand(tokenizer, encoded, pixels)
    for num_steps in (1, 2, 5):
        ids_BHW = refine(tokenizer, pixels, PERCEPTUAL, num_steps)
        after = loss_by_hand(tokenizer, ids_BHW, pixels)
        assert all(new <= old + 1e-6 for new, old in zip(after, before, strict=True))


def test_a_picture_is_refined_whatever_lies_beside_it() -> None:
    tokenizer = tokenizer_of()
    pixels = pictures(tokenizer, 4)
    others = torch.cat([pixels[:2], -pixels[2:]])
    found = [refine(tokenizer, batch, PERCEPTUAL, 10) for batch in (pixels, others)]
    assert torch.equal(found[0][:2], found[1][:2])
    assert not torch.equal(found[0][2:], found[1][2:])
    assert not torch.equal(found[0][:2], tokenizer.encode(pixels)[:2])


def test_the_search_alone_computes_in_bf16() -> None:
    tokenizer = tokenizer_of()
    pixels = pictures(tokenizer, 12)
    seen: dict[str, set[torch.dtype]] = {"encoder": set(), "decoder": set()}
    for name, part in (("encoder", tokenizer.encoder), ("decoder", tokenizer.decoder)):
        part.conv_out.register_forward_hook(lambda *call, name=name: seen[name].add(call[2].dtype))
    before = loss_by_hand(tokenizer, tokenizer.encode(pixels), pixels)
    for part_seen in seen.values():
        part_seen.clear()
    rounded = refine(tokenizer, pixels, PERCEPTUAL, 30, bf16=True)
    assert seen == {"encoder": {torch.float32}, "decoder": {torch.bfloat16}}
    exact = mean(loss_by_hand(tokenizer, refine(tokenizer, pixels, PERCEPTUAL, 30), pixels))
    assert torch.float32 in seen["decoder"]
    assert mean(loss_by_hand(tokenizer, rounded, pixels)) - exact < 0.3 * (mean(before) - exact)


def test_gradients_are_followed_where_none_are_kept() -> None:
    tokenizer = tokenizer_of()
    pixels = pictures(tokenizer, 4)
    with torch.no_grad():
        assert torch.equal(
            refine(tokenizer, pixels, PERCEPTUAL, 5),
            torch.enable_grad()(refine)(tokenizer, pixels, PERCEPTUAL, 5),
        )


def test_refining_leaves_tokenizer_pictures_and_random_numbers_alone() -> None:
    tokenizer = tokenizer_of().requires_grad_(True)
    pixels = pictures(tokenizer, 2).detach()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    shown, state = pixels.clone(), torch.get_rng_state()
    ids_BHW = refine(tokenizer, pixels, PERCEPTUAL, 5)
    assert ids_BHW.dtype == torch.int64 and not ids_BHW.requires_grad
    assert torch.equal(shown, pixels) and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.state_dict().items())
    assert all(parameter.grad is None for parameter in tokenizer.parameters())


def test_lite0_refines_with_its_pooled_features() -> None:
    tokenizer = tokenizer_of(num_codes=200)
    pixels = pictures(tokenizer, 2)
    expected = refine(tokenizer, pixels, lite0_loss(pooled=True), 3)
    assert torch.equal(refining_encoder(tokenizer, 3)(pixels), expected)
    assert not torch.equal(refine(tokenizer, pixels, lite0_loss(), 3), expected)


def test_likeliest_codes_cannot_be_refined() -> None:
    tokenizer = ImageTokenizer(replace(tokenizer_of().config, quantizer=QuantizerKind.GUMBEL))
    with pytest.raises(SettingError, match="only tokens that are nearest codes can be refined"):
        refine(tokenizer, torch.zeros(1, 3, 8, 8), PERCEPTUAL, 1)
    with pytest.raises(SettingError, match="only tokens that are nearest codes can be refined"):
        refining_encoder(tokenizer, 1)

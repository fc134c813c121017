"""The VQGAN: shapes, the paper's preset, and that tokens depend on the picture alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vilg.tokenizer.codebooks import CodebookAverages
from vilg.tokenizer.image_tokenizer import ImageTokenizer
from vilg.tokenizer.quantizers import VectorQuantizer
from vilg.tokenizer.vqgan import AttentionBlock, VQGANConfig

TINY = VQGANConfig(
    image_size=16,
    channels=8,
    channel_multipliers=(1, 2, 2),
    num_res_blocks=1,
    attention_resolutions=(),
    latent_channels=12,
    num_codes=24,
    code_dim=6,
    norm_groups=4,
)
CONFIGS = {
    "f4": TINY,
    "f8": replace(TINY, image_size=32, channel_multipliers=(1, 1, 2, 3)),
    "f1": replace(TINY, channel_multipliers=(1,)),
    "two blocks": replace(TINY, num_res_blocks=2, channels=12, channel_multipliers=(1, 3, 2)),
    "attention": replace(TINY, attention_resolutions=(8, 4)),
    "patches": replace(TINY, patch=2, channel_multipliers=(1, 2)),
    "patches alone": replace(TINY, patch=4, channel_multipliers=(2,)),
    "local": replace(TINY, local_encoder=True),
    "local patches": replace(
        TINY, local_encoder=True, patch=2, channel_multipliers=(1, 2, 2), num_res_blocks=2
    ),
}


def build(config: VQGANConfig, seed: int = 0) -> ImageTokenizer:
    torch.manual_seed(seed)
    return ImageTokenizer(config)


def reconstruct(
    vqgan: ImageTokenizer, pixels_B3YX: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Send pictures through encoder, codes and decoder."""
    assert isinstance(vqgan.quantizer, VectorQuantizer)
    latent_BDHW = vqgan.encoder(pixels_B3YX)
    codes_BDHW, ids_BHW, commitment = vqgan.quantizer(latent_BDHW)
    return vqgan.decoder(codes_BDHW), commitment, latent_BDHW, ids_BHW


def pictures(number: int, size: int) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_shapes(config: VQGANConfig) -> None:
    vqgan, pixels_B3YX = build(config), pictures(2, config.image_size)
    grid = config.image_size // (config.patch * 2 ** (len(config.channel_multipliers) - 1))
    assert config.grid_size == grid
    reconstruction_B3YX, commitment, latent_BDHW, ids_BHW = reconstruct(vqgan, pixels_B3YX)
    assert reconstruction_B3YX.shape == pixels_B3YX.shape
    assert commitment.shape == ()
    assert latent_BDHW.shape == (2, config.code_dim, grid, grid)
    assert ids_BHW.shape == (2, grid, grid) and ids_BHW.dtype == torch.long
    assert ids_BHW.min() >= 0 and ids_BHW.max() < config.num_codes
    assert torch.equal(vqgan.encode(pixels_B3YX), ids_BHW)
    (reconstruction_B3YX.square().mean() + commitment).backward()
    assert all(parameter.grad is not None for parameter in vqgan.parameters())


def test_a_patch_is_one_position_of_the_first_level() -> None:
    """What one patch shows reaches the 3x3 first convolution at one place, and comes out of one."""
    vqgan = build(CONFIGS["patches alone"])
    pixels_B3YX = pictures(1, 16)
    moved_B3YX = pixels_B3YX.clone()
    moved_B3YX[:, :, 4:8, 8:12] += 0.1
    to_patches = vqgan.encoder.get_submodule("to_patches")
    changed = (to_patches(moved_B3YX) != to_patches(pixels_B3YX)).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]
    assert torch.equal(
        vqgan.decoder.get_submodule("to_pixels")(to_patches(pixels_B3YX)), pixels_B3YX
    )
    plain = build(TINY)  # without patches: the published network, tensor by tensor
    assert plain.encoder.get_submodule("conv_in").weight.shape == (8, 3, 3, 3)
    assert plain.decoder.get_submodule("conv_out").weight.shape == (3, 8, 3, 3)


def test_attention_sits_at_the_resolutions_asked_for() -> None:
    def count(module: nn.Module) -> int:
        return sum(isinstance(part, AttentionBlock) for part in module.modules())

    plain = build(TINY)
    assert (count(plain.encoder), count(plain.decoder)) == (1, 1)  # the middle one
    more = build(replace(TINY, attention_resolutions=(8,), num_res_blocks=2))
    assert (count(more.encoder), count(more.decoder)) == (1 + 2, 1 + 3)


def test_attention_reads_all_cells_by_softmax() -> None:
    torch.manual_seed(0)
    C, H, W = 8, 3, 4
    block, x_BCHW = (
        AttentionBlock(C, lambda channels: nn.GroupNorm(2, channels, eps=1e-6)),
        torch.randn(2, C, H, W),
    )
    q_BPC, k_BPC, v_BPC = block.qkv(block.norm(x_BCHW)).flatten(2).transpose(1, 2).split(C, dim=-1)
    weights_BPP = (q_BPC @ k_BPC.transpose(1, 2) / C**0.5).softmax(dim=-1)
    h_BCHW = (weights_BPP @ v_BPC).transpose(1, 2).reshape(2, C, H, W)
    assert torch.allclose(block(x_BCHW), x_BCHW + block.out(h_BCHW), atol=1e-5)


LOCAL = {
    "one block": replace(TINY, image_size=32, local_encoder=True),
    "two": replace(TINY, image_size=32, local_encoder=True, num_res_blocks=2),
    "patches": replace(
        TINY, image_size=64, local_encoder=True, patch=2, channel_multipliers=(1, 2)
    ),
}


@pytest.mark.parametrize("config", LOCAL.values(), ids=LOCAL)
def test_a_local_encoder_sees_a_cell_and_its_context(config: VQGANConfig) -> None:
    """The gradient of one cell's vector, pixel by pixel: zero beyond the context, not within it."""
    vqgan = build(config)
    pixels_B3YX = pictures(1, config.image_size).requires_grad_()
    f, margin, cell = config.reduction, config.context, config.grid_size // 2
    vector_D = vqgan.encoder(pixels_B3YX)[0, :, cell, cell - 1]
    (gradient_B3YX,) = torch.autograd.grad(vector_D.square().sum(), pixels_B3YX)
    seen_YX = gradient_B3YX[0].abs().amax(0) > 0
    top, left = cell * f, (cell - 1) * f
    expected_YX = torch.zeros_like(seen_YX)
    rows = slice(max(0, top - margin), top + f + margin)
    expected_YX[rows, max(0, left - margin) : left + f + margin] = True
    assert not expected_YX.all()
    assert torch.equal(seen_YX, expected_YX)


def test_equal_neighbourhoods_have_equal_tokens_whatever_lies_beyond() -> None:
    config = replace(TINY, image_size=64, local_encoder=True)
    blank = torch.ones(1, 3, 64, 64)
    drawn = blank.clone()
    drawn[:, :, :16, :16] = pictures(1, 16)
    for local in (True, False):
        vqgan = build(replace(config, local_encoder=local))
        vectors = [vqgan.encoder(pixels)[0, :, 6:14, 6:14] for pixels in (blank, drawn)]
        assert torch.equal(*vectors) == local
        if local:
            assert vqgan.encode(blank)[0, 4:12, 4:12].unique().numel() == 1


def test_the_paper_preset_has_1024_tokens_of_8192_codes() -> None:
    config = VQGANConfig()
    with torch.device("meta"):
        vqgan = ImageTokenizer(config)
        pixels_B3YX = torch.empty(1, 3, 256, 256)
    assert (config.grid_size, config.num_codes) == (32, 8192)
    assert vqgan.quantizer.codebook_KD.shape == (8192, 256)
    ids_BHW = vqgan.encode(pixels_B3YX)
    assert ids_BHW.flatten(1).shape == (1, 1024)
    assert vqgan.decode(ids_BHW).shape == (1, 3, 256, 256)
    # Published f8 encoders and decoders: 128 wide, (1, 1, 2, 4), two blocks a level.
    assert config.widths == (128, 128, 256, 512)


def test_decoded_pixels_stay_in_range() -> None:
    vqgan = build(TINY)
    vqgan.decoder.get_submodule("conv_out").weight.data *= 100
    decoded_B3YX = vqgan.decode(vqgan.encode(pictures(2, 16)))
    assert decoded_B3YX.min() == -1 and decoded_B3YX.max() == 1


def test_decode_is_the_decoder_on_the_codes_of_the_ids() -> None:
    vqgan, pixels_B3YX = build(TINY), pictures(2, 16)
    reconstruction_B3YX, _, _, ids_BHW = reconstruct(vqgan, pixels_B3YX)
    decoded_B3YX = vqgan.decode(ids_BHW)
    assert torch.allclose(decoded_B3YX, reconstruction_B3YX.clamp(-1, 1), atol=1e-5)
    assert not decoded_B3YX.requires_grad


def test_tokens_do_not_depend_on_what_a_training_around_computes_in() -> None:
    vqgan, pixels_B3YX = build(replace(TINY, num_codes=4096, code_dim=16)), pictures(16, 16)
    assert isinstance(vqgan.quantizer, VectorQuantizer)
    expected = vqgan.encode(pixels_B3YX)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rounded = vqgan.quantizer.ids(vqgan.encoder(pixels_B3YX))
        assert torch.equal(vqgan.encode(pixels_B3YX), expected)
    assert not torch.equal(rounded, expected)  # bf16 would have told


def test_tokens_do_not_depend_on_batch_mates() -> None:
    vqgan, pixels_B3YX = build(CONFIGS["attention"]), pictures(5, 16)
    together_BHW = vqgan.encode(pixels_B3YX)
    alone_BHW = torch.cat([vqgan.encode(picture[None]) for picture in pixels_B3YX])
    assert torch.equal(together_BHW, alone_BHW)
    assert torch.equal(vqgan.encode(pixels_B3YX.flip(0)), together_BHW.flip(0))
    assert len(together_BHW.unique()) > 1
    alone = torch.cat([vqgan.decode(ids[None]) for ids in together_BHW])
    assert torch.allclose(vqgan.decode(together_BHW), alone, atol=1e-5)


def test_the_fingerprint_names_encoder_and_codebook() -> None:
    first = build(TINY).fingerprint()
    assert len(first) == 16 and int(first, 16) >= 0
    for layout in (torch.channels_last, torch.contiguous_format):  # of values, not of strides
        assert build(TINY).to(memory_format=layout).fingerprint() == first
    assert build(TINY, seed=1).fingerprint() != first

    decoder, encoder, codebook = build(TINY), build(TINY), build(TINY)
    for parameter in decoder.decoder.parameters():
        parameter.data += 1
    assert decoder.fingerprint() == first
    encoder.encoder.get_submodule("conv_in").weight.data[0, 0, 0, 0] += 1e-3
    assert encoder.fingerprint() != first
    codebook.quantizer.codebook_KD[-1, -1] += 1e-3
    assert codebook.fingerprint() != first


def test_a_tiny_vqgan_overfits_four_pictures() -> None:
    vqgan = build(replace(TINY, channel_multipliers=(1, 2)))
    pixels_B3YX = torch.ones(4, 3, 16, 16)
    for i, picture_3YX in enumerate(pixels_B3YX):  # a dark square on white, in one corner each
        y, x = 8 * (i // 2), 8 * (i % 2)
        picture_3YX[:, y : y + 8, x : x + 8] = torch.tensor([-0.8, 0.5, -0.5])[:, None, None]
    averages = CodebookAverages(vqgan.quantizer, decay=0.9, restart_below=0.1)
    optimizer = torch.optim.Adam(vqgan.parameters(), lr=5e-3)
    losses = []
    for step in range(40):
        reconstruction_B3YX, commitment, latent_BDHW, ids_BHW = reconstruct(vqgan, pixels_B3YX)
        pixel_loss = (reconstruction_B3YX - pixels_B3YX).square().mean()
        optimizer.zero_grad()
        (pixel_loss + 0.25 * commitment).backward()
        optimizer.step()
        averages.update(vqgan.quantizer, latent_BDHW.detach(), ids_BHW, 0, step, np.arange(4))
        losses.append(pixel_loss.item())
    assert min(losses[-5:]) < 0.1 * losses[0]
    assert len(set(map(tuple, vqgan.encode(pixels_B3YX).flatten(1).tolist()))) == 4

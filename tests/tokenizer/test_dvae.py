"""The dVAE: DALL-E's shape, tokens without noise, and pixels at the location of the likelihood."""

from dataclasses import replace

import pytest
import torch

from vilg.errors import SettingError
from vilg.tokenizer.dvae import BottleneckBlock, DVAEConfig
from vilg.tokenizer.image_tokenizer import ImageTokenizer

TINY = DVAEConfig(
    image_size=16, channels=8, channel_multipliers=(1, 2, 2), num_blocks=2, num_codes=24, code_dim=6
)


def build(config: DVAEConfig = TINY) -> ImageTokenizer:
    torch.manual_seed(0)
    return ImageTokenizer(config)


def test_shapes() -> None:
    dvae, pixels = build(), torch.rand(2, 3, 16, 16) * 2 - 1
    assert TINY.grid_size == 4
    scores_BKHW = dvae.encoder(pixels)
    assert scores_BKHW.shape == (2, 24, 4, 4)
    ids_BHW = dvae.encode(pixels)
    assert torch.equal(ids_BHW, scores_BKHW.argmax(1))
    raw = dvae.decoder(dvae.quantizer.lookup(ids_BHW))
    assert raw.shape == (2, 6, 16, 16)
    decoded = dvae.decode(ids_BHW)
    # The location's sigmoid, taken back from the margins: (s - 0.1) / 0.8 in [0, 1].
    expected = ((raw[:, :3].sigmoid() - 0.1) / 0.8).clamp(0, 1) * 2 - 1
    assert torch.allclose(decoded, expected, atol=1e-6)
    assert not decoded.requires_grad


def test_a_block_adds_four_convolutions_at_a_small_scale() -> None:
    torch.manual_seed(0)
    block, x = BottleneckBlock(8, 16, (3, 3, 3, 1), residual_scale=0.25), torch.randn(1, 8, 5, 5)
    h = x
    for i in (1, 3, 5, 7):
        h = block.layers[i](h.relu())
    assert torch.allclose(block(x), block.shortcut(x) + 0.25 * h, atol=1e-6)
    convolutions = [block.layers[i] for i in (1, 3, 5, 7)]
    assert [conv.kernel_size[0] for conv in convolutions] == [3, 3, 3, 1]
    assert [conv.out_channels for conv in convolutions] == [4, 4, 4, 16]


def test_the_preset_is_dalle_s() -> None:
    config = DVAEConfig()
    with torch.device("meta"):
        dvae = ImageTokenizer(config)
        pixels = torch.empty(1, 3, 256, 256)
    assert config.grid_size == 32 and config.widths == (256, 512, 1024, 2048)
    assert config.residual_scale == 1 / 64
    assert dvae.encode(pixels).shape == (1, 32, 32)
    assert dvae.quantizer.codebook_KD.shape == (8192, 128)
    blocks = [part for part in dvae.encoder.modules() if isinstance(part, BottleneckBlock)]
    assert len(blocks) == 8
    # The published encoder and decoder have 53.8 M and 43.8 M parameters; the codebook is the
    # decoder's first layer without its bias.
    num_encoder = sum(p.numel() for p in dvae.encoder.parameters())
    num_decoder = sum(p.numel() for p in dvae.decoder.parameters())
    assert num_encoder == 53_786_240
    assert num_decoder + 8192 * 128 == 43_829_766 - 128


def test_codes_may_be_any_vectors() -> None:
    dvae = build()
    vectors = torch.randn(2, 6, 4, 4, requires_grad=True)
    made = dvae.decode_codes(vectors)
    assert made.shape == (2, 3, 16, 16)
    made.sum().backward()
    assert vectors.grad is not None and vectors.grad.any()


def test_the_fingerprint_names_encoder_and_codebook() -> None:
    dvae, other = build(), build()
    assert dvae.fingerprint() == other.fingerprint()
    other.decoder.conv_out.weight.data += 1
    assert dvae.fingerprint() == other.fingerprint()
    other.quantizer.codebook_KD.data[0, 0] += 1e-3
    assert dvae.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 18},
        {"channels": 6},
        {"channel_multipliers": ()},
        {"num_blocks": 0},
        {"kind": "vqgan"},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        replace(TINY, **wrong)  # type: ignore[arg-type]

"""Scores of patches, each picture's its own."""

import pytest
import torch
from torch import nn

from vilg.errors import SettingError
from vilg.tokenizer.discriminator import DiscriminatorConfig, PatchDiscriminator

SMALL = DiscriminatorConfig(channels=8, num_layers=2, norm_groups=4)


def test_a_pictures_scores_do_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    discriminator, pixels = PatchDiscriminator(SMALL), torch.randn(3, 3, 32, 32)
    together = discriminator(pixels)
    alone = torch.cat([discriminator(picture[None]) for picture in pixels])
    assert together.shape[0] == 3 and together.ndim == 2
    assert torch.allclose(together, alone, atol=1e-5)
    assert len(together.unique()) == together.numel()


def test_the_defaults_are_patchgan_s() -> None:
    discriminator = PatchDiscriminator(DiscriminatorConfig())
    convolutions = [part for part in discriminator.modules() if isinstance(part, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convolutions] == [
        (3, 64, 2),
        (64, 128, 2),
        (128, 256, 2),
        (256, 512, 1),
        (512, 1, 1),
    ]
    assert all(c.kernel_size == (4, 4) for c in convolutions)
    assert float(convolutions[2].weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert discriminator(torch.zeros(1, 3, 256, 256)).shape == (1, 30 * 30)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in discriminator.modules())


def test_groups_must_divide_the_widths() -> None:
    with pytest.raises(SettingError, match="norm_groups"):
        DiscriminatorConfig(channels=20, norm_groups=32)
    with pytest.raises(SettingError, match="num_layers"):
        DiscriminatorConfig(num_layers=0)

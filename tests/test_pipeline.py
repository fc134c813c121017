"""The two decoders of drawn tokens: from the tokens alone, or from the generator's states."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import SMALL_GENERATOR, SMALL_VQGAN, VOCABULARY
from vilg.images import to_array, to_pictures
from vilg.model.folder import Decoder, Model, SamplingConfig
from vilg.model.generator import Generator, text_to_image_states
from vilg.model.reconstructor import Reconstructor
from vilg.pipeline import SettingError, Vilg
from vilg.tokenizer.vqgan import VQGAN

PROMPT = "红苹果"


@pytest.fixture(scope="module")
def model() -> Model:
    """A model of random weights over 3x3 tokens, with a reconstructor that paints in earnest."""
    torch.manual_seed(0)
    tokenizer = VQGAN(replace(SMALL_VQGAN, image_size=6, num_codes=12)).requires_grad_(False)
    generator = Generator(SMALL_GENERATOR).requires_grad_(False)
    for weight in generator.parameters():
        weight.normal_(std=0.5)
    reconstructor = Reconstructor(SMALL_GENERATOR.width, tokenizer).requires_grad_(False)
    return Model(
        tokenizer.eval(), generator.eval(), VOCABULARY, SamplingConfig(), reconstructor.eval()
    )


def arrays(pictures: list) -> np.ndarray:
    return np.stack([to_array(picture) for picture in pictures])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_end_to_end_decoder_reads_the_states_of_the_prompt(
    model: Model, guidance: float
) -> None:
    vilg = Vilg(model)
    found = vilg.generate(PROMPT, 3, seed=5, guidance=guidance, decoder="end-to-end")
    ids = vilg.draw([PROMPT] * 3, range(5, 8), guidance=guidance).image_ids_BN
    assert model.generator is not None and model.reconstructor is not None
    states = text_to_image_states(model.generator, [vilg.encode_text(PROMPT)] * 3, ids)[:, 1:]
    raw = model.reconstructor(states, model.generator.config.grid)
    expected = arrays(to_pictures(raw.clamp(-1, 1))).astype(int)
    assert np.abs(arrays(found).astype(int) - expected).max() <= 1  # a byte may round either way
    two_stage = arrays(vilg.generate(PROMPT, 3, seed=5, guidance=guidance))
    assert not np.array_equal(two_stage, arrays(found))
    assert np.array_equal(two_stage, arrays(vilg.decode(ids)))


def test_a_model_has_a_decoder_of_its_own_choice(model: Model, tmp_path: Path) -> None:
    own = replace(model, sampling=SamplingConfig(decoder=Decoder.END_TO_END))
    Vilg(own).save_pretrained(tmp_path)
    loaded = Vilg.from_pretrained(tmp_path)
    assert loaded.model.sampling.decoder is Decoder.END_TO_END
    by_default = arrays(loaded.generate(PROMPT, 2))
    assert np.array_equal(by_default, arrays(loaded.generate(PROMPT, 2, decoder="end-to-end")))
    assert not np.array_equal(by_default, arrays(loaded.generate(PROMPT, 2, decoder="two-stage")))


def test_a_decoder_that_is_not_there_is_said(model: Model) -> None:
    plain = Vilg(replace(model, reconstructor=None))
    with pytest.raises(SettingError, match="no end-to-end decoder"):
        plain.generate(PROMPT, decoder="end-to-end")
    with pytest.raises(SettingError, match="must be two-stage or end-to-end, not one-stage"):
        plain.generate(PROMPT, decoder="one-stage")

"""On a CUDA device: what is drawn, said and scored there is what it is on the CPU, in fp32 and nearly so in bf16.

Skipped where there is none. What does not need the device itself is proved in `test_any_device`.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.sampling.test_decode import PROMPTS, ZH, toy_generator, toy_images
from vilg.api import Vilg
from vilg.device import moved, usual_dtype
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.patterns import paper_patterns
from vilg.sampling.images import draw_images
from vilg.sampling.precision import Precision, prepared
from vilg.sampling.rank import caption_scores, image_scores
from vilg.sampling.texts import generate_texts, search_text

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda", 0)
GREEDY = SamplingConfig(temperature=0.0)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("height", "width"), [(3, 4), (9, 7)])  # 12 steps one by one, 63 recorded
def test_pictures_are_those_of_the_cpu(guidance: float, height: int, width: int) -> None:
    here = toy_generator(paper_patterns(4), height, width)
    there = toy_generator(paper_patterns(4), height, width).to(CUDA)
    settings = replace(GREEDY, guidance=guidance, decoder=Decoder.END_TO_END)
    expected = draw_images(here, PROMPTS, range(10), settings)
    found = draw_images(there, PROMPTS, range(10), settings)
    assert found.image_ids_BN.device == CUDA
    assert torch.equal(found.image_ids_BN.cpu(), expected.image_ids_BN)
    assert found.states_BNC is not None and expected.states_BNC is not None
    torch.testing.assert_close(found.states_BNC.cpu(), expected.states_BNC, rtol=0, atol=1e-3)


def test_noise_is_that_of_the_cpu() -> None:
    """A draw within rounding of a border may fall on either side, and then all that follows."""
    expected = draw_images(toy_generator(), PROMPTS, range(100), SamplingConfig()).image_ids_BN
    found = draw_images(toy_generator().to(CUDA), PROMPTS, range(100), SamplingConfig())
    same_B = (found.image_ids_BN.cpu() == expected).all(dim=1)
    assert float(same_B.double().mean()) >= 0.95


def test_captions_are_those_of_the_cpu() -> None:
    here, there = toy_generator(), toy_generator().to(CUDA)
    images = toy_images(here, 2)
    for foreign_V in (None, torch.isin(torch.arange(24), torch.tensor([6, 7]))):
        said = [
            (
                generate_texts(generator, ids, [ZH, ZH], range(2), GREEDY, foreign_V=foreign_V),
                search_text(generator, ids[0], ZH, 3, foreign_V=foreign_V),
            )
            for generator, ids in ((here, images), (there, images.to(CUDA)))
        ]
        assert said[0] == said[1]


def test_scores_are_those_of_the_cpu() -> None:
    here, there = toy_generator(), toy_generator().to(CUDA)
    images = toy_images(here, len(PROMPTS))
    for score in (
        lambda generator, ids: caption_scores(generator, ids, [ZH] * len(PROMPTS), PROMPTS),
        lambda generator, ids: image_scores(generator, PROMPTS, ids),
    ):
        found = score(there, moved(images, CUDA))
        torch.testing.assert_close(found.cpu(), score(here, images), rtol=0, atol=1e-3)


def test_bf16_takes_mostly_the_same_tokens() -> None:
    expected = draw_images(toy_generator(), PROMPTS, range(5), GREEDY).image_ids_BN
    twin = prepared(toy_generator().to(CUDA, usual_dtype(CUDA)), Precision.BF16)
    found = draw_images(twin, PROMPTS, range(5), GREEDY).image_ids_BN.cpu()
    assert bool((found[:, 0] == expected[:, 0]).double().mean() >= 0.6)


def test_the_shipped_model_draws_and_describes_there() -> None:
    here, there = (Vilg.from_pretrained(device=name) for name in ("cpu", "cuda"))
    assert (there.device, there.precision) == (CUDA, "bf16")
    exact = Vilg.from_pretrained(device="cuda", dtype=torch.float32)
    (picture,) = here.generate("green apple, 3D render", seed=7, best_of=2)
    (same,) = exact.generate("green apple, 3D render", seed=7, best_of=2)
    assert np.abs(np.array(picture, int) - np.array(same, int)).mean() < 2
    assert isinstance(there.generate("green apple, 3D render")[0], Image.Image)
    assert exact.caption(picture, "en") == here.caption(picture, "en")

"""The paper's sizes: parameter counts by formula, and that both networks can be built."""

from collections.abc import Callable

import pytest
import torch

from vilg.model.generator import Generator, text_to_image_log_probs
from vilg.recipes.paper import base_10b, dvae_f8_8192, lite_300m, vqgan_f8_8192
from vilg.tokenizer.dvae import DVAEConfig
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.picture_loss import check_fits
from vilg.training.settings import Recipe

VOCABULARY_SIZE = 8283  # of datasets/emoji/tokenizer.json


@pytest.mark.parametrize(
    ("recipe", "layers", "width", "heads", "stated"),
    [(lite_300m, 24, 1024, 16, 300e6), (base_10b, 48, 4096, 64, 10e9)],
)
def test_the_paper_s_sizes_have_their_parameters(
    recipe: Callable[[], Recipe], layers: int, width: int, heads: int, stated: float
) -> None:
    """Sections 5 and 4.1 state layers, width, heads and a rounded count."""
    run = recipe().generator
    assert run is not None
    tokenizer = VQGANConfig()
    config = run.shape(tokenizer, VOCABULARY_SIZE)
    assert (len(config.patterns), config.width, config.num_heads) == (layers, width, heads)
    assert config.grid.num_cells == 1024 and config.num_codes == 8192
    with torch.device("meta"):
        generator = Generator(config)
    d, tokens = width, config.num_codes + VOCABULARY_SIZE
    blocks = layers * (12 * d**2 + 13 * d) + 2 * d  # matrices; biases and norms; the last norm
    if config.qk_norm:
        blocks += layers * 2 * d // heads
    embeddings = (tokens + config.max_text + 32 + 32 + 4) * d
    heads_out = tokens * (d + 1)
    found = sum(parameter.numel() for parameter in generator.parameters())
    assert found == blocks + embeddings + heads_out
    assert blocks == pytest.approx(12 * layers * d**2, rel=2e-3)
    assert blocks == pytest.approx(stated, rel=0.04)


def test_a_10b_step_has_the_shapes_it_should() -> None:
    run = base_10b().generator
    assert run is not None
    config = run.shape(VQGANConfig(), VOCABULARY_SIZE)
    with torch.device("meta"):
        generator = Generator(config)
        ids = torch.empty(2, 1024, dtype=torch.long)
    # Text to image only: how many words a batch has is not known without values.
    image_BN = text_to_image_log_probs(generator, [[300, 301], [302]], ids)
    assert image_BN.shape == (2, 1024)
    image_BN.mean().backward()
    without = {name for name, weight in generator.named_parameters() if weight.grad is None}
    assert without == {"text_head.weight", "text_head.bias"}


def test_the_preset_f8_8192_is_the_paper_s() -> None:
    """Section 4.1: 256 x 256 pixels, f8, 8,192 codes; VQGAN's own terms with its late start."""
    run = vqgan_f8_8192().tokenizer
    assert run is not None and isinstance(run.model, VQGANConfig)
    assert (run.model.image_size, run.model.reduction, run.model.num_codes) == (256, 8, 8192)
    assert run.loss.perceptual > 0 and run.loss.adversarial > 0 and run.loss.adversarial_from > 0


def test_the_preset_dvae_is_dalle_s() -> None:
    """arXiv 2102.12092, appendix A: the network of the ablation's tokenizer, its schedules and its optimizer."""
    run = dvae_f8_8192().tokenizer
    assert run is not None and run.model == DVAEConfig()
    assert (run.model.grid_size, run.model.num_codes) == (32, 8192)
    codebook, optim = run.codebook, run.optim
    assert (codebook.temperature_from, codebook.temperature_to) == (1, 1 / 16)
    assert (codebook.temperature_steps, codebook.kl, codebook.kl_steps) == (150_000, 6.6, 5000)
    assert (optim.peak_lr, optim.final_lr, optim.betas) == (1e-4, 1.25e-6, (0.9, 0.999))
    assert (run.loop.batch_size, optim.weight_decay, optim.ema_decay) == (512, 1e-4, 0.999)
    check_fits(run.loss, run.model)

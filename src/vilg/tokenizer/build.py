"""From settings to a network: the one place that knows all kinds of image tokenizers."""

from vilg.tokenizer.base import ImageTokenizer
from vilg.tokenizer.dvae import DVAE, DVAEConfig
from vilg.tokenizer.vqgan import VQGAN, VQGANConfig

TokenizerConfig = VQGANConfig | DVAEConfig


def build_tokenizer(config: TokenizerConfig) -> ImageTokenizer:
    """Return the network of the settings, with initial weights."""
    return VQGAN(config) if isinstance(config, VQGANConfig) else DVAE(config)

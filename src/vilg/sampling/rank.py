"""Which candidate is best? Asked of the model's own other direction, or of any other judge.

The paper ranks its images by an in-house matching model (section 4.2). Here an image is as good as its
prompt is likely as its caption, and a caption as good as it makes its image likely: one model, no
second network. A `Ranker` such as `clip.ClipRanker` may stand in for it.

Shape letters: B candidates, N image tokens, M text tokens.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from vilg.device import moved
from vilg.model.generator import Generator, image_to_text_log_probs, text_to_image_log_probs
from vilg.sampling.batches import LARGEST_BATCH, slices

# Logits of this many numbers at once, half a gigabyte.
_LOGITS = 2**27


def rows_at_once(generator: Generator) -> int:
    """Return how many images are scored at once, for what their logits take."""
    config = generator.config
    return max(1, min(LARGEST_BATCH, _LOGITS // (config.grid.num_cells * config.num_codes)))


class Ranker(Protocol):
    """Scores pictures of a prompt; the highest is the best."""

    def __call__(self, prompt: str, pictures: Sequence[Image.Image]) -> Sequence[float]: ...


@torch.inference_mode()
def caption_scores(
    generator: Generator,
    image_ids_BN: Tensor,
    language_ids: Sequence[int],
    texts: Sequence[Sequence[int]],
) -> Tensor:
    """Return score_B: the mean log P(t_k | z, t_<k) of each image's text, in nats a token."""
    image_ids_BN, scores = moved(image_ids_BN, generator.device), []
    for part in slices(len(texts), rows_at_once(generator)):
        log_probs_BM, valid_BM = image_to_text_log_probs(
            generator, image_ids_BN[part], language_ids[part], texts[part]
        )
        scores.append(log_probs_BM.sum(dim=1) / valid_BM.sum(dim=1))
    return torch.cat(scores)


@torch.inference_mode()
def image_scores(
    generator: Generator, texts: Sequence[Sequence[int]], image_ids_BN: Tensor
) -> Tensor:
    """Return score_B: the mean log P(z_k | t, z_<k) of each text's image, in nats a token."""
    image_ids_BN = moved(image_ids_BN, generator.device)
    scores = [
        text_to_image_log_probs(generator, texts[part], image_ids_BN[part]).mean(dim=1)
        for part in slices(len(texts), rows_at_once(generator))
    ]
    return torch.cat(scores)

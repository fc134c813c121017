"""How likely pictures and captions make each other, and whether more so than shuffled pairs.

Log probabilities are in nats; those of a token average over tokens, not over texts, and the closing
[EOS] is one. A shuffled pair is a picture with the caption of another picture of the same style in
the same language, so that knowing style and language does not help.

Shape letters: S samples, N image tokens, M text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vilg.api import Vilg
from vilg.model.generator import Generator, image_to_text_log_probs, text_to_image_log_probs
from vilg.progress import in_batches
from vilg.randomness import shuffle_within
from vilg.shipped.samples import TRAIN, Splits, encode_captions
from vilg.text import LANGUAGES

_BATCH = 50


@dataclass(frozen=True)
class Likelihoods:
    """Log probabilities of pairs, summed over tokens.

    Attributes:
        image_S: log P(image | text).
        text_S: log P(text, [EOS] | image, [lang]).
        num_image_tokens, num_text_tokens: of all pairs together.
    """

    image_S: Tensor
    text_S: Tensor
    num_image_tokens: int
    num_text_tokens: int

    def nll_per_token(self) -> dict[str, float]:
        """Return the mean negative log likelihood of a token in both directions."""
        return {
            "image_given_text": -float(self.image_S.sum()) / self.num_image_tokens,
            "text_given_image": -float(self.text_S.sum()) / self.num_text_tokens,
        }


@torch.inference_mode()
def likelihoods(
    generator: Generator,
    image_ids_SN: Tensor,
    language_id: int,
    texts: Sequence[Sequence[int]],
    what: str,
) -> Likelihoods:
    """Score the pairs (image s, text s) in both directions."""
    image_S = torch.zeros(len(texts), dtype=torch.float64)
    text_S = torch.zeros(len(texts), dtype=torch.float64)
    for part in in_batches(len(texts), _BATCH, what):
        ids_BN, here = image_ids_SN[part], texts[part]
        image_BN = text_to_image_log_probs(generator, here, ids_BN)
        text_BM, _ = image_to_text_log_probs(generator, ids_BN, [language_id] * len(here), here)
        image_S[part] = image_BN.cpu().double().sum(dim=1)
        text_S[part] = text_BM.cpu().double().sum(dim=1)
    num_text_tokens = sum(len(text) + 1 for text in texts)
    return Likelihoods(image_S, text_S, image_ids_SN.numel(), num_text_tokens)


def wins(own_S: Tensor, other_S: Tensor) -> Tensor:
    """Return 1 where own > other, 1/2 at a tie, else 0; the mean is the share of pairs that win."""
    return (own_S > other_S).double() + 0.5 * (own_S == other_S)


def score_likelihoods(
    vilg: Vilg, splits: Splits, image_ids: dict[str, Tensor], num_pairs: int, seed: int
) -> dict[str, Any]:
    """Return negative log likelihoods a token, and the shares of pairs that beat shuffled ones.

    Args:
        image_ids: image_ids_SN of the chosen pictures of each split.
        num_pairs: the first of the train split that are shuffled.
        seed: of the shuffling.
    """
    tokenizer, max_text = vilg.text_tokenizer, vilg.generator.config.max_text
    nll: dict[str, Any] = {name: {} for name in splits.chosen}
    matched: dict[str, Any] = {}
    image_wins: list[Tensor] = []
    text_wins: list[Tensor] = []
    for lang in LANGUAGES:
        language_id = tokenizer.language_id(lang)
        for name, samples in splits.chosen.items():
            texts = encode_captions(samples, lang, tokenizer, max_text)
            what = f"likelihoods, {name}, {lang}"
            own = likelihoods(vilg.generator, image_ids[name], language_id, texts, what)
            nll[name][lang] = own.nll_per_token()
            if name == TRAIN:
                i, j = shuffle_within(
                    [sample.tags["style"] for sample in samples[:num_pairs]], seed
                )
                others = [texts[position] for position in j]
                what = f"shuffled pairs, {lang}"
                shuffled = likelihoods(
                    vilg.generator, image_ids[name][i], language_id, others, what
                )
                # A shuffled pair (image i, text j) is held against (image i, text i) for its image
                # and against (image j, text j) for its text.
                image_wins.append(wins(own.image_S[i], shuffled.image_S))
                text_wins.append(wins(own.text_S[j], shuffled.text_S))
                matched[lang] = _shares(image_wins[-1], text_wins[-1])
    matched["all"] = _shares(torch.cat(image_wins), torch.cat(text_wins))
    return {"nll_per_token": nll, "matched_above_shuffled": matched}


def _shares(image_S: Tensor, text_S: Tensor) -> dict[str, Any]:
    """Return the shares of pairs that win; without pairs there are none."""
    return {
        "num": len(image_S),
        "image_given_text": float(image_S.mean()) if len(image_S) else None,
        "text_given_image": float(text_S.mean()) if len(text_S) else None,
    }

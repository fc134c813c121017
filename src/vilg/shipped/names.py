"""Does the right name win when all names compete? Concept top-1 by likelihood.

A name's score is log P(name, comma | image, [lang]): with the comma that closes it, or a name would
never lose against its own beginning.

The names are one tree of tokens. Its nodes stand side by side in one sequence behind the image, and a
mask lets each see the image and its own beginnings only. So the image is read once, its keys are
never copied per name, and a beginning that names share is computed once.

Shape letters: B pictures, N image tokens, M text tokens, T nodes of one part of the tree, E edges (a
node and the token that may follow it), W names, C width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vilg.api import Vilg
from vilg.data.pairs import Pair
from vilg.device import moved
from vilg.model.generator import Generator, image_to_text_layout, pad_texts
from vilg.progress import in_batches
from vilg.sampling.cache import read_both
from vilg.sampling.decode import prefill
from vilg.shipped.exact_match import COMMAS
from vilg.shipped.samples import Splits
from vilg.text import LANGUAGES

# Some 60 to 130 nodes: measured best on a CPU, and the logits of 10 pictures take 45 MB at most.
_NAMES_AT_ONCE = 32
_PICTURES_AT_ONCE = 10


@dataclass(frozen=True)
class _Part:
    """Some names as a tree: what its nodes are, who their beginnings are, what is scored."""

    x_TC: Tensor
    see_TT: Tensor
    node_E: Tensor
    token_E: Tensor
    name_E: Tensor


class NameScorer:
    """Scores pictures against a fixed list of names in one language.

    Args:
        names: in tokens, each with the token that closes it.
    """

    def __init__(self, generator: Generator, language_id: int, names: Sequence[Sequence[int]]):
        self.generator = generator
        self.num_names = len(names)
        # In alphabetical order, so that names of one part share their beginnings.
        order = sorted(range(len(names)), key=lambda w: tuple(names[w]))
        self._parts = [
            self._build(language_id, order[first : first + _NAMES_AT_ONCE], names)
            for first in range(0, len(order), _NAMES_AT_ONCE)
        ]

    @torch.inference_mode()
    def _build(
        self, language_id: int, chosen: Sequence[int], names: Sequence[Sequence[int]]
    ) -> _Part:
        nodes: dict[tuple[int, ...], int] = {}  # a node is the inputs up to it
        row_T: list[int] = []
        place_T: list[int] = []
        edges: list[tuple[int, int, int]] = []
        # The closing token is predicted and never an input.
        inputs = [(language_id, *names[w][:-1]) for w in chosen]
        for row, (w, text) in enumerate(zip(chosen, inputs, strict=True)):
            for place, token in enumerate(names[w]):
                beginning = text[: place + 1]
                if beginning not in nodes:
                    nodes[beginning] = len(nodes)
                    row_T.append(row)
                    place_T.append(place)
                edges.append((nodes[beginning], token, w))

        see_TT = torch.eye(len(nodes), dtype=torch.bool)
        for beginning, node in nodes.items():  # a parent comes before its children
            if len(beginning) > 1:
                see_TT[node] |= see_TT[nodes[beginning[:-1]]]

        ids_WM, _ = pad_texts(inputs)
        grid = self.generator.config.grid
        layout = image_to_text_layout(ids_WM.shape[1], grid)
        device = self.generator.device
        x_WMC = self.generator.embed(layout, moved(ids_WM, device), start=grid.num_cells)
        at_2T, edge_E3 = (moved(torch.tensor(x), device) for x in ([row_T, place_T], edges))
        return _Part(x_WMC[*at_2T], moved(see_TT, device), *edge_E3.unbind(dim=1))

    @torch.inference_mode()
    def log_probs(self, image_ids_BN: Tensor) -> Tensor:
        """Return log P(name and its closing token | image, [lang]), shape (B, W)."""
        B, N = image_ids_BN.shape
        generator = self.generator
        layout = image_to_text_layout(1, generator.config.grid)
        state, _ = prefill(generator, layout, image_ids_BN, torch.ones(B, N + 1, dtype=torch.bool))

        log_probs_BW = torch.zeros(B, self.num_names, device=generator.device)
        for part in self._parts:
            hidden_TT = torch.zeros_like(part.see_TT, dtype=torch.float32)
            hidden_TT = hidden_TT.masked_fill(~part.see_TT, -torch.inf)
            reads = [partial(read_both, cache.prefix, bias_TS=hidden_TT) for cache in state.caches]
            states_BTC = generator.transformer(part.x_TC.expand(B, -1, -1), reads)
            logits_BTV = generator.text_logits(states_BTC).float()
            log_probs_BE = (
                logits_BTV[:, part.node_E, part.token_E] - logits_BTV.logsumexp(-1)[:, part.node_E]
            )
            log_probs_BW.index_add_(1, part.name_E, log_probs_BE)
        return log_probs_BW


def candidate_names(samples: Sequence[Pair], lang: str) -> list[str]:
    """Return the distinct names in alphabetical order."""
    return sorted({sample.tags[f"name.{lang}"] for sample in samples})


def score_top1(
    vilg: Vilg, splits: Splits, image_ids: dict[str, Tensor], num_pictures: int
) -> dict[str, Any]:
    """Return by language and split the share of pictures whose own name is the likeliest of all.

    Args:
        image_ids: image_ids_SN of the chosen pictures of each split.
        num_pictures: the first of each split that are ranked.
    """
    scores: dict[str, Any] = {}
    for lang in LANGUAGES:
        names = candidate_names(splits.samples, lang)
        texts = [vilg.text_tokenizer.encode(name + COMMAS[lang]) for name in names]
        scorer = NameScorer(vilg.generator, vilg.text_tokenizer.language_id(lang), texts)
        by_split = {}
        for split, samples in splits.chosen.items():
            ranked = samples[:num_pictures]
            num_right = 0
            for part in in_batches(len(ranked), _PICTURES_AT_ONCE, f"names, {split}, {lang}"):
                best_B = scorer.log_probs(image_ids[split][part]).argmax(dim=1).cpu().tolist()
                pairs = zip(best_B, ranked[part], strict=True)
                num_right += sum(
                    names[best] == sample.tags[f"name.{lang}"] for best, sample in pairs
                )
            by_split[split] = {"num": len(ranked), "top1": num_right / len(ranked)}
        scores[lang] = {"num_names": len(names), "baseline": 1 / len(names), "splits": by_split}
    return scores

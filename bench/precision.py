"""What rounded weights cost: how likely pictures and words stay, and how often a token is another.

    python -m bench.precision      a minute, with the shipped model

Tokens are drawn at temperature 1 after the same beginning and by the same random number as with the plain network,
so that one other token does not make all after it others. Captions are the likeliest words, whole.
All unseen combinations and 300 seen pairs, both languages; the precisions that the processor has
instructions for. Writes its section of docs/benchmarks.md.

Shape letters: S pairs, N image tokens, C width.
"""

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.measure import machine, publish, table
from vilg.api import Vilg
from vilg.data.pairs import Pair
from vilg.model.defaults import SamplingConfig
from vilg.model.folder import Model, find_model, load_model
from vilg.model.generator import pad_texts, text_to_image_states
from vilg.progress import in_batches
from vilg.sampling.noise import draw, draw_uniforms
from vilg.sampling.precision import Precision, is_supported
from vilg.shipped.emoji import EMOJI
from vilg.shipped.exact_match import write_captions
from vilg.shipped.likelihoods import likelihoods
from vilg.shipped.recipes import EMOJI_GROUPS
from vilg.shipped.samples import Settings, encode_captions, read_splits
from vilg.text import LANGUAGES
from vilg.tokenizer.tokens import encoded_tokens

SPLITS = {"train": 300, "unseen_combination": None}
BATCH = 50


@dataclass(frozen=True)
class Seen:
    """What a network makes of a split, languages one after the other."""

    image_nats: float
    text_nats: float
    drawn_SN: Tensor
    captions: list[str]


@torch.inference_mode()
def drawn_tokens(vilg: Vilg, texts: list[list[int]], image_ids_SN: Tensor) -> Tensor:
    """Return the token that would be drawn after each true beginning, drawn_SN."""
    S, N = image_ids_SN.shape
    uniforms_SN, rows = draw_uniforms(range(S), N), []
    for part in in_batches(S, BATCH, "tokens drawn"):
        states_SNC = text_to_image_states(
            vilg.generator, *pad_texts(texts[part]), image_ids_SN[part]
        )[:, :N]
        logits = vilg.generator.image_logits(states_SNC).float().flatten(0, 1)
        rows.append(draw(logits, uniforms_SN[part].flatten(), SamplingConfig()).view(-1, N))
    return torch.cat(rows)


def look(vilg: Vilg, samples: list[Pair], image_ids_SN: Tensor) -> Seen:
    nats, drawn, captions = [], [], []
    for lang in LANGUAGES:
        tokenizer = vilg.text_tokenizer
        texts = encode_captions(samples, lang, tokenizer, vilg.generator.config.max_text)
        found = likelihoods(
            vilg.generator, image_ids_SN, tokenizer.language_id(lang), texts, "likelihoods"
        )
        nats.append([*found.nll_per_token().values()])
        drawn.append(drawn_tokens(vilg, texts, image_ids_SN))
        captions += write_captions(vilg, image_ids_SN, lang, "captions")
    image_nats, text_nats = torch.tensor(nats).mean(0).tolist()
    return Seen(image_nats, text_nats, torch.cat(drawn), captions)


def split_rows(name: str, model: Model, samples: list[Pair]) -> list[list[str]]:
    image_ids_SN = torch.from_numpy(encoded_tokens(model.image_tokenizer, samples).astype("int64"))
    seen = {
        p: look(Vilg(model, precision=p), samples, image_ids_SN)
        for p in filter(is_supported, Precision)
    }
    plain, rows = seen[Precision.FP32], []
    for precision, found in seen.items():
        same = (found.drawn_SN == plain.drawn_SN).double().mean()
        pairs = list(zip(found.captions, plain.captions, strict=True))
        as_plain = sum(a == b for a, b in pairs) / len(pairs)
        rows.append([name, precision, f"{found.image_nats:.4f}", f"{found.text_nats:.4f}",
                     f"{same:.2%}", f"{as_plain:.2%}"])  # fmt: skip
    return rows


def main() -> None:
    if not any(is_supported(p) for p in (Precision.BF16, Precision.INT8)):
        sys.exit("this processor has no instructions for bf16 or int8: there is nothing to compare")
    model = load_model(find_model(None))
    chosen = read_splits(EMOJI, Settings(only=EMOJI_GROUPS)).chosen
    rows = [
        row for name, num in SPLITS.items() for row in split_rows(name, model, chosen[name][:num])
    ]
    header = ["pairs", "precision", "nats an image token", "nats a text token",
              "drawn tokens as with fp32", "captions as with fp32"]  # fmt: skip
    publish("precision", f"Machine: {machine()}. Model: emoji-64.\n\n{table(header, rows)}")


if __name__ == "__main__":
    main()

"""Training throughput: ours against transformers' Llama and x-transformers, and against the machine.

    make bench-install && bench/.venv/bin/python -m bench.training      about 10 minutes, idle
    bench/.venv/bin/python -m bench.training lite                       one step of lite_300m

Text to image: 32 text tokens and the picture's, 8 layers. All have the same number of parameters in their
blocks to 1% (Llama's gated feed-forward is 8/3 wide), 8,192 outputs, AdamW, fp32 and the same batch. A peer
scores every position, as shipped, over one vocabulary of words and codes alike; ours scores image tokens over
the codes, and has tables for 8,192 words besides. Writes its sections of docs/benchmarks.md.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.measure import machine, medians, peak_bytes, product_peak, publish, say, table
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_log_probs,
    text_to_image_log_probs,
)
from vilg.model.patterns import paper_patterns
from vilg.recipes.paper import lite_300m
from vilg.tokenizer.vqgan import VQGANConfig
from vilg.training.memory import keep_freed_memory
from vilg.training.plan import Step, operations_of

NUM_TEXT = 32
NUM_CODES = NUM_WORDS = 8192
HEAD_WIDTH = 64
LAYERS = 8
Loss = Callable[[], Tensor]


def ours(width: int, side: int, batch: int) -> tuple[nn.Module, Loss]:
    generator = Generator(our_config(width, side))
    images, texts = tokens(side, batch)
    return generator, lambda: -text_to_image_log_probs(generator, texts.tolist(), images).mean()


def our_config(width: int, side: int) -> GeneratorConfig:
    return GeneratorConfig(
        width=width,
        num_heads=width // HEAD_WIDTH,
        patterns=paper_patterns(LAYERS),
        grid_height=side,
        grid_width=side,
        num_codes=NUM_CODES,
        vocabulary_size=NUM_WORDS,
    )


def llama(width: int, side: int, batch: int) -> tuple[nn.Module, Loss]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=NUM_CODES,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // HEAD_WIDTH,
        max_position_embeddings=NUM_TEXT + 1 + side**2,
        use_cache=False,
        attn_implementation="sdpa",
    )
    model, ids = LlamaForCausalLM(config), joint(side, batch)
    return model, lambda: model(input_ids=ids, labels=ids).loss


def x_transformers(width: int, side: int, batch: int) -> tuple[nn.Module, Loss]:
    from x_transformers import Decoder, TransformerWrapper

    ids = joint(side, batch)
    layers = Decoder(dim=width, depth=LAYERS, heads=width // HEAD_WIDTH, attn_flash=True)
    model = TransformerWrapper(num_tokens=NUM_CODES, max_seq_len=ids.shape[1], attn_layers=layers)

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    return model, loss


SYSTEMS = {"ours": ours, "transformers Llama": llama, "x-transformers": x_transformers}


def tokens(side: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return image_ids and text ids of random pairs."""
    return torch.randint(NUM_CODES, (batch, side**2)), torch.randint(
        6, NUM_WORDS, (batch, NUM_TEXT)
    )


def joint(side: int, batch: int) -> Tensor:
    """Return the same as one sequence of one vocabulary, a start token between."""
    images, texts = tokens(side, batch)
    start = torch.full((batch, 1), 1)
    return torch.cat([texts, start, images], dim=1)


def step(system: str, width: int, side: int, batch: int) -> Callable[[], None]:
    """Return a step of training."""
    torch.manual_seed(0)
    model, loss = SYSTEMS[system](width, side, batch)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    # Of tables, heads and positions one side is the vocabulary's or the length's, of blocks none.
    length = NUM_TEXT + 1 + side**2
    sizes = [p for p in model.parameters() if max(p.shape) <= 4 * width and length not in p.shape]
    blocks = sum(p.numel() for p in sizes)
    say(f"{system}: {blocks / 1e6:.2f} M parameters in its blocks")
    assert abs(blocks / (12 * LAYERS * width**2) - 1) < 0.01

    def case() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return case


def throughput() -> str:
    rows = []
    for width, side, batch in ((512, 32, 4), (512, 64, 1)):
        t = medians({name: step(name, width, side, batch) for name in SYSTEMS}, rounds=5)
        say(f"{side}x{side}: {t}")
        best_peer = min(seconds for name, seconds in t.items() if name != "ours")
        config = replace(our_config(width, side), max_text=NUM_TEXT)
        needed = operations_of(Step(shape=config, drawn=batch, described=0))
        share = needed / t["ours"] / product_peak()
        rates = [f"{batch * side**2 / seconds:.0f}" for seconds in t.values()]
        ratios = [f"{best_peer / t['ours']:.2f}x", f"{share:.0%}"]
        rows.append([str(width), f"{side**2:,}", str(batch), *rates, *ratios])
    header = ["width", "image tokens", "batch", *(f"{name}, image tokens/s" for name in SYSTEMS)]
    return table([*header, "ours / best peer", "counted FLOPs / product peak"], rows)


def lite_step() -> Callable[[], float]:
    """Return a step of lite_300m in both directions at batch 1, on 1,024 image tokens."""
    run = lite_300m().generator
    assert run is not None
    torch.manual_seed(0)
    generator = Generator(run.shape(VQGANConfig(), NUM_WORDS))
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-4, fused=True)
    images, texts = tokens(32, 1)

    def case() -> float:
        described, _ = image_to_text_log_probs(generator, images, [4], texts.tolist())
        loss = -text_to_image_log_probs(generator, texts.tolist(), images).mean() - described.mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return case


def lite() -> str:
    peak = peak_bytes(lite_step)
    case, losses, seconds = lite_step(), [], []
    for _ in range(4):
        started = time.perf_counter()
        losses.append(case())
        seconds.append(time.perf_counter() - started)
        say(f"lite_300m: loss {losses[-1]:.2f}, {seconds[-1]:.1f} s")
    return (
        f"Machine: {machine()}.\n\nOne training step of `lite_300m`, both directions, batch 1, 1,024 "
        f"image tokens, fp32, AdamW: {sorted(seconds[1:])[1]:.1f} s; it raises the peak memory by "
        f"{peak / 2**30:.1f} GiB beyond the weights (gradients, moments, activations). Losses of four "
        f"steps on one pair, without warm-up: {', '.join(f'{loss:.2f}' for loss in losses)} nats.\n"
    )


def main() -> None:
    keep_freed_memory()  # as `vilg train` does; for the peers too
    if sys.argv[1:] == ["lite"]:
        publish("lite_300m", lite())
    else:
        publish("training", f"Machine: {machine()}.\n\n{throughput()}")


if __name__ == "__main__":
    main()

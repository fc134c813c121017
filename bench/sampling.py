"""Drawing images token by token: ours against four libraries, and against the machine.

    make bench-install && bench/.venv/bin/python -m bench.sampling      about two hours, idle
    bench/.venv/bin/python -m bench.sampling 256                        only 256 (or 1024) tokens

Whole images of 8,192 codes, at temperature 1 without filters and guidance, from prompts of 32 tokens;
width 512, 8 layers, 8 heads of 64, 8,192 outputs. Blocks have the same number of parameters, to 0.6%:
Llama's gated feed-forward is 8/3 wide, min-dalle's 4/3 beside its cross-attention, both cut to a multiple
of 16, lest an odd width slow them down. docs/benchmarks.md says what could not be made equal, and gets the
tables, a section for each number of tokens. Each system is a process of its own, so that no library changes
another; they take turns, all in memory (some 16 GB). A precision that the processor has no instructions for
is not run.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

from bench.measure import machine, medians, memory, product_peak, publish, say, table
from bench.training import HEAD_WIDTH, LAYERS, NUM_CODES, NUM_TEXT, our_config
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator
from vilg.model.patterns import Pattern, mask, paper_patterns
from vilg.sampling.images import draw_images
from vilg.sampling.precision import Int8Linear, Precision, is_supported, prepared

BATCHES = (1, 4, 16)
ROUNDS = {256: 5, 1024: 3}  # by image tokens
SLOW = 60.0  # seconds; what takes longer in its first round has no other
# Every position anew for every token: 1,024 take 16 times as long as 256, and more.
LEFT_OUT = {("dalle-pytorch, as shipped", 1024)}
WEIGHT_BYTES = {Precision.FP32: 4, Precision.BF16: 2, Precision.INT8: 1}

# What the peers import and nothing here needs: empty modules stand in for them.
DALLE_STUBS = ("axial_positional_embedding", "omegaconf", "pkg_resources", "requests")
DALLE_STUBS += ("taming", "taming.models", "taming.models.vqgan")
MIN_DALLE_STUBS = ("emoji", "requests")


@dataclass(frozen=True)
class Shape:
    """What is drawn, and how large a network draws it."""

    side: int
    batch: int
    width: int = 512
    layers: int = LAYERS

    @property
    def num_cells(self) -> int:
        return self.side**2

    @property
    def num_heads(self) -> int:
        return self.width // HEAD_WIDTH

    @property
    def num_weights(self) -> int:
        """Those of the matrix products of a step."""
        return 12 * self.layers * self.width**2 + self.width * NUM_CODES

    def prompts(self) -> Tensor:
        return torch.randint(6, NUM_CODES, (self.batch, NUM_TEXT))


Draw = Callable[[], Tensor]  # image_ids_BN
Rule = Callable[[int], tuple[Pattern, ...]]


def dense(num_layers: int) -> tuple[Pattern, ...]:
    return (Pattern.DENSE,) * num_layers


def ours(shape: Shape, rule: Rule = paper_patterns, precision: Precision | None = None) -> Draw:
    """Draw with a generator prepared in a precision; None leaves its layers as they are."""
    config = our_config(shape.width, shape.side)
    generator = Generator(replace(config, patterns=rule(shape.layers))).eval()
    if precision is not None:
        generator = prepared(generator, precision)
    texts, seeds = shape.prompts().tolist(), range(shape.batch)
    return lambda: draw_images(generator, texts, seeds, SamplingConfig()).image_ids_BN


def llama(shape: Shape, cache: str, precision: Precision = Precision.FP32) -> Draw:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=NUM_CODES,
        hidden_size=shape.width,
        intermediate_size=8 * shape.width // 3 // 16 * 16,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.num_heads,
        max_position_embeddings=NUM_TEXT + shape.num_cells,
        bos_token_id=None,
        eos_token_id=None,  # no image ends early
        attn_implementation="sdpa",
    )
    model, ids = LlamaForCausalLM(config).eval(), shape.prompts()
    if precision is Precision.INT8:
        set_int8_layers(model)
    settings = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": shape.num_cells,
        "do_sample": True,
        "top_k": 0,
        "cache_implementation": cache,
        "disable_compile": True,
    }
    return lambda: model.generate(ids, **settings)[:, NUM_TEXT:]


def set_int8_layers(model: nn.Module) -> None:
    for name, part in list(model.named_modules()):
        if isinstance(part, nn.Linear):
            if part.bias is None:  # ours always have one
                part.bias = nn.Parameter(torch.zeros(part.out_features))
            model.set_submodule(name, Int8Linear(part))


def x_transformers(shape: Shape) -> Draw:
    from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

    model = TransformerWrapper(
        num_tokens=NUM_CODES,
        max_seq_len=NUM_TEXT + shape.num_cells,
        attn_layers=Decoder(
            dim=shape.width, depth=shape.layers, heads=shape.num_heads, attn_flash=True
        ),
    )
    writer, ids = AutoregressiveWrapper(model).eval(), shape.prompts()
    return lambda: writer.generate(ids, shape.num_cells, filter_logits_fn=lambda logits: logits)


def dalle_pytorch(shape: Shape, passes_cache: bool) -> Draw:
    sys.modules.update(dict.fromkeys(DALLE_STUBS, MagicMock()))
    from dalle_pytorch import DALLE, DiscreteVAE

    class Tokens(DiscreteVAE):
        def decode(self, img_seq: Tensor) -> Tensor:
            return img_seq

    num_words = 1 + NUM_TEXT  # the fewest: one, and a token of padding for each position
    num_codes = NUM_CODES - num_words
    model = DALLE(
        dim=shape.width,
        vae=Tokens(2 * shape.side, num_codes, codebook_dim=8, num_layers=1, hidden_dim=8),
        num_text_tokens=1,
        text_seq_len=NUM_TEXT,
        depth=3 * shape.layers // 4,  # of 16 C^2 parameters, not 12
        heads=shape.num_heads,
        dim_head=HEAD_WIDTH,
    ).eval()
    if passes_cache:
        model.forward_with_cond_scale = lambda *ids, cond_scale, cache: model(*ids, cache=cache)
    ids = torch.randint(1, num_words, (shape.batch, NUM_TEXT))
    return lambda: model.generate_images(ids, filter_thres=0.0, use_cache=passes_cache)


def min_dalle(shape: Shape) -> Draw:
    sys.modules.update(dict.fromkeys(MIN_DALLE_STUBS, MagicMock()))
    from min_dalle.models import dalle_bart_decoder

    B, N, C = shape.batch, shape.num_cells, shape.width
    dalle_bart_decoder.IMAGE_TOKEN_COUNT = N
    decoder = dalle_bart_decoder.DalleBartDecoder(
        image_vocab_count=NUM_CODES - 1,  # it adds one
        embed_count=C,
        attention_head_count=shape.num_heads,
        glu_embed_count=4 * C // 3 // 16 * 16,
        layer_count=shape.layers,
        device="cpu",
    ).eval()
    given = {
        "settings": torch.tensor([1.0, NUM_CODES, 1.0]),  # temperature, top k, guidance
        "encoder_state": torch.randn(2 * B, NUM_TEXT, C),
        "attention_mask": torch.ones(2 * B, 1, 1, NUM_TEXT, dtype=torch.bool),
    }

    def draw() -> Tensor:
        ids = torch.full((B, N + 1), NUM_CODES - 1)
        state, places = torch.zeros(shape.layers, 4 * B, N, C), torch.arange(N)
        for k in range(N):
            ids[:, k + 1], state = decoder.sample_tokens(
                attention_state=state, prev_tokens=ids[:, [k]], token_index=places[[k]], **given
            )
        return ids[:, 1:]

    return draw


OURS, OURS_INT8 = "ours, sparse, fp32", "ours, sparse, int8"
SYSTEMS: dict[str, Callable[[Shape], Draw]] = {
    OURS: partial(ours, precision=Precision.FP32),
    "ours, dense, fp32": partial(ours, rule=dense, precision=Precision.FP32),
    "ours, sparse, fp32, not packed": ours,
    OURS_INT8: partial(ours, precision=Precision.INT8),
    "ours, sparse, bf16": partial(ours, precision=Precision.BF16),
    "transformers Llama, dynamic cache, fp32": partial(llama, cache="dynamic"),
    "transformers Llama, static cache, fp32": partial(llama, cache="static"),
    "transformers Llama, dynamic cache, int8": partial(
        llama, cache="dynamic", precision=Precision.INT8
    ),
    "transformers Llama, static cache, int8": partial(
        llama, cache="static", precision=Precision.INT8
    ),
    "x-transformers": x_transformers,
    "dalle-pytorch, cache passed on": partial(dalle_pytorch, passes_cache=True),
    "dalle-pytorch, as shipped": partial(dalle_pytorch, passes_cache=False),
    "min-dalle": min_dalle,
}
FP32_PEERS = [name for name in SYSTEMS if not name.startswith("ours") and "int8" not in name]


def precision_of(name: str) -> Precision:
    """Read off a system's name in which precision it multiplies."""
    return next((p for p in Precision if p in name), Precision.FP32)


class Drawing:
    """A system in a process of its own, which draws whenever it is called.

    Attributes:
        peak: bytes that drawing has taken at most, beyond the network that it began with.
    """

    def __init__(self, name: str, shape: Shape):
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, shape), daemon=True)
        self._process.start()
        theirs.close()
        self.peak = self._ours.recv()

    def __call__(self) -> None:
        self._ours.send(True)
        self.peak = self._ours.recv()

    def close(self) -> None:
        self._ours.send(False)
        self._process.join()


def _serve(connection: Connection, name: str, shape: Shape) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    draw = SYSTEMS[name](shape)
    torch.set_num_threads(threads)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew
    before = memory("VmRSS")
    connection.send(0)
    while connection.recv():
        ids_BN = draw()
        assert ids_BN.shape == (shape.batch, shape.num_cells), f"{name} drew {ids_BN.shape}"
        connection.send(memory("VmHWM") - before)


@dataclass(frozen=True)
class Figure:
    """What a system shows at a batch: image tokens a second of all images, and bytes at its peak."""

    rate: float
    rounds: int
    peak: int


Figures = dict[tuple[str, int], Figure]


def measure(shape: Shape, rounds: int) -> Figures:
    """Let all systems take turns; a first round is thrown away where there is another."""
    names = [
        name
        for name in SYSTEMS
        if (name, shape.num_cells) not in LEFT_OUT and is_supported(precision_of(name))
    ]
    drawings = {name: Drawing(name, shape) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds + 1):
        for name, drawing in drawings.items():
            if not seconds[name] or seconds[name][0] < SLOW:
                started = time.perf_counter()
                drawing()
                seconds[name].append(time.perf_counter() - started)
                say(f"{shape}, {name}: {seconds[name][-1]:.2f} s, {drawing.peak / 2**20:.0f} MiB")
    figures = {}
    for name, drawing in drawings.items():
        drawing.close()
        kept = seconds[name][1:] or seconds[name]
        rate = shape.batch * shape.num_cells / statistics.median(kept)
        figures[name, shape.batch] = Figure(rate, len(kept), drawing.peak)
    return figures


def bandwidth() -> float:
    """Return bytes/s of a matrix-vector product over four times the last cache: the best of twenty (Linux)."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    last = max(int(path.read_text().strip().removesuffix("K")) * 1024 for path in sizes)
    matrix, vector = torch.ones(last // 4096, 4096), torch.ones(4096)
    best = min(medians({"read": lambda: matrix @ vector}, rounds=1)["read"] for _ in range(20))
    return matrix.nbytes / best


def share(name: str, figures: Figures, shape: Shape, read_rate: float) -> str:
    """Return which part of the bandwidth drawing one image uses; the name tells the patterns.

    What counts is what a step has to read: weights, and the mean of single-precision keys and values.
    """
    if (name, 1) not in figures:
        return "not run"
    num_keys = shape.layers * (NUM_TEXT + 1)
    for pattern in (paper_patterns if "sparse" in name else dense)(shape.layers):
        num_keys += int(mask(pattern, shape.side, shape.side, causal=True).sum()) / shape.num_cells
    weight_bytes = shape.num_weights * WEIGHT_BYTES[precision_of(name)]
    step_bytes = weight_bytes + num_keys * 2 * 4 * shape.width
    return f"{figures[name, 1].rate * step_bytes / read_rate:.0%}"


def figures_table(figures: Figures, shape: Shape, read_rate: float) -> str:
    rows = []
    for name in SYSTEMS:
        found = [figures.get((name, batch)) for batch in BATCHES]
        rates = ["not run" if f is None else f"{f.rate:.0f} ({f.rounds})" for f in found]
        peaks = ["-" if f is None else f"{f.peak / 2**20:.0f}" for f in found]
        rows.append([name, *rates, share(name, figures, shape, read_rate), " / ".join(peaks)])
    header = ["system", *(f"tokens/s at batch {batch} (rounds)" for batch in BATCHES)]
    return table([*header, "batch 1: share of the limit", "memory at 1 / 4 / 16, MiB"], rows)


def targets_table(figures: Figures, shape: Shape, read_rate: float) -> str:
    rows = [
        [f"{name}, batch 1: share of the limit", target, share(name, figures, shape, read_rate)]
        for name, target in ((OURS, "80%"), (OURS_INT8, "50%"))
    ]
    ratios = []
    for batch, target in ((4, "2x"), (16, "2.5x")):
        peers = {name: figures[name, batch].rate for name in FP32_PEERS if (name, batch) in figures}
        ratios.append((OURS, max(peers, key=peers.__getitem__), batch, target))
    ratios += [(OURS_INT8, OURS, *target) for target in ((1, "1.5x"), (4, "1.5x"), (16, "2x"))]
    for name, other, batch, target in ratios:
        found = figures.get((name, batch))
        measured = f"{found.rate / figures[other, batch].rate:.2f}x" if found else "not run"
        rows.append([f"{name} / {other}, batch {batch}", target, measured])
    return table(["", "at least", "measured"], rows)


def part(num_cells: int) -> str:
    read_rate, peak = bandwidth(), product_peak()
    say(f"{read_rate / 1e9:.1f} GB/s, {peak / 1e9:.0f} GFLOP/s")
    shapes = [Shape(round(num_cells**0.5), batch) for batch in BATCHES]
    figures: Figures = {}
    for shape in shapes:
        figures |= measure(shape, ROUNDS[num_cells])
    return (
        f"A matrix-vector product reads {read_rate / 1e9:.1f} GB/s. A "
        f"matrix product computes {peak / 1e9:.0f} GFLOP/s, with which fp32 ends at {peak / (2 * shapes[0].num_weights):.0f} tokens/s at any batch.\n\n"
        f"{figures_table(figures, shapes[0], read_rate)}\n"
        f"{targets_table(figures, shapes[0], read_rate)}\n"
    )


def main() -> None:
    for num_cells in [int(word) for word in sys.argv[1:]] or ROUNDS:
        publish(f"sampling_{num_cells}", f"Machine: {machine()}.\n\n{part(num_cells)}")


if __name__ == "__main__":
    main()

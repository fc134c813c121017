"""Sparse attention against dense attention under the same mask, fused and with materialised scores.

    make bench-install && bench/.venv/bin/python -m bench.attention     about 50 minutes, idle

Attention alone: forward and backward of one layer, 32 text tokens, heads of 64, fp32. Whole step: both
directions' losses, backward and AdamW, 8 layers by the paper's rule, 8,192 codes. Writes its section
of docs/benchmarks.md.

Shape letters: B batch, T positions, H heads, D head width, C width.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from bench.measure import DOCS, machine, medians, peak_bytes, publish, say, table
from vilg.model.attend import FEWEST_CELLS, Read, attend, attend_dense
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_layout,
    image_to_text_log_probs,
    text_to_image_layout,
    text_to_image_log_probs,
)
from vilg.model.patterns import Pattern, paper_patterns
from vilg.model.segments import Grid, Layout, with_padding

HEAD_WIDTH = 64
NUM_TEXT = 32
SIDES = (16, 32, 64)  # 256, 1,024 and 4,096 image tokens
WIDTHS = (512, 1024)
PATTERNS = (Pattern.ROW, Pattern.COLUMN, Pattern.CONVOLUTION)
LAYOUTS = {"text to image": text_to_image_layout, "image to text": image_to_text_layout}
STEP_LAYERS = 8


def batch_of(side: int) -> int:
    """Return a batch that has about 4,096 image tokens, and at most 8 pictures."""
    return min(8, max(1, 64**2 // side**2))


def materialised(pattern: Pattern, layout: Layout, valid_BT: Tensor) -> Read:
    """Return attention that keeps all scores for the backward pass, as before fused kernels."""
    see_B1TT = with_padding(layout.visible(pattern), valid_BT)

    def read(q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHD, k_BTHD, v_BTHD))
        scores = (q @ k.transpose(2, 3) / HEAD_WIDTH**0.5).masked_fill(~see_B1TT, -torch.inf)
        return (scores.softmax(dim=-1) @ v).transpose(1, 2)

    return read


FORMS = {"sparse": attend, "dense": attend_dense, "materialised": materialised}


def one_layer(form: str, pattern: Pattern, direction: str, side: int, width: int) -> Callable:
    """Return forward and backward of what one layer reads."""
    layout = LAYOUTS[direction](NUM_TEXT, Grid(side, side))
    B, T, H = batch_of(side), layout.length, width // HEAD_WIDTH
    qkv = torch.randn(B, T, 3, H, HEAD_WIDTH, requires_grad=True)
    upstream = torch.randn(B, T, H, HEAD_WIDTH)
    read = FORMS[form](pattern, layout, torch.ones(B, T, dtype=torch.bool))

    def case() -> None:
        qkv.grad = None
        read(*qkv.unbind(2)).backward(upstream)

    return case


class Dense(Generator):
    """The same generator with another form of attention, whose masks are made once and kept."""

    form = "dense"

    def layer_reads(self, layout: Layout, valid_BT: Tensor) -> list[Read]:
        assert valid_BT.all()
        return [
            kept_read(self.form, pattern, layout, len(valid_BT)) for pattern in self.config.patterns
        ]


class Materialised(Dense):
    form = "materialised"


@lru_cache(maxsize=16)
def kept_read(form: str, pattern: Pattern, layout: Layout, batch: int) -> Read:
    return FORMS[form](pattern, layout, torch.ones(batch, layout.length, dtype=torch.bool))


def whole_step(kind: type[Generator], side: int, width: int) -> Callable:
    """Return a step of training in both directions."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        width=width,
        num_heads=width // HEAD_WIDTH,
        patterns=paper_patterns(STEP_LAYERS),
        grid_height=side,
        grid_width=side,
        num_codes=8192,
        vocabulary_size=8192,
    )
    generator = kind(config)
    optimizer = torch.optim.AdamW(generator.parameters(), fused=True)
    B = batch_of(side)
    images = torch.randint(8192, (B, side * side))
    texts = torch.randint(6, 8192, (B, NUM_TEXT)).tolist()

    def case() -> None:
        # One direction after the other: the gradients are the same, and half the activations live.
        (-text_to_image_log_probs(generator, texts, images).mean()).backward()
        described, _ = image_to_text_log_probs(generator, images, [4] * B, texts)
        (-described.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return case


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return b of the least-squares fit of a * size ** b."""
    x, y = ([math.log(v) for v in column] for column in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


Times = dict[tuple[str, Pattern, int, int], dict[str, float]]
Memory = dict[tuple[Pattern, int], dict[str, int]]


def measure_layers() -> Times:
    """Return seconds a picture by form, for each direction, pattern, side and width."""
    times: Times = {}
    for direction in LAYOUTS:
        for width in WIDTHS:
            for side in SIDES:
                for pattern in PATTERNS:
                    cases = {
                        form: one_layer(form, pattern, direction, side, width) for form in FORMS
                    }
                    found = medians(cases, rounds=5)
                    times[direction, pattern, side, width] = {
                        form: seconds / batch_of(side) for form, seconds in found.items()
                    }
                    say(f"{direction}, {pattern}, {side}x{side}, width {width}: {found}")
    return times


def layers_table(times: Times) -> str:
    rows = []
    for (direction, pattern, side, width), t in times.items():
        ratios = [f"{t[other] / t['sparse']:.1f}x" for other in ("dense", "materialised")]
        milliseconds = [f"{1000 * t[form]:.1f}" for form in FORMS]
        rows.append([direction, str(width), f"{side**2:,}", pattern, *milliseconds, *ratios])
    header = ["direction", "width", "image tokens", "pattern", "sparse, ms", "dense, ms"]
    header += ["materialised, ms", "dense / sparse", "materialised / sparse"]
    return table(header, rows)


def paper_layer(times: Times, direction: str, side: int, width: int, num_layers: int) -> dict:
    """Return seconds of the mean layer of a network by the paper's rule."""
    layers = [times[direction, pattern, side, width] for pattern in paper_patterns(num_layers)]
    return {form: sum(layer[form] for layer in layers) / num_layers for form in FORMS}


def mix_table(times: Times) -> str:
    """Return the paper's 24 layers: 17 rows, 6 columns, 1 convolution."""
    rows = []
    for direction in LAYOUTS:
        for width in WIDTHS:
            for side in SIDES:
                t = paper_layer(times, direction, side, width, 24)
                ratios = [f"{t[other] / t['sparse']:.1f}x" for other in ("dense", "materialised")]
                rows.append([direction, str(width), f"{side**2:,}", *ratios])
    return table(
        ["direction", "width", "image tokens", "dense / sparse", "materialised / sparse"], rows
    )


def exponents_table(times: Times, memory: Memory) -> str:
    sizes = [side**2 for side in SIDES]
    rows = []
    for pattern in PATTERNS:
        for form in FORMS:
            seconds = [times["text to image", pattern, side, WIDTHS[0]][form] for side in SIDES]
            bytes_ = [memory[pattern, side][form] / batch_of(side) for side in SIDES]
            megabytes = [f"{b / 2**20:.1f}" for b in bytes_]
            exponents = [f"{exponent(sizes, values):.2f}" for values in (seconds, bytes_)]
            rows.append([pattern, form, *exponents, *megabytes])
    header = ["pattern", "form", "time exponent", "memory exponent"]
    return table([*header, *(f"MiB at {n:,}" for n in sizes)], rows)


def draw_curves(times: Times, memory: Memory) -> None:
    """Draw time and memory of a picture over its number of tokens, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sizes = [side**2 for side in SIDES]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    styles = {Pattern.ROW: "-", Pattern.COLUMN: "--", Pattern.CONVOLUTION: ":"}
    colours = {"sparse": "#2563eb", "dense": "#6b7280", "materialised": "#dc2626"}
    for pattern, style in styles.items():
        for form, colour in colours.items():
            seconds = [times["text to image", pattern, side, WIDTHS[0]][form] for side in SIDES]
            bytes_ = [memory[pattern, side][form] / batch_of(side) for side in SIDES]
            label = f"{form}, {pattern}"
            axes[0].plot(
                sizes, [1000 * s for s in seconds], style, color=colour, marker=".", label=label
            )
            axes[1].plot(sizes, [b / 2**20 for b in bytes_], style, color=colour, marker=".")
    for axis, title in zip(axes, ("milliseconds a picture", "MiB a picture"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="image tokens", title=title)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", fontsize=7)
    figure.savefig(DOCS / "images" / "attention.png", dpi=110)


def steps_table(times: Times) -> str:
    """Return whole steps, and their share of what the faster attention allows (Amdahl).

    Scores of 4,096 tokens at width 1024 would take 18 GB in 8 layers: that case is left out.
    """
    rows = []
    for width in WIDTHS:
        for side in SIDES:
            B = batch_of(side)
            kinds = {"sparse": Generator, "dense": Dense}
            if (side, width) != (64, 1024):
                kinds["materialised"] = Materialised
            t = medians(
                {name: whole_step(kind, side, width) for name, kind in kinds.items()}, rounds=3
            )
            say(f"step, {side}x{side}, width {width}: {t}")
            attention = {
                form: STEP_LAYERS
                * B
                * sum(
                    paper_layer(times, direction, side, width, STEP_LAYERS)[form]
                    for direction in LAYOUTS
                )
                for form in FORMS
            }
            if side**2 < FEWEST_CELLS:
                attention["sparse"] = attention["dense"]  # the form that small grids take
            bound = t["dense"] / (t["dense"] - attention["dense"] + attention["sparse"])
            gain = t["dense"] / t["sparse"]
            against = f"{t['materialised'] / t['sparse']:.2f}x" if "materialised" in t else "-"
            ratios = [against, f"{gain:.2f}x", f"{bound:.2f}x"]
            shape = [str(width), f"{side**2:,}", str(B), f"{t['sparse']:.2f}"]
            rows.append([*shape, *ratios, f"{gain / bound:.0%}"])
    header = ["width", "image tokens", "batch", "sparse, s", "materialised / sparse"]
    return table([*header, "dense / sparse", "Amdahl bound", "share of it"], rows)


def main() -> None:
    memory = {
        (pattern, side): {
            form: peak_bytes(one_layer, form, pattern, "text to image", side, WIDTHS[0])
            for form in FORMS
        }
        for pattern in PATTERNS
        for side in SIDES
    }
    say(f"memory: {memory}")
    times = measure_layers()
    draw_curves(times, memory)
    publish(
        "attention",
        f"Machine: {machine()}.\n\nMean layer of the paper's 24 (17 row, 6 column, 1 convolution), "
        f"forward and backward, seconds a picture as ratios:\n\n{mix_table(times)}\nEach pattern, "
        f"a picture:\n\n{layers_table(times)}\nGrowth with the number of image tokens n as "
        f"n ** exponent, text to image, width {WIDTHS[0]}; memory is that of forward and backward, a "
        f"picture:\n\n{exponents_table(times, memory)}\n![Time and memory over the number of tokens]"
        f"(images/attention.png)\n\nWhole training steps, {STEP_LAYERS} layers by "
        f"the paper's rule:\n\n{steps_table(times)}",
    )


if __name__ == "__main__":
    main()

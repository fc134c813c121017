"""Results as text for people; whoever wants to compute asks for JSON.

Aligned by hand rather than by a table library, so that nothing depends on the terminal's width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

if TYPE_CHECKING:
    from vilg.api import Score


def score_table(score: "Score", grid_width: int) -> str:
    """Lay out a score: totals first, then every token of both directions."""
    null = score.unconditional_image_log_probs
    gains = score.image_gains
    return "\n".join(
        [
            "log probabilities in nats: 0 is certain, lower is less likely",
            "",
            "text given picture",
            f"  mean {score.text_given_image:8.3f}   sum {sum(score.text_log_probs):9.3f}",
            *(
                f"  {_pad(token, 20)} {value:8.3f}"
                for token, value in zip(score.text_tokens, score.text_log_probs, strict=True)
            ),
            "",
            "picture given text",
            f"  mean {score.image_given_text:8.3f}   sum {sum(score.image_log_probs):9.3f}",
            f"  null {sum(null) / len(null):8.3f}   sum {sum(null):9.3f}   (no text at all)",
            f"  gain {score.gain:8.3f}   sum {sum(gains):9.3f}   (what the text says about the picture)",
            "",
            "  every image token, where it stands in the picture",
            *_grid(score.image_log_probs, grid_width),
            "",
            "  its gain over no text",
            *_grid(gains, grid_width),
        ]
    )


def stats_table(counts: dict[str, Any]) -> str:
    """Lay out what `vilg.data.stats.describe` counts."""
    lines = []
    for name, value in counts.items():
        title = name.replace("_", " ")
        if isinstance(value, dict):
            lines += ["", title, *(f"  {_pad(key, 24)} {_count(n)}" for key, n in value.items())]
        else:
            lines.append(f"{_pad(title, 26)} {_count(value)}")
    return "\n".join(lines)


def _grid(values: Sequence[float], width: int) -> list[str]:
    rows = (values[first : first + width] for first in range(0, len(values), width))
    return ["  " + "".join(f"{value:7.2f}" for value in row) for row in rows]


def _count(value: Any) -> str:
    if isinstance(value, dict):
        return "   ".join(f"{key} {number:,}" for key, number in value.items())
    return f"{value:>10,}"


def _pad(text: str, width: int) -> str:
    """Pad on the right; a Chinese character takes two columns."""
    return text + " " * (width - cell_len(text))

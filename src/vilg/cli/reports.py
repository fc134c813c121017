"""Results as text for people; whoever wants to compute asks for JSON.

Aligned by hand rather than by a table library, so that nothing depends on the terminal's width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

if TYPE_CHECKING:
    from vilg.api import Score
    from vilg.data.filter import Chosen


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
        if name == "tags":
            lines += [line for tag, values in value.items() for line in _tag_lines(tag, values)]
        elif isinstance(value, dict):
            if value:
                lines += [
                    "",
                    title,
                    *(f"  {_pad(key, 24)} {_count(n)}" for key, n in value.items()),
                ]
        else:
            lines.append(f"{_pad(title, 26)} {_count(value)}")
    return "\n".join(lines)


def _tag_lines(tag: str, values: dict[str, Any]) -> list[str]:
    number = values["values"]
    known = "more values than are counted" if number is None else f"{number:,} values"
    top = (f"  {_pad(shorten(value, 24), 24)} {n:>10,}" for value, n in values["top"].items())
    return ["", f"{tag}: {known}, {values['pairs']:,} pairs", *top]


_FAULTS = {
    "rejects": "no pairs",
    "broken": "pictures that cannot be read",
    "texts": "left out of pairs",
    "second": "second pairs of one id",
}


def check_report(found: dict[str, Any]) -> str:
    """Lay out what `vilg.data.check.check` found, as its `as_dict` has it, and its format."""
    tokens = found["tokens"]
    lines = [f"{_pad('format', 26)} {found['format']:>10}"]
    lines.append(f"{_pad('pairs', 26)} {found['pairs']:>10,}")
    lines.append(f"{_pad('  to train on', 26)} {found['usable']:>10,}")
    lines.append(f"{_pad('pictures', 26)} {found['pictures']:>10,}")
    if found["without_picture"]:
        lines.append(f"{_pad('pairs without a picture', 26)} {found['without_picture']:>10,}")
    for name in ("captions", "prompts", "questions"):
        for lang, number in found[name].items():
            lines.append(f"{_pad(f'{name} {lang}', 26)} {number:>10,}")
    if found["answers"]:
        lines.append(f"{_pad('answers', 26)} {found['answers']:>10,}")
    if found["untagged"]:
        number = f"{found['untagged']:,}"
        lines.append(f"languages told by characters, since no tag tells them: {number} captions")
    lines += [
        "",
        f"tokens of a text: median {tokens['median']}, 95% have at most {tokens['share_95']}, "
        f"the longest {tokens['longest']}",
        f"longer than the model reads ({tokens['model_reads']}): {tokens['longer']:,} texts",
    ]
    for name, title in _FAULTS.items():
        kinds = found["faults"][name]
        if kinds:
            total = sum(kind["number"] for kind in kinds.values())
            lines += ["", f"{title}: {total:,}"]
        for reason, kind in kinds.items():
            more = ", ..." if kind["number"] > len(kind["places"]) else ""
            lines.append(f"{kind['number']:>8,}  {reason}")
            lines.append(f"{'':10}at {', '.join(kind['places'])}{more}")
    for example in found["examples"]:
        lines += ["", *_example(example)]
    return "\n".join(lines)


def _example(pair: dict[str, Any]) -> list[str]:
    lines = [f"as understood: {pair['place']}", f"  id        {pair['id']}"]
    lines.append(f"  picture   {pair['picture']}")
    for name in ("captions", "prompts"):
        for lang, texts in pair[name].items():
            lines += [f"  {_pad(f'{name[:-1]} {lang}', 9)} {shorten(text, 200)}" for text in texts]
    for question in pair["questions"]:
        answers = shorten(" / ".join(question["answers"]), 100) or "no answer"
        lines.append(f"  question  {shorten(question['text'], 100)} ({answers})")
    tags = ", ".join(f"{name}={shorten(value, 60)}" for name, value in pair["tags"].items())
    return [*lines, f"  tags      {tags}"] if tags else lines


def shorten(text: str, longest: int) -> str:
    """Return a text on one line, cut where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


def rules_table(chosen: "Chosen") -> str:
    """Lay out how many pairs each rule removes."""
    width = max(len(rule.name) for rule in chosen.rules)
    return "\n".join(
        [
            f"{chosen.items:,} items, of which {chosen.rejects:,} are no pairs: {chosen.pairs:,} pairs",
            "",
            f"{'a pair must have':{width}}  {'removes':>11} {'in order':>11} {'left':>11}",
            *(
                f"{rule.name:{width}}  {rule.alone:11,} {rule.in_order:11,} {rule.left:11,}"
                + (f"  does not apply to {rule.not_told:,}" if rule.not_told else "")
                for rule in chosen.rules
            ),
            "",
            f"{'kept':{width}}  {'':11} {'':11} {chosen.kept:11,}",
        ]
    )


def _grid(values: Sequence[float], width: int) -> list[str]:
    rows = (values[first : first + width] for first in range(0, len(values), width))
    return ["  " + "".join(f"{value:7.2f}" for value in row) for row in rows]


def _count(value: Any) -> str:
    if isinstance(value, dict):
        return "   ".join(f"{key} {number:,}" for key, number in value.items())
    return f"{value:>10}" if isinstance(value, str) else f"{value:>10,}"


def _pad(text: str, width: int) -> str:
    """Pad on the right; a Chinese character takes two columns."""
    return text + " " * (width - cell_len(text))

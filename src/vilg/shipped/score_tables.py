"""Scores as tables for people, in plain text."""

from collections.abc import Iterator, Sequence
from typing import Any

from vilg.text import LANGUAGES

Row = Sequence[str]


def table(title: str, header: Row, rows: Sequence[Row]) -> str:
    """Lay out a table: the first column flush left, the others right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Row) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(w) for cell, w in others)])

    return "\n".join([title, line(header), *map(line, rows)]) + "\n"


def tokenizer_tables(scores: dict[str, Any]) -> str:
    """Lay out what `score_tokenizer` returns."""
    rows = [
        [where, str(part["num"]), f"{part['psnr_db']:.2f}", f"{part['ssim']:.3f}",
         _percent(part["retrieval_top1"]), _thousandths(part["kernel_distance"]),
         _percent(part["usage"]), f"{part['perplexity']:.0f}"]
        for where, part in _by_split_and_style(scores)
    ]  # fmt: skip
    header = ["", "pictures", "PSNR dB", "SSIM", "retrieval", "distance x1000", "usage",
              "perplexity"]  # fmt: skip
    title = "Image tokenizer; retrieval and kernel distance by the judge"
    return table(title, header, rows)


def generator_tables(scores: dict[str, Any]) -> str:
    """Lay out captions, concepts, matched pairs and likelihoods."""
    return "\n".join(
        [
            *(_captions(lang, part) for lang, part in scores["captions"].items()),
            _top1(scores["concept_top1"]),
            _matched(scores["matched_above_shuffled"]),
            _nll(scores["nll_per_token"]),
        ]
    )


def drawing_tables(scores: dict[str, Any]) -> str:
    """Lay out what `score_drawing` returns."""
    rows: list[Row] = []
    for split, part in scores["splits"].items():
        rows.append([f"{split}, ceiling", str(part["num"]), *_top_1_and_5(part["ceiling"]), "", ""])
        for lang in (*LANGUAGES, "both"):
            rows.append([f"  {lang}, floor", "", *_top_1_and_5(part[lang]["floor"]), "", ""])
            for num, best in part[lang]["best_of"].items():
                more = ["" if num == "1" else _gain(gain) for gain in best["gain"].values()]
                rows.append([f"  {lang}, best of {num}", "", *_top_1_and_5(best), *more])
    header = ["", "prompts", "top-1", "top-5", "top-1 over best of 1", "top-5 over best of 1"]
    return table("Drawings that find their picture among those of its style", header, rows)


def _gain(gain: dict[str, float | None]) -> str:
    error = gain["standard_error"]
    return f"{gain['mean']:+.1%}" + ("" if error is None else f" ± {error:.1%}")


def _top_1_and_5(part: dict[str, Any]) -> list[str]:
    return [_percent(part["top1"]), _percent(part["top5"])]


def _captions(lang: str, scores: dict[str, Any]) -> str:
    aspects = ("caption", "name", "style")
    rows = [
        [
            where,
            str(part["num"]),
            *(f"{_percent(part[a])} ({_percent(part['baseline'][a])})" for a in aspects),
        ]
        for where, part in _by_split_and_style(scores)
    ]
    title = f"Captions, {lang}: exactly right (always saying the most frequent one of train)"
    return table(title, ["", "pictures", *aspects], rows)


def _top1(scores: dict[str, Any]) -> str:
    rows = [
        [f"{lang} {name}", str(split["num"]), _percent(split["top1"]),
         f"{part['baseline']:.2%} of {part['num_names']}"]
        for lang, part in scores.items()
        for name, split in part["splits"].items()
    ]  # fmt: skip
    return table("The right name is the likeliest", ["", "pictures", "top-1", "chance"], rows)


def _matched(scores: dict[str, Any]) -> str:
    rows = [
        [lang, str(part["num"]), _percent(part["image_given_text"]),
         _percent(part["text_given_image"])]
        for lang, part in scores.items()
    ]  # fmt: skip
    header = ["", "pairs", "image given text", "text given image"]
    return table("Matched pairs likelier than shuffled ones (train)", header, rows)


def _nll(scores: dict[str, Any]) -> str:
    rows = [
        [f"{lang} {name}", f"{part['image_given_text']:.3f}", f"{part['text_given_image']:.3f}"]
        for name, split in scores.items()
        for lang, part in split.items()
    ]
    header = ["", "image given text", "text given image"]
    return table("Negative log likelihood, nats a token", header, rows)


def _by_split_and_style(scores: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, part in scores.items():
        yield name, part["all"]
        for style, values in part["by_style"].items():
            yield f"  {style}", values


def _thousandths(distance: dict[str, float] | None) -> str:
    if distance is None:
        return "-"
    return f"{1000 * distance['mean']:.1f} ± {1000 * distance['standard_error']:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

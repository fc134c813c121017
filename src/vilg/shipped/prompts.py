"""What a prompt for the shipped model should name: one of the styles that it has learnt."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vilg.model.folder import SHIPPED
from vilg.text import guess_language, normalise

STYLES = {
    "zh": ("三维风格", "扁平风格", "noto风格", "推特风格"),
    "en": ("3D render", "flat style", "noto style", "Twitter style"),
}
_COMMAS = {"zh": "，", "en": ", "}


def style_hints(model: str | None, prompts: Sequence[str]) -> Iterator[str]:
    """Yield a line for each language that has prompts without a style; none for another model.

    Args:
        model: as `find_model` has it.
    """
    if model not in (None, SHIPPED.name) and Path(str(model)).resolve() != SHIPPED.resolve():
        return
    known = [normalise(style) for styles in STYLES.values() for style in styles]
    for lang, styles in STYLES.items():
        plain = [
            prompt
            for prompt in prompts
            if guess_language(prompt) == lang and not any(x in normalise(prompt) for x in known)
        ]
        if plain:
            prompt, others = plain[0], f" and {len(plain) - 1} more" if plain[1:] else ""
            yield (
                f'no style in "{prompt}"{others}; this model has learnt {", ".join(styles)}: '
                f'add one, as in "{prompt}{_COMMAS[lang]}{styles[1]}"'
            )

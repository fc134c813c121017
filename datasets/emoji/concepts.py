"""The concepts of the data set: code points with names, keywords and groups in two languages.

A concept is keyed by its hexcode: code points in upper case hexadecimal of at least four digits,
joined by dashes, without U+FE0F. That code point only asks for the coloured form of a character,
and the four artists and CLDR disagree on where to write it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packages import BuildError, read_json, read_members

LANGUAGES = ("zh", "en")

# CLDR puts the 26 regional indicators, of which country flags are made, into no group.
UNGROUPED = ("component", "regional-indicator")


@dataclass(frozen=True, kw_only=True, slots=True)
class Concept:
    """One emoji, without its skin-tone variants."""

    hexcode: str
    group: str
    subgroup: str
    names: dict[str, str]
    keywords: dict[str, list[str]]
    # Who keeps a picture that two concepts share: the one of the earlier emoji version, then of the
    # lower code points. It leaves France its flag (Clipperton Island's is equal) and the cat face
    # its picture (the grinning cat's is equal).
    rank: tuple[float, tuple[int, ...]]


def hexcode_of(text: str) -> str:
    """Normalise "2764-fe0f-200d-1f525" to "2764-200D-1F525" and "23-20e3" to "0023-20E3"."""
    points = [point.zfill(4) for point in text.upper().split("-")]
    return "-".join(point for point in points if point != "FE0F")


def slug_of(name: str) -> str:
    """Return an English name as the icon sets write it: "Backhand right" -> "backhand-right"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def read_concepts(archive: Path) -> list[Concept]:
    """Read all concepts from the emojibase-data package, sorted by rank."""
    members = read_members(archive, ("/data.json", "meta/groups.json"))
    groups = read_json(members, "meta/groups.json")
    entries = {
        language: {
            hexcode_of(entry["hexcode"]): entry
            for entry in read_json(members, f"{language}/data.json")
        }
        for language in LANGUAGES
    }
    hexcodes = set(entries["en"])
    if hexcodes != set(entries["zh"]):
        raise BuildError("the Chinese and the English emoji names are not of the same emoji")
    concepts = [
        _concept(hexcode, {language: entries[language][hexcode] for language in LANGUAGES}, groups)
        for hexcode in hexcodes
    ]
    return sorted(concepts, key=lambda concept: concept.rank)


def _concept(hexcode: str, entries: dict[str, dict[str, Any]], groups: dict[str, Any]) -> Concept:
    english = entries["en"]
    group, subgroup = UNGROUPED
    if "group" in english:
        group = groups["groups"][str(english["group"])]
        subgroup = groups["subgroups"][str(english["subgroup"])]
    return Concept(
        hexcode=hexcode,
        group=group,
        subgroup=subgroup,
        names={language: entry["label"] for language, entry in entries.items()},
        keywords={
            # Some keyword lists repeat themselves; a repeat would only skew a random choice.
            language: list(dict.fromkeys(entry.get("tags", [])))
            for language, entry in entries.items()
        },
        rank=(english["version"], tuple(int(point, 16) for point in hexcode.split("-"))),
    )

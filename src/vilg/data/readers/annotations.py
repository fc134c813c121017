"""Annotations kept apart from their pictures: what the formats of the published data sets share.

A note is what one line or item says about one picture. The notes of a picture become one pair, which
stands where its first note stands. Such files are read whole, since nothing in them says that the notes of
a picture are neighbours; the largest known, VQAv2's and GQA's, take a few GB of memory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vilg.data.pairs import (
    DataError,
    Items,
    Pair,
    Part,
    Question,
    Reject,
    find_picture,
    make_pair,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What is said of a picture in one place.

    Attributes:
        id: of the picture, as the pair will have it.
        names: where the picture may lie below the folder of the pictures; the first that is there is taken.
    """

    place: str
    id: str
    names: tuple[str, ...]
    captions: tuple[tuple[str | None, str], ...] = ()
    questions: tuple[Question, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


Notes = Iterable[Note | Reject]


def gather(notes: Notes, root: Path) -> Items:
    """Yield the rejects among notes, and then a pair or a reject for each picture."""
    groups = dict[str, list[Note]]()
    for note in notes:
        if isinstance(note, Reject):
            yield note
        else:
            groups.setdefault(note.id, []).append(note)
    found = dict[Path, str]()
    for id, group in groups.items():
        item = _pair(group, root)
        if isinstance(item, Pair) and isinstance(item.picture, Part):
            first = found.setdefault(item.picture.path, id)
            if first != id:
                item = Reject(place=item.place, id=id, reason=f"its picture is that of {first}")
        yield item


def _pair(notes: list[Note], root: Path) -> Pair | Reject:
    first = notes[0]
    try:
        return make_pair(
            first.id,
            first.place,
            find_picture(root, *first.names),
            [caption for note in notes for caption in note.captions],
            questions=tuple(question for note in notes for question in note.questions),
            tags={name: value for note in reversed(notes) for name, value in note.tags.items()},
            faults=[fault for note in notes for fault in note.faults],
        )
    except DataError as error:
        lost = sum(len(note.captions) + len(note.questions) for note in notes)
        reason = f"{error} ({lost} captions and questions go with it)"
        return Reject(place=first.place, id=first.id, reason=reason)


def root_of(path: Path, pictures: Path | None) -> Path:
    """Return the folder of the pictures: that given, else the file's own, from which `annotations` is left."""
    return pictures or (path.parent.parent if path.parent.name == "annotations" else path.parent)

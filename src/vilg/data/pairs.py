"""Pairs: a picture, what is written about it, and where both stand in their source.

Every reader (`data/readers/`) yields pairs and rejects in the order of its source, so that every item
is counted once: as a pair, or as a reject with its place and the reason.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from unicodedata import normalize

from vilg.errors import VilgError
from vilg.text import LANGUAGES, guess_language

Read = Callable[[], bytes]

# ISO 639-1 of what else these languages are called in data sets: ISO 639-3 and English names.
_CODES = {
    **dict.fromkeys(("eng", "english"), "en"),
    **dict.fromkeys(("zho", "chi", "cmn", "chinese", "mandarin"), "zh"),
}
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class DataError(VilgError):
    """A source that is missing, damaged, or lacks what was asked for."""

    def __init__(self, sentence: str) -> None:
        super().__init__(shown(sentence))  # it may quote what is no Unicode


@dataclass(frozen=True, slots=True)
class Part:
    """How to read a file, or a part of it such as a member of an archive; equal to what reads the same."""

    path: Path
    offset: int = 0
    size: int = -1

    def __call__(self) -> bytes:
        """Return the bytes.

        Raises:
            DataError: the file is gone, may not be read, or has become shorter.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror}") from error
        if len(content) < self.size:
            raise DataError(f"{self.path} ends before byte {self.offset + self.size}")
        return content

    @property
    def proof(self) -> str:
        """What it is told from others by without being read (`identity.py`)."""
        size = self.size if self.size >= 0 else self.path.stat().st_size
        return f"{self.path.name} {self.offset} {size}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about the picture, with its right answers; none where they are kept back.

    An answer stands as often as people gave it.
    """

    lang: str
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One picture and all that is said of it.

    Attributes:
        id: any text, once in a source.
        place: where it stands, as people look it up: "captions.jsonl line 7".
        picture: reads the encoded file when it is called; None for a prompt that has no picture.
        captions: by language, each as good as the others.
        prompts: by language, what it may be drawn from but is not described by (an emoji's keywords).
        tags: whatever else the source says, by name.
        faults: what was left out of it, such as an empty caption; the pair is good without it.
        untagged: how many captions' languages the source does not tell, but their characters.
    """

    id: str
    place: str
    picture: Read | None
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    untagged: int = field(default=0, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """An item of a source that is no pair; what of it is no Unicode is shown as escapes."""

    place: str
    reason: str
    id: str | None = None

    def __post_init__(self) -> None:
        for name, text in (("place", self.place), ("reason", self.reason), ("id", self.id)):
            object.__setattr__(self, name, text and shown(text))


Items = Iterable[Pair | Reject]


def make_pair(
    id: str,
    place: str,
    picture: Read | None,
    captions: Iterable[tuple[str | None, str]],
    *,
    questions: tuple[Question, ...] = (),
    tags: Mapping[str, str] | None = None,
    faults: Iterable[str] = (),
    is_row: bool = False,
) -> Pair | Reject:
    """Return a pair with clean captions, or why there is none.

    A caption is (language, text); a language that is not told is that of its characters
    (`text.guess_language`). White space round a text and empty texts are left out, the latter as faults.

    Args:
        is_row: it is to be joined with others to one pair, and may itself lack a caption.
    """
    if has_half_characters(id) or not id.strip():
        return Reject(place=place, id=id, reason="its id is no text in Unicode")
    by_language: dict[str, dict[str, None]] = {}  # sets that keep their order
    notes = list(faults)
    untagged = 0
    for told_lang, text in captions:
        text = text.strip()
        lang = shown(told_lang or guess_language(text)).lower().replace("_", "-").partition("-")[0]
        lang = _CODES.get(lang, lang)
        if not text:
            notes.append("an empty caption")
        elif lang not in LANGUAGES:
            notes.append(f"a caption in '{lang}', which has no token ({', '.join(LANGUAGES)} have)")
        elif has_half_characters(text):
            notes.append("a caption that is no Unicode")
        elif text not in by_language.setdefault(lang, {}):
            by_language[lang][text] = None
            untagged += not told_lang
        else:
            notes.append("a caption given twice")
    found = {lang: tuple(texts) for lang, texts in sorted(by_language.items()) if texts}
    if not found and not questions and not is_row:
        return Reject(place=place, id=id, reason=f"no caption{told(notes)}")
    return Pair(
        id=id,
        place=shown(place),
        picture=picture,
        captions=found,
        questions=questions,
        tags={shown(name): shown(value) for name, value in (tags or {}).items()},
        faults=tuple(notes),
        untagged=untagged,
    )


def told(notes: Iterable[str]) -> str:
    """Return notes as the end of a sentence, each once."""
    return "".join(f"; {note}" for note in dict.fromkeys(notes))


def shown(text: str) -> str:
    """Return a text that any file takes, with half characters as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def has_half_characters(text: str) -> bool:
    """Say whether a text has surrogates, as bytes that were no UTF-8 come out."""
    return _HALF_CHARACTER.search(text) is not None


def find_picture(root: Path, name: str, *others: str, noun: str = "picture") -> Part:
    """Return how to read a picture that a source names.

    Args:
        root: the folder that pictures lie in or below; a name that leads out of it, by "..", from the root
            of the disk or over a link, is refused, since a source may come from anybody.
        others: where it may lie instead; the first that is there is taken.
        noun: what an error calls it; a text beside a picture is looked for with the same care.

    Raises:
        DataError: no such file in the folder, in either way of writing accents.
    """
    for place in (name, *others):
        if not place.strip() or "\0" in place or has_half_characters(place):
            raise DataError(f"{place!r} names no {noun}")
        for form in dict.fromkeys((place, *(normalize(form, place) for form in ("NFC", "NFD")))):
            path = os.path.join(root, form)
            try:
                # A folder that is not below the root is not asked what it holds.
                if not os.path.join(_real(path), "").startswith(
                    os.path.join(_folder(str(root)), "")
                ):
                    raise DataError(f"the {noun} {place!r} lies outside of {root}: name its folder")
                if stat.S_ISREG(os.stat(path).st_mode):
                    return Part(Path(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # a name that is too long, a circle of links
                raise DataError(f"the {noun} {place!r}: {error.strerror}") from error
    raise DataError(f"the {noun} {name!r} is not there")


def _real(path: str) -> str:
    """Return where a file lies, links followed; asks once about the folder that files share."""
    folder, name = os.path.split(path)
    if name in ("", ".", "..") or os.path.islink(path):
        return os.path.realpath(path)
    return os.path.join(_folder(folder), name)


_folder = lru_cache(maxsize=1024)(os.path.realpath)


def forget_folders() -> None:
    """Ask anew where folders lie; a walk begins so, since links may have changed after the last one."""
    _folder.cache_clear()

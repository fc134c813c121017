"""MUGE's pictures and texts: `T2I_train.text.tsv` of ids and texts, `T2I_train.img.tsv` of ids and base64."""

import base64
from binascii import Error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vilg.data.pairs import DataError, Items, Part, Reject, has_half_characters, make_pair
from vilg.data.readers.tables import read_lines

_LONGEST_ID, _CHUNK = 2**10, 2**20  # bytes
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Base64Part:
    """How to read a picture that is kept as base64 in a part of a file, in either alphabet."""

    part: Part

    def __call__(self) -> bytes:
        """Return the picture's bytes.

        Raises:
            DataError: no base64.
        """
        try:
            return base64.b64decode(self.part().strip().translate(_TO_STANDARD), validate=True)
        except Error as error:
            place = f"{self.part.path} at byte {self.part.offset}"
            raise DataError(f"{place} is no base64: {error}") from error

    @property
    def proof(self) -> str:
        """As that of a `Part`."""
        return self.part.proof


def pictures_beside(path: Path) -> Path:
    """Return the file with the pictures of a file of texts."""
    return path.with_name(path.name.replace(".text.", ".img."))


def read_muge(path: Path, pictures: Path | None = None) -> Items:
    """Read a file of texts with the pictures of the file beside it.

    Where each picture stands is found first and kept: some 200 bytes a picture. The picture itself is read
    when it is asked for.

    Args:
        pictures: the folder with the file of the pictures.
    """
    file = pictures_beside(path)
    if pictures is not None:
        file = pictures / file.name
    if file == path or not file.is_file():
        yield Reject(place=path.name, reason=f"its pictures are not there: {file.name}")
        return
    parts, lines = dict[str, Base64Part](), dict[str, int]()
    for number, id, part in _parts(file):
        if id in parts or isinstance(part, str):
            reason = part if isinstance(part, str) else f"a picture of the id {id} stands before it"
            yield Reject(place=f"{file.name} line {number}", id=id, reason=reason)
        else:
            parts[id], lines[id] = part, number
    for number, line in read_lines(path):
        place = f"{path.name} line {number}"
        if not line.strip():
            continue
        id, tab, text = line.decode("utf-8", "surrogateescape").partition("\t")
        if reason := _fault(id, tab, text, parts, lines):
            yield Reject(place=place, id=id, reason=reason)
        else:
            del lines[id]
            yield make_pair(id, place, parts[id], [("zh", text)])
    for id, number in lines.items():
        yield Reject(place=f"{file.name} line {number}", id=id, reason="no text of it")


def _fault(
    id: str, tab: str, text: str, parts: dict[str, Base64Part], lines: dict[str, int]
) -> str:
    """Say why a line of texts is no pair."""
    if not tab:
        return "no tab between an id and a text"
    if has_half_characters(id + text):
        return "bytes that are no UTF-8"
    if id not in parts:
        return f"there is no picture of the id {id}"
    return "" if id in lines else f"a text of the id {id} stands before it"


def _parts(path: Path) -> Iterator[tuple[int, str, Base64Part | str]]:
    """Yield the number, the id and the place of each line's picture, or why there is none."""
    with path.open("rb") as file:
        number, offset = 0, 0
        while head := file.readline(_LONGEST_ID):
            number += 1
            end = offset + len(head)
            while not head.endswith(b"\n") and (more := file.readline(_CHUNK)):
                end += len(more)
                if more.endswith(b"\n"):
                    break
            before = head.removeprefix(b"\xef\xbb\xbf") if number == 1 else head
            id, tab, rest = before.partition(b"\t")
            name = id.decode("utf-8", "backslashreplace")
            start = offset + len(head) - len(rest)
            if not tab and head.strip():
                yield number, name[:100], "no tab between an id and a picture"
            elif tab:
                yield number, name, Base64Part(Part(path, start, end - start))
            offset = end

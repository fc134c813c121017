"""Tar archives as WebDataset and img2dataset write them: KEY.jpg with KEY.txt, KEY.json or both."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

from vilg.data.pairs import DataError, Items, Pair, Part, Reject
from vilg.data.pictures import SUFFIXES
from vilg.data.readers.folders import TEXT_SUFFIXES, lines_of
from vilg.data.readers.records import CAPTION, PICTURE, pair_of, parse_object

_LARGEST_TEXT = 2**24  # bytes; a member beyond is no caption


def read_tar(path: Path, pictures: Path | None = None) -> Items:
    """Yield the pairs of an archive; the members of a pair are neighbours.

    Args:
        pictures: no use here, where the pictures are in the archive.
    """
    key, members = "", dict[str, tarfile.TarInfo]()
    try:
        for member in _members(path):
            name = member.name.removeprefix("./")
            its_key, _, suffix = name.rpartition(".")
            if kind := _kind(member):
                yield Reject(place=f"{path.name} {name}", reason=f"{kind}, not a picture or a text")
            if kind or member.isdir():
                continue
            if its_key != key or suffix.lower() in members:
                if members:
                    yield _pair(path, key, members)
                key, members = its_key, {}
            members[suffix.lower()] = member
        if members:
            yield _pair(path, key, members)
    # Python's own reader has no kinds of errors of its own for some headers of no sense.
    except (
        tarfile.TarError,
        OSError,
        ValueError,
        EOFError,
        ArithmeticError,
        RecursionError,
    ) as error:
        # The last pair may be cut too, and is not known to be whole.
        place = f"{path.name} from {key} on" if key else path.name
        yield Reject(place=place, reason=f"the archive is damaged: {error}")


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield an archive's members, keeping none of them.

    Raises:
        tarfile.ReadError: it does not end as archives do. Python's own reader takes a broken header, and
            a file that is cut between two members, for the end.
    """
    size, last = path.stat().st_size, 0
    with tarfile.open(path, "r:", errorlevel=1, encoding="utf-8") as archive:
        while member := archive.next():
            if member.size < 0 or member.offset_data <= last:
                raise tarfile.ReadError(f"the header of {member.name} makes no sense")
            last = member.offset_data
            yield member
            if not member.issparse() and member.offset_data + member.size > size:
                raise tarfile.ReadError(f"it is cut within {member.name}")
            archive.members.clear()  # type: ignore[attr-defined] # else it keeps all it has seen
        end = archive.offset
    with path.open("rb") as file:
        file.seek(end)
        closing = file.read(tarfile.BLOCKSIZE)
        if len(closing) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is cut: its closing blocks are not there")
        if any(closing):
            raise tarfile.ReadError(f"no header of a file at byte {end}")
        while rest := file.read(2**20):
            if any(rest):
                raise tarfile.ReadError("more follows its end, as in archives that were joined")


def _kind(member: tarfile.TarInfo) -> str:
    """Say what a member is that is no file with a picture or a text, nor a folder."""
    if member.isdir():
        return ""
    if not member.isreg():
        return "a link or device"
    if member.issparse():
        return "a file with holes"
    # A Mac puts a ._NAME.jpg beside each.
    return "a hidden file" if member.name.rpartition("/")[2].startswith(".") else ""


def _pair(path: Path, key: str, members: dict[str, tarfile.TarInfo]) -> Pair | Reject:
    place = f"{path.name} {key}"

    def read(member: tarfile.TarInfo) -> bytes:
        if member.size > _LARGEST_TEXT:
            raise DataError(f"{member.name} has over 16 MB, which is no text")
        return Part(path, member.offset_data, member.size)()

    try:
        found = [members[suffix[1:]] for suffix in SUFFIXES if suffix[1:] in members]
        if len(found) != 1:
            raise DataError(f"{len(found)} pictures ({', '.join(sorted(members))})")
        picture = Part(path, found[0].offset_data, found[0].size)
        fields = dict(parse_object(read(members["json"]))) if "json" in members else {}
        for name in PICTURE:  # the picture's address before it was downloaded
            fields.pop(name, None)
        fields.setdefault("id", key)
        for suffix in TEXT_SUFFIXES:
            if suffix[1:] in members:
                fields = {n: value for n, value in fields.items() if n not in CAPTION}
                fields["caption"] = [
                    line for line in lines_of(read(members[suffix[1:]])) if line.strip()
                ]
                break
        return pair_of(fields, place, path.parent, picture)
    except DataError as error:
        return Reject(place=place, id=key, reason=str(error))

"""A folder of our own shards, as `vilg data pack` writes it: manifest.json and what it lists.

The JSON beside a picture is that of a pair: id, captions, prompts, questions and tags.
"""

from pathlib import Path
from typing import Any

from vilg.data.ids import IdSet
from vilg.data.pairs import DataError, Items, Pair, Part, Question, Read
from vilg.data.shards import (
    list_field,
    load_split,
    parse_json,
    read_manifest,
    read_members,
    text_field,
    texts_by_language,
    texts_field,
)
from vilg.text import LANGUAGES


def read_packed(manifest: Path, pictures: Path | None = None) -> Items:
    """Yield the pairs of all shards; a shard that is not as it was written is an error, not a reject."""
    for shard in read_manifest(manifest.parent)[1]:
        for member in read_members(shard):
            picture = Part(shard.path, member.offset, member.size)
            fields = parse_json(member.text, member.where)
            yield _pair_of(fields, picture, f"{shard.path.name} {member.key}", member.where)


def _pair_of(fields: Any, picture: Read, place: str, where: str) -> Pair:
    captions = texts_by_language(fields, "captions", where)
    prompts = texts_by_language(fields, "prompts", where)
    questions = tuple(_question(item, where) for item in list_field(fields, "questions", where))
    tags = fields.get("tags")
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise DataError(f"{where}: tags must be one text a name")
    for lang in (*captions, *prompts, *(question.lang for question in questions)):
        if lang not in LANGUAGES:
            raise DataError(f"{where}: the language {lang!r} is none of {', '.join(LANGUAGES)}")
    return Pair(
        id=text_field(fields, "id", where),
        place=place,
        picture=picture,
        captions=captions,
        prompts=prompts,
        questions=questions,
        tags=tags,
    )


def _question(item: Any, where: str) -> Question:
    return Question(
        lang=text_field(item, "lang", where),
        text=text_field(item, "text", where),
        answers=texts_field(item, "answers", where),
        id=text_field(item, "id", where) if "id" in item else "",
    )


def split_of(source: Path, split: str) -> IdSet:
    """Return the ids of a split of a packed data set.

    Raises:
        DataError: the data set has no such split.
    """
    folder = source if source.is_dir() else source.parent
    if not (folder / "manifest.json").is_file():
        raise DataError(f"{source} has no splits: leave data.split out")
    return IdSet(load_split(folder, split))

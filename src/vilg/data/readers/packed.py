"""A folder of our own shards, as `vilg data pack` writes it: manifest.json and what it lists.

The JSON beside a picture is that of a pair: id, captions, prompts, questions and tags. That of the emoji
set is older: concept, style and so on are tags by their names, and `names` and `keywords` by language
make prompts, since a caption that begins with the name may be drawn from with each keyword in its place.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vilg.data.ids import IdSet
from vilg.data.pairs import DataError, Items, Pair, Part, Question
from vilg.data.shards import (
    Sample,
    list_field,
    load_split,
    parse_json,
    read_manifest,
    read_members,
    sample_of,
    text_field,
    texts_by_language,
    texts_field,
)
from vilg.text import LANGUAGES


def read_packed(manifest: Path, pictures: Path | None = None) -> Items:
    """Yield the pairs of all shards; a shard that is not as it was written is an error, not a reject."""
    for shard in read_manifest(manifest.parent)[1]:
        for member in read_members(shard):
            fields, where = parse_json(member.text, member.where), member.where
            place = f"{shard.path.name} {member.key}"
            if isinstance(fields, dict) and "concept" in fields:
                pair = pair_of_sample(sample_of(member.key, fields, b"", where), place)
            else:
                pair = _pair_of_fields(fields, place, where)
            yield replace(pair, picture=Part(shard.path, member.offset, member.size))


def _pair_of_fields(fields: Any, place: str, where: str) -> Pair:
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
        picture=None,
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
    )


def pair_of_sample(sample: Sample, place: str) -> Pair:
    """Return the pair that a sample of a data set is."""
    prompts = {
        lang: tuple(
            word + caption.removeprefix(sample.names[lang])
            for caption in captions[:1]
            if lang in sample.names and caption.startswith(sample.names[lang])
            for word in sample.keywords.get(lang, ())
        )
        for lang, captions in sample.captions.items()
    }
    tags = {name: getattr(sample, name) for name in ("concept", "style", "group", "subgroup")}
    return Pair(
        id=sample.id,
        place=place,
        picture=partial(bytes, sample.picture),
        captions=sample.captions,
        prompts=prompts,
        tags=tags | {f"name.{lang}": name for lang, name in sample.names.items()},
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

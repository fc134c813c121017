"""Whether a source is still the same: work that was begun goes on with the pairs that it began with.

Packs, stores, tables of `filter` and `translate`, and trainings are all made from a source of one identity,
and refuse another. It is found in one walk, which reads texts but no picture. What counts:

- of each item, in order: its place, its id, and whether it is a pair;
- of a pair: captions, prompts, questions, tags, and what was left out of it;
- of its picture: the file's name, the place in that file, and the number of bytes. Of parquet, whose bytes are
  compressed together, the number is that of the whole file;
- of our own shards: every byte, since the manifest has their hashes.

So a picture that was replaced is noticed unless the new one has the same name and exactly as many bytes, as
uncompressed ones may. What doesn't count: where the source lies and how it is told (`photos`, `photos/`, an
absolute path), times of files, and files that are no items, such as hidden ones.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from vilg.data.pairs import Pair, Reject
from vilg.progress import Progress


@dataclass(frozen=True)
class Identity:
    """What one walk tells of a source.

    Attributes:
        items: how many there are.
        pairs: how many of them are pairs.
        untagged: how many captions' languages are told by their characters.
        sha256: a hash of all that counts.
    """

    items: int
    pairs: int
    untagged: int
    sha256: str


def identify(items: Iterable[Pair | Reject], manifest: bytes = b"") -> Identity:
    """Identify a source by its items.

    Args:
        manifest: of our own shards.
    """
    num_items = num_pairs = untagged = 0
    digest = hashlib.sha256(manifest)
    with Progress("pairs", what="counting") as progress:
        for item in items:
            num_items += 1
            if isinstance(item, Pair):
                num_pairs += 1
                untagged += item.untagged
            digest.update(repr(_said(item)).encode())
            progress(num_items, None)
    return Identity(num_items, num_pairs, untagged, digest.hexdigest())


def _said(item: Pair | Reject) -> tuple[object, ...]:
    if isinstance(item, Reject):
        return (item.place, item.id)
    return (
        item.place,
        item.id,
        # What is in memory alone, as tests have it, has no proof.
        item.picture and getattr(item.picture, "proof", ""),
        list(item.captions.items()),
        list(item.prompts.items()),
        item.questions,
        list(item.tags.items()),
        item.faults,
    )

"""Many images in batches that memory allows, with the text of a prompt read once for all its images."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from torch import Tensor

from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator
from vilg.model.patterns import decode_window
from vilg.sampling.images import Drawn, Kept, draw_images

# Images drawn at once: enough to fill the cores. Their caches may take this many bytes.
LARGEST_BATCH = 32
CACHE_BYTES = 2 * 2**30

# Called with the images that are finished, and image_ids_Bk of those under way.
WatchBatch = Callable[[int, Tensor], None]


def cache_bytes(generator: Generator) -> int:
    """Return the bytes that the keys and values of one image take while it is drawn.

    The text's are not counted: they are shared by the candidates of a prompt.
    """
    config, itemsize = generator.config, generator.dtype.itemsize
    slots = sum(
        decode_window(pattern, config.grid_height, config.grid_width).num_slots
        for pattern in config.patterns
    )
    return 2 * slots * config.width * itemsize


def largest_batch(generator: Generator, settings: SamplingConfig) -> int:
    """Return how many images are drawn at once; guidance draws each of them twice."""
    copies = 1 if settings.guidance == 1 else 2
    return max(1, min(LARGEST_BATCH, CACHE_BYTES // (copies * cache_bytes(generator))))


def draw_in_batches(
    generator: Generator,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingConfig,
    *,
    kept: Kept | None = None,
    watch: WatchBatch | None = None,
) -> Drawn:
    """Draw as many images of each text as there are seeds a text.

    Args:
        texts: one a picture; equal neighbours are read once.
        seeds: as many for every picture, those of the first picture first.
        kept: tokens that stay, one row a picture.
    """
    assert len(seeds) % len(texts) == 0
    per_picture = len(seeds) // len(texts)
    # Without kept tokens, pictures of one prompt are one group.
    runs = [(text, sum(1 for _ in run)) for text, run in groupby(texts, key=list)]
    if kept is not None:
        runs = [(list(text), 1) for text in texts]
    size = largest_batch(generator, settings)
    drawn: list[Drawn] = []
    for here, rows in _batches([count * per_picture for _, count in runs], size):

        def watch_batch(image_ids_Bk: Tensor, first: int = rows.start) -> None:
            if watch:
                watch(first, image_ids_Bk)

        drawn.append(
            draw_images(
                generator,
                [text for text, _ in runs[here]],
                seeds[rows],
                settings,
                kept=kept and Kept(kept.image_ids_GN[here], kept.keep_GN[here]),
                watch=watch_batch,
            )
        )
    return Drawn.joined(drawn)


def _batches(counts: Sequence[int], size: int) -> Iterator[tuple[slice, slice]]:
    """Yield the groups and the images of each batch: whole groups of one count, or a part of one.

    Args:
        counts: images of each group.
    """
    first, begin = 0, 0
    while first < len(counts):
        count, last = counts[first], first + 1
        while last < len(counts) and counts[last] == count and (last + 1 - first) * count <= size:
            last += 1
        end = begin + (last - first) * count
        for start in range(begin, end, size):
            yield slice(first, last), slice(start, min(start + size, end))
        first, begin = last, end

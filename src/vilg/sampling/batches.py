"""How many images are drawn or scored at once, and which: as many as fill the cores and memory allows."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from vilg.model.defaults import SamplingConfig
from vilg.model.generator import Generator
from vilg.model.patterns import decode_window

# Images drawn at once: enough to fill the cores. Their caches may take this many bytes.
LARGEST_BATCH = 32
CACHE_BYTES = 2 * 2**30


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


def slices(num: int, size: int, first: int = 0) -> list[slice]:
    """Return the slices of `num` things, from the one at `first` on, at most `size` in each."""
    last = first + num
    return [slice(start, min(start + size, last)) for start in range(first, last, size)]


def runs_at_once(counts: Sequence[int], size: int) -> Iterator[slice]:
    """Yield the images of each batch: whole runs of one length, or a part of one.

    Args:
        counts: images of each run, such as the neighbours that share a prompt.
    """
    begin = 0
    for count, same in groupby(counts):
        num = count * len([*same])
        for runs in slices(num, max(1, size // count) * count, begin):
            yield from slices(runs.stop - runs.start, size, runs.start)
        begin += num

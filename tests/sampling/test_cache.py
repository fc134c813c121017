"""What decoding keeps: exactly what the pattern reads, once a group, and never moved."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sampling.test_decode import PROMPTS, ZH, toy_generator, toy_images
from vilg.model.defaults import SamplingConfig
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_layout,
    text_to_image_layout,
)
from vilg.model.patterns import Pattern, decode_window, mask, paper_patterns
from vilg.sampling.batches import cache_bytes, largest_batch
from vilg.sampling.candidates import candidate_seeds, draw_best
from vilg.sampling.decode import DecodeState, decode_step, prefill
from vilg.sampling.images import Drawn, Kept, draw_images
from vilg.text import TextTokenizer

BOI = TextTokenizer.boi_id


@settings(max_examples=60, deadline=None)
@given(
    pattern=st.sampled_from(list(Pattern)),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
)
def test_the_slots_a_cell_reads_hold_the_cells_of_its_pattern(
    pattern: Pattern, height: int, width: int
) -> None:
    window = decode_window(pattern, height, width)
    see = mask(pattern, height, width, causal=True)
    held = torch.full((window.num_slots,), -1)
    for cell in range(height * width):
        held[window.slots[cell]] = cell
        read = held[window.seen[cell]]
        assert sorted(read.tolist()) == see[cell].nonzero().flatten().tolist()


def test_rings_are_as_long_as_the_pattern_reaches_back() -> None:
    assert decode_window(Pattern.ROW, 32, 32).num_slots == 33
    assert decode_window(Pattern.CONVOLUTION, 32, 32).num_slots == 5 * 32 + 6
    assert decode_window(Pattern.COLUMN, 32, 32).num_slots == 1024
    assert decode_window(Pattern.DENSE, 32, 32).num_slots == 1024


@pytest.mark.parametrize("pattern", [Pattern.ROW, Pattern.COLUMN, Pattern.DENSE])
def test_neighbours_in_the_cache_are_read_without_a_copy(pattern: Pattern) -> None:
    window = decode_window(pattern, 7, 12)
    assert all(isinstance(read, slice) for read in window.seen)


def begin(candidates: int) -> tuple[Generator, DecodeState]:
    generator = toy_generator(paper_patterns(4), 4, 13)
    ids = torch.tensor([[6, 9, BOI], [10, 0, BOI]])
    layout = text_to_image_layout(2, generator.config.grid)
    valid = torch.ones(2, layout.length, dtype=torch.bool)
    valid[1, 1] = False
    return generator, prefill(generator, layout, ids, valid, candidates)[0]


def tensors(state: DecodeState) -> list[torch.Tensor]:
    return [x for cache in state.caches for x in (cache.k_BHSD, cache.v_BHSD)]


def test_an_image_takes_the_bytes_of_the_formula() -> None:
    generator, state = begin(candidates=3)
    slots = (13 + 1) + 4 * 13 + (13 + 1) + min(5 * 13 + 6, 4 * 13)  # row, column, row, convolution
    assert cache_bytes(generator) == 2 * 4 * 16 * slots
    assert sum(x.nbytes for x in tensors(state)) == 6 * cache_bytes(generator)


def test_at_24_layers_and_1024_tokens_a_third_of_dense() -> None:
    shape = dict(width=64, num_heads=1, grid_height=32, grid_width=32, num_codes=8)
    with torch.device("meta"):
        sparse, dense = (
            Generator(GeneratorConfig(patterns=patterns, vocabulary_size=8, **shape))  # type: ignore[arg-type]
            for patterns in (paper_patterns(24), (Pattern.DENSE,) * 24)
        )
    assert cache_bytes(dense) >= 3.3 * cache_bytes(sparse)


def test_nothing_moves_or_grows_as_an_image_grows() -> None:
    generator, state = begin(candidates=2)
    places = [x.data_ptr() for x in tensors(state)]
    random = torch.Generator().manual_seed(0)
    for _ in range(4 * 13):
        state, _ = decode_step(generator, state, torch.randint(20, (4,), generator=random))
    assert [x.data_ptr() for x in tensors(state)] == places


def test_what_a_cell_reads_stays_as_much_from_the_first_rows_on() -> None:
    """The row's window is full after a row, so a step costs as much at the end as at the 14th."""
    reads = decode_window(Pattern.ROW, 20, 13).seen
    lengths = [read.stop - read.start for read in reads if isinstance(read, slice)]
    assert lengths[13:] == [14] * (20 * 13 - 13)


def test_a_shared_prompt_is_read_once_and_gives_the_same_states() -> None:
    generator, together = begin(candidates=3)
    assert all(len(cache.prefix.k_GHPD) == 2 for cache in together.caches)
    _, alone = begin(candidates=1)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(20, (3, 4 * 13), generator=random)
    singles = [begin(candidates=1)[1] for _ in range(3)]
    for k in range(4 * 13):
        together, states = decode_step(generator, together, ids[:, k].repeat(2))
        for c in range(3):
            singles[c], expected = decode_step(generator, singles[c], ids[c, k].repeat(2))
            torch.testing.assert_close(states[c::3], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("cells", [0, 1, 12, 13, 14, 30, 52])
def test_cells_that_are_given_are_read_at_once_as_if_one_by_one(cells: int) -> None:
    """Also from inside a row on, and with candidates that go on in different ways."""
    generator = toy_generator(paper_patterns(4), 4, 13)
    layout = text_to_image_layout(2, generator.config.grid)
    image = toy_images(generator, 1)
    start = torch.tensor([[6, 9, BOI]])
    valid = torch.ones(1, layout.length, dtype=torch.bool)
    stepped, states = prefill(generator, layout, start, valid, candidates=2)
    expected = [states[:, -1].repeat(2, 1)]
    for k in range(cells):
        stepped, states = decode_step(generator, stepped, image[:, k].repeat(2))
        expected.append(states)
    ids = torch.cat([start, image[:, :cells]], dim=1)
    given_state, states = prefill(generator, layout, ids, valid, candidates=2)
    torch.testing.assert_close(states[0, 2:], torch.stack(expected)[:, 0], rtol=0, atol=1e-4)
    for k in range(cells, 52):
        next_ids = torch.tensor([k % 20, (3 * k + 1) % 20])
        stepped, one = decode_step(generator, stepped, next_ids)
        given_state, other = decode_step(generator, given_state, next_ids)
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_captions_of_an_image_share_its_keys() -> None:
    generator = toy_generator()
    images = toy_images(generator, 2)
    layout = image_to_text_layout(5, generator.config.grid)
    ids = torch.cat([images, torch.tensor([[ZH], [ZH]])], dim=1)
    valid = torch.ones(2, layout.length, dtype=torch.bool)
    state, _ = prefill(generator, layout, ids, valid, candidates=4)
    assert [cache.prefix.k_GHPD.shape[:3] for cache in state.caches] == [(2, 2, 12)] * 4
    assert [cache.k_BHSD.shape[:3] for cache in state.caches] == [(8, 2, 5)] * 4


# --- Batches ----------------------------------------------------------------------------------


def test_candidates_begin_with_the_plain_picture_s_seed() -> None:
    assert candidate_seeds(7, 1) == [7]
    four = candidate_seeds(7, 4)
    assert four[0] == 7 and len({*four, *candidate_seeds(8, 4)}) == 8
    assert candidate_seeds(7, 60)[:4] == four


def candidates_of(
    generator: Generator,
    texts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: SamplingConfig,
    **more: Any,
) -> torch.Tensor:
    """Return the tokens of all candidates, and see that the best of them are what comes out."""
    seen: list[torch.Tensor] = []

    def last_is_best(part: slice, drawn: Drawn, kept: Kept | None) -> torch.Tensor:
        seen.append(drawn.image_ids_BN)
        return torch.arange(len(drawn.image_ids_BN))

    N = settings.best_of
    found = Drawn.joined(
        [*draw_best(generator, texts, seeds, settings, last_is_best, **more)]
    ).image_ids_BN
    candidates = torch.cat(seen) if N > 1 else found
    assert torch.equal(found, candidates[N - 1 :: N])
    return candidates


def test_the_batch_is_what_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = toy_generator()
    plain, guided = SamplingConfig(), SamplingConfig(guidance=2.0)
    assert largest_batch(generator, plain) == 32
    monkeypatch.setattr("vilg.sampling.batches.CACHE_BYTES", 7 * cache_bytes(generator))
    assert (largest_batch(generator, plain), largest_batch(generator, guided)) == (7, 3)
    monkeypatch.setattr("vilg.sampling.batches.CACHE_BYTES", 1)
    assert largest_batch(generator, plain) == 1


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_prompts_in_runs_of_any_length_draw_the_same(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """As a file of prompts cut into chunks gives them: 3 of one, 3 of the next, 1 of a third."""
    generator = toy_generator(paper_patterns(3), 2, 2)
    monkeypatch.setattr("vilg.sampling.batches.LARGEST_BATCH", size)
    texts = [PROMPTS[i] for i in (0, 0, 0, 1, 1, 1, 2)]
    settings = SamplingConfig(temperature=0.5)
    expected = draw_images(generator, texts, range(7), settings).image_ids_BN
    assert torch.equal(candidates_of(generator, texts, range(7), settings), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("per_text", [1, 4])
def test_batches_of_any_size_draw_the_same(
    monkeypatch: pytest.MonkeyPatch, size: int, per_text: int
) -> None:
    generator = toy_generator(paper_patterns(3), 2, 2)
    monkeypatch.setattr("vilg.sampling.batches.LARGEST_BATCH", size)
    texts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    each = [text for text in texts for _ in range(per_text)]
    seeds = [x for seed in range(4) for x in candidate_seeds(seed, per_text)]
    settings = SamplingConfig(temperature=0.5, best_of=per_text)
    expected = draw_images(generator, each, seeds, settings).image_ids_BN
    under_way: list[tuple[int, int, int]] = []
    drawn = candidates_of(
        generator,
        texts,
        range(4),
        settings,
        watch=lambda first, ids: under_way.append((first, *ids.shape)),
    )
    assert torch.equal(drawn, expected)
    assert max(rows for _, rows, _ in under_way) <= size
    finished = [(first, rows) for first, rows, cells in under_way if cells == 4]
    assert [first for first, _ in finished] == sorted({first for first, _ in finished})
    assert sum(rows for _, rows in finished) == len(seeds)


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_kept_tokens_go_with_their_picture_in_batches_of_any_size(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    generator = toy_generator(paper_patterns(3), 2, 2)
    monkeypatch.setattr("vilg.sampling.batches.LARGEST_BATCH", size)
    texts, settings = [PROMPTS[i] for i in (0, 0, 1)], SamplingConfig(temperature=0.5, best_of=3)
    keep_GN = torch.tensor(
        [[True, False, False, True], [False, True] * 2, [True, True, False, True]]
    )
    kept = Kept(toy_images(generator, 3), keep_GN)
    seeds = [x for seed in range(3) for x in candidate_seeds(seed, 3)]
    expected = draw_images(generator, texts, seeds, settings, kept=kept).image_ids_BN
    drawn = candidates_of(generator, texts, range(3), settings, kept=kept)
    assert torch.equal(drawn, expected)

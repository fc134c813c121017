"""Decoding with caches against the same model without, and what must not change an image.

The reference reads a whole finished sequence at once, uncached, one image at a time, and asks
whether every drawn id is the one its number calls for.
"""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_layout,
    pad_texts,
    text_to_image_layout,
    text_to_image_states,
)
from vilg.model.patterns import Pattern, paper_patterns
from vilg.model.segments import Layout
from vilg.randomness import uniforms
from vilg.sampling.decode import decode_step, prefill
from vilg.sampling.images import draw_images
from vilg.sampling.precision import Precision, prepared
from vilg.sampling.texts import generate_texts
from vilg.text import TextTokenizer

BOI, EOS = TextTokenizer.boi_id, TextTokenizer.eos_id
ZH, EN = 4, 5
K = 20  # codes
V = 24  # vocabulary
BORDER = 1e-4  # a draw this near to a boundary may fall on either side
STACKS = [*((pattern,) * 2 for pattern in Pattern), paper_patterns(4)]
PROMPTS = [[6, 9, 8, 7], [10], [11, 6], [9, 9, 9], [6, 9, 8, 7, 12, 13]]


def toy_generator(
    patterns: tuple[Pattern, ...] = paper_patterns(4), height: int = 3, width: int = 4
) -> Generator:
    """Return a generator whose logits differ much from step to step and prompt to prompt."""
    generator = Generator(
        GeneratorConfig(
            width=16,
            num_heads=2,
            patterns=patterns,
            grid_height=height,
            grid_width=width,
            num_codes=K,
            vocabulary_size=V,
            max_text=8,
        )
    ).requires_grad_(False)
    random = torch.Generator().manual_seed(1)
    for name, weight in generator.named_parameters():
        is_embedding = "embedding" in name or "position" in name
        std = 1.0 if is_embedding else 0.5 if weight.ndim == 2 else 0.2
        weight.normal_(std=std, generator=random)
        if "norm" in name and name.endswith("weight"):
            weight.add_(1)
    return generator


def generate_images(*args: Any, **settings: Any) -> Tensor:
    """Draw, and look at the tokens alone."""
    watch = settings.pop("watch", None)
    return draw_images(*args, SamplingConfig(**settings), watch=watch).image_ids_BN


def toy_images(generator: Generator, count: int) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randint(K, (count, generator.config.grid.num_cells), generator=random)


# --- Logits: cached = uncached ----------------------------------------------------------------


def uncached(generator: Generator, layout: Layout, ids_BT: Tensor, valid_BT: Tensor) -> Tensor:
    return generator(layout, ids_BT, generator.layer_reads(layout, valid_BT))


def cached(
    generator: Generator, layout: Layout, ids_BT: Tensor, valid_BT: Tensor, given: int
) -> Tensor:
    """Return the states of all positions, the first `given` read at once, the others one by one."""
    state, states_BTC = prefill(generator, layout, ids_BT[:, :given], valid_BT)
    assert state.position == given
    parts = [states_BTC]
    for position in range(given, ids_BT.shape[1]):
        state, states_BC = decode_step(generator, state, ids_BT[:, position])
        parts.append(states_BC[:, None])
        assert state.position == position + 1
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("patterns", STACKS, ids="-".join)
@pytest.mark.parametrize(("height", "width"), [(3, 4), (1, 6), (6, 1), (2, 13), (9, 2)])
def test_text_to_image_cached_is_uncached(
    patterns: tuple[Pattern, ...], height: int, width: int
) -> None:
    """The plain layers, and those packed in fp32 that people decode with; 9 x 2 is more than any ring holds."""
    generator = toy_generator(patterns, height, width)
    texts = [*PROMPTS, []]
    text_BM, valid_BM = pad_texts(texts)
    M = text_BM.shape[1]
    layout = text_to_image_layout(M, generator.config.grid)
    images = toy_images(generator, len(texts))
    ids_BT = torch.cat([F.pad(text_BM, (0, 1), value=BOI), images], dim=1)
    valid_BT = F.pad(valid_BM, (0, 1 + images.shape[1]), value=True)
    expected = generator.image_logits(uncached(generator, layout, ids_BT, valid_BT)[:, M:])
    for given in (M + 1, M + 4, M + images.shape[1]):
        for decoding in (generator, prepared(generator, Precision.FP32)):
            states = cached(decoding, layout, ids_BT, valid_BT, given)
            found = decoding.image_logits(states[:, M:])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("patterns", STACKS, ids="-".join)
@pytest.mark.parametrize("task", ["caption", "question"])
def test_image_to_text_cached_is_uncached(patterns: tuple[Pattern, ...], task: str) -> None:
    generator = toy_generator(patterns)
    grid = generator.config.grid
    images = toy_images(generator, 3)
    texts = torch.tensor([[ZH, 6, 7, 8, 9, 9], [EN, 7, 7, 6, 10, 8], [ZH, 6, 11, 8, 6, 6]])
    layout = image_to_text_layout(6, grid)
    first = grid.num_cells
    if task == "question":
        layout = image_to_text_layout(6, grid, question_length=2)
        images = torch.cat([images, torch.tensor([[12, 13], [6, 6], [7, 12]])], dim=1)
        first += 2
    ids_BT = torch.cat([images, texts], dim=1)
    valid_BT = torch.ones(ids_BT.shape, dtype=torch.bool)
    expected = generator.text_logits(uncached(generator, layout, ids_BT, valid_BT)[:, first:])
    for given in (first + 1, first + 4):
        found = generator.text_logits(cached(generator, layout, ids_BT, valid_BT, given)[:, first:])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "patterns", [*((p,) * 2 for p in Pattern), paper_patterns(4)], ids="-".join
)
@pytest.mark.parametrize(("height", "width"), [(3, 4), (1, 6), (6, 1), (2, 13), (9, 2)])
def test_a_position_may_be_a_tensor(patterns: tuple[Pattern, ...], height: int, width: int) -> None:
    """As on a GPU: where the position is a number, every step does something else."""
    generator = toy_generator(patterns, height, width)
    images = toy_images(generator, 2)
    ids_BT = torch.cat([torch.tensor([[6, BOI], [9, BOI]]), images], dim=1)
    layout = text_to_image_layout(1, generator.config.grid)
    valid_BT = torch.ones(ids_BT.shape, dtype=torch.bool)
    expected = uncached(generator, layout, ids_BT, valid_BT)
    for given in (2, 2 + images.shape[1] // 2):
        state, _ = prefill(generator, layout, ids_BT[:, :given], valid_BT)
        state = state.steady(torch.device("cpu"))
        for position in range(given, ids_BT.shape[1]):
            state, states_BC = decode_step(generator, state, ids_BT[:, position])
            torch.testing.assert_close(states_BC, expected[:, position], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["image", "text"])
def test_all_steps_are_one_graph(task: str) -> None:
    """What a CUDA graph records of one step is then every step: nothing depends on the position's number."""
    generator = toy_generator()
    grid, ids_2T = generator.config.grid, torch.tensor([[6, BOI], [9, BOI]])
    layout = text_to_image_layout(1, grid)
    if task == "text":
        layout = image_to_text_layout(6, grid)
        ids_2T = torch.cat([toy_images(generator, 2), torch.tensor([[ZH], [EN]])], dim=1)
    state, _ = prefill(generator, layout, ids_2T, torch.ones(2, layout.length, dtype=torch.bool))
    state = state.steady(torch.device("cpu"))
    graphs = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch._dynamo.reset()
    step = torch.compile(decode_step, fullgraph=True, backend=count)
    plain = state
    for ids_2 in (torch.tensor([7, 8]), torch.tensor([9, 7]), torch.tensor([10, 11])):
        plain, expected = decode_step(generator, plain, ids_2)
        state, states_2C = step(generator, state, ids_2)
        torch.testing.assert_close(states_2C, expected, rtol=0, atol=1e-5)
    assert graphs == 1


def test_a_second_branch_is_not_written() -> None:
    """Cached steps read all of the prefix, so another text in it would be read too."""
    generator = toy_generator()
    layout = image_to_text_layout(2, generator.config.grid, num_texts=2)
    ids_1T = torch.full((1, layout.length), 6)
    with pytest.raises(AssertionError, match="one branch"):
        prefill(generator, layout, ids_1T, torch.ones(ids_1T.shape, dtype=torch.bool))


# --- Whole images, replayed without caches ----------------------------------------------------


def replay_logits(
    generator: Generator, text: Sequence[int], image: Sequence[int], guidance: float
) -> Tensor:
    """Return the logits of every step of one image, uncached and unpadded."""

    def logits(text: Sequence[int]) -> Tensor:
        layout = text_to_image_layout(len(text), generator.config.grid)
        ids = torch.tensor([[*text, BOI, *image]])
        states = uncached(generator, layout, ids, torch.ones(ids.shape, dtype=torch.bool))
        return generator.image_logits(states[0, len(text) : -1])

    if guidance == 1:
        return logits(text)
    null = logits([])
    return null + guidance * (logits(text) - null)


def shares(logits: Tensor, temperature: float, top_k: int | None) -> list[float]:
    """Return the probability of each id, the unlikely ones cut off."""
    weights = logits.double().div(temperature).exp().tolist()
    kept = sorted(weights)[-top_k:] if top_k else weights
    return [weight / sum(kept) if weight in kept else 0.0 for weight in weights]


def assert_drawn(logits: Tensor, number: float, id: int, **settings: float | None) -> None:
    """Assert that the number calls for the id, or lies within BORDER of its interval."""
    probabilities = shares(logits, settings["temperature"], settings["top_k"])
    low = sum(probabilities[:id])
    assert probabilities[id] > 0
    assert low - BORDER <= number <= low + probabilities[id] + BORDER


@pytest.mark.parametrize("guidance", [1.0, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("patterns", STACKS, ids="-".join)
def test_every_token_is_the_one_its_number_calls_for(
    patterns: tuple[Pattern, ...], guidance: float
) -> None:
    generator = toy_generator(patterns)
    seeds = [3, 1, 4, 1, 5]
    drawn = generate_images(generator, PROMPTS, seeds, guidance=guidance)
    assert (drawn.dtype, drawn.shape) == (torch.long, (5, 12))
    for text, seed, image in zip(PROMPTS, seeds, drawn.tolist(), strict=True):
        logits = replay_logits(generator, text, image, guidance)
        for k, id in enumerate(image):
            number = float(uniforms(seed, "draw", k))
            assert_drawn(logits[k], number, id, temperature=1.0, top_k=None)


@pytest.mark.parametrize(("temperature", "top_k"), [(0.5, None), (1.0, 3), (2.0, 5), (0.7, 1)])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_temperature_and_top_k_act_on_the_guided_logits(
    temperature: float, top_k: int | None, guidance: float
) -> None:
    generator = toy_generator()
    drawn = generate_images(
        generator, PROMPTS, range(5), temperature=temperature, top_k=top_k, guidance=guidance
    )
    for seed, (text, image) in enumerate(zip(PROMPTS, drawn.tolist(), strict=True)):
        logits = replay_logits(generator, text, image, guidance)
        for k, id in enumerate(image):
            number = float(uniforms(seed, "draw", k))
            assert_drawn(logits[k], number, id, temperature=temperature, top_k=top_k)


def test_temperature_zero_takes_the_likeliest_token_each_time() -> None:
    generator = toy_generator()
    drawn = generate_images(generator, PROMPTS, range(5), temperature=0, guidance=2)
    for text, image in zip(PROMPTS, drawn.tolist(), strict=True):
        assert replay_logits(generator, text, image, 2).argmax(dim=1).tolist() == image


# --- What an image does not depend on ---------------------------------------------------------


def assert_same_image(
    generator: Generator,
    text: Sequence[int],
    seed: int,
    first: Sequence[int],
    second: Sequence[int],
    guidance: float = 1.0,
) -> None:
    """Assert equal ids, unless the first draw that differs lay on the border of the two."""
    if first == second:
        return
    k = next(k for k, (one, other) in enumerate(zip(first, second, strict=True)) if one != other)
    logits = replay_logits(generator, text, first, guidance)[k]
    for id in (first[k], second[k]):
        assert_drawn(logits, float(uniforms(seed, "draw", k)), id, temperature=1.0, top_k=None)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_200_images_of_a_batch_are_those_drawn_singly(guidance: float) -> None:
    generator = toy_generator(paper_patterns(3), 2, 3)
    texts = [PROMPTS[i % len(PROMPTS)] for i in range(200)]
    together = generate_images(generator, texts, range(200), guidance=guidance).tolist()
    for seed, text in enumerate(texts):
        (alone,) = generate_images(generator, [text], [seed], guidance=guidance).tolist()
        assert_same_image(generator, text, seed, together[seed], alone, guidance)
    assert len(set(map(tuple, together))) > 140


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_batch_mate_never_changes_an_image(guidance: float) -> None:
    """Mates of other lengths pad the prompt more or less; mates may have the same seed."""
    generator = toy_generator(paper_patterns(3), 2, 3)
    text, seed = [6, 9], 5
    (alone,) = generate_images(generator, [text], [seed], guidance=guidance).tolist()
    for mates in ([[]], [[7]], [[7, 8, 9, 10, 11, 12, 13, 14]], [[6, 9]], PROMPTS):
        for mate_seed in (5, 6):
            seeds = [mate_seed] * len(mates)
            before = generate_images(generator, [*mates, text], [*seeds, seed], guidance=guidance)
            after = generate_images(generator, [text, *mates], [seed, *seeds], guidance=guidance)
            for image in (before[-1], after[0]):
                assert_same_image(generator, text, seed, alone, image.tolist(), guidance)


def test_image_depends_on_seed_and_prompt() -> None:
    generator = toy_generator()
    one, seeded, prompted = generate_images(generator, [[6, 9], [6, 9], [9, 6]], [1, 2, 1]).tolist()
    assert one != seeded
    assert one != prompted
    assert generate_images(generator, [[6, 9]], [1]).tolist() == [one]


# --- Guidance ---------------------------------------------------------------------------------


def test_guidance_1_is_no_guidance_and_costs_nothing() -> None:
    generator = toy_generator()
    rows: list[int] = []
    generator.image_head.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    plain = generate_images(generator, PROMPTS, range(5))
    guided = generate_images(generator, PROMPTS, range(5), guidance=1)
    assert torch.equal(plain, guided)
    assert rows == [5] * 24
    # Through the formula, as near to 1 as it gets.
    assert torch.equal(generate_images(generator, PROMPTS, range(5), guidance=1 + 1e-15), plain)
    assert rows[24:] == [10] * 12


def test_guidance_0_is_the_null_prompt() -> None:
    generator = toy_generator()
    unguided = generate_images(generator, [[]] * 5, range(5))
    assert torch.equal(generate_images(generator, PROMPTS, range(5), guidance=0), unguided)


def test_guidance_3_changes_tokens() -> None:
    generator = toy_generator()
    plain = generate_images(generator, PROMPTS, range(5))
    guided = generate_images(generator, PROMPTS, range(5), guidance=3)
    assert (plain != guided).any(dim=1).all()
    empty = generate_images(generator, [[], []], [1, 2])
    assert torch.equal(generate_images(generator, [[], []], [1, 2], guidance=3), empty)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_states_of_a_drawn_image_are_those_of_reading_it(guidance: float) -> None:
    """Of the prompt, never of the null prompt, and each has seen its own token: the last one too."""
    generator = toy_generator()
    plain = generate_images(generator, PROMPTS, range(5), guidance=guidance)
    settings = SamplingConfig(guidance=guidance, decoder=Decoder.END_TO_END)
    drawn = draw_images(generator, PROMPTS, range(5), settings)
    assert torch.equal(drawn.image_ids_BN, plain)
    assert drawn.states_BNC is not None
    read_BTC = text_to_image_states(generator, *pad_texts(PROMPTS), drawn.image_ids_BN)
    torch.testing.assert_close(drawn.states_BNC, read_BTC[:, 1:], rtol=0, atol=1e-4)
    assert draw_images(generator, PROMPTS, range(5), SamplingConfig()).states_BNC is None


def test_a_watcher_sees_every_token_when_it_stands() -> None:
    seen: list[Tensor] = []
    drawn = generate_images(
        toy_generator(), PROMPTS, range(5), guidance=2, watch=lambda ids: seen.append(ids.clone())
    )
    assert [ids.shape for ids in seen] == [(5, k) for k in range(1, 13)]
    assert all(torch.equal(ids, drawn[:, : ids.shape[1]]) for ids in seen)


# --- Captions ---------------------------------------------------------------------------------


def text_logits(generator: Generator, image: Tensor, language: int, text: list[int]) -> Tensor:
    """Return the logits of the token after the text, uncached."""
    layout = image_to_text_layout(len(text) + 1, generator.config.grid)
    ids = torch.tensor([[*image.tolist(), language, *text]])
    valid = torch.ones(ids.shape, dtype=torch.bool)
    return generator.text_logits(uncached(generator, layout, ids, valid)[0, -1])


def greedy(generator: Generator, image: Tensor, language: int, length: int) -> list[int]:
    text: list[int] = []
    while len(text) < length:
        id = int(text_logits(generator, image, language, text).argmax())
        if id == EOS:
            break
        text.append(id)
    return text


def test_greedy_captions_are_the_naive_loop_s_in_the_language_asked_for() -> None:
    generator = toy_generator()
    generator.text_head.bias[EOS] += 3  # so that some texts end, at different lengths
    images = toy_images(generator, 7)
    texts = {}
    for language in (ZH, EN):
        texts[language] = generate_texts(generator, images, [language] * 7, range(7))
        expected = [greedy(generator, image, language, 7) for image in images]
        assert texts[language] == expected
    assert texts[ZH] != texts[EN]
    lengths = {len(text) for text in texts[ZH] + texts[EN]}
    assert len(lengths) >= 3
    assert 7 in lengths  # max_text is 8, and in training the end token takes one place
    mixed = generate_texts(generator, images, [ZH, EN, ZH, EN, ZH, EN, ZH], range(7))
    assert mixed == [texts[(ZH, EN)[i % 2]][i] for i in range(7)]


def test_drawn_captions_follow_their_numbers() -> None:
    generator = toy_generator()
    generator.text_head.bias[EOS] += 3
    images = toy_images(generator, 8)
    seeds = [7, 7, 8, 9, 10, 11, 12, 13]
    texts = generate_texts(
        generator,
        images,
        [ZH, EN] * 4,
        seeds,
        words=SamplingConfig(temperature=0.8, top_k=6),
        max_length=5,
    )
    for b, text in enumerate(texts):
        written = text if len(text) == 5 else [*text, EOS]
        for k, id in enumerate(written):
            logits = text_logits(generator, images[b], (ZH, EN)[b % 2], written[:k])
            number = float(uniforms(seeds[b], "draw", k))
            assert_drawn(logits, number, id, temperature=0.8, top_k=6)
    assert len({len(text) for text in texts}) >= 3


def test_a_caption_stops_at_the_end_token() -> None:
    generator = toy_generator()
    generator.text_head.bias[EOS] = 1000
    assert generate_texts(generator, toy_images(generator, 3), [ZH] * 3, range(3)) == [[], [], []]


def test_a_caption_without_an_end_is_cut_at_the_longest_length() -> None:
    generator = toy_generator()
    generator.text_head.bias[EOS] = -1000
    images = toy_images(generator, 2)
    full = generate_texts(generator, images, [ZH, EN], [0, 1])
    assert [len(text) for text in full] == [7, 7]
    for max_length in (0, 1, 2, 7, 8, 100):
        texts = generate_texts(generator, images, [ZH, EN], [0, 1], max_length=max_length)
        assert texts == [text[:max_length] for text in full]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_mate_never_changes_a_caption(temperature: float) -> None:
    """Nor does one that ends earlier, or later."""
    generator = toy_generator()
    generator.text_head.bias[EOS] += 3
    images = toy_images(generator, 10)
    languages = [ZH, EN] * 5
    together = generate_texts(
        generator, images, languages, range(10), words=SamplingConfig(temperature=temperature)
    )
    assert len({len(text) for text in together}) >= 3
    for b in range(10):
        (alone,) = generate_texts(
            generator,
            images[b : b + 1],
            [languages[b]],
            [b],
            words=SamplingConfig(temperature=temperature),
        )
        assert alone == together[b]


def test_caption_depends_on_image_and_seed() -> None:
    generator = toy_generator()
    generator.text_head.bias[EOS] = -1000
    images = toy_images(generator, 2)[[0, 0, 1]]
    one, seeded, other = generate_texts(
        generator, images, [ZH] * 3, [1, 2, 1], words=SamplingConfig(temperature=1)
    )
    assert one != seeded
    assert one != other

"""The generator: equations 4 and 5 against a naive one, no leak, padding, heads, first weights.

The models here have lively weights. Those of a fresh model are so small that a leak would be too.
"""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from vilg.model.attend import FEWEST_CELLS, Read, attend_dense, masked
from vilg.model.generator import (
    Generator,
    GeneratorConfig,
    image_to_text_layout,
    image_to_text_log_probs,
    pad_texts,
    text_to_image_layout,
    text_to_image_log_probs,
)
from vilg.model.patterns import Pattern, paper_patterns
from vilg.model.segments import Layout, Modality, Role, with_padding
from vilg.text import TextTokenizer

PAD, BOI, EOS = TextTokenizer.pad_id, TextTokenizer.boi_id, TextTokenizer.eos_id
ZH, EN = 4, 5
HEIGHT, WIDTH = 3, 4
N = HEIGHT * WIDTH
TEXT = [6, 9, 8, 7, 11]
TASKS = ["text to image", "image to text", "image to texts", "question"]


def toy_config(**changes: object) -> GeneratorConfig:
    fields: dict[str, object] = {
        "width": 16,
        "num_heads": 2,
        "patterns": paper_patterns(4),
        "grid_height": HEIGHT,
        "grid_width": WIDTH,
        "num_codes": 7,
        "vocabulary_size": 12,
        "max_text": 8,
    }
    return GeneratorConfig(**(fields | changes))  # type: ignore[arg-type]


def toy_generator(**changes: object) -> Generator:
    """Return a generator all of whose weights matter, biases and norms too."""
    generator = Generator(toy_config(**changes)).requires_grad_(False)
    random = torch.Generator().manual_seed(1)
    for name, weight in generator.named_parameters():
        is_embedding = "embedding" in name or "position" in name
        std = 1.0 if is_embedding else 0.5 if weight.ndim == 2 else 0.2
        weight.normal_(std=std, generator=random)
        if "norm" in name and name.endswith("weight"):
            weight.add_(1)
    return generator


def toy_images(count: int, num_codes: int = 7, cells: int = N) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return torch.randint(num_codes, (count, cells), generator=random)


def states_of(generator: Generator, layout: Layout, ids: Sequence[int]) -> Tensor:
    """Return the states of one unpadded sequence, or of its beginning."""
    valid, T = torch.ones(1, layout.length, dtype=torch.bool), len(ids)
    if layout.length == T:
        return generator(layout, torch.tensor([ids]), generator.layer_reads(layout, valid))[0]
    reads = [
        masked(with_padding(layout.visible(pattern), valid)[:, :, :T, :T])
        for pattern in generator.config.patterns
    ]
    return generator(layout, torch.tensor([ids]), reads)[0]


def question_layout(generator: Generator) -> Layout:
    """[image source] [question: 3 text tokens] [answer: 3 text tokens]"""
    return image_to_text_layout(3, generator.config.grid, question_length=3)


def sequence_of(generator: Generator, task: str) -> tuple[Layout, list[int]]:
    """Return a task's layout and the ids of one sequence of it."""
    grid, image = generator.config.grid, toy_images(1)[0].tolist()
    return {
        "text to image": (text_to_image_layout(5, grid), [*TEXT, BOI, *image]),
        "image to text": (image_to_text_layout(6, grid), [*image, ZH, *TEXT]),
        "image to texts": (
            image_to_text_layout(3, grid, num_texts=2),
            [*image, ZH, *TEXT[:2], EN, *TEXT[2:4]],
        ),
        "question": (question_layout(generator), [*image, *TEXT[:3], EN, *TEXT[3:]]),
    }[task]


# --- The network, against a naive one ---------------------------------------------------------


def naive_states(generator: Generator, layout: Layout, ids: Sequence[int]) -> Tensor:
    """Compute the states position by position and head by head, from the weights on disk."""
    w = generator.state_dict()
    width, heads = generator.config.width, generator.config.num_heads
    size = width // heads

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean()
        return (
            centred / (centred.square().mean() + 1e-5).sqrt() * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    def head_norm(x: Tensor, name: str) -> Tensor:
        if not generator.config.qk_norm:
            return x
        return x / (x.square().mean() + 1e-6).sqrt() * w[f"{name}.weight"]

    def linear(x: Tensor, name: str) -> Tensor:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    states = []
    remaining = iter(ids)
    roles = [(m, r) for m in (Modality.TEXT, Modality.IMAGE) for r in (Role.SOURCE, Role.TARGET)]
    for segment in layout.segments:
        for place in range(segment.length):
            id = next(remaining)
            x = w["role_embedding.weight"][roles.index((segment.modality, segment.role))].clone()
            if segment.modality is Modality.TEXT:
                x += w["text_embedding.weight"][id] + w["text_position.weight"][place]
            else:
                row, column = divmod(place, generator.config.grid_width)
                x += w["image_embedding.weight"][id]
                x += w["row_position.weight"][row] + w["column_position.weight"][column]
            states.append(x)

    for i, pattern in enumerate(generator.config.patterns):
        block = f"transformer.blocks.{i}"
        see = layout.visible(pattern).tolist()
        normed = [norm(x, f"{block}.norm1") for x in states]
        q, k, v = zip(
            *(linear(x, f"{block}.attention.qkv").split(width) for x in normed), strict=True
        )
        after = []
        for here, x in enumerate(states):
            read = []
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                keys = [there for there in range(len(states)) if see[here][there]]
                query = head_norm(q[here][part], f"{block}.attention.q_norm")
                weights = [
                    math.exp(
                        float(query @ head_norm(k[there][part], f"{block}.attention.k_norm"))
                        / math.sqrt(size)
                    )
                    for there in keys
                ]
                total = sum(weights)
                read.append(
                    sum(
                        weight / total * v[there][part]
                        for weight, there in zip(weights, keys, strict=True)
                    )
                )
            x = x + linear(torch.cat(read), f"{block}.attention.out")
            hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp_in")
            gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            after.append(x + linear(gelu, f"{block}.mlp_out"))
        states = after
    return torch.stack([norm(x, "transformer.norm") for x in states])


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_states_are_those_of_a_naive_transformer(task: str, qk_norm: bool) -> None:
    generator = toy_generator(patterns=(Pattern.ROW, Pattern.CONVOLUTION), qk_norm=qk_norm).double()
    layout, ids = sequence_of(generator, task)
    found = states_of(generator, layout, ids)
    torch.testing.assert_close(found, naive_states(generator, layout, ids), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("height", [24, 11])  # on either side of where the fast form begins
def test_on_a_large_grid_the_fast_form_computes_the_same(height: int) -> None:
    grid = {"grid_height": height, "grid_width": 25}
    generator = toy_generator(patterns=paper_patterns(4), **grid).double().requires_grad_()
    assert (height * 25 >= FEWEST_CELLS) == (height == 24)
    layout = text_to_image_layout(len(TEXT), generator.config.grid)
    valid = torch.ones(2, layout.length, dtype=torch.bool)
    valid[1, 3 : len(TEXT)] = False
    images = toy_images(2, cells=height * 25)
    ids = torch.cat([torch.tensor([[*TEXT, BOI]] * 2), images], dim=1)
    found = generator(layout, ids, generator.layer_reads(layout, valid))
    dense = [attend_dense(pattern, layout, valid) for pattern in generator.config.patterns]
    expected = generator(layout, ids, dense)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn(found.shape, dtype=torch.float64)
    parameters = [*generator.transformer.parameters()]
    for a, b in zip(
        torch.autograd.grad(found, parameters, upstream),
        torch.autograd.grad(expected, parameters, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_a_batch_of_null_prompts_is_read_on_a_large_grid() -> None:
    generator = toy_generator(patterns=paper_patterns(4), grid_height=24, grid_width=25)
    images = toy_images(2, cells=600)
    alone = text_to_image_log_probs(generator, [[], []], images)
    beside = text_to_image_log_probs(generator, [[], [], TEXT], images[[0, 1, 0]])
    torch.testing.assert_close(alone, beside[:2], rtol=0, atol=1e-4)


# --- Equations 4 and 5 ------------------------------------------------------------------------


def log_prob(generator: Generator, head: str, state_C: Tensor, id: int) -> Tensor:
    """Return the log probability of an id after a state, from the weights of a head."""
    weights = generator.state_dict()
    logits_V = (weights[f"{head}.weight"] * state_C).sum(dim=1) + weights[f"{head}.bias"]
    return logits_V[id] - logits_V.exp().sum().log()


def test_text_to_image_is_a_product_over_prefixes() -> None:
    """Equation 4, one longer prefix at a time: log P(z_k | t, z_1 .. z_{k-1})."""
    generator = toy_generator()
    layout = text_to_image_layout(len(TEXT), generator.config.grid)
    images = toy_images(3)
    found = text_to_image_log_probs(generator, [TEXT] * 3, images)
    assert found.shape == (3, N)
    for image, log_probs in zip(images.tolist(), found, strict=True):
        for k in range(N):
            states = states_of(generator, layout, [*TEXT, BOI, *image[:k]])
            expected = log_prob(generator, "image_head", states[-1], image[k])
            torch.testing.assert_close(log_probs[k], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("language", [ZH, EN])
def test_image_to_text_is_a_product_over_prefixes(language: int) -> None:
    """Equation 5: log P(t_k | z, t_1 .. t_{k-1}), the closing [EOS] included."""
    generator = toy_generator()
    layout = image_to_text_layout(len(TEXT) + 1, generator.config.grid)
    images = toy_images(3)
    found, counts = image_to_text_log_probs(generator, images, [language] * 3, [TEXT] * 3)
    assert found.shape == (3, len(TEXT) + 1)
    assert counts.all()
    for image, log_probs in zip(images.tolist(), found, strict=True):
        for k, label in enumerate([*TEXT, EOS]):
            states = states_of(generator, layout, [*image, language, *TEXT[:k]])
            expected = log_prob(generator, "text_head", states[-1], label)
            torch.testing.assert_close(log_probs[k], expected, rtol=0, atol=1e-5)


def test_an_answer_is_a_product_over_prefixes() -> None:
    """log P(t_k | z, q, t_1 .. t_{k-1}), whatever the longest question of the batch is."""
    generator = toy_generator()
    images, questions, languages = toy_images(3), [[6, 9], [8], [7, 11, 9, 6]], [ZH, EN, ZH]
    answers = [TEXT, [9], [7, 8]]
    found, counts = image_to_text_log_probs(generator, images, languages, answers, questions)
    assert found.shape == (3, len(TEXT) + 1)
    for b, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        layout = image_to_text_layout(
            len(answer) + 1, generator.config.grid, question_length=len(question)
        )
        for k, label in enumerate([*answer, EOS]):
            ids = [*images[b].tolist(), *question, languages[b], *answer[:k]]
            expected = log_prob(
                generator, "text_head", states_of(generator, layout, ids)[-1], label
            )
            torch.testing.assert_close(found[b, k], expected, rtol=0, atol=1e-5)
        assert counts[b].tolist() == [k <= len(answer) for k in range(len(TEXT) + 1)]


def test_several_answers_to_one_question_are_the_singles() -> None:
    generator, images, questions = toy_generator(), toy_images(2), [[6, 9], [8]]
    answers = [TEXT, [9], [7, 8], [6]]
    together, _ = image_to_text_log_probs(generator, images, [ZH] * 4, answers, questions)
    singles, _ = image_to_text_log_probs(
        generator, images.repeat_interleave(2, 0), [ZH] * 4, answers, [[6, 9], [6, 9], [8], [8]]
    )
    torch.testing.assert_close(together, singles, rtol=0, atol=1e-5)


def test_probabilities_of_all_images_add_up_to_one() -> None:
    """A token that was seen before it is scored would break this."""
    generator = toy_generator(grid_height=2, grid_width=2, num_codes=3)
    images = torch.tensor(list(itertools.product(range(3), repeat=4)))
    log_probs = text_to_image_log_probs(generator, [TEXT] * 81, images)
    assert math.isclose(log_probs.sum(dim=1).exp().sum(), 1, abs_tol=1e-5)


def test_probabilities_of_all_texts_add_up_to_one() -> None:
    generator = toy_generator()
    image = toy_images(1)
    for prefix in ([], [6], [9, 8]):
        words = [id for id in range(12) if id != EOS]
        texts = [prefix, *([*prefix, word] for word in words)]
        log_probs, _ = image_to_text_log_probs(generator, image.repeat(12, 1), [ZH] * 12, texts)
        # The text that ends here and those that go on with any word, given the prefix.
        assert math.isclose(log_probs[:, len(prefix)].exp().sum(), 1, abs_tol=1e-5)


def test_first_image_token_depends_on_the_text_alone() -> None:
    generator = toy_generator()
    images = toy_images(2)
    images[1, 0] = images[0, 0]
    first, second = text_to_image_log_probs(generator, [TEXT] * 2, images)
    assert not torch.equal(images[0], images[1])
    assert math.isclose(first[0], second[0], abs_tol=1e-6)
    # It has not seen itself: over all that it could be, the shares of one distribution.
    every = images[:1].repeat(7, 1)
    every[:, 0] = torch.arange(7)
    log_probs = text_to_image_log_probs(generator, [TEXT] * 7, every)
    assert math.isclose(log_probs[:, 0].exp().sum(), 1, abs_tol=1e-5)
    assert not torch.allclose(first[1:], second[1:], atol=1e-3)
    for place in range(len(TEXT)):
        other = [*TEXT]
        other[place] = 10
        (moved,) = text_to_image_log_probs(generator, [other], images[:1])
        assert abs(moved[0] - first[0]) > 1e-4


def test_an_image_token_moves_its_own_and_later_log_probs_only() -> None:
    generator = toy_generator()
    image = toy_images(1)
    (before,) = text_to_image_log_probs(generator, [TEXT], image)
    for place in range(N):
        other = image.clone()
        other[0, place] = (other[0, place] + 1) % 7
        (after,) = text_to_image_log_probs(generator, [TEXT], other)
        assert torch.equal(after[:place], before[:place])
        assert after[place] != before[place]


def test_a_text_token_moves_its_own_and_later_log_probs_only() -> None:
    generator = toy_generator()
    image = toy_images(1)
    (before,), _ = image_to_text_log_probs(generator, image, [ZH], [TEXT])
    for place in range(len(TEXT)):
        other = [*TEXT]
        other[place] = 10
        (after,), _ = image_to_text_log_probs(generator, image, [ZH], [other])
        assert torch.equal(after[:place], before[:place])
        assert (after[place:] - before[place:]).abs().min() > 1e-4


def test_every_image_token_moves_every_word() -> None:
    generator = toy_generator()
    image = toy_images(1)
    (before,), _ = image_to_text_log_probs(generator, image, [ZH], [TEXT])
    for place in range(N):
        other = image.clone()
        other[0, place] = (other[0, place] + 1) % 7
        (after,), _ = image_to_text_log_probs(generator, other, [ZH], [TEXT])
        assert (after - before).abs().min() > 1e-5


def test_language_token_moves_every_word() -> None:
    generator = toy_generator()
    (chinese,), _ = image_to_text_log_probs(generator, toy_images(1), [ZH], [TEXT])
    (english,), _ = image_to_text_log_probs(generator, toy_images(1), [EN], [TEXT])
    assert (chinese - english).abs().min() > 1e-4


# --- No leak ----------------------------------------------------------------------------------


def reach(generator: Generator, layout: Layout) -> Tensor:
    """Return who hears of whom through all layers: paths of what each layer lets see."""
    heard = torch.eye(layout.length)
    for pattern in generator.config.patterns:
        heard = ((torch.eye(layout.length) + layout.visible(pattern)) @ heard > 0).float()
    return heard > 0


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "patterns", [*((pattern,) * 2 for pattern in Pattern), paper_patterns(4)], ids="-".join
)
def test_an_input_moves_exactly_the_states_that_may_hear_of_it(
    patterns: tuple[Pattern, ...], task: str
) -> None:
    generator = toy_generator(patterns=patterns)
    layout, ids = sequence_of(generator, task)
    before = states_of(generator, layout, ids)
    may_hear = reach(generator, layout)
    for place in range(layout.length):
        other = [*ids]
        other[place] = (other[place] + 1) % 7
        moved = (states_of(generator, layout, other) - before).abs().amax(dim=1)
        assert moved[~may_hear[:, place]].eq(0).all(), place
        assert moved[may_hear[:, place]].gt(1e-6).all(), place


def test_the_last_image_token_is_heard_by_its_own_state_alone() -> None:
    """That state feeds the end-to-end reconstructor, so z_n is an input although nothing is
    scored against the output at it."""
    generator = toy_generator()
    layout = text_to_image_layout(len(TEXT), generator.config.grid)
    image = toy_images(1)[0].tolist()
    other = [*image[:-1], (image[-1] + 1) % 7]
    before = states_of(generator, layout, [*TEXT, BOI, *image])
    after = states_of(generator, layout, [*TEXT, BOI, *other])
    assert len(after) == len(TEXT) + 1 + N
    assert torch.equal(after[:-1], before[:-1])
    assert (after[-1] - before[-1]).abs().max() > 1e-2


# --- Batches and padding ----------------------------------------------------------------------

PROMPTS = [TEXT, [6], [], [8, 9, 10], [11, 11]]


def test_texts_are_padded_on_the_right() -> None:
    ids, valid = pad_texts([[6, 7], [], [8, 9, 10]])
    assert ids.tolist() == [[6, 7, PAD], [PAD] * 3, [8, 9, 10]]
    assert valid.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert (ids.dtype, valid.dtype) == (torch.long, torch.bool)
    ids, valid = pad_texts([[6, 7]], length=4)
    assert ids.tolist() == [[6, 7, PAD, PAD]]
    assert valid.tolist() == [[True, True, False, False]]
    ids, valid = pad_texts([[], []])
    assert ids.shape == valid.shape == (2, 0)


def test_text_to_image_batch_is_the_singles_whatever_the_padding() -> None:
    generator = toy_generator()
    images = toy_images(len(PROMPTS))
    together = text_to_image_log_probs(generator, PROMPTS, images)
    for prompt, image, found in zip(PROMPTS, images, together, strict=True):
        (alone,) = text_to_image_log_probs(generator, [prompt], image[None])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)


def test_image_to_text_batch_is_the_singles_whatever_the_padding() -> None:
    generator = toy_generator()
    images = toy_images(len(PROMPTS))
    languages = [ZH, EN, ZH, ZH, EN]
    together, counts = image_to_text_log_probs(generator, images, languages, PROMPTS)
    for b, prompt in enumerate(PROMPTS):
        (alone,), _ = image_to_text_log_probs(
            generator, images[b : b + 1], [languages[b]], [prompt]
        )
        length = len(prompt) + 1
        assert alone.shape == (length,)
        torch.testing.assert_close(together[b, :length], alone, rtol=0, atol=1e-5)
        assert together[b, length:].eq(0).all()
        assert counts[b].tolist() == [k < length for k in range(len(TEXT) + 1)]


@pytest.mark.parametrize("height", [HEIGHT, 200])  # on either side of where the fast form begins
def test_texts_of_one_picture_are_the_singles(height: int) -> None:
    """Read once, a picture has as likely texts, and they teach as much, as read for each of them."""
    generator = toy_generator(grid_height=height).double().requires_grad_()
    images = toy_images(3, cells=height * WIDTH)
    languages, texts = [ZH, EN, ZH, ZH, EN, EN], [*PROMPTS, [7]]
    together, counts = image_to_text_log_probs(generator, images, languages, texts)
    singles, alone_counts = image_to_text_log_probs(
        generator, images.repeat_interleave(2, 0), languages, texts
    )
    assert torch.equal(counts, alone_counts)
    torch.testing.assert_close(together, singles, rtol=1e-9, atol=1e-9)
    weights = [w for name, w in generator.named_parameters() if "image_head" not in name]
    for found, expected in zip(
        torch.autograd.grad(together.sum(), weights),
        torch.autograd.grad(singles.sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_every_picture_must_have_as_many_texts() -> None:
    with pytest.raises(AssertionError, match="equally many texts"):
        image_to_text_log_probs(toy_generator(), toy_images(2), [ZH] * 3, [TEXT] * 3)


def test_the_id_of_padding_is_never_read() -> None:
    """A padded key is hidden, so a word put there changes no target."""
    generator = toy_generator()
    layout = text_to_image_layout(5, generator.config.grid)
    valid = torch.tensor([[True] * 3 + [False] * 2 + [True] * (1 + N)])
    image = toy_images(1)[0].tolist()
    reads = generator.layer_reads(layout, valid)
    padded, other = (
        generator(layout, torch.tensor([[*TEXT[:3], *junk, BOI, *image]]), reads)[0]
        for junk in ([PAD, PAD], [10, 11])
    )
    assert torch.equal(padded[:3], other[:3])
    assert torch.equal(padded[5:], other[5:])


def test_null_prompt_differs_from_a_prompt_and_from_a_word() -> None:
    generator = toy_generator()
    image = toy_images(1)
    null, one, padding = (
        text_to_image_log_probs(generator, [text], image) for text in ([], [6], [PAD])
    )
    assert null.isfinite().all()
    assert (null - one).abs().min() > 1e-5
    assert (null - padding).abs().min() > 1e-5


# --- Heads ------------------------------------------------------------------------------------


def count_rows(head: nn.Module) -> list[int]:
    """Return a list that grows by the number of rows at each call of the head."""
    rows: list[int] = []
    head.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[:-1].numel()))
    return rows


def test_heads_compute_target_rows_only() -> None:
    generator = toy_generator()
    image_rows, text_rows = count_rows(generator.image_head), count_rows(generator.text_head)
    text_to_image_log_probs(generator, PROMPTS, toy_images(len(PROMPTS)))
    assert (image_rows, text_rows) == ([len(PROMPTS) * N], [])
    image_to_text_log_probs(generator, toy_images(len(PROMPTS)), [ZH] * len(PROMPTS), PROMPTS)
    num_words_and_ends = sum(len(prompt) + 1 for prompt in PROMPTS)
    assert (image_rows, text_rows) == ([len(PROMPTS) * N], [num_words_and_ends])


# --- Size and first weights -------------------------------------------------------------------


def num_parameters(config: GeneratorConfig) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in Generator(config).parameters())


@pytest.mark.parametrize(
    ("layers", "width", "heads", "billions"), [(24, 1024, 16, 0.3), (48, 4096, 64, 10)]
)
def test_sizes_of_the_paper(layers: int, width: int, heads: int, billions: float) -> None:
    """12 L C^2, and a small rest: biases, norms, embeddings, heads (paper.md section 1.5)."""
    config = toy_config(
        width=width,
        num_heads=heads,
        patterns=paper_patterns(layers),
        grid_height=32,
        grid_width=32,
        num_codes=8192,
        vocabulary_size=18_000,
        max_text=64,
    )
    in_blocks = layers * (12 * width**2 + 13 * width) + 2 * width
    embeddings = (18_000 + 8192 + 64 + 32 + 32 + 4) * width
    heads_of_both = (18_000 + 8192) * (width + 1)
    found = num_parameters(config)
    assert found == in_blocks + embeddings + heads_of_both
    assert 12 * layers * width**2 < found < 1.25e9 * billions


def test_every_weight_starts_as_the_table_says() -> None:
    torch.manual_seed(0)
    layers = 8
    config = toy_config(
        width=64,
        patterns=paper_patterns(layers),
        num_codes=100,
        vocabulary_size=100,
        qk_norm=True,
    )
    # As a model that is too large to be built twice: without memory, then with any, then with weights.
    with torch.device("meta"):
        generator = Generator(config)
    generator = generator.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(math.nan)
    generator.reset_parameters()
    residual = 0.02 / math.sqrt(2 * layers)
    seen = set()
    for name, weight in generator.state_dict().items():
        kind = name.removesuffix(".weight").removesuffix(".bias").split(".")[-1]
        seen.add(kind)
        if "norm" in kind:
            assert weight.eq(float(name.endswith("weight"))).all(), name
        elif name.endswith("bias"):
            assert weight.eq(0).all(), name
        else:
            expected = residual if kind in ("out", "mlp_out") else 0.02
            spread = 5 / math.sqrt(2 * weight.numel())  # five standard errors of a deviation
            assert abs(float(weight.std()) / expected - 1) < spread, name
            assert abs(float(weight.mean())) < 5 * expected / math.sqrt(weight.numel()), name
    assert {"out", "mlp_out", "qkv", "mlp_in", "q_norm", "k_norm", "image_head", "text_head"} < seen


def test_a_fresh_model_guesses_at_random() -> None:
    torch.manual_seed(0)
    generator = Generator(toy_config(num_codes=300, vocabulary_size=200)).requires_grad_(False)
    images = toy_images(8, num_codes=300)
    image_loss = -text_to_image_log_probs(generator, [TEXT] * 8, images).mean()
    text_log_probs, _ = image_to_text_log_probs(generator, images, [ZH] * 8, [TEXT] * 8)
    assert math.isclose(image_loss, math.log(300), abs_tol=0.05)
    assert math.isclose(-text_log_probs.mean(), math.log(200), abs_tol=0.05)


def test_both_directions_teach_the_same_transformer() -> None:
    """One set of weights: each loss has a gradient in every weight but those it does not touch."""
    for direction, untouched in (("image", {"text_head"}), ("text", {"image_head"})):
        generator = toy_generator().requires_grad_(True)
        images = toy_images(2)
        if direction == "image":
            text_to_image_log_probs(generator, [TEXT, []], images).sum().backward()
        else:
            image_to_text_log_probs(generator, images, [ZH, EN], [TEXT, []])[0].sum().backward()
        for name, weight in generator.named_parameters():
            if name.split(".")[0] in untouched:
                assert weight.grad is None, name
            else:
                assert weight.grad is not None, name
                assert weight.grad.abs().max() > 0, name


def test_another_form_of_attention_is_for_training_alone() -> None:
    """What a training sets for its device; sampling reads a layout once, and keeps to what needs no compiler."""
    generator, layout = toy_generator(), text_to_image_layout(3, toy_config().grid)
    asked: list[Pattern] = []

    def form(pattern: Pattern, layout: Layout, valid_BT: Tensor) -> Read:
        asked.append(pattern)
        return attend_dense(pattern, layout, valid_BT)

    generator.form = form
    valid = torch.ones(1, layout.length, dtype=torch.bool)
    generator.eval().layer_reads(layout, valid)
    assert asked == []
    generator.train().layer_reads(layout, valid)
    assert set(asked) == set(toy_config().patterns)

"""What a pair is shown as, by whose choice, and what is scored (paper eq. 3-5)."""

import io
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.training.conftest import (
    SMALL_GENERATOR,
    VOCABULARY,
    ToyPair,
    draw_tokens,
    generator_job,
    log_records,
    loss_of,
    toy_pairs,
)
from vilg.data.order import batch_ids
from vilg.data.pairs import Pair
from vilg.errors import SettingError
from vilg.model.generator import (
    image_to_text_log_probs,
    image_token_log_probs,
    pad_texts,
    text_to_image_log_probs,
    text_to_image_states,
)
from vilg.model.patterns import paper_patterns
from vilg.parallel import WHOLE
from vilg.randomness import integers
from vilg.text import LANGUAGES
from vilg.tokenizer.into_store import encode_texts
from vilg.training.generator_job import GeneratorJob, GeneratorLossConfig
from vilg.training.loop import LoopConfig, train
from vilg.training.optim import OptimConfig

THIN = replace(SMALL_GENERATOR, width=8, num_heads=1, patterns=paper_patterns(1))


def job_of(
    pairs: list[ToyPair], batch_size: int, loss: GeneratorLossConfig, seed: int = 0
) -> GeneratorJob:
    loop = LoopConfig(num_steps=1, batch_size=batch_size, seed=seed)
    job = generator_job(THIN, loss, loop, pairs, VOCABULARY, draw_tokens)
    # Wild weights in double precision: every prompt and every caption has a score of its own.
    torch.manual_seed(8)
    job.module.double()
    with torch.no_grad():
        for parameter in job.module.parameters():
            parameter.normal_(std=0.7)
    return job


def image_tokens(pair: ToyPair) -> Tensor:
    return torch.from_numpy(pair.image_ids.astype(np.int64))


class Reader:
    """Reads from the losses of a step what each of its pairs was shown as."""

    def __init__(self, job: GeneratorJob):
        self.job = job
        self.t2i: list[dict[str, float]] = []
        self.i2t: list[dict[str, tuple[float, int]]] = []
        for pair in job.pairs:
            prompts: dict[str, list[int]] = {"nothing": []}
            for lang in LANGUAGES:
                prompts[f"caption {lang}"] = pair.captions[lang]
                for i, prompt in enumerate(pair.prompts[lang]):
                    prompts[f"keyword {lang} {i}"] = prompt
            with torch.no_grad():
                image_PN = text_to_image_log_probs(
                    job.generator, [*prompts.values()], image_tokens(pair).repeat(len(prompts), 1)
                )
                text_LM, counts_LM = image_to_text_log_probs(
                    job.generator,
                    image_tokens(pair).repeat(len(LANGUAGES), 1),
                    [VOCABULARY.language_id(lang) for lang in LANGUAGES],
                    [pair.captions[lang] for lang in LANGUAGES],
                )
            self.t2i.append(dict(zip(prompts, (-image_PN.mean(1)).tolist(), strict=True)))
            sums = zip((-text_LM.sum(1)).tolist(), counts_LM.sum(1).tolist(), strict=True)
            self.i2t.append(dict(zip(LANGUAGES, sums, strict=True)))

    def read(self, step: int) -> dict[int, tuple[str, str]]:
        """Return the prompt of each pair of a step, and the language it was described in."""
        loop = self.job.loop
        ids = batch_ids(loop.seed, step, loop.batch_size, len(self.job.pairs)).tolist()
        with torch.no_grad():
            parts = loss_of(self.job, step)[1]
        image_means, text_means = {}, {}
        for way in itertools.product(*(self.t2i[id] for id in ids)):
            chosen = [self.t2i[id][name] for id, name in zip(ids, way, strict=True)]
            image_means[way] = sum(chosen) / len(ids)
        for way in itertools.product(LANGUAGES, repeat=len(ids)):
            texts = [self.i2t[id][lang] for id, lang in zip(ids, way, strict=True)]
            text_means[way] = sum(total for total, _ in texts) / sum(count for _, count in texts)
        prompts = self._only(image_means, float(parts["t2i"]))
        langs = self._only(text_means, float(parts["i2t"]))
        return dict(zip(ids, zip(prompts, langs, strict=True), strict=True))

    @staticmethod
    def _only(means: dict[tuple[str, ...], float], found: float) -> tuple[str, ...]:
        matching = [way for way, mean in means.items() if abs(mean - found) < 3e-6]
        assert len(matching) == 1, matching
        return matching[0]


def test_prompts_and_languages_come_in_the_shares_asked_for() -> None:
    pairs = [toy_pairs(6)[i] for i in (0, 1, 3, 5)]  # three of four have keywords
    reader = Reader(job_of(pairs, 1, GeneratorLossConfig()))
    steps = [next(iter(reader.read(step).items())) for step in range(450)]
    # Three standard deviations each way; the seed is part of the test.
    dropped = sum(prompt == "nothing" for _, (prompt, _) in steps)
    assert dropped / 450 == pytest.approx(0.10, abs=0.042)
    shown = [(id, prompt.split(), target) for id, (prompt, target) in steps if prompt != "nothing"]
    has_keywords = {id for id, pair in enumerate(pairs) if pair.prompts["zh"]}
    kinds = [prompt[0] for id, prompt, _ in shown if id in has_keywords]
    assert len(kinds) > 250
    assert kinds.count("keyword") / len(kinds) == pytest.approx(0.15, abs=0.06)
    assert all(prompt[0] == "caption" for id, prompt, _ in shown if id not in has_keywords)
    # Every keyword has its turn.
    assert {prompt[2] for _, prompt, _ in shown if prompt[0] == "keyword"} == {"0", "1", "2"}

    chinese = sum(prompt[1] == "zh" for _, prompt, _ in shown)
    assert chinese / len(shown) == pytest.approx(0.5, abs=0.07)
    assert sum(target == "zh" for _, (_, target) in steps) / 450 == pytest.approx(0.5, abs=0.07)
    # Prompt and description choose their languages apart: each pairing about a quarter.
    both = Counter((prompt[1], target) for _, prompt, target in shown)
    assert len(both) == 4
    assert min(both.values()) / len(shown) == pytest.approx(0.25, abs=0.061)


MIXED = GeneratorLossConfig(caption_drop=0.3, prompt_share=0.5)


@pytest.mark.parametrize("pool", [2, 3])
def test_choices_do_not_depend_on_the_batch(pool: int) -> None:
    """A pair alone at a step is shown as it is among others at that step."""
    together, alone = (Reader(job_of(toy_pairs(pool), size, MIXED)) for size in (pool, 1))
    seen: dict[int, set[tuple[str, str]]] = {id: set() for id in range(pool)}
    for step in range(24):
        among_others = together.read(step)
        assert among_others.keys() == seen.keys()
        for id, choice in alone.read(step).items():
            assert among_others[id] == choice
            seen[id].add(choice)
    assert all(len(choices) > 2 for choices in seen.values())


def test_choices_depend_on_step_and_seed() -> None:
    def choices(seed: int) -> list[dict[int, tuple[str, str]]]:
        reader = Reader(job_of(toy_pairs(2), 2, MIXED, seed))
        return [reader.read(step) for step in range(12)]

    first = choices(0)
    assert choices(0) == first
    assert choices(1) != first
    assert all(len({step[id] for step in first}) > 2 for id in (0, 1))


@pytest.mark.parametrize("tokens_summed", [False, True])
def test_the_loss_is_minus_both_log_likelihoods(tokens_summed: bool) -> None:
    plain = GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0, tokens_summed=tokens_summed)
    pairs = toy_pairs(3)
    job = job_of(pairs, 3, plain)
    total, parts = loss_of(job, 4)
    ids = batch_ids(0, 4, 3, 3)
    image_ids_BN = torch.stack([image_tokens(pairs[id]) for id in ids])
    chosen = Reader(job).read(4)
    prompts = [pairs[id].captions[chosen[id][0].split()[1]] for id in ids.tolist()]
    image_BN = text_to_image_log_probs(job.generator, prompts, image_ids_BN)
    langs = [chosen[id][1] for id in ids.tolist()]
    texts = [pairs[id].captions[lang] for id, lang in zip(ids, langs, strict=True)]
    assert len({*map(len, texts)}) > 1
    text_BM, counts_BM = image_to_text_log_probs(
        job.generator, image_ids_BN, [VOCABULARY.language_id(lang) for lang in langs], texts
    )
    image, text = image_BN.flatten().tolist(), text_BM[counts_BM].tolist()
    assert len(image) == 3 * 9
    assert len(text) == sum(len(caption) + 1 for caption in texts)  # [EOS] is scored too

    assert float(parts["t2i"]) == pytest.approx(-sum(image) / len(image), rel=1e-5)
    assert float(parts["i2t"]) == pytest.approx(-sum(text) / len(text), rel=1e-5)
    if tokens_summed:  # eq. 4-5 for each pair, averaged over pairs
        assert float(total.detach()) == pytest.approx(-(sum(image) + sum(text)) / 3, rel=1e-5)
    else:
        expected = -sum(image) / len(image) - sum(text) / len(text)
        assert float(total.detach()) == pytest.approx(expected, rel=1e-5)


def test_directions_gone_back_through_in_turn_give_the_gradient_of_their_sum() -> None:
    job, one = (job_of(toy_pairs(4), 4, GeneratorLossConfig()) for _ in range(2))
    loss_of(one, 3)[0].backward()
    for compute in job.turns[0].losses:
        computed = compute(3, WHOLE)
        assert computed is not None
        computed[0].backward()
    for weight, expected in zip(job.module.parameters(), one.module.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, expected.grad, rtol=1e-5, atol=1e-8)


def test_both_directions_teach_every_weight() -> None:
    job = job_of(toy_pairs(4), 4, GeneratorLossConfig(caption_drop=0.0))
    loss_of(job, 0)[0].backward()
    for name, parameter in job.module.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_the_loss_falls_on_eight_pairs(tmp_path: Path) -> None:
    loop = LoopConfig(num_steps=40, batch_size=8, log_every=1)
    plain = GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0)
    job = generator_job(SMALL_GENERATOR, plain, loop, toy_pairs(8), VOCABULARY, draw_tokens)
    optim = OptimConfig(peak_lr=2e-2, final_lr=1e-3, warmup_steps=5)
    train(job, loop, [optim], tmp_path, out=io.StringIO())
    records = log_records(tmp_path)
    assert records[-1]["t2i"] < 0.6 * records[0]["t2i"]
    assert records[-1]["i2t"] < 0.5 * records[0]["i2t"]


def test_pairs_of_one_language_are_drawn_from_and_described_in_it() -> None:
    pairs = [replace(pair, captions={"en": pair.captions["en"]}) for pair in toy_pairs(4)]
    job = job_of(pairs, 4, GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0))
    with torch.no_grad():
        parts = loss_of(job, 0)[1]
        text_RM, counts_RM = image_to_text_log_probs(
            job.generator,
            torch.stack([image_tokens(pair) for pair in pairs]),
            [VOCABULARY.language_id("en")] * 4,
            [pair.captions["en"] for pair in pairs],
        )
    assert float(parts["i2t"]) == pytest.approx(float(-text_RM.sum() / counts_RM.sum()), rel=1e-6)


def test_a_pair_without_captions_is_drawn_from_nothing_and_not_described() -> None:
    told = toy_pairs(2)[1]
    silent = replace(toy_pairs(2)[0], captions={}, prompts={})
    job = job_of([silent, told], 2, GeneratorLossConfig(caption_drop=0.0))
    with torch.no_grad():
        found = {name: float(value) for name, value in loss_of(job, 0)[1].items()}
        text_RM, counts_RM = image_to_text_log_probs(
            job.generator,
            image_tokens(told).repeat(2, 1),
            [VOCABULARY.language_id(lang) for lang in LANGUAGES],
            [told.captions[lang] for lang in LANGUAGES],
        )
        unprompted = -text_to_image_log_probs(job.generator, [[]], image_tokens(silent)[None])
        prompts = [*told.captions.values(), *told.prompts["zh"], *told.prompts["en"]]
        image_PN = -text_to_image_log_probs(
            job.generator, prompts, image_tokens(told).repeat(len(prompts), 1)
        )
    by_lang = (-text_RM.sum(1) / counts_RM.sum(1)).tolist()
    assert any(found["i2t"] == pytest.approx(loss, rel=1e-6) for loss in by_lang)
    both = ((image_PN.mean(1) + unprompted.mean()) / 2).tolist()
    assert any(found["t2i"] == pytest.approx(loss, rel=1e-6) for loss in both)


def test_the_longest_text_that_is_accepted_can_be_trained() -> None:
    # 12 places: 11 tokens and the language or end token.
    for number, fits in ((11, True), (12, False)):
        pair = Pair(id="a", place="a", picture=None, captions={"zh": ("红" * number,)})
        texts, too_long = encode_texts(pair, VOCABULARY, SMALL_GENERATOR.max_text)
        assert (len(texts), len(too_long)) == ((1, 0) if fits else (0, 1))
    assert too_long == [f"{'红' * 12!r} has 12 tokens, the model reads 11"]
    longest = replace(toy_pairs(1)[0], captions={"zh": [270] * 11})
    job = job_of([longest], 1, GeneratorLossConfig())
    assert all(loss_of(job, step)[0].isfinite() for step in range(4))


def test_a_share_of_the_batch_is_described() -> None:
    """All pairs are drawn, the first of them described, as each would be without the others."""
    pairs = toy_pairs(4)
    half = GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0, image_to_text_share=0.5)
    whole = replace(half, image_to_text_share=1.0)
    first_two = batch_ids(0, 4, 4, 4)[:2].tolist()
    total, parts = loss_of(job_of(pairs, 4, half), 4)
    _, all_parts = loss_of(job_of(pairs, 4, whole), 4)
    assert float(parts["t2i"]) == float(all_parts["t2i"])

    job = job_of(pairs, 4, half)
    chosen = Reader(job_of(pairs, 4, whole)).read(4)
    langs = [chosen[id][1] for id in first_two]
    text_BM, counts_BM = image_to_text_log_probs(
        job.generator,
        torch.stack([image_tokens(pairs[id]) for id in first_two]),
        [VOCABULARY.language_id(lang) for lang in langs],
        [pairs[id].captions[lang] for id, lang in zip(first_two, langs, strict=True)],
    )
    expected = -float((text_BM.sum() / counts_BM.sum()).detach())
    assert float(parts["i2t"]) == pytest.approx(expected, rel=1e-6)
    assert float(total.detach()) == pytest.approx(float(parts["t2i"]) + expected, rel=1e-6)


@pytest.mark.parametrize("tokens_summed", [False, True])
def test_a_picture_can_be_described_in_both_languages_at_once(tokens_summed: bool) -> None:
    pairs = toy_pairs(3)
    both = GeneratorLossConfig(
        text_to_image_share=0, texts_per_picture=2, tokens_summed=tokens_summed
    )
    job = job_of(pairs, 3, both)
    total, parts = loss_of(job, 4)
    texts = [(i, lang) for i in range(3) for lang in LANGUAGES]
    text_RM, counts_RM = image_to_text_log_probs(
        job.generator,
        torch.stack([image_tokens(pairs[i]) for i, _ in texts]),
        [VOCABULARY.language_id(lang) for _, lang in texts],
        [pairs[i].captions[lang] for i, lang in texts],
    )
    nats = -float(text_RM.sum().detach())
    assert float(parts["i2t"]) == pytest.approx(nats / int(counts_RM.sum()), rel=1e-6)
    expected = nats / len(texts) if tokens_summed else nats / int(counts_RM.sum())
    assert float(total.detach()) == pytest.approx(expected, rel=1e-6)


def test_disturbed_pictures_are_partly_another_and_scored_as_themselves() -> None:
    pairs = toy_pairs(40)
    images = torch.stack([image_tokens(pair) for pair in pairs])
    plain = GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0)
    job = job_of(pairs, 40, replace(plain, disturbed=0.5))
    ids = batch_ids(0, 3, 40, 40)
    inputs_BN = job._inputs(3, ids)
    changed_BN = inputs_BN != images[ids]
    assert 8 <= int(changed_BN.any(1).sum()) <= 24  # half, less those whose share was near 0
    shares = changed_BN[changed_BN.any(1)].double().mean(1)
    assert shares.min() < 0.3 and shares.max() > 0.6
    for inputs_N, changed_N in zip(inputs_BN, changed_BN, strict=True):
        # One other picture lent all that is changed.
        assert (images[:, changed_N] == inputs_N[changed_N]).all(1).any()
    few = np.array([ids[5], ids[30]])
    assert torch.equal(job._inputs(3, few), inputs_BN[[5, 30]])  # whatever its batch is
    assert not torch.equal(job._inputs(4, ids), inputs_BN)
    assert torch.equal(job_of(pairs, 40, plain)._inputs(3, ids), images[ids])

    pairs = toy_pairs(2)
    job = job_of(pairs, 2, replace(plain, disturbed=1.0))
    choices = Reader(job_of(pairs, 2, plain)).read(7)
    ids = batch_ids(0, 7, 2, 2)
    prompts = [pairs[id].captions[choices[id][0].split()[1]] for id in ids.tolist()]
    states = text_to_image_states(job.generator, *pad_texts(prompts), job._inputs(7, ids))
    own = torch.stack([image_tokens(pairs[id]) for id in ids])
    expected = image_token_log_probs(job.generator, states, own)
    assert float(loss_of(job, 7)[1]["t2i"]) == pytest.approx(
        -float(expected.mean().detach()), rel=1e-6
    )


def test_either_direction_can_be_left_out() -> None:
    """What is left is trained as it would be beside the other, and the other gets no gradient."""
    pairs = toy_pairs(4)
    both, drawn, described = (
        job_of(
            pairs, 4, GeneratorLossConfig(text_to_image_share=draw, image_to_text_share=describe)
        )
        for draw, describe in ((1, 1), (1, 0), (0, 1))
    )
    _, parts = loss_of(both, 2)
    for job, name in ((drawn, "t2i"), (described, "i2t")):
        total, values = loss_of(job, 2)
        assert values.keys() == {name}
        assert float(values[name]) == float(parts[name]) == float(total.detach())
        total.backward()
    names = {name for name, value in both.generator.named_parameters()}
    with_gradient = [
        {n for n, v in job.generator.named_parameters() if v.grad is not None and v.grad.any()}
        for job in (drawn, described)
    ]
    assert names - with_gradient[0] == {"text_head.weight", "text_head.bias"}
    assert names - with_gradient[1] == {"image_head.weight", "image_head.bias"}


def test_pictures_are_described_as_they_are_moved_and_drawn_as_they_are() -> None:
    pairs = toy_pairs(4)
    plain = job_of(pairs, 4, GeneratorLossConfig())
    seen: list[tuple[int, list[int]]] = []

    def moved(step: int, ids: NDArray[np.int64]) -> Tensor:
        seen.append((step, ids.tolist()))
        return torch.stack([image_tokens(pairs[id]).flip(0) for id in ids])

    job = job_of(pairs, 4, GeneratorLossConfig(image_to_text_share=0.5))
    job.encode_described = moved
    ids = batch_ids(0, 2, 4, 4).tolist()
    parts = loss_of(job, 2)[1]
    assert seen == [(2, ids[:2])]
    assert float(parts["t2i"]) == float(loss_of(plain, 2)[1]["t2i"])
    turned = [replace(pair, image_ids=pair.image_ids[::-1].copy()) for pair in pairs]
    expected = loss_of(job_of(turned, 4, GeneratorLossConfig(image_to_text_share=0.5)), 2)[1]
    assert float(parts["i2t"]) == float(expected["i2t"])


def test_pictures_are_drawn_as_they_are_after_tokens_of_moved_ones() -> None:
    """Moved tokens are read, the picture's own are scored, and what is described stays."""
    pairs = toy_pairs(4)
    loss = GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0)
    plain = loss_of(job_of(pairs, 4, loss), 2)[1]
    seen: list[tuple[int, list[int]]] = []

    def moved(step: int, ids: NDArray[np.int64]) -> Tensor:
        seen.append((step, ids.tolist()))
        return torch.stack([image_tokens(pairs[id]).flip(0) for id in ids])

    job = job_of(pairs, 4, loss)
    job.encode_prefix = moved
    parts = loss_of(job, 2)[1]
    ids = batch_ids(0, 2, 4, 4)
    assert seen == [(2, ids.tolist())]
    assert float(parts["i2t"]) == float(plain["i2t"])

    choices = Reader(job_of(pairs, 4, loss)).read(2)
    prompts = [pairs[id].captions[choices[id][0].split()[1]] for id in ids.tolist()]
    own_BN = torch.stack([image_tokens(pairs[id]) for id in ids])
    states = text_to_image_states(job.generator, *pad_texts(prompts), own_BN.flip(1))
    expected = -float(image_token_log_probs(job.generator, states, own_BN).mean().detach())
    assert float(parts["t2i"]) == pytest.approx(expected, rel=1e-6)
    assert float(parts["t2i"]) != float(plain["t2i"])

    disturbing = job_of(pairs, 4, replace(loss, disturbed=1.0))
    others_BN = disturbing._inputs(2, ids)
    disturbing.encode_prefix = moved
    after_BN = disturbing._inputs(2, ids)
    lent_BN = others_BN != own_BN  # the other picture's cells are as they were
    assert torch.equal(after_BN[lent_BN], others_BN[lent_BN])
    # The rest is moved, except where the other's token happens to be the picture's own.
    others = integers(0, "disturbing picture", 4, 2, ids)
    alike_BN = torch.stack([image_tokens(pairs[id]) for id in others]) == own_BN
    moved_BN = ~lent_BN & ~alike_BN
    assert moved_BN.any()
    assert torch.equal(after_BN[moved_BN], own_BN.flip(1)[moved_BN])


@pytest.mark.parametrize("share", [-0.5, 1.5])
def test_a_senseless_share_is_refused(share: float) -> None:
    for name in ("text_to_image_share", "image_to_text_share"):
        with pytest.raises(SettingError, match=name):
            GeneratorLossConfig(**{name: share})
    with pytest.raises(SettingError, match="disturbed"):
        GeneratorLossConfig(disturbed=share + 2)


@pytest.mark.parametrize("number", [0, 3])
def test_no_text_or_more_than_there_are_languages_is_refused(number: int) -> None:
    with pytest.raises(SettingError, match="texts_per_picture"):
        GeneratorLossConfig(texts_per_picture=number)


def test_something_must_be_trained() -> None:
    with pytest.raises(SettingError, match="not both 0"):
        GeneratorLossConfig(text_to_image_share=0, image_to_text_share=0)

"""Kept tokens, guidance schedules and the choice among what was drawn."""

import pytest
import torch
from torch import Tensor

from tests.sampling.test_decode import PROMPTS, replay_logits, toy_generator, toy_images
from vilg.model.defaults import Decoder, GuidanceSchedule, SamplingConfig
from vilg.model.generator import pad_texts, text_to_image_log_probs, text_to_image_states
from vilg.model.segments import Grid
from vilg.randomness import uniforms
from vilg.sampling.images import Drawn, Kept, draw_images, guidance_at

GRID = Grid(3, 4)
PLAIN = SamplingConfig()


def kept(*cells: int) -> Tensor:
    return torch.isin(torch.arange(12), torch.tensor(cells))


MASKS = {
    "nothing": kept(),
    "all": kept(*range(12)),
    "a row and some": kept(0, 1, 2, 3, 5, 9),
    "two rows": kept(*range(8)),
    "below": kept(*range(4, 12)),
    "holes": kept(0, 2, 6, 7, 11),
}


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("name", MASKS)
def test_kept_tokens_stay_and_the_others_are_drawn_as_if_they_had_been(
    name: str, guidance: float
) -> None:
    generator = toy_generator()
    keep_N, settings = MASKS[name], SamplingConfig(guidance=guidance)
    image_ids = toy_images(generator, 2)
    given = Kept(image_ids, keep_N.expand(2, -1))
    drawn = draw_images(generator, PROMPTS[:2], range(4), settings, kept=given).image_ids_BN
    for b, image in enumerate(drawn):
        text = PROMPTS[b // 2]
        assert torch.equal(image[keep_N], image_ids[b // 2][keep_N])
        logits = replay_logits(generator, text, image.tolist(), guidance)
        for k in (~keep_N).nonzero().flatten().tolist():
            below = logits[k].double().softmax(dim=0).cumsum(dim=0)
            number = float(uniforms(b, "draw", k))
            low = float(below[image[k] - 1]) if image[k] else 0.0
            assert low - 1e-4 <= number <= float(below[image[k]]) + 1e-4
    if name == "nothing":
        assert torch.equal(
            drawn, draw_images(generator, PROMPTS[:2], range(4), settings).image_ids_BN
        )


def test_the_rank_of_an_edit_is_the_likelihood_of_what_was_kept_behind_it() -> None:
    """Rows that are kept at the top are given, not scored: they are the same for all candidates."""
    generator = toy_generator()
    image_ids = toy_images(generator, 2)
    keep_GN = torch.stack([kept(0, 1, 2, 3, 5, 9), kept(0, 1, 2, 3, 8)])
    drawn = draw_images(
        generator,
        PROMPTS[:2],
        range(6),
        SamplingConfig(guidance=2.0),
        kept=Kept(image_ids, keep_GN),
    )
    prompts = [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    log_probs = text_to_image_log_probs(generator, prompts, drawn.image_ids_BN)
    expected = torch.cat([log_probs[:3, [5, 9]].sum(dim=1), log_probs[3:, 8]])
    assert drawn.kept_log_prob_B is not None
    torch.testing.assert_close(drawn.kept_log_prob_B, expected, rtol=0, atol=1e-4)
    assert draw_images(generator, PROMPTS[:1], [0], PLAIN).kept_log_prob_B is None


def test_an_edit_has_the_states_of_all_its_tokens() -> None:
    generator = toy_generator()
    given = Kept(toy_images(generator, 1), MASKS["two rows"][None])
    settings = SamplingConfig(guidance=2.0, decoder=Decoder.END_TO_END)
    drawn = draw_images(generator, PROMPTS[:1], range(3), settings, kept=given)
    expected = text_to_image_states(generator, *pad_texts(PROMPTS[:1] * 3), drawn.image_ids_BN)[
        :, 1:
    ]
    assert drawn.states_BNC is not None
    torch.testing.assert_close(drawn.states_BNC, expected, rtol=0, atol=1e-4)


def test_leading_rows_are_those_that_all_keep() -> None:
    rows = torch.stack([MASKS["two rows"], MASKS["a row and some"]])
    assert Kept(torch.zeros_like(rows).long(), rows).num_leading(GRID) == 4
    assert Kept.nothing(2, GRID).num_leading(GRID) == 0
    assert Kept(torch.zeros(1, 12), torch.ones(1, 12).bool()).num_leading(GRID) == 12


def test_a_schedule_is_a_straight_line() -> None:
    def at(schedule: GuidanceSchedule) -> list[float]:
        settings = SamplingConfig(guidance=5.0, guidance_schedule=schedule)
        return [guidance_at(settings, k, 4) for k in range(4)]

    assert at(GuidanceSchedule.CONSTANT) == [5, 5, 5, 5]
    assert at(GuidanceSchedule.RISING) == [2, 3, 4, 5]
    assert at(GuidanceSchedule.FALLING) == [5, 4, 3, 2]


@pytest.mark.parametrize("schedule", GuidanceSchedule)
def test_every_token_is_drawn_at_the_guidance_of_its_cell(schedule: GuidanceSchedule) -> None:
    generator = toy_generator()
    settings = SamplingConfig(temperature=0, guidance=4.0, guidance_schedule=schedule)
    rising = [1.25 + 0.25 * k for k in range(12)]
    strengths = {"constant": [4.0] * 12, "rising": rising, "falling": rising[::-1]}[schedule]
    drawn = draw_images(generator, PROMPTS, range(5), settings).image_ids_BN
    for text, image in zip(PROMPTS, drawn.tolist(), strict=True):
        plain, null = (replay_logits(generator, t, image, 1) for t in (text, []))
        for k, id in enumerate(image):
            assert int((null[k] + strengths[k] * (plain[k] - null[k])).argmax()) == id


def test_schedules_draw_different_images() -> None:
    generator = toy_generator()
    drawn = [
        draw_images(
            generator, PROMPTS, range(5), SamplingConfig(guidance=4.0, guidance_schedule=schedule)
        ).image_ids_BN
        for schedule in GuidanceSchedule
    ]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_batches_are_joined_and_rows_chosen() -> None:
    parts = [Drawn(torch.full((2, 3), i), torch.full((2, 3, 1), float(i))) for i in range(2)]
    joined = Drawn.joined(parts)
    chosen = joined.chosen([3, 0])
    assert chosen.image_ids_BN.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert chosen.states_BNC is not None and chosen.states_BNC[:, 0, 0].tolist() == [1.0, 0.0]
    assert chosen.kept_log_prob_B is None

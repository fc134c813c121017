"""End-to-end training: which loss moves which part (paper section 3.1.3), and what goes in and out.

| loss | transformer, embeddings | image head | text head | map, reconstructor | image tokenizer |
| --- | --- | --- | --- | --- | --- |
| L_txt2img | yes | yes | no | no | no |
| L_img2txt | yes | no | yes | no | no |
| L_rec | yes; not where states are detached | no | no | yes | no |
| discriminator's | no | no | no | no | no |
"""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from tests.training.conftest import (
    OPTIM,
    SMALL_DISCRIMINATOR,
    SMALL_DVAE,
    SMALL_GENERATOR,
    SMALL_VQGAN,
    TOKENIZER_3X3,
    VOCABULARY,
    draw_tokens,
    generator_job,
    loss_of,
    reconstructing,
    toy_pairs,
    toy_pictures,
    toy_store,
)
from vilg.data.batches import choose_captions
from vilg.data.order import batch_ids
from vilg.errors import SettingError
from vilg.images import to_array
from vilg.model.generator import image_token_log_probs, pad_texts, text_to_image_states
from vilg.model.segments import Grid
from vilg.text import LANGUAGES
from vilg.tokenizer.image_tokenizer import ImageTokenizer, TokenizerConfig
from vilg.training.end_to_end import EndToEnd, EndToEndConfig
from vilg.training.generator_job import GeneratorJob, GeneratorLossConfig
from vilg.training.loop import LoopConfig, take_turn
from vilg.training.optim import build_optimizer
from vilg.training.picture_loss import PictureLossConfig

LOOP = LoopConfig(num_steps=4, batch_size=4)
PLAIN = GeneratorLossConfig(caption_drop=0.0, prompt_share=0.0)
ADVERSARIAL = PictureLossConfig(adversarial=0.8, discriminator=SMALL_DISCRIMINATOR)
KINDS = {
    "vqgan": (TOKENIZER_3X3, PictureLossConfig()),
    "adversarial": (TOKENIZER_3X3, ADVERSARIAL),
    "dvae": (
        replace(SMALL_DVAE, image_size=6),
        PictureLossConfig(l1=0.0, l2=0.0, logit_laplace=1.0),
    ),
}


def make(kind: str, detach_states: bool = False) -> GeneratorJob:
    """Return a job over 3x3 tokens and 6x6 pixels."""
    config, loss = KINDS[kind]
    end_to_end = reconstructing(loss, detach_states, config)
    return generator_job(
        SMALL_GENERATOR, PLAIN, LOOP, toy_pairs(7), VOCABULARY, draw_tokens, end_to_end
    )


def end_to_end_of(job: GeneratorJob) -> EndToEnd:
    assert job.end_to_end is not None
    return job.end_to_end


def parts_of(job: GeneratorJob) -> dict[str, list[nn.Parameter]]:
    """Name everything that a loss might move."""
    e2e, generator = end_to_end_of(job), job.generator
    parts: dict[str, nn.Module] = {
        "text embedding": generator.text_embedding,
        "image embedding": generator.image_embedding,
        "transformer": generator.transformer,
        "image head": generator.image_head,
        "text head": generator.text_head,
        "map": e2e.reconstructor.map,
        "reconstructor": e2e.reconstructor.decoder,
        "tokenizer": e2e.image_tokenizer,
    }
    if e2e.picture_loss.discriminator is not None:
        parts["discriminator"] = e2e.picture_loss.discriminator
    return {name: [*part.parameters()] for name, part in parts.items()}


def reached(job: GeneratorJob, loss: Tensor) -> set[str]:
    """Return the parts to which a loss sends a gradient that is not exactly zero."""
    parts = parts_of(job)
    for weight in (weight for weights in parts.values() for weight in weights):
        weight.grad = None
    loss.backward(retain_graph=True)
    return {
        name
        for name, weights in parts.items()
        if any(weight.grad is not None and bool(weight.grad.any()) for weight in weights)
    }


EMBEDDINGS_AND_BODY = {"text embedding", "image embedding", "transformer"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("detach_states", [False, True])
def test_each_loss_moves_the_parts_it_should(kind: str, detach_states: bool) -> None:
    job = make(kind, detach_states)
    e2e, ids = end_to_end_of(job), np.arange(4)
    prompts = [job.pairs[id].captions["en"] for id in ids]
    image_ids = torch.from_numpy(job.store.image_ids(ids))
    states = text_to_image_states(job.generator, *pad_texts(prompts), image_ids)
    t2i = -image_token_log_probs(job.generator, states, image_ids).mean()
    i2t, _ = job.image_to_text_loss(0) or pytest.fail("none described")
    rec, _ = e2e.loss(0, states[:, 1:], ids)
    assert reached(job, t2i) == EMBEDDINGS_AND_BODY | {"image head"}
    assert reached(job, i2t) == EMBEDDINGS_AND_BODY | {"text head"}
    # It passes through the discriminator, which takes no gradient of it.
    to_generator = set() if detach_states else EMBEDDINGS_AND_BODY
    assert reached(job, rec) == to_generator | {"map", "reconstructor"}
    if kind == "adversarial":
        discriminator_loss, _ = e2e.picture_loss.discriminator_loss(0) or pytest.fail("begun")
        assert reached(job, discriminator_loss) == {"discriminator"}


def test_turns_leave_each_other_alone() -> None:
    job = make("adversarial")
    for turn in job.turns:
        before = {name: value.clone() for name, value in job.module.state_dict().items()}
        take_turn(turn, build_optimizer(OPTIM, turn.module), OPTIM, 0)
        own = "discriminator." if turn.name else "learner."
        for name, value in job.module.state_dict().items():
            assert name.startswith(own) or torch.equal(value, before[name]), name
        assert all(parameter.grad is None for parameter in job.module.parameters())


def test_a_detached_reconstructor_leaves_the_generator_to_its_tokens() -> None:
    """Weight for weight: neither gradients nor their clipping pass between the two."""
    alone, detached, joined = make("vqgan"), make("vqgan", detach_states=True), make("vqgan")
    plain = generator_job(SMALL_GENERATOR, PLAIN, LOOP, alone.pairs, VOCABULARY, draw_tokens)
    clipping = replace(OPTIM, clip_norm=0.05)
    for job in (plain, detached, joined):
        (turn,) = job.turns
        optimizer = build_optimizer(clipping, turn.module)
        for step in range(3):
            assert take_turn(turn, optimizer, clipping, step)["grad_norm"] > 0.05
    weights = plain.generator.state_dict()
    for name, value in detached.generator.state_dict().items():
        assert torch.equal(value, weights[name]), name
    assert not torch.equal(
        joined.generator.image_embedding.weight, weights["image_embedding.weight"]
    )


def test_the_norm_in_the_log_is_that_of_all_parts_together() -> None:
    job = make("vqgan")
    loss, _ = loss_of(job, 0)
    weights = [*job.turns[0].module.parameters()]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    expected = torch.cat([g.flatten() for g in gradients if g is not None]).norm()
    (turn,) = job.turns
    found = take_turn(turn, build_optimizer(OPTIM, turn.module), OPTIM, 0)["grad_norm"]
    assert found == pytest.approx(float(expected), rel=1e-5)


def painted(job: GeneratorJob, states_NC: Tensor) -> Tensor:
    """Paint one picture, raw_PYX: token by token, without a line of what is tested but its weights."""
    e2e = end_to_end_of(job)
    weights = dict(e2e.reconstructor.map.named_parameters())
    side = SMALL_GENERATOR.grid_width
    codes_1DHW = torch.zeros(1, e2e.image_tokenizer.config.code_dim, side, side)
    for token, state_C in enumerate(states_NC):
        hidden_C = weights["0.weight"] @ state_C + weights["0.bias"]
        hidden_C = hidden_C * (1 + torch.erf(hidden_C / math.sqrt(2))) / 2
        code_D = weights["2.weight"] @ hidden_C + weights["2.bias"]
        codes_1DHW[0, :, token // side, token % side] = code_D  # rows from the top, left to right
    return e2e.reconstructor.decoder(codes_1DHW)[0]


def loss_by_pixels(job: GeneratorJob, states_BNC: Tensor, ids: list[int]) -> Tensor:
    """Return L_rec, picture by picture and pixel by pixel, against the bytes of the pictures."""
    terms = []
    for states_NC, id in zip(states_BNC, ids, strict=True):
        raw_PYX = painted(job, states_NC)
        for y, x, channel in product(range(6), range(6), range(3)):
            byte, location = int(toy_pictures()[id, y, x, channel]), raw_PYX[channel, y, x]
            if len(raw_PYX) == 3:  # a VQGAN: l1 + l2 in [-1, 1]
                error = location - (byte / 127.5 - 1)
                terms.append(error.abs() + error**2)
            else:  # a dVAE: -ln of the logit-Laplace density, in (0.1, 0.9)
                value, ln_b = 0.8 * byte / 255 + 0.1, raw_PYX[3 + channel, y, x]
                distance = (math.log(value / (1 - value)) - location).abs()
                terms.append(distance / ln_b.exp() + ln_b + math.log(2 * value * (1 - value)))
    return torch.stack(terms).mean()


def with_large_weights(job: GeneratorJob) -> GeneratorJob:
    """First weights are so small that any states make much the same pixels."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for weight in job.turns[0].module.parameters():
            weight.normal_(std=0.5)
    return job


def true_states(job: GeneratorJob, step: int) -> tuple[Tensor, list[int]]:
    """Return the states_BTC of a step's batch, and its ids; a pair has one caption here."""
    job.pairs[:] = [
        replace(pair, captions={lang: [270] for lang in LANGUAGES}) for pair in job.pairs
    ]
    job.store = toy_store(job.pairs)
    ids = batch_ids(0, step, 4, 7).tolist()
    image_ids_BN = torch.tensor([job.pairs[id].image_ids.tolist() for id in ids])
    return text_to_image_states(job.generator, *pad_texts([[270]] * 4), image_ids_BN), ids


@pytest.mark.parametrize("kind", ["vqgan", "dvae"])
def test_pixels_are_made_of_the_states_at_their_own_tokens(kind: str) -> None:
    job = with_large_weights(make(kind))
    with torch.no_grad():
        states_BTC, ids = true_states(job, 2)
        _, values = loss_of(job, 2)
        expected = loss_by_pixels(job, states_BTC[:, 1:], ids)
        # What each fault would give; all must be told from the truth.
        faults = {
            "states that predict the tokens": loss_by_pixels(job, states_BTC[:, :-1], ids),
            "states reversed in space": loss_by_pixels(job, states_BTC[:, 1:].flip(1), ids),
            "pixels of other pictures": loss_by_pixels(job, states_BTC[:, 1:], ids[::-1]),
        }
    # Catches all three, and a map, decoder, scale of pixels or mean that is not the written one.
    assert float(values["rec"]) == pytest.approx(float(expected), rel=1e-5)
    # Catches a reference that is blind to one of them.
    for name, loss in faults.items():
        assert float(loss) != pytest.approx(float(expected), rel=1e-4), name


@pytest.mark.parametrize("detach_states", [False, True])
def test_the_gradients_that_meet_in_the_states_are_noted(detach_states: bool) -> None:
    job = with_large_weights(make("vqgan", detach_states))
    states_BTC, ids = true_states(job, 2)
    states_BTC = states_BTC.detach().requires_grad_()
    image_ids_BN = torch.tensor([job.pairs[id].image_ids.tolist() for id in ids])
    logits_BNK = job.generator.image_head(states_BTC[:, :-1])
    t2i = F.cross_entropy(logits_BNK.flatten(0, 1), image_ids_BN.flatten())
    rec = loss_by_pixels(job, states_BTC[:, 1:], ids)
    # Catches a norm over part of the batch, one taken after clipping, and the two exchanged; detached,
    # a loss of the pixels that reaches the generator after all.
    expected = [float(torch.autograd.grad(loss, states_BTC)[0].norm()) for loss in (t2i, rec)]
    if detach_states:
        expected[1] = 0.0
    total, _ = loss_of(job, 2)
    total.backward()
    noted = job.after_step(2)
    found = [float(noted[name]) for name in ("t2i_state_grad", "rec_state_grad")]
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_sum_with_equal_weights(kind: str) -> None:
    job = make(kind)
    total, values = loss_of(job, 2)
    assert float(total.detach()) == pytest.approx(
        float(values["t2i"] + values["i2t"] + values["rec"]), rel=1e-5
    )
    if kind == "vqgan":
        assert float(values["rec"]) == pytest.approx(float(values["l1"] + values["l2"]), rel=1e-5)


def test_a_state_has_seen_its_own_token_and_none_after() -> None:
    """The state that stands for z_k moves with z_k, and never with what comes later."""
    job = make("vqgan")
    with torch.no_grad():
        for weight in job.generator.parameters():
            weight.normal_(std=0.5)  # first weights are so small that a leak would be too
    image_ids = torch.from_numpy(job.store.image_ids(np.array([0])))
    prompts = [job.pairs[0].captions["en"]]
    before = text_to_image_states(job.generator, *pad_texts(prompts), image_ids)[0, 1:]
    for k in range(9):
        other = image_ids.clone()
        other[0, k] = (other[0, k] + 1) % SMALL_GENERATOR.num_codes
        after = text_to_image_states(job.generator, *pad_texts(prompts), other)[0, 1:]
        assert torch.equal(after[:k], before[:k])
        assert not torch.equal(after[k], before[k])


def test_the_reconstructor_begins_with_the_decoder_of_the_tokenizer() -> None:
    e2e = end_to_end_of(make("vqgan"))
    own, lent = e2e.reconstructor.decoder.state_dict(), e2e.image_tokenizer.decoder.state_dict()
    assert own.keys() == lent.keys()
    assert all(torch.equal(own[name], lent[name]) for name in own)
    assert all(p.requires_grad for p in e2e.reconstructor.parameters())
    codes_BND = torch.randn(2, 9, SMALL_VQGAN.code_dim)
    e2e.reconstructor.map = torch.nn.Identity()  # type: ignore[assignment]
    expected = e2e.image_tokenizer.decode_codes(codes_BND.view(2, 3, 3, -1).permute(0, 3, 1, 2))
    assert torch.allclose(e2e.reconstructor(codes_BND, Grid(3, 3)), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_trains_all_of_it_but_the_tokenizer(kind: str) -> None:
    job = make(kind)
    before = {name: value.clone() for name, value in job.module.state_dict().items()}
    lent = {n: v.clone() for n, v in end_to_end_of(job).image_tokenizer.state_dict().items()}
    for turn in job.turns:
        take_turn(turn, build_optimizer(OPTIM, turn.module), OPTIM, 0)
    still = {name for name, v in job.module.state_dict().items() if torch.equal(v, before[name])}
    # Zero at first, and keys' biases stay so: softmax does not see what all keys share.
    assert {name for name in still if not name.endswith("bias")} == set()
    assert any(name.startswith("discriminator.") for name in before) == (kind == "adversarial")
    assert len(job.turns) == (2 if kind == "adversarial" else 1)
    now = end_to_end_of(job).image_tokenizer.state_dict()
    assert all(torch.equal(now[name], value) for name, value in lent.items())


def test_samples_show_what_the_reconstructor_makes(tmp_path: Path) -> None:
    job, shown = with_large_weights(make("vqgan")), []
    own_ids = [pair.image_ids.tolist() for pair in job.pairs]

    def note(image_ids_BN: Tensor) -> list[Image.Image]:
        shown.append(image_ids_BN.clone())
        return [Image.new("RGB", (6, 6))] * len(image_ids_BN)

    job.decode = note
    job.show(3, tmp_path)
    true_BN, drawn_BN = shown
    rows = np.array([own_ids.index(row) for row in true_BN.tolist()])
    texts_B, _ = choose_captions(job.store, rows, LOOP.seed, 0, 1)
    prompts = [text.tolist() for text in job.store.tokens_of(texts_B)]
    for row, prompt in zip(rows, prompts, strict=True):
        assert prompt in job.pairs[row].captions.values()
    with torch.no_grad():
        states_BTC = text_to_image_states(job.generator, *pad_texts(prompts), drawn_BN)
        raws = [painted(job, states_TC[1:]) for states_TC in states_BTC]
    tiles = [(raw_3YX.permute(1, 2, 0) + 1).mul(127.5).clamp(0, 255) for raw_3YX in raws]
    sheet = to_array(Image.open(tmp_path / "step-00000003.png"))
    assert sheet.shape == (4 + 3 * (12 + 4), 4 + 8 * (12 + 4), 3)
    # The third row, each pixel twice as large each way.
    for i, tile_YX3 in enumerate(tiles):
        found_YX3 = sheet[36:48:2, 4 + 16 * i : 16 + 16 * i : 2]
        assert np.abs(found_YX3 - tile_YX3.numpy()).max() < 0.51


@pytest.mark.parametrize("kind", ["vqgan", "dvae"])
def test_people_are_shown_what_the_states_paint(kind: str) -> None:
    job = with_large_weights(make(kind))
    states_BNC = torch.randn(
        2, 9, SMALL_GENERATOR.width, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        shown = end_to_end_of(job).pictures(states_BNC)
        raws = [painted(job, states_NC) for states_NC in states_BNC]
    for picture, raw_PYX in zip(shown, raws, strict=True):
        # Catches rows for columns, a picture shown in another's place, and bytes of another scale.
        pixels_3YX = raw_PYX if kind == "vqgan" else (raw_PYX[:3].sigmoid() - 0.1) / 0.8 * 2 - 1
        bytes_YX3 = ((pixels_3YX.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255)
        assert np.abs(to_array(picture) - bytes_YX3.numpy()).max() < 0.51  # rounded


def test_a_loss_that_is_not_the_tokenizer_s_is_refused() -> None:
    pictures = np.zeros((7, 6, 6, 3), dtype=np.uint8)
    for kind, other in (("vqgan", "dvae"), ("dvae", "vqgan")):
        settings, tokenizer = EndToEndConfig(loss=KINDS[other][1]), ImageTokenizer(KINDS[kind][0])
        with pytest.raises(SettingError, match="logit_laplace"):
            EndToEnd(settings, SMALL_GENERATOR, tokenizer, pictures, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"disturbed": 0.5}, "disturbed=0"),
        ({"text_to_image_share": 0.0}, "text_to_image_share=1"),
        ({"tokens_summed": True}, "tokens_summed=false"),
    ],
)
def test_what_a_reconstructor_cannot_learn_from_is_refused(
    settings: dict[str, float], message: str
) -> None:
    config: TokenizerConfig = KINDS["vqgan"][0]
    pictures = np.zeros((7, 6, 6, 3), dtype=np.uint8)
    e2e = EndToEnd(EndToEndConfig(), SMALL_GENERATOR, ImageTokenizer(config), pictures, 0)
    loss = replace(PLAIN, **settings)
    with pytest.raises(SettingError, match=message):
        generator_job(SMALL_GENERATOR, loss, LOOP, toy_pairs(7), VOCABULARY, draw_tokens, e2e)


def test_a_dvae_has_no_discriminator() -> None:
    config, loss = KINDS["dvae"]
    adversarial = replace(loss, adversarial=0.8, discriminator=SMALL_DISCRIMINATOR)
    pictures = np.zeros((7, 6, 6, 3), dtype=np.uint8)
    with pytest.raises(SettingError, match="no adversarial term"):
        EndToEnd(
            EndToEndConfig(loss=adversarial), SMALL_GENERATOR, ImageTokenizer(config), pictures, 0
        )


def test_a_discriminator_that_wins_raises_the_alarm() -> None:
    job = make("adversarial")
    scores = {"discriminator_scores_real": 3.0, "discriminator_scores_made": -3.0}
    found = job.alarm(scores)
    assert found is not None and "score 6.0 apart; raise loss.r1_penalty" in found
    assert job.alarm(scores | {"discriminator_scores_made": -0.9}) is None
    assert job.alarm({"loss": 1.0}) is None

"""The public face on a model of random weights: decoders, candidates, edits, captions, words."""

import copy
import math
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.precisions import parameters
from tests.training.conftest import SMALL_GENERATOR, SMALL_VQGAN, VOCABULARY
from vilg.api import SettingError, Vilg
from vilg.device import DeviceError
from vilg.errors import VilgWarning
from vilg.images import ImageError, to_array, to_pictures
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.folder import Model, ModelError
from vilg.model.generator import (
    Generator,
    image_to_text_log_probs,
    image_token_log_probs,
    pad_texts,
    text_to_image_layout,
    text_to_image_log_probs,
    text_to_image_states,
)
from vilg.model.reconstructor import Reconstructor
from vilg.model.segments import Grid
from vilg.sampling.batches import LARGEST_BATCH
from vilg.sampling.candidates import candidate_seeds
from vilg.sampling.edit import share_of_cells
from vilg.sampling.images import Kept
from vilg.sampling.precision import Precision
from vilg.sampling.rank import caption_scores
from vilg.sampling.texts import generate_texts
from vilg.text import TextError, TextTokenizer
from vilg.tokenizer.image_tokenizer import ImageTokenizer

PROMPT = "红苹果"


@pytest.fixture(scope="module")
def model() -> Model:
    """A model of random weights over 3x3 tokens, with a reconstructor that paints in earnest."""
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(replace(SMALL_VQGAN, image_size=6, num_codes=12)).requires_grad_(
        False
    )
    generator = Generator(SMALL_GENERATOR).requires_grad_(False)
    for weight in generator.parameters():
        weight.normal_(std=0.5)
    reconstructor = Reconstructor(SMALL_GENERATOR.width, tokenizer).requires_grad_(False)
    return Model(
        tokenizer.eval(), generator.eval(), VOCABULARY, SamplingConfig(), reconstructor.eval()
    )


def arrays(pictures: list) -> np.ndarray:
    return np.stack([to_array(picture) for picture in pictures])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_end_to_end_decoder_reads_the_states_of_the_prompt(
    model: Model, guidance: float
) -> None:
    vilg = Vilg(model)
    found = vilg.generate(PROMPT, 3, seed=5, guidance=guidance, decoder="end-to-end")
    ids = vilg.draw([PROMPT] * 3, range(5, 8), guidance=guidance).image_ids_BN
    assert model.generator is not None and model.reconstructor is not None
    states = text_to_image_states(model.generator, *pad_texts([vilg.encode_text(PROMPT)] * 3), ids)[
        :, 1:
    ]
    raw = model.reconstructor(states, model.generator.config.grid)
    expected = arrays(to_pictures(raw.clamp(-1, 1))).astype(int)
    assert np.abs(arrays(found).astype(int) - expected).max() <= 1  # a byte may round either way
    two_stage = arrays(vilg.generate(PROMPT, 3, seed=5, guidance=guidance))
    assert not np.array_equal(two_stage, arrays(found))
    assert np.array_equal(two_stage, arrays(vilg.decode(ids)))


def test_a_model_has_a_decoder_of_its_own_choice(model: Model, tmp_path: Path) -> None:
    own = replace(model, sampling=SamplingConfig(decoder=Decoder.END_TO_END))
    Vilg(own).save_pretrained(tmp_path)
    loaded = Vilg.from_pretrained(tmp_path)
    assert loaded.model.sampling.decoder is Decoder.END_TO_END
    by_default = arrays(loaded.generate(PROMPT, 2))
    assert np.array_equal(by_default, arrays(loaded.generate(PROMPT, 2, decoder="end-to-end")))
    assert not np.array_equal(by_default, arrays(loaded.generate(PROMPT, 2, decoder="two-stage")))


def test_a_decoder_that_is_not_there_is_said(model: Model) -> None:
    plain = Vilg(replace(model, reconstructor=None))
    with pytest.raises(SettingError, match="no end-to-end decoder"):
        plain.generate(PROMPT, decoder="end-to-end")
    with pytest.raises(SettingError, match="must be two-stage or end-to-end, not one-stage"):
        plain.generate(PROMPT, decoder="one-stage")


# --- Candidates -------------------------------------------------------------------------------


def test_best_of_keeps_the_candidate_whose_caption_is_likeliest(model: Model) -> None:
    vilg = Vilg(model)
    kept = vilg.draw([PROMPT] * 3, [4, 5, 6], best_of=5).image_ids_BN
    for row, seed in zip(kept, (4, 5, 6), strict=True):
        seeds = candidate_seeds(seed, 5)
        ids = vilg.draw([PROMPT] * 5, seeds).image_ids_BN
        language = model.text_tokenizer.language_id("zh")  # type: ignore[union-attr]
        log_probs, _ = image_to_text_log_probs(
            vilg.generator, ids, [language] * 5, [vilg.encode_text(PROMPT)] * 5
        )
        assert torch.equal(row, ids[log_probs.sum(dim=1).argmax()])
    assert torch.equal(vilg.draw([PROMPT], [5], best_of=5).image_ids_BN[0], kept[1])
    plain = vilg.draw([PROMPT] * 3, [4, 5, 6]).image_ids_BN
    assert torch.equal(vilg.draw([PROMPT] * 3, [4, 5, 6], best_of=1).image_ids_BN, plain)


def test_candidates_are_ranked_by_their_own_prompt_in_its_language(model: Model) -> None:
    vilg, prompts = Vilg(model), {PROMPT: "zh", "a": "en", "青梨": "zh"}
    found = vilg.draw([*prompts], [4, 1, 6], best_of=8).image_ids_BN
    for row, seed, (prompt, lang) in zip(found, (4, 1, 6), prompts.items(), strict=True):
        ids = vilg.draw([prompt] * 8, candidate_seeds(seed, 8)).image_ids_BN
        text, language = vilg.encode_text(prompt), vilg.text_tokenizer.language_id(lang)
        scores = caption_scores(vilg.generator, ids, [language] * 8, [text] * 8)
        assert torch.equal(row, ids[scores.argmax()])


def test_a_ranker_sees_each_prompt_with_its_own_candidates(model: Model) -> None:
    seen: list[tuple[str, np.ndarray]] = []

    def note(prompt: str, pictures: list) -> list[float]:
        seen.append((prompt, arrays(pictures)))
        return [0.0] * len(pictures)

    vilg = Vilg(model)
    vilg.draw([PROMPT, "青梨"], [4, 5], best_of=3, rank=note)
    assert [prompt for prompt, _ in seen] == [PROMPT, "青梨"]
    for (prompt, shown), seed in zip(seen, (4, 5), strict=True):
        ids = vilg.draw([prompt] * 3, candidate_seeds(seed, 3)).image_ids_BN
        assert np.array_equal(shown, arrays(vilg.decode(ids)))


def test_another_ranker_sees_the_pictures_and_decides(model: Model) -> None:
    seen: list[tuple[str, int]] = []

    def darkest(prompt: str, pictures: list) -> list[float]:
        seen.append((prompt, len(pictures)))
        return [-float(to_array(picture).mean()) for picture in pictures]

    vilg = Vilg(model)
    (found,) = vilg.generate(PROMPT, seed=4, best_of=5, rank=darkest)
    candidates = arrays(vilg.decode(vilg.draw([PROMPT] * 5, candidate_seeds(4, 5)).image_ids_BN))
    darkness = candidates.reshape(5, -1).mean(axis=1)
    assert np.array_equal(to_array(found), candidates[darkness.argmin()])
    assert seen == [(PROMPT, 5)]


def test_progress_counts_candidates_and_previews_grow(model: Model) -> None:
    calls: list[tuple[int, int]] = []
    shown: list[np.ndarray] = []
    vilg = Vilg(model)
    vilg.generate(
        PROMPT,
        2,
        best_of=3,
        progress=lambda done, total: calls.append((done, total)),
        preview=lambda pictures: shown.append(arrays(pictures)),
    )
    assert calls == [(6 * k, 54) for k in range(1, 10)]
    assert len(shown) == 3 and shown[0].shape[0] == 6
    assert (shown[0][:, 2:] == 255).all() and (shown[1][:, 4:] == 255).all()
    whole = arrays(vilg.decode(vilg.draw([PROMPT] * 3, candidate_seeds(0, 3)).image_ids_BN))
    assert np.array_equal(shown[2][:3], whole)


def test_a_callback_that_raises_ends_the_drawing_and_harms_nothing(model: Model) -> None:
    vilg = Vilg(model)
    before = arrays(vilg.generate(PROMPT, 2))

    def stop(done: int, total: int) -> None:
        if done > 6:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        vilg.generate(PROMPT, 2, progress=stop)
    assert np.array_equal(arrays(vilg.generate(PROMPT, 2)), before)


# --- Edits ------------------------------------------------------------------------------------


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize(
    "part", [{"first_row": 1}, {"share": 0.5}, {"mask": "a mask"}], ids=lambda part: str(part)
)
def test_an_edit_keeps_tokens_and_pixels(model: Model, picture: Image.Image, part: dict) -> None:
    vilg = Vilg(model)
    if "mask" in part:
        mask = Image.new("L", (6, 6))
        mask.paste(255, (3, 2, 6, 3))  # half a cell, and a cell
        part = {"mask": mask}
    edited = vilg.edit(picture, PROMPT, 4, seed=3, **part)
    raw = vilg.edit(picture, PROMPT, 4, seed=3, raw=True, **part)
    before = vilg.encode([picture])[0]
    assert len(edited) == 4
    for i, (image, decoded) in enumerate(zip(edited, raw, strict=True)):
        redrawn = {
            "first_row": torch.arange(9) >= 3,
            "share": share_of_cells(0.5, [3 + i], Grid(3, 3))[0],
            "mask": torch.isin(torch.arange(9), torch.tensor([4, 5])),
        }[next(iter(part))]
        pixels = np.array(part["mask"]) > 0 if "mask" in part else redrawn.view(3, 3).numpy()
        if "mask" not in part:
            pixels = pixels.repeat(2, axis=0).repeat(2, axis=1)
        assert np.array_equal(to_array(image)[~pixels], to_array(picture)[~pixels])
        assert np.array_equal(to_array(image)[pixels], to_array(decoded)[pixels])
        ids = vilg.draw([PROMPT], [3 + i], kept=Kept(before[None], ~redrawn[None])).image_ids_BN
        assert torch.equal(ids[0][~redrawn], before[~redrawn])
        assert np.array_equal(to_array(decoded), arrays(vilg.decode(ids))[0])
    assert len({image.tobytes() for image in edited}) > 1


def test_candidates_of_an_edit_are_ranked_by_what_was_kept(
    model: Model, picture: Image.Image
) -> None:
    vilg = Vilg(model)
    redrawn = torch.isin(torch.arange(9), torch.tensor([1, 2]))
    kept = Kept(vilg.encode([picture]), ~redrawn[None])
    found = vilg.draw([PROMPT], [7], kept=kept, best_of=6).image_ids_BN[0]
    six = Kept(kept.image_ids_GN.expand(6, -1), kept.keep_GN.expand(6, -1))
    ids = vilg.draw([PROMPT] * 6, candidate_seeds(7, 6), kept=six).image_ids_BN
    log_probs = text_to_image_log_probs(vilg.generator, [vilg.encode_text(PROMPT)] * 6, ids)
    assert torch.equal(found, ids[(log_probs * ~redrawn).sum(dim=1).argmax()])


def test_where_nothing_is_kept_behind_an_edit_captions_decide(
    model: Model, picture: Image.Image
) -> None:
    vilg = Vilg(model)
    redrawn = torch.arange(9) >= 3
    kept = Kept(vilg.encode([picture]), ~redrawn[None])
    found = vilg.draw([PROMPT], [7], kept=kept, best_of=12).image_ids_BN[0]
    many = Kept(kept.image_ids_GN.expand(12, -1), kept.keep_GN.expand(12, -1))
    ids = vilg.draw([PROMPT] * 12, candidate_seeds(7, 12), kept=many).image_ids_BN
    text, language = vilg.encode_text(PROMPT), vilg.text_tokenizer.language_id("zh")
    log_probs, _ = image_to_text_log_probs(vilg.generator, ids, [language] * 12, [text] * 12)
    best = int(log_probs.sum(dim=1).argmax())
    assert best > 0 and torch.equal(found, ids[best])


def test_each_picture_is_ranked_by_what_it_keeps_itself(model: Model, picture: Image.Image) -> None:
    """A neighbour without kept tokens behind it, ranked by captions, changes nothing."""
    vilg = Vilg(model)
    redrawn_GN = torch.stack(
        [torch.isin(torch.arange(9), torch.tensor([1, 2])), torch.arange(9) >= 3]
    )
    kept = Kept(vilg.encode([picture]).expand(2, -1), ~redrawn_GN)
    together = vilg.draw([PROMPT] * 2, [7, 7], kept=kept, best_of=6).image_ids_BN
    for i in range(2):
        one = Kept(kept.image_ids_GN[i : i + 1], kept.keep_GN[i : i + 1])
        alone = vilg.draw([PROMPT], [7], kept=one, best_of=6).image_ids_BN
        assert torch.equal(together[i], alone[0])


def test_pictures_in_several_chunks_are_those_drawn_alone(
    model: Model, picture: Image.Image
) -> None:
    """Twelve candidates of three pictures are drawn in two parts."""
    vilg, calls = Vilg(model), []
    assert 2 * 12 <= LARGEST_BATCH < 3 * 12
    redrawn_GN = share_of_cells(0.5, range(3), Grid(3, 3))
    kept = Kept(vilg.encode([picture]).expand(3, -1), ~redrawn_GN)
    for parts in (
        [None] * 3,
        [Kept(kept.image_ids_GN[i : i + 1], kept.keep_GN[i : i + 1]) for i in range(3)],
    ):
        together = vilg.draw(
            [PROMPT] * 3,
            range(3),
            kept=kept if parts[0] else None,
            best_of=12,
            progress=lambda done, total: calls.append((done, total)),
        ).image_ids_BN
        alone = [
            vilg.draw([PROMPT], [i], kept=part, best_of=12).image_ids_BN
            for i, part in enumerate(parts)
        ]
        assert torch.equal(together, torch.cat(alone))
        assert calls == sorted(calls) and calls[-1] == (3 * 12 * 9, 3 * 12 * 9)
        calls.clear()


def test_an_edit_says_one_thing(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    for part in ({}, {"first_row": 1, "share": 0.5}):
        with pytest.raises(SettingError, match="by one of a mask, a first row and a share"):
            vilg.edit(picture, PROMPT, **part)
    with pytest.raises(SettingError, match="above 0, at most 1, not 0"):
        vilg.edit(picture, PROMPT, share=0)


# --- Captions and words -----------------------------------------------------------------------


def test_the_best_captions_make_the_picture_likeliest(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    drawn = vilg.caption(picture, "en", 6, seed=2, temperature=1)
    found = vilg.caption(picture, "en", 2, seed=2, best_of=6)
    ids = vilg.encode([picture]).expand(6, -1)
    texts = generate_texts(
        vilg.generator,
        ids[:1],
        [vilg.text_tokenizer.language_id("en")],
        range(2, 8),
        words=SamplingConfig(temperature=1),
        foreign_V=vilg.foreign_tokens["en"],
    )
    log_probs_BN = text_to_image_log_probs(vilg.generator, texts, ids)
    order = log_probs_BN.sum(dim=1).argsort(descending=True)
    assert found == [drawn[i] for i in order[:2]]
    assert vilg.caption(picture, "en", 6, seed=2, best_of=6) == [drawn[i] for i in order]


def test_a_caption_carries_the_mean_of_its_log_probabilities(
    model: Model, picture: Image.Image
) -> None:
    vilg = Vilg(model)
    caption = vilg.caption(picture, "en")[0]
    language = vilg.text_tokenizer.language_id("en")
    (found,) = generate_texts(
        vilg.generator, vilg.encode([picture]), [language], [0], foreign_V=vilg.foreign_tokens["en"]
    )
    log_probs, _ = image_to_text_log_probs(
        vilg.generator, vilg.encode([picture]), [language], [found]
    )
    assert caption.log_prob == pytest.approx(float(log_probs.mean()), rel=1e-4)


def test_drawn_captions_are_the_same_in_several_batches(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    many = vilg.caption(picture, n=LARGEST_BATCH + 2, seed=3, temperature=1)
    last = vilg.caption(picture, n=2, seed=3 + LARGEST_BATCH, temperature=1)
    assert len(many) == LARGEST_BATCH + 2 and many[-2:] == last
    assert many[0] != last[0]


def test_how_many_captions_a_beam_has(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    assert vilg.caption(picture, beam=1) == vilg.caption(picture)
    assert len(set(vilg.caption(picture, n=3, beam=4))) == 3
    assert vilg.caption(picture, n=3) == vilg.caption(picture, n=3, beam=4)
    assert vilg.caption(picture, n=5) == vilg.caption(picture, n=5, beam=5)
    with pytest.raises(SettingError, match="the beam must be at least 3"):
        vilg.caption(picture, n=3, beam=2)
    with pytest.raises(SettingError, match="leave temperature, top-k and top-p out"):
        vilg.caption(picture, beam=2, temperature=0.5)
    with pytest.raises(SettingError, match="leave the beam out"):
        vilg.caption(picture, n=1, beam=2, best_of=2)


def test_settings_of_pictures_are_not_those_of_captions(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    narrow = Vilg(replace(model, sampling=SamplingConfig(top_k=1, temperature=0.1)))
    drawn = vilg.caption(picture, n=4, temperature=1.0, seed=3)
    assert narrow.caption(picture, n=4, temperature=1.0, seed=3) == drawn
    for least in ({"top_k": 1}, {"top_p": 1e-6}):
        assert vilg.caption(picture, temperature=1.0, seed=3, **least) == vilg.caption(picture)
    assert vilg.caption(picture, temperature=1.0, seed=3) != vilg.caption(picture)
    for settings in ({"top_k": 5}, {"top_p": 0.5}):
        with pytest.raises(SettingError, match="set a temperature"):
            vilg.caption(picture, **settings)
    with pytest.raises(SettingError, match="temperature 0 has one caption"):
        vilg.caption(picture, n=2, temperature=0)


def test_mistakes_are_said_in_a_sentence(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    for call, error, said in (
        (lambda: vilg.generate(["a", "b"]), TextError, "a list is no text"),
        (lambda: vilg.score(picture, None), TextError, "a NoneType is no text"),
        (lambda: vilg.caption(np.zeros((4, 4, 3))), ImageError, "fromarray"),
        (lambda: vilg.draw(["a", "b"], [1]), SettingError, "a seed for every picture"),
        (lambda: vilg.generate("red", n="4"), SettingError, "whole number, not '4'"),
        (lambda: vilg.generate("red", n=0), SettingError, "at least 1, not 0"),
        (lambda: vilg.generate("red", seed=1.5), SettingError, "seed must be a whole number"),
        (lambda: vilg.generate("red", temperature="1"), SettingError, "a number, not '1'"),
        (lambda: vilg.generate("red", best_of=2.5), SettingError, "whole number, not 2.5"),
        (lambda: vilg.generate("red", top_k=2.5), SettingError, "whole number, not 2.5"),
        (lambda: vilg.edit(picture, "red", 0, share=0.5), SettingError, "at least 1, not 0"),
        (lambda: vilg.caption(picture, n=0, best_of=2), SettingError, "at least 1, not 0"),
        (lambda: vilg.caption(picture, seed=7), SettingError, "a seed is for drawn captions"),
        (lambda: vilg.caption(picture, beam=2.5), SettingError, "whole number, not 2.5"),
        (lambda: vilg.caption(picture, beam="3"), SettingError, "whole number, not '3'"),
        (lambda: vilg.caption(picture, beam=10**9), SettingError, "at most 256 captions"),
        (lambda: vilg.caption(picture, n=257), SettingError, "at most 256 captions"),
        (lambda: vilg.caption(picture, n=3, top_k=5), SettingError, "set a temperature"),
        (lambda: vilg.generate("red", guidance=1e38), SettingError, "guidance must be 0 to 100"),
        (
            lambda: vilg.generate("red", guidance_scale=3),
            SettingError,
            "rank, progress and preview",
        ),
        (lambda: vilg.generate("red", rank=lambda p, x: [1.0]), SettingError, "set best_of"),
        (
            lambda: vilg.generate("red", best_of=2, rank=lambda p, x: [1.0, math.nan]),
            SettingError,
            "every one of 2 pictures a finite score",
        ),
    ):
        with pytest.raises(error, match=said):
            call()


def test_a_preview_of_an_edit_keeps_what_is_below(model: Model, picture: Image.Image) -> None:
    vilg, seen = Vilg(model), []
    grid = vilg.generator.config.grid
    drawn = vilg.edit(picture, PROMPT, 2, first_row=1, raw=True, best_of=2, preview=seen.append)
    original = to_array(vilg.decode(vilg.encode([picture]))[0])
    side = vilg.image_size // grid.height
    first = [to_array(shown) for shown in seen[0]]
    assert len(first) == 4  # two candidates of each
    last = {to_array(shown).tobytes() for shown in seen[-1]}
    assert {to_array(result).tobytes() for result in drawn} <= last
    # The end of the picture is its own until it is drawn; a cell's pixels depend on all tokens a little.
    near = np.abs(first[0][-side:].astype(int) - original[-side:]).mean()
    assert near < np.abs(255 - original[-side:].astype(int)).mean() / 4


def test_a_preview_is_over_the_picture_that_is_edited(
    model: Model, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where several are edited, in several batches."""
    monkeypatch.setattr("vilg.sampling.batches.LARGEST_BATCH", 1)
    vilg, seen = Vilg(model), []
    ids = vilg.encode([picture, picture.rotate(180)])
    kept = Kept(ids, (torch.arange(9) < 3).expand(2, -1))
    drawn = vilg.draw([PROMPT] * 2, [1, 2], kept=kept, preview=seen.append).image_ids_BN
    expected = torch.cat([drawn[:, :6], ids[:, 6:]], dim=1)
    assert np.array_equal(arrays(seen[0] + seen[2]), arrays(vilg.decode(expected)))


def test_a_score_is_that_of_the_text_and_that_of_none(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    score, image = vilg.score(picture, PROMPT), vilg.encode([picture])
    ids, language = vilg.encode_text(PROMPT), vilg.text_tokenizer.language_id("zh")
    for values, expected in (
        (score.image_log_probs, text_to_image_log_probs(vilg.generator, [ids], image)),
        (score.unconditional_image_log_probs, text_to_image_log_probs(vilg.generator, [[]], image)),
        (
            score.text_log_probs,
            image_to_text_log_probs(vilg.generator, image, [language], [ids])[0],
        ),
    ):
        torch.testing.assert_close(torch.tensor(values), expected[0], rtol=0, atol=1e-5)


def test_a_word_speaks_for_what_it_makes_likelier(model: Model, picture: Image.Image) -> None:
    """Against the plain model, with the word's place left empty."""
    vilg = Vilg(model)
    ids, image = vilg.encode_text(PROMPT), vilg.encode([picture])[0]
    words = vilg.word_map(picture, PROMPT)
    assert "".join(word for word, _ in words) == PROMPT
    whole = text_to_image_log_probs(vilg.generator, [ids], image[None])[0]
    layout = text_to_image_layout(len(ids), Grid(3, 3))
    for hidden, (_, gains) in enumerate(words):
        valid = torch.ones(1, layout.length, dtype=torch.bool)
        valid[0, hidden] = False
        sequence = torch.tensor([[*ids, TextTokenizer.boi_id, *image.tolist()]])
        states = vilg.generator(layout, sequence, vilg.generator.layer_reads(layout, valid))
        without = image_token_log_probs(vilg.generator, states[:, len(ids) :], image[None])[0]
        torch.testing.assert_close(torch.tensor(gains), whole - without, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_p": 0}, "top-p must be above 0, at most 1, not 0"),
        ({"best_of": 0}, "best-of must be at least 1, not 0"),
        ({"guidance_schedule": "odd"}, "constant or rising or falling, not odd"),
        ({"colour": 3}, "no setting is called colour; there are temperature"),
    ],
)
def test_a_setting_outside_its_range_is_said(model: Model, change: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Vilg(model).generate(PROMPT, **change)


def test_a_device_and_a_precision_are_chosen_when_a_model_is_loaded(toy_folder: Path) -> None:
    vilg = Vilg.from_pretrained(toy_folder, device="cpu", dtype=torch.float32)
    assert (vilg.device, vilg.precision) == (torch.device("cpu"), "fp32")
    with pytest.raises(DeviceError, match="no device is called gpu"):
        Vilg.from_pretrained(toy_folder, device="gpu")


def test_an_unknown_precision_is_said(model: Model) -> None:
    with pytest.raises(SettingError, match="fp32 or bf16 or int8, not fp8"):
        Vilg(model, precision="fp8")


@pytest.mark.parametrize("precision", parameters(*Precision))
def test_a_precision_is_named_by_its_word(model: Model, precision: Precision) -> None:
    assert len(Vilg(model, precision=precision.value).generate(PROMPT)) == 1


@pytest.mark.parametrize("precision", parameters(*Precision))
def test_a_copy_and_a_pickle_draw_and_say_the_same(
    model: Model, picture: Image.Image, precision: Precision
) -> None:
    vilg = Vilg(model, "a hash", precision)
    drawn, said = vilg.generate(PROMPT), vilg.caption(picture)
    for twin in (copy.copy(vilg), copy.deepcopy(vilg), pickle.loads(pickle.dumps(vilg))):
        assert (twin.precision, twin.weights_hash) == (precision, "a hash")
        assert np.array_equal(arrays(twin.generate(PROMPT)), arrays(drawn))
        assert twin.caption(picture) == said


def test_a_spawned_pool_draws_the_same(model: Model) -> None:
    vilg = Vilg(model)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(vilg.draw, [PROMPT], [3]).result()
    assert torch.equal(found.image_ids_BN, vilg.draw([PROMPT], [3]).image_ids_BN)


def test_pictures_come_as_soon_as_they_are_drawn(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vilg.sampling.batches.LARGEST_BATCH", 4)
    calls: list[int] = []
    vilg = Vilg(model)
    each = vilg.draw_each(
        [PROMPT] * 5, range(5), best_of=2, progress=lambda done, total: calls.append(done)
    )
    assert not calls
    parts = [(len(drawn.image_ids_BN), calls[-1]) for drawn in each]
    assert parts == [(2, 2 * 18), (2, 4 * 18), (1, 5 * 18)]


# --- Arguments --------------------------------------------------------------------------------


def test_numpy_integers_are_integers(model: Model, picture: Image.Image) -> None:
    """A uint8 of 255 and one more is 256 and not 0."""
    vilg = Vilg(model)
    found = vilg.generate(PROMPT, np.int64(2), seed=np.uint8(255), top_k=np.int32(3))
    assert np.array_equal(arrays(found), arrays(vilg.generate(PROMPT, 2, seed=255, top_k=3)))
    kept = vilg.draw([PROMPT] * 2, np.array([255, 0], dtype=np.uint8), best_of=np.uint8(2))
    assert torch.equal(kept.image_ids_BN, vilg.draw([PROMPT] * 2, [255, 0], best_of=2).image_ids_BN)
    drawn = vilg.caption(picture, "zh", np.uint8(2), seed=np.uint8(255), temperature=1)
    assert drawn == vilg.caption(picture, "zh", 2, seed=255, temperature=1)


@pytest.mark.parametrize(
    "options",
    [
        {"n": True},
        {"seed": True},
        {"temperature": True},
        {"top_k": True},
        {"guidance": math.nan},
        {"temperature": math.inf},
        {"n": 10**12},
        {"best_of": 10**12},
        {"preview": "a file", "best_of": 2},
        {"rank": 3, "best_of": 2},
    ],
    ids=str,
)
def test_every_argument_of_a_drawing_is_checked(model: Model, options: dict) -> None:
    with pytest.raises(SettingError, match=r"must be (a |at most|at least|0 to 100)"):
        Vilg(model).generate(PROMPT, **options)


def test_arguments_of_other_kinds_are_said(model: Model, picture: Image.Image) -> None:
    vilg = Vilg(model)
    for call, error, said in (
        (lambda: vilg.draw("ab", [1, 2]), SettingError, "a list of them"),
        (lambda: vilg.draw(["a"], [True]), SettingError, "seed must be a whole number"),
        (lambda: vilg.edit(picture, "a", first_row=True), SettingError, "row .* whole number"),
        (lambda: vilg.edit(picture, "a", share="half"), SettingError, "share .* number"),
        (lambda: vilg.caption(picture, lang="fr"), TextError, "language .fr. is unknown"),
        (lambda: vilg.score(picture, "a", lang=""), TextError, "language '' is unknown"),
        (lambda: vilg.caption(picture, temperature="1"), SettingError, "must be a number"),
        (lambda: vilg.caption(picture, beam=True), SettingError, "must be a whole number"),
        (lambda: vilg.draw((x for x in "ab"), [1, 2]), SettingError, "a list of them"),
        (lambda: vilg.draw(["a"], 3), SettingError, "a seed for every picture: give a list, not 3"),
        (lambda: vilg.encode(picture), SettingError, "from a list of them"),
        (lambda: vilg.encode(3), SettingError, "from a list of them"),
        (lambda: Vilg.from_pretrained(3), ModelError, "3 names no model"),
    ):
        with pytest.raises(error, match=said):
            call()


@pytest.mark.parametrize("said", [None, "ab", ["1", "2"], [None, 1], [[1], [2]], [1, math.inf]])
def test_a_ranker_that_gives_no_scores_is_said(model: Model, said: object) -> None:
    with pytest.raises(SettingError, match="every one of 2 pictures a finite score"):
        Vilg(model).generate(PROMPT, best_of=2, rank=lambda prompt, pictures: said)


def test_scores_of_a_ranker_may_be_an_array(model: Model) -> None:
    for kind in (list, np.array, torch.tensor, lambda row: np.array(row, dtype=np.float16)):
        found = Vilg(model).generate(PROMPT, best_of=2, rank=lambda prompt, x: kind([0.0, 1.0]))  # noqa: B023
        expected = Vilg(model).generate(PROMPT, seed=candidate_seeds(0, 2)[1])
        assert np.array_equal(arrays(found), arrays(expected))


@pytest.mark.parametrize(
    "ids",
    [
        [[0] * 9],
        torch.zeros(9, dtype=torch.int64),
        torch.zeros(1, 8, dtype=torch.int64),
        torch.zeros(1, 9),
        torch.zeros(1, 9, dtype=torch.bool),
        torch.full((1, 9), 12),
        torch.full((1, 9), -1),
    ],
)
def test_tokens_that_no_picture_has_are_said(model: Model, ids: Any) -> None:
    with pytest.raises(SettingError, match="whole numbers below 12, 9 in a row of a tensor"):
        Vilg(model).decode(ids)


def test_tokens_of_any_integers_are_decoded_and_of_no_pictures_none(model: Model) -> None:
    vilg, ids = Vilg(model), torch.arange(9)[None]
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert np.array_equal(arrays(vilg.decode(ids.to(dtype))), arrays(vilg.decode(ids)))
    none = vilg.encode([])
    assert none.shape == (0, 9) and vilg.decode(none) == []


def test_numpy_floats_are_floats(model: Model, picture: Image.Image) -> None:
    for kind in (np.float16, np.float32, np.float64):
        found = Vilg(model).edit(picture, PROMPT, share=kind(0.5), temperature=kind(1))
        expected = Vilg(model).edit(picture, PROMPT, share=0.5, temperature=1)
        assert np.array_equal(arrays(found), arrays(expected))


def test_another_default_of_torch_changes_nothing(model: Model, picture: Image.Image) -> None:
    def results() -> list:
        vilg = Vilg(model)
        return [
            vilg.score(picture, PROMPT),
            vilg.word_map(picture, PROMPT),
            vilg.caption(picture, n=2, best_of=3),
            vilg.caption(picture, n=2),
            vilg.generate(PROMPT, best_of=2, guidance=2)[0].tobytes(),
            vilg.edit(picture, PROMPT, share=0.5, best_of=2)[0].tobytes(),
        ]

    expected = results()
    torch.set_default_dtype(torch.float64)
    try:
        assert results() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_unknown_characters_are_warned_of_once(model: Model) -> None:
    vilg = Vilg(model)
    with pytest.warns(VilgWarning, match="vocabulary: 🍎い$") as warned:
        vilg.generate("a🍎い", n=2, best_of=2)
    assert len(warned) == 1 and warned[0].filename == __file__
    with pytest.warns(VilgWarning, match="vocabulary: 🍎"):
        vilg.score(Image.new("RGB", (6, 6)), "a🍎")

"""Every way of sampling and measuring on a device that is not the CPU gives what it gives on the CPU.

On `elsewhere`, which has real numbers: a tensor that is made in the wrong place, and a number that Python
looks at inside a step, are errors; what comes back by `.cpu()` is counted.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.elsewhere import ELSEWHERE, HostRead, OtherDevice, moved_there, other_device
from tests.sampling.test_decode import PROMPTS, ZH, toy_generator, toy_images
from tests.tokenizer.test_dvae import build as build_dvae
from vilg.api import Vilg
from vilg.data.sources import open_source
from vilg.device import moved
from vilg.images import to_pixels
from vilg.model.defaults import Decoder, SamplingConfig
from vilg.model.folder import Model
from vilg.model.generator import Generator
from vilg.model.patterns import Pattern, paper_patterns
from vilg.model.reconstructor import Reconstructor
from vilg.sampling.candidates import by_model, draw_best
from vilg.sampling.images import Drawn, Kept, draw_images
from vilg.sampling.matching import ModelMatcher, Text
from vilg.sampling.pixels import decode, encode, pictures_of, watching
from vilg.sampling.rank import caption_scores, image_scores
from vilg.sampling.score import score_pair, word_gains
from vilg.sampling.texts import generate_texts, search_text
from vilg.shipped.likelihoods import likelihoods
from vilg.shipped.names import NameScorer
from vilg.tokenizer.into_store import tokenize
from vilg.tokenizer.perceptual import PerceptualLoss
from vilg.tokenizer.refine import refine

PLAIN = SamplingConfig()
FREE = SamplingConfig(guidance=2.0, temperature=0.9, top_k=9, top_p=0.9)
FOREIGN = torch.isin(torch.arange(24), torch.tensor([6, 7]))


def both(function: Callable[[Generator], Any], **changes: Any) -> tuple[Any, Any, OtherDevice]:
    """Return what a function of a generator gives here and elsewhere."""
    here = function(generator := toy_generator(**changes))
    with other_device() as device:
        there = function(moved_there(generator))
        there = there.cpu() if isinstance(there, Tensor) else there
    return here, there, device


# --- The device itself ------------------------------------------------------------------------


def test_the_device_refuses_what_a_gpu_would() -> None:
    with other_device() as device:
        x = torch.ones(2, 3).to(ELSEWHERE)
        assert x.device == ELSEWHERE and torch.equal((x + 1).cpu(), torch.full((2, 3), 2.0))
        assert (device.moves, device.reads) == (1, 1)
        for read in (bool, float, Tensor.nonzero, lambda x: x[x > 0]):
            with pytest.raises(HostRead):
                read(x.sum() if read in (bool, float) else x)
        for stray in (lambda: x + torch.ones(3), lambda: x[[0]], lambda: x @ torch.ones(3, 1)):
            with pytest.raises(AssertionError, match="here and elsewhere"):
                stray()


# --- Pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [PLAIN, FREE, replace(FREE, decoder=Decoder.END_TO_END)])
@pytest.mark.parametrize("patterns", [paper_patterns(4), (Pattern.DENSE,) * 2])
def test_pictures(settings: SamplingConfig, patterns: tuple[Pattern, ...]) -> None:
    def draw(generator: Generator) -> list[Tensor]:
        drawn = draw_images(generator, PROMPTS[:2], range(4), settings)
        return [drawn.image_ids_BN.cpu()] + (
            [drawn.states_BNC.cpu()] if drawn.states_BNC is not None else []
        )

    here, there, device = both(draw, patterns=patterns, height=7, width=3)
    assert torch.equal(here[0], there[0])
    for one, other in zip(here[1:], there[1:], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
    # Whether the logits were sound, and what was asked for: the host waits for no step.
    assert device.reads == 1 + len(there)
    _, _, larger = both(draw, patterns=patterns, height=9, width=3)
    assert (device.moves, device.reads) == (larger.moves, larger.reads)


def test_an_edit_and_its_kept_tokens() -> None:
    keep_GN = torch.isin(torch.arange(12), torch.tensor([0, 1, 2, 3, 5, 9])).expand(2, -1)

    def draw(generator: Generator) -> list[Tensor]:
        kept = Kept(moved(toy_images(generator, 2), generator.device), keep_GN)
        drawn = draw_images(generator, PROMPTS[:2], range(4), FREE, kept=kept)
        assert drawn.kept_log_prob_B is not None
        return [drawn.image_ids_BN.cpu(), drawn.kept_log_prob_B.cpu()]

    here, there, _ = both(draw)
    assert torch.equal(here[0], there[0])
    torch.testing.assert_close(here[1], there[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("is_edit", [False, True])
def test_the_best_of_candidates(is_edit: bool) -> None:
    keep_GN = torch.zeros(2, 12, dtype=torch.bool)
    keep_GN[0, 9] = True  # the other has nothing kept behind: it is chosen by its caption

    def draw(generator: Generator) -> Tensor:
        kept = Kept(moved(toy_images(generator, 2), generator.device), keep_GN) if is_edit else None
        score = by_model(generator, PROMPTS[:2], [ZH, ZH])
        best_of = replace(PLAIN, best_of=3)
        parts = draw_best(generator, PROMPTS[:2], [1, 2], best_of, score, kept=kept)
        return Drawn.joined([*parts]).image_ids_BN

    here, there, _ = both(draw)
    assert torch.equal(here, there)


# --- Captions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [replace(PLAIN, temperature=0.0), FREE])
def test_captions(words: SamplingConfig) -> None:
    def write(generator: Generator) -> list[list[int]]:
        image_ids_GN = moved(toy_images(generator, 2), generator.device)
        return generate_texts(generator, image_ids_GN, [ZH, ZH], range(4), words, foreign_V=FOREIGN)

    here, there, device = both(write)
    assert here == there
    longest = max(map(len, here))
    assert device.reads <= longest + 3  # has every text ended? once a word; then the words


@pytest.mark.parametrize("beam", [1, 3])
def test_a_beam(beam: int) -> None:
    def search(generator: Generator) -> list[list[int]]:
        image_ids_N = moved(toy_images(generator, 1)[0], generator.device)
        return search_text(generator, image_ids_N, ZH, beam, foreign_V=FOREIGN)

    here, there, _ = both(search)
    assert here == there


# --- Scores -------------------------------------------------------------------------------------


def test_scores_of_both_directions() -> None:
    def score(generator: Generator) -> Tensor:
        image_ids_BN = moved(toy_images(generator, len(PROMPTS)), generator.device)
        by_caption = caption_scores(generator, image_ids_BN, [ZH] * len(PROMPTS), PROMPTS)
        return torch.stack([by_caption, image_scores(generator, PROMPTS, image_ids_BN)])

    here, there, device = both(score)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)
    assert device.reads == 1


def test_likelihoods_and_perplexity() -> None:
    def score(generator: Generator) -> Tensor:
        image_ids_SN = moved(toy_images(generator, len(PROMPTS)), generator.device)
        found = likelihoods(generator, image_ids_SN, ZH, PROMPTS, "pairs")
        return torch.cat([found.image_S, found.text_S])

    here, there, _ = both(score)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)


def test_names() -> None:
    def score(generator: Generator) -> Tensor:
        scorer = NameScorer(generator, ZH, [[6, 9], [6, 8, 9], [7, 9]])
        return scorer.log_probs(moved(toy_images(generator, 3), generator.device))

    here, there, _ = both(score)
    torch.testing.assert_close(here, there, rtol=0, atol=1e-4)


# --- With both tokenizers -----------------------------------------------------------------------


def noise(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [
        Image.fromarray(array)
        for array in random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    ]


def there(model: Model) -> Model:
    assert model.generator is not None
    torch.manual_seed(0)
    reconstructor = Reconstructor(model.generator.config.width, model.image_tokenizer)
    return replace(
        model,
        image_tokenizer=moved_there(model.image_tokenizer),
        generator=moved_there(model.generator),
        reconstructor=moved_there(reconstructor),
    )


def test_pictures_to_tokens_and_back(toy_model: Model) -> None:
    ids = encode(toy_model.image_tokenizer, noise(2))
    shown = decode(toy_model.image_tokenizer, ids)
    with other_device():
        model = there(toy_model)
        found = encode(model.image_tokenizer, noise(2))
        assert torch.equal(found.cpu(), ids)
        # Also of tokens that are here.
        for given in (found, ids):
            pictures = decode(model.image_tokenizer, given)
            assert all(np.array_equal(a, b) for a, b in zip(pictures, shown, strict=True))


def test_tokens_of_likeliest_codes() -> None:
    dvae, pixels = build_dvae(), to_pixels(np.stack([np.array(x) for x in noise(2)])[:, :16, :16])
    ids = dvae.encode(pixels)
    with other_device():
        there = moved_there(dvae)
        found = there.encode(pixels.to(ELSEWHERE))
        assert torch.equal(found.cpu(), ids)
        assert torch.equal(there.decode(found).cpu(), dvae.decode(ids))


def test_a_store_of_tokens(tmp_path: Path, toy_model: Model) -> None:
    words = toy_model.text_tokenizer
    assert words is not None
    for name, picture in zip(("red", "green"), noise(2), strict=True):
        picture.save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"{name} apple")
    source = open_source(str(tmp_path))
    assert tokenize(source, tmp_path / "here", toy_model.image_tokenizer, words, max_text=24)
    with other_device() as device:
        there = moved_there(toy_model.image_tokenizer)
        assert tokenize(source, tmp_path / "there", there, words, max_text=24)
        assert device.moves == 1
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_an_end_to_end_picture_and_a_preview(toy_model: Model) -> None:
    with other_device():
        model = there(toy_model)
        assert model.generator is not None
        seen: list[list[Image.Image]] = []
        ids_1N = encode(model.image_tokenizer, noise(1))
        kept = Kept(ids_1N, torch.zeros(1, 16, dtype=torch.bool))
        watch = watching(model.image_tokenizer, 2, kept, None, seen.append)
        settings = replace(PLAIN, decoder=Decoder.END_TO_END)
        drawn = draw_images(
            model.generator, [[9]], [1, 2], settings, kept=kept, watch=lambda ids: watch(0, ids)
        )
        assert [picture.size for picture in pictures_of(model, drawn)] == [(32, 32)] * 2
    assert [len(pictures) for pictures in seen] == [2] * 4


def test_a_pair_its_words_and_its_match(toy_model: Model) -> None:
    words = toy_model.text_tokenizer
    assert words is not None and toy_model.generator is not None
    texts = [Text(0, "en", "green apple"), Text(1, "zh", "青苹果")]

    def score(model: Model) -> list[list[float]]:
        assert model.generator is not None
        ids_1N = encode(model.image_tokenizer, noise(1))
        text = words.encode("green apple")
        pair = score_pair(model.generator, words, ids_1N, text, words.language_id("en"))
        gains = word_gains(model.generator, words, "green apple", ids_1N[0])
        matcher = ModelMatcher("toy", "", model.generator, model.image_tokenizer, words)
        found = matcher(noise(2), texts)
        return [pair.image_log_probs, pair.text_log_probs, *(x for _, x in gains), *found]

    here = score(toy_model)
    with other_device():
        found = score(there(toy_model))
    assert len(here) == len(found) == 6
    for one, other in zip(here, found, strict=True):
        assert other == pytest.approx(one, abs=1e-4)


class Squares(PerceptualLoss):
    """A perceptual loss without a network: the error of pixels once more."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def maps(self, pixels_B3YX: Tensor) -> Any:
        return pixels_B3YX

    def distance(self, made_B3YX: Tensor, real_maps: Any) -> Tensor:
        return (made_B3YX - real_maps).square().mean(dim=(1, 2, 3))


def test_refined_tokens(toy_model: Model) -> None:
    arrays = np.stack([np.array(picture) for picture in noise(2)])
    here = refine(toy_model.image_tokenizer, to_pixels(arrays), Squares(), 3)
    with other_device() as device:
        tokenizer = moved_there(toy_model.image_tokenizer)
        found = refine(tokenizer, to_pixels(arrays, ELSEWHERE), Squares(), 3)
        assert device.reads == 1  # how long the codes are
        assert torch.equal(found.cpu(), here)


def test_the_public_face(toy_model: Model) -> None:
    """All that people call, from end to end; what it draws and says is what it draws and says on the CPU."""

    def use(vilg: Vilg) -> list[Any]:
        apple, other = noise(2)
        drawn = vilg.generate("green apple", 2, seed=3, best_of=2)
        below = vilg.edit(apple, "green apple", 1, first_row=2, best_of=2)
        varied = vilg.edit(apple, "green apple", 2, share=0.3, raw=True)
        said = [
            *vilg.caption(other, "en"),
            *vilg.caption(other, "zh", 2, beam=3),
            *vilg.caption(other, "en", temperature=1, best_of=3),
            *vilg.answer(other, "what is it?"),
            *vilg.answer(other, "什么？", n=2),
            *vilg.answer(other, "what is it?", n=2, choices=["apple", "red car"]),
        ]
        return [np.stack([np.array(picture) for picture in drawn + below + varied]), said]

    here = use(Vilg(toy_model))
    with other_device():
        vilg = Vilg(there(toy_model))
        assert vilg.device == ELSEWHERE and vilg.precision == "fp32"
        found = use(vilg)
    assert np.array_equal(here[0], found[0])
    assert here[1] == found[1]

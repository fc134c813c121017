"""Matching scores: the fit, the model's features against its score of a pair, and a source with wrong captions."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vilg.data.filter import choose, parse_rule, write_columns
from vilg.data.pairs import DataError
from vilg.data.parts import Worker
from vilg.data.sources import Source, open_source
from vilg.model.folder import Model
from vilg.randomness import uniforms
from vilg.sampling.matching import (
    ClipMatcher,
    Features,
    ModelMatcher,
    Text,
    fit_logistic,
    logistic,
    read_calibration,
    write_matching,
)
from vilg.sampling.pixels import encode
from vilg.sampling.score import score_pair

# --- The fit ----------------------------------------------------------------------------------


def test_the_logistic_function() -> None:
    values = logistic(np.array([[0.0, 0.0], [1.0, 1.0], [-800.0, 0.0]]), np.array([1.0, 2.0, 0.5]))
    naive = [1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-3.5)), 0]
    assert values == pytest.approx(naive, abs=1e-12)


def test_the_fit_finds_the_weights_that_made_its_cases() -> None:
    x = 8 * uniforms(0, "x", np.arange(20_000)[:, None], np.arange(2)) - 4 + np.array([3, -100])
    true = np.array([0.8, -0.5, -52.0])
    is_pair = uniforms(0, "y", np.arange(20_000)) < logistic(x, true)
    assert fit_logistic(x, is_pair) == pytest.approx(true, rel=0.1)


def test_the_fit_ends_where_a_feature_tells_all_and_another_nothing() -> None:
    is_pair = np.arange(100) % 2 == 0
    x = np.column_stack([np.where(is_pair, 5.0, 2.0), np.full(100, 7.0)])
    weights = fit_logistic(x, is_pair)
    assert np.isfinite(weights).all() and weights[1] == 0
    assert ((logistic(x, weights) > 0.5) == is_pair).all()
    assert logistic(np.array([[3.5, 7.0]]), weights) == pytest.approx(0.5)


# --- What models say --------------------------------------------------------------------------


def noise(seed: int) -> Image.Image:
    levels = uniforms(seed, "picture", np.arange(32 * 32 * 3)).reshape(32, 32, 3)
    return Image.fromarray((256 * levels).astype(np.uint8))


def model_matcher(model: Model) -> ModelMatcher:
    assert model.generator is not None and model.text_tokenizer is not None
    return ModelMatcher("toy", "0", model.generator, model.image_tokenizer, model.text_tokenizer)


def test_the_models_features_are_those_of_its_score_of_a_pair(toy_model: Model) -> None:
    generator, words = toy_model.generator, toy_model.text_tokenizer
    assert generator is not None and words is not None
    pictures = [noise(1), noise(2)]
    texts = [
        Text(1, "en", "a red apple"),
        Text(0, "zh", "红苹果"),
        Text(0, "en", "apple " * 60),
        Text(1, "zh", "很大的红色的苹果"),
    ]
    found = model_matcher(toy_model)(pictures, texts)
    assert found[2] == "60 tokens, the model reads 1 to 23"
    for text, features in zip(texts, found, strict=True):
        if isinstance(features, str):
            continue
        image_ids_1N = encode(toy_model.image_tokenizer, [pictures[text.picture]])
        language_id, ids = words.language_id(text.lang), words.encode(text.text)
        score = score_pair(generator, words, image_ids_1N, ids, language_id)
        assert features == pytest.approx([score.gain, score.text_given_image], abs=1e-4)


def test_a_clips_feature_is_its_cosine(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.sampling.test_clip import save_clip
    from vilg.sampling.clip import ClipRanker

    save_clip("chinese_clip", tmp_path / "clip", tmp_path)
    ranker = ClipRanker.from_pretrained(tmp_path / "clip")
    matcher = ClipMatcher("clip", ranker)
    assert matcher.fingerprint == ranker.fingerprint
    pictures = [noise(1), noise(2)]
    texts = [Text(1, "zh", "红苹果"), Text(0, "zh", "绿"), Text(0, "zh", "红" * 50)]
    found = matcher(pictures, texts)
    assert found[0] == pytest.approx(ranker("红苹果", [pictures[1]]))
    assert found[1] == pytest.approx(ranker("绿", [pictures[0]]))
    assert "52 tokens" in found[2]


# --- A source ---------------------------------------------------------------------------------


class Brightness:
    """A matcher that knows two words: how light a picture is, if "light" is said, else how dark."""

    name, fingerprint, num_at_once = "brightness", "1", 7
    features: tuple[str, ...] = ("fit",)

    def __call__(
        self, pictures: Sequence[Image.Image], texts: Sequence[Text]
    ) -> list[Features | str]:
        assert len(pictures) <= self.num_at_once
        found: list[Features | str] = []
        for text in texts:
            level = np.asarray(pictures[text.picture]).mean() / 255
            words = {"light": level, "dark": 1 - level}
            found.append([words[text.text]] if text.text in words else "an unknown word")
        return found


@pytest.fixture
def lights(tmp_path: Path) -> Source:
    """60 pairs: half light, half dark; of those every tenth has the other word."""
    folder = tmp_path / "lights"
    folder.mkdir()
    lines = []
    for i in range(60):
        level, word = (220, "light") if i % 2 else (30, "dark")
        if i % 10 == 0:
            word = "light"
        Image.new("L", (4, 4), level + i % 7).save(folder / f"{i}.png")
        lines.append({"id": f"{i}", "image": f"{i}.png", "caption": [word]})
    lines[1]["caption"] = ["light", "dark"]
    lines[2]["caption"] = ["dark", "grey"]
    lines[3]["caption"] = ["grey"]
    (folder / "4.png").write_bytes(b"no picture")
    lines[5] = {"id": "5"}
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "pairs.jsonl").write_text(text)
    return open_source(str(folder / "pairs.jsonl"))


def test_wrong_captions_have_low_scores(lights: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_columns(lights, out) and write_matching(lights, out, Brightness())
    rows = [json.loads(line) for line in (out / "matching.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(i) for i in range(60)]
    low = [i for i, row in enumerate(rows) if row.get("matching", 1) < 0.5]
    assert low == [0, 1, 10, 20, 30, 40, 50]
    assert [i for i, row in enumerate(rows) if "matching" not in row] == [3, 4, 5]
    assert rows[1]["fit"] == pytest.approx([221 / 255, 34 / 255], abs=1e-4)
    assert rows[2]["fit"][1] is None and rows[2]["unread"] == ["an unknown word"]
    assert rows[4] == {"id": "4"} and rows[5] == {"id": "5"}
    chosen = choose(out, [parse_rule("matching>0.5")])
    assert chosen.rules[2].alone == 7 and chosen.rules[2].not_told == 2  # 3 and 4
    assert chosen.kept == 60 - 1 - 7 - 1


def test_what_it_was_fitted_to_is_written_down(lights: Source, tmp_path: Path) -> None:
    write_matching(lights, tmp_path / "out", Brightness())
    fit = read_calibration(tmp_path / "out")
    pairs = [case for case in fit.sample if case[0] == case[2]]
    assert (fit.by, fit.seed, fit.features) == ("brightness", 0, ["fit"])
    assert len(pairs) == fit.pairs <= 58  # 4 is broken, 5 no pair; 3 and perhaps 2 say "grey"
    assert len(fit.sample) == fit.pairs + fit.shuffled
    assert fit.weights[0] > 0 and fit.pairs_over_half > 0.8 > fit.shuffled_over_half
    captions = {id: text for id, text, own in fit.sample if id == own}
    for id, text, other in fit.sample:
        assert text == captions[id]
        assert id == other or captions.get(other) != text


def test_workers_make_the_same_scores(lights: Source, tmp_path: Path) -> None:
    made = []
    for world in (1, 2, 3):
        out = tmp_path / str(world)
        ends = [
            write_matching(lights, out, Brightness(), Worker(rank, world))
            for rank in reversed(range(world))
        ]
        assert ends[-1]
        made.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert made[0] == made[1] == made[2]
    assert sorted(made[0]) == ["calibration.json", "matching.jsonl", "matching.made_from"]


def test_scores_of_another_model_or_source_are_not_mixed(lights: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_matching(lights, out, Brightness())
    other = Brightness()
    other.fingerprint = "2"
    with pytest.raises(DataError, match=r"made from another weights \(1, now 2\)"):
        write_matching(lights, out, other)
    (tmp_path / "lights" / "one.jsonl").write_text('{"image": "1.png", "caption": "light"}\n')
    one = open_source(str(tmp_path / "lights" / "one.jsonl"))
    assert write_columns(one, out)
    with pytest.raises(DataError, match=r"matching\.jsonl is of another source"):
        choose(out, [])


def test_too_few_pairs_to_fit_to(tmp_path: Path) -> None:
    for i in range(19):
        Image.new("L", (4, 4), 9 * i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(("light", "dark")[i % 2])
    source = open_source(str(tmp_path))
    with pytest.raises(DataError, match="has 19 pairs that brightness can read"):
        write_matching(source, tmp_path / "out", Brightness())


@torch.inference_mode()
def test_the_same_scores_twice(toy_model: Model, lights: Source, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        assert write_matching(lights, tmp_path / name, model_matcher(toy_model))
        made.append((tmp_path / name / "matching.jsonl").read_bytes())
    assert made[0] == made[1]

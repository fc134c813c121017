"""One's own pairs, in any format and any language, to a model that draws and describes them."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import BrokenOff
from tests.training.test_run import Breaking
from vilg.api import Vilg
from vilg.config import override
from vilg.data.pairs import DataError
from vilg.data.sources import open_source
from vilg.data.store import Kind, Store
from vilg.errors import SettingError, VilgError
from vilg.model.folder import load_model
from vilg.recipes.own import pairs
from vilg.tokenizer.into_store import tokenize
from vilg.training.inputs import rows_of
from vilg.training.run import run
from vilg.training.run_folder import RunError
from vilg.training.settings import Recipe

QUICK = [
    f"generator.{setting}"
    for setting in (
        "width=16",
        "num_heads=2",
        'patterns=["row","column"]',
        "loop.num_steps=2",
        "loop.batch_size=3",
        "loop.show_every=0",
        "max_text=32",
        "sampling.best_of=1",
    )
]
CAPTIONS = {
    "en": ("a red square", "a green square", "a blue square"),
    "zh": ("红方块", "绿方块", "蓝方块"),
}


def recipe_of(source: Path, *settings: str) -> Recipe:
    return override(pairs(), [f"generator.data.source={source}", *QUICK, *settings])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (70, 64), colour).save(folder / f"{i}.png")
    return folder


def write_texts(folder: Path, texts: list[list[str]]) -> None:
    for i, lines in enumerate(texts):
        (folder / f"{i}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_captions_of_one_language_are_enough(pictures: Path, tmp_path: Path, lang: str) -> None:
    write_texts(pictures, [[caption] for caption in CAPTIONS[lang]])
    log = io.StringIO()
    folder = run(recipe_of(pictures), tmp_path / "run", log=log)
    first, told, second, *_ = log.getvalue().splitlines()
    assert first.startswith(f"{pictures}: read as folder (") and second == "generator: 3 pairs"
    assert told == "languages told by characters, since no tag tells them: 3 captions"
    assert load_model(folder).languages == (lang,)
    model = Vilg.from_pretrained(folder)
    assert [picture.size for picture in model.generate(CAPTIONS[lang][0])] == [(64, 64)]
    (caption,) = model.caption(pictures / "0.png")
    assert caption == model.caption(pictures / "0.png", lang)[0]
    other = "zh" if lang == "en" else "en"
    with pytest.raises(SettingError, match=f"in {lang} only, not in {other}"):
        model.caption(pictures / "0.png", other)


def test_several_captions_in_both_languages_are_all_learnt_from(
    pictures: Path, tmp_path: Path
) -> None:
    texts = [
        [f"{caption} {i}" for i in range(5)] + [CAPTIONS["zh"][k]]
        for k, caption in enumerate(CAPTIONS["en"])
    ]
    write_texts(pictures, texts)
    folder = run(recipe_of(pictures), tmp_path / "run", log=io.StringIO())
    store = Store(tmp_path / "run" / "generator" / "tokens")
    found = store.texts_of(np.arange(3))
    assert np.bincount(found.owner_P).tolist() == [6, 6, 6]
    assert set(found.kind_P) == {Kind.CAPTION}
    words = load_model(folder).text_tokenizer
    assert words is not None
    written = [words.decode(tokens.tolist()) for tokens in store.tokens_of(found.text_P)]
    assert sorted(written) == sorted(text for lines in texts for text in lines)
    assert load_model(folder).languages == ("zh", "en")


def test_a_vocabulary_is_built_where_the_shipped_one_would_spell(
    pictures: Path, tmp_path: Path
) -> None:
    greek = ("ἀλώπηξ", "κύων", "αἴλουρος")
    write_texts(pictures, [[text] for text in greek])
    folder = run(recipe_of(pictures), tmp_path / "run", log=io.StringIO())
    words, shipped = load_model(folder).text_tokenizer, Vilg.from_pretrained().text_tokenizer
    assert words is not None and words.fingerprint != shipped.fingerprint
    assert not any(words.spelled(text) for text in greek)
    write_texts(pictures, [[text] for text in CAPTIONS["en"]])
    plain = load_model(run(recipe_of(pictures), tmp_path / "plain", log=io.StringIO()))
    assert plain.text_tokenizer is not None
    assert plain.text_tokenizer.fingerprint == shipped.fingerprint


def test_what_is_left_out_is_counted_and_too_much_is_refused(
    pictures: Path, tmp_path: Path
) -> None:
    rows = [{"image": f"{i % 3}.png", "id": f"{i}", "caption": f"square {i}"} for i in range(20)]
    rows.append({"image": "none.png", "id": "gone", "caption": "gone"})
    table = pictures / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log = io.StringIO()
    run(recipe_of(table), tmp_path / "run", log=log)
    assert "\ngenerator: 20 pairs\nleft out: 1 pairs, see " in log.getvalue()
    rejects = tmp_path / "run" / "generator" / "tokens" / "rejects.jsonl"
    (line,) = rejects.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["place"] == "pairs.jsonl line 21"
    few = "".join(json.dumps(row) + "\n" for row in rows[-3:])
    table.write_text(few)
    with pytest.raises(ValueError, match=r"1 of 3 pairs were left out, more than 10%"):
        run(recipe_of(table), tmp_path / "other", log=io.StringIO())


def test_a_run_takes_what_was_filtered_and_translated(pictures: Path, tmp_path: Path) -> None:
    write_texts(pictures, [[caption] for caption in CAPTIONS["en"]])
    kept, translated = tmp_path / "kept.txt", tmp_path / "zh.jsonl"
    kept.write_text("0\n2\n")
    rows = [
        {"id": str(i), "zh": [text], "translated": "a dictionary"}
        for i, text in enumerate(CAPTIONS["zh"])
    ]
    translated.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (f"generator.data.ids={kept}", f"generator.data.translations={translated}")
    folder = run(recipe_of(pictures, *settings), tmp_path / "run", log=io.StringIO())
    store, words = Store(tmp_path / "run/generator/tokens"), load_model(folder).text_tokenizer
    assert store.ids(np.arange(len(store))) == ["0", "2"] and words is not None
    tokens = store.tokens_of(store.texts_of(np.arange(2)).text_P)
    found = [words.decode(one.tolist()) for one in tokens]
    assert sorted(found) == sorted(["a red square", "红方块", "a blue square", "蓝方块"])


def test_tokens_made_beforehand_train_the_same_model(pictures: Path, tmp_path: Path) -> None:
    write_texts(pictures, [[caption] for caption in CAPTIONS["en"]])
    vilg = Vilg.from_pretrained()
    tokenizers = (vilg.image_tokenizer, vilg.text_tokenizer)
    assert tokenize(open_source(str(pictures)), tmp_path / "tokens", *tokenizers, max_text=32)
    log = io.StringIO()
    made = run(recipe_of(tmp_path / "tokens"), tmp_path / "made", log=log)
    said = f"{tmp_path / 'tokens'}: tokens of vilg data tokenize\ngenerator: 3 pairs\n"
    assert log.getvalue().startswith(said)
    direct = run(recipe_of(pictures), tmp_path / "direct", log=io.StringIO())
    for name in ("model.safetensors", "config.json"):
        assert (made / name).read_bytes() == (direct / name).read_bytes()
    assert not (tmp_path / "made" / "generator" / "tokens").exists()
    for setting, said in (
        ("generator.max_text=31", "texts of up to 32 tokens"),
        ("generator.data.ids=kept.txt", r"leave out data\.ids"),
        ('generator.prefix_augmentation={"max_shift": 1, "flip": false}', "holds no pictures"),
    ):
        with pytest.raises(VilgError, match=said):
            run(recipe_of(tmp_path / "tokens", setting), tmp_path / "no", log=io.StringIO())


def test_pairs_of_questions_alone_make_a_model_that_answers(pictures: Path, tmp_path: Path) -> None:
    lines = [
        {"image": "0.png", "question": "what is it?", "answer": "a red square"},
        {"image": "1.png", "question": "what is it?", "answers": ["a green square"] * 10},
        {"image": "2.png", "question": "what is it?"},
    ]
    (pictures / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = run(recipe_of(pictures / "pairs.jsonl"), tmp_path / "run", log=io.StringIO())
    model = Vilg.from_pretrained(folder)
    assert model.model.answer_languages == ("en",)
    (answer,) = model.answer(pictures / "0.png", "what is it?")
    assert answer == model.answer(pictures / "0.png", "what is it?", "en")[0]
    with pytest.raises(SettingError, match="to answer in en only, not in zh"):
        model.answer(pictures / "0.png", "这是什么？")
    (record, *_) = (tmp_path / "run" / "generator" / "log.jsonl").read_text().splitlines()
    assert json.loads(record)["vqa"] > 0


@pytest.mark.parametrize(
    "line",
    [
        {"image": "0.png", "question": "what is it?"},
        {"prompt": "a square"},
        {"image": "0.png", "caption": "square " * 40},
    ],
)
def test_pairs_that_teach_nothing_are_refused_before_any_work(
    pictures: Path, tmp_path: Path, line: dict[str, str]
) -> None:
    table = pictures / "pairs.jsonl"
    table.write_text(json.dumps(line) + "\n")
    with pytest.raises(
        DataError, match="no picture with a caption or an answer that the model can read"
    ):
        run(recipe_of(table), tmp_path / "run", log=io.StringIO())
    assert not (tmp_path / "run").exists()


def test_a_share_of_pairs_may_be_left_out_if_it_is_said(pictures: Path, tmp_path: Path) -> None:
    write_texts(pictures, [[caption] for caption in CAPTIONS["en"]])
    (pictures / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 .*data\.max_rejects"):
        run(recipe_of(pictures), tmp_path / "run", log=io.StringIO())
    folder = run(
        recipe_of(pictures, "generator.data.max_rejects=0.5"), tmp_path / "run", log=io.StringIO()
    )
    assert load_model(folder).languages == ("en",)


def test_a_row_whose_first_pair_was_left_out_has_the_second_ones_picture(
    pictures: Path, tmp_path: Path
) -> None:
    rows = [{"image": f"{i % 3}.png", "id": f"{i}", "caption": f"square {i}"} for i in range(30)]
    rows[4]["id"] = "0"  # stays, as the first one's picture is broken
    rows[5]["id"] = "1"  # goes
    rows[0]["image"] = "bad.png"
    (pictures / "bad.png").write_bytes(b"no picture")
    table = pictures / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    vilg = Vilg.from_pretrained()
    tokenizers = (vilg.image_tokenizer, vilg.text_tokenizer)
    source = open_source(str(table))
    assert tokenize(source, tmp_path / "tokens", *tokenizers, max_text=32)
    found = rows_of(Store(tmp_path / "tokens"), source)
    lines = [int(pair.place.rpartition(" ")[2]) - 1 for pair in found]
    assert lines == [i for i in range(30) if i not in (0, 5)]
    (pictures / "less.jsonl").write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(DataError, match="was made from other pairs"):
        rows_of(Store(tmp_path / "tokens"), open_source(str(pictures / "less.jsonl")))


def test_a_run_goes_on_with_the_same_pairs_only(pictures: Path, tmp_path: Path) -> None:
    """A file that is no pair changes nothing; a picture does, though the table is as it was."""
    rows = [{"image": f"{i}.png", "caption": f"square {i}"} for i in range(3)]
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of(table, f"generator.data.pictures={pictures}", "generator.loop.save_every=1")
    with pytest.raises(BrokenOff):
        run(recipe, tmp_path / "run", log=Breaking("generator", 2))
    half = shutil.copytree(tmp_path / "run", tmp_path / "half")
    (pictures / ".DS_Store").write_text("a Mac was here")
    (pictures / "nowhere.png").symlink_to(pictures / "gone.png")
    run(recipe, tmp_path / "run", resume=True, log=io.StringIO())
    Image.new("RGB", (170, 164), "red").save(pictures / "0.png")
    with pytest.raises(RunError, match="the data are not those that"):
        run(recipe, half, resume=True, log=io.StringIO())


def test_a_run_among_the_pictures_that_it_reads_is_refused(pictures: Path) -> None:
    write_texts(pictures, [[caption] for caption in CAPTIONS["en"]])
    with pytest.raises(DataError, match="all of which is read: write outside of it"):
        run(recipe_of(pictures), pictures / "runs" / "own", log=io.StringIO())
    tokenizer = replace(
        _small_tokenizer(), data=replace(pairs().generator.data, source=str(pictures))
    )
    with pytest.raises(DataError, match="all of which is read: write outside of it"):
        run(Recipe(tokenizer=tokenizer), pictures / "runs" / "own", log=io.StringIO())


def test_an_image_tokenizer_is_trained_on_the_pictures_of_pairs(
    pictures: Path, tmp_path: Path
) -> None:
    write_texts(pictures, [[caption] for caption in CAPTIONS["en"]])
    own = override(
        Recipe(tokenizer=replace(_small_tokenizer(), data=pairs().generator.data)),
        [f"tokenizer.data.source={pictures}"],
    )
    log = io.StringIO()
    folder = run(own, tmp_path / "run", log=log)
    assert "\ntokenizer: 3 pictures\n" in log.getvalue()
    settings = f"generator.image_tokenizer={folder}"
    model = run(recipe_of(pictures, settings), tmp_path / "pairs", log=io.StringIO())
    assert load_model(model).image_tokenizer.fingerprint() == (
        load_model(folder).image_tokenizer.fingerprint()
    )


def _small_tokenizer():
    from tests.training.conftest import OPTIM, SMALL_VQGAN
    from vilg.training.loop import LoopConfig
    from vilg.training.settings import TokenizerRun

    return TokenizerRun(
        data=pairs().generator.data,
        model=SMALL_VQGAN,
        loop=LoopConfig(num_steps=2, batch_size=2),
        optim=OPTIM,
    )

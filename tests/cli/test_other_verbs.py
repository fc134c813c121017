"""`vilg edit`, `caption`, `score`, `train` and `evaluate`: what they write."""

import base64
import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Run, full_disk, notes_of
from tests.conftest import EMOJI
from vilg.api import Vilg
from vilg.images import open_picture, to_array
from vilg.model.folder import Model, load_model, save_model
from vilg.shipped.emoji import RECIPES


@pytest.mark.parametrize("part", [["--first-row", "0"], ["--share", "0.5"], ["--mask", "m.png"]])
def test_edits_differ_and_a_second_run_writes_the_same_bytes(
    run: Run, picture: Path, toy_folder: Path, part: list[str]
) -> None:
    mask = Image.new("L", (50, 40))
    mask.paste(255, (20, 0, 30, 40))
    mask.save("m.png")
    command = ("edit", picture, "red apple", *part, "-n", "3", "--model", toy_folder, "-o")
    first, again = (run(*command, out) for out in ("one/", "two/"))
    assert (first.status, first.err) == (0, "")
    pairs = list(zip(first.out.splitlines(), again.out.splitlines(), strict=True))
    contents = [Path(one).read_bytes() for one, _ in pairs]
    assert contents == [Path(other).read_bytes() for _, other in pairs]
    assert len(set(contents)) == 3
    edited = json.loads(notes_of(pairs[0][0])["edited"])
    assert set(edited) == {"picture", part[0].strip("-").replace("-", "_")}


def test_edit_i_is_that_of_seed_plus_i_alone_and_raw_is_what_was_decoded(
    run: Run, picture: Path, toy_folder: Path
) -> None:
    """Twenty candidates of each fill a batch, so every picture has its own."""
    command = ("edit", picture, "red", "--first-row", "3", "--best-of", "20", "--model", toy_folder)
    both = run(*command, "-n", "2", "--seed", "4").out.split()
    alone = run(*command, "--seed", "5", "-o", "alone.png").out.split()
    assert Path(both[1]).read_bytes() == Path(alone[0]).read_bytes()
    raw = run(*command, "--seed", "5", "--raw", "-o", "raw.png").out.split()
    edited, decoded = (to_array(open_picture(path)) for path in (alone[0], raw[0]))
    assert np.array_equal(edited[24:], decoded[24:])
    assert not np.array_equal(edited[:24], decoded[:24])


def test_a_page_shows_every_word_and_needs_nothing_else(
    run: Run, picture: Path, toy_folder: Path
) -> None:
    result = run("score", picture, "red <apple>", "--html", "new/s.html", "--model", toy_folder)
    assert (result.status, result.err, result.out) == (0, "", "new/s.html\n")
    page = Path("new/s.html").read_text(encoding="utf-8")
    run("score", picture, "red <apple>", "--html", "again.html", "--model", toy_folder)
    assert Path("again.html").read_text(encoding="utf-8") == page
    words = Vilg.from_pretrained(toy_folder).word_map(picture, "red <apple>")
    assert len(words) > 3
    assert page.count('<img src="data:image/png;base64,') == 1 + len(
        words
    )  # the picture itself too
    assert "red &lt;apple&gt;" in page and "<apple>" not in page
    assert "http" not in page and "$" not in page


def test_orange_lies_where_a_word_helps_and_blue_where_it_harms(
    run: Run, picture: Path, toy_folder: Path
) -> None:
    ((_, gains),) = Vilg(load_model(toy_folder)).word_map(open_picture(picture), "red")
    gains_HW = np.array(gains).reshape(4, 4)
    assert gains_HW.min() < 0 < gains_HW.max()
    assert run("score", picture, "red", "--html", "s.html", "--model", toy_folder).status == 0
    _, shown = re.findall(r'base64,([^"]+)', Path("s.html").read_text(encoding="utf-8"))
    cells_HW3 = to_array(open_picture(base64.b64decode(shown)))[32::64, 32::64].astype(int)
    tint_HW = cells_HW3[..., 0] - cells_HW3[..., 2]  # beneath, all is grey
    strong_HW = np.abs(gains_HW) > 0.1 * np.abs(gains_HW).max()
    assert np.array_equal(np.sign(tint_HW)[strong_HW], np.sign(gains_HW)[strong_HW])
    assert np.abs(tint_HW).argmax() == np.abs(gains_HW).argmax()  # the strongest is the most opaque


def test_captions_are_drawn_as_asked_for(run: Run, picture: Path, toy_folder: Path) -> None:
    how = ("--lang", "en", "-n", "3", "--temperature", "2", "--seed", "7")
    result = run("caption", picture, *how, "--model", toy_folder)
    captions = Vilg.from_pretrained(toy_folder).caption(picture, "en", 3, temperature=2, seed=7)
    assert result.out.splitlines() == [" ".join(caption.split()) for caption in captions]
    assert len(set(captions)) == 3


@pytest.mark.parametrize("how", [["--beam", "3"], ["--best-of", "5"]])
def test_captions_that_are_searched_or_ranked(
    run: Run, picture: Path, toy_folder: Path, how: list[str]
) -> None:
    result = run("caption", picture, "-n", "2", *how, "--model", toy_folder)
    name, value = how[0].strip("-").replace("-", "_"), int(how[1])
    captions = Vilg.from_pretrained(toy_folder).caption(picture, n=2, **{name: value})
    assert result.status == 0
    assert result.out.splitlines() == [" ".join(caption.split()) for caption in captions]


def test_captions_are_one_a_line(run: Run, picture: Path, toy_folder: Path) -> None:
    result = run("caption", picture, picture, "--lang", "en", "-n", "3", "--model", toy_folder)
    assert (result.status, result.err) == (0, "")
    lines = result.out.split("\n")
    assert len(lines) == 7 and lines[-1] == ""
    assert lines[:3] == lines[3:6]
    assert len(set(lines[:3])) > 1
    again = run("caption", picture, "--lang", "en", "-n", "3", "--model", toy_folder)
    # Of several pictures each line says whose it is; of one there is nothing to say.
    assert [f"picture.png\t{line}" for line in again.out.splitlines()] == lines[:3]


def test_a_line_break_in_a_caption_is_no_new_line(
    run: Run, picture: Path, toy_folder: Path
) -> None:
    model = load_model(toy_folder)
    assert model.generator and model.text_tokenizer
    ids = range(model.generator.config.vocabulary_size)
    line_break = model.text_tokenizer.token_strings(ids).index("<0x0A>")
    model.generator.text_head.bias[line_break] = 1000
    save_model(Path("breaks"), model)
    assert run("caption", picture, "--model", "breaks").out == "\n"


def test_captions_as_json(run: Run, picture: Path, toy_folder: Path) -> None:
    plain = run("caption", picture, "--model", toy_folder)
    result = run("caption", picture, "--json", "--model", toy_folder)
    caption = Vilg.from_pretrained(toy_folder).caption(picture)[0]
    assert json.loads(result.out) == {
        "image": "picture.png",
        "lang": "zh",
        "captions": plain.out.split("\n")[:1],
        "log_probs": [caption.log_prob],
        "believed": [True],
    }


def test_a_guess_is_marked(run: Run, picture: Path, toy_model: Model) -> None:
    save_model(Path("unsure"), dataclasses.replace(toy_model, believed_from=-0.01))
    result = run("caption", picture, "--model", "unsure")
    assert "a guess" in result.err and "sure from -0.01" in result.err
    (values,) = map(
        json.loads, run("caption", picture, "--json", "--model", "unsure").out.splitlines()
    )
    assert values["believed"] == [False] and values["log_probs"][0] < -0.01


def test_a_score_has_both_directions_and_the_gain(
    run: Run, picture: Path, toy_folder: Path
) -> None:
    values = json.loads(run("score", picture, "red apple", "--json", "--model", toy_folder).out)
    assert len(values["image_log_probs"]) == len(values["unconditional_image_log_probs"]) == 16
    assert values["text_tokens"][-1] == "[EOS]"
    assert len(values["text_log_probs"]) == len(values["text_tokens"])
    gain = sum(values["image_log_probs"]) - sum(values["unconditional_image_log_probs"])

    table = run("score", picture, "red apple", "--model", toy_folder).out
    assert all(token in table for token in values["text_tokens"])
    gain_line = next(line for line in table.splitlines() if "gain " in line)
    assert f"{gain / 16:.3f}" in gain_line and f"{gain:.3f}" in gain_line
    # Two grids of 4 x 4 cells.
    assert sum(len(line.split()) == 4 for line in table.splitlines()[-10:]) == 8


def test_the_language_of_a_score_can_be_given(run: Run, picture: Path, toy_folder: Path) -> None:
    guessed, given, other = (
        run("score", picture, "red apple", "--json", "--model", toy_folder, *lang).out
        for lang in ([], ["--lang", "en"], ["--lang", "zh"])
    )
    assert guessed == given != other


@pytest.mark.parametrize("suite", ["tokenizer", "generator"])
def test_evaluate_writes_where_it_is_told(
    run: Run, toy_folder: Path, toy_data: Path, suite: str
) -> None:
    options = ("--model", toy_folder, "--data", toy_data, "--out", "numbers", "--limit", "3")
    result = run("evaluate", suite, *options, "--only", "group=symbols")
    assert result.status == 0, result.err
    report = json.loads(Path(f"numbers/{suite}.json").read_text(encoding="utf-8"))
    assert {"scores", "manifest"} <= report.keys()
    settings = report["manifest"]["settings"]
    assert (settings["limit"], settings["only"]) == (3, ["group=symbols"])


def test_measuring_without_the_extra_is_one_line(
    run: Run, toy_folder: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python takes for a package that is not there.
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    result = run("evaluate", "tokenizer", "--model", toy_folder, "--data", toy_data)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("vilg: error: torchmetrics not found")
    assert "make install" in result.err and result.err.count("\n") == 1
    assert not any(Path.cwd().iterdir())


def test_a_tokenizer_of_one_s_own_pictures_is_one_command(run: Run, picture: Path) -> None:
    Path("photos").mkdir()
    for i in range(3):
        Image.open(picture).rotate(90 * i, expand=True).save(f"photos/{i}.png")
    settings = ("tokenizer.loop.num_steps=2", "tokenizer.loop.batch_size=2")
    result = run("train", "picture_tokenizer", "--set", "tokenizer.data.source=photos/", *settings)
    assert result.status == 0, result.err
    (folder,) = result.out.splitlines()
    assert load_model(Path(folder)).image_tokenizer.config.image_size == 64


def test_a_trained_model_draws_and_a_full_disk_is_one_line(run: Run, toy_data: Path) -> None:
    settings = [
        f"{stage}.{key}"
        for stage in ("tokenizer", "generator")
        for key in (
            f"data.source={toy_data}",
            "data.only=[]",
            "data.limit=4",
            "loop.num_steps=2",
            "loop.batch_size=2",
        )
    ]
    command = (
        "train",
        "emoji_cpu_tiny",
        "--set",
        *settings,
        "--set",
        f"generator.vocabulary={EMOJI / 'tokenizer.json'}",
    )
    result = run(*command)
    assert result.status == 0, result.err
    (folder,) = result.out.splitlines()
    assert Path(folder).is_relative_to("runs/emoji_cpu_tiny")
    assert f"--model {folder}" in result.err
    assert run("generate", "red apple", "-o", "a.png", "--model", folder).status == 0

    again = run(*command)
    assert again.status == 2 and "--resume" in again.err
    resumed = run("train", "emoji_cpu_tiny", "--resume")  # with the run's own settings
    assert (resumed.status, resumed.out) == (0, result.out)
    repeated = run(*command, "--resume")
    assert (repeated.status, repeated.out) == (0, result.out)
    with full_disk(after=100_000):
        full = run(*command, "--out", "other")
    assert full.status == 2
    assert full.err.splitlines()[-1].startswith("vilg: error:")
    assert "Traceback" not in full.err


def test_the_help_of_train_lists_every_recipe_with_its_time_and_whether_it_needs_a_gpu(
    run: Run,
) -> None:
    words = " ".join(run("train", "--help").out.replace("│", " ").split())
    for name, named in RECIPES.items():
        cost = (
            f"{named.time}; needs a GPU" if named.needs_gpu else f"{named.time}): {named.summary}"
        )
        assert f"{name} ({cost}" in words


def test_what_is_said_of_the_data_holds_for_all_stages(run: Run) -> None:
    options = ("--data", "photos", "--ids", "kept.txt", "--format", "JSON lines")
    result = run("train", "emoji_cpu_tiny", "--show", *options)
    assert result.status == 0, result.err
    for stage in ("tokenizer", "generator"):
        for setting in (
            f"data.source={Path.cwd() / 'photos'}",
            f"data.ids={Path.cwd() / 'kept.txt'}",
            "data.format=JSON lines",
        ):
            assert f"{stage}.{setting}" in result.out.replace("'", "").replace('"', "")


def test_all_settings_are_shown_as_they_are_changed_and_nothing_is_trained(run: Run) -> None:
    command = ["train", "emoji_cpu_tiny", "--show", "--set", "generator.max_text=40"]
    result = run(*command, 'generator.patterns=["row"]', "--out", "run")
    assert (result.status, result.err) == (0, "") and not Path("run").exists()
    lines = result.out.splitlines()
    assert all(line.startswith("--set ") for line in lines)
    assert any(line.startswith("--set generator.max_text=40  # longest text") for line in lines)
    assert any(line.startswith("--set 'generator.patterns=[\"row\"]'  # ") for line in lines)
    wrong = run("train", "emoji_cpu_tiny", "--show", "--set", "generator.mxa_text=40")
    assert wrong.status == 2 and "mxa_text" in wrong.err

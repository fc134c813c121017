"""`vilg generate`: what it writes, under which names, and that it can be repeated and resumed."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from tests.cli.conftest import Run, files_under, notes_of
from tests.precisions import parameters
from vilg.cli.output import picture_name, read_notes, slug
from vilg.images import contact_sheet, open_picture, to_array
from vilg.model.defaults import Decoder
from vilg.model.folder import load_model, save_model
from vilg.model.reconstructor import Reconstructor
from vilg.sampling.precision import Precision


def test_four_pictures_differ_and_a_second_run_writes_the_same_bytes(
    generate: Callable[..., list[Path]],
) -> None:
    prompt = "red apple, 3D render"
    first = generate(prompt, "-n", "4", "--seed", "7", "-o", "out/")
    assert first == [Path(f"out/000-red-apple-3d-render-seed{seed}.png") for seed in (7, 8, 9, 10)]
    assert len({Image.open(path).tobytes() for path in first}) == 4
    second = generate(prompt, "-n", "4", "--seed", "7", "-o", "elsewhere/deeper")
    assert [path.name for path in second] == [path.name for path in first]
    assert [path.read_bytes() for path in second] == [path.read_bytes() for path in first]


def test_the_end_to_end_decoder_is_asked_for_by_name(
    run: Run, toy_folder: Path, tmp_path: Path
) -> None:
    model = load_model(toy_folder)
    assert model.generator is not None
    torch.manual_seed(0)
    reconstructor = Reconstructor(model.generator.config.width, model.image_tokenizer)
    own = replace(model.sampling, decoder=Decoder.END_TO_END)
    save_model(tmp_path / "e2e", replace(model, reconstructor=reconstructor, sampling=own))
    paths = {}
    for decoder in (*Decoder, None):
        options = ("--decoder", decoder) if decoder else ()
        result = run("generate", "red apple", "--model", "e2e", "-o", f"{decoder}.png", *options)
        assert result.status == 0, result.err
        paths[decoder] = Path(result.out.strip())
    pixels = {decoder: Image.open(path).tobytes() for decoder, path in paths.items()}
    assert pixels[Decoder.END_TO_END] == pixels[None] != pixels[Decoder.TWO_STAGE]
    assert json.loads(notes_of(paths[None])["settings"])["decoder"] == "end-to-end"
    result = run("generate", "red apple", "--model", toy_folder, "--decoder", "end-to-end")
    assert result.status == 2 and "no end-to-end decoder" in result.err


def test_paths_reach_a_pipe_while_a_bar_is_on_the_terminal(
    toy_folder: Path, tmp_path: Path
) -> None:
    """Rich would send what is printed under a bar to the bar's own terminal."""
    code = (
        "import sys, time; from vilg.progress import Progress\n"
        "with Progress(patience=0.0) as progress:\n"
        "    progress(1, 2); print('the/path.png', flush=True); progress(2, 2)\n"
    )
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=slave, text=True, check=True
    )
    os.close(slave)
    os.close(master)
    assert done.stdout == "the/path.png\n"


@pytest.mark.parametrize("out", ["x.jpg", "new/X.WEBP", "x.svg", "-", ""])
def test_an_output_that_is_no_place_for_png_is_refused(
    run: Run, toy_folder: Path, out: str
) -> None:
    result = run("generate", "red apple", "-o", out, "--model", toy_folder)
    assert result.status == 2 and "FILE.png" in result.err
    assert files_under(Path()) == {}


def test_a_folder_may_be_called_as_a_picture(generate: Callable[..., list[Path]]) -> None:
    paths = generate("red apple", "-n", "2", "-o", "shots.png/")
    assert [path.parent for path in paths] == [Path("shots.png")] * 2


def test_a_png_may_be_called_png_in_capitals(generate: Callable[..., list[Path]]) -> None:
    assert generate("red apple", "-o", "A.PNG") == [Path("A.PNG")]
    assert Path("A.PNG").is_file()


def test_a_result_is_not_written_over_what_it_is_made_from(
    run: Run, picture: Path, toy_folder: Path
) -> None:
    before = picture.read_bytes()
    for verb in (
        ("edit", picture, "red", "--first-row", "1", "-o", picture),
        ("edit", picture, "red", "--first-row", "1", "--preview", picture),
        ("edit", picture, "red", "--mask", picture, "-o", picture),
        ("score", picture, "red", "--html", picture),
    ):
        result = run(*verb, "--model", toy_folder)
        assert result.status == 2 and "is what is read" in result.err, verb
    assert picture.read_bytes() == before


def test_characters_that_the_model_does_not_know_are_said(run: Run, toy_folder: Path) -> None:
    result = run("generate", "apple 🍎 赤い", "red", "-o", "out", "--model", toy_folder)
    assert result.status == 0
    assert "not in the model's vocabulary: 🍎い" in result.err
    assert run("generate", "red 苹果", "-o", "out2", "--model", toy_folder).err == ""


def test_a_prompt_for_the_shipped_model_without_a_style_gets_one_line(run: Run) -> None:
    def said(*prompts: str) -> list[str]:
        result = run("generate", *prompts, "--best-of", "1", "-o", "out/")
        assert result.status == 0
        return result.err.splitlines()

    assert said("whale, Flat  style", "鲸鱼，Noto风格", "鯨魚,三維風格") == []
    zh, en = said("whale", "鲸鱼", "a cat")
    assert zh == (
        'no style in "鲸鱼"; this model has learnt 三维风格, 扁平风格, noto风格, 推特风格: '
        'add one, as in "鲸鱼，扁平风格"'
    )
    assert en == (
        'no style in "whale" and 1 more; this model has learnt 3D render, flat style, '
        'noto style, Twitter style: add one, as in "whale, flat style"'
    )


def test_picture_i_is_that_of_seed_plus_i_alone(generate: Callable[..., list[Path]]) -> None:
    together = generate("red apple", "banana", "-n", "3", "--seed", "5", "--guidance", "2")
    alone = [
        path
        for seed in (5, 6, 7)
        for path in generate("red apple", "--seed", str(seed), "--guidance", "2", "-o", "alone")
    ]
    assert [path.name for path in together[:3]] == [path.name for path in alone]
    assert [path.read_bytes() for path in together[:3]] == [path.read_bytes() for path in alone]


def test_a_png_name_is_the_file_and_holds_its_own_story(
    generate: Callable[..., list[Path]],
) -> None:
    prompt = "红苹果，三维风格"
    (path,) = generate(prompt, "--seed", "3", "--top-k", "5", "-o", "new/a.png")
    assert path == Path("new/a.png")
    assert os.listdir("new") == ["a.png"]
    text = Image.open(path).text  # type: ignore[attr-defined]
    assert (text["prompt"], text["seed"]) == (prompt, "3")
    assert json.loads(text["settings"]) == {
        "temperature": 1.0,
        "top_k": 5,
        "guidance": 1.0,
        "decoder": "two-stage",
        "top_p": None,
        "guidance_schedule": "constant",
        "best_of": 1,
    }
    assert len(text["model"]) == 16
    assert text["Software"].startswith("vilg ")


def test_settings_change_the_picture(generate: Callable[..., list[Path]]) -> None:
    changes = [
        [],
        ["--temperature", "0"],
        ["--guidance", "4"],
        ["--top-k", "1"],
        ["--seed", "9"],
        ["--guidance", "4", "--guidance-schedule", "rising"],
        ["--top-p", "0.000001"],
    ]
    drawn = [
        Image.open(generate("red apple", *change, "-o", f"{i}.png")[0]).tobytes()
        for i, change in enumerate(changes)
    ]
    assert drawn[1] == drawn[3] == drawn[6]  # the likeliest token, said in three ways
    assert len(set(drawn)) == len(changes) - 2


def test_a_file_of_prompts_is_resumed_and_says_so(run: Run, toy_folder: Path) -> None:
    Path("prompts.txt").write_text("\ufeffred apple\n\n  香蕉 \ngreen pear", encoding="utf-8")
    command = ("generate", "--prompts", "prompts.txt", "-n", "2", "--model", toy_folder)
    whole = run(*command)
    assert whole.status == 0
    assert "skipped" not in whole.err
    names = whole.out.splitlines()
    assert [Path(name).name for name in names[::2]] == [
        "000-red-apple-seed0.png",
        "001-香蕉-seed0.png",
        "002-green-pear-seed0.png",
    ]
    before = files_under(Path("out"))
    Path(names[3]).unlink()
    rest = run(*command)
    assert rest.out.splitlines() == [names[3]]
    assert "5 of 6 pictures are there already, skipped" in rest.err
    assert files_under(Path("out")) == before
    assert run(*command).out == ""


def test_a_resumed_batch_refuses_pictures_of_other_settings(run: Run, toy_folder: Path) -> None:
    Path("prompts.txt").write_text("red apple\n")
    command = ("generate", "--prompts", "prompts.txt", "--model", toy_folder)
    assert run(*command).status == 0
    before = files_under(Path("out"))
    result = run(*command, "--temperature", "0.5")
    assert result.status == 2
    assert "another settings: choose another -o" in " ".join(result.err.split())
    assert files_under(Path("out")) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red apple, 3D render", "red-apple-3d-render"),
        ("红苹果，三维风格", "红苹果-三维风格"),
        ("../../etc/passwd", "etc-passwd"),
        ("  Ａ/B\\C:*?  ", "a-b-c"),
        ("!?", ""),
        ("苹" * 500, "苹" * 60),
    ],
)
def test_slugs_keep_letters_of_any_script_and_fit_in_a_file_name(text: str, expected: str) -> None:
    assert slug(text) == expected
    assert len(picture_name(1234, text, 2**63).encode()) <= 255 - len(".part")


def test_a_name_without_letters_has_no_empty_part() -> None:
    assert picture_name(0, "!?", 7) == "000-seed7.png"


def test_the_best_of_some_is_one_of_them(generate: Callable[..., list[Path]]) -> None:
    """By its own seed and metadata it is drawn again, and best of 1 is the plain picture."""
    (best,) = generate("red apple", "--seed", "3", "--best-of", "6", "-o", "best.png")
    assert json.loads(notes_of(best)["settings"])["best_of"] == 6
    again, one, plain = (
        generate("red apple", "--seed", "3", *best_of, "-o", f"{i}.png")[0].read_bytes()
        for i, best_of in enumerate((["--best-of", "6"], ["--best-of", "1"], []))
    )
    assert again == best.read_bytes() != plain
    assert one == plain


@pytest.mark.parametrize("precision", parameters(Precision.BF16, Precision.INT8))
def test_a_precision_draws_and_says_so(
    generate: Callable[..., list[Path]], precision: Precision
) -> None:
    (path,) = generate("red apple", "--precision", precision, "-o", "a.png")
    assert json.loads(notes_of(path)["settings"])["precision"] == precision


def test_a_preview_ends_as_the_pictures(generate: Callable[..., list[Path]]) -> None:
    paths = generate("red apple", "-n", "2", "--preview", "new/preview.png")
    drawn = [to_array(open_picture(path)) for path in paths]
    assert np.array_equal(
        to_array(open_picture("new/preview.png")),
        to_array(contact_sheet([[Image.fromarray(array) for array in drawn]])),
    )


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_damaged_picture_has_no_notes(tmp_path: Path) -> None:
    path = tmp_path / "damaged.avif"
    Image.new("RGB", (2, 2)).save(path)
    whole = path.read_bytes()
    for place in range(60, 120):  # some are RuntimeErrors of the decoder
        path.write_bytes(whole[:place] + b"\0" + whole[place + 1 :])
        assert read_notes(path) == {}


def test_more_pictures_than_anybody_draws_are_refused_at_once(run: Run) -> None:
    result = run("generate", "red", "-n", "1000000000", "-o", "out/")
    assert (result.status, result.err) == (
        2,
        "vilg: error: -n must be at most 1000000, not 1000000000\n",
    )

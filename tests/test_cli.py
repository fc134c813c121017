"""The command line: what every verb writes, and that bad input ends in one line and status 2."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from tests.tokenizer import published
from vilg.cli import main
from vilg.cli.output import picture_name, slug
from vilg.images import contact_sheet, open_picture, to_array
from vilg.model.folder import Decoder, Model, load_model, save_model
from vilg.model.reconstructor import Reconstructor
from vilg.pipeline import Vilg

VILG = Path(sys.executable).with_name("vilg")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*argv: str | Path) -> Result:
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


@pytest.fixture
def generate(run: Run, toy_folder: Path) -> Callable[..., list[Path]]:
    """Run `vilg generate` with the toy model and return the paths that it printed."""

    def call(*argv: str | Path) -> list[Path]:
        result = run("generate", *argv, "--model", toy_folder)
        assert result.status == 0, result.err
        return [Path(line) for line in result.out.splitlines()]

    return call


@pytest.fixture
def picture(run: Run) -> Path:
    """A picture that is neither square nor as large as the model's."""
    picture = Image.linear_gradient("L").resize((50, 40))
    picture.convert("RGB").save("picture.png")
    return Path("picture.png")


def notes_of(path: Path | str) -> dict[str, str]:
    """Return the text chunks of a PNG file."""
    with Image.open(path) as picture:
        return dict(picture.text)  # type: ignore[attr-defined]


def files_under(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file, and None for every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# generate


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


@pytest.mark.parametrize("out", ["x.jpg", "new/X.WEBP", "-", ""])
def test_an_output_that_is_no_place_for_png_is_refused(
    run: Run, toy_folder: Path, out: str
) -> None:
    result = run("generate", "red apple", "-o", out, "--model", toy_folder)
    assert result.status == 2 and "FILE.png" in result.err
    assert files_under(Path()) == {}


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
    changes = [[], ["--temperature", "0"], ["--guidance", "4"], ["--top-k", "1"], ["--seed", "9"]]
    drawn = [
        Image.open(generate("red apple", *change, "-o", f"{i}.png")[0]).tobytes()
        for i, change in enumerate(changes)
    ]
    assert drawn[1] == drawn[3]  # the likeliest token, said in two ways
    assert len(set(drawn)) == len(changes) - 1


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
    assert "choose another -o" in result.err
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


# edit, best-of, precision, preview


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


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_draws_and_says_so(generate: Callable[..., list[Path]], precision: str) -> None:
    (path,) = generate("red apple", "--precision", precision, "-o", "a.png")
    assert json.loads(notes_of(path)["settings"])["precision"] == precision


def test_a_preview_ends_as_the_pictures(generate: Callable[..., list[Path]]) -> None:
    paths = generate("red apple", "-n", "2", "--preview", "new/preview.png")
    drawn = [to_array(open_picture(path)) for path in paths]
    assert np.array_equal(
        to_array(open_picture("new/preview.png")),
        to_array(contact_sheet([[Image.fromarray(array) for array in drawn]])),
    )


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


def test_a_page_shows_every_word_and_needs_nothing_else(
    run: Run, picture: Path, toy_folder: Path
) -> None:
    result = run("score", picture, "red <apple>", "--html", "new/s.html", "--model", toy_folder)
    assert (result.status, result.err, result.out) == (0, "", "new/s.html\n")
    page = Path("new/s.html").read_text(encoding="utf-8")
    words = Vilg.from_pretrained(toy_folder).word_map(picture, "red <apple>")
    assert len(words) > 3
    assert page.count('<img src="data:image/png;base64,') == 1 + len(
        words
    )  # the picture itself too
    assert "red &lt;apple&gt;" in page and "<apple>" not in page
    assert "http" not in page and "$" not in page


@pytest.mark.parametrize("how", [["--beam", "3"], ["--best-of", "5"]])
def test_captions_that_are_searched_or_ranked(
    run: Run, picture: Path, toy_folder: Path, how: list[str]
) -> None:
    result = run("caption", picture, "-n", "2", *how, "--model", toy_folder)
    assert (result.status, result.out.count("\n")) == (0, 2)


# caption, score, data stats, train


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
    assert json.loads(result.out) == {
        "image": "picture.png",
        "lang": "zh",
        "captions": plain.out.split("\n")[:1],
    }


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


def test_data_stats_prints_a_table(run: Run, toy_data: Path) -> None:
    result = run("data", "stats", toy_data)
    assert (result.status, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    assert ["samples", "20"] in rows
    assert ["train", "15"] in rows
    assert ["unseen", "combination", "3"] in rows or ["unseen_combination", "3"] in rows


@pytest.mark.parametrize("suite", ["tokenizer", "generator"])
def test_evaluate_writes_where_it_is_told(
    run: Run, toy_folder: Path, toy_data: Path, suite: str
) -> None:
    options = ("--model", toy_folder, "--data", toy_data, "--out", "numbers", "--limit", "3")
    result = run("evaluate", suite, *options)
    assert result.status == 0, result.err
    assert any(Path("numbers").iterdir())


def test_measuring_without_the_extra_is_one_line(
    run: Run, toy_folder: Path, toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python takes for a package that is not there.
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # type: ignore[arg-type]
    result = run("evaluate", "tokenizer", "--model", toy_folder, "--data", toy_data)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("vilg: error: torchmetrics not found")
    assert 'pip install "vilg[eval]"' in result.err and result.err.count("\n") == 1
    assert not any(Path.cwd().iterdir())


def test_a_trained_model_draws_and_a_full_disk_is_one_line(run: Run, toy_data: Path) -> None:
    settings = [
        f"{stage}.{key}"
        for stage in ("tokenizer", "generator")
        for key in (
            f"data.folder={toy_data}",
            "data.groups=null",
            "data.limit=4",
            "loop.num_steps=2",
            "loop.batch_size=2",
        )
    ]
    vocabulary = Path(__file__).parent.parent / "datasets" / "emoji" / "tokenizer.json"
    command = (
        "train",
        "emoji_cpu_tiny",
        "--set",
        *settings,
        "--set",
        f"generator.vocabulary={vocabulary}",
    )
    result = run(*command)
    assert result.status == 0, result.err
    (folder,) = result.out.splitlines()
    assert Path(folder).is_relative_to("runs/emoji_cpu_tiny")
    assert f"--model {folder}" in result.err
    assert run("generate", "red apple", "-o", "a.png", "--model", folder).status == 0

    again = run(*command)
    assert again.status == 2 and "--resume" in again.err
    with full_disk(after=100_000):
        full = run(*command, "--out", "other")
    assert full.status == 2
    assert full.err.splitlines()[-1].startswith("vilg: error:")
    assert "Traceback" not in full.err


# import


@pytest.fixture(scope="module")
def published_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small published networks: taming.safetensors and .yaml, llamagen likewise, vqvae/."""
    folder = tmp_path_factory.mktemp("published")
    for name, settings, shapes in (
        ("taming", published.taming_settings(), published.taming_shapes),
        ("llamagen", published.llamagen_settings(), published.llamagen_shapes),
        ("diffusers", published.diffusers_settings(), published.diffusers_shapes),
    ):
        state = published.random_state(shapes(settings))
        if name == "taming":
            for leaf in ("bias", "weight"):  # of training
                state[f"loss.discriminator.main.0.{leaf}"] = torch.zeros(3)
        save_file(state, folder / f"{name}.safetensors")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    (folder / "vqvae").mkdir()
    (folder / "diffusers.safetensors").rename(
        folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    )
    settings = published.diffusers_settings()
    (folder / "vqvae" / "config.json").write_text(json.dumps(settings))
    return folder


IMPORTS = {
    "taming": ("taming.safetensors --config taming.yaml", "f4, 40 codes of 6, 8 x 8 tokens"),
    "taming, said": (
        "taming.safetensors --kind taming --config taming.yaml --image-size 64",
        "f4, 40 codes of 6, 16 x 16 tokens for 64 x 64 pixels",
    ),
    "llamagen": (
        "llamagen.safetensors --config llamagen.yaml",
        "f4, 40 codes of 8, 64 x 64 tokens",
    ),
    "diffusers": ("vqvae", "f4, 40 codes of 7, 8 x 8 tokens for 32 x 32 pixels"),
}


@pytest.mark.parametrize(("command", "said"), IMPORTS.values(), ids=list(IMPORTS))
def test_an_import_is_a_model_and_says_what_it_is(
    run: Run, published_weights: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    here = Path.cwd()
    monkeypatch.chdir(published_weights)
    first = run("import", *command.split(), "--out", here / "first")
    assert first.status == 0, first.err
    assert first.out.count("\n") == 1 and said in first.out
    model = load_model(here / "first")
    assert model.generator is None
    assert f"fingerprint {model.image_tokenizer.fingerprint()}" in first.out
    num_weights = sum(value.numel() for value in model.image_tokenizer.state_dict().values())
    assert f"{num_weights / 1e6:.1f} M weights" in first.out
    names = ["loss.discriminator.main.0.bias", "loss.discriminator.main.0.weight"]
    left_out = f"left out what only training needs: {names[0]} and 1 more\n"
    assert first.err == (left_out if command.startswith("taming") else "")
    second = run("import", *command.split(), "--out", here / "second")
    assert second.out.replace("second", "first") == first.out
    assert files_under(here / "second") == files_under(here / "first")


def test_an_import_replaces_no_model(run: Run, published_weights: Path, toy_folder: Path) -> None:
    shutil.copytree(toy_folder, "toy")
    before = files_under(Path("toy"))
    result = run("import", published_weights / "vqvae", "--out", "toy")
    assert result.status == 2 and "holds a model already" in result.err
    assert files_under(Path("toy")) == before


def test_an_import_onto_a_full_disk_is_one_line_and_no_model(
    run: Run, published_weights: Path
) -> None:
    with full_disk(after=10_000):
        result = run("import", published_weights / "vqvae", "--out", "model")
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1 and "cannot write" in result.err
    assert files_under(Path("model")) == {}


# Bad input


@pytest.fixture(scope="module")
def laid_out(
    tmp_path_factory: pytest.TempPathFactory,
    toy_folder: Path,
    toy_model: Model,
    published_weights: Path,
) -> Path:
    """A folder with everything that the cases below name."""
    folder = tmp_path_factory.mktemp("bad")
    picture = folder / "picture.png"
    Image.linear_gradient("L").save(picture)
    Image.new("L", (256, 256)).save(folder / "black.png")
    Image.new("L", (8, 8), 255).save(folder / "small.png")
    (folder / "broken.png").write_bytes(picture.read_bytes()[:100])
    (folder / "words.png").write_text("no picture")
    (folder / "folder").mkdir()
    (folder / "taken").write_text("a file")
    (folder / "empty.txt").write_text(" \n\n")
    (folder / "latin.txt").write_bytes(b"caf\xe9\n")
    (folder / "long.txt").write_text("red apple\n" + "red " * 100)
    (folder / "toy").symlink_to(toy_folder)
    for name in ("cut", "swapped", "garbled", "old", "unknown-key", "no-weights"):
        shutil.copytree(toy_folder, folder / name)
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for name, edit in {
        "swapped": ('"width": 32', '"width": 64'),
        "garbled": ("{", "["),
        "old": ('"format_version": 1', '"format_version": 99'),
        "unknown-key": ('"width"', '"breadth"'),
    }.items():
        config = folder / name / "config.json"
        config.write_text(config.read_text().replace(*edit))
    (folder / "no-weights" / "model.safetensors").unlink()
    save_model(folder / "image-only", Model(toy_model.image_tokenizer))
    shutil.copytree(published_weights, folder, dirs_exist_ok=True)
    (folder / "words.ckpt").write_text("no weights")
    whole = (folder / "taming.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    other = published.taming_settings(num_res_blocks=2)
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    other = published.taming_settings(double_z=True)
    (folder / "double.yaml").write_text(yaml.safe_dump(other))
    return folder


@pytest.fixture
def bad_files(run: Run, laid_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in that folder, which nothing may change."""
    monkeypatch.chdir(laid_out)


BAD_INPUT = {
    "missing picture": ("caption missing.png --model toy", "missing.png"),
    "broken picture": ("caption broken.png --model toy", "broken.png"),
    "text as picture": ("caption words.png --model toy", "words.png"),
    "folder as picture": ("caption folder --model toy", "folder"),
    "a bad picture after a good one": ("caption picture.png broken.png --model toy", "broken.png"),
    "unknown language": ("caption picture.png --lang fr --model toy", "fr"),
    "no captions": ("caption picture.png -n 0 --model toy", "at least 1"),
    "negative caption temperature": (
        "caption picture.png --temperature -1 --model toy",
        "temperature",
    ),
    "score of a missing picture": ("score missing.png red --model toy", "missing.png"),
    "score of an empty text": ("score picture.png  --model toy", "empty"),
    "score in an unknown language": ("score picture.png red --lang fr --model toy", "fr"),
    "empty prompt": ("generate  --model toy", "empty"),
    "blank prompt": ("generate \u3000\t --model toy", "empty"),
    "an empty prompt after a good one": ("generate red  --model toy", "empty"),
    "prompt too long": (f"generate {'red-' * 100} --model toy", "shorten"),
    "a long prompt in a file": ("generate --prompts long.txt --model toy", "prompt 2"),
    "no prompt": ("generate --model toy", "PROMPTS"),
    "prompt and file": ("generate red --prompts empty.txt --model toy", "PROMPTS"),
    "file without prompts": ("generate --prompts empty.txt --model toy", "empty.txt"),
    "file that is not UTF-8": ("generate --prompts latin.txt --model toy", "latin.txt"),
    "missing file of prompts": ("generate --prompts nowhere.txt --model toy", "nowhere.txt"),
    "folder as file of prompts": ("generate --prompts folder --model toy", "folder"),
    "negative temperature": ("generate red --temperature -1 --model toy", "temperature"),
    "temperature that is no number": ("generate red --temperature nan --model toy", "temperature"),
    "top-k of 0": ("generate red --top-k 0 --model toy", "top-k"),
    "negative guidance": ("generate red --guidance -1 --model toy", "guidance"),
    "top-p of 0": ("generate red --top-p 0 --model toy", "top-p"),
    "best of none": ("generate red --best-of 0 --model toy", "best-of must be at least 1"),
    "ranker that is not there": ("generate red --best-of 2 --rank nowhere --model toy", "nowhere"),
    "preview in a file": ("generate red --preview taken/a.png --model toy", "taken"),
    "edit of a missing picture": ("edit missing.png red --first-row 1 --model toy", "missing.png"),
    "edit with a missing mask": ("edit picture.png red --mask no.png --model toy", "no.png"),
    "edit of nothing": ("edit picture.png red --model toy", "a mask, a first row and a share"),
    "edit of too much": (
        "edit picture.png red --first-row 1 --share 0.5 --model toy",
        "by one of a mask",
    ),
    "preview over a folder": ("generate red --preview folder --model toy", "is a folder"),
    "preview over the result": (
        "generate red -o a.png --preview a.png --model toy",
        "not one of the results",
    ),
    "ranker without candidates": ("generate red --rank nowhere --model toy", "add --best-of"),
    "page over a folder": ("score picture.png red --html folder --model toy", "is a folder"),
    "page and JSON": ("score picture.png red --html a.html --json --model toy", "choose one"),
    "beam with a temperature": (
        "caption picture.png --beam 2 --temperature 1 --model toy",
        "leave temperature",
    ),
    "mask of another size": ("edit picture.png red --mask small.png --model toy", "8 x 8 pixels"),
    "black mask": (
        "edit picture.png red --mask black.png --model toy",
        "nothing in the mask is lighter than mid-grey (its lightest pixel is 0",
    ),
    "row outside the grid": ("edit picture.png red --first-row 4 --model toy", "0 to 3, not 4"),
    "share of nothing": ("edit picture.png red --share 0 --model toy", "share"),
    "edit for an empty prompt": ("edit picture.png  --first-row 1 --model toy", "empty"),
    "beam under the captions": ("caption picture.png -n 3 --beam 2 --model toy", "beam"),
    "page in a file": ("score picture.png red --html taken/a.html --model toy", "taken"),
    "no pictures": ("generate red -n 0 --model toy", "at least 1"),
    "several pictures in one file": ("generate red -n 2 -o a.png --model toy", "a.png"),
    "file as output folder": ("generate red -o taken --model toy", "taken"),
    "file above the output": ("generate red -o taken/a.png --model toy", "taken"),
    "bad output before a bad model": (
        "generate red -o taken --model nowhere",
        "taken is not a folder",
    ),
    "device as output": ("generate red -o /dev/full --model toy", "/dev/full"),
    "missing model": ("generate red --model nowhere", "nowhere"),
    "missing model on the hub": ("generate red --model nobody/nothing", "nobody/nothing"),
    "folder without a model": ("generate red --model folder", "folder"),
    "file as model": ("generate red --model taken", "taken"),
    "damaged weights": ("generate red --model cut", "cut"),
    "missing weights": ("generate red --model no-weights", "no-weights"),
    "weights of another shape": ("caption picture.png --model swapped", "swapped"),
    "settings that are no JSON": ("caption picture.png --model garbled", "garbled"),
    "model of another format": ("generate red --model old", "99"),
    "model with an unknown key": ("generate red --model unknown-key", "breadth"),
    "image tokenizer as model": ("generate red --model image-only", "generator"),
    "unknown recipe": ("train emoji_gpu", "emoji_cpu_tiny"),
    "unknown key": ("train emoji_cpu --set generator.loop.steps=3", "num_steps"),
    "value of another type": ("train emoji_cpu --set generator.width=wide", "generator.width"),
    "setting without a value": ("train emoji_cpu --set generator.width", "key=value"),
    "nothing to resume": ("train emoji_cpu --resume", "resume"),
    "file as run folder": ("train emoji_cpu --out taken", "taken"),
    "missing training data": ("data stats folder", "manifest.json"),
    "demo without data": ("demo --model toy", "--data"),
    "unknown suite": ("evaluate speed --model toy", "speed"),
    "import of nothing": ("import nowhere.ckpt --out new", "nowhere.ckpt"),
    "import from nowhere on the hub": ("import nobody/nothing --out new", "nobody/nothing"),
    "import of a folder without weights": ("import folder --out new", "diffusion_pytorch_model"),
    "import of a model of ours": ("import toy --out new", "diffusion_pytorch_model"),
    "import of words": ("import words.ckpt --out new", "words.ckpt"),
    "import of half a file": (
        "import cut.safetensors --config taming.yaml --out new",
        "cut.safetensors",
    ),
    "import without settings": ("import taming.safetensors --out new", "--config"),
    "import with settings of another network": (
        "import taming.safetensors --config other.yaml --out new",
        "missing: encoder.down.0.block.1",
    ),
    "import of what cannot be computed": (
        "import taming.safetensors --config double.yaml --out new",
        "double_z",
    ),
    "import with words for settings": (
        "import taming.safetensors --config taken --out new",
        "taken has no keys",
    ),
    "import of an unknown kind": ("import vqvae --kind dalle --out new", "taming, llamagen"),
    "import of another kind": ("import vqvae --kind taming --out new", "those of diffusers"),
    "import of a size that does not halve": (
        "import vqvae --image-size 30 --out new",
        "image_size",
    ),
    "file as import folder": ("import vqvae --out taken", "taken is not a folder"),
    "import over a model": ("import vqvae --out image-only", "image-only"),
    "evaluation of nothing": ("evaluate tokenizer --limit 0 --model toy", "--limit"),
}


@pytest.mark.parametrize(("command", "expected"), BAD_INPUT.values(), ids=list(BAD_INPUT))
@pytest.mark.usefixtures("bad_files")
def test_bad_input_is_one_line_and_leaves_nothing(run: Run, command: str, expected: str) -> None:
    before = files_under(Path.cwd())
    result = run(*command.split(" "))
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("vilg: error: ")
    assert result.err.count("\n") == 1 and result.err.endswith("\n")
    assert expected.lower() in result.err.lower()
    assert files_under(Path.cwd()) == before


@pytest.mark.usefixtures("bad_files")
def test_a_demo_that_cannot_be_written_is_one_line(run: Run, toy_data: Path) -> None:
    result = run("demo", "--model", "toy", "--data", toy_data, "--out", "taken")
    assert result.status == 2
    assert result.err.count("\n") == 1 and "taken" in result.err


@pytest.mark.parametrize(
    "command", ["", "draw", "generate red --colour blue", "generate red -n many", "score a", "data"]
)
def test_wrong_usage_exits_with_2_and_points_to_the_help(run: Run, command: str) -> None:
    result = run(*command.split())
    assert (result.status, result.out) == (2, "")
    assert "--help" in result.err and "Traceback" not in result.err


class full_disk:
    """Let no file grow beyond a size, which fails in the middle of a write as a full disk does."""

    def __init__(self, after: int):
        self.after = after

    def __enter__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.after, self.limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limits)


def test_a_full_disk_leaves_no_half_picture(run: Run, toy_folder: Path) -> None:
    Path("a.png").write_text("the old one")
    with full_disk(after=100):
        result = run("generate", "red", "-o", "a.png", "--model", toy_folder)
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1 and "cannot write a.png" in result.err
    assert files_under(Path.cwd()) == {"a.png": b"the old one"}


@pytest.fixture
def alarm() -> Iterator[None]:
    """Press Ctrl-C half a second from now."""
    old = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def test_ctrl_c_is_one_line_and_leaves_whole_pictures(
    run: Run, toy_folder: Path, alarm: None
) -> None:
    result = run("generate", "red", "-n", "20000", "--model", toy_folder)
    assert (result.status, result.err) == (130, "vilg: interrupted\n")
    for path in Path.cwd().rglob("*.*"):
        Image.open(path).load()


# As a process of its own; buffered, because a full disk or a closed pipe then shows at the exit

BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_the_installed_command_says_nothing_but_the_result(picture: Path, toy_folder: Path) -> None:
    command = [str(part) for part in (VILG, "caption", picture, "--model", toy_folder)]
    done = subprocess.run(
        command, capture_output=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"\n") and done.stdout.count(b"\n") == 1


def test_help_works_without_torch() -> None:
    code = "import sys, vilg.cli; vilg.cli.main(['train', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert "Example: vilg train emoji_cpu_tiny" in done.stdout


@pytest.mark.parametrize(
    "verb",
    ["demo", "generate", "edit", "caption", "score", "train", "evaluate", "import", "data stats"],
)
def test_every_verb_has_a_summary_and_an_example(run: Run, verb: str) -> None:
    result = run(*verb.split(), "--help")
    assert (result.status, result.err) == (0, "")
    usage, _, summary, _, example, *_ = result.out.splitlines()
    assert usage.startswith(f"usage: vilg {verb} ")
    assert summary.endswith(".") and summary != usage
    assert example.startswith(f"Example: vilg {verb} ")


def test_a_full_disk_under_stdout_is_an_error(toy_data: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [str(VILG), "data", "stats", str(toy_data)],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
            env=BUFFERED,
        )
    assert done.returncode == 2
    assert done.stderr == "vilg: error: No space left on device\n"


def test_a_reader_that_closes_the_pipe_is_no_error(toy_data: Path) -> None:
    command = [sys.executable, "-m", "vilg.cli", "data", "stats", str(toy_data)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=BUFFERED) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE

"""Bad input ends in one line and status 2, and leaves nothing behind."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.cli.conftest import Run, files_under
from tests.tokenizer import published
from vilg.model.folder import Model, save_model


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
    save_model(folder / "silent", replace(toy_model, answer_languages=()))
    for name in ("question", "caption"):
        (folder / f"{name}s.jsonl").write_text(f'{{"image": "picture.png", "{name}": "what"}}\n')
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
    "unknown language": ("caption picture.png --lang fr --model toy", "'fr'"),
    "no captions": ("caption picture.png -n 0 --model toy", "at least 1"),
    "negative caption temperature": (
        "caption picture.png --temperature -1 --model toy",
        "temperature",
    ),
    "score of a missing picture": ("score missing.png red --model toy", "missing.png"),
    "score of an empty text": ("score picture.png  --model toy", "empty"),
    "score in an unknown language": ("score picture.png red --lang fr --model toy", "'fr'"),
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
    "nothing to resume": ("train emoji_cpu --resume", "nothing to resume"),
    "larger than memory": (
        "train emoji_cpu_tiny --set generator.width=1048576",
        "million weights, whose training takes at least",
    ),
    "larger than any memory": (
        f"train emoji_cpu_tiny --set generator.width={2**50}",
        "width must be at most 1048576",
    ),
    "file as run folder": ("train emoji_cpu --out taken", "taken"),
    "counts of an empty folder": ("data stats folder", "folder holds no pair; read as folder"),
    "check of an empty folder": (
        "data check folder",
        "holds no pair; read as folder: pictures with",
    ),
    "check of nothing": ("data check nowhere", "nowhere is not there"),
    "check of no kind": ("data check folder --format photos", "no format is called 'photos'"),
    "check of no length": ("data check folder --max-text 1", "--max-text must be at least 2"),
    "sheet that is a folder": ("data check folder --sheet folder", "it is a folder"),
    "pack of nothing": ("data pack nowhere --out new", "nowhere is not there"),
    "pack into a file": ("data pack folder --out taken", "taken is not a folder"),
    "demo without data": ("demo --model toy --data folder", "--data"),
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
    "refined captions": ("evaluate generator --refine 3 --model toy", "refines no tokens"),
    "refined backwards": ("evaluate tokenizer --refine -1 --model toy", "refine must be 0 or more"),
    "splits of captions": ("evaluate generator --splits train --model toy", "leave splits out"),
    "tokens refined in int8": (
        "evaluate tokenizer --refine 3 --precision int8 --model toy",
        "measured in fp32",
    ),
    "question without a picture": ("answer", "name a picture and ask"),
    "empty question": ("answer picture.png  --model toy", "the text is empty"),
    "question too long": (f"answer picture.png {'red' * 40} --model toy", "shorten it"),
    "model without questions": (
        "answer picture.png red --model silent",
        "not trained on questions",
    ),
    "choices alike": ("answer picture.png red --model toy --choices a A", "the same to this model"),
    "one choice": ("answer picture.png red --model toy --choices a", "at least two choices"),
    "answer to an unknown picture": ("answer none.png red --model toy", "none.png"),
    "answers nowhere": ("answer --questions questions.jsonl --model toy", "add -o"),
    "answers over the questions": (
        "answer --questions questions.jsonl --model toy -o questions.jsonl",
        "questions.jsonl is what is read",
    ),
    "several answers to a file": (
        "answer --questions questions.jsonl -n 2 --model toy -o new.json",
        "one answer each",
    ),
    "a file without questions": (
        "answer --questions captions.jsonl --model toy -o new.json",
        "no questions",
    ),
    "a file in a strange language": (
        "answer --questions questions.jsonl --model toy -o new.json --lang fr",
        "'fr' is unknown",
    ),
    "a file for a model without questions": (
        "answer --questions questions.jsonl --model silent -o new.json",
        "not trained on questions",
    ),
    "no such device": ("generate red --device gpu --model toy", "no device is called gpu"),
    "rounded tokenizer": ("evaluate tokenizer --precision int8 --model toy", "measured in fp32"),
}


@pytest.mark.parametrize(("command", "expected"), BAD_INPUT.values(), ids=list(BAD_INPUT))
@pytest.mark.usefixtures("bad_files")
def test_bad_input_is_one_line_and_leaves_nothing(run: Run, command: str, expected: str) -> None:
    before = files_under(Path.cwd())
    result = run(*command.split(" "))
    assert result.status == 2
    assert result.out == ""
    *before_it, line = result.err.splitlines()
    # A training, or whatever reads pairs, has said by then what its data were taken for.
    assert not before_it or (
        command.startswith(("train ", "answer ")) and ": read as " in before_it[0]
    )
    assert line.startswith("vilg: error: ") and result.err.endswith("\n")
    assert expected.lower() in line.lower()
    assert files_under(Path.cwd()) == before


@pytest.mark.parametrize(
    "command",
    [
        "generate red",
        "edit picture.png red --share 0.5",
        "caption picture.png",
        "evaluate generator",
    ],
)
@pytest.mark.usefixtures("bad_files")
def test_a_precision_without_instructions_is_one_line_and_leaves_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    before = files_under(Path.cwd())
    result = run(*command.split(), "--precision", "int8", "--model", "toy")
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("vilg: error: ") and result.err.count("\n") == 1
    assert "no instructions for int8: take fp32" in result.err
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

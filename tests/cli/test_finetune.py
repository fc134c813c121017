"""`vilg finetune`: a folder of pictures to a model or an adapter, and what it says at its end."""

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Run, files_under

QUICK = ("--steps", "2", "--batch", "3")


@pytest.fixture
def pictures(run: Run) -> Path:
    """Three pictures without captions."""
    folder = Path("cats")
    folder.mkdir()
    for i, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 36), colour).save(folder / f"{i}.png")
    return folder


def test_pictures_without_captions_make_an_adapter(
    run: Run, pictures: Path, toy_folder: Path, toy_data: Path
) -> None:
    command = ("finetune", pictures, "--from", toy_folder, "--prompt", "my cat", "--lora", "2")
    result = run(*command, "--replay", toy_data, *QUICK, "--lr", "0.1", "--out", "cat")
    assert (result.status, result.out) == (0, "cat/generator/model\n"), result.err
    assert "3 pairs with captions" in result.err
    assert (
        f"an adapter of rank 2 of {toy_folder}: 2 steps of 3 pairs, learning rate 0.1" in result.err
    )
    assert "a row for each of 'my cat': cat/before_after.png" in result.err
    assert "old pairs, 20 of those replayed: image given text " in result.err
    with Image.open("cat/before_after.png") as sheet:
        assert sheet.size == (8 * 36 + 4, 36 + 4)
    for folder in ("adapter", "model"):
        card = Path("cat/generator", folder, "README.md").read_text()
        assert "an adapter (LoRA) of rank 2, alpha 4" in card and "vilg generate 'my cat'" in card
    for line in result.err.splitlines():
        if line.startswith("  vilg generate"):
            words = line.replace("'my cat'", "x").split()[1:]
            assert run(*words, "-o", "drawn.png").status == 0
    # Finished already, it only says again what it said.
    again = run("finetune", pictures, "--resume", "--out", "cat")
    assert again.status == 0 and again.err.splitlines()[-4:] == result.err.splitlines()[-4:]


def test_all_weights_may_learn(run: Run, pictures: Path, toy_folder: Path) -> None:
    for i in range(3):
        (pictures / f"{i}.txt").write_text("红方块\n", encoding="utf-8")
    result = run("finetune", pictures, "--from", toy_folder, *QUICK)
    assert result.status == 0, result.err
    assert "nothing is replayed: the model may forget" in result.err
    assert "old pairs, not measured" in result.err
    assert not Path("runs/finetune/generator/adapter").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cats", "cats has no captions: put NAME.txt beside each picture, or add --prompt"),
        ("one --prompt cat", "one has one picture: give 2 or more"),
        ("nothing --prompt cat", "is not a folder"),
        ("cats --prompt cat --from missing", "no model at missing"),
        ("cats --prompt cat --from emoji-tokenizer", "has no generator to go on from"),
        ("cats --prompt cat --lora 0", "rank must be at least 1"),
        ("cats --resume", "nothing to resume in runs/finetune"),
    ],
)
def test_what_cannot_be_learnt_is_one_line(run: Run, pictures: Path, words: str, said: str) -> None:
    Path("one").mkdir()
    Image.new("RGB", (40, 36)).save("one/0.png")
    result = run("finetune", *words.split())
    assert (result.status, result.out) == (2, "")
    assert said in result.err and result.err.count("vilg: error") == 1
    assert not Path("runs/finetune/config.json").exists()
    assert files_under(pictures).keys() == {"0.png", "1.png", "2.png"}

"""The command as a process: full disks, Ctrl-C, closed pipes, help, its version."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import VILG, Result, Run, files_under, full_disk
from vilg.cli.picture_files import read_prompts
from vilg.shipped.emoji import EMOJI, RECIPES, VOCABULARY
from vilg.shipped.suites import SUITES

ROOT = Path(__file__).parents[2]


def test_a_full_disk_leaves_no_half_picture(run: Run, toy_folder: Path) -> None:
    Path("a.png").write_text("the old one")
    with full_disk(after=100):
        result = run("generate", "red", "-o", "a.png", "--model", toy_folder)
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1 and "cannot write a.png" in result.err
    assert files_under(Path.cwd()) == {"a.png": b"the old one"}


@pytest.fixture
def ctrl_c(tmp_path: Path) -> Iterator[None]:
    """Press Ctrl-C once a picture is there.

    By the clock it could fall into the loading of weights, where safetensors turns it into another error.
    """

    def press() -> None:
        while not over.wait(0.02):
            if any(tmp_path.rglob("*.png")):
                os.kill(os.getpid(), signal.SIGALRM)
                return

    over, old = threading.Event(), signal.signal(signal.SIGALRM, signal.default_int_handler)
    finger = threading.Thread(target=press)
    finger.start()
    yield
    over.set()
    finger.join()
    signal.signal(signal.SIGALRM, old)


# Pressed just as a file has been opened, Ctrl-C leaves closing it to Python, which says so.
@pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_is_one_line_and_leaves_whole_pictures(
    run: Run, toy_folder: Path, ctrl_c: None
) -> None:
    result = run("generate", "red", "-n", "20000", "--model", toy_folder)
    assert (result.status, result.err) == (130, "vilg: interrupted\n")
    paths = list(Path.cwd().rglob("*.*"))
    assert paths
    for path in paths:
        Image.open(path).load()


def hear_ctrl_c() -> None:
    """Undo what a shell hands on to all that it starts in the background, these tests for one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_while_a_model_loads_is_one_line(tmp_path: Path, toy_folder: Path) -> None:
    """Its vocabulary is a pipe, which nobody can read to its end: the signal comes before that."""
    folder = tmp_path / "model"
    shutil.copytree(toy_folder, folder)
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    command = [sys.executable, "-m", "vilg", "generate", "red", "--model", str(folder)]
    with (
        subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, preexec_fn=hear_ctrl_c
        ) as process,
        open(folder / "tokenizer.json", "w"),  # waits until the command opens it too
    ):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "vilg: interrupted\n")


def test_no_color_is_heard_in_help_on_a_terminal() -> None:
    def shown(**more: str) -> bytes:
        master, slave = os.openpty()
        command = [sys.executable, "-m", "vilg", "data", "stats", "--help"]
        environment = {**os.environ, "TERM": "xterm", "FORCE_COLOR": "1", **more}
        with subprocess.Popen(command, stdout=slave, env=environment):
            os.close(slave)
            text = b""
            try:
                while part := os.read(master, 2**16):
                    text += part
            except OSError:  # how Linux says that nobody holds the other end any more
                pass
        os.close(master)
        return text

    plain = shown(NO_COLOR="1")
    assert b"Example: vilg data stats" in plain and b"\x1b" not in plain
    assert b"\x1b" in shown(NO_COLOR="")


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


DATA_VERBS = ("data check", "data stats", "data pack", "data tokenize")


@pytest.mark.parametrize(
    "verb",
    ["demo", "generate", "edit", "caption", "score", "train", "evaluate", "import", *DATA_VERBS],
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
    command = [sys.executable, "-m", "vilg", "data", "stats", str(toy_data)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=BUFFERED) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_the_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == Result(0, f"vilg {version('vilg')}\n", "")


def test_recipes_and_verbs_find_the_pictures_and_the_vocabulary_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (EMOJI / "manifest.json").is_file()
    assert VOCABULARY.read_bytes() == (EMOJI / "tokenizer.json").read_bytes()
    recipe = RECIPES["emoji_cpu_tiny"].recipe()
    assert recipe.tokenizer and recipe.tokenizer.data.source == str(EMOJI)
    assert recipe.generator and Path(recipe.generator.vocabulary).is_file()


def test_make_install_refuses_an_old_python_in_a_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    code = 'import sys; sys.version_info, sys.version = (3, 10, 4), "3.10.4 old"'
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "$(cat "$0.py"); $2"\n')
    (tmp_path / "python3.10.py").write_text(code)
    old.chmod(0o755)
    rule = ["make", "-C", str(tmp_path), "-f", str(ROOT / "Makefile"), "install", f"PYTHON={old}"]
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    done = subprocess.run(rule, capture_output=True, check=False, text=True)
    assert done.returncode and not (tmp_path / ".venv").exists()
    assert "vilg needs Python 3.11 or newer, this is 3.10.4" in done.stderr


def test_json_stays_json_where_the_stream_speaks_ascii(
    run: Run, picture: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("🍎.png").write_bytes(picture.read_bytes())
    # Beyond U+FFFF, where Python's own escapes are none of JSON.
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run("caption", "🍎.png", "--json", "--model", toy_folder).status == 0
    assert json.loads(stream.buffer.getvalue().decode("ascii"))["image"] == "🍎.png"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_loses_no_picture(closed: str, tmp_path: Path, toy_folder: Path) -> None:
    command = f"{VILG} generate red -o a.png --model {toy_folder} {closed}"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if closed.startswith(">") else "a.png\n")
    Image.open(tmp_path / "a.png").load()


@pytest.mark.parametrize(("prompt", "status"), [("red 🍎", 0), ("🍎", 2)])
def test_a_stderr_whose_reader_has_gone_loses_no_picture(
    tmp_path: Path, toy_folder: Path, prompt: str, status: int
) -> None:
    command = [str(VILG), "generate", prompt, "-o", "a.png", "--model", str(toy_folder)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=write, check=False, text=True
    )
    os.close(write)
    assert (done.returncode, done.stdout) == (status, "" if status else "a.png\n")
    assert (tmp_path / "a.png").exists() == (status == 0)


def test_a_large_picture_is_read_without_a_word(
    run: Run, picture: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 1500
    )  # of 2000; Pillow warns up to twice as many
    result = run("caption", picture, "--model", toy_folder)
    assert (result.status, result.err) == (0, "")


def test_prompts_are_split_at_line_ends_only(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("red\u2028apple\r\n\nblue\x85\x0csquare\n".encode())
    assert read_prompts(path) == ["red\u2028apple", "blue\x85\x0csquare"]


def test_the_help_of_evaluate_says_what_each_suite_measures(run: Run) -> None:
    shown = " ".join(run("evaluate", "--help").out.replace("│", " ").split())
    assert {*SUITES} == {"tokenizer", "generator", "drawing"}
    for suite in SUITES:
        assert re.search(rf"{suite}: \w+", shown)


@pytest.mark.parametrize(("save_every", "out"), [(1, "my run"), (1000, "run")])
def test_an_interrupted_training_says_how_to_go_on(
    tmp_path: Path, save_every: int, out: str
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "photos" / "red.png")
    settings = ("data.source=photos", "loop.num_steps=100000", "loop.batch_size=1")
    every = ("loop.log_every=1", f"loop.save_every={save_every}")
    changes = [f"tokenizer.{setting}" for setting in settings + every]
    command = [VILG, "train", "picture_tokenizer", "--out", out, "--set", *changes]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=hear_ctrl_c,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step 2/"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait() == 130
    assert said.splitlines()[-1] == "vilg: interrupted"
    if save_every == 1:
        assert f"vilg train picture_tokenizer --resume --out '{out}'\n" in said
    else:
        assert f"{out} is free" in said
    assert (tmp_path / out / "config.json").exists() == (save_every == 1)

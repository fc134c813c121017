"""`vilg data tokenize` as a user and as a cluster start it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import VILG, Run, files_under

PAIRS = 1100  # two parts


@pytest.fixture
def source(run: Run) -> Path:
    """A file of pairs, one of which has no picture."""
    Image.linear_gradient("L").resize((32, 32)).save("a.png")
    lines = [{"id": i, "image": "a.png", "en": f"red {i % 10}"} for i in range(PAIRS)]
    lines[3]["image"] = "missing.png"
    Path("pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Path("pairs.jsonl")


def test_one_command_makes_a_store(run: Run, source: Path, toy_folder: Path) -> None:
    result = run("data", "tokenize", source, "--out", "tokens", "--model", toy_folder)
    assert (result.status, result.out) == (0, "tokens\n")
    assert "pairs.jsonl: read as JSON lines" in result.err
    said = f"{PAIRS - 1} pairs, {PAIRS - 1} texts; left out: 1 pairs"
    assert said in result.err and str(Path("tokens", "rejects.jsonl")) in result.err
    made = files_under(Path("tokens"))
    again = run("data", "tokenize", source, "--out", "tokens", "--model", toy_folder)
    assert (again.status, again.out) == (0, "tokens\n") and said in again.err
    assert files_under(Path("tokens")) == made
    longer = ("--max-text", "65", "--model", toy_folder)
    other = run("data", "tokenize", source, "--out", "tokens", *longer)
    assert other.status == 2 and "remove it first" in other.err.splitlines()[-1]
    assert files_under(Path("tokens")) == made


CLUSTERS = {
    "torchrun": [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)],
    "Slurm array": [
        {"SLURM_ARRAY_TASK_ID": str(id), "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "1"}
        for id in (2, 1)
    ],
    "old Slurm": [
        {"SLURM_ARRAY_TASK_ID": str(id), "SLURM_ARRAY_TASK_COUNT": "2"} for id in range(2)
    ],
}


@pytest.mark.parametrize("cluster", CLUSTERS.values(), ids=CLUSTERS)
def test_workers_of_a_cluster_share_the_work(
    run: Run,
    source: Path,
    toy_folder: Path,
    cluster: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("data", "tokenize", source, "--model", toy_folder, "--out")
    assert run(*words, "alone").status == 0
    for number, variables in enumerate(cluster):
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            result = run(*words, "shared")
        assert result.status == 0
        assert result.out == ("shared\n" if number else "")
        assert ("this worker's part is done" in result.err) == (number == 0)
    assert files_under(Path("shared")) == files_under(Path("alone"))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 is none of 2 workers"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "RANK=0 is none of 0 workers"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK=one is no whole number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK=-1 is no whole number"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE= is no whole number"),
        (
            {
                "SLURM_ARRAY_TASK_ID": "8",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_ARRAY_TASK_MIN": "4",
            },
            "SLURM_ARRAY_TASK_ID=8 is none of 2 workers",
        ),
    ],
)
def test_workers_that_cannot_be_are_refused(
    run: Run, source: Path, variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = run("data", "tokenize", source, "--out", "tokens")
    assert result.status == 2 and said in result.err and result.err.count("\n") == 1
    assert not Path("tokens").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--max-text 1", "--max-text must be at least 2"),
        ("--max-rejects 1.5", "--max-rejects must be from 0 to 1"),
        ("--max-rejects nan", "--max-rejects must be from 0 to 1"),
        ("--max-rejects 0.0001", "1 of 1100 pairs were left out, more than 0.01%"),
        ("--out taken", "taken"),
    ],
)
def test_options_that_cannot_be_are_refused(
    run: Run, source: Path, toy_folder: Path, options: str, said: str
) -> None:
    Path("taken").write_text("a file")
    result = run(
        *("data", "tokenize", source, "--out", "tokens", "--model", toy_folder), *options.split()
    )
    last = result.err.splitlines()[-1]
    assert result.status == 2 and said in last and last.startswith("vilg: ")
    assert not Path("tokens", "store.json").exists()


def test_workers_of_a_shell_loop_run_at_once(run: Run, source: Path, toy_folder: Path) -> None:
    words = ("data", "tokenize", source, "--model", toy_folder, "--out")
    assert run(*words, "alone").status == 0
    processes = [
        subprocess.Popen(
            [VILG, *words, "shared"],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert files_under(Path("shared")) == files_under(Path("alone"))

"""Bad input to `vilg train` on two processes: one line of one of them, and status 2 of both."""

import os
import resource
import shutil
import socket
from pathlib import Path

import pytest
import torch

from tests.training.conftest import forking
from vilg.cli import main


def work(argv: list[str], rank: int, port: int, said: Path, largest_file: int | None) -> None:
    """Run the command as one of two processes; largest_file stands for a disk that gets full."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if largest_file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    raise SystemExit(main(argv))


def train(folder: Path, argv: list[str], full: int | None = None) -> tuple[list[int | None], str]:
    """Train on two processes, where the disk of one may get full; return their status, and all they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = [folder / f"said-{rank}" for rank in range(2)]
    processes = [
        forking().Process(
            target=work, args=(argv, rank, port, said[rank], 1_000_000 if rank == full else None)
        )
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes], "".join(map(Path.read_text, said))


@pytest.fixture
def argv(tmp_path: Path, toy_folder: Path, toy_data: Path) -> list[str]:
    """Two steps of a small generator, on 20 squares."""
    settings = {
        "image_tokenizer": str(toy_folder), "width": 16, "num_heads": 2, "data.limit": 4,
        "loop.num_steps": 2, "loop.batch_size": 2, "loop.save_every": 1, "loop.precision": "fp32",
    }  # fmt: skip
    changes = [f"generator.{name}={value}" for name, value in settings.items()]
    given = ["--data", str(toy_data), "--out", str(tmp_path / "out")]
    return ["train", "pairs", *given, "--set", *changes]


def errors(said: str) -> list[str]:
    return [line for line in said.splitlines() if "error" in line.lower()]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["generator.loop.batch_size=3"], "3 pairs a step drawn do not divide among 2 processes"),
        (["generator.parallel.shard_over=3"], "2 processes do not divide into groups"),
        (["--device", "cuda:99"], "cuda"),
    ],
)
def test_what_cannot_begin_is_said_once(
    tmp_path: Path, argv: list[str], more: list[str], reason: str
) -> None:
    status, said = train(tmp_path, [*argv, *more])
    assert status == [2, 2]
    (line,) = errors(said)
    assert line.startswith("vilg: error: ") and reason in line
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_is_said_once(tmp_path: Path, argv: list[str], rank: int) -> None:
    status, said = train(tmp_path, argv, full=rank)
    assert status == [2, 2]
    (line,) = errors(said)
    assert f"process {rank}: " in line and "File too large" in line
    assert not list(tmp_path.glob("out/generator/checkpoints/*"))


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_said_once(tmp_path: Path, argv: list[str]) -> None:
    status, said = train(tmp_path, argv)
    assert status == [0, 0], said
    assert said.count("generator: 4 pairs") == said.count("step 2/2") == said.count("done;") == 1
    out = tmp_path / "out"
    shutil.rmtree(out / "generator" / "model")
    for path in (out / "config.json", out / "generator" / "config.json"):
        path.write_text(path.read_text().replace('"width": 16', '"width": 32'))
    status, said = train(tmp_path, [*argv[:6], "--resume"])
    assert status == [2, 2]
    (line,) = errors(said)
    assert "belongs to another model" in line

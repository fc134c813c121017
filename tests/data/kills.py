"""Kill `vilg data pack` and `vilg data tokenize` at random moments: what is made in the end has the same bytes.

    python -m tests.data.kills          30 kills of each

Rounds of 1 to 3 workers are begun on one folder. Each worker is ended by SIGKILL when a drawn number of parts was
made in its round, and a drawn share of a part's time has passed; who is quicker must end well. When all parts
are made, one more worker ends the work, the result is compared with an undisturbed run's, file by file, and
all is made anew. The moments are drawn from a seed, but what a worker does then depends on the machine. On 2
cores it prints, after some 5 minutes:

    pack: 31 kills (29 making parts, 2 joining); 3 results, all with the same bytes
    tokenize: 32 kills (30 making parts, 2 joining); 3 results, all with the same bytes
"""

import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests.conftest import save_toy
from tests.data.sources import files_of, picture, write_jsonl
from vilg.cli import main
from vilg.data import pack, parts

VERBS = {"pack": ("manifest.json", ".json"), "tokenize": ("store.json", ".npz")}
ITEMS, PARTS = 100, 30  # pairs of a part, parts of the source
PAIRS = ITEMS * PARTS - 50


def lay_source(folder: Path) -> Path:
    """Write pairs, of which some have no picture or the id of another part's."""
    records: list[dict[str, Any]] = []
    for i in range(PAIRS):
        name = "lost" if i % 250 == 7 else i % 40
        id = i - 300 if i % 301 == 300 else i
        records.append(
            {
                "id": id,
                "image": f"{name}.png",
                "en": ["red apple", f"apple {i % 9}"],
                "zh": "红苹果",
            }
        )
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.png").write_bytes(picture(number, size=(40, 33)))
    return write_jsonl(folder, records)


def work(argv: list[str], rank: int, world: int) -> None:
    """Run a verb as one of some workers."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    for module in (parts, pack):
        module.ITEMS = ITEMS  # type: ignore[attr-defined]
    sys.exit(main(argv))


class Victims:
    """Runs of one verb, all of them to the same folder, which are killed.

    Attributes:
        fell: how many kills fell where.
        wholes: how many results were compared.
    """

    def __init__(self, verb: str, folder: Path, seed: int):
        self.verb, self.out, self.rng = verb, folder / "out", random.Random(seed)
        self.last, self.suffix = VERBS[verb]
        self.argv = ["data", verb, str(lay_source(folder / "in")), "--out", str(self.out)]
        self.argv += (
            ["--name", "toy"] if verb == "pack" else ["--model", str(save_toy(folder / "model"))]
        )
        self.fell: Counter[str] = Counter()
        self.wholes = 0
        process = self.start()
        while self.where() == "starting":
            time.sleep(0.001)
        begun = time.monotonic()
        process.join()
        self.seconds_a_part = (time.monotonic() - begun) / PARTS
        self.expected = files_of(self.out)
        shutil.rmtree(self.out)

    def start(self, rank: int = 0, world: int = 1) -> BaseProcess:
        context = get_context("forkserver")  # pytest's threads would be lost by a fork
        context.set_forkserver_preload([__name__, "vilg.api", "vilg.tokenizer.into_store"])
        process = context.Process(target=work, args=(self.argv, rank, world))
        process.start()
        return process

    def finish(self) -> None:
        process = self.start()
        process.join()
        assert process.exitcode == 0

    def made(self) -> int:
        return len(list((self.out / "parts").glob(f"0*{self.suffix}")))

    def where(self) -> str:
        """Say what is done at this moment, by what is there."""
        if (self.out / self.last).exists():
            return "clearing up"
        if not (self.out / "parts" / "made_from.json").exists():
            return "starting"
        return "joining" if self.made() == PARTS else "making parts"

    def round(self) -> None:
        """Start workers and kill each at a moment of its own, after some part was made in this round."""
        before, world = self.made(), self.rng.randint(1, 3)
        workers = [self.start(rank, world) for rank in range(world)]
        for worker in self.rng.sample(workers, world):
            goal = before + self.rng.randint(1, PARTS // 4)
            while (
                worker.is_alive()
                and self.where() in ("starting", "making parts")
                and self.made() < goal
            ):
                time.sleep(0.001)
            time.sleep(self.rng.random() * self.seconds_a_part)
            where = self.where()
            worker.kill()
            worker.join()
            assert worker.exitcode in (0, -9), worker.exitcode
            self.fell[where] += worker.exitcode == -9
        if self.made() == PARTS or (self.out / self.last).exists():
            self.compare()

    def compare(self) -> None:
        """Compare what is made with what an undisturbed run made, and remove it."""
        self.finish()
        assert files_of(self.out) == self.expected
        self.wholes += 1
        shutil.rmtree(self.out)


def kill(verb: str, folder: Path, number: int, seed: int) -> Victims:
    """Kill so many workers and compare the results."""
    victims = Victims(verb, folder, seed)
    while victims.fell.total() < number:
        victims.round()
    if victims.out.exists():
        victims.compare()
    return victims


if __name__ == "__main__":
    for verb in VERBS:
        with tempfile.TemporaryDirectory() as folder:
            found = kill(verb, Path(folder), 30, seed=8)
        fell = ", ".join(f"{number} {where}" for where, number in found.fell.most_common())
        print(
            f"{verb}: {found.fell.total()} kills ({fell}); {found.wholes} results, all with the same bytes"
        )

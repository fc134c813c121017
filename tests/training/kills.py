"""Kill one of the two processes of a training at random moments: it ends soon, goes on, and ends bit for bit alike.

    python -m tests.training.kills          30 kills

The run has both stages, the second of them end to end: a generator that is sharded, a reconstructor, a
discriminator. One of its processes gets SIGKILL when a drawn number of checkpoints was saved since it was started
and a drawn share of the time between two has passed; every third one as soon as the next checkpoint is begun. A kill fell
inside a save if the checkpoint stays unfinished. The other process must end by itself, with status 2 and a line that
names the one that was killed. Then the run goes on; when it has come to its end, its logs, last checkpoints and
models are compared with those of a run that nobody has disturbed, and it begins anew. The moments are drawn from a
seed, but what a process does then depends on the machine. On 2 cores, with other work on them, it prints after
ACCOUNT
"""

import io
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tests.data.sources import files_of
from tests.training.conftest import OPTIM, R1, SMALL_VQGAN, forking, log_records, read_checkpoint
from tests.training.test_run import write_data_set
from vilg.errors import VilgError
from vilg.model.patterns import paper_patterns
from vilg.parallel import joined
from vilg.text import TextTokenizer
from vilg.tokenizer.codebooks import CodebookConfig
from vilg.training.checkpoint import find
from vilg.training.end_to_end import EndToEndConfig
from vilg.training.inputs import DataConfig
from vilg.training.loop import LoopConfig
from vilg.training.run import run
from vilg.training.settings import GeneratorRun, Recipe, TokenizerRun

STEPS, SAVE_EVERY = 18, 3
WORLD = 2
WITHIN = 60  # seconds in which a run ends after one of its processes was killed
STAGES = ("tokenizer", "generator")


def recipe_in(folder: Path) -> Recipe:
    """Write small data; return a recipe in which all is learnt that can be lost."""
    TextTokenizer("果水，风格", ["noto"]).save(folder / "words.json")
    data = DataConfig(source=str(write_data_set(folder / "data")), split="train")
    loop = LoopConfig(
        num_steps=STEPS, batch_size=4, log_every=1, show_every=7, save_every=SAVE_EVERY
    )
    return Recipe(
        tokenizer=TokenizerRun(
            data=data,
            model=replace(SMALL_VQGAN, channel_multipliers=(1, 2, 2)),
            codebook=CodebookConfig(decay=0.5, restart_below=0.5, alarm_below=0.0),
            loop=loop,
            optim=OPTIM,
        ),
        generator=GeneratorRun(
            data=data,
            vocabulary=folder / "words.json",
            width=16,
            num_heads=2,
            patterns=paper_patterns(2),
            max_text=24,
            end_to_end=EndToEndConfig(loss=R1),
            loop=loop,
            optim=OPTIM,
        ),
    )


def work(recipe: Recipe, out: Path, rank: int, port: int) -> None:
    """Be one process of the run, begun or gone on with; leave what it says of an error beside its folder."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    said = out.with_name(f"said by {rank}")
    said.unlink(missing_ok=True)
    resume = (out / "config.json").exists()
    try:
        with joined():
            run(recipe, out, resume=resume, log=io.StringIO())
    except VilgError as error:
        said.write_text(str(error))
        sys.exit(2)


class Victim:
    """A run of two processes, one of which is killed again and again.

    Attributes:
        fell: how many kills fell where.
        slowest: seconds that the other process has taken to end.
        wholes: how many finished runs were compared.
    """

    def __init__(self, folder: Path, seed: int):
        self.recipe, self.out, self.rng = recipe_in(folder), folder / "out", random.Random(seed)
        self.fell: Counter[str] = Counter()
        self.slowest = 0.0
        self.wholes = 0
        begun = time.monotonic()
        self.finish()
        num_saves = len(STAGES) * STEPS // SAVE_EVERY
        self.seconds_a_save = (time.monotonic() - begun) / num_saves
        self.expected = self.out.rename(folder / "expected")

    def start(self) -> Sequence[BaseProcess]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [
            forking().Process(target=work, args=(self.recipe, self.out, rank, port))
            for rank in range(WORLD)
        ]
        for process in processes:
            process.start()
        return processes

    def finish(self) -> None:
        for process in self.start():
            process.join()
            assert process.exitcode == 0, process.exitcode
        assert all((self.out / stage / "model" / "config.json").exists() for stage in STAGES)

    def saved(self) -> tuple[int, ...]:
        """Return the last step of each stage that is saved."""
        return tuple(max(find(self.out / stage / "checkpoints"), default=0) for stage in STAGES)

    def unfinished(self) -> set[Path]:
        return set(self.out.glob("*/checkpoints/*.incomplete"))

    def round(self) -> None:
        """Start the processes and kill one at a moment when some checkpoints were saved."""
        processes = self.start()
        rank, goal, is_aimed = (
            self.rng.randrange(WORLD), self.rng.randint(1, 2), self.rng.random() < 1 / 3
        )  # fmt: skip
        victim, other = processes[rank], processes[1 - rank]
        goal = sum(self.saved()) + goal * SAVE_EVERY
        while victim.is_alive() and sum(self.saved()) < goal:
            time.sleep(0.001)
        if is_aimed:
            while victim.is_alive() and not self.unfinished():
                time.sleep(0.0005)
        else:
            time.sleep(self.rng.random() * self.seconds_a_save)
        victim.kill()
        killed = time.monotonic()
        victim.join()
        other.join(2 * WITHIN)
        if victim.exitcode == 0:
            assert other.exitcode == 0, other.exitcode
        else:
            self.slowest = max(self.slowest, time.monotonic() - killed)
            assert other.exitcode == 2 and self.slowest < WITHIN, (other.exitcode, self.slowest)
            said = self.out.with_name(f"said by {1 - rank}").read_text()
            assert said.startswith(f"process {rank} of {WORLD} has ended"), said
            self.fell["inside a save" if self.unfinished() else "elsewhere"] += 1
        if (self.out / STAGES[-1] / "model" / "config.json").exists():
            self.compare()

    def compare(self) -> None:
        """Compare what the run has left with what one has that nobody disturbed, and remove it."""
        self.finish()
        for stage in STAGES:
            found, expected = self.out / stage, self.expected / stage
            assert log_records(found) == log_records(expected)
            last = Path("checkpoints", f"step-{STEPS:08d}")
            a, b = read_checkpoint(found / last), read_checkpoint(expected / last)
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], value) for name, value in b.items())
            assert files_of(found / "model") == files_of(expected / "model")
        self.wholes += 1
        shutil.rmtree(self.out)


def kill(folder: Path, number: int, seed: int) -> Victim:
    """Kill so many times, a third of them inside a save, and compare what comes out."""
    victim = Victim(folder, seed)
    while victim.fell.total() < number or victim.fell["inside a save"] < number // 3:
        victim.round()
    if victim.out.exists():
        victim.compare()
    return victim


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = kill(Path(place), 30, seed=23)
    print(
        f"{found.fell.total()} kills, {found.fell['inside a save']} of them inside a save; all ended within "
        f"{found.slowest:.1f} s; {found.wholes} results, all equal bit for bit"
    )

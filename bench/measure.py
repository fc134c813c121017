"""What every benchmark here measures with: medians side by side, peak memory, limits of the machine."""

import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vilg.sampling.precision import Precision, is_supported

DOCS = Path(__file__).parents[1] / "docs"


def medians(cases: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, float]:
    """Return seconds of each case: the median of some rounds, in each of which every case has its turn.

    What slows the machine for a while slows all cases alike, so ratios hold better than times. One
    round before the first is thrown away.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round in range(rounds + 1):
        for name, case in cases.items():
            started = time.perf_counter()
            case()
            if round > 0:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def memory(name: str) -> int:
    """Return a figure of this process in bytes: VmRSS is taken now, VmHWM the most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _peak(prepare: Callable[..., Callable[[], object]], args: tuple[Any, ...], out: Any) -> None:
    case = prepare(*args)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew
    before = memory("VmRSS")
    case()
    out.put(memory("VmHWM") - before)


def peak_bytes(prepare: Callable[..., Callable[[], object]], *args: Any) -> int:
    """Return how much memory running a case once takes at its peak, in a process of its own (Linux).

    Args:
        prepare: builds the case of `args`; what it takes itself does not count.
    """
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=_peak, args=(prepare, args, out))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise MemoryError(f"the measured process ended with {process.exitcode}: out of memory?")
    return int(out.get())


def product_peak() -> float:
    """Return FLOP/s of the matrix product of two 2048 x 2048 fp32 matrices: the best of twenty."""
    a, b = torch.randn(2, 2048, 2048)
    best = min(medians({"product": lambda: a @ b}, rounds=1)["product"] for _ in range(20))
    return 2 * 2048**3 / best


def machine() -> str:
    """Describe the machine and the versions that a figure depends on, in a line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        model = {key.strip(): value.strip() for key, value in lines.items()}.get(
            "model name", model
        )
    isa = torch.backends.cpu.get_cpu_capability()
    precisions = "/".join(p for p in Precision if is_supported(p))
    threads = torch.get_num_threads()
    return f"{model}, {isa} ({precisions}), {threads} threads, torch {torch.__version__}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def publish(section: str, text: str) -> None:
    """Print a benchmark's results, and put them in its section of docs/benchmarks.md."""
    print(text)  # first: a run of an hour must not be lost to a page
    page = DOCS / "benchmarks.md"
    whole = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {section} -->\n", f"<!-- end of {section} -->\n"
    head, _, rest = whole.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        sys.exit(f"{page} has no section {section}")
    page.write_text(f"{head}{begin}{text}{end}{tail}", encoding="utf-8")


def say(line: str) -> None:
    """Tell on standard error how far a benchmark is."""
    print(line, file=sys.stderr, flush=True)

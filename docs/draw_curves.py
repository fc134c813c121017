"""Draw what training logs say over their steps: one panel a value, one line a log.

    bench/.venv/bin/python docs/draw_curves.py OUT.png --values t2i i2t --logs STAGE1.jsonl STAGE2.jsonl
    bench/.venv/bin/python docs/draw_curves.py OUT.png --values psnr --logs A.jsonl B.jsonl --apart

Logs follow one another, as the stages of a run do; `--apart` starts each at step 0, as seeds do. The thin
line is what was logged, a mean over a few steps; the thick one is its moving average over a tenth of the log.
"""

import argparse
import json
import math
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def entries(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def smooth(values: list[float]) -> list[float]:
    """Return at each place the mean of the values up to it, a tenth of all at most."""
    window = math.ceil(len(values) / 10)
    last = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [sum(part) / len(part) for part in last]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--values", nargs="+", required=True)
    parser.add_argument("--logs", type=Path, nargs="+", required=True)
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()

    logs = [entries(log) for log in options.logs]
    ends = accumulate((log[-1]["step"] for log in logs), initial=0)
    starts = [0] * len(logs) if options.apart else list(ends)[:-1]
    size = (4.2 * len(options.values), 3.2)
    figure, axes = pyplot.subplots(
        1, len(options.values), figsize=size, layout="constrained", squeeze=False
    )
    for value, ax in zip(options.values, axes[0], strict=True):
        for i, (path, log, start) in enumerate(zip(options.logs, logs, starts, strict=True)):
            rows = [row for row in log if value in row]
            steps, values = [start + row["step"] for row in rows], [row[value] for row in rows]
            ax.plot(steps, values, color=f"C{i}", alpha=0.3, linewidth=0.8)
            name = path.parent.parent.name if path.stem == "log" else path.stem
            ax.plot(steps, smooth(values), color=f"C{i}", label=name)
        ax.set(title=value, xlabel="step")
        ax.grid(alpha=0.3)
    axes[0][0].legend(fontsize="small")
    figure.savefig(options.out, dpi=110)
    print(options.out)


if __name__ == "__main__":
    main()

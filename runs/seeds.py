"""What the runs of several seeds say together; used by table7.py and directions.py."""

import argparse
import math
import statistics
from pathlib import Path

SEEDS = (0, 1, 2)
_T_95 = 4.303  # two-sided, two degrees of freedom


def command_line(description: str | None) -> argparse.Namespace:
    """Read where the runs are and where the report goes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def interval(values: list[float]) -> dict[str, float | None]:
    """Return the mean over the seeds with the half width of Student's 95% interval.

    None where all are the same: the seed plays no part then, and 0 would look like certainty.
    """
    assert len(values) == len(SEEDS)
    half = _T_95 * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.mean(values), "half_interval": half or None}

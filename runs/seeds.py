"""What the runs of several seeds say together; used by table7.py and directions.py."""

import math
import statistics

SEEDS = (0, 1, 2)
_T_95 = 4.303  # two-sided, two degrees of freedom


def interval(values: list[float]) -> dict[str, float]:
    """Return the mean over the seeds with the half width of Student's 95% interval."""
    assert len(values) == len(SEEDS)
    half = _T_95 * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.mean(values), "half_interval": half}

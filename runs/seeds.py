"""What the runs of several seeds say together; used by table7.py and directions.py."""

import math
import statistics

SEEDS = (0, 1, 2)
_T_95 = 4.303  # two-sided, two degrees of freedom


def interval(values: list[float]) -> dict[str, float | None]:
    """Return the mean over the seeds with the half width of Student's 95% interval.

    None where all are the same: the seed plays no part then, and 0 would look like certainty.
    """
    assert len(values) == len(SEEDS)
    half = _T_95 * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": statistics.mean(values), "half_interval": half or None}

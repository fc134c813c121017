"""The precisions as parameters of tests: those that this processor has no instructions for are skipped."""

import pytest

from vilg.sampling.precision import Precision, is_supported


def parameters(*precisions: Precision) -> list[object]:
    return [
        pytest.param(
            precision,
            marks=pytest.mark.skipif(
                not is_supported(precision), reason=f"no instructions for {precision} here"
            ),
        )
        for precision in precisions
    ]

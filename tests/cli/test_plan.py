"""`vilg plan`: what it prints, and what it refuses."""

import pytest

from tests.cli.conftest import Run


def test_plan_states_what_a_run_takes(run: Run) -> None:
    result = run("plan", "base_10b", "--devices", "64", "--pairs", "145000000")
    assert result.status == 0
    for line in (
        "base_10b: 9,802 M weights, 48 layers of width 4096, 1,024 image tokens, up to 64 text tokens",
        "64 devices of 80GB, bf16 products, weights sharded over 8",
        "the run: 144,000 steps, 6.1 times each pair, ",
    ):
        assert line in result.out
    for name in (
        "weights",
        "moments",
        "averages",
        "gradients",
        "activations",
        "transient",
        "peak",
        "host",
    ):
        assert any(line.startswith(name) for line in result.out.splitlines())
    assert "planned for 1,024 tokens of 8,192 codes" in result.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ("nothing", "no recipe is called nothing"),
        ("vqgan_f8_8192", "trains no generator"),
        ("base_10b --memory 80", "a pair at a time takes"),
        ("base_10b --memory much", "--memory must be a size"),
        ("base_10b --devices 7", "do not divide among 7 devices"),
        ("base_10b --devices 0", "at least 1"),
        ("base_10b --devices 12 --shards 8", "12 devices are not groups of 8"),
        ("base_10b --share 2", "--share from 0 to 1"),
        ("base_10b --set generator.breadth=1", "breadth"),
    ],
)
def test_bad_input_is_one_line(run: Run, argv: str, says: str) -> None:
    result = run("plan", *argv.split())
    assert result.status == 2
    assert says in result.err.splitlines()[-1]

from tests.data.mutator import MUTATIONS, ODD, load_sources, mutated, run, run_case
from tests.data.readers.fixtures import FIXTURES
from vilg.data.sources import FORMATS


def test_no_damage_crashes_hangs_or_miscounts():
    counts, faults = run(300, seed=0)
    assert not faults
    assert counts["cases"] == 300
    assert min(counts[what] for what in ("pairs", "rejects", "pictures", "counted")) > 50


def test_a_case_is_the_same_whenever_it_is_made():
    sources = load_sources()
    for number in range(50):
        first, second = (mutated(sources, 7, number) for _ in range(2))
        assert (first.name, first.steps) == (second.name, second.steps)
        assert {k: v for k, v in first.files.items() if isinstance(v, bytes)} == {
            k: v for k, v in second.files.items() if isinstance(v, bytes)
        }


def test_every_format_and_every_mutation_has_its_turn():
    sources = load_sources()
    cases = [mutated(sources, 0, number) for number in range(2000)]
    assert {case.name for case in cases} == {*FIXTURES}
    assert {case.format for case in cases} == {format.name for format in FORMATS}
    steps = {step for case in cases for step in case.steps}
    assert steps >= {*MUTATIONS, *ODD}


def test_what_is_not_damaged_is_read_without_rejects(tmp_path):
    (six,) = [source for source in load_sources() if source.name == "tar"]
    counts = run_case(six, 0, tmp_path, 6)
    assert counts == {"cases": 1, "pairs": 6, "pictures": 6, "counted": 1, "rejects": 0}

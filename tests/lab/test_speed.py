"""lab.speed times real generation; what it says of the times is arithmetic."""

import pytest
from lab import speed


def rows(*times):
    """Sizes 10, 100, 1000 ...: (generate_s, vllm_s) of each."""
    return [
        {"parameters": 10.0 ** (i + 1), "generate_s": ours, "vllm_s": theirs}
        for i, (ours, theirs) in enumerate(times)
    ]


def test_the_crossing_lies_between_the_two_sizes_around_it():
    """Ratios 1/2, 1/2 and 8: from 1/2 to 1 it is a quarter of the way from 1/2 to 8, in logarithms."""
    found = speed.crossing(rows((1, 2), (1, 2), (8, 1)))
    assert found == pytest.approx(100 * 10**0.25)
    assert speed.crossing(rows((1, 2), (2, 2))) == pytest.approx(100)


@pytest.mark.parametrize("times", [[(1, 2), (1, 3)], [(2, 1), (3, 1)], [(2, 1), (1, 2)]])
def test_there_is_no_crossing_where_vllm_does_not_become_the_faster_one(times):
    assert speed.crossing(rows(*times)) is None


def test_an_engine_that_is_never_faster_never_pays():
    assert speed.pays_after({"generate_s": 1.0, "vllm_s": 1.0, "start_s": 5.0}) is None
    assert speed.pays_after({"generate_s": 2.0, "vllm_s": 1.0, "start_s": 5.0}) == 5


def test_the_fastest_run_after_a_first_one_counts(monkeypatch):
    clock = iter([0.0, 7.0, 10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    done = []
    assert speed._fastest(lambda: done.append(1)) == 2.0
    assert len(done) == 4


@pytest.mark.vllm
def test_both_ways_are_timed_on_one_model():
    """Each asserts in itself that every completion has exactly the tokens asked for."""
    small = {"hidden_size": 64, "intermediate_size": 64, "layers": 1, "heads": 1}
    row = speed.measure(completions=4, tokens=5, **small)
    assert set(row) == {"parameters", "generate_s", "vllm_s", "start_s", "pays_after"}
    assert 0 < row["generate_s"] < row["start_s"] and 0 < row["vllm_s"] < row["start_s"]
    assert 20_000 < row["parameters"] < 100_000

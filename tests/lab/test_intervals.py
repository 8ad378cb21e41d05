"""Intervals of one share and of a paired difference: published ones, and their definitions."""

import math
import subprocess
import sys

import pytest
from lab.intervals import paired, wilson


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17
# (1998), table I, method 3 (Wilson without continuity correction): printed with four digits.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 600), (7, 7), (3, 10), (599, 600)])
def test_wilson_holds_the_share_and_mirrors(successes, n):
    low, high = wilson(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0
    # 1e-12: float64, a handful of operations on numbers of order 1.
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        wilson(successes, n)


# Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
# paired data", Statistics in Medicine 17 (1998) 2635, table II, method 10: both, first only, second
# only, neither right; the interval of first minus second.
@pytest.mark.parametrize(
    ("both", "first", "second", "neither", "low", "high"),
    [(36, 12, 2, 0, 0.0569, 0.3404)],
)
def test_the_paired_interval_is_newcombes(both, first, second, neither, low, high):
    one = [True] * (both + first) + [False] * (second + neither)
    other = [True] * both + [False] * first + [True] * second + [False] * neither
    found = paired(other, one)
    assert found["ci95"] == pytest.approx((low, high), abs=2e-4)
    assert found["difference"] == pytest.approx((first - second) / len(one), abs=1e-12)
    swapped = paired(one, other)
    assert swapped["ci95"] == pytest.approx((-found["ci95"][1], -found["ci95"][0]), abs=1e-12)
    assert swapped["p"] == found["p"]


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (7, 2), (0, 12), (30, 11)])
def test_the_paired_test_is_a_fair_coins(gained, lost):
    """By its definition: the probability of a split at least as uneven as this one."""
    changed = gained + lost
    uneven = [k for k in range(changed + 1) if abs(2 * k - changed) >= abs(gained - lost)]
    expected = sum(math.comb(changed, k) for k in uneven) / 2**changed
    before = [True] * lost + [False] * gained + [True, False]
    after = [False] * lost + [True] * gained + [True, False]
    found = paired(before, after)
    assert (found["gained"], found["lost"]) == (gained, lost)
    assert found["p"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("before", "after"), [([], []), ([True], [True, False])])
def test_paired_refuses_lists_that_are_no_pairs(before, after):
    with pytest.raises(ValueError, match="expected as many, one or more"):
        paired(before, after)


def test_pictures_puzzles_and_intervals_load_no_torch():
    """The lessons in numpy alone would wait for it: some ten seconds."""
    code = (
        "import sys, lab; lab.intervals, lab.plots, lab.show, lab.puzzle, lab.predict, lab.gallery\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

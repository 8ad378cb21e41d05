"""reference_math.m2po against AReaL's own mask."""

import numpy as np
import pytest

from reference_math import m2po
from reference_math.conformance import rosetta


@pytest.mark.parametrize("threshold", [0.04, 0.01])
def test_over_all_tokens_it_is_areals(threshold):
    arrays = rosetta.golden("areal")
    args = [arrays[f"batch/{letter}"] for letter in ("o", "q", "A", "m")]
    keep = m2po.keep_mask(*args, threshold=threshold, constrained="all")
    np.testing.assert_array_equal(args[3] * keep, arrays[f"m2po mask, {threshold}/value"])
    assert 0.3 < keep[args[3] == 1].mean() < 1.0


def test_the_paper_leaves_out_fewer():
    """Only those that have moved with their advantage."""
    arrays = rosetta.golden("areal")
    args = [arrays[f"batch/{letter}"] for letter in ("o", "q", "A", "m")]
    every, papers = (
        m2po.keep_mask(*args, threshold=0.01, constrained=c) for c in ("all", "trust_region")
    )
    assert 0 < (papers == 0).sum() < (every == 0).sum()

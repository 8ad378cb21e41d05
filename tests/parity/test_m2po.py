"""reference_math.m2po against its torch twin and AReaL's own mask."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import m2po
from reference_math.conformance import rosetta
from reference_math.torch import m2po as twin

MASK = (np.arange(6) < np.array([[6], [3], [1], [0], [4]])).astype(float)


@pytest.mark.parametrize("constrained", m2po.CONSTRAINED)
@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.1, 10.0])
def test_the_twin_leaves_out_the_same_tokens(place, threshold, constrained):
    rng = np.random.default_rng(0)
    logps = -rng.exponential(size=MASK.shape)
    old, A = logps + 0.5 * rng.normal(size=MASK.shape), rng.normal(size=len(MASK))
    old[0, :3] = logps[0, :3] + 0.25  # equal tokens: the earlier is left out first
    old[4, 5] = np.nan  # padding is not read
    tensors = [place.tensor(x) for x in (logps, old, A, MASK)]
    options = {"threshold": threshold, "constrained": constrained}
    got = place.numpy(twin.keep_mask(*tensors, **options))
    expected = m2po.keep_mask(*[place.numpy(x) for x in tensors], **options)
    np.testing.assert_array_equal(got, expected)
    assert (expected.min() == 1.0) == (threshold == 10.0)


def test_the_twins_mask_has_no_gradient_and_wrong_arguments_are_named():
    logps, old, A = (torch.zeros(2, 3, requires_grad=True) for _ in range(3))
    keep = twin.keep_mask(logps, old - 1.0, A, torch.ones(2, 3), threshold=0.1, constrained="all")
    assert not keep.requires_grad
    with pytest.raises(ValueError, match="constrained must be one of"):
        twin.keep_mask(logps, old, A, torch.ones(2, 3), threshold=0.1, constrained="some")
    with pytest.raises(ValueError, match="threshold must be"):
        twin.keep_mask(logps, old, A, torch.ones(2, 3), threshold=-1.0, constrained="all")


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

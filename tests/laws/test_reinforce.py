"""Laws of REINFORCE; that it climbs the expected reward is in test_policy_gradient.py."""

import numpy as np
import pytest

from reference_math import reinforce

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
ADVANTAGES = np.array([1.0, -2.0, 0.5, 3.0])
LOGPS = -np.random.default_rng(0).exponential(size=MASK.shape)


def test_an_advantage_per_token_by_hand():
    """-(2 (-1) + 4 (-2) + 1 (-3)) / 2; the masked token and its advantage do not count."""
    batch = [[-1.0, -2.0], [-3.0, -9.0]], [[2.0, 4.0], [1.0, 7.0]], [[1, 1], [1, 0]]
    assert reinforce.loss(*batch) == 6.5
    np.testing.assert_array_equal(reinforce.loss_grad(*batch), [[-1.0, -2.0], [-0.5, 0.0]])


def test_reinforce_names_what_is_wrong():
    for f in (reinforce.loss, reinforce.loss_grad):
        with pytest.raises(ValueError, match="per_token_logps must be finite"):
            f(LOGPS * np.nan, ADVANTAGES, MASK)
        with pytest.raises(ValueError, match="completion_mask must have 2 axes"):
            f(LOGPS, ADVANTAGES, MASK[0])
        with pytest.raises(ValueError, match="completion_mask must hold only 0 and 1"):
            f(LOGPS, ADVANTAGES, 3 * MASK)


def test_a_lone_completion_is_its_own_mean():
    assert reinforce.loss_grad([[-1.0]], [3.0], [[1]]) == -3.0

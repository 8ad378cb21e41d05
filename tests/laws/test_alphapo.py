"""Laws of AlphaPO's reward."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import alphapo

LOGPS = np.log([0.001, 0.2, 0.5, 0.9, 1.0])


@pytest.mark.parametrize("alpha", [-1.5, -0.5, 0.0, 0.25, 2.0])
def test_the_gradient_by_hand_is_the_slope(numeric_grad, alpha):
    s = -np.random.default_rng(0).exponential(size=6)
    expected = numeric_grad(lambda x: alphapo.reward(x, alpha=alpha).sum(), s)
    got = alphapo.reward_grad(s, alpha=alpha)
    np.testing.assert_allclose(got, expected, rtol=1e-9)  # see numeric_grad


@pytest.mark.parametrize(
    "alpha, expected",
    [
        (1.0, [-999.0, -4.0, -1.0, -1 / 9, 0.0]),  # 1 - 1/p
        (-1.0, [-0.999, -0.8, -0.5, -0.1, 0.0]),  # p - 1
        (-2.0, [-0.4999995, -0.48, -0.375, -0.095, 0.0]),  # (p^2 - 1) / 2
    ],
)
def test_by_hand(alpha, expected):
    # -1/9 = 1 - 1/0.9: the log of 0.9 carries eps of 0.1
    np.testing.assert_allclose(alphapo.reward(LOGPS, alpha=alpha), expected, rtol=1e-13, atol=1e-15)


def test_alpha_0_is_the_log_probability_and_the_limit_of_its_neighbours():
    np.testing.assert_array_equal(alphapo.reward(LOGPS, alpha=0.0), LOGPS)
    np.testing.assert_array_equal(alphapo.reward_grad(LOGPS, alpha=0.0), 1.0)
    for alpha in (1e-9, -1e-9, 1e-300):  # s - alpha s^2 / 2: 24e-9 of an s of 7
        np.testing.assert_allclose(alphapo.reward(LOGPS, alpha=alpha), LOGPS, rtol=1e-8)


@given(s=st.floats(-60, -1e-6), alpha=st.floats(-5, 5))
def test_likelier_is_better_and_a_larger_alpha_is_harder_on_the_unlikely(s, alpha):
    s = np.array([s, s / 2, 0.0])
    r = alphapo.reward(s, alpha=alpha)
    assert (np.diff(r) >= 0).all() and r[2] == 0.0
    bolder = alphapo.reward(s, alpha=alpha + 0.5)
    assert (bolder <= r + 1e-12).all()


@pytest.mark.parametrize("alpha, s", [(2.0, -1e4), (-2.0, 1e4), (0.1, -3401.0)])
def test_beyond_e340_the_reward_stands_still(alpha, s):
    at_the_edge = -340.0 / alpha
    got = alphapo.reward([s, at_the_edge], alpha=alpha)
    assert np.isfinite(got).all() and got[0] == got[1]
    np.testing.assert_allclose(got[1], (1 - np.exp(340.0)) / alpha, rtol=1e-12)
    grad = alphapo.reward_grad([s, at_the_edge], alpha=alpha)
    assert grad[0] == 0.0 < grad[1] < np.inf


@pytest.mark.parametrize("alpha, s", [(-2.0, -1e4), (2.0, 1e4)])
def test_on_the_flat_side_the_reward_ends_at_one_over_alpha(alpha, s):
    np.testing.assert_allclose(alphapo.reward([s], alpha=alpha), 1 / alpha, rtol=1e-15)
    assert alphapo.reward_grad([s], alpha=alpha) == 0.0


@pytest.mark.parametrize("f", [alphapo.reward, alphapo.reward_grad])
def test_what_is_wrong_is_named(f):
    with pytest.raises(ValueError, match="mean_logps must be finite"):
        f([np.nan], alpha=1.0)
    with pytest.raises(ValueError, match="alpha must be finite"):
        f([-1.0], alpha=np.inf)

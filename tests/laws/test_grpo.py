"""Laws of the clipped surrogate alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import grpo

CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.5, "delta": None}
OPEN = {"epsilon_low": np.inf, "epsilon_high": np.inf, "delta": None}
RATIOS = np.array([[0.1, 0.79, 0.81, 1.0, 1.49, 1.51, 9.0]])


def at(w, a, **options):
    s = np.log(np.atleast_2d(w))
    advantages, options = [a] * len(s), CLIP | options
    return grpo.per_token_loss(s, advantages, **options), grpo.per_token_loss_grad(
        s, advantages, **options
    )


@pytest.mark.parametrize("a", [1.0, -1.0])
def test_an_open_clip_leaves_importance_sampling(a):
    value, grad = at(RATIOS, a, **OPEN)
    np.testing.assert_allclose(value, -a * RATIOS, rtol=1e-14)
    np.testing.assert_allclose(grad, -a * RATIOS, rtol=1e-14)  # dw/ds = w


def test_what_is_clipped_depends_on_the_sign_of_the_advantage():
    moves = {a: np.flatnonzero(at(RATIOS, a)[1][0]).tolist() for a in (1.0, -1.0)}
    assert moves == {1.0: [0, 1, 2, 3, 4], -1.0: [2, 3, 4, 5, 6]}


def test_the_surrogate_is_flat_outside_the_clip():
    good, bad = at(RATIOS, 2.0)[0][0], at(RATIOS, -2.0)[0][0]
    np.testing.assert_allclose(good[5:], -2.0 * 1.5, rtol=1e-14)
    np.testing.assert_allclose(bad[:2], 2.0 * 0.8, rtol=1e-14)


@given(w=st.floats(1e-3, 1e3), a=st.floats(-5, 5))
def test_the_surrogate_is_a_pessimist(w, a):
    """It never promises more than plain importance sampling does."""
    assert at(w, a)[0] >= at(w, a, **OPEN)[0] - 1e-12 * abs(a * w)


@given(w=st.floats(1e-3, 1e3), a=st.floats(-5, 5))
def test_the_gradient_is_that_of_importance_sampling_or_nothing(w, a):
    grad = at(w, a)[1].item()
    assert grad == 0.0 or np.isclose(grad, -a * w, rtol=1e-12)


@pytest.mark.parametrize("a, delta", [(-1.0, 2.0), (-1.0, 20.0), (1.0, 2.0)])
def test_delta_bounds_the_loss_of_a_bad_token_and_nothing_else(a, delta):
    value, grad = at(RATIOS, a, delta=delta)
    plain, plain_grad = at(RATIOS, a)
    cut = (RATIOS > delta) & (a < 0)
    np.testing.assert_allclose(value, np.where(cut, delta, plain), rtol=1e-14)
    np.testing.assert_allclose(grad, np.where(cut, 0.0, plain_grad), rtol=1e-14)


@pytest.mark.parametrize(
    "w, a, options",
    [
        (0.5, -1.0, {"epsilon_low": 0.5}),
        (2.0, 1.0, {"epsilon_high": 1.0}),
        (2.0, -1.0, {"delta": 2.0}),
    ],
)
def test_a_ratio_exactly_at_a_bound_still_moves(w, a, options):
    assert np.exp(np.log(w)) == w  # the bound is met to the last bit
    np.testing.assert_allclose(at(w, a, **options)[1], -a * w, rtol=1e-15)
    outside = 1.001 if options.keys() & {"epsilon_high", "delta"} else 0.999
    assert at(w * outside, a, **options)[1] == 0.0


def test_a_delta_below_the_clip_cuts_off_good_tokens_too():
    value, grad = at([[1.2, 1.4]], 1.0, delta=1.3)
    np.testing.assert_allclose(value, [[-1.2, -1.3]], rtol=1e-14)
    np.testing.assert_allclose(grad, [[-1.2, 0.0]], rtol=1e-14)


@pytest.mark.parametrize("a", [1.0, -1.0])
@pytest.mark.parametrize("delta", [None, 3.0])
def test_clipped_is_where_the_gradient_stops(a, delta):
    low, high = grpo.clipped(np.log(RATIOS), [a], **CLIP | {"delta": delta})
    stopped = (at(RATIOS, a)[1] == 0.0)[0]
    assert (low | high)[0].tolist() == stopped.tolist()
    assert not (low & high).any()
    assert high.any() == (a > 0) and low.any() == (a < 0)


def test_clipped_counts_neither_bound_itself_nor_an_advantage_of_0():
    bounds = np.log([[0.5, 2.0]])
    edges = {"epsilon_low": 0.5, "epsilon_high": 1.0, "delta": None}
    for a in (1.0, -1.0, 0.0):
        assert not np.any(grpo.clipped(bounds, [a], **edges))
    for part in grpo.clipped(np.log([[0.1, 9.0]]), [0.0], **edges):
        assert not part.any()


def test_clipped_after_delta_is_clipped_no_more():
    """As TRL counts: a delta inside the clip hides what lies beyond."""
    low, high = grpo.clipped(np.log([[9.0]]), [1.0], **CLIP | {"delta": 1.2})
    assert not low.any() and not high.any()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"epsilon_low": -0.1}, "epsilon_low must be >= 0 .inf for no clip., got -0.1"),
        ({"epsilon_high": np.nan}, "epsilon_high must be >= 0"),
        ({"delta": 0.0}, "delta must be > 0"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    for function in (grpo.per_token_loss, grpo.per_token_loss_grad, grpo.clipped):
        with pytest.raises(ValueError, match=message):
            function(np.zeros((1, 1)), [1.0], **CLIP | wrong)


@pytest.mark.parametrize(
    "w, a, options",
    [
        (2.0, -1.0, {"epsilon_high": 1.0, "delta": 1.5}),
        (0.5, -1.0, {"epsilon_low": 0.5, "delta": 0.25}),
    ],
)
def test_a_delta_inside_the_clip_leaves_the_clip_its_bounds(w, a, options):
    """Of a bad token the clip's side is the larger loss there, up to the bound and no further."""
    assert np.exp(np.log(w)) == w
    value, grad = at(w, a, **options)
    np.testing.assert_allclose([value, grad], -a * w, rtol=1e-15)


def test_inside_the_clip_and_beyond_delta_a_bad_token_still_moves(numeric_grad):
    options = CLIP | {"delta": 1.1}
    s = np.log([[1.05, 1.3, 3.0]])
    grad = numeric_grad(lambda x: grpo.per_token_loss(x, [-1.0], **options).sum(), s)
    got = grpo.per_token_loss_grad(s, [-1.0], **options)
    np.testing.assert_allclose(got, grad, rtol=1e-9, atol=1e-12)


def test_a_clip_of_no_width_is_allowed():
    closed = {"epsilon_low": 0.0, "epsilon_high": 0.0}
    np.testing.assert_allclose(at([[0.5, 1.0, 2.0]], 1.0, **closed)[0], [[-0.5, -1.0, -1.0]])

"""Laws of importance ratios."""

import numpy as np
import pytest

from reference_math import ratios

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
levels = pytest.mark.parametrize("level", ratios.LEVELS)


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.3 * rng.normal(size=MASK.shape)


@levels
def test_a_policy_that_has_not_moved_has_ratio_1(level):
    logps, _ = two_policies()
    np.testing.assert_array_equal(
        ratios.ratio(ratios.log_importance_weights(logps, logps, MASK, level)), 1.0
    )


@levels
def test_changing_places_turns_the_ratio_over(level):
    logps, old = two_policies()
    there = ratios.log_importance_weights(logps, old, MASK, level)
    np.testing.assert_array_equal(ratios.log_importance_weights(old, logps, MASK, level), -there)


def test_the_sequence_ratio_is_the_geometric_mean_of_the_token_ratios():
    logps, old = two_policies()
    token = ratios.ratio(ratios.log_importance_weights(logps, old, MASK, "token"))
    sequence = ratios.ratio(ratios.log_importance_weights(logps, old, MASK, "sequence"))
    for row, n in enumerate([4, 2, 1]):
        expected = np.prod(token[row, :n]) ** (1 / n)
        np.testing.assert_allclose(sequence[row], expected, rtol=1e-12)


def test_an_empty_completion_has_ratio_1():
    logps, old = two_policies()
    assert ratios.log_importance_weights(logps, old, MASK, "sequence")[3, 0] == 0.0


def test_gspo_token_has_the_value_of_the_sequence_and_the_gradient_of_the_token():
    logps, old = two_policies()
    whole, own = (
        ratios.log_importance_weights(logps, old, MASK, level)
        for level in ("sequence", "sequence_token")
    )
    np.testing.assert_array_equal(own, MASK * whole)
    g = np.random.default_rng(1).normal(size=MASK.shape)
    grads = [ratios.log_importance_weights_grad(g, MASK, e) for e in ("token", "sequence_token")]
    np.testing.assert_array_equal(*grads)


@levels
def test_what_stands_in_the_padding_is_never_read(level):
    logps, old = two_policies()
    expected = ratios.log_importance_weights(logps, old, MASK, level)
    logps[MASK == 0], old[MASK == 0] = np.nan, np.inf
    np.testing.assert_array_equal(ratios.log_importance_weights(logps, old, MASK, level), expected)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_gradient_is_the_adjoint_of_the_forward_map(level):
    """<g, J v> = <J' g, v> for every g and v: s is linear in the log-probabilities."""
    rng = np.random.default_rng(1)
    _, old = two_policies()
    v, g = rng.normal(size=MASK.shape), rng.normal(size=MASK.shape) * MASK
    forward = np.sum(g * ratios.log_importance_weights(old + v, old, MASK, level))
    backward = np.sum(ratios.log_importance_weights_grad(g, MASK, level) * v)
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


@levels
def test_the_gradient_of_padding_is_0_whatever_stands_there(level):
    g = np.where(MASK == 1, 1.0, np.nan)
    assert not ratios.log_importance_weights_grad(g, MASK, level)[MASK == 0].any()


def test_a_ratio_stops_at_e_to_the_700_and_so_does_its_gradient():
    s = np.array([-1e4, -700.0, 700.0, 701.0, 1e4])
    w = ratios.ratio(s)
    assert np.isfinite(w).all() and np.all(w[2:] == w[2]) and w[0] == 0.0
    np.testing.assert_array_equal(ratios.ratio_grad(s), [0.0, w[1], w[2], 0.0, 0.0])
    np.testing.assert_allclose(np.log(w[1:3]), [-700.0, 700.0], rtol=1e-15)


def test_the_gradient_of_the_ratio_is_the_ratio(numeric_grad):
    s = np.array([-3.0, -0.1, 0.0, 2.0])
    grad = numeric_grad(lambda s: ratios.ratio(s).sum(), s)
    np.testing.assert_allclose(ratios.ratio_grad(s), grad, rtol=1e-9)


def test_advantages_become_a_column_or_stay_one_a_token():
    assert ratios.as_column([1.0, 2.0, 3.0], 3).tolist() == [[1.0], [2.0], [3.0]]
    assert ratios.as_column(np.ones((3, 4)), 3).shape == (3, 4)


@pytest.mark.parametrize("wrong", [np.ones(2), np.ones((2, 4)), np.ones((3, 4, 1)), np.float64(1)])
def test_advantages_of_another_shape_are_refused(wrong):
    with pytest.raises(ValueError, match=r"advantages must have shape \(3,\)"):
        ratios.as_column(wrong, 3)


def test_advantages_must_be_finite():
    with pytest.raises(ValueError, match="advantages must be finite"):
        ratios.as_column([np.nan], 1)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"per_token_logps": np.full((4, 4), np.nan)}, "per_token_logps must be finite"),
        ({"old_per_token_logps": np.full((4, 4), -np.inf)}, "old_per_token_logps must be finite"),
        (
            {"old_per_token_logps": np.zeros((4, 3))},
            r"old_per_token_logps must have shape \(4, 4\)",
        ),
        ({"completion_mask": np.ones(4)}, "completion_mask must have 2 axes"),
        ({"completion_mask": 2 * MASK}, "completion_mask must hold only 0 and 1"),
        ({"importance_sampling_level": "row"}, "importance_sampling_level must be one of"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    arguments = dict.fromkeys(["per_token_logps", "old_per_token_logps", "completion_mask"], MASK)
    with pytest.raises(ValueError, match=message):
        ratios.log_importance_weights(**arguments | {"importance_sampling_level": "token"} | wrong)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ((np.full((4, 4), np.nan), MASK, "token"), "grad_log_weights must be finite"),
        ((MASK, 2 * MASK, "token"), "completion_mask must hold only 0 and 1"),
        ((MASK, np.ones(4), "token"), "completion_mask must have 2 axes"),
        ((MASK, MASK, "row"), "importance_sampling_level must be one of"),
    ],
)
def test_what_is_wrong_with_a_gradient_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ratios.log_importance_weights_grad(*wrong)


def test_log_weights_must_be_finite():
    with pytest.raises(ValueError, match="log_weights must be finite"):
        ratios.ratio(np.array([np.inf]))

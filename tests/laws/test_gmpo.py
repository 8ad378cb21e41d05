"""Laws of geometric-mean policy optimisation."""

import numpy as np
import pytest

from reference_math import gmpo, grpo, kl, reinforce

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
ADVANTAGES = np.array([1.0, -2.0, -0.5, 3.0])
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.3}
FREE = {"epsilon_low": np.inf, "epsilon_high": np.inf}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.4 * rng.normal(size=MASK.shape)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_gradient_by_hand_is_the_numeric_one(numeric_grad, beta):
    logps, old = two_policies()
    s = (logps - old)[MASK == 1]
    assert np.abs(s[:, None] - [-0.2, 0.3]).min() > 2e-3 and (np.abs(s) > 0.3).any()
    options = CLIP | {"beta": beta, "ref_per_token_logps": old[::-1]}
    batch = old, ADVANTAGES, MASK
    expected = numeric_grad(lambda x: gmpo.loss(x, *batch, **options), logps)
    got = gmpo.loss_grad(logps, *batch, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)
    assert not got[MASK == 0].any()


def test_the_weight_is_the_geometric_mean_of_the_clipped_ratios():
    ratio = np.array([[2.0, 1.0, 0.5]])
    logps, old, ones = np.log(ratio) - 1, -np.ones((1, 3)), np.ones((1, 3))
    up = gmpo.loss(logps, old, [1.0], ones, **CLIP)  # above, e^0.3; nothing below
    np.testing.assert_allclose(up, -((np.exp(0.3) * 0.5) ** (1 / 3)), rtol=1e-14)
    down = gmpo.loss(logps, old, [-1.0], ones, **CLIP)  # below, e^-0.2; nothing above
    np.testing.assert_allclose(down, (2 * np.exp(-0.2)) ** (1 / 3), rtol=1e-14)
    half = gmpo.loss(logps, old, [-0.5], ones, **CLIP)
    np.testing.assert_allclose(half, down / 2, rtol=1e-14)


def test_a_clipped_token_is_left_alone_and_one_at_the_bound_is_not():
    logps, old, ones = [[0.3, 0.31, -5.0]], np.zeros((1, 3)), np.ones((1, 3))
    got = gmpo.loss_grad(logps, old, [1.0], ones, **CLIP)[0]
    assert (got != 0).tolist() == [True, False, True] and got[0] == got[2]
    got = gmpo.loss_grad([[-0.2, -0.21, 5.0]], old, [-1.0], ones, **CLIP)[0]
    assert (got != 0).tolist() == [True, False, True] and got[0] == got[2]


def test_without_a_clip_it_is_gspo():
    logps, old = two_policies()
    sequence = {"importance_sampling_level": "sequence", "reduction": "grpo"} | FREE
    value = grpo.loss(logps, old, ADVANTAGES, MASK, **sequence)
    # gspo has no token to weigh in an empty completion: its -A is not in the sum
    empty = -ADVANTAGES[3] / 4
    got = gmpo.loss(logps, old, ADVANTAGES, MASK, **FREE)
    np.testing.assert_allclose(got, value + empty, rtol=1e-13)
    grad = grpo.loss_grad(logps, old, ADVANTAGES, MASK, **sequence)
    np.testing.assert_allclose(
        gmpo.loss_grad(logps, old, ADVANTAGES, MASK, **FREE), grad, rtol=1e-13
    )


def test_on_policy_it_is_reinforce_with_the_mean_over_tokens():
    logps, _ = two_policies()
    got = gmpo.loss_grad(logps, logps, ADVANTAGES, MASK, **CLIP)
    expected = reinforce.loss_grad(logps, ADVANTAGES, MASK)
    lengths = np.maximum(MASK.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(got, expected / lengths, rtol=1e-14)


def test_the_kl_is_a_mean_over_tokens_then_over_completions():
    logps, old = two_policies()
    plain = gmpo.loss(logps, logps, ADVANTAGES, MASK, **CLIP)
    options = CLIP | {"beta": 0.5, "ref_per_token_logps": old}
    extra = gmpo.loss(logps, logps, ADVANTAGES, MASK, **options) - plain
    k = (kl.k3(logps, old) * MASK).sum(axis=1) / [3, 2, 3, 1]
    np.testing.assert_allclose(extra, 0.5 * k.mean(), rtol=1e-12)


@pytest.mark.parametrize("gap", [-1e4, 1e4])
@pytest.mark.parametrize("a", [-1.0, 0.0, 1.0])
def test_nothing_overflows_however_far_the_policy_has_gone(gap, a):
    tokens = [[-1.0]], [[-1.0 - gap]], [a], [[1]]
    assert np.isfinite(gmpo.loss(*tokens, **CLIP))
    assert np.isfinite(gmpo.loss_grad(*tokens, **CLIP)).all()


def test_a_clip_of_zero_makes_every_weight_one():
    ratio, ones = np.array([[2.0, 4.0, 3.0]]), np.ones((1, 3))
    shut = {"epsilon_low": 0.0, "epsilon_high": 0.0}
    assert gmpo.loss(np.log(ratio) - 2, -2 * ones, [1.0], ones, **shut) == -1.0

"""Laws of A*-PO."""

import numpy as np
import pytest

from reference_math import a2po

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]])
REWARDS, VALUES = np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.25, 0.75])


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + rng.normal(size=MASK.shape)


def test_the_best_policy_and_no_other_has_loss_0():
    """By enumeration: six answers; the policy that maximises E[r] - beta KL(policy || reference)."""
    rng = np.random.default_rng(0)
    rewards, beta = rng.normal(size=6), 0.7
    counts = rng.integers(50, 1000, size=6)  # samples that are exactly the reference
    ref = counts / counts.sum()
    value = a2po.optimal_value(np.repeat(rewards, counts)[None], beta1=beta)[0]
    best = ref * np.exp((rewards - value) / beta)
    np.testing.assert_allclose(best.sum(), 1.0, rtol=1e-13)  # V* is its log-normaliser

    def objective(p):
        return (p * (rewards - beta * np.log(p / ref))).sum()

    np.testing.assert_allclose(objective(best), value, rtol=1e-12)  # and the best value there is
    for _ in range(20):
        assert objective(rng.dirichlet(np.ones(6))) < value
    columns = [np.log(x)[:, None] for x in (best, ref)]
    batch = rewards, np.full(6, value), np.ones((6, 1))
    assert a2po.loss(*columns, *batch, beta2=beta) < 1e-25
    assert np.abs(a2po.loss_grad(*columns, *batch, beta2=beta)).max() < 1e-12
    columns[0] = np.log(rng.dirichlet(np.ones(6)))[:, None]
    assert a2po.loss(*columns, *batch, beta2=beta) > 1e-3


def test_the_value_lies_between_the_mean_and_the_best_reward():
    rewards = np.random.default_rng(0).normal(size=(3, 8))
    mean, best = rewards.mean(axis=1), rewards.max(axis=1)
    for beta1 in (1e-3, 0.5, 1e3):
        value = a2po.optimal_value(rewards, beta1=beta1)
        assert (mean < value).all() and (value < best).all()
    np.testing.assert_allclose(a2po.optimal_value(rewards, beta1=1e6), mean, atol=1e-5)
    np.testing.assert_allclose(a2po.optimal_value(rewards, beta1=1e-6), best, atol=1e-5)
    np.testing.assert_allclose(
        a2po.optimal_value(rewards + 2.0, beta1=0.5),
        a2po.optimal_value(rewards, beta1=0.5) + 2.0,
        rtol=1e-13,
    )
    equal = a2po.optimal_value(np.full((1, 8), 3.0), beta1=0.5)
    np.testing.assert_allclose(equal, [3.0], rtol=1e-15)


def test_a_batch_by_hand_with_an_empty_completion():
    """Log-ratios 1 + 1 and, without a token, 0: errors 1 - 3/4 and 0 + 1/2."""
    logps, ref = [[-1.0, -2.0], [-5.0, -5.0]], [[-2.0, -3.0], [-9.0, -9.0]]
    batch = logps, ref, [1.0, 0.0], [0.25, 0.5], [[1, 1], [0, 0]]
    assert a2po.loss(*batch, beta2=0.5) == (1 / 16 + 1 / 4) / 2
    grad = a2po.loss_grad(*batch, beta2=0.5)
    np.testing.assert_array_equal(grad, [[0.125, 0.125], [0.0, 0.0]])  # 2 beta2 / 4 / B


def test_a_better_answer_than_expected_is_pushed_up_and_a_worse_one_down():
    logps = [[-1.0, -2.0], [-3.0, -1.0]]
    batch = logps, logps, [1.0, 0.0], [0.25, 0.5], [[1, 1], [1, 0]]  # rewards 3/4 above, 1/2 below
    grad = a2po.loss_grad(*batch, beta2=0.5)
    np.testing.assert_array_equal(grad, [[-0.375, -0.375], [0.25, 0.0]])


@pytest.mark.parametrize(
    "rewards, beta1, message",
    [
        ([1.0], 0.5, "rewards must have 2 axes"),
        ([[]], 0.5, "rewards must hold at least one answer a prompt"),
        ([[np.nan]], 0.5, "rewards must be finite"),
        ([[1.0]], 0.0, "beta1 must be > 0"),
    ],
)
def test_what_is_wrong_with_the_values_is_named(rewards, beta1, message):
    with pytest.raises(ValueError, match=message):
        a2po.optimal_value(rewards, beta1=beta1)

"""Laws of the squared penalty in place of a clip."""

import numpy as np
import pytest

from reference_math import dro, kl, reinforce

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, 0.5, 2.0])
OPTIONS = {"beta": 0.4, "reduction": "bnpo"}
COUNTS = {
    "grpo": {},
    "bnpo": {},
    "luspo": {},
    "dr_grpo": {"max_completion_length": 10},
    "dapo": {"tokens_per_micro_batch": 16},
    "prompt_mean": {"num_generations": 2},
}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


def test_a_token_is_at_rest_where_its_log_ratio_is_the_advantage_over_beta():
    _, old = two_policies()
    rest = old + ADVANTAGES[:, None] / 0.4
    np.testing.assert_allclose(dro.loss_grad(rest, old, ADVANTAGES, MASK, **OPTIONS), 0, atol=1e-15)
    lowest = dro.loss(rest, old, ADVANTAGES, MASK, **OPTIONS)
    for seed in range(3):
        moved = rest + np.random.default_rng(seed).normal(size=MASK.shape)
        assert dro.loss(moved, old, ADVANTAGES, MASK, **OPTIONS) > lowest


def test_the_optimum_of_the_exact_objective_is_the_tilted_reference():
    """Over a vocabulary, with the advantages that DRO asks for: r - beta log sum p_old e^(r / beta).

    Then log p = log p_old + A / beta is a distribution, and every token of it is at rest.
    """
    rng = np.random.default_rng(0)
    log_old = np.log(rng.dirichlet(np.ones(6)))
    rewards, beta = rng.normal(size=6), 0.7
    value = beta * np.log((np.exp(log_old) * np.exp(rewards / beta)).sum())
    log_p = log_old + (rewards - value) / beta
    np.testing.assert_allclose(np.exp(log_p).sum(), 1.0, rtol=1e-12)
    ones = np.ones((6, 1))
    args = log_p[:, None], log_old[:, None], rewards - value, ones
    np.testing.assert_allclose(dro.loss_grad(*args, beta=beta, reduction="bnpo"), 0.0, atol=1e-15)


@pytest.mark.parametrize("reduction", COUNTS)
def test_without_a_penalty_and_on_policy_the_gradient_is_reinforces(reduction):
    logps, old = two_policies()
    counts = {"reduction": reduction} | COUNTS[reduction]
    free = dro.loss_grad(logps, old, ADVANTAGES, MASK, beta=0.0, **counts)
    here = dro.loss_grad(logps, logps, ADVANTAGES, MASK, beta=9.0, **counts)
    np.testing.assert_array_equal(free, here)
    share = free / np.where(MASK == 1, -ADVANTAGES[:, None], 1.0)
    if reduction == "luspo":
        np.testing.assert_allclose(free, reinforce.loss_grad(logps, ADVANTAGES, MASK), rtol=1e-14)
    expected = {"grpo": 1.0 / (4 * np.array([[4], [2], [2], [1]])), "bnpo": 1 / 8, "luspo": 1 / 4}
    expected |= {"dr_grpo": 1 / 40, "dapo": 1 / 16}
    expected["prompt_mean"] = np.repeat([[1 / 12], [1 / 4]], 2, axis=0)
    np.testing.assert_allclose(share, MASK * expected[reduction], rtol=1e-14)


@pytest.mark.parametrize("reduction", COUNTS)
def test_the_loss_is_reinforce_and_the_penalty_is_beta_times_k2(reduction):
    logps, old = two_policies()
    counts = {"reduction": reduction} | COUNTS[reduction]
    free, held = (dro.loss(logps, old, ADVANTAGES, MASK, beta=b, **counts) for b in (0.0, 0.4))
    pull = dro.penalty(logps, old, MASK, beta=0.4, **counts)
    np.testing.assert_allclose(held - free, pull, rtol=1e-12)
    share = dro.loss_grad(logps, old, -np.ones(4), MASK, beta=0.0, **counts)  # what a token weighs
    np.testing.assert_allclose(pull, 0.4 * (share * kl.k2(logps, old)).sum(), rtol=1e-13)
    np.testing.assert_allclose(free, -(share * ADVANTAGES[:, None] * logps).sum(), rtol=1e-13)
    grad = dro.penalty_grad(logps, old, MASK, beta=0.4, **counts)
    np.testing.assert_allclose(grad, 0.4 * share * kl.k2_grad(logps, old), rtol=1e-13)


def test_both_gradients_are_slopes(numeric_grad):
    logps, old = two_policies()
    args = old, ADVANTAGES, MASK
    for value, grad in [
        (lambda x: dro.loss(x, *args, **OPTIONS), dro.loss_grad(logps, *args, **OPTIONS)),
        (lambda x: dro.penalty(x, old, MASK, **OPTIONS), dro.penalty_grad(logps, old, MASK, **OPTIONS)),
    ]:  # fmt: skip
        np.testing.assert_allclose(grad, numeric_grad(value, logps), rtol=1e-9, atol=1e-12)


def test_the_pull_has_no_bound():
    """Where a clip would give 0: the farther, the stronger, and the sign of the advantage is nothing to it."""
    old = np.full((1, 5), -8.0)
    logps = old + np.array([[-4.0, -1.0, 0.0, 1.0, 4.0]])
    for sign in (1.0, -1.0):
        grad = dro.loss_grad(logps, old, [sign], np.ones((1, 5)), beta=1.0, reduction="luspo")
        np.testing.assert_allclose(grad + sign, logps - old, rtol=1e-14)


def test_the_penalty_reads_no_padding_and_names_what_is_wrong():
    logps, old = two_policies()
    dirty = np.where(MASK == 1, logps, np.nan)
    assert dro.penalty(dirty, old, MASK, **OPTIONS) == dro.penalty(logps, old, MASK, **OPTIONS)
    assert not dro.penalty_grad(dirty, old, MASK, **OPTIONS)[MASK == 0].any()
    assert dro.penalty(logps, old, 0 * MASK, **OPTIONS) == 0.0
    for f in (dro.penalty, dro.penalty_grad):
        with pytest.raises(ValueError, match="^beta must be >= 0"):
            f(logps, old, MASK, **OPTIONS | {"beta": -0.1})
        with pytest.raises(ValueError, match="^completion_mask must hold only 0 and 1"):
            f(logps, old, MASK / 2, **OPTIONS)

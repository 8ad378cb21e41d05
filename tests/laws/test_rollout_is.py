"""Laws of REINFORCE corrected for its sampler."""

import numpy as np
import pytest

from reference_math import logprobs, reinforce, rollout_is

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, 0.5, 2.0])
BAND = {"clip_min": 0.7, "clip_max": 1.4}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


def the(f, logps, sampling, **changed):
    return f(logps, sampling, ADVANTAGES, MASK, **BAND | {"reduction": "bnpo"} | changed)


def test_without_a_band_it_is_unbiased_whatever_sampled():
    """Every token of a vocabulary of 5, weighed by the sampler's probability: the policy's gradient."""
    rng = np.random.default_rng(0)
    logits, other = rng.normal(size=(2, 1, 5))
    rewards = rng.normal(size=5)
    log_p, log_q = logprobs.log_softmax(logits), logprobs.log_softmax(other)
    expected = -np.exp(log_p) * (rewards - (np.exp(log_p) * rewards).sum())  # -grad of E[reward]
    got = np.zeros_like(logits)
    for token in range(5):
        args = log_p[:, [token]], log_q[:, [token]], rewards[[token]], [[1.0]]
        options = {"clip_min": None, "clip_max": None, "reduction": "luspo"}
        push = rollout_is.loss_grad(*args, **options)
        through = logprobs.logits_grad(logits[:, None], np.array([[token]]), push)[:, 0]
        got += np.exp(log_q[0, token]) * through
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15)


def test_the_gradient_is_the_slope_once_the_weight_is_held_still(numeric_grad):
    logps, sampling = two_policies()
    w = np.exp(logps - sampling)
    w = np.where((w >= 0.7) & (w <= 1.4), w, 0.0) * MASK

    def held(x):
        return -(w * ADVANTAGES[:, None] * x).sum() / 8

    np.testing.assert_allclose(the(rollout_is.loss, logps, sampling), held(logps), rtol=1e-13)
    slope = numeric_grad(held, logps)
    got = the(rollout_is.loss_grad, logps, sampling)
    np.testing.assert_allclose(got, slope, rtol=1e-9, atol=1e-12)
    assert 0 < np.count_nonzero(got) < MASK.sum()


def test_a_token_outside_the_band_is_dropped_whichever_way_it_is_pushed():
    w = np.array([[0.5, 0.8, 1.2, 2.0]])
    for sign in (1.0, -1.0):
        args = np.log(w), np.zeros_like(w), [sign], np.ones_like(w)
        got = rollout_is.loss_grad(*args, **BAND, reduction="luspo")
        np.testing.assert_allclose(got, -sign * np.array([[0.0, 0.8, 1.2, 0.0]]), rtol=1e-14)


def test_on_policy_it_is_reinforce():
    logps, _ = two_policies()
    got = the(rollout_is.loss_grad, logps, logps, reduction="luspo")
    np.testing.assert_allclose(got, reinforce.loss_grad(logps, ADVANTAGES, MASK), rtol=1e-14)


def test_the_reductions_are_those_of_grpo():
    logps, sampling = two_policies()
    sums = the(rollout_is.loss_grad, logps, sampling, reduction="luspo") * 4
    for reduction, share, more in [
        ("grpo", 1 / (4 * np.array([[4], [2], [2], [1]])), {}),
        ("dr_grpo", 1 / 40, {"max_completion_length": 10}),
        ("dapo", 1 / 16, {"tokens_per_micro_batch": 16}),
        ("prompt_mean", np.repeat([[1 / 12], [1 / 4]], 2, axis=0), {"num_generations": 2}),
    ]:
        options = {"reduction": reduction} | more
        got = the(rollout_is.loss_grad, logps, sampling, **options)
        np.testing.assert_allclose(got, sums * share, rtol=1e-13)
        value = the(rollout_is.loss, logps, sampling, **options)
        np.testing.assert_allclose(value, (got * logps).sum(), rtol=1e-13)


@pytest.mark.parametrize("f", [rollout_is.loss, rollout_is.loss_grad])
def test_a_token_that_the_sampler_did_not_score_is_named(f):
    logps, sampling = two_policies()
    sampling[0, 0] = np.nan
    with pytest.raises(ValueError, match="sampling_per_token_logps must be finite"):
        the(f, logps, sampling)

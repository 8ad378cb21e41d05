"""Laws of KL-Cov: which tokens it holds back, and how."""

import numpy as np
import pytest

from reference_math import grpo, kl_cov, logprobs

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, 0.5, 2.0])
OPTIONS = {"share": 0.4, "kl_coef": 0.5, "reduction": "bnpo"}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


def the(f, logps, old, **changed):
    return f(logps, old, ADVANTAGES, MASK, **OPTIONS | changed)


def test_the_gradient_is_the_slope_of_the_loss(numeric_grad):
    logps, old = two_policies()
    slope = numeric_grad(lambda x: the(kl_cov.loss, x, old), logps)
    got = the(kl_cov.loss_grad, logps, old)
    np.testing.assert_allclose(got, slope, rtol=1e-8, atol=1e-11)


def test_without_the_penalty_it_is_grpo_without_a_clip():
    args = two_policies()
    free = {"epsilon_low": np.inf, "epsilon_high": np.inf, "reduction": "bnpo"}
    free["importance_sampling_level"] = "token"
    for f, of_grpo in [(kl_cov.loss, grpo.loss), (kl_cov.loss_grad, grpo.loss_grad)]:
        expected = of_grpo(*args, ADVANTAGES, MASK, **free)
        np.testing.assert_allclose(the(f, *args, kl_coef=0.0), expected, rtol=1e-13)


def test_the_penalty_pulls_the_chosen_tokens_back_and_no_others():
    logps, old = two_policies()
    chosen = kl_cov.top_share(kl_cov.covariances(logps, ADVANTAGES, MASK), MASK, share=0.4)
    assert chosen.sum() == 3  # of 8: 3.2, rounded down
    both = [the(kl_cov.loss_grad, logps, old, kl_coef=c) for c in (0.5, 0.0)]
    np.testing.assert_allclose(
        both[0] - both[1], 0.5 * chosen * np.sign(logps - old) / 8, atol=1e-15
    )
    values = [the(kl_cov.loss, logps, old, kl_coef=c) for c in (0.5, 0.0)]
    extra = 0.5 * (chosen * np.abs(logps - old)).sum() / 8
    np.testing.assert_allclose(values[0] - values[1], extra, rtol=1e-12)


def test_on_policy_the_penalty_does_not_pull():
    logps, _ = two_policies()
    pulled, free = (the(kl_cov.loss_grad, logps, logps, kl_coef=c) for c in (9.0, 0.0))
    np.testing.assert_array_equal(pulled, free)


def test_the_mean_of_the_covariances_is_the_covariance():
    logps, _ = two_policies()
    counted = MASK == 1
    a = np.broadcast_to(ADVANTAGES[:, None], MASK.shape)[counted]
    cov = kl_cov.covariances(logps, ADVANTAGES, MASK)
    np.testing.assert_allclose(cov.sum() / 8, np.cov(a, logps[counted], ddof=0)[0, 1], rtol=1e-12)
    np.testing.assert_array_equal(cov[MASK == 0], 0.0)
    per_token = np.broadcast_to(ADVANTAGES[:, None], MASK.shape)
    np.testing.assert_array_equal(kl_cov.covariances(logps, per_token, MASK), cov)


def test_constants_added_to_advantages_or_log_probs_change_no_covariance():
    logps, _ = two_policies()
    cov = kl_cov.covariances(logps, ADVANTAGES, MASK)
    np.testing.assert_allclose(kl_cov.covariances(logps - 2, ADVANTAGES + 3, MASK), cov, atol=1e-14)


def test_one_step_of_the_policy_gradient_loses_entropy_where_the_covariance_is_positive():
    """The paper's reason: dH = -step Cov(log p, p A), for a softmax of logits and exact advantages."""
    rng = np.random.default_rng(0)
    z, rewards = rng.normal(size=(2, 5))
    log_p = logprobs.log_softmax(z)
    p = np.exp(log_p)
    for r in (rewards, -rewards):
        a = r - p @ r
        step = 1e-6
        moved = logprobs.log_softmax(z + step * p * a)
        change = -(np.exp(moved) @ moved) + p @ log_p
        pa = p * a
        covariance = p @ ((log_p - p @ log_p) * (pa - p @ pa))
        np.testing.assert_allclose(change, -step * covariance, rtol=1e-4)


@pytest.mark.parametrize("share, count", [(1e-4, 1), (0.25, 2), (0.374, 2), (0.375, 3), (1.0, 8)])
def test_the_share_is_rounded_down_but_at_least_one_token(share, count):
    cov = np.random.default_rng(0).normal(size=MASK.shape)
    chosen = kl_cov.top_share(cov, MASK, share=share)
    assert chosen.sum() == count and not chosen[MASK == 0].any()
    left = MASK - chosen
    assert count == 8 or cov[chosen == 1].min() > cov[left == 1].max()


def test_of_equal_covariances_the_earlier_is_chosen():
    np.testing.assert_array_equal(
        kl_cov.top_share(np.zeros((2, 2)), np.ones((2, 2)), share=0.5), [[1, 1], [0, 0]]
    )


def test_a_token_alone_varies_with_nothing():
    alone = np.array([[1.0, 0.0]])
    np.testing.assert_array_equal(kl_cov.covariances([[-3.0, -1.0]], [2.0], alone), [[0.0, 0.0]])


def test_where_nothing_counts_nothing_is_chosen():
    assert not kl_cov.top_share(MASK, 0 * MASK, share=0.5).any()
    assert not kl_cov.covariances(MASK, ADVANTAGES, 0 * MASK).any()


def test_the_reductions_are_those_of_grpo():
    logps, old = two_policies()
    sums = the(kl_cov.loss_grad, logps, old, reduction="luspo") * 4
    for reduction, share, more in [
        ("grpo", 1 / (4 * np.array([[4], [2], [2], [1]])), {}),
        ("dr_grpo", 1 / 40, {"max_completion_length": 10}),
        ("dapo", 1 / 16, {"tokens_per_micro_batch": 16}),
        ("prompt_mean", np.repeat([[1 / 12], [1 / 4]], 2, axis=0), {"num_generations": 2}),
    ]:
        options = {"reduction": reduction} | more
        got = the(kl_cov.loss_grad, logps, old, **options)
        np.testing.assert_allclose(got, sums * share, rtol=1e-13)
    whole = the(kl_cov.loss, logps, old, reduction="dr_grpo", max_completion_length=2)
    np.testing.assert_allclose(whole, the(kl_cov.loss, logps, old), rtol=1e-13)  # 4 times 2 is 8
    whole = the(kl_cov.loss, logps, old, reduction="dapo", tokens_per_micro_batch=8)
    np.testing.assert_allclose(whole, the(kl_cov.loss, logps, old), rtol=1e-13)


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="share must be"):
        kl_cov.top_share(MASK, MASK, share=share)
    with pytest.raises(ValueError, match="completion_mask must have shape"):
        kl_cov.top_share(MASK[:2], MASK, share=0.5)

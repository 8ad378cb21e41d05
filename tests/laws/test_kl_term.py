"""Laws of the KL term, with and without its correction."""

import numpy as np
import pytest

from reference_math import kl, kl_term, logprobs


def some_tokens(seed=0, shape=(3, 4)):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=shape)
    return logps, logps + rng.normal(size=shape), 0.4 * rng.normal(size=shape)


def test_without_a_ratio_it_is_k3():
    logps, ref_logps, _ = some_tokens()
    k3 = kl.k3(logps, ref_logps)
    np.testing.assert_allclose(kl_term.per_token_kl(logps, ref_logps, 0.0), k3, rtol=1e-12)
    direct, _ = kl_term.per_token_kl_grad(logps, ref_logps, 0.0)
    np.testing.assert_allclose(direct, kl.k3_grad(logps, ref_logps), rtol=1e-12)


def test_with_one_it_is_k3_times_the_ratio():
    logps, ref_logps, s = some_tokens()
    expected = np.exp(s) * kl.k3(logps, ref_logps)
    np.testing.assert_allclose(kl_term.per_token_kl(logps, ref_logps, s), expected, rtol=1e-12)


def test_the_ratio_of_a_row_holds_for_its_tokens():
    logps, ref_logps, s = some_tokens()
    row = np.broadcast_to(s[:, :1], s.shape)
    for at_row, at_token in zip(
        kl_term.per_token_kl_grad(logps, ref_logps, s[:, :1]),
        kl_term.per_token_kl_grad(logps, ref_logps, row),
        strict=True,
    ):
        np.testing.assert_array_equal(at_row, at_token)


def test_both_paths_of_the_gradient(numeric_grad):
    logps, ref_logps, s = some_tokens()
    direct, through_ratio = kl_term.per_token_kl_grad(logps, ref_logps, s)
    expected = numeric_grad(lambda x: kl_term.per_token_kl(x, ref_logps, s).sum(), logps)
    np.testing.assert_allclose(direct, expected, rtol=1e-9, atol=1e-11)
    expected = numeric_grad(lambda x: kl_term.per_token_kl(logps, ref_logps, x).sum(), s)
    np.testing.assert_allclose(through_ratio, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("d", [-1e-9, 1e-9, -1e-4, 0.5, 0.999999, 1.0, 1.000001, 3.0])
def test_no_digit_is_lost_near_the_reference_or_where_the_two_forms_meet(d):
    """d^2/2 (1 + d/3 + d^2/12 ...), summed to the end: nothing cancels there."""
    terms = [1.0]
    for n in range(3, 60):
        terms.append(terms[-1] * d / n)
    expected = d * d / 2 * np.sum(terms)
    got = kl_term.per_token_kl([[0.0]], [[d]], 0.0)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_it_is_never_negative_and_0_only_at_the_reference():
    logps, _, s = some_tokens()
    for d in (-700.0, -1e-9, 1e-9, 1.0, 700.0):
        assert np.all(kl_term.per_token_kl(logps, logps + d, s) > 0)
    assert not kl_term.per_token_kl(logps, logps, s).any()


def test_a_token_that_the_policy_has_come_to_hate_has_the_ratio_of_the_reference_to_the_old():
    """w = e^-999 and k3 = e^999; TRL's product is 0 * inf."""
    k = kl_term.per_token_kl([[-1000.0]], [[-1.5]], np.array([[-999.0]]))
    np.testing.assert_allclose(k, np.exp(-0.5), rtol=1e-12)
    direct, through_ratio = kl_term.per_token_kl_grad([[-1000.0]], [[-1.5]], np.array([[-999.0]]))
    np.testing.assert_allclose([direct, through_ratio], [-k, k], rtol=1e-12)


@pytest.mark.parametrize("d", [-1e4, -700.0, 0.0, 0.5, 700.0, 1e4])
@pytest.mark.parametrize("s", [-1e4, -700.0, 0.0, 699.9, 700.0, 1e4])
def test_nothing_overflows_and_the_value_saturates(d, s):
    logps, ref_logps, s = np.array([[-1e5]]), np.array([[-1e5 + d]]), np.array([[s]])
    k = kl_term.per_token_kl(logps, ref_logps, s)
    assert 0.0 <= k <= kl_term.LIMIT
    for grad in kl_term.per_token_kl_grad(logps, ref_logps, s):
        assert np.isfinite(grad)
        assert k < kl_term.LIMIT or grad == 0.0


def test_the_bound_itself_is_saturated_for_the_value_and_not_yet_for_the_ratio():
    k = kl_term.per_token_kl([[-2.0]], [[-1.0]], np.array([[699.0]]))  # s + d = 700
    assert k == kl_term.LIMIT
    _, through_ratio = kl_term.per_token_kl_grad([[-2.0]], [[-2.5]], np.array([[700.0]]))
    assert through_ratio > 0.0


def test_where_only_the_ratio_has_saturated_its_path_is_closed():
    at = np.array([[-2.0]]), np.array([[-2.5]])
    direct, through_ratio = kl_term.per_token_kl_grad(*at, np.array([[701.0]]))
    assert direct > 0 and through_ratio == 0.0
    assert kl_term.per_token_kl_grad(*at, np.array([[699.0]]))[1] > 0


def test_over_tokens_of_the_old_policy_the_corrected_term_is_the_kl_and_so_is_its_gradient():
    """Exact sum over a vocabulary of 6: one-token completions, each of the old policy's share."""
    rng = np.random.default_rng(0)
    logits, old_logits, ref_logits = rng.normal(size=(3, 6))
    log_p, log_old, log_ref = (logprobs.log_softmax(z) for z in (logits, old_logits, ref_logits))
    tokens = log_p[:, None], log_ref[:, None], (log_p - log_old)[:, None]  # 6 rows of 1 token
    k = kl_term.per_token_kl(*tokens)[:, 0]
    np.testing.assert_allclose(np.exp(log_old) @ k, kl.exact(logits, ref_logits), rtol=1e-12)

    direct, through_ratio = kl_term.per_token_kl_grad(*tokens)
    push = np.exp(log_old) * (direct + through_ratio)[:, 0]  # d s / d log p = 1
    grad = push - np.exp(log_p) * push.sum()  # the softmax
    np.testing.assert_allclose(grad, kl.exact_grad(logits, ref_logits), rtol=1e-12)


def test_on_policy_only_the_correction_makes_the_push_that_of_the_kl():
    rng = np.random.default_rng(1)
    logits, ref_logits = rng.normal(size=(2, 6))
    log_p, log_ref = (
        logprobs.log_softmax(logits)[:, None],
        logprobs.log_softmax(ref_logits)[:, None],
    )
    direct, through_ratio = kl_term.per_token_kl_grad(log_p, log_ref, np.zeros((6, 1)))
    np.testing.assert_allclose(direct + through_ratio, log_p - log_ref, rtol=1e-12)  # k1
    np.testing.assert_allclose(direct, kl.k3_grad(log_p, log_ref), rtol=1e-12)

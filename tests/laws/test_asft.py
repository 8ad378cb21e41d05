"""Laws of anchored fine-tuning."""

import numpy as np
import pytest

from reference_math import asft, kl, logprobs, sft

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
OPTIONS = {"kl_weight": 0.3, "reduction": "batch_token"}


def a_batch(seed=0, vocabulary=6):
    rng = np.random.default_rng(seed)
    logits, ref = rng.normal(size=(2, *MASK.shape, vocabulary))
    return logits, ref, rng.integers(0, vocabulary, MASK.shape)


def test_the_gradient_is_the_slope_once_dfts_weight_is_held_still(numeric_grad):
    logits, ref, tokens = a_batch()
    p = np.exp(logprobs.per_token_logps(logits, tokens))
    log_ref = logprobs.log_softmax(ref)

    def held(z):
        log_p = logprobs.log_softmax(z)
        anchor = (np.exp(log_ref) * (log_ref - log_p)).sum(axis=-1)  # by enumeration
        return (MASK / 6 * (0.3 * anchor - p * logprobs.per_token_logps(z, tokens))).sum()

    args = logits, ref, tokens, MASK
    np.testing.assert_allclose(asft.loss(*args, **OPTIONS), held(logits), rtol=1e-13)
    got = asft.loss_grad(*args, **OPTIONS)
    np.testing.assert_allclose(got, numeric_grad(held, logits), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.05, 2.0])
def test_at_the_reference_and_without_an_anchor_it_is_dft(weight):
    logits, ref, tokens = a_batch()
    for z, anchor, k in [(logits, ref, 0.0), (logits, logits, weight)]:
        options = OPTIONS | {"kl_weight": k}
        logps = logprobs.per_token_logps(z, tokens)
        value = sft.dft(logps, MASK, reduction="batch_token")
        np.testing.assert_allclose(asft.loss(z, anchor, tokens, MASK, **options), value, rtol=1e-13)
        push = logprobs.logits_grad(z, tokens, sft.dft_grad(logps, MASK, reduction="batch_token"))
        got = asft.loss_grad(z, anchor, tokens, MASK, **options)
        np.testing.assert_allclose(got, push, rtol=1e-13, atol=1e-17)


def test_the_anchor_is_the_kl_from_the_reference_and_not_to_it():
    logits, ref, tokens = a_batch()
    free, held = (
        asft.loss(logits, ref, tokens, MASK, reduction="batch_token", kl_weight=k)
        for k in (0.0, 1.0)
    )
    there, back = (MASK / 6 * kl.exact(*pair) for pair in ((ref, logits), (logits, ref)))
    np.testing.assert_allclose(held - free, there.sum(), rtol=1e-12)
    assert abs(there.sum() - back.sum()) > 0.05


def test_it_pulls_back_a_token_that_the_policy_has_given_up():
    """DFT does not push it: its gradient carries p.  The KL from the reference pulls by p_ref."""
    given_up, ref = np.array([[[-30.0, 0.0]]]), np.zeros((1, 1, 2))
    args = given_up, ref, [[0]], [[1]]
    free, held = (
        asft.loss_grad(*args, reduction="batch_token", kl_weight=k)[0, 0, 0] for k in (0.0, 1.0)
    )
    assert abs(free) < 1e-12 and np.isclose(held, -0.5, rtol=1e-9)


def test_a_constant_added_to_the_logits_changes_nothing():
    logits, ref, tokens = a_batch()
    for moved in ((logits + 7.0, ref), (logits, ref - 5.0)):
        for f in (asft.loss, asft.loss_grad):
            expected = f(logits, ref, tokens, MASK, **OPTIONS)
            got = f(*moved, tokens, MASK, **OPTIONS)
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-14)


def test_the_tokens_of_the_step_are_counted_as_in_sft():
    args = *a_batch(), MASK
    step = OPTIONS | {"reduction": "global_token", "num_items_in_batch": 12}
    for f in (asft.loss, asft.loss_grad):
        np.testing.assert_allclose(f(*args, **step), f(*args, **OPTIONS) / 2, rtol=1e-13)

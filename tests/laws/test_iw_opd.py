"""Laws of importance-weighted on-policy distillation."""

import numpy as np
import pytest

from reference_math import grpo, iw_opd, kl, logprobs, reinforce

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])


def three_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.3 * rng.normal(size=MASK.shape), -rng.exponential(size=MASK.shape)


def test_with_gamma_0_it_pushes_on_average_as_the_reverse_kl_does():
    """Every token of a vocabulary of 5, weighed by its probability."""
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 1, 5))
    log_p, log_t = logprobs.log_softmax(logits), logprobs.log_softmax(teacher)
    expected = np.zeros_like(logits)
    for token in range(5):
        args = log_p[:, [token]], log_p[:, [token]], log_t[:, [token]], [[1.0]]
        push = iw_opd.loss_grad(*args, gamma=0.0)
        through = logprobs.logits_grad(logits[:, None], np.array([[token]]), push)[:, 0]
        expected += np.exp(log_p[0, token]) * through
    np.testing.assert_allclose(expected, kl.exact_grad(log_p, log_t), rtol=1e-12, atol=1e-15)


def test_the_gradient_is_the_slope_once_weights_and_advantages_are_held_still(numeric_grad):
    logps, old, teacher = three_policies()
    a = MASK * (teacher - old)
    w = iw_opd.prefix_weights(a, gamma=0.7)

    def held(x):
        return -(w * a * x).sum() / 8

    args = logps, old, teacher, MASK
    np.testing.assert_allclose(iw_opd.loss(*args, gamma=0.7), held(logps), rtol=1e-13)
    slope = numeric_grad(held, logps)
    np.testing.assert_allclose(iw_opd.loss_grad(*args, gamma=0.7), slope, rtol=1e-9, atol=1e-12)


def test_its_advantages_serve_any_policy_loss():
    """With gamma 0 the loss is REINFORCE with them; GRPO's gradient on-policy is the same."""
    logps, _, teacher = three_policies()
    a = iw_opd.advantages(logps, teacher, MASK)
    np.testing.assert_array_equal(a, MASK * (teacher - logps))
    expected = iw_opd.loss_grad(logps, logps, teacher, MASK, gamma=0.0)
    options = {"epsilon_low": 0.2, "epsilon_high": 0.2, "reduction": "bnpo"}
    got = grpo.loss_grad(logps, logps, a, MASK, importance_sampling_level="token", **options)
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(4 / 8 * reinforce.loss_grad(logps, a, MASK), expected, rtol=1e-13)


def test_the_mean_of_its_advantages_is_less_the_reverse_kl():
    log_p, log_t = (logprobs.log_softmax(z) for z in np.random.default_rng(0).normal(size=(2, 7)))
    a = iw_opd.advantages(log_p[None], log_t[None], np.ones((1, 7)))[0]
    np.testing.assert_allclose(np.exp(log_p) @ a, -kl.exact(log_p, log_t), rtol=1e-13)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_the_weights_fall_from_1_and_gamma_as_the_drift_adds_up(gamma):
    a = np.random.default_rng(0).normal(size=(3, 6))
    w = iw_opd.prefix_weights(a, gamma=gamma)
    np.testing.assert_array_equal(w[:, 0], 1 + gamma)
    assert (np.diff(w, axis=1) <= 0).all() and (w >= 1).all()
    steps = np.diff(w, axis=1) * np.abs(a).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(steps, -gamma * np.abs(a)[:, :-1], rtol=1e-12, atol=1e-15)


def test_the_weights_do_not_depend_on_the_size_or_the_sign_of_the_drift():
    a = np.random.default_rng(1).normal(size=(3, 6))
    w = iw_opd.prefix_weights(a, gamma=0.5)
    for scale in (-7.0, 0.01):
        np.testing.assert_allclose(iw_opd.prefix_weights(scale * a, gamma=0.5), w, rtol=1e-14)


def test_rows_do_not_mix_and_all_tokens_count_alike():
    logps, old, teacher = three_policies()
    whole = iw_opd.loss_grad(logps, old, teacher, MASK, gamma=0.5)
    for b, n in enumerate(MASK.sum(axis=1)):
        row = (x[[b]] for x in (logps, old, teacher, MASK))
        alone = iw_opd.loss_grad(*row, gamma=0.5)[0]
        np.testing.assert_allclose(8 * whole[b], n * alone, rtol=1e-13)
    step = iw_opd.loss_grad(logps, old, teacher, MASK, gamma=0.5, num_items_in_batch=16)
    np.testing.assert_allclose(2 * step, whole, rtol=1e-14)


def test_a_student_that_agrees_with_its_teacher_is_left_alone():
    logps, _, teacher = three_policies()
    args = logps, teacher, teacher, MASK
    assert iw_opd.loss(*args, gamma=0.5) == 0.0 and not iw_opd.loss_grad(*args, gamma=0.5).any()


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="gamma must be >= 0, got -1.0"):
        iw_opd.prefix_weights(MASK, gamma=-1.0)
    with pytest.raises(ValueError, match="advantages must have 2 axes"):
        iw_opd.prefix_weights(MASK[0], gamma=1.0)

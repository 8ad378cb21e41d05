"""Laws of self-distillation policy optimisation."""

import numpy as np
import pytest

from reference_math import grpo, kl, logprobs, sdpo

MASK = np.array([[1.0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
POLICY = {"epsilon_low": 0.2, "epsilon_high": 0.28, "reduction": "bnpo"}
POLICY |= {"importance_sampling_level": "token"}
ADVANTAGES = np.array([1.0, -0.5, 0.25, 2.0])


def three_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.3 * rng.normal(size=MASK.shape), -rng.exponential(size=MASK.shape)


def the(f, logps, old, teacher, w=1.0, is_clip=None, **more):
    options = POLICY | {"distillation_weight": w, "is_clip": is_clip} | more
    return f(logps, old, teacher, ADVANTAGES, MASK, **options)


def test_on_average_it_pushes_as_the_reverse_kl_does():
    """Every token of a vocabulary of 5, weighed by its probability."""
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 1, 5))
    log_p, log_t = logprobs.log_softmax(logits), logprobs.log_softmax(teacher)
    expected = np.zeros_like(logits)
    for token in range(5):
        args = log_p[:, [token]], log_p[:, [token]], log_t[:, [token]], [0.0], [[1.0]]
        push = sdpo.loss_grad(*args, distillation_weight=1.0, is_clip=2.0, **POLICY)
        through = logprobs.logits_grad(logits[:, None], np.array([[token]]), push)[:, 0]
        expected += np.exp(log_p[0, token]) * through
    np.testing.assert_allclose(expected, kl.exact_grad(log_p, log_t), rtol=1e-12, atol=1e-15)


def test_the_gradient_is_the_slope_once_the_constants_are_held_still(numeric_grad):
    logps, old, teacher = three_policies()
    slope = sdpo.distillation_grad(logps, old, teacher, MASK, 1.1)

    def held(x):
        options = POLICY | {"distillation_weight": 0.0, "is_clip": None}
        policy = sdpo.loss(x, old, teacher, ADVANTAGES, MASK, **options)
        return 0.6 * policy + 0.4 * (slope * x).sum()

    expected = numeric_grad(held, np.where(MASK == 1, logps, 0.0))
    got = the(sdpo.loss_grad, logps, old, teacher, w=0.4, is_clip=1.1)
    np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-11)
    value = the(sdpo.loss, logps, old, teacher, w=0.4, is_clip=1.1)
    np.testing.assert_allclose(value, held(np.where(MASK == 1, logps, 0.0)), rtol=1e-13)


@pytest.mark.parametrize("f, of_grpo", [(sdpo.loss, grpo.loss), (sdpo.loss_grad, grpo.loss_grad)])
def test_the_weight_mixes_grpo_with_the_distillation(f, of_grpo):
    args = three_policies()
    policy, both, alone = (the(f, *args, w=w) for w in (0.0, 0.25, 1.0))
    np.testing.assert_array_equal(policy, of_grpo(*args[:2], ADVANTAGES, MASK, **POLICY))
    np.testing.assert_allclose(both, 0.75 * policy + 0.25 * alone, rtol=1e-13, atol=1e-16)


def test_each_row_weighs_the_same_and_one_without_a_teacher_is_a_row_of_zeros():
    logps, old, teacher = three_policies()
    gap = MASK * (logps - teacher)
    expected = gap / np.array([[3], [2], [1], [1]]) / 4
    np.testing.assert_allclose(the(sdpo.loss_grad, logps, old, teacher), expected, rtol=1e-13)
    expected[1] = 0.0
    some = the(sdpo.loss_grad, logps, old, teacher, has_teacher=[1, 0, 1, 1])
    np.testing.assert_allclose(some, expected, rtol=1e-13)
    value = the(sdpo.loss, logps, old, teacher, has_teacher=[1, 0, 1, 1])
    np.testing.assert_allclose(value, (expected * logps).sum(), rtol=1e-13)


def test_the_teachers_log_probs_of_a_row_without_one_are_not_read():
    logps, old, teacher = three_policies()
    teacher[1] = np.nan
    assert np.isfinite(the(sdpo.loss, logps, old, teacher, has_teacher=[1, 0, 1, 1]))
    with pytest.raises(ValueError, match="teacher_per_token_logps must be finite"):
        the(sdpo.loss, logps, old, teacher)


def test_a_policy_that_has_moved_is_corrected_up_to_the_clip():
    logps, _, teacher = three_policies()
    old = logps - np.log([[1.5, 0.5, 3.0, 1.0]])
    plain = the(sdpo.loss_grad, logps, old, teacher)
    clipped = the(sdpo.loss_grad, logps, old, teacher, is_clip=2.0)
    ratio = np.broadcast_to([[1.5, 0.5, 2.0, 1.0]], MASK.shape)
    np.testing.assert_allclose(clipped, ratio * plain, rtol=1e-13)


def test_a_policy_that_agrees_with_its_teacher_is_left_alone():
    logps, old, _ = three_policies()
    assert the(sdpo.loss, logps, old, logps) == 0.0
    assert not the(sdpo.loss_grad, logps, old, logps).any()


@pytest.mark.parametrize(
    "wrong, message",
    [({"has_teacher": [1, 1]}, "has_teacher must have shape"), ({"is_clip": 0.0}, "is_clip must be > 0"),
     ({"has_teacher": [1, 1, 1, 0.5]}, "has_teacher must hold only")],
)  # fmt: skip
def test_what_is_wrong_is_named(wrong, message):
    for f in (sdpo.loss, sdpo.loss_grad):
        with pytest.raises(ValueError, match=message):
            the(f, *three_policies(), **wrong)

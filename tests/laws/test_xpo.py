"""Laws of exploratory preference optimisation."""

import numpy as np
import pytest

from reference_math import online_dpo, xpo

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]])
REWARDS = np.array([1.0, -2.0, 0.0, 2.0])
OPTIONS = {"alpha": 0.2, "beta": 0.4}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


@pytest.mark.parametrize("loss_type", online_dpo.LOSS_TYPES)
def test_the_gradient_by_hand_is_the_numeric_one(numeric_grad, loss_type):
    logps, ref = two_policies()
    batch, options = (ref, REWARDS, MASK), OPTIONS | {"loss_type": loss_type}
    expected = numeric_grad(lambda x: xpo.loss(x, *batch, **options), logps)
    got = xpo.loss_grad(logps, *batch, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


def test_without_a_bonus_it_is_online_dpo():
    logps, ref = two_policies()
    batch = logps, ref, REWARDS, MASK
    assert xpo.loss(*batch, alpha=0.0, beta=0.4) == online_dpo.loss(*batch, beta=0.4)
    got = xpo.loss_grad(*batch, alpha=0.0, beta=0.4)
    np.testing.assert_array_equal(got, online_dpo.loss_grad(*batch, beta=0.4))


def test_the_bonus_pushes_the_references_answers_down_and_touches_no_other():
    logps, ref = two_policies()
    batch = logps, ref, REWARDS, MASK
    extra = xpo.loss_grad(*batch, **OPTIONS) - online_dpo.loss_grad(*batch, beta=0.4)
    np.testing.assert_allclose(extra[:2], 0.0, atol=1e-17)
    np.testing.assert_allclose(extra[2:], 0.2 / 2 * MASK[2:], rtol=1e-12)
    likelier = logps + [[0.0], [0.0], [0.1], [0.0]]
    of_value = [
        xpo.loss(x, *batch[1:], **OPTIONS) - online_dpo.loss(x, *batch[1:], beta=0.4)
        for x in (logps, likelier)
    ]
    np.testing.assert_allclose(of_value[1] - of_value[0], 0.2 / 2 * 2 * 0.1, rtol=1e-10)


def test_what_stands_in_the_padding_is_never_read():
    logps, ref = two_policies()
    nan = [np.where(MASK == 1, x, np.nan) for x in (logps, ref)]
    for f in (xpo.loss, xpo.loss_grad):
        expected = f(logps, ref, REWARDS, MASK, **OPTIONS)
        np.testing.assert_array_equal(f(*nan, REWARDS, MASK, **OPTIONS), expected)


def test_no_prompts_have_loss_0():
    none = np.zeros((0, 3))
    assert xpo.loss(none, none, [], none, **OPTIONS) == 0.0
    assert xpo.loss_grad(none, none, [], none, **OPTIONS).shape == (0, 3)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"alpha": -0.1}, "alpha must be >= 0"),
        ({"beta": -0.1}, "beta must be >= 0"),
        ({"loss_type": "hinge"}, "loss_type must be one of"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    for f in (xpo.loss, xpo.loss_grad):
        with pytest.raises(ValueError, match=message):
            f(-MASK, -MASK, REWARDS, MASK, **OPTIONS | wrong)

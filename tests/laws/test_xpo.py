"""Laws of exploratory preference optimisation."""

import numpy as np

from reference_math import online_dpo, xpo

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [1, 1, 0], [1, 1, 1]])
REWARDS = np.array([1.0, -2.0, 0.0, 2.0])
OPTIONS = {"alpha": 0.2, "beta": 0.4}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


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

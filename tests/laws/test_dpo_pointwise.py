"""Laws of the preference losses that judge each answer by itself."""

import numpy as np
import pytest

from reference_math import dpo, dpo_pointwise

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
LAWS = ["slopes", "drift", "pairs", "beta_zero", "refusals"]  # conftest
LOSSES = {
    "nca_pair": (dpo_pointwise.nca_pair, dpo_pointwise.nca_pair_grad, {}),
    "bco_pair": (dpo_pointwise.bco_pair, dpo_pointwise.bco_pair_grad, {}),
    "sppo_hard": (dpo_pointwise.sppo_hard, dpo_pointwise.sppo_hard_grad, {}),
    "apo_zero": (dpo_pointwise.apo_zero, dpo_pointwise.apo_zero_grad, {}),
    "apo_down": (dpo_pointwise.apo_down, dpo_pointwise.apo_down_grad, {}),
}


def logratios(seed=0, B=6, scale=3.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(2, B))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("law", LAWS)
def test_every_preference_loss(preference_laws, law, name):
    loss, grad, options = LOSSES[name]
    preference_laws[law](loss, grad, **options)


def test_nca_lets_the_chosen_answer_rest_at_odds_of_two_to_one():
    """-log s - (log(1 - s)) / 2 is least at s = 2/3."""
    rest = np.log(2.0) / 0.3
    chosen = rest + np.array([-1.0, 0.0, 1.0])
    grad, _ = dpo_pointwise.nca_pair_grad(chosen, np.zeros(3), beta=0.3)
    np.testing.assert_allclose(grad[1], 0.0, atol=1e-16)
    assert grad[0] < 0 < grad[2]


def test_bco_is_a_classifier_of_single_answers():
    a, b = logratios()
    zero = np.zeros(6)
    each = dpo.sigmoid(a, zero, beta=0.3) + dpo.sigmoid(zero, b, beta=0.3)
    np.testing.assert_allclose(dpo_pointwise.bco_pair(a, b, beta=0.3), each, **CLOSE)


def test_nca_is_bco_and_half_a_brake():
    """nca(a, b) adds -log s(-a) / 2 and takes half of -log s(-b) away."""
    a, b = logratios()
    zero = np.zeros(6)
    brake = dpo.sigmoid(zero, a, beta=0.3) - dpo.sigmoid(zero, b, beta=0.3)
    difference = dpo_pointwise.nca_pair(a, b, beta=0.3) - dpo_pointwise.bco_pair(a, b, beta=0.3)
    np.testing.assert_allclose(difference, brake / 2, **CLOSE)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_sppo_rests_with_the_chosen_up_and_the_rejected_down_by_half_of_one_over_beta(beta):
    up = np.array([0.5 / beta])
    assert dpo_pointwise.sppo_hard(up, -up, beta=beta) == 0.0
    np.testing.assert_array_equal(dpo_pointwise.sppo_hard_grad(up, -up, beta=beta), 0.0)
    loss = dpo_pointwise.sppo_hard(up + 3, -up + 2, beta=beta)
    np.testing.assert_allclose(loss, 9 + 4, rtol=1e-12)


def test_apo_zero_moves_both_answers_from_where_they_were_and_is_content_with_neither():
    far, zero = np.array([200.0]), np.zeros(1)
    for (a, b), value in {(1, -1): 0.0, (-1, 1): 2.0, (1, 1): 1.0, (-1, -1): 1.0}.items():
        loss = dpo_pointwise.apo_zero(a * far, b * far, beta=1.0)
        np.testing.assert_allclose(loss, value, atol=1e-15)
    up, down = dpo_pointwise.apo_zero_grad(zero, zero, beta=1.0)
    assert up < 0 < down


def test_apo_down_lowers_both_answers_and_the_rejected_more():
    far, zero = np.array([200.0]), np.zeros(1)
    for (a, b), value in {(-1, -2): 0.0, (1, 2): 2.0, (1, 0): 1.0, (-1, 0): 1.0}.items():
        loss = dpo_pointwise.apo_down(a * far, b * far, beta=1.0)
        np.testing.assert_allclose(loss, value, atol=1e-15)
    with_margin = np.array([3.0])
    chosen, rejected = dpo_pointwise.apo_down_grad(zero, -with_margin, beta=1.0)
    assert chosen > 0 and rejected > 0  # descent: both go down

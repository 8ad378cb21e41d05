"""Laws of SAPO's gate."""

import numpy as np
import pytest

from reference_math import sapo

RATIOS = np.array([[1e-3, 0.5, 1.0, 2.0, 4.9, 5.1, 1e3]])
S = np.log(RATIOS)
HOT = {"temperature_pos": 1.0, "temperature_neg": 2.0}
signs = pytest.mark.parametrize("a", [1.0, 0.5, -0.5, -1.0])


@signs
def test_sapos_gate_is_the_numeric_derivative_of_its_value(a, numeric_grad):
    grad = numeric_grad(lambda s: sapo.per_token_loss(s, [a], **HOT).sum(), S)
    got = sapo.per_token_loss_grad(S, [a], **HOT)
    np.testing.assert_allclose(got, grad, rtol=1e-9, atol=1e-9)  # atol: values of 4, h^4 w^5 terms


@signs
def test_sapo_fades_on_both_sides_and_on_policy_it_does_not(a):
    weight = -sapo.per_token_loss_grad(S, [a], **HOT) / (a * RATIOS)
    np.testing.assert_allclose(weight[0, 2], 1.0, rtol=1e-15)
    assert np.all(np.diff(weight[0, :3]) > 0) and np.all(np.diff(weight[0, 2:]) <= 0)


def test_sapos_gate_is_symmetric_about_a_ratio_of_1():
    low, high = sapo.per_token_loss(np.log([[0.4, 1.6]]), [1.0], **HOT)[0]
    np.testing.assert_allclose(low + high, -4.0, rtol=1e-14)  # sigmoid(x) + sigmoid(-x) = 1


def test_sapo_is_bounded_by_4_over_tau():
    far = np.full((1, 1), 1e4)
    np.testing.assert_allclose(sapo.per_token_loss(far, [1.0], **HOT), [[-4.0]])
    np.testing.assert_allclose(sapo.per_token_loss(far, [-1.0], **HOT), [[2.0]])


def test_an_advantage_of_0_takes_the_negative_temperature_and_nothing_moves():
    assert not sapo.per_token_loss_grad(S, [0.0], **HOT).any()
    assert not sapo.per_token_loss(S, [0.0], **HOT).any()


def test_temperatures_must_be_positive():
    for name in HOT:
        with pytest.raises(ValueError, match=f"{name} must be > 0"):
            sapo.per_token_loss(S, [1.0], **HOT | {name: 0.0})


def test_a_small_advantage_takes_its_signs_temperature():
    for a in (0.01, -0.01):
        once, hundredfold = (sapo.per_token_loss(S, [x], **HOT) for x in (a, 100 * a))
        np.testing.assert_allclose(100 * once, hundredfold, rtol=1e-12)


def test_the_ratio_is_the_only_path_of_the_gradient(numeric_grad):
    logps, old = -np.random.default_rng(0).exponential(size=(2, 3, 4))
    options = {"importance_sampling_level": "token", "reduction": "grpo"} | HOT
    batch = old, [1.0, -2.0, 0.5], np.ones((3, 4))
    grad = numeric_grad(lambda x: sapo.loss(x, *batch, **options), logps)
    got = sapo.loss_grad(logps, *batch, **options)
    np.testing.assert_allclose(got, grad, rtol=1e-8, atol=1e-11)

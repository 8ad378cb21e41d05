"""Laws of VESPO's gamma weight."""

import numpy as np
import pytest

from reference_math import vespo

GAMMA = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}


@pytest.mark.parametrize("k, lam", [(2.0, 3.0), (3.0, 2.0), (0.0, 1.0)])
def test_vespos_weight_is_1_on_policy_and_largest_at_k_over_lambda(k, lam, numeric_grad):
    np.testing.assert_allclose(vespo.phi(0.0, k, lam), 1.0, rtol=1e-15)
    if k:
        slope = numeric_grad(lambda s: vespo.phi(s, k, lam).sum(), np.log([k / lam]))
        np.testing.assert_allclose(slope, 0.0, atol=1e-9)
    assert vespo.phi(np.log(9.0), k, lam) < vespo.phi(np.log(k / lam + 1e-9), k, lam)


def test_vespos_weight_is_a_gamma_density_up_to_its_constant():
    """d log phi / d log w = k - lambda w."""
    s = np.log(2.0) + np.array([-1e-4, 1e-4])
    slope = np.diff(np.log(vespo.phi(s, 2.0, 3.0)))[0] / 2e-4
    np.testing.assert_allclose(slope, 2.0 - 3.0 * 2.0, rtol=1e-7)  # h^2 of central differences


def test_vespo_takes_its_shape_by_the_sign_of_the_advantage_and_0_counts_as_good():
    log_w, kinds = np.log([[0.5]]), {}
    for a in (4.0, 0.25, -0.25, -4.0):
        kinds[a] = -vespo.per_token_loss_grad(log_w, [a], **GAMMA).item() / a
    good, bad = (vespo.phi(log_w, *shape).item() for shape in ((2.0, 3.0), (3.0, 2.0)))
    expected = {4.0: good, 0.25: good, -0.25: bad, -4.0: bad}
    np.testing.assert_allclose(list(kinds.values()), list(expected.values()), rtol=1e-15)


def test_the_sequence_ratio_is_a_product_times_that_of_the_sampler():
    logps, old = np.log([[0.5, 0.5, 0.5]]), np.log([[0.25, 0.4, 0.1]])
    mask = [[1, 1, 0]]
    w = vespo.sequence_log_ratio(logps, old, mask)
    np.testing.assert_allclose(np.exp(w), [[2.0 * 1.25]], rtol=1e-14)
    for rho in ([[2.0, 3.0, 1.0]], [[6.0]]):
        w = vespo.sequence_log_ratio(logps, old, mask, rho)
        np.testing.assert_allclose(np.exp(w), [[2.5 * 6.0]], rtol=1e-14)


@pytest.mark.parametrize(
    "logps, rho, expected",
    [
        ([[-1.0, -1.0]], None, 20.0),  # 99 + 99
        ([[-199.0, -199.0]], None, np.log(1e-8)),  # -99 - 99
        ([[-1.0, -130.0]], None, 20.0 - 20.0),  # 99 and -30, each held at 20
        ([[-100.0, -100.0]], [[0.0]], np.log(1e-8)),  # a masked sampler ratio is no log of 0
        ([[-100.0, -118.0]], [[1e30]], 20.0 - 18.0),  # 69, held at 20
        ([[-100.0, -85.0]], [[1e-30]], 15.0 + np.log(1e-8)),
    ],
)
def test_no_factor_leaves_its_bounds(logps, rho, expected):
    old = np.full((1, 2), -100.0)
    got = vespo.sequence_log_ratio(logps, old, [[1, 1]], rho)
    np.testing.assert_allclose(got, [[expected]], rtol=1e-12, atol=1e-12)


def test_the_samplers_ratio_reaches_the_loss_and_its_gradient():
    logps, old = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])
    options = {"importance_sampling_level": "token", "reduction": "luspo"} | GAMMA
    rho = {"importance_sampling_ratio": [[0.5]]}  # 2 times 1/2: on-policy after all
    grad = vespo.loss_grad(logps, old, [1.0], [[1, 1]], **rho, **options)
    np.testing.assert_allclose(grad, [[-1.0, -1.0]], rtol=1e-14)
    value = vespo.loss(logps, old, [1.0], [[1, 1]], **rho, **options)
    np.testing.assert_allclose(value, 2 * np.log(2.0), rtol=1e-14)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"k_pos": -1.0}, "k must be >= 0"),
        ({"k_neg": -1.0}, "k must be >= 0"),
        ({"lambda_pos": 0.0}, "lambda must be > 0"),
        ({"lambda_neg": 0.0}, "lambda must be > 0"),
    ],
)
def test_a_gamma_without_a_shape_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        vespo.per_token_loss_grad(np.zeros((1, 1)), [1.0], **GAMMA | wrong)


def test_a_samplers_ratio_must_be_finite_and_two_dimensional():
    for wrong, message in [
        ([[np.nan, 1.0]], "must be finite"),
        ([1.0, 1.0], "must have 2 axes"),
        ([[1.0] * 3], r"must have shape \(1, 2\) or \(1, 1\), got \(1, 3\)"),
        ([[1.0], [1.0]], r"must have shape \(1, 2\) or \(1, 1\), got \(2, 1\)"),
    ]:
        with pytest.raises(ValueError, match=f"importance_sampling_ratio {message}"):
            vespo.sequence_log_ratio([[0.0, 0.0]], [[0.0, 0.0]], [[1, 1]], wrong)


def test_each_sequence_has_a_ratio_of_its_own():
    logps, old = np.log([[0.5, 0.5], [0.2, 0.5]]), np.log([[0.25, 0.5], [0.4, 0.5]])
    rho = np.array([[3.0, 1.0], [1.0, 5.0]])
    for given, expected in [((), [[2.0], [0.5]]), ((rho,), [[6.0], [2.5]])]:
        w = vespo.sequence_log_ratio(logps, old, np.ones((2, 2)), *given)
        np.testing.assert_allclose(np.exp(w), expected, rtol=1e-14)

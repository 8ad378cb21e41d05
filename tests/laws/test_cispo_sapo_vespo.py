"""Laws of the three that do not clip: what weight a token of a given ratio has."""

import numpy as np
import pytest

from reference_math import cispo, grpo, sapo, vespo

RATIOS = np.array([[1e-3, 0.5, 1.0, 2.0, 4.9, 5.1, 1e3]])
S = np.log(RATIOS)
HOT = {"temperature_pos": 1.0, "temperature_neg": 2.0}
GAMMA = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
signs = pytest.mark.parametrize("a", [1.0, -1.0])


@signs
def test_cispo_never_drops_a_token_and_caps_its_weight(a):
    weight = -a * cispo.per_token_loss_grad(S, [a], epsilon_max=5.0)
    np.testing.assert_allclose(weight, [[1e-3, 0.5, 1.0, 2.0, 4.9, 5.0, 5.0]], rtol=1e-12)


@signs
def test_cispo_at_a_high_cap_weighs_like_an_open_clip(a):
    """-w A on log p here, -w A through the ratio there: the same policy gradient."""
    wide = {"epsilon_low": np.inf, "epsilon_high": np.inf, "delta": None}
    expected = grpo.per_token_loss_grad(S, [a], **wide)
    grad = cispo.per_token_loss_grad(S, [a], epsilon_max=1e9)
    np.testing.assert_allclose(grad, expected, rtol=1e-14)


def test_a_cap_below_1_shrinks_even_on_policy_gradients():
    """TRL's default for cispo: epsilon_high = 0.2 is the cap itself, not 1.2."""
    grad = cispo.per_token_loss_grad(np.zeros((1, 1)), [1.0], epsilon_max=0.2)
    np.testing.assert_allclose(grad, [[-0.2]], rtol=1e-15)


def test_cispo_is_linear_in_the_log_probability():
    logps = -np.arange(1.0, 8.0)[None]
    value = cispo.per_token_loss(logps, S, [0.5], epsilon_max=5.0)
    slope = cispo.per_token_loss_grad(S, [0.5], epsilon_max=5.0)
    np.testing.assert_array_equal(value, slope * logps)


def test_a_cap_must_be_positive():
    for wrong in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="epsilon_max must be"):
            cispo.per_token_loss_grad(S, [1.0], epsilon_max=wrong)


@signs
def test_sapos_gate_is_the_numeric_derivative_of_its_value(a, numeric_grad):
    grad = numeric_grad(lambda s: sapo.per_token_loss(s, [a], **HOT).sum(), S)
    got = sapo.per_token_loss_grad(S, [a], **HOT)
    np.testing.assert_allclose(got, grad, rtol=1e-9, atol=1e-9)  # atol: values of 4, h^4 w^5 terms


@signs
def test_sapo_fades_on_both_sides_and_on_policy_it_does_not(a):
    weight = -a * sapo.per_token_loss_grad(S, [a], **HOT) / RATIOS
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
    for a in (1.0, -1.0):
        kinds[a] = -a * vespo.per_token_loss_grad(log_w, [a], **GAMMA).item()
    np.testing.assert_allclose(kinds[1.0], vespo.phi(log_w, 2.0, 3.0).item(), rtol=1e-15)
    np.testing.assert_allclose(kinds[-1.0], vespo.phi(log_w, 3.0, 2.0).item(), rtol=1e-15)


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
    for wrong, message in [([[np.nan]], "must be finite"), ([1.0], "must have 2 axes")]:
        with pytest.raises(ValueError, match=f"importance_sampling_ratio {message}"):
            vespo.sequence_log_ratio([[0.0]], [[0.0]], [[1]], wrong)

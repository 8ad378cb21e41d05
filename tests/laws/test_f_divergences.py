"""Laws of the f-divergence scores F(u)."""

import numpy as np
import pytest

from reference_math import f_divergences

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one

_ALPHA = {"alpha": 0.5, "max_exponent": 80.0}
SCORES = {
    "reverse_kl": (f_divergences.reverse_kl, f_divergences.reverse_kl_grad, {}),
    "forward_kl": (f_divergences.forward_kl, f_divergences.forward_kl_grad, {}),
    "js_divergence": (f_divergences.js_divergence, f_divergences.js_divergence_grad, {}),
    "alpha=0.5": (f_divergences.alpha_divergence, f_divergences.alpha_divergence_grad, _ALPHA),
    "alpha=2": (
        f_divergences.alpha_divergence,
        f_divergences.alpha_divergence_grad,
        _ALPHA | {"alpha": 2.0},
    ),
}
# f of D_f(policy || reference) = E_ref f(p / p_ref), up to c (t - 1), which no divergence sees
GENERATORS = {
    "reverse_kl": lambda t: t * np.log(t),
    "forward_kl": lambda t: -np.log(t),
    "js_divergence": lambda t: t * np.log(t) - (t + 1) * np.log((t + 1) / 2),
    "alpha=0.5": lambda t: (t**0.5 - 0.5 * t - 0.5) / (0.5 * (0.5 - 1)),
    "alpha=2": lambda t: (t**2 - 2 * t + 1) / (2 * (2 - 1)),
}


@pytest.mark.parametrize("name", SCORES)
def test_the_score_is_the_slope_of_the_divergences_generator(numeric_grad, name):
    """Eq. 6 of f-DPO: the optimal policy has beta f'(p / p_ref) = r - const."""
    score, _, options = SCORES[name]
    u = np.linspace(-1.0, 1.0, 7)
    slope = numeric_grad(lambda t: GENERATORS[name](t).sum(), np.exp(u))
    constant = slope[3]  # at t = 1
    np.testing.assert_allclose(score(u, **options), slope - constant, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_the_score_starts_at_zero_with_slope_one_and_never_falls(numeric_grad, name):
    score, score_grad, options = SCORES[name]
    assert abs(score([0.0], **options)[0]) < 1e-16 and score_grad([0.0], **options)[0] in (1.0, 0.5)
    u = np.linspace(-6.0, 6.0, 25)
    assert (np.diff(score(u, **options)) > 0).all()
    slope = numeric_grad(lambda x: score(x, **options).sum(), u)
    np.testing.assert_allclose(score_grad(u, **options), slope, rtol=1e-7, atol=1e-9)  # e^6 steep
    for far in (700.0, -700.0):
        assert np.isfinite(score([far], **options)) and np.isfinite(score_grad([far], **options))


def test_only_reverse_kl_goes_on_growing_both_ways():
    """Where F is bounded, drifting further earns or costs nothing more."""
    assert f_divergences.forward_kl([700.0]) == 1.0
    np.testing.assert_allclose(f_divergences.js_divergence([700.0]), np.log(2.0), rtol=1e-15)
    np.testing.assert_allclose(f_divergences.js_divergence([-700.0]), np.log(2.0) - 700, rtol=1e-15)
    np.testing.assert_array_equal(f_divergences.reverse_kl([-700.0, 700.0]), [-700, 700])


def test_the_alpha_divergence_runs_from_forward_to_reverse_kl():
    u, free = np.linspace(-3, 3, 7), {"max_exponent": np.inf}
    for f, g in [
        (f_divergences.alpha_divergence, f_divergences.forward_kl),
        (f_divergences.alpha_divergence_grad, f_divergences.forward_kl_grad),
    ]:
        np.testing.assert_allclose(f(u, alpha=0.0, **free), g(u), **CLOSE)
    np.testing.assert_array_equal(f_divergences.alpha_divergence(u, alpha=1.0, **free), u)
    np.testing.assert_array_equal(f_divergences.alpha_divergence_grad(u, alpha=1.0, **free), 1.0)
    near = f_divergences.alpha_divergence(u, alpha=1 + 1e-9, **free)
    np.testing.assert_allclose(near, u, rtol=1e-8)  # 1e-9 u / 2 is left


def test_the_alpha_divergence_is_flat_beyond_its_cut_off():
    cut = {"alpha": 2.0, "max_exponent": 10.0}
    at, beyond = (f_divergences.alpha_divergence([u], **cut) for u in (10.0, 11.0))
    np.testing.assert_array_equal(at, beyond)
    np.testing.assert_allclose(at, np.expm1(10.0), rtol=1e-15)
    grads = f_divergences.alpha_divergence_grad([10.0, 11.0, 1e4], **cut)  # e^1e4 is beyond float64
    np.testing.assert_array_equal(grads, [np.exp(10.0), 0.0, 0.0])


@pytest.mark.parametrize("name", SCORES)
def test_a_log_ratio_that_is_not_finite_is_refused(name):
    score, score_grad, options = SCORES[name]
    for f in (score, score_grad):
        with pytest.raises(ValueError, match="u must be finite, got inf"):
            f([np.inf], **options)

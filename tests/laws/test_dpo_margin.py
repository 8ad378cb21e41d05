"""Laws of robust, exo_pair, discopop and aot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import dpo, dpo_margin

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
LAWS = ["slopes", "drift", "pairs", "beta_zero", "refusals"]  # conftest
LOSSES = {
    "robust": (dpo_margin.robust, dpo_margin.robust_grad, {"label_smoothing": 0.1}),
    "exo_pair": (dpo_margin.exo_pair, dpo_margin.exo_pair_grad, {"label_smoothing": 0.1}),
    "discopop": (dpo_margin.discopop, dpo_margin.discopop_grad, {"discopop_tau": 0.5}),
    "aot": (dpo_margin.aot, dpo_margin.aot_grad, {"label_smoothing": 0.1}),
}


def logratios(seed=0, B=6, scale=3.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(2, B))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("law", LAWS)
def test_every_preference_loss(preference_laws, law, name):
    loss, grad, options = LOSSES[name]
    preference_laws[law](loss, grad, **options)


@pytest.mark.parametrize("name", ["robust", "exo_pair", "discopop"])
@given(shift=st.floats(-50, 50))
def test_only_the_difference_matters(name, shift):
    """So DPO cannot tell a likelier chosen answer from an unlikelier rejected one."""
    loss, grad, options = LOSSES[name]
    chosen, rejected = logratios()
    # atol: adding 50 costs the log-ratios digits below 50 * 2^-53, times the steepest slope
    moved = loss(chosen + shift, rejected + shift, beta=0.3, **options)
    still = loss(chosen, rejected, beta=0.3, **options)
    np.testing.assert_allclose(moved, still, rtol=1e-12, atol=1e-12)
    g_chosen, g_rejected = grad(chosen, rejected, beta=0.3, **options)
    np.testing.assert_array_equal(g_chosen, -g_rejected)


@pytest.mark.parametrize("name", ["discopop"])
def test_a_larger_margin_never_costs_more(name):
    loss, _, options = LOSSES[name]
    margin = np.linspace(-30, 30, 101)
    margin = margin[np.abs(margin) > 9]  # between its two regimes it has a bump
    losses = loss(margin, 0 * margin, beta=0.3, **options)
    assert (np.diff(losses) <= 0).all() and losses[0] > 8 and losses[-1] < 1e-3


@given(eps=st.floats(0.0, 0.45))
def test_robust_is_unbiased_for_the_clean_labels(eps):
    a, b = logratios()
    kept, swapped = (
        dpo_margin.robust(*pair, beta=0.3, label_smoothing=eps) for pair in ((a, b), (b, a))
    )
    # 1 / (1 - 2 eps) is at most 10: the two cancel to within 100 roundings
    expected = dpo.sigmoid(a, b, beta=0.3)
    np.testing.assert_allclose((1 - eps) * kept + eps * swapped, expected, rtol=1e-11)


@pytest.mark.parametrize("eps", [0.1, 0.5, 0.8])
def test_exo_is_a_kl_to_the_smoothed_label(eps):
    a, b = logratios()
    loss = dpo_margin.exo_pair(a, b, beta=0.3, label_smoothing=eps)
    q = 1 / (1 + np.exp(-0.3 * (a - b)))
    # Gibbs: cross-entropy less entropy
    cross, own = np.log([1 - eps, eps]), np.stack([q, 1 - q])
    np.testing.assert_allclose(loss, (own * (np.log(own) - cross[:, None])).sum(axis=0), **CLOSE)
    rest = np.array([np.log((1 - eps) / eps) / 0.3])
    for f in (dpo_margin.exo_pair, lambda *x, **k: dpo_margin.exo_pair_grad(*x, **k)[0]):
        np.testing.assert_allclose(f(rest, [0.0], beta=0.3, label_smoothing=eps), 0.0, atol=1e-15)
    far = dpo_margin.exo_pair([700.0], [0.0], beta=1.0, label_smoothing=eps)
    np.testing.assert_allclose(far, -np.log(1 - eps), rtol=1e-12)


def test_discopop_is_logistic_where_the_pair_is_wrong_and_exponential_where_it_is_right():
    wrong, right, zero = np.array([-4.0]), np.array([4.0]), np.zeros(1)
    sharp = {"beta": 1.0, "discopop_tau": 0.05}
    loss = dpo_margin.discopop(wrong, zero, **sharp)
    np.testing.assert_allclose(loss, dpo.sigmoid(wrong, zero, beta=1.0), rtol=1e-12)
    np.testing.assert_allclose(dpo_margin.discopop(right, zero, **sharp), np.exp(-4.0), rtol=1e-12)
    # a broad mixture is half of each
    broad = dpo_margin.discopop(right, zero, beta=1.0, discopop_tau=1e9)
    half = (dpo.sigmoid(right, zero, beta=1.0) + np.exp(-4.0)) / 2
    np.testing.assert_allclose(broad, half, rtol=1e-7)  # what is left of 4 / 1e9


@given(seed=st.integers(0, 99))
def test_aot_compares_sorted_samples_so_who_is_paired_with_whom_does_not_matter(seed):
    upper, lower = logratios(seed)
    options = {"beta": 0.3, "label_smoothing": 0.1}
    order = np.random.default_rng(seed).permutation(6)
    loss = dpo_margin.aot(upper, lower, **options)
    np.testing.assert_array_equal(dpo_margin.aot(upper[order], lower, **options), loss)
    np.testing.assert_array_equal(dpo_margin.aot(upper, lower[order], **options), loss)
    gradient, still = dpo_margin.aot_grad(upper, lower, **options)
    moved, still_too = dpo_margin.aot_grad(upper[order], lower, **options)
    np.testing.assert_array_equal(moved, gradient[order])
    np.testing.assert_array_equal(still_too, still)


@pytest.mark.parametrize("eps", [0.0, 0.2, 1.0])
def test_aot_of_one_pair_is_the_smoothed_sigmoid(eps):
    a, b = np.array([1.5]), np.array([-0.5])
    smooth = (1 - eps) * dpo.sigmoid(a, b, beta=0.3) + eps * dpo.sigmoid(b, a, beta=0.3)
    np.testing.assert_allclose(dpo_margin.aot(a, b, beta=0.3, label_smoothing=eps), smooth, **CLOSE)


def test_aot_with_ties_still_hands_each_its_own_rank():
    upper, lower = np.array([2.0, 1.0, 2.0]), np.zeros(3)
    g_upper, g_lower = dpo_margin.aot_grad(upper, lower, beta=1.0, label_smoothing=0.0)
    assert g_upper[0] == g_upper[2] > g_upper[1]  # the smallest is pushed the most
    np.testing.assert_allclose(g_upper.sum(), -g_lower.sum(), rtol=1e-15)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("robust", {"label_smoothing": 0.5}, "label_smoothing must be < 0.5, got 0.5"),
        ("robust", {"label_smoothing": -0.1}, "label_smoothing must be >= 0, got -0.1"),
        ("exo_pair", {"label_smoothing": 0.0}, "label_smoothing must be > 0, got 0.0"),
        ("exo_pair", {"label_smoothing": 1.0}, "label_smoothing must be < 1, got 1.0"),
        ("aot", {"label_smoothing": 1.1}, "label_smoothing must be <= 1, got 1.1"),
        ("aot", {"label_smoothing": -0.1}, "label_smoothing must be >= 0, got -0.1"),
        ("discopop", {"discopop_tau": 0.0}, "discopop_tau must be > 0, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused_by_value_and_gradient(name, options, message):
    loss, grad, _ = LOSSES[name]
    for f in (loss, grad):
        with pytest.raises(ValueError) as error:
            f(np.zeros(1), np.zeros(1), beta=0.1, **options)
        assert message in str(error.value)

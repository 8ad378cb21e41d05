"""Laws of the trust region by divergence."""

import numpy as np
import pytest

from reference_math import dppo, kl, logprobs, reinforce

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, 0.0, 2.0])
BOUNDS = {"delta_low": 0.05, "delta_high": 0.1}
EACH = pytest.mark.parametrize("divergence", dppo.DIVERGENCES)


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -0.05 - rng.exponential(size=MASK.shape)
    return logps, np.minimum(logps + 0.5 * rng.normal(size=MASK.shape), -0.01)


def the(f, logps, old, advantages=ADVANTAGES, **changed):
    options = BOUNDS | {"divergence": "tv", "truncation": None, "reduction": "bnpo"} | changed
    return f(logps, old, advantages, MASK, **options)


@EACH
def test_the_gradient_is_the_slope_once_weight_and_mask_are_held_still(numeric_grad, divergence):
    logps, old = two_policies()
    options = {"divergence": divergence, "truncation": 1.3}
    keep = dppo.keep_mask(logps, old, ADVANTAGES, MASK, divergence=divergence, **BOUNDS)
    w = np.minimum(np.exp(logps - old), 1.3) * keep * MASK

    def held(x):
        return -(w * ADVANTAGES[:, None] * x).sum() / 8

    np.testing.assert_allclose(the(dppo.loss, logps, old, **options), held(logps), rtol=1e-13)
    slope = numeric_grad(held, logps)
    got = the(dppo.loss_grad, logps, old, **options)
    np.testing.assert_allclose(got, slope, rtol=1e-9, atol=1e-12)
    assert 0 < keep[MASK == 1].mean() < 1 and (w > 1.29).any()


@EACH
def test_on_policy_it_is_reinforce(divergence):
    logps, _ = two_policies()
    options = {"divergence": divergence, "delta_low": 0.0, "delta_high": 0.0, "reduction": "luspo"}
    got = the(dppo.loss_grad, logps, logps, **options)
    np.testing.assert_allclose(got, reinforce.loss_grad(logps, ADVANTAGES, MASK), rtol=1e-14)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@EACH
def test_only_a_token_that_went_too_far_the_way_it_is_pushed_is_left_out(divergence, sign):
    """Up where A > 0, down where A < 0, both beyond the bound of that side."""
    p = np.linspace(0.05, 0.95, 19)[None]
    old, ones = np.full_like(p, 0.5), np.ones_like(p)
    keep = dppo.keep_mask(np.log(p), np.log(old), [sign], ones, divergence=divergence, **BOUNDS)
    far = np.abs(p - old) if divergence == "tv" else dppo.binary_kl(np.log(p), np.log(old))
    bound = BOUNDS["delta_high" if sign > 0 else "delta_low"]
    pushed = p > old + 1e-9 if sign > 0 else p < old - 1e-9
    clear = np.abs(far - bound) > 1e-9  # 0.6 - 0.5 rounds to either side of 0.1
    np.testing.assert_array_equal(keep[clear], 1.0 - ((far > bound) & pushed)[clear])
    assert 0 < keep.sum() < p.size


@pytest.mark.parametrize("sign", [1.0, -1.0])
@EACH
def test_a_token_at_the_bound_counts(divergence, sign):
    one, other = np.log([[0.5]]), np.log([[0.25 if sign > 0 else 0.75]])
    far = np.abs(np.exp(one) - np.exp(other)) if divergence == "tv" else dppo.binary_kl(one, other)
    for bound, kept in [(far[0, 0], 1.0), (far[0, 0] * (1 - 1e-12), 0.0)]:
        bounds = {"delta_low": bound, "delta_high": bound, "divergence": divergence}
        np.testing.assert_array_equal(dppo.keep_mask(one, other, [sign], [[1]], **bounds), kept)


def test_an_advantage_of_0_takes_the_lower_bound():
    """It pushes nowhere, so only the mask shows it: verl's clipped share counts such tokens."""
    down, up = np.log([[0.2, 0.8]]), np.log([[0.5, 0.5]])
    keep = dppo.keep_mask(down, up, [0.0], [[1, 1]], divergence="tv", **BOUNDS)
    np.testing.assert_array_equal(keep, [[0.0, 1.0]])


def test_the_binary_divergences_are_at_most_those_over_the_vocabulary():
    """Putting all other tokens together can only hide a difference."""
    log_p, log_old = (logprobs.log_softmax(z) for z in np.random.default_rng(0).normal(size=(2, 7)))
    whole_tv = np.abs(np.exp(log_p) - np.exp(log_old)).sum() / 2
    assert (np.abs(np.exp(log_p) - np.exp(log_old)) <= whole_tv).all()
    binary = dppo.binary_kl(log_p[None], log_old[None])[0]
    assert (binary > 0).all() and (binary <= kl.exact(log_old[None], log_p[None])[0]).all()


def test_the_binary_kl_is_that_of_two_outcomes():
    p, old = np.array([0.1, 0.5, 0.9, 0.3]), np.array([0.2, 0.5, 0.6, 1e-9])
    pairs = [np.log(np.stack([x, 1 - x], axis=-1)) for x in (old, p)]
    got = dppo.binary_kl(np.log(p)[None], np.log(old)[None])[0]
    np.testing.assert_allclose(got, kl.exact(*pairs), rtol=1e-8, atol=1e-15)  # 1e-9 cancels
    assert got[1] == 0.0


def test_a_policy_that_is_sure_keeps_a_finite_gradient():
    sure, half, ones = np.array([[0.0, 0.0]]), np.log([[0.5, 1.0]]), np.ones((1, 2))
    np.testing.assert_array_equal(dppo.binary_kl(sure, half), [[np.inf, 0.0]])
    options = BOUNDS | {"divergence": "kl", "truncation": None, "reduction": "bnpo"}
    grad = dppo.loss_grad(sure, half, [1.0], ones, **options)
    np.testing.assert_array_equal(grad, [[0.0, -0.5]])
    nearly = np.array([[-1e-20, -1e-20]])  # rounds to the same probability, 1
    assert np.isfinite(dppo.loss_grad(sure, nearly, [1.0], ones, **options)).all()


@pytest.mark.parametrize("truncation", [0.5, 1.1])
def test_the_truncation_bounds_the_weight_and_nothing_else(truncation):
    logps, old = two_policies()
    free, cut = (the(dppo.loss_grad, logps, old, truncation=t) for t in (None, truncation))
    w = np.exp(logps - old)
    np.testing.assert_allclose(cut, free * np.minimum(w, truncation) / w, rtol=1e-13)
    assert (np.abs(cut) < np.abs(free)).any()


def test_the_reductions_are_those_of_grpo():
    logps, old = two_policies()
    sums = the(dppo.loss_grad, logps, old, reduction="luspo") * 4
    n = np.array([[4], [2], [2], [1]])
    for reduction, share, more in [
        ("grpo", 1 / (4 * n), {}),
        ("bnpo", 1 / 8, {}),
        ("dr_grpo", 1 / 40, {"max_completion_length": 10}),
        ("dapo", 1 / 16, {"tokens_per_micro_batch": 16}),
        ("prompt_mean", np.repeat([[1 / 12], [1 / 4]], 2, axis=0), {"num_generations": 2}),
    ]:
        got = the(dppo.loss_grad, logps, old, reduction=reduction, **more)
        np.testing.assert_allclose(got, sums * share, rtol=1e-13)
        value = the(dppo.loss, logps, old, reduction=reduction, **more)
        np.testing.assert_allclose(value, (got * logps).sum(), rtol=1e-13)


def test_the_padding_is_kept_and_not_read():
    logps, old = two_policies()
    dirty = np.where(MASK == 1, logps, np.nan)
    keep = dppo.keep_mask(dirty, old, ADVANTAGES, MASK, divergence="kl", **BOUNDS)
    np.testing.assert_array_equal(keep[MASK == 0], 1.0)


@pytest.mark.parametrize("at, name", [(0, "per_token_logps"), (1, "old_per_token_logps")])
def test_a_probability_above_1_is_refused_by_the_kl(at, name):
    args = [np.log([[0.5]]), np.log([[0.5]])]
    args[at] = np.array([[0.1]])
    with pytest.raises(ValueError, match=f"^{name} must be <= 0, got 0.1"):
        dppo.binary_kl(*args)

"""Laws of the KL estimators: which divergence, which way round, and what pushing them down does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import kl, logprobs

V = 6
ESTIMATORS = [(kl.k1, kl.k1_grad), (kl.k2, kl.k2_grad), (kl.k3, kl.k3_grad)]


def two_models(seed=0, gap=1.0):
    """Logits (1, 1, V) of a policy and of a reference `gap` away."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(1, 1, V))
    return logits, logits + gap * rng.normal(size=(1, 1, V))


def every_token(logits, ref_logits):
    """The chance of each token under the policy, and its two log-probabilities: (V, 1), as B = V."""
    p = np.exp(logprobs.log_softmax(logits))[0, 0][:, None]
    logps = logprobs.log_softmax(logits)[0, 0][:, None]
    return p, logps, logprobs.log_softmax(ref_logits)[0, 0][:, None]


def expected_push(estimator_grad, logits, ref_logits):
    """The mean over sampled tokens of the estimator's gradient to the logits, tokens held fixed."""
    p, logps, ref_logps = every_token(logits, ref_logits)
    grad = estimator_grad(logps, ref_logps)
    rows = np.repeat(logits, V, axis=0)
    return logprobs.logits_grad(rows, np.arange(V)[:, None], p * grad).sum(axis=0, keepdims=True)


@pytest.mark.parametrize("gap", [1e-6, 1e-3, 1.0, 8.0])
def test_k1_and_k3_average_to_the_kl_from_the_policy_to_the_reference(gap):
    logits, ref_logits = two_models(gap=gap)
    p, logps, ref_logps = every_token(logits, ref_logits)
    exact = kl.exact(logits, ref_logits)[0, 0]
    assert exact > 0
    np.testing.assert_allclose((p * kl.k3(logps, ref_logps)).sum(), exact, rtol=1e-9)
    # k1's terms are of the order of the gap and cancel down to its square
    np.testing.assert_allclose((p * kl.k1(logps, ref_logps)).sum(), exact, rtol=1e-9, atol=1e-15)


def test_k2_is_near_the_kl_only_where_the_models_are_near():
    for gap, least, most in [(1e-3, 0.0, 1e-2), (3.0, 0.1, 10.0)]:
        logits, ref_logits = two_models(gap=gap)
        p, logps, ref_logps = every_token(logits, ref_logits)
        exact = kl.exact(logits, ref_logits)[0, 0]
        assert least <= abs((p * kl.k2(logps, ref_logps)).sum() / exact - 1) < most


def test_the_two_directions_differ_and_swapping_the_arguments_swaps_them():
    logits, ref_logits = two_models(gap=2.0)
    p, q = (np.exp(logprobs.log_softmax(z))[0, 0] for z in (logits, ref_logits))
    one_way, other_way = kl.exact(logits, ref_logits), kl.exact(ref_logits, logits)
    # Gibbs: each is the cross-entropy less the entropy of the model that samples
    np.testing.assert_allclose(one_way, -(p * np.log(q)).sum() - logprobs.entropy(logits))
    np.testing.assert_allclose(other_way, -(q * np.log(p)).sum() - logprobs.entropy(ref_logits))
    assert abs(one_way - other_way) > 0.1


def test_as_losses_k1_pushes_nowhere_k2_down_the_kl_and_k3_down_the_other_kl(numeric_grad):
    logits, ref_logits = two_models(gap=1.5)
    close = {"rtol": 1e-8, "atol": 1e-10}  # conftest: five points, errors of about 1e-12
    down = numeric_grad(lambda z: kl.exact(z, ref_logits).sum(), logits)
    other = numeric_grad(lambda z: kl.exact(ref_logits, z).sum(), logits)
    np.testing.assert_allclose(expected_push(kl.k1_grad, logits, ref_logits), 0.0, atol=1e-15)
    np.testing.assert_allclose(expected_push(kl.k2_grad, logits, ref_logits), down, **close)
    np.testing.assert_allclose(expected_push(kl.k3_grad, logits, ref_logits), other, **close)
    assert np.abs(down - other).max() > 0.01


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_exact_grad_is_the_slope_of_exact(numeric_grad, temperature):
    logits, ref_logits = two_models(gap=1.5)
    t = {"temperature": temperature}
    slope = numeric_grad(lambda z: kl.exact(z, ref_logits, **t).sum(), logits)
    grad = kl.exact_grad(logits, ref_logits, **t)
    np.testing.assert_allclose(grad, slope, rtol=1e-8, atol=1e-10)  # conftest: about 1e-12
    np.testing.assert_allclose(
        kl.exact(logits, ref_logits, **t), kl.exact(logits / temperature, ref_logits / temperature)
    )


@pytest.mark.parametrize("estimator, estimator_grad", ESTIMATORS)
def test_each_gradient_is_the_slope_of_its_estimator(numeric_grad, estimator, estimator_grad):
    rng = np.random.default_rng(0)
    logps, ref_logps = -rng.exponential(size=(2, 3)), -rng.exponential(size=(2, 3))
    slope = numeric_grad(lambda x: estimator(x, ref_logps).sum(), logps)
    np.testing.assert_allclose(estimator_grad(logps, ref_logps), slope, rtol=1e-8)


@given(log_r=st.floats(-700, 700))
def test_k2_and_k3_are_never_negative_and_stay_finite(log_r):
    logps, ref_logps = np.array([[0.0]]), np.array([[log_r]])
    for estimator in (kl.k2, kl.k3):
        value = estimator(logps, ref_logps)[0, 0]
        assert value >= 0 and np.isfinite(value)
    assert kl.k3(logps, ref_logps)[0, 0] > 0 or abs(log_r) < 1e-150
    assert np.isfinite(kl.k3_grad(logps, ref_logps)).all()
    assert kl.k1(logps, ref_logps)[0, 0] == -log_r


@pytest.mark.parametrize("log_r", [1e-12, -1e-12, 1e-6, -1e-3, 0.05, 0.0999, -0.0999, 0.1001, 0.5])
def test_k3_keeps_its_digits_however_near_the_models_are(log_r):
    """Against the power series in exact fractions."""
    from fractions import Fraction

    x, term, total = Fraction(log_r), Fraction(1), Fraction(0)
    for n in range(1, 30):
        term = term * x / n
        total += term if n >= 2 else 0
    got = kl.k3(np.array([[0.0]]), np.array([[log_r]]))[0, 0]
    # above 0.1 the subtraction costs 20 roundings at most
    np.testing.assert_allclose(got, float(total), rtol=5e-15)


def test_k3_ends_in_infinity_where_float64_does():
    assert kl.k3([[0.0]], [[800.0]]) == np.inf
    assert kl.k3_grad([[0.0]], [[800.0]]) == -np.inf
    np.testing.assert_allclose(kl.k3([[0.0]], [[-800.0]]), 799.0)
    np.testing.assert_array_equal(kl.k3_grad([[0.0]], [[-800.0]]), 1.0)


def test_the_same_model_is_no_distance_from_itself():
    logits, _ = two_models()
    np.testing.assert_array_equal(kl.exact(logits, logits), 0.0)
    np.testing.assert_array_equal(kl.exact_grad(logits, logits), 0.0)
    for estimator, _ in ESTIMATORS:
        np.testing.assert_array_equal(estimator([[-1.5]], [[-1.5]]), 0.0)


def test_exact_kl_of_models_that_are_sure_of_different_tokens():
    """log p and log q reach -2e4, where e^-x is 0 and e^x is not: no 0 x inf."""
    a, b = np.array([[1e4, -1e4, 0.0]]), np.array([[-1e4, 1e4, 0.0]])
    np.testing.assert_allclose(kl.exact(a, b), 2e4, rtol=1e-15)  # p is all on token 0, q e^-2e4
    assert np.isfinite(kl.exact_grad(a, b)).all()


def test_models_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"ref_logits must have shape \(1, 3\), got \(1, 2\)"):
        kl.exact(np.zeros((1, 3)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match=r"ref_per_token_logps must have shape \(1, 3\)"):
        kl.k3(np.zeros((1, 3)), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="per_token_logps must have 2 axes"):
        kl.k1(np.zeros(3), np.zeros(3))

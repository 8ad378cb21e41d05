"""Laws of log-probabilities and entropy: what has to hold whatever library computes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import logprobs

TEMPERATURES = [0.5, 1.0, 3.0]
CLOSE = {"rtol": 1e-12, "atol": 1e-13}  # sums of a few terms of order one: 10 roundings or so
BY_DIFFERENCES = {"rtol": 1e-8, "atol": 1e-10}  # conftest: five points, errors of about 1e-12


def a_text(seed=0, B=2, T=3, V=5):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(B, T, V))
    return logits, rng.integers(0, V, size=(B, T)), rng.normal(size=(B, T))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_probabilities_sum_to_one_and_their_log_odds_are_the_logits_differences(temperature):
    logits, _, _ = a_text()
    log_probs = logprobs.log_softmax(logits, temperature=temperature)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, **CLOSE)
    odds = log_probs - log_probs[..., :1]
    np.testing.assert_allclose(odds, (logits - logits[..., :1]) / temperature, **CLOSE)


@given(seed=st.integers(0, 99), shift=st.floats(-100, 100))
def test_a_constant_added_to_the_logits_changes_nothing(seed, shift):
    logits, tokens, g = a_text(seed)
    shifted = logits + shift
    # atol: adding 100 costs the logits digits below 100 * 2^-53
    close = {"rtol": 1e-12, "atol": 1e-12}
    for f in (logprobs.log_softmax, logprobs.entropy, logprobs.log_sum_sq_probs):
        np.testing.assert_allclose(f(shifted), f(logits), **close)
    for f in (logprobs.per_token_logps, lambda z, y: logprobs.logits_grad(z, y, g)):
        np.testing.assert_allclose(f(shifted, tokens), f(logits, tokens), **close)


def test_the_tokens_names_do_not_matter():
    logits, tokens, _ = a_text()
    order = np.array([3, 0, 4, 1, 2])  # token order[i] is renamed i
    renamed = np.argsort(order)[tokens]
    a = logprobs.per_token_logps(logits, tokens)
    np.testing.assert_allclose(logprobs.per_token_logps(logits[..., order], renamed), a, **CLOSE)


def test_the_chances_of_every_possible_token_sum_to_one():
    logits, tokens, _ = a_text()
    total = sum(np.exp(logprobs.per_token_logps(logits, 0 * tokens + v)) for v in range(5))
    np.testing.assert_allclose(total, 1.0, **CLOSE)


def test_the_likeliest_token_has_the_highest_log_probability():
    logits, tokens, _ = a_text()
    every = np.stack([logprobs.per_token_logps(logits, 0 * tokens + v) for v in range(5)], axis=-1)
    np.testing.assert_array_equal(every.argsort(axis=-1), logits.argsort(axis=-1))


def test_a_low_temperature_makes_the_likely_likelier_and_a_high_one_evens_out():
    logits = np.array([[[2.0, 1.0, 0.0]]])
    cold, warm = (logprobs.log_softmax(logits, temperature=t) for t in (1e-3, 1e6))
    np.testing.assert_array_equal(np.exp(cold), [[[1.0, 0.0, 0.0]]])
    np.testing.assert_allclose(warm, -np.log(3.0), rtol=1e-5)  # what is left of 2 / 1e6


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_huge_logits_lose_nothing(size):
    logits = np.array([[[size, 0.0, -size], [-size, -size, -size]]])
    log_probs = logprobs.log_softmax(logits)
    np.testing.assert_array_equal(log_probs[0, 0], [0.0, -size, -2 * size] - np.exp(-size))
    np.testing.assert_allclose(log_probs[0, 1], -np.log(3.0), rtol=1e-15)
    np.testing.assert_allclose(logprobs.entropy(logits)[0, 1], np.log(3.0), rtol=1e-15)
    # the sure position: H = x e^-x (1 + 1/x) and vanishing terms
    entropy = size * np.exp(-size) * (1 + 1 / size)
    np.testing.assert_allclose(logprobs.entropy(logits)[0, 0], entropy, rtol=1e-13)
    assert np.isfinite(logprobs.log_sum_sq_probs(logits)).all()
    for grad in (
        logprobs.logits_grad(logits, [[0, 1]], [[1.0, 1.0]]),
        logprobs.entropy_grad(logits, [[1.0, 1.0]]),
        logprobs.log_softmax_grad(logits, np.ones((1, 2, 3))),
    ):
        assert np.isfinite(grad).all()


def test_a_sure_token_keeps_its_last_push():
    """p = 1 - 2e-22: as 1 - p it would be exactly 0."""
    logits = np.array([[[50.0, 0.0, -900.0]]])
    lost = np.exp(-50.0)
    np.testing.assert_allclose(logprobs.per_token_logps(logits, [[0]]), -lost, rtol=1e-14)
    grad = logprobs.logits_grad(logits, [[0]], [[1.0]])
    np.testing.assert_allclose(grad, [[[lost, -lost, 0.0]]], rtol=1e-13)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_gradients_are_the_slopes_of_the_values(numeric_grad, temperature):
    logits, tokens, g = a_text()
    t = {"temperature": temperature}
    every = np.random.default_rng(1).normal(size=logits.shape)
    for value, grad in [
        (
            lambda z: (g * logprobs.per_token_logps(z, tokens, **t)).sum(),
            logprobs.logits_grad(logits, tokens, g, **t),
        ),
        (
            lambda z: (g * logprobs.entropy(z, **t)).sum(),
            logprobs.entropy_grad(logits, g, **t),
        ),
        (
            lambda z: (every * logprobs.log_softmax(z, **t)).sum(),
            logprobs.log_softmax_grad(logits, every, **t),
        ),
    ]:
        np.testing.assert_allclose(grad, numeric_grad(value, logits), **BY_DIFFERENCES)


def test_the_expected_score_is_zero():
    """sum_v p_v grad(log p_v) = 0, on which every policy gradient rests."""
    logits, tokens, _ = a_text()
    total = 0.0
    for v in range(5):
        p = np.exp(logprobs.per_token_logps(logits, 0 * tokens + v))
        total = total + logprobs.logits_grad(logits, 0 * tokens + v, p)
    np.testing.assert_allclose(total, 0.0, atol=1e-15)  # terms of at most 1/4 that cancel


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_entropy_is_the_expected_surprise(temperature):
    logits, tokens, _ = a_text()
    surprise = 0.0
    for v in range(5):
        logps = logprobs.per_token_logps(logits, 0 * tokens + v, temperature=temperature)
        surprise = surprise - np.exp(logps) * logps
    entropy = logprobs.entropy(logits, temperature=temperature)
    np.testing.assert_allclose(entropy, surprise, **CLOSE)
    assert (entropy > 0).all() and (entropy < np.log(5)).all()


def test_entropy_is_largest_where_all_tokens_are_as_likely():
    uniform = np.full((1, 2, 5), 3.0)
    np.testing.assert_allclose(logprobs.entropy(uniform), np.log(5), rtol=1e-15)
    np.testing.assert_allclose(logprobs.entropy_grad(uniform, np.ones((1, 2))), 0.0, atol=1e-16)
    grad = logprobs.entropy_grad(np.array([[1.0, 0.0]]), [1.0])
    assert grad[0, 0] < 0 < grad[0, 1]  # uphill is to even out


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_sum_of_squares_is_how_often_two_draws_agree(temperature):
    logits, _, _ = a_text()
    p = np.exp(logprobs.log_softmax(logits, temperature=temperature))
    agree = np.einsum("btu,btv,uv->bt", p, p, np.eye(5))
    got = logprobs.log_sum_sq_probs(logits, temperature=temperature)
    np.testing.assert_allclose(got, np.log(agree), **CLOSE)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"logits": np.zeros((2, 5))}, "logits must have 3 axes, got shape (2, 5)"),
        ({"logits": np.zeros((1, 2, 0))}, "vocabulary axis of >= 1, got shape (1, 2, 0)"),
        ({"logits": np.full((1, 2, 3), np.inf)}, "logits must be finite, got inf"),
        ({"tokens": [[0, 3]]}, "tokens must lie in 0..2"),
        ({"tokens": [[-1, 0]]}, "tokens must lie in 0..2"),
        ({"tokens": [[0.0, 1.0]]}, "tokens must be integers"),
        ({"tokens": [[0]]}, "tokens must have shape (1, 2), got (1, 1)"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"grad_logps": np.zeros((1, 3))}, "grad_logps must have shape (1, 2), got (1, 3)"),
        ({"grad_logps": [[0.0, np.nan]]}, "grad_logps must be finite, got nan"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(wrong, message):
    given = {"logits": np.zeros((1, 2, 3)), "tokens": [[0, 1]], "grad_logps": np.zeros((1, 2))}
    with pytest.raises(ValueError) as error:
        logprobs.logits_grad(**(given | wrong))
    assert message in str(error.value)


def test_gradients_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="grad_log_probs must have shape"):
        logprobs.log_softmax_grad(np.zeros((2, 3)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="grad_entropy must have shape"):
        logprobs.entropy_grad(np.zeros((2, 3)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="vocabulary axis"):
        logprobs.entropy(1.0)


def test_the_temperature_is_1_unless_given():
    logits, tokens = a_text()[:2]
    for f in (logprobs.log_softmax, logprobs.entropy, logprobs.log_sum_sq_probs):
        np.testing.assert_array_equal(f(logits), f(logits, temperature=1.0))
    ones = np.ones(tokens.shape)
    for f, grad in [
        (logprobs.per_token_logps, ()),
        (logprobs.logits_grad, (ones,)),
    ]:
        given = logits, tokens, *grad
        np.testing.assert_array_equal(f(*given), f(*given, temperature=1.0))

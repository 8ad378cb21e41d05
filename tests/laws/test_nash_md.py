"""Laws of Nash-MD."""

import itertools

import numpy as np
import pytest

from reference_math import logprobs, nash_md, reinforce

MASK = np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]])
WIN = np.array([0.9, 0.2, 0.5])
LEVELS = pytest.mark.parametrize("kl_level", nash_md.KL_LEVELS)


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


def push(kl_level, length=2, beta=0.7):
    """By enumeration of all answers, 3 tokens of vocabulary: minus the mean gradient, and log p(z)."""
    rng = np.random.default_rng(0)
    answers = np.array(list(itertools.product(range(3), repeat=length)))
    logits, ref_logits = rng.normal(size=(2, 1, length, 3))
    win = rng.random(len(answers))

    def log_probs(z):
        return logprobs.per_token_logps(np.repeat(z, len(answers), axis=0), answers)

    logps, ones = log_probs(logits), np.ones(answers.shape)
    options = {"beta": beta, "kl_level": kl_level}
    grad = nash_md.loss_grad(logps, log_probs(ref_logits), win, ones, **options) * len(answers)
    p = np.exp(logps.sum(axis=1))[:, None]
    tiled = np.repeat(logits, len(answers), axis=0)
    mean = -logprobs.logits_grad(tiled, answers, p * grad).sum(axis=0)

    def objective(z):
        s, ref = log_probs(z).sum(axis=1), log_probs(ref_logits).sum(axis=1)
        return float((np.exp(s) * (win - beta * (s - ref))).sum())

    return mean, objective, logits


def test_at_sequence_level_the_gradient_is_that_of_the_wins_less_the_kl(numeric_grad):
    mean, objective, logits = push("sequence")
    np.testing.assert_allclose(mean, numeric_grad(objective, logits)[0], rtol=1e-9)


def test_at_token_level_the_kl_is_myopic_unless_there_is_one_token(numeric_grad):
    """The last token's gradient is right, the one before misses what it does to the last."""
    mean, objective, logits = push("token", length=1)
    np.testing.assert_allclose(mean, numeric_grad(objective, logits)[0], rtol=1e-9)
    mean, objective, logits = dependent("token")
    expected = numeric_grad(objective, logits)
    assert np.abs(mean - expected).max() > 0.1 * np.abs(expected).max()
    mean, objective, logits = dependent("sequence")
    np.testing.assert_allclose(mean, numeric_grad(objective, logits), rtol=1e-9)


def dependent(kl_level, beta=0.7):
    """The same for the first token's logits, where the second token depends on the first."""
    rng = np.random.default_rng(1)
    answers = np.array(list(itertools.product(range(3), repeat=2)))
    (logits, ref_logits), second, ref_second = (
        rng.normal(size=(2, 3)),
        rng.normal(size=(3, 3)),
        rng.normal(size=(3, 3)),
    )

    def log_probs(z, after):
        first = logprobs.log_softmax(z)[answers[:, 0]]
        return np.stack([first, logprobs.log_softmax(after)[answers[:, 0], answers[:, 1]]], axis=1)

    logps, ref = log_probs(logits, second), log_probs(ref_logits, ref_second)
    win = np.full(9, 0.5)
    options = {"beta": beta, "kl_level": kl_level}
    grad = nash_md.loss_grad(logps, ref, win, np.ones((9, 2)), **options) * 9
    g = (np.exp(logps.sum(axis=1)) * grad[:, 0])[:, None]
    tiled = np.tile(logits, (9, 1, 1))
    mean = -logprobs.logits_grad(tiled, answers[:, :1], g).sum(axis=(0, 1))

    def objective(z):
        s = log_probs(z, second).sum(axis=1)
        return -beta * float((np.exp(s) * (s - ref.sum(axis=1))).sum())

    return mean, objective, logits


@LEVELS
def test_the_value_has_the_gradient_with_the_log_ratio_frozen(numeric_grad, kl_level):
    """The loss is linear in log p once the rest is constant: gradient times log p, summed."""
    logps, ref = two_policies()
    options = {"beta": 0.3, "kl_level": kl_level}
    grad = nash_md.loss_grad(logps, ref, WIN, MASK, **options)
    value = nash_md.loss(logps, ref, WIN, MASK, **options)
    np.testing.assert_allclose(value, (grad * logps).sum(), rtol=1e-13)


@LEVELS
def test_without_a_kl_it_is_reinforce_of_the_win_probability(kl_level):
    logps, ref = two_policies()
    got = nash_md.loss_grad(logps, ref, WIN, MASK, beta=0.0, kl_level=kl_level)
    np.testing.assert_allclose(got, reinforce.loss_grad(logps, WIN - 0.5, MASK), rtol=1e-14)


@LEVELS
def test_a_token_that_the_reference_would_not_say_is_pushed_down(kl_level):
    got = nash_md.loss_grad([[-1.0]], [[-3.0]], [0.5], [[1]], beta=0.5, kl_level=kl_level)
    assert got == 1.0  # beta (log p - log p_ref)


def test_the_mixture_lies_between_the_policy_and_the_reference():
    z, ref = np.random.default_rng(0).normal(size=(2, 4, 5))
    ends = [logprobs.log_softmax(x) for x in (z, ref)]
    for c, expected in [(0.0, ends[0]), (1.0, ends[1])]:
        got = nash_md.mixture_log_probs(z, ref, mixture_coef=c)
        np.testing.assert_allclose(got, expected, rtol=1e-13)
    half = nash_md.mixture_log_probs(z, ref, mixture_coef=0.25)
    np.testing.assert_allclose(np.exp(half).sum(axis=-1), 1.0, rtol=1e-14)
    odds = np.diff(half), 0.25 * np.diff(ends[1]) + 0.75 * np.diff(ends[0])
    np.testing.assert_allclose(*odds, rtol=1e-12)  # log-odds are mixed linearly


def test_two_win_probabilities_of_one_pair_add_up_to_1():
    r, other = np.random.default_rng(0).normal(scale=300.0, size=(2, 5))
    p, q = nash_md.win_probability(r, other), nash_md.win_probability(other, r)
    np.testing.assert_allclose(p + q, 1.0, rtol=1e-15)
    assert ((p > 0.5) == (r > other)).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: nash_md.mixture_log_probs([0.0], [0.0], mixture_coef=1.5),
            "mixture_coef must be <= 1",
        ),
        (
            lambda: nash_md.mixture_log_probs([0.0], [0.0], mixture_coef=-0.5),
            "mixture_coef must be >= 0",
        ),
        (
            lambda: nash_md.mixture_log_probs([0.0], [0.0, 1.0], mixture_coef=0.5),
            r"ref_logits must have shape \(1,\)",
        ),
        (lambda: nash_md.win_probability([[0.0]], [[0.0]]), "rewards must have 1 axes"),
        (lambda: nash_md.win_probability([0.0], [0.0, 0.0]), "mixture_rewards must have shape"),
    ],
)
def test_what_is_wrong_around_it_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@LEVELS
def test_a_certain_win_and_a_certain_loss_push_as_hard_to_opposite_sides(kl_level):
    logps, _ = two_policies()
    options = {"beta": 0.5, "kl_level": kl_level}  # no KL: both policies are the same
    won, lost = (nash_md.loss_grad(logps, logps, [p] * 3, MASK, **options) for p in (1.0, 0.0))
    np.testing.assert_array_equal(won, -lost)
    assert (won[MASK == 1] < 0).all()

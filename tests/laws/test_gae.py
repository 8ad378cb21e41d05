"""Laws of generalised advantage estimation."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import gae, logprobs

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
UNIT = st.floats(0.0, 1.0)


def rollout(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=MASK.shape), rng.normal(size=MASK.shape)


@given(UNIT, UNIT, st.integers(0, 99))
def test_it_is_the_discounted_sum_of_all_surprises(gamma, lam, seed):
    """Equation 16, summed term by term."""
    rewards, values = rollout(seed)
    got = gae.advantages(rewards, values, MASK, gamma=gamma, lam=lam)
    for row, states in enumerate(MASK.sum(axis=1).astype(int)):
        v = [*values[row, :states], 0.0]  # nothing is worth anything after the last state
        surprise = [rewards[row, t] + gamma * v[t + 1] - v[t] for t in range(states)]
        for t in range(states):
            expected = sum((gamma * lam) ** k * d for k, d in enumerate(surprise[t:]))
            np.testing.assert_allclose(got[row, t], expected, rtol=1e-12, atol=1e-13)
        assert not got[row, states:].any()


def test_with_lambda_1_it_is_the_return_less_the_critic_and_with_0_one_surprise():
    rewards, values = rollout()
    all_ahead = gae.advantages(rewards, values, MASK, gamma=1.0, lam=1.0)
    to_go = np.cumsum((rewards * MASK)[:, ::-1], axis=1)[:, ::-1] * MASK
    np.testing.assert_allclose(gae.returns(all_ahead, values, MASK), to_go, rtol=1e-13)
    one_ahead = gae.advantages(rewards, values, MASK, gamma=1.0, lam=0.0)
    assert np.isclose(one_ahead[0, 0], rewards[0, 0] + values[0, 1] - values[0, 0], rtol=1e-14)
    assert np.isclose(one_ahead[1, 1], rewards[1, 1] - values[1, 1], rtol=1e-14)


def test_a_lambda_per_answer_holds_for_its_answer():
    rewards, values = rollout()
    got = gae.advantages(rewards, values, MASK, gamma=0.9, lam=[0.25, 0.75, 1.0])
    for row, lam in enumerate((0.25, 0.75, 1.0)):
        alone = gae.advantages(rewards, values, MASK, gamma=0.9, lam=lam)[row]
        np.testing.assert_array_equal(got[row], alone)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_the_weights_of_vapos_lambda_add_up_to_alpha_times_the_length(alpha):
    """Its definition: sum_k lam^k = alpha n, here summed until nothing is left; 0 where that is below 1."""
    lam = gae.length_adaptive_lam(MASK, alpha=alpha)
    totals = (lam[:, None] ** np.arange(2000.0)).sum(axis=1)
    np.testing.assert_allclose(totals, np.maximum(alpha * np.array([4, 2, 1]), 1.0), rtol=1e-12)


def test_with_vapos_lambda_the_reward_reaches_the_first_token_of_a_long_answer_too():
    """A reward of 1 at the end, a critic of 0: a tenth is left at the first of 200 tokens, not 0.95^199."""
    rewards, values = np.zeros((2, 1, 200))
    rewards[0, -1] = 1.0
    far = {}
    for name, lam in [
        ("fixed", 0.95),
        ("by length", gae.length_adaptive_lam(rewards + 1 > 0, alpha=0.5)),
    ]:
        far[name] = gae.advantages(rewards, values, np.ones((1, 200)), gamma=1.0, lam=lam)[0, 0]
    np.testing.assert_allclose(far["fixed"], 0.95**199, rtol=1e-12)
    assert far["fixed"] < 1e-4 and np.isclose(far["by length"], np.exp(-2.0), rtol=0.02)


TREE = list(itertools.product(range(3), repeat=2))  # all answers of two tokens, vocabulary 3


def tree(seed=0):
    """log p of each answer's tokens, (9, 2); its logits by prefix; a reward a token, (9, 2)."""
    rng = np.random.default_rng(seed)
    logits, second = rng.normal(size=3), rng.normal(size=(3, 3))
    log_p, log_p2 = logprobs.log_softmax(logits), logprobs.log_softmax(second)
    logps = np.array([[log_p[a], log_p2[a, b]] for a, b in TREE])
    r1, r2 = rng.normal(size=3), rng.normal(size=(3, 3))
    return logits, logps, np.array([[r1[a], r2[a, b]] for a, b in TREE])


@pytest.mark.parametrize("gamma, lam", [(1.0, 1.0), (0.9, 0.5), (0.7, 0.0)])
def test_a_critic_that_is_right_leaves_no_advantage_on_average(gamma, lam):
    """By enumeration: E[A_t | what was said before t] = 0 with the exact values, whatever lambda."""
    _, logps, rewards = tree()
    p, p2 = np.exp(logps.sum(axis=1)), np.exp(logps[:, 1])
    second = np.array([(p2 * rewards[:, 1])[3 * a : 3 * a + 3].sum() for a in range(3)])
    first = (p * (rewards[:, 0] + gamma * np.repeat(second, 3))).sum()
    values = np.stack([np.full(9, first), np.repeat(second, 3)], axis=1)
    a = gae.advantages(rewards, values, np.ones((9, 2)), gamma=gamma, lam=lam)
    np.testing.assert_allclose((p * a[:, 0]).sum(), 0.0, atol=1e-15)
    np.testing.assert_allclose((p2 * a[:, 1]).reshape(3, 3).sum(axis=1), 0.0, atol=1e-15)


def test_with_lambda_1_any_critic_leaves_the_gradient_of_the_reward(numeric_grad):
    """By enumeration: E[sum_t A_t grad log p_t] = grad E[sum of rewards], to the first token's logits."""
    logits, logps, rewards = tree()
    values = np.random.default_rng(1).normal(size=(9, 2))
    values[:, 0] = values[0, 0]  # a critic sees what was said before, not what is said next
    values[:, 1] = np.repeat(values[::3, 1], 3)
    a = gae.advantages(rewards, values, np.ones((9, 2)), gamma=1.0, lam=1.0)
    p = np.exp(logps.sum(axis=1))
    tokens = np.array([answer[0] for answer in TREE])
    push = logprobs.logits_grad(np.tile(logits, (9, 1, 1)), tokens[:, None], (p * a[:, 0])[:, None])

    def mean_reward(z):
        q = np.exp(logprobs.log_softmax(z)[tokens] + logps[:, 1])
        return float((q * rewards.sum(axis=1)).sum())

    np.testing.assert_allclose(push.sum(axis=(0, 1)), numeric_grad(mean_reward, logits), rtol=1e-9)


def test_what_stands_in_the_padding_is_never_read():
    rewards, values = rollout()
    expected = gae.advantages(rewards, values, MASK, gamma=0.9, lam=0.8)
    nan = [np.where(MASK == 1, x, np.nan) for x in (rewards, values)]
    got = gae.advantages(*nan, MASK, gamma=0.9, lam=0.8)
    np.testing.assert_array_equal(got, expected)
    returns = gae.returns(np.where(MASK == 1, got, np.nan), nan[1], MASK)
    np.testing.assert_array_equal(returns, (expected + values) * MASK)
    whitened = gae.masked_whiten(nan[0], MASK, ddof=1, eps=1e-8)
    np.testing.assert_array_equal(whitened, gae.masked_whiten(rewards, MASK, ddof=1, eps=1e-8))


@pytest.mark.parametrize("ddof", [0, 1])
def test_whitened_numbers_have_mean_0_and_variance_1(ddof):
    x, _ = rollout()
    white = gae.masked_whiten(x, MASK, ddof=ddof, eps=0.0)
    np.testing.assert_allclose(white[MASK == 1].mean(), 0.0, atol=1e-15)
    np.testing.assert_allclose(white[MASK == 1].var(ddof=ddof), 1.0, rtol=1e-14)
    assert not white[MASK == 0].any()
    np.testing.assert_allclose(
        gae.masked_whiten(3.0 * x - 7.0, MASK, ddof=ddof, eps=0.0), white, rtol=1e-12
    )
    kept = gae.masked_whiten(x, MASK, ddof=ddof, eps=0.0, shift_mean=False)
    np.testing.assert_allclose(kept[MASK == 1].mean(), x[MASK == 1].mean(), rtol=1e-14)
    np.testing.assert_allclose((kept - white)[MASK == 1], x[MASK == 1].mean(), rtol=1e-13)
    assert not kept[MASK == 0].any()


def test_eps_stands_under_the_root():
    """Variance 1 and eps 3: the std is 2, where eps beside it would make 4."""
    white = gae.masked_whiten([[1.0, 3.0]], [[1, 1]], ddof=0, eps=3.0)
    np.testing.assert_allclose(white, [[-0.5, 0.5]], rtol=1e-15)
    white = gae.masked_whiten(
        [[1.0, 3.0]], [[1, 1]], ddof=1, eps=2.0
    )  # variance 2: of one free number
    np.testing.assert_allclose(white, [[-0.5, 0.5]], rtol=1e-15)


@pytest.mark.parametrize("shift_mean", [True, False])
def test_without_a_spread_nothing_deviates(shift_mean):
    for x, mask in ([[[5.0, 2.0]], [[1, 0]]], [[[5.0, 5.0]], [[1, 1]]], [[[5.0, 2.0]], [[0, 0]]]):
        got = gae.masked_whiten(x, mask, ddof=1, eps=0.0, shift_mean=shift_mean)
        np.testing.assert_array_equal(got, 0.0 if shift_mean else np.multiply(5.0, mask))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"gamma": 1.1}, "gamma must be <= 1"),
        ({"gamma": -0.1}, "gamma must be >= 0"),
        ({"lam": 1.1}, "lam must be <= 1"),
        ({"lam": -0.1}, "lam must be >= 0"),
        ({"lam": [0.5, 1.1, 0.5]}, "lam must be <= 1"),
        ({"lam": [0.5, 0.5, -0.1]}, "lam must be >= 0"),
        ({"lam": [0.5, 0.5]}, r"lam must be one number, or have shape \(3,\), got \(2,\)"),
        ({"lam": np.ones((3, 1))}, r"lam must be one number, or have shape \(3,\)"),
        ({"lam": [0.5, 0.5, np.nan]}, "lam must be finite"),
        ({"state_mask": MASK / 2}, "state_mask must hold only 0 and 1"),
        ({"state_mask": MASK[0]}, "state_mask must have 2 axes"),
        ({"state_mask": MASK[:, ::-1]}, "state_mask must be ones, then zeros"),
        ({"rewards": np.ones((3, 3))}, r"rewards must have shape \(3, 4\)"),
        ({"values": np.full(MASK.shape, np.inf)}, "values must be finite"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    arguments = {"rewards": MASK, "values": MASK, "state_mask": MASK, "gamma": 1.0, "lam": 1.0}
    with pytest.raises(ValueError, match=message):
        gae.advantages(**arguments | wrong)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: gae.masked_whiten(MASK, MASK, ddof=2, eps=0.0), "ddof must be <= 1"),
        (lambda: gae.masked_whiten(MASK, MASK, ddof=-1, eps=0.0), "ddof must be >= 0"),
        (lambda: gae.masked_whiten(MASK, MASK, ddof=1, eps=-1.0), "eps must be >= 0"),
        (lambda: gae.masked_whiten(MASK, MASK[0], ddof=1, eps=0.0), "mask must have 2 axes"),
        (lambda: gae.length_adaptive_lam(MASK, alpha=0.0), "alpha must be > 0"),
        (lambda: gae.length_adaptive_lam(MASK[0], alpha=1.0), "state_mask must have 2 axes"),
        (lambda: gae.returns(MASK, MASK[:1], MASK), r"values must have shape \(3, 4\)"),
        (lambda: gae.returns(MASK, MASK, MASK[0]), "state_mask must have 2 axes"),
        (lambda: gae.returns(MASK[:1], MASK, MASK), r"advantages must have shape \(3, 4\)"),
    ],
)
def test_what_is_wrong_around_it_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

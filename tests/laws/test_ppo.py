"""Laws of PPO."""

import itertools

import numpy as np
import pytest

from reference_math import gae, logprobs, ppo, rloo

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]])
STATES = ppo.state_mask(MASK)
SCORES = np.array([1.0, -2.0, 0.5, 3.0])
KL = {"kl_coef": 0.3, "kl_estimator": "k1"}


def rollout(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape), rng.normal(size=MASK.shape)


@pytest.mark.parametrize("score_at", ppo.SCORE_AT)
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_a_completions_rewards_add_up_to_its_score_less_its_kl(score_at, estimator):
    logps, ref, _ = rollout()
    options = {"kl_coef": 0.3, "kl_estimator": estimator, "score_at": score_at}
    with_score = ppo.token_rewards(SCORES, logps, ref, MASK, **options)
    without = ppo.token_rewards(0 * SCORES, logps, ref, MASK, **options)
    placed = with_score - without
    has_place = MASK.any(axis=1) | (score_at == "next_state")
    np.testing.assert_allclose(placed.sum(axis=1), SCORES * has_place, rtol=1e-13)
    assert ((placed != 0).sum(axis=1) == has_place).all()
    where = [3, 1, 2] if score_at == "last_token" else [3, 2, 3, 0]
    assert placed.nonzero()[1].tolist() == where
    assert (without[MASK == 0] == 0).all()
    if estimator == "k1":
        as_rloo = rloo.kl_penalized_rewards(0 * SCORES, logps, ref, MASK, beta=0.3)
        np.testing.assert_allclose(without.sum(axis=1), as_rloo, rtol=1e-13, atol=1e-15)
    else:
        assert (without <= 0).all() and (without[MASK == 1] < 0).all()


def test_the_next_state_discounts_the_score_once_more():
    """The last token's advantage: gamma lam (score - V_next) for the score, and gamma V_next."""
    logps, _, values = rollout()
    options = {"gamma": 0.9, "lam": 0.8}
    rewards = ppo.token_rewards(SCORES, logps, logps, MASK, score_at="next_state", **KL)
    a = gae.advantages(rewards, values, STATES, **options)
    v, v_next = values[1, 1], values[1, 2]
    np.testing.assert_allclose(a[1, 1], 0.9 * v_next - v + 0.72 * (SCORES[1] - v_next), rtol=1e-13)
    rewards = ppo.token_rewards(SCORES, logps, logps, MASK, score_at="last_token", **KL)
    a = gae.advantages(rewards, values, MASK, **options)
    np.testing.assert_allclose(a[1, 1], SCORES[1] - v, rtol=1e-13)


def test_undiscounted_the_scores_place_does_not_matter():
    logps, ref, values = rollout()
    found = [
        gae.advantages(
            ppo.token_rewards(SCORES, logps, ref, MASK, score_at=score_at, **KL),
            values,
            states,
            gamma=1.0,
            lam=1.0,
        )
        for score_at, states in (("last_token", MASK), ("next_state", STATES))
    ]
    np.testing.assert_allclose(found[0][:3] * MASK[:3], found[1][:3] * MASK[:3], rtol=1e-12)


def test_on_average_the_policys_gradient_is_that_of_the_score_less_the_kl(numeric_grad):
    """By enumeration of all answers of two tokens out of three, with a critic that knows nothing."""
    rng = np.random.default_rng(0)
    answers = np.array(list(itertools.product(range(3), repeat=2)))
    logits, ref_logits = rng.normal(size=(2, 1, 2, 3))  # the second token ignores the first
    scores, beta = rng.normal(size=9), 0.4
    tiled = np.repeat(logits, 9, axis=0)

    def log_probs(z):
        return logprobs.per_token_logps(np.repeat(z.reshape(1, 2, 3), 9, axis=0), answers)

    def objective(z):
        s, ref = log_probs(z).sum(axis=1), log_probs(ref_logits).sum(axis=1)
        return float((np.exp(s) * (scores - beta * (s - ref))).sum())

    logps, ones = log_probs(logits), np.ones((9, 2))
    kl = {"kl_coef": beta, "kl_estimator": "k1", "score_at": "last_token"}
    rewards = ppo.token_rewards(scores, logps, log_probs(ref_logits), ones, **kl)
    critic = np.broadcast_to(rng.normal(size=2), (9, 2))
    a = gae.advantages(rewards, critic, ones, gamma=1.0, lam=1.0)
    p = np.exp(logps.sum(axis=1))
    g = np.stack(
        [
            2 * ppo.policy_loss_grad(*(x[[i]] for x in (logps, logps, a, ones)), cliprange=0.2)[0]
            for i in range(9)  # twice: its mean is over two tokens
        ]
    )
    push = (p[:, None, None] * logprobs.logits_grad(tiled, answers, g)).sum(axis=0)
    np.testing.assert_allclose(-push, numeric_grad(objective, logits)[0], rtol=1e-9)


def test_the_critics_loss_by_hand_with_and_without_a_clip():
    """Errors 1 and -2 without a clip; with V' = 1/4 and -1/4, errors -3/4 and -9/4: the larger count."""
    batch = [[2.0, 0.0, 9.0]], [[0.0, -0.5, 9.0]], [[1.0, 2.0, 0.0]], [[1, 1, 0]]
    assert ppo.value_loss(*batch, cliprange_value=np.inf) == (1 + 4) / 4
    grad = ppo.value_loss_grad(*batch, cliprange_value=np.inf)
    np.testing.assert_array_equal(grad, [[0.5, -1.0, 0.0]])
    assert ppo.value_loss(*batch, cliprange_value=0.25) == (1 + 81 / 16) / 4


@pytest.mark.parametrize("v, grad", [(0.5, -1.5), (0.51, 0.0), (-0.5, -2.5), (-0.51, -2.51)])
def test_the_critic_may_move_to_the_clip_and_no_further(v, grad):
    """From 0 towards a return of 2: at the clip it still learns; beyond it, only on the way back."""
    got = ppo.value_loss_grad([[v]], [[0.0]], [[2.0]], [[1]], cliprange_value=0.5)
    np.testing.assert_allclose(got, [[grad]], rtol=1e-14)


def test_at_a_tie_of_both_squares_the_critic_learns():
    """V = 1 and V' = 1/2 are as far from 3/4."""
    assert ppo.value_loss_grad([[1.0]], [[0.0]], [[0.75]], [[1]], cliprange_value=0.5) == 0.25


def test_what_stands_in_the_padding_is_never_read():
    logps, ref, values = rollout()
    nan = [np.where(MASK == 1, x, np.nan) for x in (logps, ref)]
    for score_at in ppo.SCORE_AT:
        expected = ppo.token_rewards(SCORES, logps, ref, MASK, score_at=score_at, **KL)
        got = ppo.token_rewards(SCORES, *nan, MASK, score_at=score_at, **KL)
        np.testing.assert_array_equal(got, expected)
    holes = [np.where(STATES == 1, x, np.nan) for x in (values, logps, ref)]
    for f in (ppo.value_loss, ppo.value_loss_grad):
        expected = f(values, logps, ref, STATES, cliprange_value=0.2)
        np.testing.assert_array_equal(f(*holes, STATES, cliprange_value=0.2), expected)
    for f in (ppo.policy_loss, ppo.policy_loss_grad):
        expected = f(logps, ref, values, MASK, cliprange=0.2)
        np.testing.assert_array_equal(f(*nan, values, MASK, cliprange=0.2), expected)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"scores": SCORES[:2]}, r"scores must have shape \(4,\)"),
        ({"scores": SCORES * np.nan}, "scores must be finite"),
        ({"per_token_logps": np.full(MASK.shape, -np.inf)}, "per_token_logps must be finite"),
        ({"ref_per_token_logps": MASK[:1]}, "ref_per_token_logps must have shape"),
        ({"completion_mask": MASK[:, ::-1]}, "completion_mask must be ones, then zeros"),
        ({"completion_mask": MASK / 2}, "completion_mask must hold only 0 and 1"),
        ({"completion_mask": MASK[0]}, "completion_mask must have 2 axes"),
        ({"kl_coef": -1.0}, "kl_coef must be >= 0"),
        ({"kl_estimator": "k2"}, "kl_estimator must be one of 'k1', 'k3'"),
        ({"score_at": "end"}, "score_at must be one of 'last_token', 'next_state'"),
    ],
)
def test_what_is_wrong_with_the_rewards_is_named(wrong, message):
    tokens = {"per_token_logps": -MASK, "ref_per_token_logps": -MASK, "completion_mask": MASK}
    arguments = {"scores": SCORES, "score_at": "last_token"} | KL | tokens | wrong
    with pytest.raises(ValueError, match=message):
        ppo.token_rewards(**arguments)


def test_a_clip_of_zero_lets_nothing_move():
    """The ratio counts as 1 and the value as the old one, wherever that is the worse."""
    logps, old = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])
    assert ppo.policy_loss(logps, old, [[2.0, 1.0]], [[1, 1]], cliprange=0.0) == -1.5
    assert ppo.value_loss([[1.0]], [[0.0]], [[2.0]], [[1]], cliprange_value=0.0) == 2.0  # 2^2 / 2

"""Laws of DPO itself: from tokens to answers, and sigmoid, hinge and ipo."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import dpo, implicit_rewards

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
LAWS = ["slopes", "drift", "pairs", "beta_zero", "refusals"]  # conftest
LOSSES = {
    "sigmoid": (dpo.sigmoid, dpo.sigmoid_grad, {}),
    "hinge": (dpo.hinge, dpo.hinge_grad, {}),
    "ipo": (dpo.ipo, dpo.ipo_grad, {}),
}


def logratios(seed=0, B=6, scale=3.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(2, B))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("law", LAWS)
def test_every_preference_loss(preference_laws, law, name):
    loss, grad, options = LOSSES[name]
    preference_laws[law](loss, grad, **options)


@pytest.mark.parametrize("name", LOSSES)
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


@pytest.mark.parametrize("name", ["sigmoid", "hinge"])
def test_a_larger_margin_never_costs_more(name):
    loss, _, options = LOSSES[name]
    margin = np.linspace(-30, 30, 101)
    losses = loss(margin, 0 * margin, beta=0.3, **options)
    assert (np.diff(losses) <= 0).all() and losses[0] > 8 and losses[-1] < 1e-3


def test_sigmoid_is_the_surprise_of_a_coin():
    """e^-L(h) + e^-L(-h) = 1, and the log-odds are h."""
    a, b = logratios()
    won, lost = dpo.sigmoid(a, b, beta=0.7), dpo.sigmoid(b, a, beta=0.7)
    np.testing.assert_allclose(np.exp(-won) + np.exp(-lost), 1.0, rtol=1e-14)
    np.testing.assert_allclose(lost - won, 0.7 * (a - b), **CLOSE)


def test_sigmoid_of_a_hopeless_pair_is_its_margin_and_of_a_settled_one_keeps_its_digits():
    np.testing.assert_array_equal(dpo.sigmoid([-900.0], [0.0], beta=1.0), 900.0)
    np.testing.assert_allclose(dpo.sigmoid([50.0], [0.0], beta=1.0), np.exp(-50.0), rtol=1e-14)
    settled, _ = dpo.sigmoid_grad([50.0], [0.0], beta=1.0)
    np.testing.assert_allclose(settled, -np.exp(-50.0), rtol=1e-14)


def test_the_best_policy_of_bradley_terry_is_at_rest():
    """Rafailov et al., eq. 4: p = p_ref e^(r / beta) / Z has beta (log p - log p_ref) = r - const.

    Labels drawn from sigmoid(r_i - r_j): there the expected gradient over all pairs is zero.
    """
    r, beta = np.array([1.0, -0.5, 0.3, 2.0, 0.0]), 0.2
    ref = np.array([0.1, 0.3, 0.2, 0.15, 0.25])
    p = ref * np.exp(r / beta)
    reward = implicit_rewards.rewards(np.log(p / p.sum()), np.log(ref), beta=beta)
    np.testing.assert_allclose(reward - reward[0], r - r[0], **CLOSE)
    i, j = np.triu_indices(5, k=1)
    i_wins = 1 / (1 + np.exp(r[j] - r[i]))
    win, _ = dpo.sigmoid_grad(reward[i] / beta, reward[j] / beta, beta=beta)
    _, loss = dpo.sigmoid_grad(reward[j] / beta, reward[i] / beta, beta=beta)
    np.testing.assert_allclose(i_wins * win + (1 - i_wins) * loss, 0.0, atol=1e-16)


def test_hinge_is_a_ramp_down_to_margin_one():
    margin = np.array([-5.0, 0.0, 0.5, 1.0, 3.0])
    np.testing.assert_array_equal(dpo.hinge(2 * margin, 0 * margin, beta=0.5), [6, 1, 0.5, 0, 0])
    grad, _ = dpo.hinge_grad(2 * margin, 0 * margin, beta=0.5)
    np.testing.assert_array_equal(grad, [-0.5, -0.5, -0.5, 0, 0])


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_ipo_rests_at_its_target_margin_and_pulls_back_from_beyond(beta):
    target = 1 / (2 * beta)
    margin = target + np.array([-2.0, 0.0, 2.0])
    np.testing.assert_allclose(dpo.ipo(margin, 0 * margin, beta=beta), [4, 0, 4], **CLOSE)
    np.testing.assert_allclose(dpo.ipo_grad(margin, 0 * margin, beta=beta)[0], [-4, 0, 4], **CLOSE)


def answers(seed=0, B=3, T=5):
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * B, 1))).astype(float)
    return -rng.exponential(size=(2 * B, T)), mask


def test_an_answers_log_probability_is_the_sum_over_its_tokens():
    logps, mask = answers()
    expected = [sum(x for x, m in zip(*row) if m) for row in zip(logps, mask)]
    np.testing.assert_allclose(dpo.sequence_logps(logps, mask), expected, **CLOSE)
    np.testing.assert_array_equal(dpo.sequence_weights(mask), mask)
    assert (dpo.sequence_logps(logps, 0 * mask) == 0).all()


@pytest.mark.parametrize("ld_alpha", [0.0, 0.3, 1.0])
def test_ld_alpha_weighs_only_what_the_longer_answer_has_more(ld_alpha):
    _, mask = answers()
    weights = dpo.sequence_weights(mask, ld_alpha=ld_alpha)
    for i in range(3):
        one, other = mask[i].sum(), mask[i + 3].sum()
        for row in (i, i + 3):
            shared = np.arange(5) < min(one, other)  # these masks start at the first token
            np.testing.assert_array_equal(weights[row], mask[row] * np.where(shared, 1, ld_alpha))
    # by hand: three tokens against one; what the longer answer has more is -2 - 4
    got = dpo.sequence_logps([[-1, -2, -4], [-8, 0, 0]], [[1, 1, 1], [1, 0, 0]], ld_alpha=ld_alpha)
    np.testing.assert_allclose(got, [-1 - 6 * ld_alpha, -8], rtol=1e-15)
    if ld_alpha == 1.0:
        np.testing.assert_array_equal(weights, mask)


def test_ld_alpha_counts_positions_in_the_answer_and_not_in_the_row():
    mask = [[0, 0, 1, 1, 1], [1, 0, 1, 0, 0]]
    weights = dpo.sequence_weights(mask, ld_alpha=0.5)
    np.testing.assert_array_equal(weights, [[0, 0, 1, 1, 0.5], [1, 0, 1, 0, 0]])


def test_the_padding_is_never_read():
    logps, mask = answers()
    other = np.where(mask == 1, logps, np.nan)
    same = dpo.sequence_logps(logps, mask, ld_alpha=0.5)
    np.testing.assert_array_equal(dpo.sequence_logps(other, mask, ld_alpha=0.5), same)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: dpo.sequence_weights([[1], [1], [1]]), "must have 2B rows, B chosen first"),
        (lambda: dpo.sequence_weights([1, 1]), "completion_mask must have 2 axes"),
        (lambda: dpo.sequence_weights([[1], [1]], ld_alpha=1.1), "ld_alpha must be <= 1, got 1.1"),
        (lambda: dpo.sequence_weights([[1], [1]], ld_alpha=-1), "ld_alpha must be >= 0, got -1.0"),
        (lambda: dpo.sequence_logps([[1.0]], [[1], [1]]), "per_token_logps must have shape (2, 1)"),
        (lambda: dpo.sequence_logps([[1.0], [np.inf]], [[1], [1]]), "per_token_logps must be fini"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)

"""Laws of the preference losses: their minima, symmetries, limits and slopes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import dpo, dpo_margin, dpo_pointwise, implicit_rewards

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
BY_DIFFERENCES = {"rtol": 1e-8, "atol": 1e-10}  # conftest: five points, errors of about 1e-12
EPS = 0.1

# each loss of two (B,) arrays, with its gradient and the options it needs besides beta
LOSSES = {
    "sigmoid": (dpo.sigmoid, dpo.sigmoid_grad, {}),
    "hinge": (dpo.hinge, dpo.hinge_grad, {}),
    "ipo": (dpo.ipo, dpo.ipo_grad, {}),
    "robust": (dpo_margin.robust, dpo_margin.robust_grad, {"label_smoothing": EPS}),
    "exo_pair": (dpo_margin.exo_pair, dpo_margin.exo_pair_grad, {"label_smoothing": EPS}),
    "discopop": (dpo_margin.discopop, dpo_margin.discopop_grad, {"discopop_tau": 0.5}),
    "aot": (dpo_margin.aot, dpo_margin.aot_grad, {"label_smoothing": EPS}),
    "nca_pair": (dpo_pointwise.nca_pair, dpo_pointwise.nca_pair_grad, {}),
    "bco_pair": (dpo_pointwise.bco_pair, dpo_pointwise.bco_pair_grad, {}),
    "sppo_hard": (dpo_pointwise.sppo_hard, dpo_pointwise.sppo_hard_grad, {}),
    "apo_zero": (dpo_pointwise.apo_zero, dpo_pointwise.apo_zero_grad, {}),
    "apo_down": (dpo_pointwise.apo_down, dpo_pointwise.apo_down_grad, {}),
}
OF_THE_MARGIN = ["sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop"]
EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)


def logratios(seed=0, B=6, scale=3.0):
    return np.random.default_rng(seed).normal(scale=scale, size=(2, B))


def evaluate(name, chosen, rejected, beta=0.3, **options):
    loss, grad, own = LOSSES[name]
    options = own | options
    return loss(chosen, rejected, beta=beta, **options), grad(
        chosen, rejected, beta=beta, **options
    )


# Every loss ------------------------------------------------------------------------------------


@EVERY_LOSS
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_gradients_are_the_slopes_of_the_loss(numeric_grad, name, beta):
    chosen, rejected = logratios()
    _, grads = evaluate(name, chosen, rejected, beta)
    slopes = (
        numeric_grad(lambda a: evaluate(name, a, rejected, beta)[0].sum(), chosen),
        numeric_grad(lambda b: evaluate(name, chosen, b, beta)[0].sum(), rejected),
    )
    np.testing.assert_allclose(grads, slopes, **BY_DIFFERENCES)
    assert np.abs(grads).max() > 1e-3


@EVERY_LOSS
@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("gap", [700.0, -700.0])
def test_the_largest_drift_stays_finite(name, gap, beta):
    zero, far = np.zeros(1), np.array([gap])
    for chosen, rejected in [(far, zero), (zero, far), (far, far), (far, -far / 2)]:
        loss, grads = evaluate(name, chosen, rejected, beta)
        assert np.isfinite(loss).all() and np.isfinite(grads).all()


@EVERY_LOSS
def test_pairs_are_judged_alone_but_for_optimal_transport(name):
    chosen, rejected = logratios()
    loss, _ = evaluate(name, chosen, rejected)
    assert loss.shape == (6,)
    alone = [evaluate(name, chosen[[i]], rejected[[i]])[0][0] for i in range(6)]
    if name == "aot":
        assert not np.allclose(loss, alone)
    else:
        np.testing.assert_allclose(loss, alone, **CLOSE)


@EVERY_LOSS
def test_unequal_or_missing_answers_are_refused(name):
    with pytest.raises(ValueError, match=r"rejected_logratios must have shape \(2,\), got \(3,\)"):
        evaluate(name, np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="chosen_logratios must be finite, got nan"):
        evaluate(name, np.array([np.nan]), np.zeros(1))
    with pytest.raises(ValueError, match="beta must be >"):
        evaluate(name, np.zeros(1), np.zeros(1), beta=-0.1)


@pytest.mark.parametrize("name", ["ipo", "sppo_hard"])
def test_a_target_of_one_over_beta_needs_a_beta(name):
    with pytest.raises(ValueError, match="beta must be > 0, got 0.0"):
        evaluate(name, np.zeros(1), np.zeros(1), beta=0.0)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"ipo", "sppo_hard"}))
def test_beta_zero_forgets_the_answers(name):
    a, b = logratios()
    loss, grads = evaluate(name, a, b, beta=0.0)
    np.testing.assert_array_equal(loss, evaluate(name, b, a, beta=0.0)[0])
    np.testing.assert_array_equal(np.abs(grads), 0.0)


# Losses of the margin --------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_THE_MARGIN)
@given(shift=st.floats(-50, 50))
def test_only_the_difference_matters(name, shift):
    """So DPO cannot tell a likelier chosen answer from an unlikelier rejected one."""
    chosen, rejected = logratios()
    loss, (g_chosen, g_rejected) = evaluate(name, chosen, rejected)
    # atol: adding 50 costs the log-ratios digits below 50 * 2^-53, times the steepest slope
    moved = evaluate(name, chosen + shift, rejected + shift)[0]
    np.testing.assert_allclose(moved, loss, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(g_chosen, -g_rejected)


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "discopop"])
def test_a_larger_margin_never_costs_more(name):
    margin = np.linspace(-30, 30, 101)
    if name == "discopop":  # it has a bump, between its two regimes
        margin = margin[np.abs(margin) > 9]
    loss, _ = evaluate(name, margin, 0 * margin)
    assert (np.diff(loss) <= 0).all() and loss[0] > 8 and loss[-1] < 1e-3


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


# Optimal transport -----------------------------------------------------------------------------


@given(seed=st.integers(0, 99))
def test_aot_compares_sorted_samples_so_who_is_paired_with_whom_does_not_matter(seed):
    upper, lower = logratios(seed)
    options = {"beta": 0.3, "label_smoothing": EPS}
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


# Losses of each answer -------------------------------------------------------------------------


def test_nca_lets_the_chosen_answer_rest_at_odds_of_two_to_one():
    """-log s - (log(1 - s)) / 2 is least at s = 2/3."""
    rest = np.log(2.0) / 0.3
    chosen = rest + np.array([-1.0, 0.0, 1.0])
    grad, _ = dpo_pointwise.nca_pair_grad(chosen, np.zeros(3), beta=0.3)
    np.testing.assert_allclose(grad[1], 0.0, atol=1e-16)
    assert grad[0] < 0 < grad[2]


def test_bco_is_a_classifier_of_single_answers():
    a, b = logratios()
    zero = np.zeros(6)
    each = dpo.sigmoid(a, zero, beta=0.3) + dpo.sigmoid(zero, b, beta=0.3)
    np.testing.assert_allclose(dpo_pointwise.bco_pair(a, b, beta=0.3), each, **CLOSE)


def test_nca_is_bco_and_half_a_brake():
    """nca(a, b) adds -log s(-a) / 2 and takes half of -log s(-b) away."""
    a, b = logratios()
    zero = np.zeros(6)
    brake = dpo.sigmoid(zero, a, beta=0.3) - dpo.sigmoid(zero, b, beta=0.3)
    difference = dpo_pointwise.nca_pair(a, b, beta=0.3) - dpo_pointwise.bco_pair(a, b, beta=0.3)
    np.testing.assert_allclose(difference, brake / 2, **CLOSE)


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_sppo_rests_with_the_chosen_up_and_the_rejected_down_by_half_of_one_over_beta(beta):
    up = np.array([0.5 / beta])
    assert dpo_pointwise.sppo_hard(up, -up, beta=beta) == 0.0
    np.testing.assert_array_equal(dpo_pointwise.sppo_hard_grad(up, -up, beta=beta), 0.0)
    loss = dpo_pointwise.sppo_hard(up + 3, -up + 2, beta=beta)
    np.testing.assert_allclose(loss, 9 + 4, rtol=1e-12)


def test_apo_zero_moves_both_answers_from_where_they_were_and_is_content_with_neither():
    far, zero = np.array([200.0]), np.zeros(1)
    for (a, b), value in {(1, -1): 0.0, (-1, 1): 2.0, (1, 1): 1.0, (-1, -1): 1.0}.items():
        loss = dpo_pointwise.apo_zero(a * far, b * far, beta=1.0)
        np.testing.assert_allclose(loss, value, atol=1e-15)
    up, down = dpo_pointwise.apo_zero_grad(zero, zero, beta=1.0)
    assert up < 0 < down


def test_apo_down_lowers_both_answers_and_the_rejected_more():
    far, zero = np.array([200.0]), np.zeros(1)
    for (a, b), value in {(-1, -2): 0.0, (1, 2): 2.0, (1, 0): 1.0, (-1, 0): 1.0}.items():
        loss = dpo_pointwise.apo_down(a * far, b * far, beta=1.0)
        np.testing.assert_allclose(loss, value, atol=1e-15)
    with_margin = np.array([3.0])
    chosen, rejected = dpo_pointwise.apo_down_grad(zero, -with_margin, beta=1.0)
    assert chosen > 0 and rejected > 0  # descent: both go down


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


# From tokens to answers ------------------------------------------------------------------------


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
    logps, mask = answers()
    weights = dpo.sequence_weights(mask, ld_alpha=ld_alpha)
    for i in range(3):
        one, other = mask[i].sum(), mask[i + 3].sum()
        for row in (i, i + 3):
            shared = np.arange(5) < min(one, other)  # these masks start at the first token
            np.testing.assert_array_equal(weights[row], mask[row] * np.where(shared, 1, ld_alpha))
    got = dpo.sequence_logps(logps, mask, ld_alpha=ld_alpha)
    np.testing.assert_allclose(got, (weights * logps).sum(axis=1), **CLOSE)
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
        (lambda: implicit_rewards.rewards([0.0], [0.0], beta=-1), "beta must be >= 0, got -1.0"),
        (lambda: implicit_rewards.rewards([0.0], [0.0, 1.0], beta=1), "ref_logps must have shape"),
        (lambda: implicit_rewards.rewards([[0.0]], [[0.0]], beta=1), "logps must have 1 axes"),
        (lambda: implicit_rewards.margins([0.0], [0.0, 1.0]), "rejected_rewards must have shape"),
        (lambda: implicit_rewards.accuracies([[0.0]], [[0.0]]), "chosen_rewards must have 1 axes"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


def test_the_implicit_reward_grows_with_the_policys_own_preference():
    chosen = implicit_rewards.rewards([-1.0, -5.0], [-2.0, -2.0], beta=0.5)
    np.testing.assert_array_equal(chosen, [0.5, -1.5])
    assert (implicit_rewards.rewards([-7.0], [-7.0], beta=0.5) == 0).all()
    assert (implicit_rewards.rewards([-1.0], [-2.0], beta=0.0) == 0).all()
    rejected = np.array([0.25, -1.5])
    np.testing.assert_array_equal(implicit_rewards.margins(chosen, rejected), [0.25, 0.0])
    np.testing.assert_array_equal(implicit_rewards.accuracies(chosen, rejected), [1.0, 0.0])

"""Laws of ORPO's odds ratio and of the whole loss."""

from fractions import Fraction

import numpy as np
import pytest

from reference_math import cpo, orpo, sft


def both(*args, **options):
    return orpo.loss(*args, **options), orpo.loss_grad(*args, **options)


CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one


def answers(seed=0, B=3, T=5):
    """Log-probs (2B, T) and a mask; no answer is empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * B, 1))).astype(float)
    return -rng.exponential(size=(2 * B, T)), mask


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_gradient_of_a_pair_is_its_slope(numeric_grad, beta):
    chosen, rejected = -np.random.default_rng(0).uniform(0.05, 4.0, size=(2, 6))
    expected = (
        numeric_grad(lambda c: orpo.pair_loss(c, rejected, beta=beta).sum(), chosen),
        numeric_grad(lambda r: orpo.pair_loss(chosen, r, beta=beta).sum(), rejected),
    )
    got = orpo.pair_loss_grad(chosen, rejected, beta=beta)
    np.testing.assert_allclose(got, expected, rtol=1e-7)  # near 0 the fifth derivative is large


@pytest.mark.parametrize("p, q", [("3/4", "1/5"), ("1/2", "9/10"), ("1/1000", "999/1000")])
def test_it_is_the_odds_against_the_odds(p, q):
    p, q = Fraction(p), Fraction(q)
    odds_ratio = (p / (1 - p)) / (q / (1 - q))
    wins = odds_ratio / (1 + odds_ratio)  # sigmoid of its log
    got = orpo.pair_loss(np.log([float(p)]), np.log([float(q)]), beta=0.3)
    # 1 - 999/1000 from log p: a thousandth, of a number that carries 1e-16
    np.testing.assert_allclose(got, -0.3 * np.log(float(wins)), rtol=1e-12)


def test_of_answers_that_are_almost_certain_the_chances_of_failure_compare():
    """p = 1 - x, q = 1 - 3x: the odds are 1/x and 1/3x, whatever x is."""
    for x in (1e-9, 1e-17, 1e-100, 1e-300):
        got = orpo.pair_loss([-x], [-3 * x], beta=1.0)
        np.testing.assert_allclose(got, np.log(4 / 3), rtol=1e-8)  # 1 - p = x - x^2 / 2
        to_chosen, to_rejected = orpo.pair_loss_grad([-x], [-3 * x], beta=1.0)
        np.testing.assert_allclose(
            [to_chosen * x, to_rejected * 3 * x], [[-0.25], [0.25]], rtol=1e-8
        )


def test_of_answers_that_are_almost_impossible_the_probabilities_compare():
    """p / (1 - p) is p there: CPO of the means."""
    chosen, rejected = np.array([-800.0, -750.0]), np.array([-801.5, -748.0])
    expected = cpo.pair_loss(chosen, rejected, beta=1.0)
    np.testing.assert_allclose(orpo.pair_loss(chosen, rejected, beta=1.0), expected, rtol=1e-14)
    expected = cpo.pair_loss_grad(chosen, rejected, beta=1.0)
    got = orpo.pair_loss_grad(chosen, rejected, beta=1.0)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("far", [0.0, -5e-324, -1e-304, -700.0, -1e4])
@pytest.mark.parametrize("other", [0.0, -1e-304, -0.5, -1e4])
def test_everything_is_finite_wherever_the_two_stand(far, other):
    for beta in (0.1, 1.0):
        assert np.isfinite(orpo.pair_loss([far], [other], beta=beta)).all()
        assert np.isfinite(orpo.pair_loss_grad([far], [other], beta=beta)).all()


def test_a_certain_answer_is_as_sure_as_float64_can_say_and_is_not_pushed():
    surest = -np.exp(-700.0)
    for certain in (0.0, surest / 2):
        got = orpo.pair_loss([-1.0], [certain], beta=1.0)
        np.testing.assert_array_equal(got, orpo.pair_loss([-1.0], [surest], beta=1.0))
        assert 700 < got[0] < 701
        to_chosen, to_rejected = orpo.pair_loss_grad([-1.0], [certain], beta=1.0)
        np.testing.assert_allclose(to_chosen, -1 / (1 - np.exp(-1.0)), rtol=1e-14)
        assert to_rejected == 0.0
        assert orpo.pair_loss_grad([certain], [-1.0], beta=1.0)[0] == 0.0
    to_chosen, to_rejected = orpo.pair_loss_grad([surest], [surest], beta=1.0)
    assert to_chosen < 0 < to_rejected


def test_a_tie_costs_ln_2_and_a_pair_turned_round_its_log_odds():
    chosen, rejected = -np.random.default_rng(1).uniform(0.05, 4.0, size=(2, 6))
    np.testing.assert_allclose(orpo.pair_loss(chosen, chosen, beta=0.1), 0.1 * np.log(2.0))
    one, other = (
        orpo.pair_loss(chosen, rejected, beta=1.0),
        orpo.pair_loss(rejected, chosen, beta=1.0),
    )
    # sigmoid(h) + sigmoid(-h) = 1
    np.testing.assert_allclose(np.exp(-one) + np.exp(-other), 1.0, **CLOSE)
    assert ((one < other) == (chosen > rejected)).all()


def test_without_beta_it_is_fine_tuning_on_the_chosen_answers():
    logps, mask = answers()
    value, grad = both(logps, mask, beta=0.0)
    chosen = logps[:3], mask[:3]
    np.testing.assert_allclose(value, sft.nll(*chosen, reduction="batch_token"), **CLOSE)
    np.testing.assert_allclose(grad[:3], sft.nll_grad(*chosen, reduction="batch_token"), **CLOSE)
    assert not grad[3:].any()


def test_trls_nll_counts_what_its_mask_counts_and_the_odds_do_not():
    """Two prompt tokens in front: they enter the nll alone."""
    logps, mask = answers()
    with_prompt = np.hstack([np.full((6, 2), -2.0), logps])
    answer_mask = np.hstack([np.zeros((6, 2)), mask])
    nll_mask = np.hstack([np.ones((6, 2)), mask])
    plain = orpo.loss(with_prompt, answer_mask)
    assert plain == orpo.loss(logps, mask)
    value, grad = both(with_prompt, answer_mask, nll_mask=nll_mask)
    nll = sft.nll(with_prompt[:3], nll_mask[:3], reduction="batch_token")
    own = sft.nll(logps[:3], mask[:3], reduction="batch_token")
    np.testing.assert_allclose(value - plain, nll - own, **CLOSE)
    assert (grad[:3, :2] < 0).all() and not grad[3:, :2].any()


def test_the_odds_see_the_mean_of_an_answers_tokens():
    logps, mask = answers()
    once, grad = both(logps, mask, beta=0.5)
    twice = np.repeat(logps, 2, axis=1), np.repeat(mask, 2, axis=1)
    again, grad_again = both(*twice, beta=0.5)
    np.testing.assert_allclose(again, once, **CLOSE)
    np.testing.assert_allclose(grad_again[:, ::2] + grad_again[:, 1::2], grad, **CLOSE)


def test_beta_is_trls_where_none_is_given():
    logps, mask = answers()
    assert orpo.loss(logps, mask) == orpo.loss(logps, mask, beta=0.1)


def test_a_batch_costs_its_mean_pair():
    logps, _ = answers()
    ones = np.ones_like(logps)
    alone = [orpo.loss(logps[[i, 3 + i]], ones[:2]) for i in range(3)]
    np.testing.assert_allclose(orpo.loss(logps, ones), np.mean(alone), **CLOSE)


@pytest.mark.parametrize("empty", [[0], [3], [0, 3], range(6)])  # chosen, rejected, both, all
def test_empty_answers_leave_everything_finite(empty):
    logps, mask = answers()
    mask[list(empty)] = 0
    value, grad = both(logps, mask)
    assert np.isfinite(value) and np.isfinite(grad).all()
    assert (grad[list(empty)] == 0).all()


@pytest.mark.parametrize(
    "chosen, rejected, message",
    [
        ([[-1.0]], [[-1.0]], "chosen_mean_logps must have 1 axes"),
        ([-1.0], [-1.0, -1.0], r"rejected_mean_logps must have shape \(1,\)"),
        ([np.nan], [-1.0], "chosen_mean_logps must be finite"),
        ([0.5], [-1.0], "chosen_mean_logps must be <= 0, got 0.5"),
        ([-1.0], [0.5], "rejected_mean_logps must be <= 0, got 0.5"),
    ],
)
def test_what_is_wrong_with_a_pair_is_named(chosen, rejected, message):
    for f in (orpo.pair_loss, orpo.pair_loss_grad):
        with pytest.raises(ValueError, match=message):
            f(chosen, rejected, beta=0.1)
        with pytest.raises(ValueError, match="beta must be >= 0"):
            f([-1.0], [-1.0], beta=-0.1)


def test_every_answers_weights_add_up_to_one():
    _, mask = answers()
    mask[1] = 0
    np.testing.assert_allclose(orpo.mean_weights(mask).sum(axis=1), [1, 0, 1, 1, 1, 1], **CLOSE)
    assert (orpo.mean_weights(mask)[mask == 0] == 0).all()

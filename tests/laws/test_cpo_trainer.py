"""Laws of CPO, SimPO and AlphaPO put together, from token log-probs to one loss."""

import numpy as np
import pytest

from reference_math import alphapo, cpo, cpo_trainer, dpo_trainer, sft, simpo


def both(*args, **options):
    return cpo_trainer.loss(*args, **options), cpo_trainer.loss_grad(*args, **options)


CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
names = pytest.mark.parametrize("name", cpo_trainer.LOSS_TYPES)


def some_answers(seed=0, B=3, T=5):
    """Log-probs (2B, T) and a mask; no answer is empty."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * B, 1))).astype(float)
    return -rng.exponential(size=(2 * B, T)), mask


@names
def test_the_nll_is_that_of_the_chosen_answers_and_weighs_cpo_alpha(name):
    logps, mask = some_answers()
    values, grads = zip(*(both(logps, mask, loss_type=name, cpo_alpha=w) for w in (0, 1, 3)))
    chosen = logps[:3], mask[:3]
    nll = sft.nll(*chosen, reduction="batch_token")
    np.testing.assert_allclose(np.diff(values), [nll, 2 * nll], **CLOSE)
    np.testing.assert_allclose(
        (grads[1] - grads[0])[:3], sft.nll_grad(*chosen, reduction="batch_token"), **CLOSE
    )
    np.testing.assert_array_equal(grads[1][3:], grads[0][3:])


@pytest.mark.parametrize("name, is_mean", [("sigmoid", 0), ("hinge", 0), ("ipo", 1), ("simpo", 1)])
def test_each_token_twice_is_the_same_to_a_mean_and_twice_to_a_sum(name, is_mean):
    logps, mask = some_answers()
    twice = np.repeat(logps, 2, axis=1), np.repeat(mask, 2, axis=1)
    options = {"loss_type": name, "cpo_alpha": 0.0, "simpo_gamma": 0.0}
    got = cpo_trainer.loss(*twice, beta=0.1, **options)
    beta = 0.1 if is_mean else 0.2
    np.testing.assert_allclose(got, cpo_trainer.loss(logps, mask, beta=beta, **options), **CLOSE)


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "ipo"])
def test_it_is_the_preference_loss_against_a_reference_that_says_nothing(name):
    logps, mask = some_answers()
    options = {"loss_type": name, "beta": 0.3}
    value, grad = both(logps, mask, cpo_alpha=0.0, **options)
    answers = logps, np.zeros_like(logps), mask
    np.testing.assert_allclose(value, dpo_trainer.loss(*answers, **options), **CLOSE)
    np.testing.assert_allclose(grad, dpo_trainer.loss_grad(*answers, **options), **CLOSE)


@pytest.mark.parametrize("name", ["sigmoid", "simpo"])
def test_of_one_token_each_it_is_the_pair_loss_of_alphapos_reward(name):
    logps, _ = some_answers(T=1)
    options = {"beta": 0.7, "label_smoothing": 0.2}
    got = cpo_trainer.loss(
        logps, np.ones_like(logps), loss_type=name, alpha=0.5, cpo_alpha=0, **options
    )
    pair = np.split(alphapo.reward(logps[:, 0], alpha=0.5), 2)
    if name == "simpo":
        expected = simpo.pair_loss(*pair, simpo_gamma=0.5, **options)
    else:
        expected = cpo.pair_loss(*pair, **options)
    np.testing.assert_allclose(got, expected.mean(), **CLOSE)


@names
@pytest.mark.parametrize("empty", [[0], [3], [0, 3], range(6)])  # chosen, rejected, both, all
def test_an_empty_answer_has_log_probability_0(name, empty):
    logps, mask = some_answers()
    mask[list(empty)] = 0
    value, grad = both(logps, mask, loss_type=name, beta=0.5)
    assert np.isfinite(value) and not grad[list(empty)].any()
    sure = np.where(mask.any(axis=1, keepdims=True), logps, 0.0)  # one token that was certain
    there = np.where(mask.any(axis=1, keepdims=True), mask, np.arange(5) == 0)
    if 0 not in empty:  # a chosen one would change the nll's count
        again = cpo_trainer.loss(sure, there, loss_type=name, beta=0.5)
        np.testing.assert_allclose(value, again, **CLOSE)


@names
def test_the_options_are_trls_where_none_is_given(name):
    given = {
        "beta": 0.1,
        "label_smoothing": 0.0,
        "cpo_alpha": 1.0,
        "simpo_gamma": 0.5,
        "alpha": 0.0,
    }
    plain = cpo_trainer.loss(*some_answers(), loss_type=name)
    assert plain == cpo_trainer.loss(*some_answers(), loss_type=name, **given)
    if name == "sigmoid":
        assert plain == cpo_trainer.loss(*some_answers())


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.5])
@names
def test_answers_far_away_leave_everything_finite(name, alpha):
    logps = np.array([[-1e4, -1e4], [-2.0, -1.0]])
    for rows in (logps, logps[::-1]):
        value, grad = both(rows, np.ones((2, 2)), loss_type=name, alpha=alpha)
        assert np.isfinite(value) and np.isfinite(grad).all()

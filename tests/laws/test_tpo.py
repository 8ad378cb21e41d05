"""Laws of triple preference optimisation."""

import numpy as np
import pytest

from reference_math import dpo, sft, tpo


def both(*args, **options):
    return tpo.loss(*args, **options), tpo.loss_grad(*args, **options)


MASK = np.array([[1.0, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1], [1, 1, 0]])
LOSSES = pytest.mark.parametrize("loss_type", tpo.LOSS_TYPES)


def logps(seed=0):
    return -np.random.default_rng(seed).exponential(size=MASK.shape)


@LOSSES
def test_the_gradient_by_hand_is_the_numeric_one(numeric_grad, loss_type):
    options = {"beta": 0.7, "label_smoothing": 0.2, "loss_type": loss_type, "tpo_alpha": 0.3}
    expected = numeric_grad(lambda x: tpo.loss(x, MASK, **options), logps())
    got = tpo.loss_grad(logps(), MASK, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)
    assert not got[MASK == 0].any()


@LOSSES
def test_it_is_the_pairs_loss_without_a_reference_and_the_gold_answers_nll(loss_type):
    x, options = logps(), {"beta": 0.7, "loss_type": loss_type}
    s = (MASK * x).sum(axis=1)
    if loss_type in ("ipo", "tpo-l"):
        s = s / MASK.sum(axis=1)
    chosen, rejected = s[:2] - (0.5 / 0.7 if loss_type == "tpo-l" else 0.0), s[2:4]
    name = {"tpo-l": "sigmoid"}.get(loss_type, loss_type)
    pairs = getattr(dpo, name)(chosen, rejected, beta=0.7).mean()
    nll = sft.nll(x[4:], MASK[4:], reduction="batch_token")
    for alpha in (0.0, 0.3):
        got = tpo.loss(x, MASK, tpo_alpha=alpha, **options)
        np.testing.assert_allclose(got, pairs + alpha * nll, rtol=1e-14)


@pytest.mark.parametrize("loss_type", ["sigmoid", "tpo-l"])
def test_labels_half_of_which_are_wrong_prefer_neither(loss_type):
    options = {"beta": 0.7, "loss_type": loss_type, "tpo_alpha": 0.0, "tpo_l_gamma": 0.0}
    x = np.tile(logps()[:1], (6, 1))
    ones = np.ones_like(MASK)
    fair, grad = both(x, ones, label_smoothing=0.5, **options)
    assert np.isclose(fair, np.log(2)) and np.abs(grad).max() < 1e-16
    right, slope = both(x, ones, label_smoothing=0.0, **options)
    wrong, other = both(x, ones, label_smoothing=1.0, **options)
    assert right == wrong and (slope == -other).all() and (slope[:2] < 0).all()


@pytest.mark.parametrize("loss_type", ["hinge", "ipo"])
def test_the_other_losses_have_no_label_smoothing_and_no_margin(loss_type):
    one = both(logps(), MASK, loss_type=loss_type, beta=0.7)
    options = {"label_smoothing": 0.4, "tpo_l_gamma": 3.0}
    other = both(logps(), MASK, loss_type=loss_type, beta=0.7, **options)
    assert one[0] == other[0] and (one[1] == other[1]).all()


def test_the_margin_is_for_tpo_l_alone_and_asks_for_more():
    one = tpo.loss(logps(), MASK, tpo_l_gamma=0.0, loss_type="tpo-l", beta=0.7)
    more = tpo.loss(logps(), MASK, tpo_l_gamma=1.0, loss_type="tpo-l", beta=0.7)
    assert more > one
    one = tpo.loss(logps(), MASK, tpo_l_gamma=0.0, beta=0.7)
    assert tpo.loss(logps(), MASK, tpo_l_gamma=1.0, beta=0.7) == one


@LOSSES
def test_what_stands_in_the_padding_is_never_read(loss_type):
    options = {"loss_type": loss_type, "beta": 0.7}
    one = both(logps(), MASK, **options)
    other = both(np.where(MASK == 1, logps(), np.nan), MASK, **options)
    assert one[0] == other[0] and (one[1] == other[1]).all()


@LOSSES
def test_empty_answers_and_no_answers_are_defined(loss_type):
    value, grad = both(logps(), 0 * MASK, loss_type=loss_type, beta=0.7)
    assert np.isfinite(value) and not grad.any()
    none = np.zeros((0, 3))
    value, grad = both(none, none, loss_type=loss_type)
    assert value == 0.0 and grad.shape == (0, 3)


def test_the_defaults_are_trls():
    x, options = logps(), {"beta": 0.01, "tpo_alpha": 1.0, "label_smoothing": 0.0}
    assert tpo.loss(x, MASK) == tpo.loss(x, MASK, **options)
    one = tpo.loss(x, MASK, loss_type="tpo-l")
    assert one == tpo.loss(x, MASK, loss_type="tpo-l", tpo_l_gamma=0.5)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"loss_type": "dpo"}, "loss_type must be one of 'sigmoid', 'hinge', 'ipo', 'tpo-l'"),
        ({"beta": 0.0}, "beta must be > 0"),
        ({"tpo_alpha": -1.0}, "tpo_alpha must be >= 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be <= 1"),
        ({"label_smoothing": -0.5}, "label_smoothing must be >= 0"),
        ({"tpo_l_gamma": np.nan, "loss_type": "tpo-l"}, "tpo_l_gamma must be finite"),
        ({"completion_mask": MASK[:4]}, "completion_mask must have 3B rows"),
        ({"completion_mask": MASK / 2}, "completion_mask must hold only 0 and 1"),
        ({"completion_mask": MASK[0]}, "completion_mask must have 2 axes"),
        ({"per_token_logps": MASK[:3]}, r"per_token_logps must have shape \(6, 3\)"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        both(**{"per_token_logps": -MASK, "completion_mask": MASK} | wrong)

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


def test_the_defaults_are_trls():
    x, options = logps(), {"beta": 0.01, "tpo_alpha": 1.0, "label_smoothing": 0.0}
    assert tpo.loss(x, MASK) == tpo.loss(x, MASK, **options)
    one = tpo.loss(x, MASK, loss_type="tpo-l")
    assert one == tpo.loss(x, MASK, loss_type="tpo-l", tpo_l_gamma=0.5)

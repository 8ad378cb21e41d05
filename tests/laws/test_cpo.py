"""Laws of CPO's pair loss, which SimPO and AlphaPO share."""

import numpy as np
import pytest

from reference_math import cpo, dpo

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
LAWS = ["slopes", "drift", "pairs", "beta_zero"]  # conftest


def scores(seed=0, B=6):
    return np.random.default_rng(seed).normal(scale=3.0, size=(2, B))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("law", LAWS)
def test_every_preference_loss(preference_laws, law, label_smoothing):
    preference_laws[law](cpo.pair_loss, cpo.pair_loss_grad, label_smoothing=label_smoothing)


def test_it_is_dpo_against_any_reference_that_gives_both_answers_the_same():
    chosen, rejected = scores()
    for ref in (0.0, -7.0):
        expected = dpo.sigmoid(chosen - ref, rejected - ref, beta=0.3)
        np.testing.assert_allclose(cpo.pair_loss(chosen, rejected, beta=0.3), expected, **CLOSE)
    grads = dpo.sigmoid_grad(chosen, rejected, beta=0.3)
    np.testing.assert_allclose(cpo.pair_loss_grad(chosen, rejected, beta=0.3), grads, **CLOSE)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5])
def test_of_log_ratios_it_is_cdpo(eps):
    """DPO's mean loss where a share eps of the labels is swapped; its minimum is at odds of eps."""
    chosen, rejected = scores()
    right, wrong = dpo.sigmoid(chosen, rejected, beta=0.3), dpo.sigmoid(rejected, chosen, beta=0.3)
    got = cpo.pair_loss(chosen, rejected, beta=0.3, label_smoothing=eps)
    np.testing.assert_allclose(got, (1 - eps) * right + eps * wrong, **CLOSE)
    if eps:
        h = [np.log((1 - eps) / eps)]
        slope = cpo.pair_loss_grad(h, [0.0], beta=1.0, label_smoothing=eps)
        np.testing.assert_allclose(slope, 0.0, atol=1e-15)  # the sum of two terms of 0.25 or less


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.5, 1.0])
def test_smoothing_is_the_mean_loss_over_labels_that_are_sometimes_swapped(label_smoothing):
    chosen, rejected = scores()
    right, swapped = (
        cpo.pair_loss(chosen, rejected, beta=0.3),
        cpo.pair_loss(rejected, chosen, beta=0.3),
    )
    got = cpo.pair_loss(chosen, rejected, beta=0.3, label_smoothing=label_smoothing)
    mean = np.average([right, swapped], axis=0, weights=[1 - label_smoothing, label_smoothing])
    np.testing.assert_allclose(got, mean, **CLOSE)


def test_smoothed_it_rests_at_the_odds_of_a_right_label():
    """A quarter of the labels are wrong: three to one, and no surer."""
    rest = np.log(3.0) / 0.5
    at = np.array([rest - 1, rest, rest + 1])
    grad, _ = cpo.pair_loss_grad(at, np.zeros(3), beta=0.5, label_smoothing=0.25)
    np.testing.assert_allclose(grad[1], 0.0, atol=1e-16)
    assert grad[0] < 0 < grad[2]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"chosen_scores": [[0.0]]}, "chosen_scores must have 1 axes"),
        ({"chosen_scores": [0.0, np.nan]}, "chosen_scores must be finite"),
        ({"rejected_scores": [0.0]}, r"rejected_scores must have shape \(2,\), got \(1,\)"),
        ({"beta": -0.1}, "beta must be >= 0"),
        ({"label_smoothing": -0.1}, "label_smoothing must be >= 0"),
        ({"label_smoothing": 1.1}, "label_smoothing must be <= 1"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    right = {"chosen_scores": [0.0, 0.0], "rejected_scores": [0.0, 0.0], "beta": 0.1}
    for f in (cpo.pair_loss, cpo.pair_loss_grad):
        with pytest.raises(ValueError, match=message):
            f(**right | wrong)

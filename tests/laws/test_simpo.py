"""Laws of SimPO."""

import numpy as np
import pytest

from reference_math import cpo, simpo

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
OPTIONS = [{"simpo_gamma": 0.5}, {"simpo_gamma": 1.0, "label_smoothing": 0.2}]


def rewards(seed=0, B=6):
    return np.random.default_rng(seed).normal(scale=3.0, size=(2, B))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("law", ["slopes", "drift", "pairs"])  # conftest
def test_every_preference_loss(preference_laws, law, options):
    preference_laws[law](simpo.pair_loss, simpo.pair_loss_grad, **options)


def test_without_a_margin_it_is_cpo():
    chosen, rejected = rewards()
    options = {"beta": 2.0, "label_smoothing": 0.1}
    for name in ("pair_loss", "pair_loss_grad"):
        got = getattr(simpo, name)(chosen, rejected, simpo_gamma=0.0, **options)
        np.testing.assert_array_equal(got, getattr(cpo, name)(chosen, rejected, **options))


@pytest.mark.parametrize("beta, gamma", [(2.0, 1.0), (2.5, 0.3), (0.1, 0.5)])
def test_the_margin_won_is_a_tie_and_one_nat_of_h_more_or_less_is_not(beta, gamma):
    rejected = np.array([-4.0])
    won = rejected + gamma / beta
    got = simpo.pair_loss(won, rejected, beta=beta, simpo_gamma=gamma)
    np.testing.assert_allclose(got, np.log(2.0), **CLOSE)
    for nats in (-1.0, 1.0):
        got = simpo.pair_loss(won + nats / beta, rejected, beta=beta, simpo_gamma=gamma)
        np.testing.assert_allclose(got, np.log1p(np.exp(-nats)), rtol=1e-12)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"chosen_rewards": [[0.0]]}, "chosen_rewards must have 1 axes"),
        ({"chosen_rewards": [0.0, np.nan]}, "chosen_rewards must be finite"),
        ({"rejected_rewards": [0.0]}, r"rejected_rewards must have shape \(2,\), got \(1,\)"),
        ({"beta": 0.0}, "beta must be > 0"),
        ({"simpo_gamma": np.inf}, "simpo_gamma must be finite"),
        ({"label_smoothing": 1.1}, "label_smoothing must be <= 1"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    right = {"chosen_rewards": [0.0, 0.0], "rejected_rewards": [0.0, 0.0]}
    for f in (simpo.pair_loss, simpo.pair_loss_grad):
        with pytest.raises(ValueError, match=message):
            f(**right | {"beta": 2.0, "simpo_gamma": 1.0} | wrong)

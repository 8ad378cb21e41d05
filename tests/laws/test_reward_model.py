"""Laws of the reward model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import reward_model

CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # a few roundings of terms of order one
OPTIONS = [{}, {"margin": [0.5, -1.0, 2.0, 0.0]}, {"center_rewards_coefficient": 0.3}]
OPTIONS += [OPTIONS[1] | OPTIONS[2]]


def rewards(seed=0, B=4):
    return np.random.default_rng(seed).normal(scale=2.0, size=(2, B))


def test_it_learns_the_strengths_that_made_the_preferences():
    """Answer i beats j w_i times and loses w_j times: Bradley-Terry's odds.  log w is at rest."""
    w = np.array([1, 2, 3, 5, 8])
    pairs = [
        (i, j) for i in range(5) for j in range(5) for _ in range(w[i]) if i != j
    ]  # i was preferred to j
    chosen, rejected = np.transpose(pairs)
    strengths = np.log(w.astype(float))
    to_chosen, to_rejected = reward_model.loss_grad(strengths[chosen], strengths[rejected])
    at_rest = np.bincount(chosen, to_chosen) + np.bincount(rejected, to_rejected)
    np.testing.assert_allclose(at_rest, 0.0, atol=1e-15)
    wrong = strengths * 1.1
    to_chosen, to_rejected = reward_model.loss_grad(wrong[chosen], wrong[rejected])
    assert np.abs(np.bincount(chosen, to_chosen) + np.bincount(rejected, to_rejected)).max() > 1e-3


@given(constant=st.floats(-100, 100))
def test_only_centring_sees_a_constant_added_to_every_reward(constant):
    chosen, rejected = rewards()
    moved = chosen + constant, rejected + constant
    same = reward_model.loss(chosen, rejected)
    np.testing.assert_allclose(reward_model.loss(*moved), same, rtol=1e-12)  # 100 + 1: 100 eps


def test_centring_costs_the_square_of_a_pairs_sum():
    for chosen, rejected, cost in [(3.0, 1.0, 4.0), (1.0, -1.0, 0.0), (-3.0, 0.0, 2.25)]:
        centred = reward_model.loss([chosen], [rejected], center_rewards_coefficient=0.25)
        uncentred = reward_model.loss([chosen], [rejected])
        np.testing.assert_allclose(centred - uncentred, cost, **CLOSE)
    both = reward_model.loss([3.0, 1.0], [1.0, -1.0], center_rewards_coefficient=0.25)
    np.testing.assert_allclose(both - reward_model.loss([3.0, 1.0], [1.0, -1.0]), 2.0, **CLOSE)


def test_centring_rests_where_the_rewards_average_to_zero():
    chosen, rejected = rewards()
    middle = np.mean([chosen, rejected])
    c, r = reward_model.loss_grad(
        chosen - middle, rejected - middle, center_rewards_coefficient=0.3
    )
    np.testing.assert_allclose(c.sum() + r.sum(), 0.0, atol=1e-15)
    assert c.sum() < 0 < r.sum()


def test_a_margin_is_a_handicap_of_the_chosen_answer():
    chosen, rejected = rewards()
    margin = np.array([0.5, 1.0, 0.0, 3.0])
    with_margin = reward_model.loss(chosen, rejected, margin=margin)
    np.testing.assert_allclose(with_margin, reward_model.loss(chosen - margin, rejected), **CLOSE)
    assert with_margin > reward_model.loss(chosen, rejected)


def test_the_loss_is_of_the_mean_pair():
    chosen, rejected = rewards()
    alone = [reward_model.loss(chosen[[i]], rejected[[i]]) for i in range(4)]
    np.testing.assert_allclose(reward_model.loss(chosen, rejected), np.mean(alone), **CLOSE)


@pytest.mark.parametrize("gap", [700.0, 1e4, 1e8])
def test_a_pair_far_on_the_wrong_side_costs_its_distance_and_on_the_right_side_nothing(gap):
    assert reward_model.loss([0.0], [gap]) == gap
    assert 0.0 <= reward_model.loss([gap], [0.0]) < 1e-300
    np.testing.assert_array_equal(reward_model.loss_grad([0.0], [gap]), [[-1.0], [1.0]])


@given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=4))
def test_everything_behind_the_scored_token_is_padding_and_it_is_not(rows):
    for row in rows:
        if any(row):
            at = reward_model.scored_positions([row], pad_token_id=0)[0]
            assert row[at] != 0 and not any(row[at + 1 :])
        else:
            with pytest.raises(ValueError, match="got only padding in row 0"):
                reward_model.scored_positions([row], pad_token_id=0)


def test_the_row_of_padding_is_named_and_rows_are_scored_apart():
    rows = [[1, 0, 0], [1, 2, 3], [0, 4, 0]]
    np.testing.assert_array_equal(reward_model.scored_positions(rows, pad_token_id=0), [0, 2, 1])
    np.testing.assert_array_equal(reward_model.scored_positions(rows, pad_token_id=3), [2, 1, 2])
    with pytest.raises(ValueError, match="got only padding in row 2"):
        reward_model.scored_positions([[1, 1], [0, 1], [0, 0]], pad_token_id=0)
    with pytest.raises(ValueError, match="input_ids must have 2 axes"):
        reward_model.scored_positions([1, 1], pad_token_id=0)

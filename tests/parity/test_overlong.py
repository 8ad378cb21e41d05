"""The overlong punishment against TRL's, and the reward function against both."""

import pickle

import numpy as np
import pytest

from reference_math import overlong
from rewards import overlong_reward_within


@pytest.mark.parametrize("max_length, cache", [(100, 20), (50, 50), (64, 1), (30, 0)])
def test_the_formula_the_reward_and_trls_are_one(max_length, cache):
    rewards = pytest.importorskip("trl.rewards")
    ids = [[1] * n for n in range(1, 130)]
    formula = overlong.soft_punishment(np.arange(1, 130), max_length=max_length, cache=cache)
    ours = overlong_reward_within(max_length, cache)(["x"] * len(ids), completion_ids=ids)
    theirs = rewards.get_soft_overlong_punishment(max_length, cache)(ids)
    np.testing.assert_allclose(ours, formula, rtol=1e-12)
    np.testing.assert_allclose(theirs, formula, rtol=1e-12)


def test_trl_can_pickle_and_name_it():
    reward = overlong_reward_within(100, 20)
    assert reward.__name__ == "overlong_reward_within_100_20"
    assert pickle.loads(pickle.dumps(reward))(["x"], completion_ids=[[1] * 90]) == [-0.5]

"""Laws of the implicit reward."""

import numpy as np
import pytest

from reference_math import implicit_rewards


def test_the_implicit_reward_grows_with_the_policys_own_preference():
    chosen = implicit_rewards.rewards([-1.0, -5.0], [-2.0, -2.0], beta=0.5)
    np.testing.assert_array_equal(chosen, [0.5, -1.5])
    assert (implicit_rewards.rewards([-7.0], [-7.0], beta=0.5) == 0).all()
    assert (implicit_rewards.rewards([-1.0], [-2.0], beta=0.0) == 0).all()
    rejected = np.array([0.25, -1.5])
    np.testing.assert_array_equal(implicit_rewards.margins(chosen, rejected), [0.25, 0.0])
    np.testing.assert_array_equal(implicit_rewards.accuracies(chosen, rejected), [1.0, 0.0])


@pytest.mark.parametrize(
    "call, message",
    [
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

"""The overlong punishment as a reward function: bad input, chats, and beside others."""

import pytest

from rewards import combine, format_reward, overlong_reward_within


def test_it_costs_and_never_pays():
    reward = overlong_reward_within(50, 10)
    prices = reward(["x"] * 80, completion_ids=[[0] * n for n in range(80)])
    assert max(prices) == 0.0 and min(prices) == -1.0 and prices[:41] == [0.0] * 41


def test_chats_count_by_their_tokens_too():
    chat = [{"role": "assistant", "content": "long" * 1000}]
    assert overlong_reward_within(50, 10)([chat], completion_ids=[[0] * 45]) == [-0.5]


def test_it_can_be_combined():
    both = combine([format_reward, overlong_reward_within(50, 10)], reward_weights=[1.0, 0.5])
    said = both(["<think>t</think><answer>1</answer>"], completion_ids=[[0] * 45])
    assert said == [pytest.approx(0.75)]


@pytest.mark.parametrize("arguments", [(0, 0), (10, -1), (10, 11), (10.5, 2), (True, 0), ("10", 2)])
def test_a_wrong_length_is_named(arguments):
    with pytest.raises(ValueError, match="overlong_reward_within: (max_tokens|cache) is "):
        overlong_reward_within(*arguments)


@pytest.mark.parametrize("ids", [None, [], [[0], [0]]])
def test_without_tokens_it_says_where_they_come_from(ids):
    with pytest.raises(ValueError, match="completion_ids"):
        overlong_reward_within(50, 10)(["x"], completion_ids=ids)

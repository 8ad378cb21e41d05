"""The rewards on ordinary completions, in both shapes that TRL passes."""

import pytest

from rewards import accuracy_reward, combine, format_reward, length_reward

RIGHT = "<think>\n2+2\nis 4\n</think>\n<answer>4</answer>"
WRONG = "<think>\n2+2\nis 5\n</think>\n<answer>5</answer>"
NO_FORM = "it is 4"


def as_chat(text):
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("shape", [str, as_chat])
def test_multi_line_reasoning_is_in_form(shape):
    assert format_reward([shape(t) for t in (RIGHT, WRONG, NO_FORM)]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("shape", [str, as_chat])
@pytest.mark.parametrize("gold", ["4", "#### 4", "\\boxed{4}", "$4$", "2+2 = 4\n#### 4"])
def test_every_kind_of_gold_is_verified(shape, gold):
    completions = [shape(t) for t in (RIGHT, WRONG, NO_FORM)]
    assert accuracy_reward(completions, solution=[gold] * 3) == [1.0, 0.0, 0.0]


def test_a_missing_gold_column_says_which_one_it_wants():
    with pytest.raises(ValueError, match="solution"):
        accuracy_reward([RIGHT], answer=["4"])


def test_length_reward_counts_tokens_and_pays_nothing_for_a_wrong_answer():
    rewards = length_reward(
        [RIGHT, WRONG], solution=["4", "4"], completion_ids=[[0] * 10, [0]], max_tokens=40
    )
    assert rewards == [0.75, 0.0]


def test_combine_adds_up_with_its_weights():
    both = combine([format_reward, accuracy_reward], [0.25, 1.0])
    assert both([RIGHT, WRONG, NO_FORM], solution=["4"] * 3) == [1.25, 0.25, 0.0]

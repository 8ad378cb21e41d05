"""Whatever the text: no exception, no delay, one float or None for each completion."""

import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewards import accuracy_reward, explain, format_reward, length_reward, limits
from rewards.numbers import read_number, same_number
from rewards.policy import judge
from rewards.verdicts import _judge

TAG_PIECES = ["<think>", "</think>", "<answer>", "</answer>", "<think", "think>", "<", "</", ">"]
LATEX_PIECES = r"""
\frac \sqrt \boxed{ \text{ \left( \right) \{ \} { } ( ) [ ] ^ _ \cdot \times \pm \infty \pi \le \ge
< > = \in \cup , ; . ! % \% $ \$ & \\ \begin{pmatrix} \end{pmatrix} \int_0^1 \sum \binom \ln \sin
\overline{ \circ 0 1 2 9 10 1000 0.5 x y dx km and or is the answer #### :
"""
anything = st.text(max_size=60)  # surrogates and control characters among them
latex_like = st.lists(st.sampled_from(LATEX_PIECES.split()) | anything, max_size=15).map(" ".join)
tag_like = st.lists(st.sampled_from(TAG_PIECES) | latex_like, max_size=9).map("".join)
answers = latex_like.map(lambda s: f"<think>a</think><answer>{s}</answer>")
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["assistant", "user", "tool"]),
        "content": st.none() | answers,
    },
)
completions = st.lists(tag_like | answers | st.none() | st.lists(messages, max_size=3), max_size=3)
golds = st.none() | st.booleans() | st.integers() | st.floats() | latex_like | anything

# Each example may start or kill a worker: hypothesis must not mistake that for a slow strategy.
fuzz = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@fuzz
@given(completions, st.data())
def test_any_completion_gives_one_reward_in_time(completions, data):
    solution = [data.draw(golds) for _ in completions]
    accuracy_reward(["<think>a</think><answer>x</answer>"], solution=["y"])  # the worker is up
    start = time.monotonic()
    accuracy = accuracy_reward(completions, solution=solution)
    seconds = time.monotonic() - start
    form = format_reward(completions)
    length = length_reward(
        completions, solution=solution, completion_ids=[[0] * 10 for _ in completions]
    )
    # two questions a row, gold and answer; each may start a worker, in a second or two
    assert seconds < len(completions) * 2 * (limits.DEADLINE_S + 3.0) + 1.0
    assert len(accuracy) == len(form) == len(length) == len(completions)
    assert all(reward in (0.0, 1.0) for reward in form)
    assert all(reward in (0.0, 1.0, None) for reward in accuracy)
    assert all(reward is None or 0.0 <= reward <= 1.0 for reward in length)
    assert all(not paid or right == 1.0 for right, paid in zip(accuracy, length, strict=True))


@fuzz
@given(tag_like)
def test_accuracy_is_never_paid_out_of_form(text):
    if format_reward([text]) == [0.0]:
        assert accuracy_reward([text], solution=["0"]) == [0.0]


@fuzz
@given(latex_like)
def test_an_answer_with_the_golds_own_words_is_right_if_the_gold_can_be_verified(gold):
    (verdict,) = explain([f"<think>a</think><answer>{gold}</answer>"], [gold])
    gold_alone = "####" not in gold and "\\boxed" not in gold  # a gold may be a worked solution
    if verdict.reward is not None and gold_alone and verdict.reason != "no <answer> tag":
        assert verdict.reward in (0.0, 1.0)
        if verdict.reward == 0.0:  # only ever for a stated reason, never plain wrong
            assert verdict.reason != "wrong"


integers = st.integers(-(10**17), 10**17)


@settings(max_examples=200)
@given(integers, integers | st.none())
def test_the_fast_path_says_what_the_whole_path_says(gold, answer):
    answer = gold if answer is None else answer
    assert _judge(str(gold), str(answer)) == judge(str(gold), str(answer))


@settings(max_examples=200)
@given(st.fractions(max_denominator=999), st.fractions(max_denominator=999) | st.none())
def test_numbers_are_compared_as_fractions(gold, answer):
    answer = gold if answer is None else answer
    same = same_number(read_number(str(gold)), read_number(str(answer)))
    assert same == (gold == answer)
    latex = rf"\frac{{{answer.numerator}}}{{{answer.denominator}}}"
    assert read_number(latex).value == answer

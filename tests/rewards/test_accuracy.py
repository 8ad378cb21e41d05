"""What TRL hands to a reward function, and what it gets back."""

import functools
import math
import time
from decimal import Decimal

import pytest

from rewards import accuracy_reward, check_golds, combine, explain, format_reward, length_reward
from rewards.policy import judge

RIGHT = "<think>2+2</think><answer>4</answer>"
WRONG = "<think>2+2</think><answer>5</answer>"
UNFORMED = "it is 4"


class Log(dict):
    """TRL's log_metric and log_extra: they collect what they are given."""

    def __call__(self, name, value):
        assert name not in self
        self[name] = value


def test_a_gold_that_cannot_be_verified_gives_none_to_its_whole_group():
    golds = ["4"] * 3 + ["see the figure"] * 3 + [None] * 3
    rewards = accuracy_reward([RIGHT, WRONG, UNFORMED] * 3, solution=golds)
    assert rewards == [1.0, 0.0, 0.0] + [None] * 6


def test_what_cannot_be_scored_is_counted_and_its_reason_logged():
    metrics, extra = Log(), Log()
    texts = [RIGHT, "<think>a</think><answer>\\frac{1}{</answer>", WRONG, UNFORMED]
    golds = ["4", "4", "prose that nobody can verify", "4"]
    accuracy_reward(texts, solution=golds, log_metric=metrics, log_extra=extra)
    assert metrics == {
        "accuracy/gold_unverifiable": 1,
        "accuracy/timed_out": 0,
        "accuracy/unparseable": 1,
    }
    reasons = extra["accuracy_reason"]
    assert reasons[0] == "right"
    assert reasons[1] == "does not parse: braces that do not close"
    assert reasons[2].startswith("gold not verifiable")
    assert reasons[3] == "no <think> tag"


def test_log_metric_gets_plain_numbers():
    metrics = Log()
    accuracy_reward([RIGHT], solution=["4"], log_metric=metrics)
    assert all(isinstance(value, int) for value in metrics.values())


@pytest.mark.parametrize("function", [accuracy_reward, length_reward])
def test_a_missing_gold_column_says_which_one_it_wants_and_what_there_is(function):
    with pytest.raises(ValueError, match=r"`solution`.*'answer'.*rename_column"):
        function([RIGHT], answer=["4"], completion_ids=[[0]])


def test_golds_of_another_length_are_an_error_not_a_shift():
    with pytest.raises(ValueError, match="2 completions but 1 golds"):
        accuracy_reward([RIGHT, WRONG], solution=["4"])


def test_a_single_string_for_a_column_is_an_error_not_its_letters():
    with pytest.raises(ValueError, match="brackets"):
        accuracy_reward(["4"], solution="4")


def test_golds_in_another_container_are_an_error_that_says_what_to_do():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"Tensor.*\.tolist\(\)"):
        accuracy_reward([RIGHT] * 2, solution=torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="2 lists, one per prompt; give one gold per completion"):
        accuracy_reward([RIGHT] * 4, solution=[["4", "4"], ["4", "4"]])
    for wrong in (4, {"gold": "4"}):
        with pytest.raises(ValueError, match="are lists, one entry per completion"):
            accuracy_reward([RIGHT], solution=wrong)


@pytest.mark.parametrize("shape", [str, lambda q: [{"role": "user", "content": q}]])
def test_the_words_of_the_question_may_stand_beside_the_number(shape):
    question = "Tom has twelve red apples and eats five. How many apples does Tom have left?"
    answers = ["7 apples", "Tom has 7 red apples.", "7 twelve", "7 pears", "7 five apples"]
    columns = {
        "completions": [f"<think>a</think><answer>{answer}</answer>" for answer in answers],
        "solution": ["7"] * len(answers),
    }
    prompts = [shape(question)] * len(answers)
    assert accuracy_reward(**columns, prompts=prompts) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert accuracy_reward(**columns) == [0.0] * len(answers)


def test_the_trainer_may_pass_whatever_else_it_has():
    columns = {"trainer_state": object(), "prompts": ["2+2?"], "level": [3], "environments": None}
    assert accuracy_reward([RIGHT], solution=["4"], completion_ids=[[1, 2]], **columns) == [1.0]
    assert format_reward([RIGHT], solution=["4"], completion_ids=[[1, 2]], **columns) == [1.0]
    assert length_reward([RIGHT], solution=["4"], completion_ids=[[0] * 512], **columns) == [0.5]


def test_an_empty_batch_is_an_empty_list():
    assert accuracy_reward([], solution=[]) == format_reward([]) == []
    assert length_reward([], solution=[], completion_ids=[]) == explain([], []) == []


def test_length_reward_counts_tokens_not_characters():
    long = "<think>" + "word " * 500 + "</think><answer>4</answer>"
    same = length_reward([RIGHT, long], solution=["4"] * 2, completion_ids=[[0] * 256] * 2)
    assert same == [0.75, 0.75]


@pytest.mark.parametrize("tokens", [0, 1, 1024, 5000])
def test_length_reward_is_bounded_and_never_positive_for_a_wrong_answer(tokens):
    columns = {"solution": ["4", "4", "4", "?"], "completion_ids": [[0] * tokens] * 4}
    right, *others = length_reward([RIGHT, WRONG, UNFORMED, RIGHT], **columns)
    assert 0.0 <= right <= 1.0
    assert others == [0.0, 0.0, None]


def test_length_reward_without_tokens_says_so():
    with pytest.raises(ValueError, match="completion_ids"):
        length_reward([RIGHT], solution=["4"])


def test_combine_is_the_weighted_sum_and_none_where_a_part_is_none():
    both = combine([format_reward, accuracy_reward], [0.25, 1.0])
    assert both([RIGHT, WRONG, UNFORMED], solution=["4"] * 3) == [1.25, 0.25, 0.0]
    assert both([RIGHT], solution=["?"]) == [None]


def test_combine_wants_one_weight_per_function():
    with pytest.raises(ValueError, match="1 reward_funcs and 2 reward_weights"):
        combine([format_reward], [1.0, 2.0])


def test_check_golds_names_the_rows_when_there_are_too_many():
    golds = ["#### 4", "\\boxed{5}", "the proof is obvious", None] + ["6"] * 16
    with pytest.raises(
        ValueError, match=r"(?s)2 of 20.*row 2: 'the proof is obvious'.*row 3: None"
    ) as e:
        check_golds(golds)
    assert "row 1" not in str(e.value)


def test_check_golds_returns_the_few_that_are_tolerated():
    golds = ["6"] * 199 + [math.nan]
    (bad,) = check_golds(golds)
    assert bad[0] == 199
    assert bad[2] == "the gold is nan"


def test_check_golds_reads_a_dataset_column():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"answer": ["#### 4", "#### 5"]})
    assert check_golds(table, column="answer") == []
    with pytest.raises(ValueError, match="no column 'solution'.*answer"):
        check_golds(table)


ODD_GOLDS = [10**5000, -(10**5000), Decimal("sNaN"), Decimal("1e999999"), b"4", [4], {"a": 4}, 4j]


@pytest.mark.parametrize("gold", ODD_GOLDS, ids=lambda gold: type(gold).__name__)
def test_no_kind_of_gold_makes_it_raise(gold):
    (verdict,) = explain([RIGHT], [gold])
    assert verdict.reward is None and verdict.reason.startswith("gold not verifiable: the gold is")
    with pytest.raises(ValueError, match="1 of 1 golds cannot be verified"):
        check_golds([gold])


def test_a_giant_integer_is_a_gold_like_any_other():
    texts = [f"<think>a</think><answer>{10**400 + i}</answer>" for i in (0, 1)]
    assert accuracy_reward(texts, solution=[10**400] * 2) == [1.0, 0.0]


def test_a_long_gold_costs_no_time():
    golds = ["is " * 300_000 + "4", "\\boxed{" * 50_000, "####" * 200_000]
    start = time.process_time()
    assert accuracy_reward([RIGHT] * 3, solution=golds) == [None] * 3
    assert time.process_time() - start < 1.0  # it is 0.01; word by word it would be minutes


@pytest.mark.parametrize(
    "run", [" ", "\n", "\t", "{", "*", "is ", "5 km^", "1 ft ", "\\color{", "答"]
)
def test_a_run_of_anything_is_read_in_linear_time(run):
    answer = run * (1990 // len(run)) + "4"
    judge("4", answer)
    start = time.process_time()
    judge("4", answer)
    judge("4", "x" + answer)
    assert time.process_time() - start < 0.5  # it is 0.02; a pattern that backtracks needs seconds


@pytest.mark.parametrize("gap", [" " * 200_000, "\n" * 200_000, ". " * 100_000])
def test_a_long_gap_in_a_gold_costs_no_time(gap):
    golds = [f"4{gap}", f"{gap}4", f"x{gap}\\boxed{{4}}", f"\\boxed{{4}}{gap}\\boxed{{5}}"]
    start = time.process_time()
    check_golds(golds, tolerated=1.0)
    assert time.process_time() - start < 1.0  # it is 0.004; a pattern that backtracks needs minutes


def test_wrong_arguments_are_one_sentence_each():
    with pytest.raises(ValueError, match="1 completions, 1 in solution and 0 in prompts"):
        accuracy_reward([RIGHT], solution=["4"], prompts=[])
    with pytest.raises(ValueError, match="2 completions, 1 in solution"):
        explain([RIGHT, RIGHT], ["4"])
    with pytest.raises(ValueError, match="brackets"):
        check_golds("42")
    with pytest.raises(ValueError, match="max_tokens is 0"):
        length_reward([RIGHT], solution=["4"], completion_ids=[[0]], max_tokens=0)
    with pytest.raises(ValueError, match="reward_weights are .nan."):
        combine([format_reward], [math.nan])


def test_a_partial_function_can_be_combined():
    short = functools.partial(length_reward, max_tokens=4)
    both = combine([format_reward, short])
    assert both.__name__ == "1*format_reward+1*length_reward"
    assert both([RIGHT], solution=["4"], completion_ids=[[0, 0]]) == [1.5]

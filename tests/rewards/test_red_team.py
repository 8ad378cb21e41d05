"""The red-team table: no case fools the rewards, on any thread, and none holds them for 3 s."""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab import red_team
from lab.naive_rewards import naive_accuracy_reward, naive_format_reward

from rewards import accuracy_reward, format_reward, limits, verdicts
from rewards.process import verifier

CASES = red_team.cases()
# The contract, on a machine whose cores are not shared by more processes than there are cores.
# The deadline itself is 2 s.
SLOWEST_S = 3.0


def busy():
    """How many times longer everything takes on this machine at this moment."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count()) if hasattr(os, "getloadavg") else 1.0


def on_the_main_thread(work):
    return work()


def in_a_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def under_asyncio(work):
    """As TRL runs an `async def` reward: on a loop that lives in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def call():
        return work()

    try:
        return asyncio.run_coroutine_threadsafe(call(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_the_table_is_large_and_has_no_name_twice():
    assert len(CASES) >= 150
    assert len({case["id"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("where", [on_the_main_thread, in_a_thread, under_asyncio])
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_no_case_fools_the_rewards(case, where, monkeypatch):
    if where is not on_the_main_thread and case["group"] == "bomb":
        # the full deadline is measured on the main thread; here it is the kill that counts
        monkeypatch.setattr(limits, "DEADLINE_S", 0.5)
    verdicts._ask.cache_clear()
    verifier.ask("judge", "x", "x")  # the worker is up: its start is not this case's time
    columns = {"completions": [case["completion"]], "solution": [case["gold"]]}

    start = time.monotonic()
    accuracy = where(lambda: accuracy_reward(**columns))
    seconds = time.monotonic() - start

    assert accuracy == [case["accuracy"]], case["why"]
    assert where(lambda: format_reward(**columns)) == [case["format"]], case["why"]
    assert seconds < SLOWEST_S * busy()


QUICK = [case for case in CASES if case["group"] != "bomb"]


@pytest.mark.parametrize("case", QUICK, ids=[case["id"] for case in QUICK])
def test_a_string_and_a_chat_are_scored_alike(case):
    columns = {"solution": [case["gold"]]}
    chat, text = [red_team.as_chat(case["completion"])], [case["completion"]]
    assert accuracy_reward(chat, **columns) == accuracy_reward(text, **columns)
    assert format_reward(chat) == format_reward(text)


def test_the_naive_recipe_pays_for_any_answer_where_the_gold_does_not_parse():
    wrong = [red_team.as_chat("<think>no idea</think><answer>7</answer>")]
    for gold in ("42", "#### 42", ""):
        assert naive_accuracy_reward(wrong, solution=[gold]) == [1.0]
    assert accuracy_reward(wrong, solution=["42"]) == [0.0]


def test_the_naive_recipe_pays_nothing_for_reasoning_over_several_lines():
    lines = [red_team.as_chat("<think>one\ntwo</think>\n<answer>4</answer>")]
    doubled = [red_team.as_chat("<think><think></think><answer>4</answer><answer>5</answer>")]
    assert naive_format_reward(lines) == [0.0]
    assert naive_format_reward(doubled) == [1.0]
    assert format_reward(lines + doubled) == [1.0, 0.0]


def test_the_measured_verdicts_belong_to_these_cases_and_to_these_rewards():
    measured = {row["id"]: row for row in red_team.verdicts()}
    assert list(measured) == [case["id"] for case in CASES]
    assert red_team.errors("accuracy") == ([], [])
    assert red_team.errors("format", "format") == ([], [])
    for name in ("naive_accuracy", "trl_accuracy_boxed", "trl_reasoning_accuracy_boxed"):
        assert red_team.errors(name)[0], f"{name} was fooled by nothing: measure again"


@pytest.mark.parametrize("case", [c for c in CASES if c["group"] in ("form", "box", "sets")][::4])
def test_the_measured_verdicts_of_the_naive_recipe_are_what_it_gives(case):
    row = next(row for row in red_team.verdicts() if row["id"] == case["id"])
    assert red_team.judge(naive_format_reward, case) == row["naive_format"]["gave"]
    if len(case["completion"]) < 1000:  # its pattern takes its time on a million characters
        assert red_team.judge(naive_accuracy_reward, case) == row["naive_accuracy"]["gave"]

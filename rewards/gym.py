"""Reward completions by the scorers of reasoning-gym, which run in a process that can be killed.

A gold names how its problem is made: {"task", "config", "seed", "size", "index"} and its `answer`. The process
makes the problem again and asks the task's own scorer, so that nothing of it has to travel as text.
A scorer that raises or takes too long costs its row the reward, and nothing else.

Source    reasoning-gym, github.com/open-thought/reasoning-gym, arXiv 2505.24760
Proof     tests/rewards/test_gym.py
"""

import atexit
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from rewards._types import Completions, Golds
from rewards.accuracy import require_golds
from rewards.completions import text_of
from rewards.process import DIED, TIMED_OUT, Verifier
from rewards.tags import scan
from rewards.verdicts import Verdict

PACKAGE = "reasoning_gym"
MEMORY_MB = 2048  # numpy, sympy and the word lists of its tasks take some 200
MAKE_S = 20.0  # for one problem: a sudoku takes most of a second
MISSING = (
    "reasoning-gym is not installed. Way out: make model installs it; or "
    "python -m pip install --no-deps reasoning-gym pyfiglet bfi magiccube tabulate pytz"
)
GOLD = ("task", "config", "seed", "size", "index", "answer")

worker = Verifier("rewards.gym_jobs", MEMORY_MB)
atexit.register(worker.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=worker.forget)


def gym_reward(
    completions: Completions,
    solution: Golds | None = None,
    log_metric: Callable[[str, float], object] | None = None,
    log_extra: Callable[[str, list[str]], object] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Give each answer block the score of its task's own scorer.

    completions   list of N strings or chats   the last assistant message of a chat counts
    solution      list of N golds              JSON, as `lab.gym` makes them
    returns       list of N                    in [0, 1]; None: the gold cannot be read

    log_metric gets the share of the rows whose scorer failed, `gym/scorer_failed`; log_extra the reason
    for each row. The first failure of each task is said in one line on standard error.
    Raises ValueError without `solution`, or for one of another length.
    """
    golds = require_golds("gym_reward", completions, solution, columns)
    found = [_verdict(text_of(c), gold) for c, gold in zip(completions, golds, strict=True)]
    if log_metric is not None and found:
        failed = sum(each.reason.startswith("the scorer") for each in found)
        log_metric("gym/scorer_failed", failed / len(found))
    if log_extra is not None:
        log_extra("gym_reason", [each.reason for each in found])
    return [each.reward for each in found]


def _verdict(text, gold):
    if why := unreadable(gold):
        return Verdict(None, f"gold not verifiable: {why}")
    blocks = scan(text)
    if blocks.reason:
        return Verdict(0.0, blocks.reason)
    said = _score(gold, blocks.answer)
    if "score" in said:
        return Verdict(said["score"], f"scored {said['score']:g}")
    task = json.loads(gold)["task"]
    _say_once(task, said["failed"].partition(":")[0], said["failed"])
    return Verdict(0.0, f"the scorer of {task} failed: {said['failed']}")


@lru_cache(maxsize=256)
def _say_once(task, kind, failed):
    print(
        f"rewards: the scorer of reasoning-gym/{task} failed on an answer ({failed}): it earns 0",
        file=sys.stderr,
    )


def unreadable(gold: object) -> str:
    """Return why a gold is none of this reward's, "" if it is one."""
    try:
        read = json.loads(gold) if isinstance(gold, str) else None
    except ValueError:
        read = None
    if not isinstance(read, Mapping) or set(read) != set(GOLD):
        return f"{str(gold)[:40]!r} is no JSON object with {', '.join(GOLD)}"
    return ""


def why_unverifiable(gold: object) -> str:
    """Return why a gold cannot be verified, "" if its task's scorer gives its own answer full marks.

    Where a task keeps no answer of its own, it is enough that its scorer gives an empty one a number.
    """
    if why := unreadable(gold):
        return why
    read = json.loads(str(gold))
    said = _score(gold, read["answer"] or "")
    if "failed" in said:
        return f"the scorer of {read['task']} fails on it: {said['failed']}"
    if read["answer"] is not None and said["score"] < 0.99:
        return f"the scorer of {read['task']} gives its own answer {said['score']:g}"
    return ""


@lru_cache(maxsize=2**14)
def _score(gold, answer):
    return _read(worker.ask("score", gold, answer))


def _read(reply):
    """What a job replied, as a dict; a process that was killed replies with a plain word."""
    if reply in (TIMED_OUT, DIED) or not reply.startswith("{"):
        return {"failed": reply}
    return json.loads(reply)


def require() -> None:
    """Raise ValueError, with the way out, where reasoning-gym is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ValueError(f"rewards: {MISSING}")


def tasks() -> list[str]:
    """Return the names of all tasks."""
    require()
    found: list[str] = _read(worker.ask("tasks", within=MAKE_S))["tasks"]
    return found


def problem(
    task: str, config: Mapping[str, Any], seed: int, size: int, index: int
) -> dict[str, Any]:
    """Make one problem of a task: {"question", "answer"}.

    Raises ValueError for a task, an option or an index that there is not, and for one that takes too long.
    """
    require()
    said = _read(worker.ask("make", task, dict(config), seed, size, index, within=MAKE_S))
    if "failed" in said:
        raise ValueError(f"reasoning-gym/{task}: {said['failed']}")
    return said

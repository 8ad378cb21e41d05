"""Load any task of reasoning-gym: problems without end, with the task's own scorer as the reward.

    gym.load("reasoning-gym/chain_sum", "grpo", n=500, min_terms=2)      what `loaders.load` calls

The options after `n` and `seed` are the task's own. The package makes problem i of seed s from s + i: each split
and each `seed` has a range of its own. Small tasks repeat themselves all the same, so a fifth of all questions,
chosen by a hash, is held out as well. The package makes and scores problems in a process
of its own (`rewards.gym`), so that a problem that hangs stops nothing.

Source    reasoning-gym, github.com/open-thought/reasoning-gym, arXiv 2505.24760
Proof     tests/lab/test_gym.py, tests/rewards/test_gym.py
"""

import json
import zlib

from datasets import Dataset

from lab import evaluate
from rewards import gym
from rewards.gym import gym_reward

PREFIX = "reasoning-gym/"
SIZE = 10_000  # problems of a seed, of which a split takes its own
AHEAD = 400  # so many problems in a row that are known already: the task has no more


def is_held_out(question):
    """Tell whether a question is of the held-out fifth."""
    return zlib.crc32(question.encode()) % 5 == 0


def load(name, stage="grpo", split="train", n=500, seed=0, system=None, **config):
    """Return `n` different problems of "reasoning-gym/<task>": prompt, solution, task.

    split    "train"; "test" or "heldout", which are the same
    config   the task's own options

    Raises ValueError for another stage or split, for a task or an option that there is not, and for a task
    with fewer different problems.
    """
    from lab import loaders

    if stage not in (None, "grpo"):
        raise ValueError(
            f"loaders: {name} has problems and a scorer, for grpo, and none for {stage}"
        )
    if split not in ("train", "test", "heldout"):
        raise ValueError(f'gym: split is {split!r}; expected "train", "test" or "heldout"')
    task, held, rows, known = name.removeprefix(PREFIX), split != "train", {}, 0
    at = {"config": config, "seed": (2 * seed + held) * SIZE, "size": SIZE}
    for index in range(SIZE):
        if len(rows) == n or known == AHEAD:
            break
        made = gym.problem(task, index=index, **at)
        known = known + 1 if made["question"] in rows else 0
        if is_held_out(made["question"]) == held:
            gold = {"task": task, **at, "index": index, "answer": made["answer"]}
            rows.setdefault(made["question"], json.dumps(gold))
    if len(rows) < n:
        raise ValueError(
            f"gym: {n} different problems asked for, and the {split} split of {task} has {len(rows)} with "
            f"the options {config}"
        )
    system = loaders.SYSTEM if system is None else system
    return Dataset.from_list(
        [
            {
                "prompt": [
                    {"role": "system", "content": system},
                    {"role": "user", "content": question},
                ],
                "solution": gold,
                "task": task,
            }
            for question, gold in rows.items()
        ]
    )


def score(model, tok, rows, **given):
    """Score a plain model on problems of a task, as `evaluate.on_rows` does: right is full marks."""
    return evaluate.on_rows(model, tok, rows, judge=evaluate.Judge(right, last_line), **given)


def right(texts, golds):
    """Tell of each completion whether its scorer gives it full marks."""
    return [(reward or 0.0) > 0.99 for reward in gym_reward(texts, solution=golds)]


def last_line(text):
    """Return the last line of a text in the tags, for the lenient verdict.

    >>> last_line("It is 3+4.\\n7\\n")
    '<think>.</think><answer>7</answer>'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"<think>.</think><answer>{lines[-1]}</answer>" if lines else ""

"""Define how a task is verified: its rewards, its held-out scores, and which golds it can read.

A data set's name says its task: "instructions/1" is `lab.instructions`, "reasoning-gym/<task>" `lab.gym`; every other one, and the built-in
sums, has answers in mathematics in the two tags of `rewards`.
"""

from typing import NamedTuple

from rewards import accuracy_reward, format_reward, instruction_reward
from rewards import gym as gym_rewards
from rewards.verdicts import why_unverifiable


class Task(NamedTuple):
    reward_funcs: list  # what GRPO trains on
    score: object  # (model, tok, rows, max_new_tokens, seed, pass_n, k) -> what a manifest keeps
    why_unverifiable: object  # gold -> "" or why it cannot be verified


def of(name):
    """Return the task of a data set, by its name; None is the built-in one."""
    if name and name.startswith("instructions/"):
        from lab import instructions

        return Task([instruction_reward], instructions.score, instructions.why_unverifiable)
    if name and name.startswith("reasoning-gym/"):
        from lab import gym

        return Task(
            [gym_rewards.gym_reward, format_reward], gym.score, gym_rewards.why_unverifiable
        )
    from lab import evaluate

    return Task([accuracy_reward, format_reward], evaluate.on_rows, why_unverifiable)


def rewards(recipe):
    """Return the reward functions of a recipe's stage."""
    return list(of(recipe.get("data", {}).get("name")).reward_funcs)

"""Lesson 10: when a reward teaches, and when its hole is found."""

import numpy as np

from lab.puzzles.engine import Puzzle


def telling_groups(p, num_generations, groups):
    alike = p**num_generations + (1 - p) ** num_generations
    one = 1 - alike
    return np.stack([one, 1 - (1 - one) ** groups])


telling = Puzzle(
    number="10.1",
    title="the groups that tell",
    minutes=6,
    stars=2,
    idea="a reward that pays everything teaches nothing, and neither does a hole that is not sampled",
    task=r"""A reward pays 1 for a share $p$ of the policy's samples and 0 for the others. A **group** of
$G$ samples (`num_generations`) teaches only if it has both kinds; else all its advantages are 0. For each
$p$ $(K,)$ give the probability that one group has both kinds, and the probability that at least one of
`groups` groups has. Shape $(2,K)$. Before you write: what comes out for $p=1$, and for a hole that is in
one sample of a million?""",
    answer=telling_groups,
    cases={
        "groups of 4, 5 of them": (np.array([0.02, 0.3, 0.7]), 4, 5),
        "groups of 8, 640 of them": (np.array([1e-6, 1e-4, 0.001]), 8, 640),
        "nothing or everything is paid": (np.array([0.0, 0.5, 1.0]), 3, 2),
    },
    mistakes={
        "a group in which all samples are paid teaches nothing either: take p^G off": (
            "p**num_generations + ",
            "",
        ),
        "a group in which no sample is paid teaches nothing either: take (1 - p)^G off": (
            " + (1 - p) ** num_generations",
            "",
        ),
        "that is the probability that all samples are alike; the others are asked for": (
            "one = 1 - alike",
            "one = alike",
        ),
        "both kinds, not exactly one paid sample": (
            "1 - alike",
            "num_generations * p * (1 - p) ** (num_generations - 1)",
        ),
        "this is the variance of one sample; a group has G of them": ("1 - alike", "p * (1 - p)"),
        "this is for two samples; a group has G of them": ("1 - alike", "2 * p * (1 - p)"),
        "all paid and none paid exclude each other: their probabilities are added": (
            "p**num_generations + (1",
            "p**num_generations * (1",
        ),
        "the second row is a probability; this is the expected number of such groups": (
            "1 - (1 - one) ** groups",
            "groups * one",
        ),
        "probabilities of several groups are not added, not even up to 1": (
            "1 - (1 - one) ** groups",
            "np.minimum(1.0, groups * one)",
        ),
        "at least one of the groups, not all of them": ("1 - (1 - one) ** groups", "one**groups"),
        "at least one group, not none": ("1 - (1 - one) ** groups", "(1 - one) ** groups"),
        "the power in the second row is the number of groups, not of samples": (
            "(1 - one) ** groups",
            "(1 - one) ** (groups * num_generations)",
        ),
        "first one group, then all of them": (
            "[one, 1 - (1 - one) ** groups]",
            "[1 - (1 - one) ** groups, one]",
        ),
    },
    hints=(
        "What is the probability that all G samples are paid? That none is?",
        "At least one of several: 1 less the probability that none.",
    ),
)

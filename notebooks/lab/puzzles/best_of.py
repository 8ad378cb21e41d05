"""Lesson 16: what is chosen by a score, and how far the choice goes from the policy."""

import math

import numpy as np

from lab.puzzles.engine import Puzzle


def best_of_n(scores, values, n):
    mean = 0.0
    for below, value in enumerate(values[np.argsort(scores)]):
        mean += value * math.comb(below, n - 1) / math.comb(len(scores), n)
    return mean


def kl_of_best_of_n(p, n):
    up_to = np.cumsum(p)
    q = up_to**n - (up_to - p) ** n
    p, q = p[q > 0], q[q > 0]  # 0 log 0 is 0
    kl = np.sum(q * np.log(q / p))
    return np.array([kl, np.log(n) - (n - 1) / n])


best_of = Puzzle(
    number="16.1",
    title="the best of n, from one pool",
    minutes=10,
    stars=3,
    idea="one pool of N samples gives the mean of every best of n up to N, without bias and without a draw",
    task=r"""A pool holds $N$ completions of one problem, each with its `scores` $(N,)$ by a reward model and its
`values` $(N,)$ by what we really want; all scores differ. Draw $n$ of the $N$ without putting any back, and choose
the one with the highest **score**. Give the mean **value** of what is chosen, over all draws. No random numbers:
how many of the $\binom Nn$ draws choose the completion that has $k$ others below it?""",
    answer=best_of_n,
    cases={
        "the best of 3": (
            np.array([0.3, -1.0, 1.4, 2.0, 0.9]),
            np.array([1.0, 0.0, 0.5, 0.0, 1.0]),
            3,
        ),
        "the best of 2": (np.array([5.0, 1.0, 3.0, 4.0]), np.array([0.2, 0.7, 0.4, 1.0]), 2),
        "one at random": (np.array([2.0, 0.5, 1.0]), np.array([0.0, 3.0, 1.0]), 1),
    },
    mistakes={
        "the choice is by the scores, not by the values": (
            "np.argsort(scores)",
            "np.argsort(values)",
        ),
        "asked is the value of what is chosen, not its score": (
            "values[np.argsort(scores)]",
            "scores[np.argsort(scores)]",
        ),
        "the highest score is chosen, not the lowest": (
            "np.argsort(scores)",
            "np.argsort(-scores)",
        ),
        "argsort puts the values in the scores' order: it is not each value's rank": (
            "values[np.argsort(scores)]",
            "values[np.argsort(np.argsort(scores))]",
        ),
        "drawn without putting back: this is for draws that are put back": (
            "math.comb(below, n - 1) / math.comb(len(scores), n)",
            "((below + 1) / len(scores)) ** n - (below / len(scores)) ** n",
        ),
        "the chosen one is one of the n: n - 1 others come from below it": (
            "math.comb(below, n - 1)",
            "math.comb(below, n)",
        ),
        "it has k below it, and is not one of them": (
            "math.comb(below, n - 1)",
            "math.comb(below + 1, n - 1)",
        ),
        "that many draws choose it; divide by all draws, N over n": (
            " / math.comb(len(scores), n)",
            "",
        ),
        "all draws are N over n, not N over n - 1": (
            "math.comb(len(scores), n)",
            "math.comb(len(scores), n - 1)",
        ),
        "there are N over n draws, all of N completions": (
            "math.comb(len(scores), n)",
            "math.comb(len(scores) - 1, n - 1)",
        ),
        "that is the value of the best of all N": "values[np.argmax(scores)]",
        "that is the mean of the n with the highest scores": "values[np.argsort(scores)[-n:]].mean()",
        "that is the best of the first n, one draw of many": "values[:n][np.argmax(scores[:n])]",
        "that is the mean of the pool, whatever is chosen": "values.mean()",
    },
    hints=(
        "Sort by the scores. Which draws choose the k-th from below?",
        "It is drawn, and the n - 1 others come from the k below it: `math.comb(k, n - 1)` draws.",
    ),
)
distance = Puzzle(
    number="16.2",
    title="how far the best of n is",
    minutes=8,
    stars=2,
    idea="log n - (n - 1)/n bounds the KL of best-of-n from above; a policy with few answers stays far below it",
    task=r"""A policy writes one of $K$ answers, with probabilities `p` $(K,)$, in the order of their scores: the last
is the best. Of $n$ independent samples the best is kept. It is answer $y$ if all $n$ are at most $y$ and not all are
below $y$. With $q$ for the probabilities of what is kept, give two numbers in nats, shape $(2,)$: the exact
$\mathrm{KL}(q\,\|\,p)=\sum_y q(y)\log\frac{q(y)}{p(y)}$, and $\log n-\frac{n-1}{n}$, which it would be if no two
samples were ever the same. (A power may underflow to $q(y)=0$: then $0\log0=0$.)""",
    answer=kl_of_best_of_n,
    cases={
        "three answers, best of 4": (np.array([0.5, 0.3, 0.2]), 4),
        "a coin, best of 2": (np.array([0.5, 0.5]), 2),
        "a rare answer underflows": (np.array([1e-170, 0.4, 0.6]), 2),
        "five answers, best of 3": (np.array([0.1, 0.4, 0.05, 0.25, 0.2]), 3),
    },
    mistakes={
        "that is KL(p||q): the mean is over what is kept": (
            "q * np.log(q / p)",
            "p * np.log(p / q)",
        ),
        "the logarithm is of q / p": ("np.log(q / p)", "np.log(p / q)"),
        "the mean is over q, not over p": ("q * np.log(q / p)", "p * np.log(q / p)"),
        "in nats: the natural logarithm": ("q * np.log(q / p)", "q * np.log2(q / p)"),
        "the last is the best, not the first": ("np.cumsum(p)", "np.cumsum(p[::-1])[::-1]"),
        "that all n are at most y is not enough: take off that all are below y": (
            "up_to**n - (up_to - p) ** n",
            "up_to**n",
        ),
        "that is that all n samples are y": ("up_to**n - (up_to - p) ** n", "p**n / np.sum(p**n)"),
        "q is the chance that the best is y, not that some sample is y": (
            "up_to**n - (up_to - p) ** n",
            "1 - (1 - p) ** n",
        ),
        "n is a power, not a factor": (
            "up_to**n - (up_to - p) ** n",
            "n * up_to - n * (up_to - p)",
        ),
        "the bound is log n LESS (n - 1)/n": ("np.log(n) - (n - 1) / n", "np.log(n) + (n - 1) / n"),
        "log n alone is too far: not every sample is the best": (
            "np.log(n) - (n - 1) / n",
            "np.log(n)",
        ),
        "the bound takes off (n - 1)/n, which is 0 for n = 1": (
            "np.log(n) - (n - 1) / n",
            "np.log(n) - n / (n + 1)",
        ),
        "the sum over the answers, not the mean": ("np.sum(q", "np.mean(q"),
        "first the exact KL, then the bound": (
            "[kl, np.log(n) - (n - 1) / n]",
            "[np.log(n) - (n - 1) / n, kl]",
        ),
    },
    hints=(
        "`np.cumsum(p)` is the probability that one sample is at most y. And all n of them?",
        "Below y is at most y without y itself: take `p` off before the power.",
    ),
)

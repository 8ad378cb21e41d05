"""Lessons 0 and 8: how sure a measurement is."""

import math

import numpy as np

from lab.puzzles.engine import Puzzle

Z = 1.959964


def wilson(successes, n):
    z, share = 1.959964, successes / n
    centre = share + z * z / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _textbook(successes, n):
    share = successes / n
    half = Z * np.sqrt(share * (1 - share) / n)
    return share - half, share + half


def _wilson(successes, n, under, root=0.5, centre=Z * Z / 2):
    """Wilson's interval with another term under the root, another power of it, or another centre."""
    share, scale = successes / n, 1 + Z * Z / n
    half = Z * (share * (1 - share) / n + under) ** root
    return (share + centre / n - half) / scale, (share + centre / n + half) / scale


def _agresti_coull(successes, n):
    n, share = n + Z * Z, (successes + Z * Z / 2) / (n + Z * Z)
    half = Z * (share * (1 - share) / n) ** 0.5
    return share - half, share + half


interval = Puzzle(
    number="0.2",
    title="the interval of a share",
    minutes=6,
    stars=2,
    idea="a share of n tries has an interval; Wilson's stays valid at 0 of n and at n of n",
    task=r"""Wilson's 95% interval `(low, high)` of $k$ successes in $n$, never outside $[0, 1]$:
$$\frac{\hat p + \frac{z^2}{2n} \pm z\sqrt{\frac{\hat p(1-\hat p)}{n} + \frac{z^2}{4n^2}}}
{1 + \frac{z^2}{n}} \qquad \hat p = \frac{k}{n},\quad z = 1.959964$$
(It holds the shares $p$ from which $k/n$ is at most $z$ of $p$'s own standard errors
$\sqrt{p(1-p)/n}$ away: solve $(k/n - p)^2 = z^2 p(1-p)/n$ for $p$.)""",
    answer=wilson,
    cases={
        "30 of 100": (30, 100),
        "none of 600": (0, 600),
        "all of 7": (7, 7),
        "1 of 10": (1, 10),
    },
    tolerance={"rtol": 1e-6},  # z is as good written with seven digits as with sixteen
    mistakes={
        "that is the textbook's interval, which has no width at 0 or n": _textbook,
        "z = 1.645 leaves 5% on each side; 1.959964 leaves 2.5%": ("1.959964", "1.644854"),
        "that is the textbook's interval, cut off at 0 and 1": lambda k, n: (
            max(0.0, _textbook(k, n)[0]),
            min(1.0, _textbook(k, n)[1]),
        ),
        "divide by 1 + z^2 / n": lambda k, n: tuple(
            side * (1 + Z * Z / n) for side in wilson(k, n)
        ),
        "the root holds z^2 / (4 n^2): z is squared": lambda k, n: _wilson(k, n, Z / (4 * n * n)),
        "the root holds z^2 / (4 n^2): n is squared": lambda k, n: _wilson(k, n, Z * Z / (4 * n)),
        "the root is missing": lambda k, n: _wilson(k, n, Z * Z / (4 * n * n), root=1.0),
        "that is Agresti and Coull's interval": _agresti_coull,
        "low comes first, then high": lambda k, n: wilson(k, n)[::-1],
        "shares are asked for, not percentages": lambda k, n: tuple(
            100 * side for side in wilson(k, n)
        ),
        "the centre is not k / n: it is drawn towards one half": lambda k, n: _wilson(
            k, n, Z * Z / (4 * n * n), centre=0.0
        ),
    },
    hints=(
        "Write share, centre, half and scale as four lines.",
        "`max(0.0, ...)` and `min(1.0, ...)` keep rounding inside [0, 1].",
    ),
)


def pass_at_k(n, correct, k):
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


best_of_several = Puzzle(
    number="8.2",
    title="pass@k without a bias",
    minutes=6,
    stars=2,
    idea="count the ways to draw k wrong ones of n; putting the share into 1 - (1 - p)^k is biased",
    task=r"""$n$ samples of one problem, $c$ of them right. What is the probability that at least one of
$k$ samples drawn from these $n$, without putting back, is right?
$$\text{pass@}k = 1 - \binom{n-c}{k}\Big/\binom{n}{k}$$""",
    answer=pass_at_k,
    cases={
        "4 of 16 right, k = 8": (16, 4, 8),
        "k = 1 is the share": (10, 3, 1),
        "fewer wrong ones than k": (5, 4, 2),
        "none right": (8, 0, 4),
    },
    mistakes={
        "that is biased: the k samples are drawn from the n without putting back": (
            "1 - (1 - correct / n) ** k"
        ),
        "this is the share, pass@1": "correct / n",
        "this is k times the share, which is no probability: it can be above 1": "k * correct / n",
        "that is the probability that all k are right": "math.comb(correct, k) / math.comb(n, k)",
        "1 minus the probability that all are wrong": "math.comb(n - correct, k) / math.comb(n, k)",
        "the wrong ones are n - c": "1 - math.comb(correct, k) / math.comb(n, k)",
        "at least one of the k has to be right, not exactly one": (
            "correct * math.comb(n - correct, k - 1) / math.comb(n, k)"
        ),
        "this is k times the share, cut off at 1: the probabilities of the k draws are not added up": "min(1.0, k * correct / n)",
        "whether any sample is right is pass@n": "float(correct > 0)",
        "the ways to draw k of n are counted, n over k, not n^k": (
            "1 - math.comb(n - correct, k) / n**k"
        ),
    },
    hints=(
        "It fails only if all k are among the n - c wrong ones.",
        "`math.comb(a, k)` is 0 where a is below k, which is what is wanted.",
    ),
)


def paired(before, after):
    lost = int((before & ~after).sum())
    gained = int((~before & after).sum())
    n, parted = len(before), lost + gained
    difference = (gained - lost) / n
    error = math.sqrt(parted - (gained - lost) ** 2 / n) / n
    tail = sum(math.comb(parted, k) for k in range(min(lost, gained) + 1)) / 2**parted
    return difference, error, min(1.0, 2 * tail)


def _two_groups(before, after):
    p, q, n = before.mean(), after.mean(), len(before)
    return math.sqrt(p * (1 - p) / n + q * (1 - q) / n)


_before = np.arange(24) % 3 != 0
_after = _before.copy()
_after[[0, 3, 6, 9, 12, 15, 1]] ^= True
_worse = _before.copy()
_worse[[1, 2, 4, 0]] ^= True

same_problems = Puzzle(
    number="8.3",
    title="the same problems twice",
    minutes=8,
    stars=3,
    idea="on the same problems two models differ only where exactly one of them is right: count those",
    task=r"""Two models answered the same $N$ problems, right or not. Give three numbers: the difference
of the shares (after less before); its standard error, since the problems are paired,
$\frac1N\sqrt{n_{10}+n_{01}-(n_{10}-n_{01})^2/N}$; and the p of the exact McNemar test,
$2\,P(X \le \min(n_{10}, n_{01}))$ with $X$ binomial over the problems that only one got right, at most
1. $n_{10}$ counts those that only the first got right.""",
    answer=paired,
    cases={
        "six gained, one lost": (_before, _after),
        "three lost, one gained": (_before, _worse),
        "nothing changed": (_before, _before.copy()),
    },
    mistakes={
        "the difference is after less before": ("(gained - lost) / n\n", "(lost - gained) / n\n"),
        "this is the error of two separate groups; here both answered the same problems": lambda before, after: (
            paired(before, after)[0],
            _two_groups(before, after),
            paired(before, after)[2],
        ),
        "the test has two sides: double the tail": ("min(1.0, 2 * tail)", "tail"),
        "a p is at most 1": ("min(1.0, 2 * tail)", "2 * tail"),
        "only the problems that one of the two got right count in the binomial": (
            "math.comb(parted, k) for k in range(min(lost, gained) + 1)) / 2**parted",
            "math.comb(n, k) for k in range(min(lost, gained) + 1)) / 2**n",
        ),
        "the tail holds the smaller count as well": ("min(lost, gained) + 1", "min(lost, gained)"),
        "this is the tail of the larger count": ("min(lost, gained)", "max(lost, gained)"),
        "the error is divided by N, not by its root": (
            ") ** 2 / n) / n",
            ") ** 2 / n) / math.sqrt(n)",
        ),
        "the term with the square is missing under the root": (" - (gained - lost) ** 2 / n", ""),
        "this is the variance: take the root": (
            "math.sqrt(parted - (gained - lost) ** 2 / n) / n",
            "(parted - (gained - lost) ** 2 / n) / n**2",
        ),
        "the difference is that of the shares, not of the counts": (
            "difference = (gained - lost) / n",
            "difference = gained - lost",
        ),
        "this is the probability of one count, not of all up to it": (
            "sum(math.comb(parted, k) for k in range(min(lost, gained) + 1))",
            "math.comb(parted, min(lost, gained))",
        ),
    },
    hints=(
        "`(before & ~after).sum()` counts what only the first got right.",
        "`math.comb(m, k) / 2**m` is the probability of k heads in m tosses.",
    ),
)

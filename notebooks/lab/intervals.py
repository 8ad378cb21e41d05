"""Say how far a share of n problems can be trusted, and whether two models differ on the same problems.

    wilson(successes, n)       the 95% interval of one share
    paired(before, after)      the same problems, answered by two models

Source    Wilson, "Probable inference", JASA 22 (1927): the interval of a proportion;
          Newcombe, Statistics in Medicine 17 (1998) 2635, method 10: of a paired difference;
          McNemar, Psychometrika 12 (1947), in its exact form: the test of a paired difference

Proof     tests/lab/test_intervals.py
"""

import math


def wilson(successes, n, z=1.959964):
    """Compute the 95% interval of a proportion, (low, high); never outside [0, 1].

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"got {successes} successes of {n}; expected 0 <= successes <= n, n >= 1")
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(before, after):
    """Compare two models on the same problems, in the same order.

    before, after    (N,) bools: right or not
    returns          n; gained and lost, the problems that only one of the two got right; difference,
                     (gained - lost) / n; ci95, Newcombe's 95% interval of it; p, the exact McNemar
                     test: how often a fair coin would part the changed problems as unevenly

    Raises ValueError for lists of different lengths, or empty ones.

    >>> found = paired([True, False, False, False, False, False], [True, True, True, True, True, False])
    >>> found["gained"], found["lost"], found["p"]
    (4, 0, 0.125)
    """
    n = len(before)
    if not n or len(after) != n:
        raise ValueError(
            f"got {n} verdicts before and {len(after)} after; expected as many, one or more"
        )
    both = sum(bool(b and a) for b, a in zip(before, after))
    lost, gained = sum(map(bool, before)) - both, sum(map(bool, after)) - both
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return {
        "n": n,
        "gained": gained,
        "lost": lost,
        "difference": (gained - lost) / n,
        "ci95": _newcombe(both, lost, gained, n),
        "p": min(1.0, 2 * tail),
    }


def _newcombe(both, lost, gained, n):
    """Newcombe's method 10: Wilson's intervals of the two shares, joined by their correlation phi."""
    neither = n - both - lost - gained
    share_before, share_after = (both + lost) / n, (both + gained) / n
    low_b, high_b = wilson(both + lost, n)
    low_a, high_a = wilson(both + gained, n)
    sides = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    over = both * neither - lost * gained
    over = max(over - n / 2, 0) if over > 0 else over  # his continuity correction
    phi = over / math.sqrt(sides) if sides else 0.0

    def half(after, before):
        return math.sqrt(max(0.0, after**2 - 2 * phi * after * before + before**2))

    difference = share_after - share_before
    low = difference - half(share_after - low_a, high_b - share_before)
    high = difference + half(high_a - share_after, share_before - low_b)
    return max(-1.0, low), min(1.0, high)

"""Exercises that check themselves, each with a statement, pictures, named mistakes, hints, a solution.

    puzzle = lab.puzzle("3.1").show()           what is asked, with its inputs and the target
    group_advantages = puzzle.check(my_function)    yours if it is right, else the reference
    puzzle.hint()                               one hint more with each call
    puzzle.solution()                           the source, after a first try
    lab.progress()                              what is solved

A puzzle has a number, its lesson and its place there. Everything here needs numpy, matplotlib and
IPython alone. What was tried and solved is kept in runs/progress.json (`lab.puzzles.record`).

Proof     tests/lab/test_puzzles.py
"""

from difflib import get_close_matches

from lab.puzzles import (
    best_of,
    clinic,
    cuts,
    distances,
    lateness,
    leaks,
    measures,
    numbers,
    policies,
    preferences,
    small,
    teachers,
    tokens,
)
from lab.puzzles.engine import Puzzle
from lab.puzzles.record import progress

__all__ = ["ALL", "Puzzle", "progress", "puzzle"]

_MODULES = (
    tokens,
    numbers,
    preferences,
    policies,
    distances,
    measures,
    leaks,
    clinic,
    cuts,
    lateness,
    small,
    teachers,
    best_of,
)
ALL = {
    found.number: found
    for module in _MODULES
    for found in vars(module).values()
    if isinstance(found, Puzzle)
}
ALL = dict(sorted(ALL.items(), key=lambda item: [int(part) for part in item[0].split(".")]))


def puzzle(number):
    """The puzzle of a number, "3.1": its lesson and its place there.

    Raises ValueError with what exists for a number that is not there.
    """
    number = str(number).strip()
    if number in ALL:
        return ALL[number]
    near = get_close_matches(number, ALL, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    names = "; ".join(f"{n} {p.title}" for n, p in ALL.items())
    raise ValueError(f"there is no puzzle {number!r}{hint}; there are: {names}")

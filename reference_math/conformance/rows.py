"""Define a row of the report: one objective, one option and one library, as a function of a place.

    run(place) -> {"value": (theirs, ours), "gradient": (theirs, ours)}        float64 numpy arrays

The library gets the place's tensors; reference_math gets the same numbers, rounded to the place's
dtype, as float64. The rows themselves: `cases` (losses), `cases_golden` (trainers that TRL has
dropped), `cases_around` (what stands before and after a loss).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reference_math._types import ArrayLike
from reference_math.conformance._types import Arrays, Result, Run

GOLDEN = Path(__file__).with_name("golden")


class Row(NamedTuple):
    objective: str
    option: str
    library: str  # a distribution's name; "torch twin" is reference_math.torch
    run: Run
    # of a trainer that is gone: what it computed, float64 on the CPU alone
    release: str | None = None


def every_row() -> list[Row]:
    """Yield all rows, in the order of the report."""
    from reference_math.conformance import cases, cases_around, cases_golden

    return [row for module in (cases_around, cases, cases_golden) for row in module.rows()]


def golden(name: str) -> Arrays:
    """Load arrays that a dropped trainer computed, {"case/array": array}, made by tests/parity/golden."""
    with np.load(GOLDEN / f"{name}.npz") as content:
        return {key: content[key] for key in content.files if key != "metadata.json"}


def running(
    theirs: Callable[..., Any], ours: Callable[..., Result], arrays: Arrays, *wrt: str
) -> Run:
    """Make a row's run: theirs(**tensors) by autograd against ours(**arrays) -> (value, gradient).

    wrt   names of the arrays that the gradient is to; of more than one, `ours` returns a tuple
    """

    def run(place):
        tensors = {name: place.tensor(x, requires_grad=name in wrt) for name, x in arrays.items()}
        value = theirs(**tensors)
        value.sum().backward()
        expected, grad = ours(**{name: place.rounded(x) for name, x in arrays.items()})
        got = [place.numpy(tensors[name].grad) for name in wrt]
        return {
            "value": (place.numpy(value), np.asarray(expected)),
            "gradient": (_flat(got), _flat(grad if isinstance(grad, tuple) else [grad])),
        }

    return run


def comparing(theirs: Callable[..., Any], ours: Callable[..., Any], *arrays: ArrayLike) -> Run:
    """Make a row's run of a value alone: theirs(place, *tensors) against ours(*arrays)."""

    def run(place):
        got = theirs(place, *(place.tensor(x) for x in arrays))
        return {"value": (place.numpy(got), ours(*(place.rounded(x) for x in arrays)))}

    return run


def _flat(arrays):
    return np.concatenate([np.ravel(x) for x in arrays])

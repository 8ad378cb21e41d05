"""What is compared: one row an objective, an option and a library, each a function of a place.

    run(place) -> {"value": (theirs, ours), "gradient": (theirs, ours)}        float64 numpy arrays

The library gets the place's tensors; reference_math gets the same numbers, rounded to the place's
dtype, as float64.  tests/parity holds each row to a tolerance, case by case; here they are measured.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "parity" / "golden"


class Row(NamedTuple):
    objective: str
    option: str
    library: str  # a distribution's name; "torch twin" is reference_math.torch
    run: object
    release: str = None  # of a trainer that is gone: what it computed, float64 on the CPU alone


def every_row():
    """All rows, in the order of the report."""
    from reference_math.conformance import (
        rows_adapters,
        rows_distillation,
        rows_dpo,
        rows_online,
        rows_policy,
        rows_preference,
        rows_scoring,
        rows_steps,
        rows_tokens,
    )

    modules = (rows_tokens, rows_dpo, rows_preference, rows_scoring, rows_policy)
    modules += (rows_online, rows_distillation, rows_adapters, rows_steps)
    return [row for module in modules for row in module.rows()]


def golden(name):
    """{"case/array": array}, as tests/parity/golden/make.py wrote it; {} outside a checkout."""
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        return {}
    with np.load(path) as content:
        return {key: content[key] for key in content.files if key != "metadata.json"}


def running(theirs, ours, arrays, wrt):
    """A row's run: theirs(**tensors) by autograd against ours(**arrays) -> (value, gradient).

    wrt   the name of the array that the gradient is taken to
    """

    def run(place):
        tensors = {name: place.tensor(x, requires_grad=name == wrt) for name, x in arrays.items()}
        value = theirs(**tensors)
        value.sum().backward()
        expected, grad = ours(**{name: place.rounded(x) for name, x in arrays.items()})
        return {
            "value": (place.numpy(value), np.asarray(expected)),
            "gradient": (place.numpy(tensors[wrt].grad), grad),
        }

    return run

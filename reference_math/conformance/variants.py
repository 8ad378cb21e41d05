"""Variants of a reference that `check` tries, and hyperparameters that it fits.

A variant turns a function (arrays, options) -> (value, gradient) into another of the same kind.  A
gradient of None means that it is computed numerically from the value, with nothing held constant.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from reference_math._types import Array
from reference_math.conformance._types import Arrays, Loss, Options, Variant
from reference_math.conventions import TABLE

HELD = "held"
WRT = "per_token_logps"  # every loss's gradient is taken to it


def given(change: Callable[[Arrays], Arrays]) -> Variant:
    """Call f on changed arrays: change(arrays) returns the new ones by name. They stay constants.

    When the gradient is computed numerically, HELD holds the arrays as they were before the step.
    """
    return lambda f: (
        lambda arrays, options: f(arrays | change(arrays | arrays.get(HELD, {})), options)
    )


def moving(change: Callable[[Arrays], Arrays]) -> Variant:
    """Like `given`, for changes that depend on the policy's log-probs.

    The gradient is then computed numerically from the value.
    """
    return lambda f: lambda arrays, options: (f(arrays | change(arrays), options)[0], None)


def optioned(**changed: Any) -> Variant:
    return lambda f: lambda arrays, options: f(arrays, options | changed)


def times(factor: Callable[[Arrays], float]) -> Variant:
    """Multiply f by factor(arrays)."""

    def variant(f):
        def scaled(arrays, options):
            c = factor(arrays)
            value, grad = f(arrays, options)
            return c * value, None if grad is None else c * grad

        return scaled

    return variant


def undetached(f: Loss) -> Loss:
    """Let the gradient flow through what the reference holds constant."""
    return lambda arrays, options: (f(arrays | {HELD: {}}, options)[0], None)


def detached(f: Loss) -> Loss:
    """Return the value of f with a gradient of zero."""
    return lambda arrays, options: (f(arrays, options)[0], np.zeros_like(arrays[WRT]))


class Hyperparameter(NamedTuple):
    """A number of the objective that `check` fits where no convention explains the difference."""

    asked: Any  # the number that the options ask for, or None
    variant: Callable[[float], Variant]  # variant(x) is the convention "x in place of `asked`"
    grid: Array  # increasing; the fit looks between its points
    note: str = ""


def hyperparameter(
    name: str, options: Options, default: object, grid: Array, note: str = ""
) -> dict[str, Hyperparameter]:
    """Return the option of that name as a Hyperparameter."""
    asked = options.get(name, default)
    return {name: Hyperparameter(asked, lambda x: optioned(**{name: x}), grid, note)}


WEIGHTS = np.geomspace(1e-4, 100.0, 61)  # betas, temperatures, clips: from GSPO's 3e-4 upwards
SHARES = np.linspace(0.0, 0.49, 50)  # label smoothing: 1/2 would weigh both answers the same
STD_EPS = np.geomspace(1e-12, 1.0, 49)
LENGTHS = np.geomspace(1.0, 1e6, 61)


def swapped(one: str, other: str) -> Variant:
    return moving(lambda arrays: {one: arrays[other], other: arrays[one]})


SIGN = {"sign: negated": times(lambda arrays: -1.0)}
DETACH = {
    "detach: everything, no gradient reaches the policy": detached,
    "detach: missing, the gradient flows through what is held constant": undetached,
}
PADDED_MEAN = "reduction: mean over B x T positions, the padding counts in the normaliser"


def _shifted(by):
    def change(arrays):
        mask = np.roll(arrays["completion_mask"], by, axis=1)
        mask[:, 0 if by > 0 else -1] = 0
        return {"completion_mask": mask}

    return given(change)


MASK = {
    "mask shift: one position too early": _shifted(-1),
    "mask shift: one position too late": _shifted(1),
    "mask: not applied, the padding counts": given(
        lambda arrays: {"completion_mask": np.ones_like(arrays["completion_mask"])}
    ),
}


def as_in(kind: Sequence[str] = ("trl", "library"), **said: object) -> str:
    """Name the libraries that do the same, from the table of conventions."""
    names = [
        row["name"]
        for row in TABLE
        if row["kind"] in kind and all(row[key] == value for key, value in said.items())
    ]
    return f" (as in {', '.join(names)})" if names else ""


def random_mask(rng: np.random.Generator, rows: int, tokens: int) -> Array:
    lengths = rng.integers(1, tokens, size=(rows, 1))
    return (np.arange(tokens) < lengths).astype(float)

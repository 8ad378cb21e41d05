"""Name the kind of mistake in a wrong result, from the results alone: for every exercise alike.

    name(results, wanted, cases, run, reference)      a sentence, or "" where none fits

Each detector looks at all cases together. It gets the right function as well, so that it can ask what
that would give with two arguments swapped, one turned in sign, or one left out.

Proof     tests/lab/test_check.py
"""

import inspect
import itertools

import numpy as np

CLOSE = {"rtol": 1e-7, "atol": 1e-12}


def name(results, wanted, cases, run, reference):
    """Name the first kind of mistake that explains every case.

    results, wanted    {case: array}: what came, and what is right
    cases              {case: arguments}
    run                run(function, arguments), on a copy of the arguments
    reference          the right function
    """
    seen = Seen(results, wanted, cases, run, reference)
    for detector in (of_shape, of_numbers, of_arguments, of_places):
        if found := next(detector(seen), ""):
            return found
    return ""


class Seen:
    """The results of all cases, and questions that several detectors ask."""

    def __init__(self, results, wanted, cases, run, reference):
        self.results, self.wanted, self.cases = results, wanted, cases
        self.run, self.reference = run, reference
        given = len(next(iter(cases.values())))  # without the reference's own defaults
        self.arguments = list(inspect.signature(reference).parameters)[:given]
        self.shapes_fit = all(np.shape(results[c]) == np.shape(wanted[c]) for c in cases)

    def everywhere(self, change, got=None):
        """Tell whether change(wanted) is what came, in every case."""
        got = got or self.results
        return all(
            same(got[case], quiet(change, self.wanted[case], self.cases[case]))
            for case in self.cases
        )

    def with_arguments(self, change):
        """Tell whether the right function gives what came if change(arguments) goes in."""

        def result(case):
            try:
                return self.run(self.reference, change(self.cases[case]))
            except Exception:  # noqa: BLE001 - arguments that do not fit are no explanation
                return None

        results = {case: result(case) for case in self.cases}
        if any(value is None for value in results.values()):
            return False
        moved = any(not same(results[case], self.wanted[case]) for case in self.cases)
        return moved and all(same(self.results[case], results[case]) for case in self.cases)


def same(got, wanted):
    return np.shape(got) == np.shape(wanted) and np.allclose(got, wanted, **CLOSE)


def quiet(change, *arguments):
    with np.errstate(all="ignore"):
        return change(*arguments)


def of_shape(seen):
    """Detect the right numbers in another shape, or with one step too many or too few."""
    if seen.shapes_fit:
        return
    steps = {"the sum": np.sum, "the mean": np.mean}
    for what, step in steps.items():
        if all(np.size(v) == 1 for v in seen.wanted.values()):
            if all(same(step(seen.results[c]), np.squeeze(seen.wanted[c])) for c in seen.cases):
                yield f"one number is asked for: {what} of what you return is right"
        elif seen.everywhere(lambda right, _, step=step: step(right)):
            yield f"this is {what} of the right numbers; each of them is asked for"
    if seen.everywhere(
        lambda right, _: np.ravel(right), {c: np.ravel(v) for c, v in seen.results.items()}
    ):
        yield "the numbers are right, the shape is not: reshape them"
    if all(np.ndim(v) == 2 for v in seen.results.values()) and seen.everywhere(
        lambda right, _: np.transpose(right)
    ):
        yield "this is the transpose of the right array"
    for axis in (0, 1):
        if all(np.ndim(v) > axis for v in seen.wanted.values()):
            for what, step in steps.items():
                if seen.everywhere(lambda right, _, s=step, a=axis: s(right, axis=a)):
                    yield f"this is {what} over axis {axis} of the right numbers: do not reduce it"


FUNCTIONS = {
    "minus the right result: turn the sign": lambda right: -right,
    "the exponential of the right result": np.exp,
    "1 minus the right result": lambda right: 1 - right,
    "the logarithm of the right result": np.log,
    "the square of the right result": np.square,
    "the root of the right result": np.sqrt,
    "the right result in percent": lambda right: 100 * right,
    "the right results in the opposite order": lambda right: np.asarray(right)[..., ::-1],
}


def of_numbers(seen):
    """Detect a function of the right result: its sign, a factor, an offset, its exponential, its digits."""
    if not seen.shapes_fit:
        return
    for what, function in FUNCTIONS.items():
        reversible = all(np.ndim(v) for v in seen.wanted.values()) or "order" not in what
        if reversible and seen.everywhere(lambda right, _, f=function: f(right)):
            yield f"this is {what}"
    for case in seen.cases:
        bad = ~np.isfinite(seen.results[case])
        if np.any(bad & np.isfinite(seen.wanted[case])):
            sort = "nan" if np.any(np.isnan(seen.results[case])) else "inf"
            yield (
                f"{sort} on {case!r}: something overflows, or 0 is divided by 0; look for exp of "
                "a large number, and for log or division where the number can be 0"
            )
    if factor := _factor(seen):
        yield factor
    offsets = [_constant(np.subtract(seen.results[c], seen.wanted[c])) for c in seen.cases]
    if all(offset is not None for offset in offsets) and np.ptp(offsets) < 1e-9:
        yield f"every number is {abs(offsets[0]):.6g} too {'high' if offsets[0] > 0 else 'low'}"
    if all(_digits(seen.results[c], seen.wanted[c]) for c in seen.cases):
        yield (
            "only the last digits differ: another eps or another place for it, a constant with too "
            "few digits, or float32"
        )


def _constant(values):
    """The number that all values are, or None."""
    values = np.ravel(values)
    first = values[0]
    return float(first) if np.allclose(values, first, rtol=1e-7, atol=1e-12) else None


def _factor(seen):
    factors = {}
    for case in seen.cases:
        right, got = np.ravel(seen.wanted[case]), np.ravel(seen.results[case])
        if not np.isfinite(got).all():
            return ""
        counts = np.abs(right) > 1e-9 * np.abs(right).max(initial=0)
        if np.any(np.abs(got[~counts]) > 1e-7 * np.abs(got).max(initial=0)):
            return ""
        if counts.any():
            factors[case] = _constant(got[counts] / right[counts])
    if not factors or any(f is None or abs(f - 1) < 1e-7 or f == 0 for f in factors.values()):
        return ""
    for what, value in _quantities(seen):
        values = {c: float(value(seen.cases[c])) for c in factors}
        if not all(values.values()):
            continue  # nothing is 0 times the right result here, and nothing is divided by 0
        for sign, by in ((1, "times"), (-1, "divided by")):
            if all(np.isclose(f, values[c] ** sign) for c, f in factors.items()):
                return f"each number is the right one {by} {what}"
    if np.ptp(list(factors.values())) < 1e-7 * abs(next(iter(factors.values()))):
        return f"each number is {next(iter(factors.values())):.6g} times the right one"
    return ""


def _quantities(seen):
    """(what it is, a function of the arguments): numbers that a result may be a multiple of."""
    for i, argument in enumerate(seen.arguments):
        example = next(iter(seen.cases.values()))[i]
        if np.ndim(example) == 0:
            yield argument, lambda a, i=i: float(a[i])
            continue
        for axis in range(np.ndim(example)):
            size = f"the size of {argument}'s axis {axis}"
            yield size, lambda a, i=i, axis=axis: np.shape(a[i])[axis]
        yield f"the number of entries of {argument}", lambda a, i=i: np.size(a[i])
        if np.isin(example, (0, 1)).all():
            yield f"the number of ones in {argument}", lambda a, i=i: float(np.sum(a[i])) or 1.0


def _digits(got, right):
    """Whether all numbers agree to two digits."""
    return np.allclose(got, right, rtol=1e-2, atol=1e-6)


def of_arguments(seen):
    """Detect the result for arguments that are swapped, negated, left out, or mixed up."""
    names, example = seen.arguments, next(iter(seen.cases.values()))
    for i, j in itertools.combinations(range(len(names)), 2):
        alike = np.shape(example[i]) == np.shape(example[j])
        if alike and seen.with_arguments(lambda a, i=i, j=j: _put(_put(a, i, a[j]), j, a[i])):
            yield f"{names[i]} and {names[j]} are swapped"
    for i, argument in enumerate(names):
        if seen.with_arguments(lambda a, i=i: _put(a, i, -np.asarray(a[i]))):
            yield f"{argument} comes in with the wrong sign"
        if seen.with_arguments(lambda a, i=i: _put(a, i, np.abs(a[i]))):
            yield f"the sign of {argument} is lost: it counts"
        for value, what in ((0, "0"), (1, "1")):
            filled = np.full_like
            if seen.with_arguments(lambda a, i=i, v=value, f=filled: _put(a, i, f(a[i], v))):
                yield f"{argument} changes nothing in it: it counts as {what} everywhere"
        if np.isin(example[i], (0, 1)).all() and seen.with_arguments(
            lambda a, i=i: _put(a, i, 1 - np.asarray(a[i]))
        ):
            yield f"{argument} is inverted: 1 is what counts"
    pairs = [p for p in itertools.combinations(range(len(names)), 2) if np.ndim(example[p[0]])]
    for (i, j), (k, m) in itertools.combinations(pairs, 2):
        shapes = {np.shape(example[n]) for n in (i, j, k, m)}
        if len({i, j, k, m}) == 4 and len(shapes) == 1:
            both = seen.with_arguments(
                lambda a, i=i, j=j, k=k, m=m: _put(
                    _put(_put(_put(a, i, a[j]), j, a[i]), k, a[m]), m, a[k]
                )
            )
            if both:
                yield f"{names[i]} and {names[j]} are swapped, and so are {names[k]} and {names[m]}"


def _put(arguments, i, value):
    kind = type(arguments[i])
    value = kind(value) if kind in (int, float) else value
    return (*arguments[:i], value, *arguments[i + 1 :])


def of_places(seen):
    """Detect results that are wrong in some places: by case, or by what an argument is there."""
    if not seen.shapes_fit:
        return
    wrong = {c: ~np.isclose(seen.results[c], seen.wanted[c], **CLOSE) for c in seen.cases}
    if feature := _where(seen, wrong):
        yield feature
    right = [c for c in seen.cases if not np.any(wrong[c])]
    if right and len(right) < len(seen.cases):
        others = [c for c in seen.cases if c not in right]
        yield f"right on {_listed(right)}; wrong on {_listed(others)}: what is special there"


def _listed(cases):
    return " and ".join(repr(case) for case in cases)


KINDS = {
    "is negative": lambda x: x < 0,
    "is positive": lambda x: x > 0,
    "is above 1": lambda x: x > 1,
    "is below 1": lambda x: x < 1,
    "is 0": lambda x: x == 0,
    "is 1": lambda x: x == 1,
}


def _where(seen, wrong):
    """What an argument is at every wrong place, and not at every place."""
    for (i, argument), (what, kind) in itertools.product(enumerate(seen.arguments), KINDS.items()):
        marks = {c: _marks(kind(np.asarray(seen.cases[c][i])), wrong[c]) for c in wrong}
        if any(mark is None for mark in marks.values()):
            continue
        inside = all(not np.any(wrong[c] & ~marks[c]) for c in wrong)
        if inside and any(np.any(wrong[c]) and np.any(~marks[c]) for c in wrong):
            return f"it is wrong only where {argument} {what}"
    return ""


def _marks(marks, places):
    """The marks of an argument, laid over the places of the result; None where they do not fit."""
    if not np.ndim(marks) or not np.ndim(places) or len(marks) != len(places):
        return None
    marks = marks.reshape(marks.shape + (1,) * (np.ndim(places) - marks.ndim))
    try:
        return np.broadcast_to(marks, np.shape(places))
    except ValueError:
        return None

"""Check the exercises: your function against the reference, on inputs drawn from a seed.

    loss = lab.check.sft_loss(my_loss)

A check prints what it found and returns the function to go on with: yours if it is right, the
reference if not, so that the rest of the notebook runs whatever you have written so far. Each is the
check of a puzzle (`lab.puzzles`) under the name of what it asks for.
"""

import contextlib
import copy
import io
import linecache
import traceback
import warnings
from typing import NamedTuple

import numpy as np

from lab import mistakes as general

SOLVED, UNSOLVED, WRONG = "right", "not solved yet", "not right yet"
NAMES = {
    "wilson": "0.2",
    "sft_loss": "1.2",
    "dpo_loss": "2.3",
    "group_advantages": "3.1",
    "clipped_loss": "3.2",
    "k3": "3.5",
    "served_weight": "4.1",
    "kto_loss": "5.1",
}


def __dir__():
    return sorted([*globals(), *NAMES])


def __getattr__(name):
    if name in NAMES:
        from lab.puzzles import puzzle

        return puzzle(NAMES[name]).check
    raise AttributeError(f"module 'lab.check' has no attribute {name!r}")


class Verdict(NamedTuple):
    """The result of a check: SOLVED, UNSOLVED or WRONG; what to say; and if it is wrong, the result."""

    kind: str
    said: str
    case: str | None = None
    got: np.ndarray | None = None


def sentence(name, verdict):
    """Return a verdict as it is printed."""
    going = "" if verdict.kind == SOLVED else "\nGoing on with the reference."
    return f"{name}: {verdict.kind}{'. ' + verdict.said if verdict.said else ''}{going}"


def judge(yours, reference, cases, mistakes=None, *, verify=None, rtol=1e-7, atol=1e-12):
    """Return the Verdict on `yours`, beside what `reference` does. It never raises for what `yours` does.

    cases      {what is special about it: the arguments}
    mistakes   {what to say: a function that makes this mistake}; said when yours gives the same
    verify     for an exercise with many right answers: verify(result, *arguments) says what is
               wrong, or ""; the reference is not asked then
    rtol       two correct float64 formulas for the same number differ by a few 1e-16 of the terms
               they add up; 1e-7 leaves room for cancellation and shows every real mistake
    """

    def run(function, arguments):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*copy.deepcopy(arguments))

    def same(got, wanted, equal_nan=False):
        fits = np.shape(got) == np.shape(wanted)
        return fits and np.allclose(got, wanted, rtol=rtol, atol=atol, equal_nan=equal_nan)

    if not callable(yours):
        return Verdict(
            WRONG, f"It is {type(yours).__name__}: give it the function itself, without calling it"
        )
    results, printed = {}, io.StringIO()
    for case, arguments in cases.items():
        try:
            with contextlib.redirect_stdout(printed):
                got = run(yours, arguments)
            if got is NotImplemented or got is Ellipsis or (got is None and _is_stub(yours)):
                return Verdict(UNSOLVED, "")
            if got is None:
                said = "It returned None: is a return missing?"
                return Verdict(WRONG, said + _printed(printed), case)
            results[case] = _numbers(got)
        except NotImplementedError:
            return Verdict(UNSOLVED, "")
        except (Exception, SystemExit) as error:  # noqa: BLE001  a learner's code may raise anything
            said = f"On {case!r} it raised {type(error).__name__}: {error}{_line_of(error, yours)}"
            return Verdict(WRONG, said + _printed(printed), case)
    if verify:
        return _verified(verify, results, cases, printed)
    wanted = {case: _numbers(run(reference, arguments)) for case, arguments in cases.items()}
    for case, got in results.items():
        if not same(got, wanted[case]):
            hint = _hint(results, wanted, cases, mistakes or {}, run, same, reference)
            said = f"On {case!r}: {_difference(got, wanted[case])}{hint}{_printed(printed)}"
            return Verdict(WRONG, said, case, got)
    return Verdict(SOLVED, f"The same as the reference on {len(cases)} cases: {'; '.join(cases)}")


def _verified(verify, results, cases, printed):
    for case, got in results.items():
        if wrong := verify(got, *cases[case]):
            return Verdict(WRONG, f"Hint: {wrong}.{_printed(printed)}", case, got)
    return Verdict(SOLVED, f"All that is asked for holds on: {'; '.join(cases)}")


def _printed(printed):
    """The first lines that a learner's function wrote, once."""
    lines = list(dict.fromkeys(printed.getvalue().splitlines()))[:3]
    return f"\nIt printed: {' | '.join(lines)}" if lines else ""


def _numbers(got):
    """What came, as an array of floats; a tensor is detached, on whatever device it is."""
    if hasattr(got, "detach"):
        got = got.detach().cpu()
    if isinstance(got, (list, tuple)):
        got = [_numbers(part) for part in got]
    try:
        return np.asarray(got, float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"it returned {type(got).__name__}, not numbers") from error


def _is_stub(function):
    """Whether nothing has been written yet: a body of a few instructions, as `return None` has."""
    return len(getattr(getattr(function, "__code__", None), "co_code", b"")) <= 12


def _line_of(error, function):
    """The line of the learner's own code in which an error came up."""
    code = getattr(function, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    own = [frame for frame in own if frame.lineno and frame.lineno >= code.co_firstlineno]
    if not own:
        return ""
    text = linecache.getline(own[-1].filename, own[-1].lineno).strip()
    place = f", in its line {own[-1].lineno - code.co_firstlineno + 1}"
    return f"{place}: {text}" if text else place


def _hint(results, wanted, cases, mistakes, run, same, reference):
    for say, mistaken in mistakes.items():
        if all(same(results[case], _numbers(run(mistaken, cases[case])), True) for case in cases):
            return f"\nHint: {say}."
    try:
        found = general.name(results, wanted, cases, run, reference)
    except Exception as error:  # noqa: BLE001  a fault of ours is no reason to stop a learner's notebook
        return f"\n(No hint: {type(error).__name__}: {error})"
    return f"\nHint: {found}." if found else ""


def _difference(got, wanted):
    if np.shape(got) != np.shape(wanted):
        return f"the shape is {np.shape(got)}; expected {np.shape(wanted)}."
    off = np.abs(got - wanted)
    where = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
    at = f" at {tuple(int(i) for i in where)}" if off.ndim else ""
    digits = 6
    while digits < 17 and f"{got[where]:.{digits}g}" == f"{wanted[where]:.{digits}g}":
        digits += 1  # until the two can be told apart
    return f"got {got[where]:.{digits}g}{at}; expected {wanted[where]:.{digits}g}."

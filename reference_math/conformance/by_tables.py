"""Make an objective of `check` from the rows of the tables: the reference is the call that equals a library.

    found, said = objective("kto", "liger", my_loss, {"beta": 0.1})

An objective is a topic of `conformance.tables`, by its name or by the short one that its file gives it ("gae" for
"GAE, whitened"), or several topics that share a short name; then a library's row is its default. Batches are drawn from
the seeded one: rows in another order, numbers on another scale. The other libraries' calls are the conventions.

Proof   tests/parity/test_by_tables.py
"""

import ast
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from reference_math.conformance import tables
from reference_math.conformance._types import Arrays, Loss, Options, Variant
from reference_math.conformance.objectives import HELD
from reference_math.conformance.variants import (
    LENGTHS,
    SHARES,
    SIGN,
    STD_EPS,
    WEIGHTS,
    Hyperparameter,
    optioned,
    random_mask,
    undetached,
)

NAMES = {  # a letter of a call, and the argument of my_loss: TRL's words
    "l": "per_token_logps", "o": "old_per_token_logps", "far": "old_per_token_logps",
    "r": "ref_per_token_logps", "q": "sampling_per_token_logps", "m": "completion_mask",
    "A": "advantages", "At": "per_token_loss", "R": "rewards", "Rt": "token_rewards",
    "two": "rewards_per_func", "v": "values", "v_old": "old_values", "ret": "returns",
    "pc": "chosen_logps", "pr": "rejected_logps", "rc": "ref_chosen_logps",
    "rr": "ref_rejected_logps", "mc": "chosen_logps", "mr": "rejected_logps",
    "z": "logits", "zr": "ref_logits", "ids": "tokens",
}  # fmt: skip
MASKED = ("completions", "tokens", "tokens of values", "factor")  # views that compare where m is 1
FIRST = ("At", "l", "z", "v", "pc", "mc")  # what "grad" is taken to: the first of these in a topic
GRIDS = {"label_smoothing": SHARES, "eps": STD_EPS}
GRIDS |= dict.fromkeys(("gamma", "lam"), np.linspace(0.0, 1.0, 41))
GRIDS |= dict.fromkeys(
    ("num_items_in_batch", "tokens_per_micro_batch", "max_completion_length"), LENGTHS
)


def names() -> list[str]:
    """Return the objectives that the tables have: the short names of topics."""
    return list(dict.fromkeys(short for t in tables.tables() for short in t.objectives.values()))


def rows_of(name: str) -> tuple[tables.Table, list[tables.Row]] | None:
    """Return (table, rows that can be compared) of the topics of that name; None if there are none."""
    for table in tables.tables():
        topics = [topic for topic, short in table.objectives.items() if short == name.lower()]
        topics = topics or [topic for topic in table.topics if topic.lower() == name.lower()]
        if topics:
            return table, [row for t in topics for row in table.topics[t] if not row.whole]
    return None


def objective(
    name: str, library: str, my_loss: Callable[..., Any], options: Options
) -> tuple[dict[str, Any], str]:
    """Return (what `check` needs of an objective, the library's call with the options put in).

    name      an objective of the tables
    library   a name that `tables.find` knows
    my_loss   of a preference loss, the names of its arguments choose between answers and their tokens
    options   numbers in place of those of the call
    """
    found = rows_of(name)
    if not found or not found[1]:
        raise ValueError(f"like: the tables have no {name!r}; there are {', '.join(names())}")
    table, rows = found
    row = _row(name, library, rows)
    unknown = set(options) - set(_keywords(row.call))
    if unknown:
        there = ", ".join(_keywords(row.call)) or "none"
        raise ValueError(
            f"like: {row.name} has no option {', '.join(sorted(unknown))} in {name}; there are {there}"
        )
    of = _Topic(table, rows, row, my_loss)
    return {
        "inputs": of.inputs,
        "wrt": of.wrt,
        "reference": of.reference(row),
        "conventions": of.conventions,
        "hyperparameters": lambda asked: _hyperparameters(with_options(row.call, asked)),
        "shaped": of.shaped,
        "libraries": [(_label(other, rows), of.standing_for(other)) for other in rows],
    }, with_options(row.call, options)


def _row(name, library, rows):
    key = tables.find(library)
    mine = [row for row in rows if row.library == key]
    if not mine:
        others = ", ".join(dict.fromkeys(row.name for row in rows))
        raise ValueError(
            f"like: the tables have no {name} of {tables.libraries()[key]['name']}; they have it of {others}"
        )
    return next((row for row in mine if row.default), mine[0])


def _label(row, rows):
    alone = len({other.topic for other in rows}) == 1
    return row.name if alone or row.default else f"{row.name} ({row.topic})"


class _Topic:
    """The rows of an objective, and the arrays that my_loss is given."""

    def __init__(self, table, rows, row, my_loss):
        self.table, self.rows, self.call = table, rows, row.call
        used = {n for other in rows for n in _letters(other.call)} | (
            {"m"} if table.view in MASKED else set()
        )
        self.letters = [letter for letter in tables.letters() if letter in used]
        self.given = table.given.get(row.topic, {})
        self.names = {k: k for k in self.letters} | NAMES | table.named.get(row.topic, {})
        asked = inspect.signature(my_loss).parameters
        pairs = table.view == "pairs" and {"pr", "mr"} & used
        self.by_token = bool(pairs) and "per_token_logps" in asked
        sloped = (
            self.slopes(other) for other in (row, *rows)
        )  # of a row without gradients, that of its value
        self.wrt = tuple(self.names[letter] for letter in next(filter(None, sloped), ()))
        if self.by_token and self.wrt:
            self.wrt = ("per_token_logps",)

    def slopes(self, row):
        """{letter: the call of the gradient to it}"""
        first = next((letter for letter in FIRST if letter in self.letters), "")
        pair = ("pc", "pr") if "pc" in _letters(row.call) else ("mc", "mr")
        ends = {"grad": first, "grad_c": pair[0], "grad_r": pair[1]}
        return {ends[key]: call for key, call in row.grads.items()}

    def inputs(self, rng, options):
        letters = redrawn(rng)
        found = {self.names[k]: letters[k] for k in self.letters}
        found |= {k: np.asarray(tables.evaluate(call, letters)) for k, call in self.given.items()}
        if self.by_token:
            found = _tokens_of_pairs(rng, len(letters["pc"]))
        numbers = _keywords(with_options(self.call, options))
        return {k: np.asarray(x) for k, x in numbers.items()} | found

    def meant(self, arrays):
        """{letter: array} of what my_loss was given."""
        if self.by_token:
            return _pairs_of_tokens(arrays)
        return {letter: arrays[self.names[letter]] for letter in self.letters}

    def reference(self, row: tables.Row) -> Loss:
        slopes = self.slopes(row)

        def computed(arrays: Arrays, options: Options) -> Any:
            letters = self.meant({k: x for k, x in arrays.items() if k != HELD})
            value = np.asarray(tables.evaluate(with_options(row.call, options), letters), float)
            pairs = value.size if self.table.view == "pairs" else 1
            shaped = self.shaped(value, arrays)
            if not slopes:
                return shaped, None
            grads = {
                letter: np.asarray(tables.evaluate(with_options(call, options), letters)) / pairs
                for letter, call in slopes.items()
            }
            if self.table.view in MASKED:
                grads = {
                    k: np.broadcast_to(g, letters["m"].shape) * letters["m"]
                    for k, g in grads.items()
                }
            if self.by_token:
                return shaped, _per_token(arrays, grads)
            return shaped, np.concatenate([g.ravel() for g in grads.values()])

        return computed

    def shaped(self, value, arrays):
        """A value of mine or of the call, numpy or torch, in the shape in which they are compared."""
        view, mask = self.table.view, arrays.get("completion_mask")
        if view == "pairs" and value.ndim:
            return value.mean()
        if view == "completions":
            return value.reshape(len(mask), -1) * mask
        return value * mask if view in MASKED and value.ndim else value

    def standing_for(self, row: tables.Row) -> Variant:
        """The variant "this library's call, with its own numbers"."""
        own = self.reference(row)
        return lambda f: lambda arrays, options: own(arrays, {})

    def conventions(self, options: Options) -> dict[str, Variant]:
        """{name: variant}: each other call of the objective, who has it, and the usual mistakes."""
        arrays = self.inputs(np.random.default_rng(0), {})
        same: dict[str, list[tables.Row]] = {}
        for row in self.rows:  # one call may be spelt with two gradients, and two spellings be one
            _, grad = self.reference(row)(arrays, {})
            same.setdefault(f"{row.call} {grad if grad is None else grad.round(9)}", []).append(row)
        found = {
            f"as in {', '.join(dict.fromkeys(r.name for r in rows))}: {rows[0].call}": self.standing_for(
                rows[0]
            )
            for rows in same.values()
        }
        if "ddof" in _keywords(self.call):
            found |= {f"ddof: {n}": optioned(ddof=n) for n in (0, 1)}
        found |= SIGN
        if self.wrt:
            found["detach: everything, no gradient reaches the policy"] = self.detached
            found["detach: missing, the gradient flows through what is held constant"] = undetached
        return found

    def detached(self, f: Loss) -> Loss:
        """The value of f with a gradient of zero."""

        def held(arrays, options):
            return f(arrays, options)[0], np.zeros(sum(arrays[name].size for name in self.wrt))

        return held


# Arrays -----------------------------------------------------------------------------------------


def redrawn(rng: np.random.Generator) -> Arrays:
    """Return {letter: array}: the batch's rows in another order, its numbers times another factor.

    Log-probabilities stay below 0, masks and tokens keep their numbers, and arrays of one length keep their rows
    together.
    """
    scale, found = rng.uniform(0.5, 1.5), {}
    orders: dict[int, Any] = {}
    for letter, x in tables.letters().items():
        order = orders.setdefault(len(x), rng.permutation(len(x)))
        plain = x.dtype.kind != "f" or np.isin(x, (0.0, 1.0)).all()
        found[letter] = x[order] if plain else scale * x[order]
    return found


PAIR_ARRAYS = ("per_token_logps", "ref_per_token_logps", "completion_mask")


def _tokens_of_pairs(rng, pairs):
    """Chosen answers, then rejected ones, token by token: (2P, T)."""
    mask = random_mask(rng, 2 * pairs, 7)
    logps = -rng.exponential(size=mask.shape)
    return dict(zip(PAIR_ARRAYS, (logps, logps + 0.7 * rng.normal(size=mask.shape), mask)))


def _pairs_of_tokens(arrays):
    """{letter: (P,)}: sums over the answers' tokens, and means of the policy's."""
    logps, ref, mask = (arrays[name] for name in PAIR_ARRAYS)
    sums, n = (logps * mask).sum(axis=1), mask.sum(axis=1)
    ends = *np.split(sums, 2), *np.split((ref * mask).sum(axis=1), 2), *np.split(sums / n, 2)
    return dict(zip(("pc", "pr", "rc", "rr", "mc", "mr"), ends))


def _per_token(arrays, grads):
    """The gradient to each token's log-prob, of those to the answers' sums or means."""
    mask = arrays["completion_mask"]
    per_answer = np.concatenate([*grads.values()])
    if "mc" in grads:
        per_answer = per_answer / mask.sum(axis=1)
    return (per_answer[:, None] * mask).ravel()


# Calls ------------------------------------------------------------------------------------------


@functools.cache
def _letters(call):
    return frozenset(node.id for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Name))


@functools.cache
def _keywords(call):
    """{option: number} of the calls inside: those that one number can stand for."""
    found = {}
    for node in ast.walk(ast.parse(call)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                value = keyword.value
                if isinstance(value, ast.Constant) and type(value.value) in (int, float):
                    found[keyword.arg] = value.value
    return found


def with_options(call: str, options: Options) -> str:
    """Return the call with other numbers for the options that it has.

    >>> with_options("orpo.pair_loss(mc, mr, beta=0.1).mean()", {"beta": 0.5, "delta": 3.0})
    'orpo.pair_loss(mc, mr, beta=0.5).mean()'
    """
    return _with(call, tuple(sorted(options.items()))) if options else call


@functools.lru_cache(maxsize=4096)
def _with(call, options):
    known, tree = dict(options), ast.parse(call, mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in known and isinstance(keyword.value, ast.Constant):
                    number = known[keyword.arg]
                    keyword.value = ast.Constant(
                        float(number) if isinstance(number, float) else number
                    )
    return ast.unparse(tree)


def _hyperparameters(call):
    """{option: Hyperparameter} of each number that is not a count."""
    return {
        name: Hyperparameter(asked, functools.partial(_instead, name), GRIDS.get(name, WEIGHTS))
        for name, asked in _keywords(call).items()
        if isinstance(asked, float) or name in GRIDS
    }


def _instead(name, x):
    """The variant "this number in place of the one asked for"; not a number where the function refuses it."""

    def variant(f):
        def refused(arrays, options):
            try:
                return f(arrays, options | {name: x})
            except ValueError:
                return float("nan"), None

        return refused

    return variant

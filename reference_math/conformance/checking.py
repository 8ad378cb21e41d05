"""Compare a loss function of yours with the reference, and name the convention that makes it differ."""

import inspect
from collections.abc import Callable
from functools import partial, reduce
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from reference_math import _checks
from reference_math.conformance.objectives import HELD, OBJECTIVES
from reference_math.conformance.variants import optioned

LIKE = (
    "grpo",
    "advantages",
)  # they have rows in the table of conventions; the others, in tables/*.toml
BATCHES = 4  # random batches; all have to agree, so that no convention fits by chance


class Verdict(NamedTuple):
    """The result of `check`.  Print it."""

    agrees: bool
    value_error: float  # the largest difference over the largest number, of the worst batch
    gradient_error: float  # the same; nan where the objective has no gradient
    explained_by: (
        tuple  # the conventions, or a number, that together turn the reference into yours; or ()
    )
    constant: float  # the constant, where yours is the reference times one; else nan
    follows: tuple = ()  # libraries whose defaults, or calls, give the same on every batch
    reference: str = ""  # of an objective of the tables: the call that it was compared with

    def __str__(self):
        how = "as in" if self.reference else "as by default in"
        follows = f"; {how} {', '.join(self.follows)}" if self.follows else ""
        return (
            self._said()
            + follows
            + (f". The reference: {self.reference}" if self.reference else "")
        )

    def _said(self):
        errors = f"relative error: value {self.value_error:.1e}, gradient {self.gradient_error:.1e}"
        if self.agrees:
            return f"agrees with the reference ({errors})"
        if self.explained_by:
            return f"differs ({errors}), by convention: {'; and '.join(self.explained_by)}"
        if np.isfinite(self.constant):
            return f"differs ({errors}): it is the reference times {self.constant:.6g}"
        return f"differs ({errors}); no known convention, nor two, explain it"


def check(
    my_loss: Callable[..., Any],
    objective: str,
    *,
    like: str | None = None,
    framework: str = "torch",
    rtol: float = 1e-6,
    seed: int = 0,
    **options: Any,
) -> Verdict:
    """Compare my_loss with the reference on random batches, in value and in gradient.

    my_loss     called with arrays by name, those that it has parameters for:
                    sft          per_token_logps, completion_mask
                    dpo          per_token_logps, ref_per_token_logps, completion_mask  (2B, T)
                    kl           per_token_logps, ref_per_token_logps
                    grpo         per_token_logps, old_per_token_logps, completion_mask; advantages,
                                 or the rewards (8,) to make them of: 2 groups of 4, prompt-major
                                 and, with beta > 0, ref_per_token_logps
                    rloo         per_token_logps, old_logps, advantages, completion_mask
                    advantages   rewards  (12,): 3 groups of 4, prompt-major
                returns a scalar; for kl (B, T) and for advantages (12,)
    objective   one of those names; or an objective of the tables (`by_tables.names()`: "kto", "orpo",
                "ipo", "gae", "value_loss" ...), or a topic of theirs by its whole name
    like        compare with this library ("verl", "ms-swift"). grpo, advantages: with its defaults, a
                name of `conformance.libraries`; `options` go before them. Every other objective: with its
                row of the tables, whose arrays my_loss is given: `by_tables.NAMES`, and by their names the
                numbers of the call (beta, num_items_in_batch). A preference loss is given chosen_logps,
                rejected_logps, ref_chosen_logps and ref_rejected_logps (6,), or, if it takes
                per_token_logps, all answers token by token, (12, 7), the chosen first. What the tables
                compare on the tokens that count is compared there: advantages, KL, weights, GAE.
    framework   "torch": float64 tensors, the gradient by autograd, so that a missing detach shows;
                "numpy": arrays, the gradient by central differences of the value
    rtol        what still counts as the same
    options     dpo: of `dpo_trainer.loss`; grpo: of `grpo_trainer.loss` (loss_type, beta ...),
                and those of the advantages; sft: loss_type, reduction ("batch_token");
                kl: estimator ("k3"); rloo: epsilon_low, epsilon_high;
                advantages: scale, ddof, eps ("group", 1, 1e-4); of the tables: numbers of the call
    returns     a Verdict.  It names one convention, or two, or a number that differs from the one
                asked for (beta: 0.5, not 0.1), alone or with one convention.
                For grpo and advantages `follows` names the libraries whose defaults give the same as
                yours. On one batch a global token mean equals the batch's token mean; a KL in the
                reward is not part of the loss. For an objective of the tables it names those whose
                calls do, and the conventions are the calls of the others; without `like` the reference
                is TRL's.

    >>> def mine(per_token_logps, ref_per_token_logps):
    ...     log_r = per_token_logps - ref_per_token_logps
    ...     return np.exp(log_r) - 1 - log_r
    >>> check(mine, "kl", framework="numpy").explained_by
    ('KL direction: policy minus reference, not reference minus policy',)
    """
    _checks.one_of("framework", framework, ("torch", "numpy"))
    known, options, call = _objective(objective, like, my_loss, options)
    rng, wrt = np.random.default_rng(seed), known["wrt"] or ()
    wrt = (wrt,) if isinstance(wrt, str) else wrt
    batches = [known["inputs"](rng, options) for _ in range(BATCHES)]
    shaped = known.get("shaped", lambda value, arrays: value)
    mine = [_yours(my_loss, arrays, wrt, framework, shaped) for arrays in batches]

    def theirs(variants, some=slice(None)):
        f = reduce(lambda f, variant: variant(f), variants, known["reference"])
        return [_theirs(f, arrays, options, wrt, framework) for arrays in batches[some]]

    def explain(variants):
        one = slice(1)  # nearly all fall by the value of the first batch; a gradient costs more
        if _worst_value(mine[one], theirs(variants, one)) > rtol:
            return False
        return _same(mine, theirs(variants), rtol)

    def follows():
        """The libraries whose defaults, or calls, in place of what was asked for, are mine."""
        said = known.get("libraries", ())
        if objective in LIKE:
            defaults = _comparable(objective, my_loss, batches[0])
            said = [(name, optioned(**options)) for name, options in defaults]
        return tuple(dict.fromkeys(name for name, variant in said if explain([variant])))

    right = theirs(())
    errors = _worst_value(mine, right), _worst_gradient(mine, right)
    if _same(mine, right, rtol):
        return Verdict(True, *errors, (), 1.0, follows(), call)
    conventions = known["conventions"](options)
    numbers = known["hyperparameters"](options)

    def fit(names, coarse=1, batches=2):
        """(a number in place of the one asked for, *names) if together they explain; else ()."""
        others = [conventions[name] for name in names]
        for name, number in numbers.items():
            values = partial(_value, theirs, number, others)
            for x in _roots(values, mine[:batches], number.grid[::coarse]):
                if explain([number.variant(x), *others]):
                    return (f"{name}: {x:.4g}, not {number.asked}{number.note}", *names)
        return ()

    def explanations():
        singles, pairs = ([*combinations(conventions, n)] for n in (1, 2))
        yield from (names for names in singles if explain([conventions[name] for name in names]))
        yield fit(())
        yield from (names for names in pairs if explain([conventions[name] for name in names]))
        if not np.isfinite(constant):
            yield from (fit(names, coarse=6, batches=1) for names in singles)

    constant = _constant(mine, right, rtol)
    names = next(filter(None, explanations()), ())
    return Verdict(False, *errors, names, float("nan") if names else constant, follows(), call)


def _objective(name, like, my_loss, options):
    """(what is known of the objective, the options, the call of the tables that is the reference or "")"""
    from reference_math.conformance import by_tables  # not above: it reads the golden vectors

    if name in OBJECTIVES and (like is None or name in LIKE):
        asked = options if like is None else _like(like, name, my_loss, options)
        return OBJECTIVES[name], asked, ""
    if name not in OBJECTIVES and by_tables.rows_of(name) is None:
        _checks.one_of("objective", name, (*OBJECTIVES, *by_tables.names()))
    known, call = by_tables.objective(name, like or "TRL", my_loss, options)
    return known, options, call


def _like(name, objective, my_loss, asked):
    """The options of a library's defaults, with those asked for in their place."""
    from reference_math.conformance import libraries  # not above: it is a command of its own

    row = libraries.find(name)
    defaults = libraries.options(row, objective)
    found = defaults | asked
    if not defaults or ("rewards" in _names(my_loss) and "scale" not in found):
        other = '; its loss alone is objective "policy_loss"' if objective == "grpo" else ""
        said = f"like: the table does not say all that {row['name']} does in {objective}"
        raise ValueError(said + other)
    if objective == "grpo" and found.get("beta") is None:
        raise ValueError(
            f"like: `check` does not compute the KL of {row['name']}; leave it out of my_loss and "
            "give beta=0.0"
        )
    return found


def _comparable(objective, my_loss, arrays):
    """(name, options) of each library whose defaults this loss, given these arrays, can follow."""
    from reference_math.conformance import libraries

    for row in libraries.rows():
        defaults = libraries.options(row, objective)
        if objective == "grpo" and "rewards" not in _names(my_loss):  # advantages are given
            defaults = {k: v for k, v in defaults.items() if k not in ("scale", "ddof", "eps")}
        elif "scale" not in defaults:
            continue
        beta = defaults.get("beta", 0.0)
        if defaults and (beta == 0 or (beta and "ref_per_token_logps" in arrays)):
            yield row["name"], defaults


def _names(my_loss):
    return inspect.signature(my_loss).parameters


def _value(theirs, number, others, batch, x):
    """The reference's value of one batch, x in place of the number asked for."""
    ((value, _),) = theirs([number.variant(x), *others], slice(batch, batch + 1))
    return _one_number(value)


def _roots(values, mine, grid):
    """Yields each x for which values(batch, x) is my value in one of the batches.

    A loss need not be monotone in x (beta in DPO's sigmoid).  Two roots between two points of the
    grid leave no change of sign there, but hardly ever in two batches at once.
    """
    for batch, (value, _) in enumerate(mine):
        target = _one_number(value)
        gap = partial(_gap, values, batch, target)
        gaps = np.array([gap(x) for x in grid])
        for i in np.flatnonzero(np.sign(gaps[:-1]) * np.sign(gaps[1:]) <= 0):
            if gaps[i] or gaps[i + 1]:  # both 0: a stretch on which x changes nothing
                yield _bisect(gap, grid[i], grid[i + 1], gaps[i], gaps[i + 1])


def _gap(values, batch, target, x):
    return values(batch, x) - target


def _one_number(value):
    return float(value) if np.ndim(value) == 0 else float(np.sum(np.square(value)))


def _bisect(gap, low, high, at_low, at_high):
    """A zero of gap in [low, high], where it has opposite signs: regula falsi (Illinois)."""
    for _ in range(60):
        if at_low == at_high or not np.isfinite(at_low - at_high):
            break
        x = high - at_high * (high - low) / (at_high - at_low)
        at_x = gap(x)
        if at_x * at_high < 0:
            low, at_low = high, at_high
        else:
            at_low /= 2
        high, at_high = x, at_x
        if at_x == 0 or abs(high - low) <= 1e-14 * abs(high):
            break
    return high


def _yours(my_loss, arrays, wrt, framework, shaped):
    """(value, its gradient to wrt, one array after the other, or None)"""
    names = _asked_for(my_loss, arrays)

    def loss(given):
        return my_loss(**{name: given[name] for name in names})

    def plain(given):
        return shaped(np.asarray(loss(given), dtype=float), given)

    if framework == "numpy":
        return plain(arrays), _slope(plain, arrays, wrt) if wrt else None
    import torch

    tensors = {name: torch.tensor(x, requires_grad=name in wrt) for name, x in arrays.items()}
    value = shaped(loss(tensors), tensors)
    if not wrt:
        return value.detach().numpy(), None
    grads = [None] * len(wrt)  # all of it was detached
    if value.requires_grad:
        ends = [tensors[name] for name in wrt]
        grads = torch.autograd.grad(value.sum(), ends, allow_unused=True)
    grads = [
        np.zeros(arrays[n].size) if g is None else g.numpy().ravel() for n, g in zip(wrt, grads)
    ]
    return value.detach().numpy(), np.concatenate(grads)


def _asked_for(my_loss, arrays):
    parameters = inspect.signature(my_loss).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(arrays)
    names = [p.name for p in parameters if p.name in arrays or p.default is p.empty]
    if not set(names) <= set(arrays):
        raise ValueError(
            f"my_loss must take its arrays by these names: {', '.join(arrays)}; "
            f"got a function of {', '.join(names)}"
        )
    return names


def _theirs(f, arrays, options, wrt, framework):
    """(value, function that computes the gradient): most variants fall by their value alone."""
    value, grad = f(arrays, options)
    if wrt and framework == "numpy":  # differences see no detach: like with like
        return value, lambda: _slope(lambda a: f(a, options)[0], arrays, wrt)
    if wrt and grad is None:
        held = {HELD: {name: arrays[name] for name in wrt}}
        return value, lambda: _slope(lambda a: f(a | held, options)[0], arrays, wrt)
    return value, lambda: None if grad is None else np.ravel(grad)


def _slope(value, arrays, wrt, h=1e-6):
    """Gradient of the summed value by central differences, good to 1e-9 or so; one array after the other."""
    grads = []
    for name in wrt:
        x = arrays[name]
        grad = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i] = h
            grad[i] = np.sum(value(arrays | {name: x + step}) - value(arrays | {name: x - step}))
        grads.append(grad.ravel() / (2 * h))
    return np.concatenate(grads)


def _same(mine, right, rtol):
    return _worst_value(mine, right) <= rtol and not _worst_gradient(mine, right) > rtol


def _worst_value(mine, right):
    return max(_relative(m, r) for (m, _), (r, _) in zip(mine, right))


def _worst_gradient(mine, right):
    if mine[0][1] is None:
        return float("nan")
    return max(_relative(m, r()) for (_, m), (_, r) in zip(mine, right))


def _relative(x, y):
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or not np.isfinite(x).all():
        return float("inf")
    return float(np.abs(x - y).max() / (np.abs(y).max() or 1.0))


def _constant(mine, right, rtol):
    """c where mine = c x reference in every batch, value and gradient; else nan."""
    m, r = mine[0][0], right[0][0]
    if np.shape(m) != np.shape(r) or not np.any(r):
        return float("nan")
    c = float(np.ravel(m)[np.abs(r).argmax()] / np.ravel(r)[np.abs(r).argmax()])
    scaled = [(v * c, lambda g=g: None if g() is None else g() * c) for v, g in right]
    return c if c and _same(mine, scaled, rtol) else float("nan")

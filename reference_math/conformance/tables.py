"""Read the tables of what each library computes, and compare the libraries of a topic on one seeded batch.

tables/*.toml holds one file per table. A topic ("clipped ratio", "a group of one") has a row per library that
has it; a row says where (file and release), which call of `reference_math` equals it, and what proves that:

    case     a golden case of `conformance.rosetta`: arrays that the release computed. The call is the case's, in
             which `with` puts the library's defaults, or the batch's letters, in place of the case's own
    report   TRL: a row of the report of the installed release (`python -m reference_math.conformance`)
    neither  a repository at a commit, compared once (libraries.toml says how far it was) and not made again
             here; or, with `read`, its source read and not run. `measured` is the row's own error on this
             batch, of the same function as it stands at the commit `again`; without it, the library's worst
             stands for the row

A table's `view` takes the part of a call that its topics are about: of a whole loss the reduction, the sampler's
weights or the KL of each token. A row with `whole` keeps its call and is compared with no other.

Proof   tests/parity/test_tables.py
"""

import ast
import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reference_math._types import NDArray
from reference_math.conformance import rosetta
from reference_math.conformance._types import Arrays

FOLDER = Path(__file__).with_name("tables")
ORDER = (
    "advantages",
    "policy_losses",
    "aggregation",
    "kl",
    "sampler",
    "preferences",
    "sft",
    "values",
)
ABBREVIATED = {name: repr(options) for name, options in rosetta.OPTIONS.items()}


class Row(NamedTuple):
    """One library's way of doing one thing.

    library, name   its key in libraries.toml, and as it writes itself
    place           file @ release, or repository: file @ commit
    call, grads     what reproduces it on the batch: `evaluate(call)`; {array's name: the call}
    case, report    what proves the call, or ""
    error           the worst difference from the library's own arrays; None where the report measures it
    proof           the same in words
    default         True if it is what the library does unless it is told otherwise
    whole           True if it is compared with no other
    departs         what a reader would expect in place of the call, and `note` why it is not that
    """

    table: str
    topic: str
    library: str
    name: str
    place: str
    call: str
    grads: dict
    case: str
    report: str
    error: float | None
    proof: str
    default: bool
    whole: bool
    departs: str
    note: str


class Table(NamedTuple):
    """topics: {name: rows}, in the order of the file.

    objectives   {topic: the short name that `check` has for it}
    given        {topic: {an argument of my_loss: the expression of it}}, of what stands in the calls as a literal
    named        {topic: {letter: the argument}}, where `by_tables.NAMES` would say something else
    """

    key: str
    title: str
    said: str
    view: str
    topics: dict
    objectives: dict
    given: dict
    named: dict


@functools.cache
def libraries() -> dict[str, dict[str, Any]]:
    """Return {key: what libraries.toml says of it, with its `release` or commit as `version`}."""
    found = tomllib.loads((FOLDER / "libraries.toml").read_text())
    for said in found.values():
        if "cases" in said:
            said["release"] = rosetta.release(said["cases"])
        said["version"] = said["release"].replace("==", " ") if "release" in said else (
            f"{said['repository']} {said['commit']}")  # fmt: skip
    return found


@functools.cache
def tables() -> tuple[Table, ...]:
    """Return every table."""
    found = []
    for key in ORDER:
        content = tomllib.loads((FOLDER / f"{key}.toml").read_text())
        topics = {
            topic["name"]: [_row(key, content["view"], topic["name"], row) for row in topic["row"]]
            for topic in content["topic"]
        }
        of_check = (
            {topic["name"]: topic[kind] for topic in content["topic"] if kind in topic}
            for kind in ("objective", "given", "named")
        )
        title, said, view = (content[name] for name in ("title", "said", "view"))
        found.append(Table(key, title, said, view, topics, *of_check))
    return tuple(found)


def rows(library: str) -> list[Row]:
    """Return a library's rows, table by table."""
    return [
        row
        for table in tables()
        for of_topic in table.topics.values()
        for row in of_topic
        if row.library == library
    ]


def find(name: str) -> str:
    """Return the key of a library, by its key or its name in any case.

    >>> find("ms-swift"), find("TRL"), find("NeMo-RL")
    ('swift', 'trl', 'nemo_rl')
    """
    for key, said in libraries().items():
        if name.lower() in (key, said["name"].lower(), said.get("release", "").split("==")[0]):
            return key
    names = ", ".join(said["name"] for said in libraries().values())
    raise ValueError(f"no library {name!r}; there are {names}")


# Calls ------------------------------------------------------------------------------------------


def _row(table, view, topic, said):
    library = libraries()[said["library"]]
    case = _case(library, said)
    if case:
        call = _spelt(case.call, case.shared)
        grads = {k: _spelt(c, case.shared) for k, c in case.grads.items()}
        departs = _spelt(case.departs, case.shared) if case.departs else ""
        for old, new in said.get("with", ()):
            if old not in call:
                raise ValueError(f"{library['name']}, {case.name}: no {old!r} in {call}")
            call, grads = call.replace(old, new), {k: c.replace(old, new) for k, c in grads.items()}
            departs = departs.replace(old, new)
    else:
        call, departs = said["call"], ""
        grads = {k: said[k] for k in ("grad", "grad_c", "grad_r") if k in said}
        if (
            not grads
            and view == "whole"
            and rosetta.gradient(call).count("_grad(")
            and not said.get("read")
        ):
            grads = {"grad": rosetta.gradient(call)}
    whole = said.get("whole", False)
    if not whole:
        call, grads = VIEWS[view](call, grads)
        grads |= {k: said[k] for k in ("grad",) if k in said}
    where = said["file"]
    if " " not in where:
        where += (
            f" @ {library['release'].split('==')[1] if 'release' in library else library['commit']}"
        )
    place = f"{library.get('repository', library['name'])}: {where}"
    error, proof = _proof(library, case, said)
    note = said.get("note") or (case.note if case else "")
    return Row(table, topic, said["library"], library["name"], place, call, grads, said.get("case", ""),
               said.get("report", ""), error, proof, said.get("default", False), whole, departs, note)  # fmt: skip


@functools.cache
def _cases(name):
    arrays = rosetta.golden(name)
    return {case.name: (case, max(case.errors(arrays).values())) for case in rosetta.rows(name)}


def _case(library, said):
    return _cases(library["cases"])[said["case"]][0] if "case" in said else None


def _proof(library, case, said):
    if case:
        worst = _cases(library["cases"])[case.name][1]
        return worst, f"golden case {case.name!r} of {library['release']}: {worst:.0e}"
    if "report" in said:
        return None, f"the conformance report, {said['report']}"
    if said.get("read"):
        return None, "read in the source, not run"
    note = "compared at that commit, not made again here: "
    if "measured" in said:
        return said["measured"], (
            f"{note}{said['measured']:.0e} on this batch, by its function as it stands at {said['again']}")  # fmt: skip
    return library["measured"], (
        f"{note}at most {library['measured']:.1e} over {library['arrays']} arrays, no figure of its own")  # fmt: skip


def _spelt(call, shared):
    """A call without a library's own abbreviations: each is put in place of its name."""
    return _spell(call, tuple((ABBREVIATED | shared).items()))


@functools.cache
def _spell(call, known):
    known = dict(known)

    class Put(ast.NodeTransformer):
        def visit_Name(self, node):
            return self.visit(_parse(known[node.id])) if node.id in known else node

        def visit_Call(self, node):
            self.generic_visit(node)
            given = [ast.unparse(k.value) for k in node.keywords if k.arg is None]
            spelt = [k for k in node.keywords if k.arg]
            for text in given:
                tree = _parse(text)
                spelt += [ast.keyword(k.value, v) for k, v in zip(tree.keys, tree.values)]
            # in the order of the call: options first, as they are written there
            starred = {id(k): i for i, k in enumerate(node.keywords)}
            node.keywords = sorted(spelt, key=lambda k: starred.get(id(k), -1)) if given else spelt
            return node

    return ast.unparse(Put().visit(_parse(call)))


def _parse(text):
    return ast.parse(text, mode="eval").body


def _reducing(tree):
    """The calls inside that have a reduction."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call)
            and "reduction" in {k.arg for k in n.keywords}]  # fmt: skip


def _whole(call, grads):
    return call, grads


def _reduction(call, grads):
    """Of a loss, what it does with the loss of each token: the mask and the normaliser."""
    tree = _parse(call)
    (node,) = _reducing(tree)
    mask = node.args[1] if ast.unparse(node.func) == "reductions.reduce" else node.args[3]
    kept = [
        k
        for k in node.keywords
        if k.arg in ("reduction", "tokens_per_micro_batch", "max_completion_length")
    ]
    node.func, node.args, node.keywords = _parse("reductions.reduce"), [_parse("At"), mask], kept
    value = ast.unparse(tree)
    return value, {"grad": value.replace("reductions.reduce(At, ", "reductions.token_weights(")}


def _tokens(call, grads):
    """Of a loss with a KL, the KL of each token."""
    found = _reducing(_parse(call))
    options = {k.arg: ast.unparse(k.value) for node in found for k in node.keywords}
    if "beta" in options:
        if options["use_bias_correction_kl"] == "True":
            return "kl_term.per_token_kl(l, r, l - o)", {
                "grad": "sum(kl_term.per_token_kl_grad(l, r, l - o))"
            }
        return "kl.k3(l, r)", {"grad": "kl.k3_grad(l, r)"}
    return call.removesuffix(".sum()").removesuffix(" * m"), grads


def _factor(call, grads):
    """Of a loss, the weights that multiply it."""
    tree = _parse(call)
    given = [
        k.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        for k in n.keywords
        if k.arg == "factor"
    ]
    return (ast.unparse(given[0]) if given else call), {}


VIEWS = {"whole": _whole, "completions": _whole, "pairs": _whole, "tokens of values": _whole,
         "reduction": _reduction, "tokens": _tokens, "factor": _factor}  # fmt: skip


# Numbers ----------------------------------------------------------------------------------------


@functools.cache
def batch() -> Arrays:
    """Return the seeded batch: every letter that a call may have."""
    found: Arrays = {}
    for library in rosetta.libraries():
        found |= {k: x for k, x in rosetta.golden(library).items() if k.startswith("batch/")}
    return found


def letters() -> Arrays:
    """Return {letter of a call: its array of the seeded batch}."""
    return {name.removeprefix("batch/"): x for name, x in batch().items()}


def evaluate(call: str, letters: dict[str, Any] | None = None) -> Any:
    """Compute a call of the tables on the seeded batch, or with other arrays for some letters.

    >>> evaluate("advantages.dr_grpo(R, G)").round(2)[:4]
    array([-2.28, -0.32,  2.12,  0.47])
    """
    given = {f"batch/{k}": np.asarray(x) for k, x in (letters or {}).items()}
    return rosetta.evaluate(call, batch() | given, {})


def arrays_of(table: Table, row: Row) -> Arrays:
    """Compute {"value": array, "gradient": array}, in a shape that the rows of a topic share."""
    found = {"value": np.asarray(evaluate(row.call), dtype=float)}
    grads = [np.asarray(evaluate(call), dtype=float) for call in row.grads.values()]
    m, shape = batch()["batch/m"], found["value"].shape
    if table.view == "pairs":
        if grads:
            n = found["value"].size  # a loss per pair has its pair's gradient, a mean a share of it
            found["gradient"] = np.stack(grads) / n
        found["value"] = found["value"].mean()
        return found
    if grads:
        found["gradient"] = (
            grads[0] if len(grads) == 1 else np.concatenate([g.ravel() for g in grads])
        )
    if table.view == "completions":
        found = {"value": _per_row(found["value"], m)}
    elif table.view in ("tokens", "factor", "tokens of values") and shape != ():
        found = {k: np.broadcast_to(x, m.shape) * m for k, x in found.items()}
    return found


def _per_row(x, m):
    return (x.reshape(-1, 1) if x.size == len(m) else x) * m


def difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the largest difference, as a share of the largest entry of both; inf for other shapes.

    >>> difference(np.array([1.0, 2.0]), np.array([1.0, 4.0])), difference(np.zeros(2), np.zeros(2))
    (0.5, 0.0)
    """
    if one.shape != other.shape:
        return float("inf")
    if not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    kept = np.isfinite(one)
    one, other = one[kept], other[kept]
    scale = max(np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    return float(np.abs(one - other).max(initial=0.0) / (scale if scale > 0 else 1.0))


def compared(of_topic: list[Row], table: Table) -> Iterator[tuple[Row, Row, dict[str, float]]]:
    """Yield (row, row, {"value": difference, "gradient": difference}) of each pair that can be compared."""
    usable = [(row, arrays_of(table, row)) for row in of_topic if not row.whole]
    for i, (one, mine) in enumerate(usable):
        for other, theirs in usable[i + 1 :]:
            shared = [key for key in mine if key in theirs]
            yield one, other, {key: difference(mine[key], theirs[key]) for key in shared}

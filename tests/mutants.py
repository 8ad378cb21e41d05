"""How many planted errors do the laws and the doctests of reference_math catch?

    python tests/mutants.py                 every module
    python tests/mutants.py kl nf4          these modules only
    python tests/mutants.py --parity        then show the survivors to the parity tests, too
    python tests/mutants.py --fresh         forget what earlier runs found

One operator, sign, constant, axis, mask or reduction is changed at a time, and the module's
doctests and laws run against it; whoever survives then meets those of every module that builds on
it. Parity tests take no part, since an error in both the numpy and the torch twin passes them.

A survivor has to be listed with the reason why it computes the same, in tests/mutants.toml.
The exit status is 1 where one is not listed, where a listed one is gone or dies (a list that
nobody checks goes stale), or where under 99% die.

Each mutant is a fork of one process that has numpy, pytest and hypothesis loaded; it imports the
changed module from memory. No source is written, and a crash or an endless loop is its own. The
files are read throughout: leave them alone while it runs.

What a trial found is kept under a digest of all that it reads (the changed source, its tests, the
modules they import, the versions): a run that was stopped goes on where it stood, and an edit costs
only the trials that read the edited file.
"""

import argparse
import ast
import builtins
import contextlib
import copy
import functools
import gc
import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import io
import json
import os
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MATHS = ROOT / "reference_math"
# Nothing is computed there. The rows of `conventions` are readings of papers and of other libraries:
# no law can confirm one; parity holds TRL's to the installed release (tests/laws/test_conventions.py).
NO_MATHS = {"__init__", "_index", "_renamed", "_types", "catalogue", "conventions", "rosetta"}
CONTRACT = ROOT / "tests" / "laws" / "test_contract.py"  # of every loss of the catalogue
LISTED = ROOT / "tests" / "mutants.toml"
RESULT = ROOT / "build" / "mutants.json"
KNOWN = ROOT / "build" / "mutants_known.jsonl"  # one trial a line, added as it ends
GOAL = 0.99
UNUSED = ["cacheprovider", "warnings", "unraisableexception", "threadexception", "faulthandler"]

SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
TURNED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
REDUCTIONS = {
    "sum": "mean", "mean": "sum", "max": "min", "min": "max", "maximum": "minimum",
    "minimum": "maximum", "any": "all", "all": "any", "argmax": "argmin", "argmin": "argmax",
    "amax": "amin", "amin": "amax", "prod": "sum", "cumsum": "cumprod", "nansum": "nanmean",
    "nanmean": "nansum", "median": "mean", "std": "var", "var": "std",
}  # fmt: skip
FUNCTIONS = {
    "exp": "expm1", "expm1": "exp", "log": "log1p", "log1p": "log", "cos": "sin", "sin": "cos",
    "floor": "ceil", "ceil": "floor", "logaddexp": "maximum", "sigmoid": "log_sigmoid",
    "log_sigmoid": "sigmoid", "zeros_like": "ones_like", "ones_like": "zeros_like",
    "zeros": "ones", "ones": "zeros", "greater": "less", "tanh": "sinh", "sqrt": "square",
}  # fmt: skip
DROPPED = {"abs", "sqrt", "square", "sign", "clip", "maximum", "minimum", "cumsum", "sort",
           "exp", "log", "expm1", "log1p", "tanh", "sigmoid", "log_sigmoid", "nan_to_num"}  # fmt: skip


# ------------------------------------------------------------------------ planting an error
def plants(node):
    """Each way to change one node of the syntax tree: the nodes that would stand in its place."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
        yield changed(node, op=SWAPS[type(node.op)]())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for factor, other in [(node.left, node.right), (node.right, node.left)]:
            if "mask" in ast.unparse(factor):
                yield other  # the mask forgotten
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for swap in (SWAPS, TURNED):
                if type(op) in swap:
                    yield changed(node, ops=[*node.ops[:i], swap[type(op)](), *node.ops[i + 1 :]])
    elif isinstance(node, ast.IfExp):
        yield changed(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Constant):
        yield from (changed(node, value=value) for value in other_values(node.value))
    elif isinstance(node, ast.Call):
        yield from other_calls(node)


def other_values(value):
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
    elif isinstance(value, float):
        yield value * 2 if value else 1.0
        yield -value if value else -1.0


def other_calls(node):
    """Another reduction or function, an argument swapped, a call or an axis left out."""
    name = called(node)
    for table in (REDUCTIONS, FUNCTIONS):
        there = isinstance(node.func, ast.Attribute) or hasattr(builtins, table.get(name, ""))
        if name in table and there:  # a name that is not defined would be no error of the maths
            yield changed(node, func=renamed(node.func, table[name]))
    if name in DROPPED and node.args:
        yield node.args[0]
    if name == "where" and len(node.args) == 3:
        mask, yes, no = node.args
        yield changed(node, args=[mask, no, yes])
        yield yes
    if name in {"sum", "mean", "max", "min", "any", "all"} and isinstance(node.func, ast.Attribute):
        axes = [k for k in node.keywords if k.arg == "axis"]
        if axes:
            yield changed(node, keywords=[k for k in node.keywords if k not in axes])
    where = [k for k in node.keywords if k.arg == "where"]
    if where:
        yield changed(node, keywords=[k for k in node.keywords if k not in where])


def called(node):
    """The last name of what a call calls: sum of np.sum(x) and of x.sum()."""
    func = getattr(node, "func", None)
    return getattr(func, "attr", getattr(func, "id", None))


def changed(node, **fields):
    node = copy.copy(node)
    for field, value in fields.items():
        setattr(node, field, value)
    return node


def renamed(func, name):
    return changed(func, **{"attr" if isinstance(func, ast.Attribute) else "id": name})


def mutants(module):
    """{name of the error: the module's source with it}.

    A name has no line numbers, so that it outlives edits elsewhere in the file:
    module.function: the line -> what it became.
    """
    tree = ast.parse((MATHS / f"{module}.py").read_text())
    original, found = ast.unparse(tree), {}
    lines = original.splitlines()

    def visit(parent, function):
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns"):
                continue  # a type computes nothing
            for i, node in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(node, ast.AST) or isinstance(node, ast.Raise | ast.JoinedStr):
                    continue  # the text of an error message is no maths
                for new in plants(node):
                    put(parent, field, i, new)
                    note(ast.unparse(tree), function)
                    put(parent, field, i, node)
                if isinstance(node, ast.UnaryOp) and called(parent) == "reshape":
                    continue  # any negative length means the same to numpy
                is_def = isinstance(node, ast.FunctionDef)
                visit(node, f"{function}.{node.name}" if is_def else function)

    def put(parent, field, i, node):
        if isinstance(getattr(parent, field), list):
            getattr(parent, field)[i] = node
        else:
            setattr(parent, field, node)

    def note(text, function):
        if text == original or text in found.values():
            return
        pairs = zip(lines, text.splitlines(), strict=False)
        name = f"{function}: {' -> '.join(around(*next(pair for pair in pairs if len(set(pair)) > 1)))}"
        while name in found:  # the same line twice in one function
            name += " (again)"
        found[name] = text

    visit(tree, module)
    return found


def around(was, now, most=200):
    """Both lines without their indent; of a long one, as a whole table is, what differs and 60 more."""
    was, now = was.strip(), now.strip()
    if max(len(was), len(now)) <= most:
        return was, now
    start = max(0, len(os.path.commonprefix([was, now])) - 60)
    end = len(os.path.commonprefix([was[::-1], now[::-1]])) - 60
    return [f"...{x[start : len(x) - max(0, end)]}..." for x in (was, now)]


class Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from the changed source."""

    def __init__(self, module, source):
        self.name, self.source = f"reference_math.{module}", source

    def find_spec(self, name, path, target=None):
        path = MATHS / f"{self.name.rpartition('.')[2]}.py"
        at = importlib.util.spec_from_file_location
        return at(name, path, loader=self) if name == self.name else None

    def exec_module(self, module):
        exec(compile(self.source, module.__file__, "exec"), module.__dict__)  # noqa: S102


# ------------------------------------------------------------------------ one mutant's trial
def start(module, source, tests, examples, seconds):
    """The fork's pid. Its exit status is 0 where all the tests pass."""
    import resource  # not on Windows, where this file is imported but cannot run

    pid = os.fork()
    if pid:
        return pid
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        # processor time: on a busy machine a slow mutant is no endless one
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        sys.meta_path.insert(0, Planted(module, source))
        os._exit(any_fails(module, tests, examples))
    finally:
        os._exit(1)  # it cannot even be imported


def any_fails(module, tests, examples):
    import pytest

    gc.disable()  # the fork lives for a second
    importlib.import_module(f"reference_math.{module}")  # pytest takes it for the doctests' module
    options = ["-x", "-q", "--tb=no", "-s", "--doctest-modules"]
    options += [f"-pno:{plugin}" for plugin in UNUSED]
    modules = {path.stem for path in tests if path.parent == MATHS}
    return int(pytest.main([*options, *map(str, tests)], plugins=[Fast(examples, modules)]))


class Fast:
    """Hypothesis without its search for the simplest failure, the same examples each time; of the
    contract tests those of the objectives that stand in the modules under trial."""

    def __init__(self, examples, modules):
        self.examples, self.modules = examples, modules

    def pytest_collection_modifyitems(self, items):
        def kept(item):
            objective = getattr(item, "callspec", None) and item.callspec.params.get("objective")
            names = (objective.formula, objective.loss) if objective else ()
            homes = {name.partition(".")[0] for name in names}
            return item.path != CONTRACT or homes & self.modules

        items[:] = filter(kept, items)

    def pytest_configure(self):
        from hypothesis import Phase, settings

        few = {"max_examples": self.examples, "phases": (Phase.explicit, Phase.generate)}
        settings.register_profile("mutants", deadline=None, derandomize=True, database=None, **few)
        settings.load_profile("mutants")


def run_all(trials, jobs, title):
    """{name: "killed", "timeout" or "survived"} of {name: arguments of `start`}."""
    digests, known = {name: digest(*trial) for name, trial in trials.items()}, read_known()
    ended = {name: known[digests[name]] for name in trials if digests[name] in known}
    waiting, running = [item for item in trials.items() if item[0] not in ended], {}
    while waiting or running:
        while waiting and len(running) < jobs:
            name, arguments = waiting.pop(0)
            running[start(*arguments)] = name
        pid, status, _ = os.wait3(0)
        out_of_time = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (9, 24)  # KILL, XCPU
        name = running.pop(pid)
        ended[name] = "timeout" if out_of_time else "survived" if status == 0 else "killed"
        write_known(digests[name], ended[name])
        progress(title, len(ended), len(trials), sum(v == "survived" for v in ended.values()))
    return ended


def digest(module, source, tests, examples, seconds):
    """A name of the trial that changes with anything that could change its end."""
    parts = [module, source, str(examples), str(seconds), versions()]
    parts += [text(path) for path in reads(tests)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def reads(tests):
    """The tests, what pytest loads beside them, and each file of ours that they import."""
    found = [ROOT / "tests" / "conftest.py", *tests]
    found += [c for folder in {p.parent for p in tests} for c in folder.glob("conftest.py")]
    for path in found:  # grows while it is read
        found += [f for name in imports(path) for f in files_of(name) if f not in found]
    return [ROOT / "pyproject.toml", *sorted(set(found))]


def files_of(name):
    """The file of one module of reference_math, or all those of a package in it."""
    path = MATHS / f"{name}.py"
    return [path] if path.exists() else sorted((MATHS / name).glob("*.py"))


@functools.cache
def text(path):
    return path.read_text()


@functools.cache
def versions():
    ours = {"numpy", "pytest", "hypothesis", "torch", "trl", "transformers", "peft", "bitsandbytes"}
    found = {d.name: d.version for d in importlib.metadata.distributions() if d.name in ours}
    return " ".join([sys.version, *(f"{name} {found[name]}" for name in sorted(found))])


def read_known():
    return dict(map(json.loads, KNOWN.read_text().splitlines())) if KNOWN.exists() else {}


def write_known(digest, end):
    KNOWN.parent.mkdir(parents=True, exist_ok=True)
    with KNOWN.open("a") as file:
        file.write(json.dumps([digest, end]) + "\n")


def progress(title, done, total, alive):
    bar = "#" * (30 * done // total)
    line = f"{title:24s} [{bar:30s}] {done:5d}/{total}  alive {alive}"
    if sys.stderr.isatty():
        print(f"\r{line}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done % 200 == 0 or done == total:
        print(line, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------ all of them
def tests_of(kind, module):
    """tests/laws/test_kl.py and test_kl_<more>.py for kl; the contract where kl has a loss."""
    folder = ROOT / "tests" / kind
    contract = f'"{module}.' in text(MATHS / "catalogue.py") and kind == "laws"
    own = [*folder.glob(f"test_{module}.py"), *sorted(folder.glob(f"test_{module}_*.py"))]
    return own + [CONTRACT] * contract


@functools.cache
def imports(path):
    """The modules of reference_math that one file names in an import, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.ImportFrom) and node.module == "reference_math":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("reference_math."):
            found.add(node.module.split(".")[1])
    return found


def builds_on(module, every):
    """The module, then those that import it, directly or through others."""
    found = [module]
    for low in found:  # grows while it is read
        found += [m for m in every if m not in found and low in imports(MATHS / f"{m}.py")]
    return found


def warm_up():
    """Load once, here, what each fork needs, pytest's own plugins included."""
    import hypothesis.extra.numpy  # noqa: F401
    import numpy.testing  # noqa: F401
    import pytest

    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main(["-q", "--collect-only", "-pno:cacheprovider", __file__])
    if wrong := [name for name in sys.modules if name.startswith("reference_math")]:
        raise AssertionError(f"a fork could not import another {wrong[0]}")
    gc.freeze()  # no fork copies these pages to count references


def parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", help="of reference_math; all where none is named")
    parser.add_argument("--parity", action="store_true", help="which survivors does parity catch?")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--result", type=Path, default=RESULT, help="a JSON file")
    return parser


def main():
    arguments, began = parser().parse_args(), time.monotonic()
    if not hasattr(os, "fork"):
        sys.exit("This needs fork, which Windows does not have: run it in WSL or on Linux.")
    if arguments.fresh:
        KNOWN.unlink(missing_ok=True)
    old = {p.stem for p in MATHS.glob("*.py") if p.read_text().startswith('"""Old name of')}
    every = sorted({path.stem for path in MATHS.glob("*.py")} - NO_MATHS - old)
    chosen = arguments.modules or every
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    # the children do without other packages' pytest plugins, and compute on one thread each
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    warm_up()
    laws = {m: tests_of("laws", m) for m in every}
    above = {m: builds_on(m, every) for m in every}

    def attempts(alive, title, tests, examples, seconds):
        trials = {n: (m, text, tests(m), examples, seconds) for n, (m, text) in alive.items()}
        return run_all(trials, arguments.jobs, title)

    def own(module):
        return [MATHS / f"{module}.py", *laws[module]]

    def all_above(module):
        return list(dict.fromkeys(test for m in above[module] for test in own(m)))

    needed = sorted({m for module in chosen for m in above[module]})
    sound = {f"{m} unchanged": (m, (MATHS / f"{m}.py").read_text()) for m in needed}
    ended = attempts(sound, "no error planted", own, 100, 600)
    if wrong := [name for name, end in ended.items() if end != "survived"]:
        sys.exit(f"These fail with no error planted; mend them first: {', '.join(wrong)}")

    planted = {name: (m, source) for m in chosen for name, source in mutants(m).items()}
    ended = attempts(planted, "own laws", own, 10, 60)
    alive = {name: planted[name] for name, end in ended.items() if end == "survived"}
    ended |= attempts(alive, "laws of all above", all_above, 100, 600)
    caught = {}
    if arguments.parity:
        left = {n: planted[n] for n in alive if ended[n] == "survived"}
        left = {n: trial for n, trial in left.items() if tests_of("parity", trial[0])}
        caught = attempts(left, "parity", lambda m: tests_of("parity", m), 20, 600)
    sys.exit(report(planted, ended, caught, chosen, arguments.result, time.monotonic() - began))


def report(planted, ended, caught, chosen, result, seconds):
    """The table, the survivors and the JSON file; the exit status."""
    listed = tomllib.loads(LISTED.read_text()) if LISTED.exists() else {}
    listed = {name: why for m in chosen for name, why in listed.get(m, {}).items()}
    survivors = [name for name, end in ended.items() if end == "survived"]
    unlisted = [name for name in survivors if name not in listed]
    stale = [name for name in listed if name not in survivors]

    print(f"{'module':20s} {'planted':>8s} {'killed':>8s} {'timeout':>8s} {'survived':>9s}   rate")
    for module in [*chosen, "all"]:
        ends = [ended[name] for name, (m, _) in planted.items() if module in (m, "all")]
        dead = len(ends) - ends.count("survived")
        counts = [len(ends), ends.count("killed"), ends.count("timeout"), ends.count("survived")]
        rate = dead / len(ends) if ends else 1.0
        print("{:20s} {:8d} {:8d} {:8d} {:9d}  {:.1%}".format(module, *counts, rate))
    for name in unlisted:
        print(f"survives, not in {LISTED.name}: {name}   [parity: {caught.get(name, 'not run')}]")
    for name in stale:
        print(f"in {LISTED.name}, but {'dies' if name in ended else 'is gone'}: {name}")
    print(f"{seconds / 60:.1f} minutes; {len(survivors) - len(unlisted)} survivors are equivalent")

    result.parent.mkdir(parents=True, exist_ok=True)
    summary = {
        "planted": len(planted), "survived": len(survivors), "rate": rate, "seconds": seconds,
        "unlisted": unlisted, "stale": stale, "outcome": ended, "parity": caught,
    }  # fmt: skip
    result.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if unlisted or stale or rate < GOAL else 0


if __name__ == "__main__":
    main()

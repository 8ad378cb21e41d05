"""Find the kit's code that makes a stage: every module that `lab.train` reaches by an import.

A module that is added to that code counts from the moment it is imported; no list has to name it.
Only `ASIDE` is left out by name.

Proof     tests/lab/test_sources.py
"""

import ast
import functools
import hashlib
from pathlib import Path

import reference_math
import rewards

PACKAGES = {
    "lab": Path(__file__).parent,
    "reference_math": Path(reference_math.__file__).parent,
    "rewards": Path(rewards.__file__).parent,
}
# They draw, install, estimate minutes or copy a ready stage: the same stage comes out whatever they do.
# The catalogue is the index of `reference_math`.
ASIDE = {"lab.bars", "lab.bench", "lab.install", "lab.pace", "lab.plots", "lab.ready", "lab.show"}
ASIDE |= {"reference_math.catalogue"}


def reached(start="lab.train"):
    """Return the modules of the kit that one imports, directly or not, itself included: {name: file}."""
    files, waiting = {}, [start]
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file and name not in files and name not in ASIDE:
            files[name] = file
            waiting += [name.rpartition(".")[0], *_imported(file.read_text())]
    return dict(sorted(files.items()))


def digest(files):
    """Hash what runs in the modules: no comment, docstring or blank line changes it.

    files    {name: file}, as `reached` gives them
    """
    found = hashlib.sha256()
    for name, file in files.items():
        found.update(f"{name}\n{what_runs(file.read_text())}".encode())
    return found.hexdigest()[:16]


@functools.cache
def of_a_stage():
    """Return the hash of the code that makes a stage, as it stands when this process first asks."""
    return digest(reached())


def what_runs(source):
    """Return the code as Python reads it, without comments, docstrings and line numbers."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            first.value.value = ""
    return ast.dump(tree)


def _file(name):
    """The file of a module of the kit, or None: another package's, or a name inside a module."""
    package, *inner = name.split(".")
    if package not in PACKAGES or not all(inner):
        return None
    folder = PACKAGES[package].joinpath(*inner)
    candidates = (folder.with_suffix(".py") if inner else None, folder / "__init__.py")
    return next((file for file in candidates if file and file.is_file()), None)


def _imported(source):
    """The names that a source imports, inside functions too, and those it keeps in a string for later."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # importlib.import_module("lab.engine.colocated"); other strings name no file

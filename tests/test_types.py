"""The edges of the packages are annotated: `make lint` runs mypy on them, this file asks for all of them."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["reference_math", "rewards"]


def public(tree):
    """Functions without a leading underscore, and the methods of such classes, __init__ and __call__ too."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node, node.args.posonlyargs + node.args.args
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (
                    not method.name.startswith("_") or method.name in ("__init__", "__call__")
                ):
                    yield method, (method.args.posonlyargs + method.args.args)[1:]


def without_types(source):
    """{public function: the arguments without a type, and "return"}."""
    found = {}
    for function, positional in public(ast.parse(source)):
        a = function.args
        all_of_them = [x for x in (*positional, a.vararg, *a.kwonlyargs, a.kwarg) if x]
        names = [x.arg for x in all_of_them if x.annotation is None]
        names += ["return"] * (function.returns is None)
        if names:
            found[function.name] = names
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_function_is_annotated(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 20
    found = {str(path.relative_to(ROOT)): without_types(path.read_text()) for path in files}
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_an_argument_or_a_result_without_a_type_is_found():
    source = "def f(x: int, *y, z=1) -> int: ...\ndef g(): ...\ndef _h(x): ...\nclass C:\n def m(self, a): ..."
    assert without_types(source) == {"f": ["y", "z"], "g": ["return"], "m": ["a", "return"]}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_package_says_that_it_is_typed(package):
    assert (Path(importlib.import_module(package).__file__).parent / "py.typed").is_file()

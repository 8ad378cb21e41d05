"""Whichever module of the kit comes first, torch finds the environment that the kit sets for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lab
import pytest

# In torch's place: it says what it finds, and ends the process before anything heavy loads.
TORCH = 'import os, sys\nprint(*(f"{n}={os.environ.get(n)}" for n in sys.argv[1:]))\nos._exit(0)\n'
FOUND = {**lab.QUIET, **lab.WAIT}


@pytest.mark.parametrize("module", ["train", "vllm", "model", "recipes", "bench", "three_ways"])
@pytest.mark.parametrize("stands", [{}, {"VLLM_LOGGING_LEVEL": "DEBUG"}], ids=["empty", "set"])
def test_torch_finds_the_environment_set_and_what_was_set_stands(tmp_path, module, stands):
    for name in ("torch", "numpy"):  # whichever a module imports first; numpy's threads read it too
        (tmp_path / f"{name}.py").write_text(TORCH)
    environment = {name: value for name, value in os.environ.items() if name not in FOUND}
    environment |= {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"} | stands
    run = [sys.executable, "-c", f"from lab import {module}", *FOUND]
    said = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    assert dict(pair.split("=") for pair in said.split()) == FOUND | stands


def test_who_sets_how_openmp_waits_sets_all_of_it(monkeypatch):
    for name in lab.WAIT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    lab.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and "GOMP_SPINCOUNT" not in os.environ


def test_an_output_without_a_descriptor_gets_one(monkeypatch):
    class Output:  # what a kernel under pytest has
        def fileno(self):
            raise OSError

    monkeypatch.setattr(sys, "stdout", Output())
    lab.prepare()
    assert sys.stdout.fileno() == 1


def test_tab_lists_every_module_of_lab_and_an_attribute_loads_it():
    """In a fresh interpreter, as a first cell does: `lab.<TAB>`, then `lab.tap` without an import of it."""
    script = (
        "import json, sys, lab\n"
        "listed, before = dir(lab), 'lab.tap' in sys.modules\n"
        "assert lab.tap.__name__ == 'lab.tap' and lab.data.__name__ == 'lab.data'\n"
        "assert callable(lab.puzzle) and callable(lab.predict) and callable(lab.progress)\n"
        "print(json.dumps([listed, before, hasattr(lab, 'no_such_module')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    listed, before, unknown = json.loads(done.stdout.splitlines()[-1])
    folder = Path(lab.__file__).parent
    modules = {path.stem for path in folder.glob("[a-z]*.py")}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert set(listed) == modules | packages | {"puzzle", "predict", "progress", "term"}
    assert not before and not unknown

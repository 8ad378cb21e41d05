"""Old names work for one more release: they warn and give what the new names give."""

import importlib
import sys

import numpy as np
import pytest

from reference_math import _renamed, cpo_trainer, dpo_trainer, orpo, tpo

LOGPS, ONES = -np.ones((6, 2)) * [[1.0], [2.0], [3.0], [4.0], [5.0], [6.0]], np.ones((6, 2))


@pytest.mark.parametrize(
    "module, tokens",
    [
        (dpo_trainer, (LOGPS, LOGPS / 2, ONES)),
        (cpo_trainer, (LOGPS, ONES)),
        (orpo, (LOGPS, ONES)),
        (tpo, (LOGPS, ONES)),
    ],
)
def test_loss_and_grad_warns_and_returns_both(module, tokens):
    name = module.__name__
    with pytest.warns(DeprecationWarning, match=f"use {name}.loss and {name}.loss_grad"):
        value, grad = module.loss_and_grad(*tokens, beta=0.5)
    assert value == module.loss(*tokens, beta=0.5) and type(value) is float
    np.testing.assert_array_equal(grad, module.loss_grad(*tokens, beta=0.5))
    assert grad.any()


@pytest.mark.parametrize("old, new", _renamed.MODULES.items())
def test_a_module_is_found_under_its_old_name_with_a_warning(old, new):
    sys.modules.pop(f"reference_math.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"use reference_math.{new}"):
        module = importlib.import_module(f"reference_math.{old}")
    assert module is importlib.import_module(f"reference_math.{new}")


def test_a_renamed_function_warns_and_answers():
    def now(x):
        return 2 * x

    with pytest.warns(DeprecationWarning, match=r"\.before is an old name .* use .*\.now"):
        assert _renamed.function("before", now)(3) == 6

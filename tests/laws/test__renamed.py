"""Old names work for one more release: they warn and give what the new names give."""

import importlib
import inspect
import sys

import numpy as np
import pytest

from reference_math import (
    _renamed,
    cpo_trainer,
    dpo_trainer,
    gae,
    gkd,
    online_dpo,
    orpo,
    ratios,
    rloo,
    sampling_order,
    tpo,
)

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


@pytest.mark.parametrize(
    "module, old, new, arguments",
    [
        (gae, "whiten", "masked_whiten", {"ddof": 0, "eps": 1.0}),
        (gkd, "shares", "kl_weights", {"beta": 0.25}),
        (gkd, "mixed", "log_mixture", {"log_q": LOGPS, "log_p": LOGPS / 2, "beta": 0.5}),
        (online_dpo, "penalized_rewards", "eos_penalized_rewards", {"missing_eos_penalty": 1.0}),
        (ratios, "column", "as_column", {"advantages": [1.0, -1.0], "rows": 2}),
        (ratios, "log_weights", "log_importance_weights", {}),
        (ratios, "log_weights_grad", "log_importance_weights_grad", {}),
        (rloo, "penalized_rewards", "kl_penalized_rewards", {"beta": 0.5}),
        (sampling_order, "process", "process_logits", {"order": "vllm", "top_k": 1}),
    ],
)
def test_a_function_answers_to_its_old_name_with_a_warning(module, old, new, arguments):
    named = {
        "x": LOGPS,
        "mask": ONES,
        "rewards": np.arange(6.0),
        "ended": [0, 1] * 3,
        "per_token_logps": LOGPS,
        "old_per_token_logps": LOGPS / 2,
        "ref_per_token_logps": LOGPS / 2,
        "grad_log_weights": LOGPS,
        "completion_mask": ONES,
        "importance_sampling_level": "sequence",
        "logits": LOGPS,
        "input_ids": np.zeros((6, 1), int),
    }
    now = getattr(module, new)
    taken = {k: v for k, v in named.items() if k in inspect.signature(now).parameters} | arguments
    with pytest.warns(DeprecationWarning, match=rf"\.{old} is an old name .* use .*\.{new}$"):
        got = getattr(module, old)(**taken)
    np.testing.assert_array_equal(got, now(**taken))


def test_a_renamed_function_warns_and_answers():
    def now(x):
        return 2 * x

    with pytest.warns(DeprecationWarning, match=r"\.before is an old name .* use .*\.now"):
        assert _renamed.function("before", now)(3) == 6

"""reference_math's GRPO family against the torch twins, wherever these run."""

import importlib
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import kl_term, ratios

MASK = np.array([[1.0, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, -0.5, 1.0])  # exact in every dtype
FAMILY = {
    "grpo": {"epsilon_low": 0.2, "epsilon_high": 0.3},
    "delta": {"epsilon_low": 0.2, "epsilon_high": 0.3, "delta": 1.5},
    "cispo": {"epsilon_max": 1.2},
    "two-sided cispo": {"epsilon_max": 1.2, "epsilon_min": 0.9},
    "sapo": {"temperature_pos": 1.0, "temperature_neg": 1.05},
    "vespo": {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0},
}
REDUCTIONS = {
    "grpo": {},
    "bnpo": {},
    "dr_grpo": {"max_completion_length": 12},
    "dapo": {"tokens_per_micro_batch": 7.0},
    "luspo": {},
    "prompt_mean": {"num_generations": 2},
}
TERMS = {
    "plain": {},
    "factor of each token": {"factor": np.random.default_rng(1).random(MASK.shape)},
    "factor of each row": {"factor": np.array([[0.5], [2.0], [0.0], [1.0]])},
    "KL": {"beta": 0.3, "use_bias_correction_kl": False},
    "corrected KL": {"beta": 0.3, "use_bias_correction_kl": True},
}


def modules(name):
    name = {"delta": "grpo", "two-sided cispo": "cispo"}.get(name, name)
    return (
        importlib.import_module(f"{package}.{name}")
        for package in ("reference_math", "reference_math.torch")
    )


def some_tokens(place, seed=29, spread=0.4):
    """What the twin gets, and the same, rounded to its dtype, for the reference."""
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    old = logps + spread * rng.normal(size=MASK.shape)
    ref = logps + 0.5 * rng.normal(size=MASK.shape)
    tensors = [place.tensor(np.where(MASK == 1, x, np.nan)) for x in (logps, old, ref)]
    return tensors, [place.numpy(x) for x in tensors]


def compare(place, name, reduction="grpo", level="token", terms="plain", seed=29, spread=0.4):
    ours, twin = modules(name)
    (x, old, ref), rounded = some_tokens(place, seed, spread)
    x.requires_grad_(True)
    options = FAMILY[name] | {"importance_sampling_level": level, "reduction": reduction}
    options |= REDUCTIONS[reduction] | TERMS[terms]
    theirs = dict(options)
    if "factor" in options:
        theirs["factor"] = place.tensor(options["factor"])
        options["factor"] = place.numpy(theirs["factor"])
    if "beta" in options:
        options["ref_per_token_logps"], theirs["ref_per_token_logps"] = rounded[2], ref
    tensors = (place.tensor(y) for y in (ADVANTAGES, MASK))
    got = twin.loss(x, old, *tensors, **theirs)
    got.backward()
    tokens = *rounded[:2], ADVANTAGES, MASK
    eps = min(place.eps, torch.finfo(torch.float32).eps)  # computed in float32 at least
    # terms of order 1 to 10 are added up, and their roundings too
    np.testing.assert_allclose(
        place.numpy(got), ours.loss(*tokens, **options), rtol=0, atol=60 * eps
    )
    grad = ours.loss_grad(*tokens, **options)
    rtol = 60 * eps if place.eps <= eps else place.eps  # bfloat16: one rounding, at the end
    np.testing.assert_allclose(place.numpy(x.grad), grad, rtol=rtol, atol=60 * eps)


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("level", ratios.LEVELS)
@pytest.mark.parametrize("name", FAMILY)
def test_the_twin_agrees_wherever_it_runs(place, name, level, terms):
    compare(place, name, level=level, terms=terms)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", FAMILY)
def test_the_twin_reduces_alike(place, name, reduction):
    compare(place, name, reduction, terms="corrected KL")


@pytest.mark.parametrize("name", FAMILY)
def test_the_twin_agrees_on_any_batch(place, name):
    for seed in range(10):
        compare(place, name, terms="corrected KL", seed=seed, spread=1.0)


@pytest.mark.parametrize("name", FAMILY)
def test_no_twin_overflows_in_any_dtype(place, name):
    _, twin = modules(name)
    logps, mask = place.tensor(-np.ones(MASK.shape), requires_grad=True), place.tensor(MASK)
    kl = {"beta": 0.1, "use_bias_correction_kl": True, "ref_per_token_logps": logps.detach() + 1e3}
    options = FAMILY[name] | {"importance_sampling_level": "token", "reduction": "grpo"}
    for gap, sign, terms in product([-1e4, -700.0, 700.0, 1e4], [-1.0, 0.0, 1.0], [{}, kl]):
        a = place.tensor(sign * np.ones(4))
        value = twin.loss(logps, logps.detach() - gap, a, mask, **options, **terms)
        (grad,) = torch.autograd.grad(value, logps)
        assert torch.isfinite(value) and torch.isfinite(grad).all(), (gap, sign)


def test_the_twins_kl_term_and_both_its_paths():
    twin = importlib.import_module("reference_math.torch.kl_term")
    drifts = [-1e3, -1.0, 1e-7, 0.999, 1.0, 1.001, 50.0, 700.0, 1e3]
    d, s = np.meshgrid(drifts, [-1e3, -1.0, 0.0, 1.0, 690.0, 701.0])
    logps = np.full(d.shape, -2.0)
    x, y = (torch.tensor(v, requires_grad=True) for v in (logps, s))
    got = twin.per_token_kl(x, torch.tensor(logps + d), y)
    got.sum().backward()
    # rtol: e^x turns a rounding of an exponent of 700 into 700 roundings
    expected = kl_term.per_token_kl(logps, logps + d, s)
    np.testing.assert_allclose(got.detach(), expected, rtol=1e-12)
    direct, through_ratio = kl_term.per_token_kl_grad(logps, logps + d, s)
    np.testing.assert_allclose(x.grad, direct, rtol=1e-12)
    np.testing.assert_allclose(y.grad, through_ratio, rtol=1e-12)


@pytest.mark.parametrize("level", ratios.LEVELS)
@pytest.mark.parametrize("name", FAMILY)
def test_where_nothing_counts_the_twin_is_0_too(place, name, level):
    _, twin = modules(name)
    x = place.tensor(-np.ones(MASK.shape), requires_grad=True)
    options = FAMILY[name] | {"importance_sampling_level": level, "reduction": "grpo"}
    tensors = place.tensor(ADVANTAGES), place.tensor(0 * MASK)
    value = twin.loss(x, x.detach(), *tensors, **options)
    value.backward()
    assert value == 0.0 and not x.grad.any()


@pytest.mark.parametrize(
    "module, change, message",
    [
        ("grpo", {"old_per_token_logps": torch.zeros(4, 4)}, "old_per_token_logps must have shape"),
        ("grpo", {"advantages": torch.zeros(3)}, r"advantages must have shape \(4,\)"),
        ("grpo", {"completion_mask": torch.ones(5)}, "completion_mask must have 2 axes"),
        ("grpo", {"importance_sampling_level": "row"}, "importance_sampling_level must be one of"),
        ("grpo", {"reduction": "dapo"}, "needs tokens_per_micro_batch"),
        ("grpo", {"epsilon_low": -1.0}, "epsilon_low must be >= 0"),
        ("grpo", {"beta": 0.1}, "beta > 0 needs ref_per_token_logps"),
        ("sapo", {"temperature_neg": 0.0}, "temperature_neg must be > 0"),
        ("cispo", {"epsilon_max": 0.0}, "epsilon_max must be > 0"),
        ("cispo", {"epsilon_min": 1.3}, "epsilon_min must be <= 1.2"),
    ],
)
def test_the_twins_name_what_is_wrong(module, change, message):
    tokens = dict.fromkeys(["per_token_logps", "old_per_token_logps"], torch.zeros(4, 5))
    tokens |= {"advantages": torch.ones(4), "completion_mask": torch.ones(4, 5)}
    options = {"importance_sampling_level": "token", "reduction": "grpo"} | FAMILY[module]
    _, twin = modules(module)
    with pytest.raises(ValueError, match=message):
        twin.loss(**tokens | options | change)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tokens_are_counted_exactly_whatever_the_masks_dtype(dtype):
    """bfloat16 has no 1001, and float16 ends at 65,504."""
    tokens = 1001 if dtype == torch.bfloat16 else 70_001
    twin = importlib.import_module("reference_math.torch.ratios")
    sft_twin = importlib.import_module("reference_math.torch.sft")
    mask = torch.ones(1, tokens, dtype=dtype)
    logps = torch.full((1, tokens), -0.5, dtype=torch.float64)
    per_row = twin.log_importance_weights(logps, torch.zeros_like(logps), mask, "sequence")
    np.testing.assert_allclose(per_row, -0.5, rtol=1e-12)
    for reduction in ("batch_token", "sequence"):
        np.testing.assert_allclose(sft_twin.nll(logps, mask, reduction=reduction), 0.5, rtol=1e-12)

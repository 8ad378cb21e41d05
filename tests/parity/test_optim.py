"""reference_math.optim against torch's AdamW and clip, and transformers' schedules, at float64."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import optim

SCHEDULES = pytest.mark.parametrize(
    "ours, theirs",
    [
        (optim.linear_schedule, "get_linear_schedule_with_warmup"),
        (optim.cosine_schedule, "get_cosine_schedule_with_warmup"),
    ],
    ids=["linear", "cosine"],
)


@pytest.mark.parametrize("form", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 0.3])
def test_thirty_steps_of_torchs_adamw(form, weight_decay):
    rng = np.random.default_rng(0)
    param = rng.standard_normal((4, 5))
    theirs = torch.tensor(param, requires_grad=True)
    usual = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay}
    optimizer = torch.optim.AdamW([theirs], **usual, **form)
    m, v = np.zeros((4, 5)), np.zeros((4, 5))
    for step in range(1, 31):
        grad = rng.standard_normal((4, 5)) * 10.0 ** rng.integers(-4, 4)
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        param, m, v = optim.adamw_step(param, grad, m, v, step=step, **usual)
        np.testing.assert_allclose(theirs.detach(), param, rtol=1e-12, atol=1e-14)
    state = optimizer.state[theirs]
    # m is a sum of terms of either sign and far apart: an absolute error of the largest, 1e4
    np.testing.assert_allclose(state["exp_avg"], m, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state["exp_avg_sq"], v, rtol=1e-12)


def test_the_defaults_that_the_docstring_names_are_theirs():
    defaults = torch.optim.AdamW([torch.zeros(1)]).defaults
    assert (defaults["betas"], defaults["eps"], defaults["weight_decay"]) == (
        (0.9, 0.999),
        1e-8,
        0.01,
    )
    arguments = pytest.importorskip("transformers").TrainingArguments(report_to=[])
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.9, 0.999)
    assert (arguments.adam_epsilon, arguments.weight_decay) == (1e-8, 0.0)


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1e3])
def test_torch_clips_by_the_same_factor(max_norm):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape) for shape in [(3, 4), (5,), ()]]
    params = [torch.zeros(g.shape, dtype=torch.float64) for g in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.tensor(grad)
    norm = torch.nn.utils.clip_grad_norm_(params, max_norm)
    clipped, our_norm = optim.clip_grad_norm(grads, max_norm)
    np.testing.assert_allclose(norm, our_norm, rtol=1e-14)
    for param, grad in zip(params, clipped, strict=True):
        np.testing.assert_allclose(param.grad, grad, rtol=1e-14)


@pytest.mark.library_defect
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_gradient_spoils_all_in_torch_and_ours_refuses(bad):
    params = [torch.zeros(2, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
    params[0].grad = torch.tensor([1.0, 2.0], dtype=torch.float64)
    params[1].grad = torch.tensor([bad], dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    good = params[0].grad
    assert good.isnan().all() if np.isnan(bad) else (good == 0).all()
    with pytest.raises(ValueError, match=r"grads\[1\] must be finite"):
        optim.clip_grad_norm([[1.0, 2.0], [bad]], 1.0)


@pytest.mark.library_defect
def test_torch_loses_a_gradient_whose_square_overflows_and_ours_keeps_its_direction():
    param = torch.zeros(2, dtype=torch.float64)
    param.grad = torch.tensor([3e200, 4e200], dtype=torch.float64)
    norm = torch.nn.utils.clip_grad_norm_([param], 1.0)
    assert norm.isinf() and (param.grad == 0).all()
    (clipped,), _ = optim.clip_grad_norm([[3e200, 4e200]], 1.0)
    np.testing.assert_allclose(clipped, [0.6, 0.8], rtol=1e-14)


def factors(name, steps, **sizes):
    """The factors that transformers' schedule sets, step by step."""
    schedules = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = getattr(schedules, name)(optimizer, **sizes)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimiser itself never stepped
        for _ in range(steps):
            rates.append(schedule.get_last_lr()[0])
            schedule.step()
    return rates


@SCHEDULES
@pytest.mark.parametrize("warmup, total", [(0, 10), (3, 10), (10, 10), (1, 1), (4, 100)])
def test_transformers_sets_the_same_rates(ours, theirs, warmup, total):
    sizes = {"num_warmup_steps": warmup, "num_training_steps": total}
    rates = [ours(step, **sizes) for step in range(total + 1)]
    # near the end the cosine is a difference of ones
    np.testing.assert_allclose(rates, factors(theirs, total + 1, **sizes), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("num_cycles", [0.25, 1.0, 2.5])
def test_transformers_sets_the_same_rates_over_other_waves(num_cycles):
    sizes = {"num_warmup_steps": 2, "num_training_steps": 12, "num_cycles": num_cycles}
    rates = [optim.cosine_schedule(step, **sizes) for step in range(13)]
    theirs = factors("get_cosine_schedule_with_warmup", 13, **sizes)
    np.testing.assert_allclose(rates, theirs, rtol=1e-12, atol=1e-16)


@pytest.mark.library_defect
def test_transformers_cosine_rises_again_past_its_end_and_ours_stays_at_zero():
    sizes = {"num_warmup_steps": 0, "num_training_steps": 10}
    theirs = factors("get_cosine_schedule_with_warmup", 21, **sizes)
    assert theirs[10] == 0 and theirs[12] > 0.09 and theirs[20] == 1
    assert [optim.cosine_schedule(step, **sizes) for step in (10, 12, 20)] == [0, 0, 0]

"""reference_math.server_distillation against TRL's ServerDistillationTrainer and AsyncDistillationTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import logprobs, server_distillation
from reference_math.conformance import trl_async, trl_teacher

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-11, "atol": 1e-14}
# the async trainer computes in float32 whatever it is given: roundings of terms of order one
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
EACH = pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
TAIL = pytest.mark.parametrize("add_tail", [True, False])


def a_batch(beta, seed=0, B=4, T=5, V=7, temperature=1.0):
    """Student logits, what TRL asks a teacher for at this beta, a mask, and what the teacher scored."""
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(scale=1.5, size=(2, B, T, V))
    tokens = rng.integers(0, V, size=(B, T))
    log_p = logprobs.log_softmax(teacher, temperature=temperature)
    wide = np.argsort(-teacher, axis=-1)[
        ..., :3
    ]  # and the sampled token, where it is not one of them
    beyond = np.where((wide == tokens[..., None]).any(axis=-1), -1, tokens)[..., None]
    wide = np.concatenate([wide, beyond], axis=-1)
    logps = np.take_along_axis(log_p, np.maximum(wide, 0), axis=-1)
    mask = (np.arange(T) < np.array([[5], [3], [1], [0]])).astype(float)
    ids, narrow = server_distillation.narrow_support(wide, logps, tokens, beta=beta)
    assert (ids < 0).any() == (beta < 1)
    return (student, ids, narrow, mask), (wide, logps, tokens)


def both(driver, args, *more, **options):
    """(value, gradient) of TRL and of ours."""
    student, *rest = args
    x = torch.tensor(student, requires_grad=True)
    given = {name: torch.tensor(y) for name, y in dict(more).items()}
    value = driver(x, *map(torch.tensor, rest), **given, **options)
    value.backward()
    ours = {k: y for k, y in options.items() if k in ("beta", "add_tail", "temperature")}
    return (value.item(), x.grad.numpy()), (
        server_distillation.loss(*args, **ours),
        server_distillation.loss_grad(*args, **ours),
    )


def agree(theirs, ours, **tolerance):
    for got, expected in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(got, expected, **tolerance)


@EACH
@TAIL
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradient_are_those_of_trls_server(beta, add_tail, temperature, seed):
    args, _ = a_batch(beta, seed, temperature=temperature)
    options = {"beta": beta, "add_tail": add_tail, "temperature": temperature}
    theirs, ours = both(trl_teacher.server_distillation, args, **options)
    agree(theirs, ours, **EXACT)
    assert np.abs(ours[1]).max() > 1e-3 or (beta == 1 and not add_tail)


def test_the_server_divides_by_its_own_tokens_and_the_accumulation_steps():
    """num_items_in_batch is not used: a micro-batch weighs the same however many tokens it has."""
    args, _ = a_batch(0.3)
    options = {"beta": 0.3, "add_tail": True}
    theirs, ours = both(
        trl_teacher.server_distillation, args, **options, gradient_accumulation_steps=4
    )
    agree(theirs, [x / 4 for x in ours], **EXACT)


@EACH
@TAIL
@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_loss_and_its_gradient_are_those_of_trls_async_trainer(
    beta, add_tail, num_processes, temperature
):
    """It narrows what the teacher scored by itself."""
    narrow, (wide, logps, tokens) = a_batch(beta, temperature=temperature)
    options = {"beta": beta, "add_tail": add_tail, "temperature": temperature}
    args, more = (narrow[0], wide, logps, narrow[3]), ("tokens", tokens)
    theirs, _ = both(trl_async.distillation, args, more, **options, num_processes=num_processes)
    ours = (
        f(*narrow, **options) for f in (server_distillation.loss, server_distillation.loss_grad)
    )
    agree(theirs, ours, **FLOAT32)


@EACH
@TAIL
def test_a_position_that_the_teacher_did_not_score_is_left_out_of_the_sum_but_counted(
    beta, add_tail
):
    (student, ids, logps, mask), (wide, all_logps, tokens) = a_batch(beta)
    ids[0, 1], wide[0, 1] = -1, -1
    args, options = (student, ids, logps, mask), {"beta": beta, "add_tail": add_tail}
    ours = [f(*args, **options) for f in (server_distillation.loss, server_distillation.loss_grad)]
    packed = (student, wide, all_logps, mask), ("tokens", tokens)
    agree(both(trl_async.distillation, *packed, **options)[0], ours, **FLOAT32)
    assert not ours[1][0, 1].any() and ours[1][0, 0].any() == (beta < 1 or add_tail)
    if beta == 0:
        agree(both(trl_teacher.server_distillation, args, **options)[0], ours, **EXACT)
    else:  # the server has to know the sampled token
        with pytest.raises(ValueError, match="missing actual-token logprobs"):
            both(trl_teacher.server_distillation, args, **options)


@pytest.mark.parametrize("driver", [trl_teacher.server_distillation, trl_async.distillation])
def test_where_nothing_counts_the_loss_is_0(driver):
    (student, ids, logps, mask), _ = a_batch(0.0)
    args = student, ids, logps, 0 * mask
    theirs, ours = both(driver, args, beta=0.0, add_tail=True)
    agree(theirs, ours, rtol=0)
    assert ours[0] == 0.0


def test_float64_logits_are_compared_in_float32_by_the_async_trainer():
    args, _ = a_batch(0.0)
    theirs, ours = both(trl_async.distillation, args, beta=0.0, add_tail=True)
    assert 1e-12 < abs(theirs[0] - ours[0]) < 1e-6


@pytest.mark.library_defect
def test_a_student_that_is_sure_has_a_made_up_rest_in_trl():
    """q of the candidate is 1 - 2 e^-40; TRL takes the rest to be 1e-7, and gives it no gradient."""
    student, ids = np.array([[[40.0, 0.0, 0.0]]]), np.array([[[0]]])
    args = student, ids, np.log([[[0.5]]]), np.ones((1, 1))
    theirs, ours = both(trl_teacher.server_distillation, args, beta=0.0, add_tail=True)
    # KL(1/2, 1/2 || 1, rest) = -ln 2 - (ln rest) / 2
    np.testing.assert_allclose(ours[0], -np.log(2) + (40.0 - np.log(2)) / 2, rtol=1e-12)
    np.testing.assert_allclose(theirs[0], -np.log(2) - np.log(1e-7) / 2, rtol=1e-6)
    np.testing.assert_allclose(ours[1], [[[0.5, -0.25, -0.25]]], rtol=1e-12)
    assert np.abs(theirs[1]).max() < 0.51 and abs(theirs[1][0, 0, 1]) < 1e-6

"""reference_math.iw_opd against TRL's IWOPDTrainer, and its other objective against gkd's and a server's."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import gkd, iw_opd, logprobs, server_distillation
from reference_math.conformance import trl_teacher

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-11, "atol": 1e-14}


def a_batch(seed=0, B=3, T=5, V=6):
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < np.array([[5], [3], [0]])).astype(float)
    return *rng.normal(scale=1.5, size=(2, B, T, V)), rng.integers(0, V, size=(B, T)), mask


@pytest.mark.parametrize("off_policy", [0.0, 0.5])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("num_items_in_batch", [None, 20])
def test_the_loss_and_its_gradient_are_trls(off_policy, gamma, num_items_in_batch):
    logits, teacher_logits, tokens, mask = a_batch()
    logps, teacher = (logprobs.per_token_logps(z, tokens) for z in (logits, teacher_logits))
    old = logps + off_policy * np.random.default_rng(1).normal(size=logps.shape)
    options = {"gamma": gamma, "num_items_in_batch": num_items_in_batch}
    x = torch.tensor(logits, requires_grad=True)
    theirs = trl_teacher.iw_opd(
        x,
        torch.tensor(tokens),
        torch.tensor(old) if off_policy else None,
        *map(torch.tensor, (teacher, mask)),
        **options,
    )
    theirs.backward()
    args = logps, old, teacher, mask
    np.testing.assert_allclose(theirs.item(), iw_opd.loss(*args, **options), **EXACT)
    grad = logprobs.logits_grad(logits, tokens, iw_opd.loss_grad(*args, **options))
    np.testing.assert_allclose(x.grad, grad, **EXACT)
    assert np.abs(grad).max() > 1e-3


def test_a_student_that_is_nearly_its_teacher_is_weighed_more_in_trl():
    """TRL's floor of 1e-8 under the sum: the last token's weight falls short of the way to 1."""
    old, mask = np.log([[0.5, 0.5]]), np.ones((1, 2))
    teacher, tokens, logits = old + [[1e-9, 1e-9]], np.zeros((1, 2), dtype=int), np.zeros((1, 2, 2))
    x = torch.tensor(logits, requires_grad=True)
    args = map(torch.tensor, (tokens, old, teacher, mask))
    trl_teacher.iw_opd(x, *args, gamma=1.0).backward()
    grad = iw_opd.loss_grad(old, old, teacher, mask, gamma=1.0)
    ratio = x.grad.numpy()[0, :, 0] / logprobs.logits_grad(logits, tokens, grad)[0, :, 0]
    np.testing.assert_allclose(ratio, [1.0, 1.9 / 1.5], rtol=1e-6)  # the teacher's logits round


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_its_other_objective_over_all_tokens_is_gkds(beta):
    student, teacher, tokens, mask = a_batch()
    x = torch.tensor(student, requires_grad=True)
    args = map(torch.tensor, (teacher, tokens, mask))
    theirs = trl_teacher.iw_opd_jsd(x, *args, beta=beta, top_k=0, add_tail=True, temperature=1.7)
    theirs.backward()
    options = {"beta": beta, "temperature": 1.7}
    np.testing.assert_allclose(theirs.item(), gkd.loss(student, teacher, mask, **options), **EXACT)
    np.testing.assert_allclose(x.grad, gkd.loss_grad(student, teacher, mask, **options), **EXACT)


def union(student, teacher, k, beta):
    """The teacher's k likeliest tokens (beta 0), the student's (1), or both, the second time as -1."""
    top = [np.argsort(-z, axis=-1)[..., :k] for z in (teacher, student)]
    if beta in (0, 1):
        return top[int(beta)]
    twice = (top[1][..., None] == top[0][..., None, :]).any(axis=-1)
    return np.concatenate([top[0], np.where(twice, -1, top[1])], axis=-1)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("add_tail", [True, False])
@pytest.mark.parametrize("top_k, mode", [(1, "argmax"), (1, "sampled"), (3, None)])
def test_its_other_objective_over_chosen_tokens_is_that_of_a_server(beta, add_tail, top_k, mode):
    student, teacher, tokens, mask = a_batch()
    x, options = torch.tensor(student, requires_grad=True), {"beta": beta, "add_tail": add_tail}
    options["temperature"] = 1.7
    args = map(torch.tensor, (teacher, tokens, mask))
    theirs = trl_teacher.iw_opd_jsd(x, *args, top_k=top_k, top_1_mode=mode, **options)
    theirs.backward()
    ids = union(student, teacher, top_k, beta)
    log_p = logprobs.log_softmax(teacher, temperature=1.7)
    logps = np.take_along_axis(log_p, np.maximum(ids, 0), axis=-1)
    if mode == "sampled" and beta > 0:
        first = teacher.argmax(axis=-1)[..., None]
        ids = np.concatenate([first, tokens[..., None]], axis=-1)
        logps = np.take_along_axis(log_p, ids, axis=-1)
        ids, logps = server_distillation.narrow_support(_once(ids), logps, tokens, beta=beta)
    ours = server_distillation.loss(student, ids, logps, mask, **options)
    np.testing.assert_allclose(theirs.item(), ours, **EXACT)
    grad = server_distillation.loss_grad(student, ids, logps, mask, **options)
    np.testing.assert_allclose(x.grad, grad, **EXACT)


def _once(ids):
    return np.where((np.arange(2) == 1) & (ids == ids[..., :1]), -1, ids)

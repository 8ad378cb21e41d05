"""reference_math.sdpo, and sdft on whole distributions, against TRL's SDPOTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import logprobs, sdft, sdpo, server_distillation
from reference_math.conformance import trl_teacher

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-11, "atol": 1e-14}
POLICY = {"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.28}
TAUGHT = np.array([1.0, 0.0, 1.0, 1.0])


def a_batch(seed=0, B=4, T=4, V=6):
    """Logits and tokens of the policy; log-probs of two others; advantages; a mask; row 3 is empty."""
    rng = np.random.default_rng(seed)
    logits, tokens = rng.normal(scale=1.5, size=(B, T, V)), rng.integers(0, V, size=(B, T))
    mask = (np.arange(T) < np.array([[4], [3], [2], [0]])).astype(float)
    logps = logprobs.per_token_logps(logits, tokens)
    old = logps + 0.5 * rng.normal(size=logps.shape)
    return logits, tokens, old, -rng.exponential(size=logps.shape), rng.normal(size=B), mask


def both(batch, **options):
    """TRL's loss and its gradient to the logits, then ours."""
    logits, tokens, *rest = batch
    x = torch.tensor(logits, requires_grad=True)
    taught = options.get("has_teacher")
    theirs = options | {"has_teacher": None if taught is None else torch.tensor(taught)}
    given = [None if a is None else torch.tensor(a) for a in rest]
    value = trl_teacher.sdpo(x, torch.tensor(tokens), *given, **theirs)
    value.backward()
    logps = logprobs.per_token_logps(logits, tokens)
    if rest[0] is None:
        rest[0] = logps
    ours = sdpo.loss(logps, *rest, **options)
    grad = sdpo.loss_grad(logps, *rest, **options)
    return (value.item(), x.grad), (ours, logprobs.logits_grad(logits, tokens, grad))


@pytest.mark.parametrize("has_teacher", [None, TAUGHT])
@pytest.mark.parametrize("distillation_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("is_clip", [None, 1.2])
def test_the_loss_and_its_gradient_are_trls(has_teacher, distillation_weight, is_clip):
    options = POLICY | {"reduction": "grpo", "is_clip": is_clip, "has_teacher": has_teacher}
    options["distillation_weight"] = distillation_weight
    (value, grad), (ours, our_grad) = both(a_batch(), **options)
    np.testing.assert_allclose(value, ours, **EXACT)
    np.testing.assert_allclose(grad, our_grad, **EXACT)
    assert np.abs(our_grad).max() > 1e-3


def test_without_old_log_probs_trl_takes_the_policys_own():
    logits, tokens, _, *rest = a_batch()
    options = POLICY | {"reduction": "grpo", "is_clip": 2.0, "distillation_weight": 0.5}
    (value, grad), (ours, our_grad) = both((logits, tokens, None, *rest), **options)
    np.testing.assert_allclose(value, ours, **EXACT)
    np.testing.assert_allclose(grad, our_grad, **EXACT)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("reduction", ["grpo", "bnpo", "dr_grpo"])
def test_the_policys_part_has_the_reductions_of_grpo(level, reduction):
    options = POLICY | {"importance_sampling_level": level, "reduction": reduction}
    options |= {"is_clip": None, "distillation_weight": 0.5, "max_completion_length": 8}
    (value, grad), (ours, our_grad) = both(a_batch(), **options)
    np.testing.assert_allclose(value, ours, **EXACT)
    np.testing.assert_allclose(grad, our_grad, **EXACT)


@pytest.mark.library_defect
def test_its_dapo_is_bnpo():
    """dapo divides by the tokens of the whole optimizer step; SDPOTrainer by the micro-batch's."""
    logits, tokens, *rest = a_batch()
    options = POLICY | {"is_clip": None, "distillation_weight": 0.0}
    given = [torch.tensor(x) for x in (logits, tokens, *rest)]
    theirs = trl_teacher.sdpo(*given, **options, reduction="dapo").item()
    logps = logprobs.per_token_logps(logits, tokens)
    np.testing.assert_allclose(
        theirs, sdpo.loss(logps, *rest, **options, reduction="bnpo"), **EXACT
    )
    whole = sdpo.loss(logps, *rest, **options, reduction="dapo", tokens_per_micro_batch=20)
    assert abs(theirs - whole) > 0.1 * abs(whole)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("support", [{}, {"topk": 3}, {"topk": 3, "add_tail": True}])
def test_on_whole_distributions_it_is_sdft_on_the_rows_that_have_a_teacher(alpha, support):
    logits, tokens, old, _, _, mask = a_batch()
    teacher = np.random.default_rng(5).normal(scale=1.5, size=logits.shape)
    w = sdft.clipped_ratio(logprobs.per_token_logps(logits, tokens), old, mask, clip=1.2)
    x = torch.tensor(logits, requires_grad=True)
    theirs = trl_teacher.sdpo_of_logits(
        x,
        *map(torch.tensor, (teacher, mask)),
        alpha=alpha,
        has_teacher=torch.tensor(TAUGHT),
        tokens=torch.tensor(tokens),
        old_per_token_logps=torch.tensor(old),
        is_clip=1.2,
        **support,
    )
    theirs.backward()
    args = logits, teacher, mask * TAUGHT[:, None]
    options = {"alpha": alpha, "is_weights": w} | support
    np.testing.assert_allclose(theirs.item(), sdft.loss(*args, **options), **EXACT)
    np.testing.assert_allclose(x.grad, sdft.loss_grad(*args, **options), **EXACT)


def a_servers_batch(k=3):
    """Rows of the same length, so that the mean over rows is the mean over tokens."""
    logits, tokens, _, _, _, _ = a_batch()
    teacher = np.random.default_rng(5).normal(scale=1.5, size=logits.shape)
    log_p = logprobs.log_softmax(teacher)
    ids = np.argsort(-teacher, axis=-1)[..., :k]
    sampled = np.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    mask = np.broadcast_to((np.arange(4) < 3).astype(float), tokens.shape).copy()
    return logits, ids, np.take_along_axis(log_p, ids, axis=-1), tokens, sampled, mask


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("add_tail", [True, False])
def test_with_its_teacher_on_a_server_it_is_server_distillation(alpha, add_tail):
    """On the teacher's likeliest tokens; a local teacher is compared on the student's."""
    logits, ids, logps, *rest, mask = a_servers_batch()
    x = torch.tensor(logits, requires_grad=True)
    given = map(torch.tensor, (ids, logps, *rest, mask))
    theirs = trl_teacher.sdpo_of_server(x, *given, alpha=alpha, add_tail=add_tail)
    theirs.backward()
    args, options = (logits, ids, logps, mask), {"beta": alpha, "add_tail": add_tail}
    np.testing.assert_allclose(theirs.item(), server_distillation.loss(*args, **options), **EXACT)
    grad = server_distillation.loss_grad(*args, **options)
    np.testing.assert_allclose(x.grad, grad, **EXACT)


def test_the_sampled_token_on_a_server_is_that_of_a_local_teacher():
    logits, ids, logps, tokens, sampled, mask = a_servers_batch()
    x = torch.tensor(logits, requires_grad=True)
    given = map(torch.tensor, (ids, logps, tokens, sampled, mask))
    theirs = trl_teacher.sdpo_of_server(x, *given, alpha=1.0, add_tail=False, mode="sampled_token")
    theirs.backward()
    own = logprobs.per_token_logps(logits, tokens)
    args = own, own, sampled, np.zeros(len(own)), mask
    options = POLICY | {"reduction": "grpo", "is_clip": None, "distillation_weight": 1.0}
    np.testing.assert_allclose(theirs.item(), sdpo.loss(*args, **options), **EXACT)
    grad = logprobs.logits_grad(logits, tokens, sdpo.loss_grad(*args, **options))
    np.testing.assert_allclose(x.grad, grad, **EXACT)

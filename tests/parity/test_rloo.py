"""reference_math.rloo and reinforce against the torch twins and TRL's RLOOTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import grpo, reinforce, rloo
from reference_math.conformance import trl_rloo
from reference_math.torch import reinforce as reinforce_twin
from reference_math.torch import rloo as twin

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
ADVANTAGES = np.array([1.25, -0.75, -0.5, 1.0])  # exact in every dtype
CLIPS = [{"epsilon_low": 0.2, "epsilon_high": 0.2}, {"epsilon_low": 0.1, "epsilon_high": 0.4}]
clips = pytest.mark.parametrize("clip", CLIPS)


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, ((logps + 0.3 * rng.normal(size=MASK.shape)) * MASK).sum(axis=1)


def agree(place, got, expected):
    # sums of a few terms of order 1, in float32 at least; gradients come back in the dtype
    eps = place.eps if got.dtype == place.dtype else torch.finfo(torch.float32).eps
    np.testing.assert_allclose(place.numpy(got), expected, rtol=60 * eps, atol=60 * eps)


@clips
def test_the_twin_agrees_wherever_it_runs(place, clip):
    logps, old_logps = two_policies()
    x = place.tensor(np.where(MASK == 1, logps, np.nan), requires_grad=True)
    old = place.tensor(old_logps)
    got = twin.loss(x, old, place.tensor(ADVANTAGES), place.tensor(MASK), **clip)
    got.backward()
    tokens = place.numpy(x), place.numpy(old), ADVANTAGES, MASK
    agree(place, got, rloo.loss(*tokens, **clip))
    agree(place, x.grad, rloo.loss_grad(*tokens, **clip))


def test_reinforces_twin_agrees_wherever_it_runs(place):
    logps, _ = two_policies()
    x = place.tensor(np.where(MASK == 1, logps, np.nan), requires_grad=True)
    got = reinforce_twin.loss(x, place.tensor(ADVANTAGES), place.tensor(MASK))
    got.backward()
    agree(place, got, reinforce.loss(place.numpy(x), ADVANTAGES, MASK))
    agree(place, x.grad, reinforce.loss_grad(place.numpy(x), ADVANTAGES, MASK))


@pytest.mark.parametrize("clip_range", [None, (-0.6, 1.0)])
def test_the_twin_penalizes_alike(place, clip_range):
    logps, _ = two_policies()
    old, ref = place.tensor(logps), place.tensor(logps[::-1].copy())
    options = {"beta": 0.1, "reward_clip_range": clip_range}
    rewards = np.where(np.arange(4) == 2, np.nan, ADVANTAGES)
    got = twin.kl_penalized_rewards(place.tensor(rewards), old, ref, place.tensor(MASK), **options)
    tokens = rewards, place.numpy(old), place.numpy(ref), MASK
    agree(place, got, rloo.kl_penalized_rewards(*tokens, **options))


def test_the_twins_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"old_logps must have shape \(4,\), got \(4, 1\)"):
        twin.loss(
            torch.zeros(4, 4), torch.zeros(4, 1), torch.zeros(4), torch.ones(4, 4), **CLIPS[0]
        )
    with pytest.raises(ValueError, match=r"rewards must have shape \(4,\), got \(3,\)"):
        logps = torch.zeros(4, 4)
        twin.kl_penalized_rewards(torch.zeros(3), logps, logps, torch.ones(4, 4), beta=0.1)


@clips
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_and_its_gradient_are_trls(seed, clip):
    logps, old_logps = two_policies(seed)
    tensors = (torch.tensor(x) for x in (old_logps, ADVANTAGES, MASK))
    x, metrics = torch.tensor(logps, requires_grad=True), {}
    theirs = trl_rloo.loss(x, *tensors, metrics=metrics, **clip)
    theirs.backward()
    tokens = logps, old_logps, ADVANTAGES, MASK
    # float64, the same operations
    np.testing.assert_allclose(rloo.loss(*tokens, **clip), theirs.item(), rtol=1e-14)
    np.testing.assert_allclose(rloo.loss_grad(*tokens, **clip), x.grad, rtol=1e-14)

    s = ((logps * MASK).sum(axis=1) - old_logps)[:, None]
    low, high = grpo.clipped(s, ADVANTAGES, delta=None, **clip)
    for name, part in {"low": low, "high": high, "region": low | high}.items():
        assert metrics[f"clip_ratio/{name}_mean"] == part.mean()


def test_an_empty_batch_of_tokens_is_trls():
    tensors = torch.zeros(4, dtype=torch.float64), torch.tensor(ADVANTAGES), torch.tensor(0 * MASK)
    x = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    theirs = trl_rloo.loss(x, *tensors)
    theirs.backward()
    ours = rloo.loss(x.detach(), np.zeros(4), ADVANTAGES, 0 * MASK, **CLIPS[0])
    assert ours == theirs.item() and not x.grad.any()


@pytest.mark.library_defect
@pytest.mark.parametrize("length, dtype", [(100, torch.float32), (800, torch.float64)])
def test_a_long_good_completion_has_a_nan_gradient_in_trl(length, dtype):
    """A product of 100 ratios e: inf, and clipped. 0 from the clip times inf. Ours: left alone."""
    x = torch.zeros(1, length, dtype=dtype, requires_grad=True)
    old_logps, a = torch.tensor([-float(length)], dtype=dtype), torch.ones(1, dtype=dtype)
    theirs = trl_rloo.loss(x, old_logps, a, torch.ones(1, length))
    theirs.backward()
    assert np.isclose(theirs.item(), -1.2) and torch.isnan(x.grad).all()
    tokens = np.zeros((1, length)), [-float(length)], [1.0], np.ones((1, length))
    assert rloo.loss(*tokens, **CLIPS[0]) == -1.2
    assert not rloo.loss_grad(*tokens, **CLIPS[0]).any()

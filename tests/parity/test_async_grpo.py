"""reference_math.grpo, its advantages and its reductions against TRL's AsyncGRPOTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import advantages, conventions, grpo
from reference_math.conformance import trl_async

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]])
ADVANTAGES = np.array([1.25, -0.75, 0.0, 1.0, -2.0])
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.28}
BNPO = {"importance_sampling_level": "token", "reduction": "bnpo"}


def two_policies(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


@pytest.mark.parametrize("num_processes", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradient_are_trls(num_processes, accumulation, seed):
    """The mean over the tokens of a micro-batch, all processes' together: bnpo of the whole."""
    logps, old = two_policies(seed)
    x = torch.tensor(logps, requires_grad=True)
    theirs = trl_async.grpo(
        x,
        *map(torch.tensor, (old, ADVANTAGES, MASK)),
        **CLIP,
        num_processes=num_processes,
        gradient_accumulation_steps=accumulation,
    )
    theirs.backward()
    ours = grpo.loss(logps, old, ADVANTAGES, MASK, **CLIP, **BNPO) / accumulation
    # float64, the same operations; the processes' sums are added in another order
    np.testing.assert_allclose(theirs.item(), ours, rtol=1e-13)
    grad = grpo.loss_grad(logps, old, ADVANTAGES, MASK, **CLIP, **BNPO) / accumulation
    np.testing.assert_allclose(x.grad, grad, rtol=1e-13)


def test_on_one_process_of_many_it_is_dapo_with_the_tokens_per_process():
    """Not bnpo of its own rows: each token of the micro-batch weighs the same on every process."""
    logps, old = two_policies()
    x = torch.tensor(logps, requires_grad=True)
    whole = map(torch.tensor, (old, ADVANTAGES, MASK))
    trl_async.grpo(x, *whole, **CLIP, num_processes=2).backward()
    mine = slice(0, None, 2)
    args = logps[mine], old[mine], ADVANTAGES[mine], MASK[mine]
    options = CLIP | BNPO | {"reduction": "dapo", "tokens_per_micro_batch": MASK.sum() / 2}
    np.testing.assert_allclose(x.grad[mine], grpo.loss_grad(*args, **options) / 2, rtol=1e-13)


def test_the_shares_of_clipped_tokens_that_trl_logs_are_ours():
    logps, old = two_policies()
    logged = {}
    trl_async.grpo(*map(torch.tensor, (logps, old, ADVANTAGES, MASK)), **CLIP, metrics=logged)
    low, high = grpo.clipped(logps - old, ADVANTAGES, **CLIP, delta=None)
    for name, clipped in (("low", low), ("high", high), ("region", low | high)):
        share = (clipped * MASK).sum() / MASK.sum()
        np.testing.assert_allclose(logged[f"clip_ratio/{name}_mean"], share, rtol=1e-6)  # float32
    assert logged["clip_ratio/low_mean"] > 0 and logged["clip_ratio/high_mean"] > 0


@pytest.mark.parametrize("rewards", [[1.0, 0.0, 0.0, 1.0], [0.3, 2.0, None, -1.0, 0.1], [0.5, 0.5]])
def test_the_advantages_divide_by_the_std_of_the_group_with_ddof_0(rewards):
    theirs = trl_async.grpo_advantages(rewards)
    ours = advantages.group(rewards, len(rewards), ddof=0, eps=1e-8)
    np.testing.assert_allclose(theirs, ours, rtol=1e-13, atol=1e-15)


def test_its_row_of_conventions_is_its_defaults_and_what_it_computes():
    from dataclasses import fields

    from trl.experimental.async_grpo import AsyncGRPOConfig

    row = next(row for row in conventions.TABLE if row["name"] == "TRL AsyncGRPOTrainer")
    default = {field.name: field.default for field in fields(AsyncGRPOConfig)}
    assert row["epsilon_low"] == row["epsilon_high"] == default["epsilon"]
    assert default["epsilon_high"] is None and "beta" not in default and row["beta"] == 0.0
    assert (row["reduction"], row["level"]) == (
        BNPO["reduction"],
        BNPO["importance_sampling_level"],
    )
    rewards = [1.0, 0.0, 0.25]
    ours = advantages.group(rewards, 3, ddof=row["ddof"], eps=row["eps"])
    np.testing.assert_allclose(ours, trl_async.grpo_advantages(rewards), rtol=1e-13)


@pytest.mark.library_defect
def test_its_advantages_are_not_those_of_grpotrainer():
    """GRPOTrainer: ddof 1, eps 1e-4.  In a group of two the same rewards give 1.41 times as much."""
    rewards = [1.0, 0.0]
    theirs = np.array(trl_async.grpo_advantages(rewards))
    usual = advantages.group(rewards, 2, ddof=1, eps=1e-4)
    np.testing.assert_allclose(theirs / usual, np.sqrt(2), rtol=2e-4)  # the two eps


@pytest.mark.library_defect
def test_a_micro_batch_weighs_the_same_however_many_tokens_it_has():
    """Two micro-batches of 9 and 4 tokens: each is half of the loss, GRPOTrainer's dapo is by token."""
    logps, old = two_policies()
    parts = [slice(0, 3), slice(3, 5)]
    args = logps, old, ADVANTAGES, MASK
    halves = [
        trl_async.grpo(
            *(torch.tensor(x[part]) for x in args), **CLIP, gradient_accumulation_steps=2
        )
        for part in parts
    ]
    by_token = grpo.loss(*args, **CLIP, **BNPO)
    alone = [grpo.loss(*(x[part] for x in args), **CLIP, **BNPO) for part in parts]
    np.testing.assert_allclose(sum(halves).item(), np.mean(alone), rtol=1e-13)
    assert abs(np.mean(alone) - by_token) > 0.05 * abs(by_token)


@pytest.mark.library_defect
def test_a_process_whose_rows_have_no_token_that_counts_stops_trl():
    logps, old = two_policies()
    args = map(torch.tensor, (logps, old, ADVANTAGES, 0 * MASK))
    with pytest.raises(RuntimeError, match="max"):
        trl_async.grpo(*args, **CLIP)
    assert grpo.loss(logps, old, ADVANTAGES, 0 * MASK, **CLIP, **BNPO) == 0.0

"""reference_math.entropy_control against the torch twin and TRL."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import entropy_control
from reference_math.conformance import trl_grpo
from reference_math.torch import entropy_control as twin

MASK = (np.arange(9) < np.array([[9], [4], [7], [0]])).astype(float)
SHARES = [0.0, 0.1, 0.2, 0.5, 0.8, 0.95]


def some_entropies(seed=0):
    """float32 numbers: TRL takes their quantile in float32."""
    entropies = np.random.default_rng(seed).exponential(size=MASK.shape)
    return entropies.astype(np.float32).astype(float)


@pytest.mark.parametrize("share", [*SHARES, 1.0])
def test_the_twin_keeps_the_same_tokens_wherever_it_runs(place, share):
    entropies = place.tensor(some_entropies())
    got = twin.high_entropy_mask(entropies, place.tensor(MASK), top_entropy_quantile=share)
    options = {"top_entropy_quantile": share}
    expected = entropy_control.high_entropy_mask(place.numpy(entropies), MASK, **options)
    np.testing.assert_array_equal(place.numpy(got), expected)


def test_the_twins_bonus(place):
    x = place.tensor(np.where(MASK == 1, some_entropies(), np.nan), requires_grad=True)
    got = twin.bonus(x, place.tensor(MASK))
    got.backward()
    eps = min(place.eps, torch.finfo(torch.float32).eps)  # 20 positive terms in float32 at least
    expected = entropy_control.bonus(place.numpy(x), MASK)
    np.testing.assert_allclose(place.numpy(got), expected, rtol=20 * eps)
    grad = entropy_control.bonus_grad(MASK)
    np.testing.assert_allclose(place.numpy(x.grad), grad, rtol=max(20 * eps, place.eps))


@pytest.mark.parametrize("nothing", [0 * MASK, MASK[:0]])
def test_where_nothing_counts_the_twin_keeps_nothing(nothing):
    x, mask = torch.zeros(nothing.shape), torch.tensor(nothing)
    assert not twin.high_entropy_mask(x, mask, top_entropy_quantile=0.2).any()
    assert twin.bonus(x, mask) == 0.0


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("seed", range(5))
def test_the_mask_is_trls(seed, share):
    tensors = torch.tensor(some_entropies(seed)), torch.tensor(MASK)
    options = {"top_entropy_quantile": share}
    got = trl_grpo.high_entropy_mask(*tensors, **options)
    expected = entropy_control.high_entropy_mask(some_entropies(seed), MASK, **options)
    np.testing.assert_array_equal(expected, got)


def test_the_mask_of_nothing_is_trls():
    options = {"top_entropy_quantile": 0.2}
    got = trl_grpo.high_entropy_mask(torch.zeros(4, 9), torch.zeros(4, 9), **options)
    assert not got.any()
    assert not entropy_control.high_entropy_mask(0 * MASK, 0 * MASK, **options).any()


def adaptive(coef, entropy, last_entropy=float("inf"), **more):
    """TRL's loss of one token without advantage, and the coefficient it will use next."""
    tokens = [torch.zeros(1, 1, dtype=torch.float64) for _ in range(2)]
    metrics = {}
    value = trl_grpo.loss(
        *tokens,
        torch.zeros(1, dtype=torch.float64),
        torch.ones(1, 1),
        loss_type="grpo",
        entropies=torch.full((1, 1), entropy, dtype=torch.float64),
        use_adaptive_entropy=True,
        entropy_coef=coef,
        last_entropy=last_entropy,
        metrics=metrics,
        **more,
    )
    return value.item(), metrics["entropy_coef"]


@pytest.mark.parametrize("entropy", [0.0, 0.2, 0.2001, 3.0])
@pytest.mark.parametrize("coef", [0.0, 0.003, 0.5, 0.998])
def test_the_controllers_next_coefficient_is_trls(coef, entropy):
    _, theirs = adaptive(coef, entropy)
    options = {"entropy_target": 0.2, "step": 0.005, "low": 0.0, "high": 1.0}
    assert entropy_control.next_coef(coef, entropy, **options) == theirs


def test_trl_applies_the_coefficient_only_after_a_step_at_or_below_the_target():
    assert adaptive(0.5, 0.1, last_entropy=0.2)[0] == pytest.approx(-0.5 * 0.1, rel=1e-15)
    assert adaptive(0.5, 0.1, last_entropy=0.21)[0] == 0.0

"""reference_math.importance_sampling against the torch twin and TRL."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import importance_sampling
from reference_math.conformance import trl_scoring
from reference_math.torch import importance_sampling as twin

MASK = (np.arange(5) < np.array([[5], [3], [1], [4]])).astype(float)
BOUNDS = [(None, 3.0), (0.6, 1.5), (0.9, None)]
modes = pytest.mark.parametrize("mode", importance_sampling.MODES)
bounds = pytest.mark.parametrize("low, high", BOUNDS)


def two_samplers(seed=0):
    """float32 numbers, which TRL reads from lists of Python's."""
    rng = np.random.default_rng(seed)
    old = -rng.exponential(size=MASK.shape)
    sampling = old + 0.5 * rng.normal(size=MASK.shape)
    sampling[0, 2] = np.nan  # a token that vLLM could not score
    return (x.astype(np.float32).astype(float) for x in (old, sampling))


@pytest.mark.parametrize("mode", importance_sampling.MODES + importance_sampling.GEOMETRIC)
@bounds
def test_the_twin_agrees_wherever_it_runs(place, mode, low, high):
    old, sampling = (place.tensor(x) for x in two_samplers())
    options = {"mode": mode, "clip_min": low, "clip_max": high}
    got = twin.ratio(old, sampling, place.tensor(MASK), **options)
    expected = importance_sampling.ratio(place.numpy(old), place.numpy(sampling), MASK, **options)
    # exp of a sum of up to 5 numbers of order 1, in float32 at least
    eps = min(place.eps, torch.finfo(torch.float32).eps)
    np.testing.assert_allclose(place.numpy(got), expected, rtol=30 * eps)


def trls(mode, low, high):
    old, sampling = two_samplers()
    batch = trl_scoring.grpo(
        torch.zeros(4, 1),
        torch.ones(1),
        2,
        completion_mask=torch.tensor(MASK),
        per_token_logps=torch.tensor(old),
        sampling_per_token_logps=torch.tensor(sampling),
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    return batch["importance_sampling_ratio"].numpy()


def ours(mode, low, high):
    return importance_sampling.ratio(*two_samplers(), MASK, mode=mode, clip_min=low, clip_max=high)


@modes
@bounds
def test_the_ratio_is_trls(mode, low, high):
    got = trls(mode, low, high)
    if mode.startswith("token"):
        got = np.where(MASK == 1, got, 1.0)  # TRL bounds its 1 on padding, too; no loss reads it
    np.testing.assert_allclose(ours(mode, low, high), got, rtol=1e-14)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_without_bounds_nothing_is_masked_in_trl_either(level):
    got = trls(f"{level}_mask", None, None)
    np.testing.assert_allclose(ours(f"{level}_mask", None, None), got, rtol=1e-14)


@pytest.mark.library_defect
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_truncating_without_bounds_stops_trl(level):
    """Its config allows both to be None; torch.clamp does not. Ours: nothing to truncate."""
    with pytest.raises(RuntimeError, match="must not be None"):
        trls(f"{level}_truncate", None, None)
    np.testing.assert_array_equal(
        ours(f"{level}_truncate", None, None), ours(f"{level}_mask", None, None)
    )

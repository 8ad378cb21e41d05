"""Rows of the report: what a trainer makes of rewards before its loss: advantages, sampler weights."""

import numpy as np

from reference_math import advantages, importance_sampling, multi_reward
from reference_math.conformance.rows import Row

GROUP = 3  # n / (n - 1) in float32, as TRL takes it, is exact for a group of three
STD = {"ddof": 1, "eps": 1e-4}


def rows():
    yield from advantage_rows()
    yield from sampler_rows()


def _scored(rewards, weights, place, trainer="grpo", **options):
    from reference_math.conformance import trl_scoring

    score = getattr(trl_scoring, trainer)
    return score(place.tensor(rewards), place.tensor(weights), GROUP, **options)


def advantage_rows():
    """Three reward functions, some of them silent on some completions."""
    rng, weights = np.random.default_rng(0), np.array([1.0, 0.5, 2.0])
    rewards = rng.normal(size=(18, 3))
    rewards[1, 0] = rewards[4] = rewards[-GROUP:, 1] = np.nan
    ours = {
        f"sum_then_normalize, {scale}": lambda r, w, scale=scale: multi_reward.sum_then_normalize(
            r, w, GROUP, scale_rewards=scale, missing="zero", **STD
        )
        for scale in multi_reward.SCALE_REWARDS
    }
    ours["normalize_then_sum"] = lambda r, w: multi_reward.normalize_then_sum(r, w, GROUP, **STD)

    def against(compute, theirs):
        def run(place):
            expected = compute(place.rounded(rewards), place.rounded(weights))
            return {"value": (place.numpy(theirs(place)), expected)}

        return run

    for option, compute in ours.items():
        aggregation, _, scale = option.partition(", ")
        trls = {"multi_objective_aggregation": aggregation, "scale_rewards": scale or "group"}

        def from_trl(place, trls=trls):
            return _scored(rewards, weights, place, **trls)["advantages"]

        def from_twin(place, aggregation=aggregation, scale=scale):
            from reference_math.torch import multi_reward as twin

            options = STD | ({"scale_rewards": scale, "missing": "zero"} if scale else {})
            given = place.tensor(rewards), place.tensor(weights), GROUP
            return getattr(twin, aggregation)(*given, **options)

        yield Row("advantages", option, "trl", against(compute, from_trl))
        yield Row("advantages", option, "torch twin", against(compute, from_twin))

    def leave_one_out(r, w):
        total = multi_reward.weighted_sum(r, w, GROUP, missing="zero")
        return advantages.leave_one_out(total, GROUP)

    def from_rloo(place):
        logps = place.tensor(np.zeros((len(rewards), 1)))
        return _scored(rewards, weights, place, "rloo", per_token_logps=logps)["advantages"]

    yield Row("advantages", "leave one out", "trl", against(leave_one_out, from_rloo))


def sampler_rows():
    """The bounded ratio of the trainer's and the sampler's probabilities; one token unscored."""
    rng = np.random.default_rng(0)
    mask = (np.arange(5) < np.array([[5], [3], [1], [4], [2], [5]])).astype(float)
    old = -rng.exponential(size=mask.shape)
    sampling = old + 0.5 * rng.normal(size=mask.shape)
    sampling[0, 2] = np.nan
    bounds = {"clip_min": 0.6, "clip_max": 1.5}

    def comparing(theirs, mode):
        def run(place):
            # TRL reads the sampler's numbers from lists into float32, whatever the model's dtype
            given = (x.astype(np.float32).astype(float) for x in (old, sampling))
            given = [place.rounded(x) for x in given]
            expected = importance_sampling.ratio(*given, mask, mode=mode, **bounds)
            return {"value": (place.numpy(theirs(place, *given)), expected)}

        return run

    for mode in importance_sampling.MODES:

        def from_trl(place, old, sampling, mode=mode):
            options = {f"vllm_importance_sampling_{key}": bounds[key] for key in bounds}
            options |= {"completion_mask": place.tensor(mask)}
            options |= {"per_token_logps": place.tensor(old)}
            options |= {"sampling_per_token_logps": place.tensor(sampling)}
            options |= {"vllm_importance_sampling_mode": mode}
            nothing = np.zeros((len(mask), 1)), np.ones(1)
            return _scored(*nothing, place, **options)["importance_sampling_ratio"]

        def from_twin(place, old, sampling, mode=mode):
            from reference_math.torch import importance_sampling as twin

            given = (place.tensor(x) for x in (old, sampling, mask))
            return twin.ratio(*given, mode=mode, **bounds)

        yield Row("sampler weights", mode, "trl", comparing(from_trl, mode))
        yield Row("sampler weights", mode, "torch twin", comparing(from_twin, mode))

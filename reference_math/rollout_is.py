"""Rollout importance sampling: REINFORCE corrected for the sampler; tokens outside a band are dropped.

    c = -sg[ w 1(clip_min <= w <= clip_max) ] A log p         w = p / p_sampling

Source    IcePop: Ling team, Every Step Evolves, arXiv 2510.18855, where each batch is trained on once;
          SkyRL's policy_loss_type "rollout_is"
Torch     none     Lesson   none
Proof     tests/laws/test_rollout_is.py, tests/parity/test_rollout_is.py

Shapes    B completions, T tokens each.    Natural logs.

One ratio corrects both for the engine that sampled and for a policy that has moved since.  A token
whose ratio leaves the band is dropped; PPO's clip drops only tokens that have already moved too far
in the direction of their advantage.  The IcePop paper's own form is GRPO with
`importance_sampling.ratio`, mode "token_mask", as its factor.

SkyRL names the band by 1 - clip_low and 1 + clip_high and leaves its two ends out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, importance_sampling, ratios, reductions
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    sampling_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    clip_min: float | None,
    clip_max: float | None,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float.

    per_token_logps            (B, T)  log-probability of each sampled token under the policy
    sampling_per_token_logps   (B, T)  by the engine that sampled it
    advantages                 (B,), or (B, T) for one per token
    completion_mask            (B, T)  1 = counts
    clip_min, clip_max         the band; None for no bound
    reduction ... num_generations   as in `reductions.token_weights`

    >>> logps, sampling = np.log([[0.5, 0.5]]), np.log([[0.1, 0.4]])            # w = 5 and 1.25
    >>> options = dict(clip_min=0.5, clip_max=2.0, reduction="luspo")
    >>> round(loss(logps, sampling, [2.0], [[1, 1]], **options), 4)              # 1.25 * 2 ln 2
    1.7329
    """
    args = per_token_logps, sampling_per_token_logps, advantages, completion_mask
    options: dict[str, Any] = {"clip_min": clip_min, "clip_max": clip_max, "reduction": reduction}
    options |= {"max_completion_length": max_completion_length}
    options |= {
        "tokens_per_micro_batch": tokens_per_micro_batch,
        "num_generations": num_generations,
    }
    grad = loss_grad(*args, **options)
    logps = _checks.counted("per_token_logps", per_token_logps, np.asarray(completion_mask))
    return float((grad * logps).sum())


def loss_grad(
    per_token_logps: ArrayLike,
    sampling_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    clip_min: float | None,
    clip_max: float | None,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T); the weight is constant: the loss is linear in log p.

    >>> logps, sampling = np.log([[0.5, 0.5]]), np.log([[0.1, 0.4]])
    >>> options = dict(clip_min=0.5, clip_max=2.0, reduction="luspo")
    >>> loss_grad(logps, sampling, [2.0], [[1, 1]], **options)
    array([[-0. , -2.5]])
    """
    share = reductions.token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=max_completion_length,
        tokens_per_micro_batch=tokens_per_micro_batch,
        num_generations=num_generations,
    )
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    sampling = _checks.counted("sampling_per_token_logps", sampling_per_token_logps, mask)
    bounds: dict[str, Any] = {"clip_min": clip_min, "clip_max": clip_max}
    w = importance_sampling.ratio(logps, sampling, mask, mode="token_mask", **bounds)
    return -share * w * ratios.as_column(advantages, len(mask))

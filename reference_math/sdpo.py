"""SDPO: distil the policy that has seen feedback into the policy that has not, per sampled token.

    L = (1 - w) L_GRPO  +  w 1/B sum_b 1/n_b sum_t min(rho_t, clip) sg[log p_t - log p_T,t] log p_t

Source    Huebotter et al., Reinforcement Learning via Self-Distillation, arXiv 2601.20802
          TRL: SDPOTrainer (1.16), distillation_mode "sampled_token"
Torch     none     Lesson   none
Proof     tests/laws/test_sdpo.py, tests/parity/test_sdpo.py

Shapes    B completions of the policy, T tokens each.    Natural logs.

p_T is the same model with a successful answer of the group, or with feedback, in its context.  On
average over a token the policy drew, the gradient is that of KL(p || p_T).  w is
`distillation_weight`.  rho = p / p_old corrects for a policy that has moved since it sampled.

TRL    By default w = 1, clip = 2 and one sampled token, where the paper compares whole
       distributions: modes "full_logits" and "topk_logits" are `sdft.loss`, on the mask times
       has_teacher; with the teacher on a server, `server_distillation`'s divergence, row by row.
       Its loss_type "dapo" (default) is bnpo here: the micro-batch's own tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, grpo, reductions, sdft
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    teacher_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    distillation_weight: float,
    is_clip: float | None,
    importance_sampling_level: str,
    epsilon_low: float,
    epsilon_high: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    has_teacher: ArrayLike | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float.

    per_token_logps           (B, T)  of each sampled token under the policy
    old_per_token_logps       (B, T)  the same when it was sampled; on-policy, a copy of the first
    teacher_per_token_logps   (B, T)  the same with the feedback in the context
    advantages                (B,), or (B, T) for one per token
    completion_mask           (B, T)  1 = counts
    distillation_weight       w, 0 to 1
    is_clip                   > 0, the largest rho; None: rho is 1
    has_teacher               (B,)    1 where there was an answer or feedback to show; None: all 1.
                                      A row without teaches nothing, but still counts in B
    importance_sampling_level ... num_generations   of `grpo.loss`, for the first part

    >>> logps, teacher, options = np.log([[0.5]]), np.log([[0.25]]), {"is_clip": None}
    >>> options |= dict(epsilon_low=0.2, epsilon_high=0.2, reduction="grpo")
    >>> options |= dict(importance_sampling_level="token")
    >>> args = logps, logps, teacher, [2.0], [[1]]
    >>> round(loss(*args, distillation_weight=1.0, **options), 4)     # ln 2 times ln 1/2
    -0.4805
    >>> round(loss(*args, distillation_weight=0.5, **options), 4)     # half of it, half of -2
    -1.2402
    """
    w = _checks.number("distillation_weight", distillation_weight, at_least=0, at_most=1)
    options: dict[str, Any] = {
        "importance_sampling_level": importance_sampling_level,
        "reduction": reduction,
    }
    options |= {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high}
    options |= {"max_completion_length": max_completion_length}
    options |= {
        "tokens_per_micro_batch": tokens_per_micro_batch,
        "num_generations": num_generations,
    }
    tokens = per_token_logps, old_per_token_logps
    policy = grpo.loss(*tokens, advantages, completion_mask, **options)
    slope = distillation_grad(
        *tokens, teacher_per_token_logps, completion_mask, is_clip, has_teacher
    )
    logps = _checks.counted("per_token_logps", per_token_logps, np.asarray(completion_mask))
    return float((1.0 - w) * policy + w * (slope * logps).sum())


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    teacher_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    distillation_weight: float,
    is_clip: float | None,
    importance_sampling_level: str,
    epsilon_low: float,
    epsilon_high: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    has_teacher: ArrayLike | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T); rho and the log-ratio to the teacher are constant.

    >>> logps, teacher, options = np.log([[0.5]]), np.log([[0.25]]), {"is_clip": None}
    >>> options |= dict(epsilon_low=0.2, epsilon_high=0.2, reduction="grpo")
    >>> options |= dict(importance_sampling_level="token")
    >>> args = logps, logps, teacher, [2.0], [[1]]
    >>> loss_grad(*args, distillation_weight=0.5, **options).round(4)       # (ln 2 - 2) / 2
    array([[-0.6534]])
    """
    w = _checks.number("distillation_weight", distillation_weight, at_least=0, at_most=1)
    options: dict[str, Any] = {
        "importance_sampling_level": importance_sampling_level,
        "reduction": reduction,
    }
    options |= {"epsilon_low": epsilon_low, "epsilon_high": epsilon_high}
    options |= {"max_completion_length": max_completion_length}
    options |= {
        "tokens_per_micro_batch": tokens_per_micro_batch,
        "num_generations": num_generations,
    }
    tokens = per_token_logps, old_per_token_logps
    policy = grpo.loss_grad(*tokens, advantages, completion_mask, **options)
    slope = distillation_grad(
        *tokens, teacher_per_token_logps, completion_mask, is_clip, has_teacher
    )
    return (1.0 - w) * policy + w * slope


def distillation_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    teacher_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    is_clip: float | None,
    has_teacher: ArrayLike | None = None,
) -> Array:
    """Compute the gradient of the second part, (B, T); the part itself is this gradient times log p.

    >>> logps, old, teacher = np.log([[0.5, 0.5]]), np.log([[0.1, 0.5]]), np.log([[0.25, 0.5]])
    >>> distillation_grad(logps, old, teacher, [[1, 1]], 2.0).round(4)      # 2 ln 2 / 2; no gap
    array([[0.6931, 0.    ]])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    taught = np.ones(len(mask)) if has_teacher is None else has_teacher
    mask = mask * _checks.mask01("has_teacher", taught, shape=(len(mask),))[:, None]
    gap = _checks.counted("per_token_logps", per_token_logps, mask)
    gap = gap - _checks.counted("teacher_per_token_logps", teacher_per_token_logps, mask)
    rho = 1.0
    if is_clip is not None:
        is_clip = _checks.number("is_clip", is_clip, above=0)
        rho = sdft.clipped_ratio(per_token_logps, old_per_token_logps, mask, clip=is_clip)
    return reductions.token_weights(mask, reduction="grpo") * rho * gap

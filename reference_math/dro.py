"""DRO: REINFORCE with a squared penalty on the log-ratio to the policy that sampled, in place of a clip.

    c = -A log p + beta / 2 (log p - log p_old)^2

Source    Richemond et al., Offline Regularised RL for LLM Alignment (DRO), arXiv 2405.19107; per token,
          with a given advantage, as verl's and Tinker's dro
          the penalty: Kimi K2.5, arXiv 2602.02276, as prime-rl's loss has it with tau = beta / 2
Torch     reference_math.torch.dro     Lesson   none
Proof     tests/laws/test_dro.py, tests/parity/test_dro.py

Shapes    B completions, T tokens each.    Natural logs.

The pull back grows with the distance and never stops, and it acts on every token: a clip only stops those
that have gone too far.  A token is at rest where log p - log p_old = A / beta.

`penalty` alone is Kimi's regulariser, to be added to any policy loss; towards the sampler, its
log-probabilities stand for the old ones.  It is beta times `kl.k2`, reduced.  beta = 0 leaves `reinforce`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, ratios, reductions
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float.

    per_token_logps       (B, T)  log-probability of each sampled token under the policy
    old_per_token_logps   (B, T)  the same when it was sampled
    advantages            (B,), or (B, T) for one per token
    completion_mask       (B, T)  1 = counts
    beta                  >= 0, weight of the penalty
    reduction ... num_generations   as in `reductions.token_weights`

    >>> logps, old = [[-1.0, -1.0]], [[-3.0, -1.0]]
    >>> loss(logps, old, [2.0], [[1, 1]], beta=1.0, reduction="luspo")     # 2 + 2^2 / 2, and 2
    6.0
    """
    counts: dict[str, Any] = {"reduction": reduction}
    counts |= {"max_completion_length": max_completion_length}
    counts |= {"tokens_per_micro_batch": tokens_per_micro_batch, "num_generations": num_generations}
    weights = reductions.token_weights(completion_mask, **counts)
    logps = _checks.counted("per_token_logps", per_token_logps, np.asarray(completion_mask))
    a = ratios.as_column(advantages, len(weights))
    pulled = penalty(per_token_logps, old_per_token_logps, completion_mask, beta=beta, **counts)
    return pulled - float((weights * a * logps).sum())


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps) = -A + beta (log p - log p_old), reduced, (B, T).

    >>> logps, old = [[-1.0, -1.0]], [[-3.0, -1.0]]
    >>> loss_grad(logps, old, [2.0], [[1, 1]], beta=1.0, reduction="luspo")   # the first is at rest
    array([[ 0., -2.]])
    """
    counts: dict[str, Any] = {"reduction": reduction}
    counts |= {"max_completion_length": max_completion_length}
    counts |= {"tokens_per_micro_batch": tokens_per_micro_batch, "num_generations": num_generations}
    weights = reductions.token_weights(completion_mask, **counts)
    pull = penalty_grad(per_token_logps, old_per_token_logps, completion_mask, beta=beta, **counts)
    return pull - weights * ratios.as_column(advantages, len(weights))


def penalty(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> float:
    """Compute beta / 2 (log p - log p_old)^2, reduced, a float; the arguments of `loss`.

    >>> penalty([[-1.0, -1.0]], [[-3.0, -1.0]], [[1, 1]], beta=1.0, reduction="luspo")
    2.0
    """
    counts = reduction, max_completion_length, tokens_per_micro_batch, num_generations
    weights, s, beta = _inputs(per_token_logps, old_per_token_logps, completion_mask, beta, *counts)
    return float(beta / 2.0 * (weights * s**2).sum())


def penalty_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> Array:
    """Compute d penalty / d(per_token_logps) = beta (log p - log p_old), reduced, (B, T).

    >>> penalty_grad([[-1.0, -1.0]], [[-3.0, -1.0]], [[1, 1]], beta=1.0, reduction="luspo")
    array([[2., 0.]])
    """
    counts = reduction, max_completion_length, tokens_per_micro_batch, num_generations
    weights, s, beta = _inputs(per_token_logps, old_per_token_logps, completion_mask, beta, *counts)
    return beta * weights * s


def _inputs(logps, old_logps, completion_mask, beta, reduction, length, tokens, num_generations):
    weights = reductions.token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=length,
        tokens_per_micro_batch=tokens,
        num_generations=num_generations,
    )
    s = ratios.log_importance_weights(logps, old_logps, completion_mask, "token")
    return weights, s, _checks.number("beta", beta, at_least=0)

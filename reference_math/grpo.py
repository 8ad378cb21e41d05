"""GRPO's clipped surrogate; grpo, bnpo, dr_grpo, dapo, luspo and GSPO differ in how it is reduced.

    c = -min( min(w, delta) A,  clip(w, 1 - epsilon_low, 1 + epsilon_high) A )        w = e^s

Source    Shao et al., DeepSeekMath, arXiv 2402.03300, eq. 3 (one epsilon)
          Yu et al., DAPO, arXiv 2503.14476 (two); INTELLECT-2, arXiv 2505.07291 (delta)
          Zheng et al., GSPO, arXiv 2507.18071 (w of the sequence; GSPO-token)
Torch     reference_math.torch.grpo     Lesson   notebooks/03_grpo.ipynb
Proof     tests/laws/test_grpo.py, tests/parity/test_grpo.py, tests/parity/test_async_grpo.py

Shapes    B completions, T tokens each. log_weights s come from `ratios.log_importance_weights`:
          (B, 1) at sequence level, (B, T) at the two others.
TRL       AsyncGRPOTrainer is reduction "bnpo" over the micro-batch of all its processes, with the
          sampler's log-probabilities for the old ones; its advantages have ddof 0 and eps 1e-8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reference_math import _checks, grpo_terms, ratios
from reference_math._types import Array, ArrayLike, BoolArray


def loss(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    importance_sampling_level: str,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None = None,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float.

    per_token_logps             (B, T)  log-probability of each sampled token under the policy
    old_per_token_logps         (B, T)  the same when it was sampled; on-policy, a copy of the first
    advantages                  (B,), or (B, T) for one per token
    completion_mask             (B, T)  1 = counts
    importance_sampling_level   "token", "sequence" (GSPO) or "sequence_token" (GSPO-token: not the slope
                                of the value, for the ratio's other tokens are held constant)
    epsilon_low, epsilon_high, delta   as in `per_token_loss`
    reduction ... use_bias_correction_kl   as in `grpo_terms.loss`

    >>> logps = np.log([[0.5, 0.5]])
    >>> options = dict(importance_sampling_level="token", epsilon_low=0.2, epsilon_high=0.2)
    >>> loss(logps, logps, [2.0], [[1, 1]], reduction="grpo", **options)     # w = 1: minus A
    -2.0
    >>> old = np.log([[0.25, 0.5]])                                          # w = 2 and 1
    >>> loss(logps, old, [2.0], [[1, 1]], reduction="grpo", **options)       # -(1.2 + 1) 2 / 2
    -2.2
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    clip: dict[str, Any] = {
        "epsilon_low": epsilon_low,
        "epsilon_high": epsilon_high,
        "delta": delta,
    }
    c = per_token_loss(s, advantages, **clip)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss(c, s, per_token_logps, completion_mask, **terms)


def loss_grad(
    per_token_logps: ArrayLike,
    old_per_token_logps: ArrayLike,
    advantages: ArrayLike,
    completion_mask: ArrayLike,
    *,
    importance_sampling_level: str,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None = None,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T); the arguments of `loss`.

    >>> logps, options = np.log([[0.5, 0.5]]), dict(epsilon_low=0.2, epsilon_high=0.2)
    >>> options |= dict(importance_sampling_level="token", reduction="grpo")
    >>> loss_grad(logps, np.log([[0.25, 0.5]]), [2.0], [[1, 1]], **options)  # the first is clipped
    array([[ 0., -1.]])
    """
    tokens = per_token_logps, old_per_token_logps, completion_mask
    s = ratios.log_importance_weights(*tokens, importance_sampling_level)
    clip: dict[str, Any] = {
        "epsilon_low": epsilon_low,
        "epsilon_high": epsilon_high,
        "delta": delta,
    }
    dc = per_token_loss_grad(s, advantages, **clip)
    terms: dict[str, Any] = {"reduction": reduction, "max_completion_length": max_completion_length}
    terms |= {"tokens_per_micro_batch": tokens_per_micro_batch, "factor": factor}
    terms |= {"num_generations": num_generations}
    terms |= {"beta": beta, "ref_per_token_logps": ref_per_token_logps}
    terms |= {"use_bias_correction_kl": use_bias_correction_kl}
    return grpo_terms.loss_grad(0.0, dc, s, per_token_logps, completion_mask, **terms)


def per_token_loss(
    log_weights: Array,
    advantages: ArrayLike,
    *,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None,
) -> Array:
    """Compute the minimum of the clipped and the unclipped surrogate: no gradient beyond the clip.

    log_weights    (B, T) or (B, 1)
    advantages     (B,), or (B, T)
    epsilon_low    >= 0, inf for no lower clip
    epsilon_high   >= 0, inf for no upper clip
    delta          an upper bound of the ratio where A < 0, which the clip leaves unbounded; or None
    returns        the shape of log_weights, or (B, T)

    >>> s, clip = np.log([[0.5, 1.0, 3.0]]), dict(epsilon_low=0.2, epsilon_high=0.2)
    >>> -per_token_loss(s, [1.0], **clip, delta=None)       # clipped above only
    array([[0.5, 1. , 1.2]])
    >>> per_token_loss(s, [-1.0], **clip, delta=None)       # clipped below only
    array([[0.8, 1. , 3. ]])
    >>> per_token_loss(s, [-1.0], **clip, delta=2.0)
    array([[0.8, 1. , 2. ]])
    """
    low, high, delta = _bounds(epsilon_low, epsilon_high, delta)
    w, a = ratios.ratio(log_weights), ratios.as_column(advantages, len(log_weights))
    return -np.minimum(np.minimum(w, delta) * a, np.clip(w, low, high) * a)


def per_token_loss_grad(
    log_weights: Array,
    advantages: ArrayLike,
    *,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None,
) -> Array:
    """Compute d per_token_loss / d(log_weights): -A w where the chosen branch is not clipped, else 0.

    dw/ds = w; min and clip pass it on or stop it. A ratio exactly at a bound still passes, as in
    torch; where both branches are equal, so are their derivatives.

    >>> s, clip = np.log([[0.5, 1.0, 3.0]]), dict(epsilon_low=0.2, epsilon_high=0.2)
    >>> per_token_loss_grad(s, [1.0], **clip, delta=None)
    array([[-0.5, -1. , -0. ]])
    >>> per_token_loss_grad(s, [-1.0], **clip, delta=2.0)
    array([[0., 1., 0.]])
    """
    low, high, delta = _bounds(epsilon_low, epsilon_high, delta)
    w, a = ratios.ratio(log_weights), ratios.as_column(advantages, len(log_weights))
    first = np.minimum(w, delta) * a <= np.clip(w, low, high) * a
    passes = np.where(first, w <= delta, (low <= w) & (w <= high))
    return -a * ratios.ratio_grad(log_weights) * passes


def clipped(
    log_weights: Array,
    advantages: ArrayLike,
    *,
    epsilon_low: float,
    epsilon_high: float,
    delta: float | None,
) -> tuple[BoolArray, BoolArray]:
    """Find the clipped tokens: (low, high), two boolean arrays. Their token means are TRL's clip_ratio.

    low     the ratio fell below 1 - epsilon_low and A < 0
    high    it (or delta) is above 1 + epsilon_high and A > 0

    >>> s, clip = np.log([[0.5, 1.0, 3.0]]), dict(epsilon_low=0.2, epsilon_high=0.2, delta=None)
    >>> [c.tolist() for c in clipped(s, [-1.0], **clip)]
    [[[True, False, False]], [[False, False, False]]]
    """
    low, high, delta = _bounds(epsilon_low, epsilon_high, delta)
    w = np.minimum(ratios.ratio(log_weights), delta)
    a = ratios.as_column(advantages, len(log_weights))
    return (w < low) & (a < 0), (w > high) & (a > 0)


def _bounds(epsilon_low, epsilon_high, delta):
    for name, epsilon in (("epsilon_low", epsilon_low), ("epsilon_high", epsilon_high)):
        if not epsilon >= 0:
            raise ValueError(f"{name} must be >= 0 (inf for no clip), got {epsilon!r}")
    return 1.0 - epsilon_low, 1.0 + epsilon_high, _delta(delta)


def _delta(delta):
    return np.inf if delta is None else _checks.number("delta", delta, above=0)

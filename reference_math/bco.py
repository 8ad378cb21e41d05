"""BCO: binary classification of single answers; the logit is the implicit reward minus a mean.

    L = mean w (-log sigmoid(r - delta))  desirable,   mean w (-log sigmoid(delta - r))  undesirable
    r = beta (log p - log p_ref)

Source    Jung et al., arXiv 2404.04656, reward shift (delta) and underlying
          distribution matching (w)
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_bco.py, tests/parity/test_bco.py

Shapes    B answers, each with its own prompt.
Steps     `implicit_rewards.rewards`; `running_delta` of them, the batch's own included; `loss`.
TRL       BCOTrainer, last in 1.13.0: delta is the plain mean of all rewards seen so far, old and new
          alike, in float32. The paper's lies midway between the two classes' means (`midpoint`): the
          two agree where both classes have as many answers.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, implicit_rewards
from reference_math._stable import log_sigmoid, sigmoid
from reference_math._types import Array, ArrayLike


def running_delta(delta: float, count: int, rewards: ArrayLike) -> tuple[float, int]:
    """Compute (delta, count) after this batch: the mean of all rewards seen so far, and their number.

    Starts at (0, 0).  A constant for the gradient; evaluation does not update it.

    rewards   (B,)  of both classes; one NaN is a ValueError (TRL: delta is NaN for good)

    >>> running_delta(1.0, 2, [4.0])   # (1 + 1 + 4) / 3
    (2.0, 3)
    """
    rewards = _checks.finite("rewards", rewards, ndim=1)
    count = int(_checks.number("count", count, at_least=0)) + len(rewards)
    delta = _checks.number("delta", delta)
    return delta + float((rewards - delta).sum()) / max(count, 1), count


def midpoint(rewards: ArrayLike, label: ArrayLike) -> float:
    """Compute the paper's delta of one batch: halfway between the mean rewards of the two classes.

    rewards (B,), label (B,) 1 = desirable -> a float; a class that is missing counts as the other

    >>> midpoint([3.0, 1.0, 1.0, 1.0], [1, 0, 0, 0])   # the mean of all is 1.5
    2.0
    """
    rewards = _checks.finite("rewards", rewards, ndim=1)
    desirable = _checks.mask01("label", label, shape=rewards.shape).astype(bool)
    means = [rewards[own].mean() for own in (desirable, ~desirable) if own.any()]
    return float(np.mean(means)) if means else 0.0


def density_ratio(
    prob_desirable: ArrayLike, *, min_density_ratio: float = 0.5, max_density_ratio: float = 10.0
) -> Array:
    """Compute w of undesirable answers: how much likelier each prompt is among the desirable ones.

    prob_desirable   (B,)  of a classifier of prompts, 0 to 1
    returns          (B,)  p / (1 - p), clipped.  TRL adds 1e-8 to 1 - p instead of clipping p

    >>> density_ratio([0.5, 0.75, 1.0])
    array([ 1.,  3., 10.])
    """
    low = _checks.number("min_density_ratio", min_density_ratio, at_least=0)
    high = _checks.number("max_density_ratio", max_density_ratio, at_least=low)
    p = _checks.finite("prob_desirable", prob_desirable, ndim=1)
    if p.size and (p.min() < 0 or p.max() > 1):
        raise ValueError(f"prob_desirable must lie in 0..1, got {p.min()}..{p.max()}")
    p = np.clip(p, low / (1.0 + low), high / (1.0 + high))  # the ratio's bounds, as probabilities
    return p / (1.0 - p)


def loss(
    logps: ArrayLike,
    ref_logps: ArrayLike,
    label: ArrayLike,
    *,
    delta: float,
    beta: float,
    weights: ArrayLike | None = None,
) -> float:
    """Compute the loss of one batch, a float; 0 for an empty batch.

    logps, ref_logps   (B,)  of whole answers
    label              (B,)  1 = desirable
    delta              of `running_delta` or `midpoint`, a constant
    weights            (B,)  >= 0: 1 for desirable answers, `density_ratio` for others; None = all 1

    >>> round(loss([-1.0], [-2.0], [1], delta=0.1, beta=0.1), 4)   # r = delta: ln 2
    0.6931
    """
    h, w, _ = _judged(logps, ref_logps, label, delta, beta, weights)
    return float((-w * log_sigmoid(h)).sum()) / max(len(h), 1)


def loss_grad(
    logps: ArrayLike,
    ref_logps: ArrayLike,
    label: ArrayLike,
    *,
    delta: float,
    beta: float,
    weights: ArrayLike | None = None,
) -> Array:
    """Compute d loss / d logps, (B,): -+w beta sigmoid(-+(r - delta)) / B.

    >>> loss_grad([-1.0], [-2.0], [1], delta=0.1, beta=0.1)
    array([-0.05])
    """
    h, w, dh = _judged(logps, ref_logps, label, delta, beta, weights)
    return -w * sigmoid(-h) * dh / len(h)


def _judged(logps, ref_logps, label, delta, beta, weights):
    """h = +-(r - delta), w, and dh / d(logps)"""
    rewards = implicit_rewards.rewards(logps, ref_logps, beta=beta)
    sign = np.where(_checks.mask01("label", label, shape=rewards.shape) == 1, 1.0, -1.0)
    weights = np.ones_like(rewards) if weights is None else weights
    weights = _checks.finite("weights", weights, shape=rewards.shape)
    if (weights < 0).any():
        raise ValueError(f"weights must be >= 0, got {weights.min()} in shape {weights.shape}")
    return sign * (rewards - _checks.number("delta", delta)), weights, sign * beta

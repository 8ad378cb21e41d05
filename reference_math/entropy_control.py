"""Entropy in the GRPO family: a mask of high-entropy tokens, an entropy bonus, its controller.

Source    high_entropy_mask   Wang et al., Beyond the 80/20 Rule, arXiv 2506.01939
          bonus, next_coef    Skywork-OR1, arXiv 2505.22312
Torch     reference_math.torch.entropy_control     Lesson   none
Proof     tests/laws/test_entropy_control.py, tests/parity/test_entropy_control.py

Shapes    B completions, T tokens each. Entropies of the whole distribution at each position, in
          nats: `logprobs.entropy`.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike


def high_entropy_mask(
    entropies: ArrayLike, completion_mask: ArrayLike, *, top_entropy_quantile: float
) -> Array:
    """Mark with 1 the top_entropy_quantile of the batch's tokens with the highest entropy.

    The bar is the (1 - top_entropy_quantile) quantile, interpolated linearly between two tokens;
    a token at the bar is in.

    entropies              (B, T)
    completion_mask        (B, T)  1 = counts
    top_entropy_quantile   0 to 1: 0 keeps the highest token, 0.2 the paper's fifth, 1 all
    returns                (B, T)  all 0 when no token counts

    >>> high_entropy_mask([[1.0, 4.0, 2.0], [3.0, 5.0, 9.0]], [[1, 1, 1], [1, 1, 0]],
    ...                   top_entropy_quantile=0.5)               # the bar is the median, 3
    array([[0., 1., 0.],
           [1., 1., 0.]])
    """
    share = _checks.number("top_entropy_quantile", top_entropy_quantile, at_least=0, at_most=1)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    entropies = _checks.counted("entropies", entropies, mask)
    if not mask.any():
        return mask
    return mask * (entropies >= np.quantile(entropies[mask == 1], 1.0 - share))


def bonus(entropies: ArrayLike, completion_mask: ArrayLike) -> float:
    """Compute the mean entropy of the tokens that count; 0 when none does. A trainer maximises it:

    loss = policy loss - entropy_coef * bonus

    entropies         (B, T)
    completion_mask   (B, T)  times `high_entropy_mask`, where that is used

    >>> bonus([[0.25, 0.75, 9.0]], [[1, 1, 0]])
    0.5
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    return float(_checks.counted("entropies", entropies, mask).sum() / max(mask.sum(), 1.0))


def bonus_grad(completion_mask: ArrayLike) -> Array:
    """Compute d bonus / d(entropies), (B, T): one over the tokens that count.

    >>> bonus_grad([[1, 1, 0]])
    array([[0.5, 0.5, 0. ]])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    return mask / max(mask.sum(), 1.0)


def next_coef(
    entropy_coef: float,
    mean_entropy: float,
    *,
    entropy_target: float,
    step: float,
    low: float,
    high: float,
) -> float:
    """Update Skywork-OR1's coefficient by one optimizer step: up by `step` while the entropy is at or below
    its target, down by it above, inside [low, high]. TRL also applies the coefficient only while
    the entropy of the step before was at or below the target.

    >>> bounds = dict(entropy_target=0.2, step=0.005, low=0.0, high=1.0)
    >>> next_coef(0.01, 0.2, **bounds), next_coef(0.01, 0.3, **bounds), next_coef(0.0, 0.3, **bounds)
    (0.015, 0.005, 0.0)
    """
    if mean_entropy <= entropy_target:
        return min(entropy_coef + step, high)
    return max(entropy_coef - step, low)

"""REINFORCE with a baseline: the simplest policy gradient, from which the GRPO family derives.

    loss = -1/B sum_b A_b log p(completion_b)          so -d loss = an unbiased gradient of E[r]

Source    Williams, "Simple statistical gradient-following algorithms", 1992
          Sutton & Barto, "Reinforcement Learning", section 13.4 (the baseline)
Torch     reference_math.torch.reinforce     Lesson   none
Proof     tests/laws/test_reinforce.py, tests/parity/test_rloo.py

Shapes    B completions, T tokens each.

The value means nothing (it is no reward); only its gradient does. It is right on-policy alone:
the completions come from the policy as it is now.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, ratios
from reference_math._types import Array, ArrayLike


def loss(per_token_logps: ArrayLike, advantages: ArrayLike, completion_mask: ArrayLike) -> float:
    """Compute the loss of one batch, a float.

    per_token_logps   (B, T)  log-probability of each sampled token
    advantages        (B,), or (B, T) for one per token: the reward less a baseline that does not
                      depend on the completion (`advantages.leave_one_out` is such a one)
    completion_mask   (B, T)  1 = counts

    >>> loss(np.log([[0.5, 0.5], [0.5, 0.1]]), [1.0, -1.0], [[1, 1], [1, 0]])           # ln 2 / 2
    0.34657359027997264
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    return float(np.sum(loss_grad(per_token_logps, advantages, completion_mask) * logps))


def loss_grad(
    per_token_logps: ArrayLike, advantages: ArrayLike, completion_mask: ArrayLike
) -> Array:
    """Compute d loss / d(per_token_logps) = -A / B on every token that counts: the loss is linear.

    >>> loss_grad(np.log([[0.5, 0.5], [0.5, 0.1]]), [1.0, -1.0], [[1, 1], [1, 0]])
    array([[-0.5, -0.5],
           [ 0.5,  0. ]])
    """
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    _checks.counted("per_token_logps", per_token_logps, mask)  # its values do not matter
    return mask * -ratios.as_column(advantages, len(mask)) / max(len(mask), 1)

"""XPO: online DPO of the policy's answer against the reference's, with an exploration bonus.

    L = 1/B sum_b ( -log sigmoid(h_b) + alpha log p(y_ref) )

h is that of `online_dpo`; y_ref is the reference's answer.  Making it less likely moves the policy
towards answers not seen yet: this is the exploration of the paper.

Source    Xie et al., Exploratory Preference Optimization, arXiv 2405.21046, algorithm 1
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_xpo.py, tests/parity/test_xpo.py (TRL 1.13.0, the last that had it)

Shapes    B prompts, 2B answers of T positions: the B of the policy, then the B of the reference.

TRL's alpha is 1e-5 by default, and one number or a list, one per epoch.  Its micro-batches are not
divided by the accumulation steps: see `online_dpo`.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, dpo, online_dpo
from reference_math._types import Array, ArrayLike


def loss(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    rewards: ArrayLike,
    completion_mask: ArrayLike,
    *,
    alpha: float,
    beta: float,
    loss_type: str = "sigmoid",
) -> float:
    """Compute the loss of one micro-batch, a float; the arguments of `online_dpo.loss`, and

    alpha   >= 0  how much exploration; 0 is online DPO against the reference's answers

    >>> logps, ref, ones = np.log([[0.5], [0.25]]), np.log([[0.25], [0.5]]), [[1], [1]]
    >>> options = dict(alpha=0.5, beta=1.0)
    >>> round(loss(logps, ref, [1.0, 0.0], ones, **options), 4)      # ln(1 + 1/4) + 1/2 ln 1/4
    -0.47
    """
    alpha = _checks.number("alpha", alpha, at_least=0)
    tokens = per_token_logps, ref_per_token_logps, rewards, completion_mask
    preference = online_dpo.loss(*tokens, beta=beta, loss_type=loss_type)
    logps = dpo.sequence_logps(per_token_logps, completion_mask)
    return preference + alpha * float((_of_reference(logps) * logps).sum())


def loss_grad(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    rewards: ArrayLike,
    completion_mask: ArrayLike,
    *,
    alpha: float,
    beta: float,
    loss_type: str = "sigmoid",
) -> Array:
    """Compute d loss / d(per_token_logps), (2B, T): the bonus adds alpha / B to the reference's answers.

    >>> logps, ref, ones = np.log([[0.5], [0.25]]), np.log([[0.25], [0.5]]), [[1], [1]]
    >>> loss_grad(logps, ref, [1.0, 0.0], ones, alpha=0.5, beta=1.0).round(4).tolist()
    [[-0.2], [0.7]]
    """
    alpha = _checks.number("alpha", alpha, at_least=0)
    tokens = per_token_logps, ref_per_token_logps, rewards, completion_mask
    preference = online_dpo.loss_grad(*tokens, beta=beta, loss_type=loss_type)
    mask = _checks.mask01("completion_mask", completion_mask)
    return preference + alpha * _of_reference(mask)[:, None] * mask


def _of_reference(rows):
    """(2B,)  1 / B for the answers of the reference, 0 for those of the policy."""
    pairs = len(rows) // 2
    return np.repeat([0.0, 1.0], pairs) / pairs  # empty batch: nothing is divided by 0

"""Reward model: score whole answers so that the preferred one of two scores higher.

    P(chosen beats rejected) = sigmoid(r_chosen - r_rejected)                        Bradley-Terry
    L = mean -log sigmoid(r_chosen - r_rejected - m)  +  c mean (r_chosen + r_rejected)^2

Source    Ouyang et al., arXiv 2203.02155, eq. 1; margin m: Touvron et al. (Llama 2), arXiv
          2307.09288, eq. 2; centring c: Eisenstein et al., arXiv 2312.09244
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_reward_model.py, tests/parity/test_reward_model.py

Shapes    B pairs, T tokens.    Log: implicit_rewards.margins and .accuracies take these rewards.
TRL       RewardTrainer. Ouyang et al. take all K (K - 1) / 2 pairs of one prompt as one batch
          element; TRL takes pairs as they come. Its accuracy leaves the margin out.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._stable import log_sigmoid, sigmoid
from reference_math._types import Array, ArrayLike, IntArray


def scored_positions(input_ids: ArrayLike, *, pad_token_id: int) -> IntArray:
    """Find the token whose output is the answer's score: the last that is not padding, on either side.

    A tokenizer that pads with its end-of-sequence token hides that token: the one before is scored.

    input_ids   (B, T)
    returns     (B,)    a row of padding alone: ValueError (transformers scores its first token)

    >>> scored_positions([[5, 6, 0], [0, 0, 7]], pad_token_id=0)
    array([1, 2])
    """
    text = _checks.array("input_ids", input_ids, ndim=2, dtype=None) != pad_token_id
    if not text.any(axis=1).all():
        row = int(np.argmin(text.any(axis=1)))
        raise ValueError(f"input_ids must hold a token in each row, got only padding in row {row}")
    return text.shape[1] - 1 - text[:, ::-1].argmax(axis=1)


def loss(
    chosen_rewards: ArrayLike,
    rejected_rewards: ArrayLike,
    *,
    margin: ArrayLike | None = None,
    center_rewards_coefficient: float | None = None,
) -> float:
    """Compute the loss of one batch, a float; 0 for an empty batch (TRL stops).

    chosen_rewards, rejected_rewards   (B,)
    margin                             (B,)  m: by how much the chosen answer is better; None = 0
    center_rewards_coefficient         c >= 0; None = 0: the pairs fix r only up to a constant

    >>> round(loss([1.0], [1.0]), 4)   # ln 2
    0.6931
    >>> round(loss([1.0], [1.0], center_rewards_coefficient=0.25), 4)   # + 1/4 (1 + 1)^2
    1.6931
    """
    x, total, c = _inputs(chosen_rewards, rejected_rewards, margin, center_rewards_coefficient)
    return float((-log_sigmoid(x) + c * total**2).sum()) / max(len(x), 1)


def loss_grad(
    chosen_rewards: ArrayLike,
    rejected_rewards: ArrayLike,
    *,
    margin: ArrayLike | None = None,
    center_rewards_coefficient: float | None = None,
) -> tuple[Array, Array]:
    """Compute (d/d chosen, d/d rejected), (B,): -+sigmoid(-x) / B for the pair, 2 c (sum) / B for both.

    >>> loss_grad([1.0], [1.0])
    (array([-0.5]), array([0.5]))
    """
    x, total, c = _inputs(chosen_rewards, rejected_rewards, margin, center_rewards_coefficient)
    pair, both = sigmoid(-x) / len(x), 2.0 * c * total / len(x)
    return both - pair, both + pair


def _inputs(chosen, rejected, margin, center_rewards_coefficient):
    chosen = _checks.finite("chosen_rewards", chosen, ndim=1)
    rejected = _checks.finite("rejected_rewards", rejected, shape=chosen.shape)
    margin = np.zeros_like(chosen) if margin is None else margin
    margin = _checks.finite("margin", margin, shape=chosen.shape)
    c = 0.0 if center_rewards_coefficient is None else center_rewards_coefficient
    c = _checks.number("center_rewards_coefficient", c, at_least=0)
    return chosen - rejected - margin, chosen + rejected, c

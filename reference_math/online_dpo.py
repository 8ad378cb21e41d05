"""Online DPO: DPO on two sampled answers per prompt, ordered by their rewards.

    L = 1/B sum_b -log sigmoid(h_b)       h = beta (log-ratio(better) - log-ratio(worse))

Source    Guo et al., Direct Language Model Alignment from Online AI Feedback, arXiv 2402.04792
          the losses: `dpo` (Rafailov et al., eq. 7; IPO's eq. 17)
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_online_dpo.py, tests/parity/test_online_dpo.py

Shapes    B prompts, 2B answers of T positions: the B first ones, then the B second ones.
          A log-ratio is log p_policy - log p_ref of a whole answer.

TRL 1.16: the answers are sampled at temperature 0.9, but the loss takes log p at temperature 1.  Its
IPO is of whole answers, as the paper's (TRL's own DPOTrainer divides by their lengths).  It never
divides by the gradient accumulation steps: with four, the gradient is four times this one, and only
the logged loss is right.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _renamed, dpo
from reference_math._types import Array, ArrayLike, IntArray

LOSS_TYPES = ("sigmoid", "ipo")


def eos_penalized_rewards(
    rewards: ArrayLike, ended: ArrayLike, *, missing_eos_penalty: float
) -> Array:
    """Subtract a penalty from the reward of each answer without an end-of-sequence token.

    rewards               (2B,)
    ended                 (2B,)  1 = holds the end-of-sequence token
    missing_eos_penalty   >= 0

    >>> eos_penalized_rewards([1.0, 1.0], [1, 0], missing_eos_penalty=5.0)
    array([ 1., -4.])
    """
    penalty = _checks.number("missing_eos_penalty", missing_eos_penalty, at_least=0)
    rewards = _checks.finite("rewards", rewards, ndim=1)
    return rewards - penalty * (1.0 - _checks.mask01("ended", ended, shape=rewards.shape))


def better_first(rewards: ArrayLike) -> IntArray:
    """Return (2B,) indices of the better answers, then of the worse: a tie goes to the first answer.

    >>> better_first([1.0, 2.0, 3.0,    0.0, 2.0, 9.0])
    array([0, 1, 5, 3, 4, 2])
    """
    first, second = np.split(_checks.finite("rewards", rewards, ndim=1), [_half(rewards)])
    at, lost = np.arange(len(first)), (first < second) * len(first)
    return np.concatenate([at + lost, at + len(first) - lost])


def loss(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    rewards: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    loss_type: str = "sigmoid",
) -> float:
    """Compute the loss of one micro-batch, a float; 0 for an empty batch.

    per_token_logps       (2B, T)  of the policy, which sampled them
    ref_per_token_logps   (2B, T)
    rewards               (2B,)    no gradient
    completion_mask       (2B, T)  1 = counts
    beta                  >= 0; > 0 for ipo
    loss_type             "sigmoid" or "ipo"

    >>> logps, ref, ones = np.log([[0.5], [0.25]]), np.log([[0.25], [0.5]]), [[1], [1]]
    >>> round(loss(logps, ref, [1.0, 0.0], ones, beta=1.0), 4)     # log-ratios +-ln 2: ln(1 + 1/4)
    0.2231
    >>> round(loss(logps, ref, [0.0, 1.0], ones, beta=1.0), 4)     # the other way round: ln(1 + 4)
    1.6094
    """
    _checks.one_of("loss_type", loss_type, LOSS_TYPES)
    better, worse, _ = _log_ratios(per_token_logps, ref_per_token_logps, rewards, completion_mask)
    return float(getattr(dpo, loss_type)(better, worse, beta=beta).sum()) / max(len(better), 1)


def loss_grad(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    rewards: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    loss_type: str = "sigmoid",
) -> Array:
    """Compute d loss / d(per_token_logps), (2B, T): `dpo`'s slope on every token of an answer, over B.

    >>> logps, ref, ones = np.log([[0.5], [0.25]]), np.log([[0.25], [0.5]]), [[1], [1]]
    >>> loss_grad(logps, ref, [1.0, 0.0], ones, beta=1.0).round(4).tolist()     # -+1 / (1 + 4)
    [[-0.2], [0.2]]
    """
    _checks.one_of("loss_type", loss_type, LOSS_TYPES)
    tokens = per_token_logps, ref_per_token_logps, rewards, completion_mask
    better, worse, order = _log_ratios(*tokens)
    grad = np.empty(len(order))
    slopes = getattr(dpo, loss_type + "_grad")(better, worse, beta=beta)
    grad[order] = np.concatenate(slopes) / len(better)  # empty batch: nothing is divided by 0
    return grad[:, None] * _checks.mask01("completion_mask", completion_mask)


def _log_ratios(per_token_logps, ref_per_token_logps, rewards, completion_mask):
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    ref_per_token_logps = _checks.counted("ref_per_token_logps", ref_per_token_logps, mask)
    logps, ref_logps = (dpo.sequence_logps(x, mask) for x in (per_token_logps, ref_per_token_logps))
    order = better_first(_checks.finite("rewards", rewards, shape=logps.shape))
    return *np.split((logps - ref_logps)[order], 2), order


def _half(rewards):
    if len(rewards) % 2:
        raise ValueError(f"rewards must be 2B, the B first answers' before, got {len(rewards)}")
    return len(rewards) // 2


penalized_rewards = _renamed.function("penalized_rewards", eos_penalized_rewards)

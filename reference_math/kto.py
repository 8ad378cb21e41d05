"""KTO: learn from single answers, each labelled desirable or not, with a saturating loss.

    L = mean lambda_y (1 - v)        v = sigmoid(beta (u - z))  desirable,  sigmoid(beta (z - u))  not
    u = log p(y|x) - log p_ref(y|x)          z = max(0, mean of u over mismatched x_i, y_j)   constant

Source    Ethayarajh et al., arXiv 2402.01306, eqs. 7 and 8
          apo_zero_unpaired: D'Oosterlinck et al., arXiv 2408.06266, eq. 7, term by term: z = 0
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_kto.py, tests/parity/test_kto.py

Shapes    B answers, each with its own prompt.    dpo.sequence_logps sums an answer's tokens.
Steps     `kl_partners` pairs the prompts with other answers; `kl_baseline` of those; `loss`.

z stands for KL(p || p_ref), but its answers come from the data, not from p. So it does not estimate
the KL unless the two agree, and the clamp at 0 raises it. No gradient flows through z. TRL averages
over the local micro-batch, gathered over processes.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._stable import sigmoid
from reference_math._types import Array, ArrayLike, IntArray


def kl_partners(num_examples: int, *, batch_size: int) -> IntArray:
    """Return the index of the answer that is paired with each prompt for the KL baseline.

    It is the previous example's answer within the same micro-batch; the first example takes the last
    one's. The last micro-batch may be short; a single example is paired with itself, and z is its
    own u.

    returns   (num_examples,)   prompt i goes with answer partners[i]

    >>> kl_partners(5, batch_size=3)
    array([2, 0, 1, 4, 3])
    """
    if batch_size != int(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer >= 1, got {batch_size!r}")
    i = np.arange(num_examples)
    last = np.minimum(i + batch_size, num_examples) - 1  # of the micro-batch that i opens
    return np.where(i % batch_size == 0, last, i - 1)


def kl_baseline(kl_logps: ArrayLike, ref_kl_logps: ArrayLike) -> float:
    """Compute z, a float >= 0: the mean log-ratio of the mismatched pairs; 0 if there are none.

    kl_logps, ref_kl_logps   (B,)  log p and log p_ref of answer partners[i] after prompt i

    >>> kl_baseline([-1.0, -2.0], [-2.0, -2.5])   # (1 + 0.5) / 2
    0.75
    """
    logps = _checks.finite("kl_logps", kl_logps, ndim=1)
    ref_logps = _checks.finite("ref_kl_logps", ref_kl_logps, shape=logps.shape)
    return max(0.0, float((logps - ref_logps).sum()) / max(len(logps), 1))


def loss(
    logps: ArrayLike,
    ref_logps: ArrayLike,
    label: ArrayLike,
    *,
    kl: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> float:
    """Compute the loss of one batch, a float; 0 for an empty batch.

    logps, ref_logps     (B,)  of whole answers
    label                (B,)  1 = desirable
    kl                   z of `kl_baseline`, a constant; 0 makes TRL's apo_zero_unpaired
    beta                 >= 0: how quickly gains and losses saturate
    desirable_weight, undesirable_weight   lambda >= 0. The paper keeps their ratio, times that of
                         the answers' numbers, between 1 and 4/3 (eq. 8)

    A NaN among the log-probabilities is a ValueError; TRL leaves that answer out without a warning.

    >>> loss([-1.0, -1.0], [-1.0, -1.0], [1, 0], kl=0.0, beta=0.1, undesirable_weight=3.0)
    1.0
    """
    lambdas = (desirable_weight, undesirable_weight)
    h, weights, _ = _judged(logps, ref_logps, label, kl, beta, *lambdas)
    return float((weights * sigmoid(-h)).sum()) / max(len(h), 1)


def loss_grad(
    logps: ArrayLike,
    ref_logps: ArrayLike,
    label: ArrayLike,
    *,
    kl: float,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Array:
    """Compute d loss / d logps, (B,): -+lambda beta v (1 - v) / B; largest at u = z, 0 far from it.

    >>> loss_grad([-1.0, -1.0], [-1.0, -1.0], [1, 0], kl=0.0, beta=0.8)   # 0.8 / 4 / 2
    array([-0.1,  0.1])
    """
    lambdas = (desirable_weight, undesirable_weight)
    h, weights, dh = _judged(logps, ref_logps, label, kl, beta, *lambdas)
    return -weights * sigmoid(h) * sigmoid(-h) * dh / len(h)


def _judged(logps, ref_logps, label, kl, beta, desirable_weight, undesirable_weight):
    """h = +-beta (u - z), lambda, and dh / du"""
    logps = _checks.finite("logps", logps, ndim=1)
    ref_logps = _checks.finite("ref_logps", ref_logps, shape=logps.shape)
    desirable = _checks.mask01("label", label, shape=logps.shape) == 1
    z = _checks.number("kl", kl, at_least=0)
    dh = np.where(desirable, 1.0, -1.0) * _checks.number("beta", beta, at_least=0)
    gain = _checks.number("desirable_weight", desirable_weight, at_least=0)
    loss = _checks.number("undesirable_weight", undesirable_weight, at_least=0)
    return dh * (logps - ref_logps - z), np.where(desirable, gain, loss), dh

"""AlphaPO: SimPO with a reward that is a power of the probability, with one parameter alpha.

    r = (1 - p^-alpha) / alpha,   p the geometric mean of the tokens' probabilities;   alpha -> 0: log p

Source    Gupta et al., arXiv 2501.03884; then SimPO's loss of the two rewards
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_alphapo.py, tests/parity/test_cpo_trainer.py

Shapes    any; the same in and out.
TRL       CPOTrainer, alpha (trl.experimental), computes (e^s)^-alpha: inf where the answer's
          probability rounds to 0, and NaN where both answers' do. With summed log-probabilities
          (loss_type "sigmoid", "hinge") in float32 this holds for every answer of 104 nats or more.
          loss_type="alphapo" leaves alpha at its default of 0, which is SimPO.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike

_LARGEST = (
    340.0  # e^340 and its square, which ipo takes, fit in float64; beyond it the reward is constant
)


def reward(mean_logps: ArrayLike, *, alpha: float) -> Array:
    """Compute (1 - e^(-alpha s)) / alpha, increasing in s: steep for unlikely answers where alpha > 0.

    mean_logps   s, the mean log-probability of an answer's tokens
    alpha        any number; 0 is s itself

    >>> reward(np.log([0.5, 1.0]), alpha=1.0)   # 1 - 1/p
    array([-1.,  0.])
    """
    s, alpha = _inputs(mean_logps, alpha)
    return -np.expm1(_exponent(s, alpha)) / alpha if alpha else s


def reward_grad(mean_logps: ArrayLike, *, alpha: float) -> Array:
    """Compute d reward / d s = e^(-alpha s) = p^-alpha; 0 where the reward is cut off.

    >>> reward_grad(np.log([0.5, 1.0]), alpha=1.0)
    array([2., 1.])
    """
    s, alpha = _inputs(mean_logps, alpha)
    return np.exp(_exponent(s, alpha)) * (np.abs(alpha * s) <= _LARGEST)


def _inputs(mean_logps, alpha):
    return _checks.finite("mean_logps", mean_logps), _checks.number("alpha", alpha)


def _exponent(s, alpha):
    return np.clip(-alpha * s, -_LARGEST, _LARGEST)

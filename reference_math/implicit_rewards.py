"""Compute the reward that a policy trained by DPO implies, and the metrics to log.

    r(x, y) = beta (log p(y|x) - log p_ref(y|x)) + beta log Z(x)

Source    Rafailov et al., arXiv 2305.18290, eq. 5; Z(x) is left out: it cancels in every margin
Lesson    notebooks/02_dpo.ipynb
Proof     tests/laws/test_implicit_rewards.py, tests/parity/test_dpo.py

Shapes    N answers, B pairs.    TRL logs the plain rewards whatever the loss: neither its
          f-divergence nor its length normalisation enters them.
"""

from __future__ import annotations

from reference_math import _checks
from reference_math._types import Array, ArrayLike


def rewards(logps: ArrayLike, ref_logps: ArrayLike, *, beta: float) -> Array:
    """Compute beta (log p - log p_ref) of each answer.

    logps, ref_logps   (N,)  summed over the answer's tokens
    returns            (N,)

    >>> rewards([-2.0, -5.0], [-3.0, -3.0], beta=0.1)
    array([ 0.1, -0.2])
    """
    beta = _checks.number("beta", beta, at_least=0)
    logps = _checks.finite("logps", logps, ndim=1)
    return beta * (logps - _checks.finite("ref_logps", ref_logps, shape=logps.shape))


def margins(chosen_rewards: ArrayLike, rejected_rewards: ArrayLike) -> Array:
    """Compute the reward of the chosen answer minus that of the rejected one, (B,).

    >>> margins([0.5, 0.5], [0.25, 0.5])
    array([0.25, 0.  ])
    """
    chosen = _checks.finite("chosen_rewards", chosen_rewards, ndim=1)
    return chosen - _checks.finite("rejected_rewards", rejected_rewards, shape=chosen.shape)


def accuracies(chosen_rewards: ArrayLike, rejected_rewards: ArrayLike) -> Array:
    """Compute 1 where the chosen answer has the higher reward, (B,); a tie counts 0, as at the start.

    >>> accuracies([0.5, 0.5], [0.25, 0.5])
    array([1., 0.])
    """
    return (margins(chosen_rewards, rejected_rewards) > 0).astype(float)

"""SimPO: the mean log-probability is the reward, and the loss asks for a margin. No reference.

    L = -log sigmoid(beta mean_t l(chosen) - beta mean_t l(rejected) - gamma)

Source    Meng et al., arXiv 2405.14734, eq. 6: beta 2 to 2.5, gamma 0.3 to 1.6 in its runs
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_simpo.py, tests/parity/test_cpo_trainer.py

Shapes    B pairs.    `cpo_trainer` goes from token log-probs to this.
TRL       CPOTrainer, loss_type="simpo" (trl.experimental): its defaults beta 0.1, gamma 0.5 ask for
          a margin of 5 nats per token, and cpo_alpha = 1 adds an nll that is not the paper's.
"""

from __future__ import annotations

from reference_math import _checks, cpo
from reference_math._types import Array, ArrayLike


def pair_loss(
    chosen_rewards: ArrayLike,
    rejected_rewards: ArrayLike,
    *,
    beta: float,
    simpo_gamma: float,
    label_smoothing: float = 0.0,
) -> Array:
    """Compute -log sigmoid(beta (chosen - rejected) - gamma), (B,); smoothed as in `cpo`.

    chosen_rewards, rejected_rewards   (B,)  mean log-probability of the answer's tokens; AlphaPO's
                                       reward of it
    beta                               > 0; 0 is a division by zero in TRL, a ValueError here
    simpo_gamma                        gamma

    >>> pair_loss([-1.0], [-1.5], beta=2.0, simpo_gamma=1.0).round(4)   # the margin is won: ln 2
    array([0.6931])
    """
    chosen, rejected = _shifted(chosen_rewards, rejected_rewards, beta, simpo_gamma)
    return cpo.pair_loss(chosen, rejected, beta=beta, label_smoothing=label_smoothing)


def pair_loss_grad(
    chosen_rewards: ArrayLike,
    rejected_rewards: ArrayLike,
    *,
    beta: float,
    simpo_gamma: float,
    label_smoothing: float = 0.0,
) -> tuple[Array, Array]:
    """Compute (d/d chosen, d/d rejected), each (B,): `cpo`'s, with the margin subtracted.

    >>> pair_loss_grad([-1.0], [-1.5], beta=2.0, simpo_gamma=1.0)
    (array([-1.]), array([1.]))
    """
    chosen, rejected = _shifted(chosen_rewards, rejected_rewards, beta, simpo_gamma)
    return cpo.pair_loss_grad(chosen, rejected, beta=beta, label_smoothing=label_smoothing)


def _shifted(chosen, rejected, beta, simpo_gamma):
    chosen = _checks.finite("chosen_rewards", chosen, ndim=1)
    rejected = _checks.finite("rejected_rewards", rejected, shape=chosen.shape)
    gamma = _checks.number("simpo_gamma", simpo_gamma)
    return chosen - gamma / _checks.number("beta", beta, above=0), rejected

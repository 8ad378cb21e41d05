"""Nash-MD: policy gradient of the win rate against a mixture of the policy and the reference.

    L = 1/B sum_b ( beta KL_b - (P_b - 1/2) log p(y_b) )       P = P(y beats y'),  y' of the mixture
    p_mix  ~  p_ref^c p^(1 - c)

Source    Munos et al., Nash Learning from Human Feedback, arXiv 2312.00886: the mixture (Nash-MD),
          and Nash-MD-PG's gradient  grad log p(y) (P - 1/2 - beta log p(y) / p_ref(y))
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_nash_md.py, tests/parity/test_nash_md.py (TRL 1.13.0, the last that had it)

Shapes    B completions, T positions, V tokens of vocabulary.

KL_b as a loss has the value of sum_t sg[log p_t / p_ref_t] log p_t, which means nothing; its gradient
does.  kl_level says which:
    "sequence"   each token gets the log-ratio of the whole answer: the paper's, unbiased
    "token"      each token gets its own log-ratio: TRL's.  It misses what the token does to the
                 log-ratios after it, so its mean is not the gradient of the KL for more than one token
TRL has no preference model: its P is a sigmoid of the difference of two rewards (Bradley-Terry),
under which the game is the ordinary one.  It samples at temperature 0.9 and takes log p at 1, and
does not divide by the accumulation steps: see `online_dpo`.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, _stable, logprobs
from reference_math._types import Array, ArrayLike

KL_LEVELS = ("sequence", "token")


def mixture_log_probs(logits: ArrayLike, ref_logits: ArrayLike, *, mixture_coef: float) -> Array:
    """Compute the log of the geometric mixture that the rival samples from, normalised:
    c ref + (1 - c) policy.

    logits, ref_logits   (..., V)
    mixture_coef         c, 0 to 1; 0 is self-play, 1 plays against the reference
    returns              (..., V)

    >>> np.exp(mixture_log_probs([2 * np.log(3.0), 0.0], [0.0, 0.0], mixture_coef=0.5)).round(4)
    array([0.75, 0.25])
    """
    c = _checks.number("mixture_coef", mixture_coef, at_least=0, at_most=1)
    logits = _checks.finite("logits", logits)
    ref_logits = _checks.finite("ref_logits", ref_logits, shape=logits.shape)
    return logprobs.log_softmax(c * ref_logits + (1.0 - c) * logits)


def win_probability(rewards: ArrayLike, mixture_rewards: ArrayLike) -> Array:
    """Compute Bradley and Terry's P, the sigmoid of the difference, (B,). The paper asks a preference model.

    >>> win_probability([np.log(3.0)], [0.0]).round(4)
    array([0.75])
    """
    rewards = _checks.finite("rewards", rewards, ndim=1)
    return _stable.sigmoid(
        rewards - _checks.finite("mixture_rewards", mixture_rewards, shape=rewards.shape)
    )


def loss(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    win_probability: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    kl_level: str,
) -> float:
    """Compute the surrogate of one micro-batch, a float; 0 for an empty batch.

    per_token_logps       (B, T)  of the policy, on its own completions
    ref_per_token_logps   (B, T)
    win_probability       (B,)    against the mixture's completions, 0 to 1; no gradient
    completion_mask       (B, T)  1 = counts
    beta                  >= 0    the paper's tau
    kl_level              "sequence" (the paper) or "token" (TRL)

    >>> logps, ref = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])                   # ln 2 and 0
    >>> round(loss(logps, ref, [0.75], [[1, 1]], beta=1.0, kl_level="token"), 4)
    -0.1339
    """
    tokens = per_token_logps, ref_per_token_logps, win_probability, completion_mask
    grad, logps = _grad_and_logps(*tokens, beta, kl_level)
    return float(np.sum(grad * logps))


def loss_grad(
    per_token_logps: ArrayLike,
    ref_per_token_logps: ArrayLike,
    win_probability: ArrayLike,
    completion_mask: ArrayLike,
    *,
    beta: float,
    kl_level: str,
) -> Array:
    """Compute d loss / d(per_token_logps) = (beta log-ratio - (P - 1/2)) / B: all but log p is constant.

    >>> logps, ref = np.log([[0.5, 0.5]]), np.log([[0.25, 0.5]])
    >>> loss_grad(logps, ref, [0.75], [[1, 1]], beta=1.0, kl_level="token").round(4)
    array([[ 0.4431, -0.25  ]])
    >>> loss_grad(logps, ref, [0.75], [[1, 1]], beta=1.0, kl_level="sequence").round(4)
    array([[0.4431, 0.4431]])
    """
    tokens = per_token_logps, ref_per_token_logps, win_probability, completion_mask
    return _grad_and_logps(*tokens, beta, kl_level)[0]


def _grad_and_logps(per_token_logps, ref_per_token_logps, win, completion_mask, beta, kl_level):
    _checks.one_of("kl_level", kl_level, KL_LEVELS)
    beta = _checks.number("beta", beta, at_least=0)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    logps = _checks.counted("per_token_logps", per_token_logps, mask)
    log_ratio = logps - _checks.counted("ref_per_token_logps", ref_per_token_logps, mask)
    win = _checks.finite("win_probability", win, shape=(len(mask),))
    if ((win < 0) | (win > 1)).any():
        raise ValueError(f"win_probability must lie in 0..1, got {win.min()}..{win.max()}")
    if kl_level == "sequence":
        log_ratio = log_ratio.sum(axis=1, keepdims=True)
    grad = mask * (beta * log_ratio - (win[:, None] - 0.5))
    return grad / len(mask), logps  # empty batch: nothing is divided by 0

"""Compute log-probabilities and entropy of tokens from a language model's logits.

    log p_v = z_v / tau - log sum_u exp(z_u / tau)        H = -sum_v p_v log p_v

Source    Sutton & Barto, "Reinforcement Learning", section 13.3 (the gradient of a softmax policy)
Torch     reference_math.torch.logprobs     Lesson   notebooks/01_sft.ipynb, section 3
Proof     tests/laws/test_logprobs.py, tests/parity/test_logprobs.py

Shapes    B sequences, T positions, V tokens of vocabulary.    Natural logs; entropy in nats.
          logits[b, t] are already shifted: they predict tokens[b, t].
Chain     An objective gives dL/d(per_token_logps); `logits_grad` carries it to the logits.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks
from reference_math._types import Array, ArrayLike


def log_softmax(logits: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Compute the log-probability of every token of the vocabulary.

    Nothing overflows at any finite logit, and a token with p = 1 - 1e-20 keeps log p = -1e-20:
    log1p of the others, where log(sum) would round to 0.

    logits        (..., V)  any finite number
    temperature   tau > 0   divides the logits: 1 in SFT and DPO, the sampling temperature in RL
    returns       (..., V)  never positive; exp sums to 1 over V

    >>> log_softmax([[np.log(3.0), 0.0]]).round(4)   # ln 3/4, ln 1/4
    array([[-0.2877, -1.3863]])
    """
    temperature = _checks.number("temperature", temperature, above=0)
    z = _checks.finite("logits", logits)
    if z.ndim == 0 or z.shape[-1] == 0:
        raise ValueError(f"logits must end in a vocabulary axis of >= 1, got shape {z.shape}")
    top = np.argmax(z, axis=-1, keepdims=True)
    z = (z - np.take_along_axis(z, top, axis=-1)) / temperature
    others = np.exp(z)
    np.put_along_axis(others, top, 0.0, axis=-1)
    return z - np.log1p(others.sum(axis=-1, keepdims=True))


def log_softmax_grad(
    logits: ArrayLike, grad_log_probs: ArrayLike, *, temperature: float = 1.0
) -> Array:
    """Compute dL/d(logits), given dL/d(log_softmax) = g:   (g_v - p_v sum_u g_u) / tau.

    d(log p_u)/d(z_v) = (1[u = v] - p_v) / tau, summed over u with the weights g_u.

    >>> log_softmax_grad([[0.0, 0.0]], [[1.0, 0.0]])
    array([[ 0.5, -0.5]])
    """
    log_probs = log_softmax(logits, temperature=temperature)
    g = _checks.finite("grad_log_probs", grad_log_probs, shape=log_probs.shape)
    return (g - np.exp(log_probs) * g.sum(axis=-1, keepdims=True)) / temperature


def per_token_logps(logits: ArrayLike, tokens: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Compute the log-probability of each token of the text.

    logits        (B, T, V)  logits[b, t] predict tokens[b, t]
    tokens        (B, T)     ids, 0 to V - 1
    returns       (B, T)     never positive; padding included: the caller masks

    >>> per_token_logps([[[np.log(3.0), 0.0]]], [[1]]).round(4)   # ln 1/4
    array([[-1.3863]])
    """
    log_probs = log_softmax(_logits(logits), temperature=temperature)
    tokens = _tokens(tokens, log_probs)
    return np.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]


def logits_grad(
    logits: ArrayLike, tokens: ArrayLike, grad_logps: ArrayLike, *, temperature: float = 1.0
) -> Array:
    """Compute dL/d(logits), given dL/d(per_token_logps) = g:   g (1[v = token] - p_v) / tau.

    grad_logps    (B, T)     any objective's gradient, 0 where masked
    returns       (B, T, V)  sums to 0 over V

    >>> logits_grad([[[np.log(3.0), 0.0]]], [[1]], [[1.0]]).round(4)   # raise 1, lower 0
    array([[[-0.75,  0.75]]])
    """
    log_probs = log_softmax(_logits(logits), temperature=temperature)
    at = _tokens(tokens, log_probs)[..., None]
    g = _checks.finite("grad_logps", grad_logps, shape=log_probs.shape[:-1])[..., None]
    direction = -np.exp(log_probs)
    # 1 - p as -expm1(log p): where p is close to 1 the gradient is 1e-20, not 0
    np.put_along_axis(direction, at, -np.expm1(np.take_along_axis(log_probs, at, -1)), axis=-1)
    return g * direction / temperature


def entropy(logits: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Compute the entropy at each position, from 0 (certain) to ln V (uniform), in nats.

    logits        (..., V)
    returns       (...)

    >>> entropy([[0.0, 0.0, 0.0, 0.0]]).round(4)   # ln 4
    array([1.3863])
    """
    log_probs = log_softmax(logits, temperature=temperature)
    return -(np.exp(log_probs) * log_probs).sum(axis=-1)


def entropy_grad(logits: ArrayLike, grad_entropy: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Compute dL/d(logits), given dL/d(entropy) = g:   -g p_v (log p_v + H) / tau.

    dH = -sum (log p + 1) dp;  dp_v = p_v (dz_v - sum_u p_u dz_u) / tau;  the 1 cancels.

    grad_entropy  (...)     one per position
    returns       (..., V)  sums to 0 over V

    >>> entropy_grad([[np.log(3.0), 0.0]], [1.0]).round(4)   # -3/4 (ln 3/4 + 0.5623)
    array([[-0.206,  0.206]])
    """
    log_probs = log_softmax(logits, temperature=temperature)
    g = _checks.finite("grad_entropy", grad_entropy, shape=log_probs.shape[:-1])[..., None]
    p = np.exp(log_probs)
    h = -(p * log_probs).sum(axis=-1, keepdims=True)
    return -g * p * (log_probs + h) / temperature


def log_sum_sq_probs(logits: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Compute log sum_v p_v^2: the log of the chance that two draws agree (WPO's normaliser).

    logits        (..., V)
    returns       (...)  never positive

    >>> log_sum_sq_probs([[0.0, 0.0, 0.0, 0.0]]).round(4)   # 4 (1/4)^2 = 1/4
    array([-1.3863])
    """
    return np.logaddexp.reduce(2.0 * log_softmax(logits, temperature=temperature), axis=-1)


def _logits(logits):
    return _checks.array("logits", logits, ndim=3)


def _tokens(tokens, log_probs):
    *shape, vocab_size = log_probs.shape
    return _checks.token_ids("tokens", tokens, vocab_size=vocab_size, shape=tuple(shape))

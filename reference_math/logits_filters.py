"""Filter logits before sampling: temperature, repetition penalty, top-k, top-p, min-p.

Source    top-p: Holtzman et al., arXiv 1904.09751, section 3.1; min-p: Nguyen et al., arXiv
          2407.01082, section 3; repetition penalty: Keskar et al., arXiv 1909.05858, section 4.1
Lesson    none
Proof     tests/laws/test_logits_filters.py, tests/parity/test_logits_filters.py

Shapes    logits (B, V), one next token per row; a removed token is -inf, and stays so.
Order     sampling_order.py puts them in the order of transformers or vLLM.
Gradient  none: a draw is not differentiated. The loss's log-probs are in logprobs.py.
"""

from __future__ import annotations

import numpy as np

from reference_math._checks import array, number, token_ids
from reference_math._types import Array, ArrayLike


def temperature(logits: ArrayLike, tau: float) -> Array:
    """Compute z / tau: below 1 sharper, above 1 flatter.

    >>> temperature([[1.0, 2.0]], 0.5)
    array([[2., 4.]])
    """
    return _logits(logits) / number("temperature", tau, above=0)


def repetition_penalty(logits: ArrayLike, input_ids: ArrayLike, penalty: float) -> Array:
    """Make each token that occurs in input_ids, prompt and completion, less likely, once.

    z / penalty for z > 0, z * penalty for z <= 0       penalty > 1 discourages

    input_ids   (B, T)  every id counts: a padding id in it is penalised as well

    >>> repetition_penalty([[2.0, -2.0, 2.0]], [[0, 1, 1]], 4.0)
    array([[ 0.5, -8. ,  2. ]])
    """
    logits = _logits(logits)
    rows, vocab_size = logits.shape
    input_ids = token_ids("input_ids", input_ids, vocab_size=vocab_size, shape=(rows, None))
    penalty = number("repetition_penalty", penalty, above=0)
    seen = np.zeros(logits.shape, bool)
    np.put_along_axis(seen, input_ids, True, axis=1)
    return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)


def top_k(logits: ArrayLike, k: int) -> Array:
    """Keep the k largest logits, and every tie with the k-th of them.

    >>> top_k([[3.0, 1.0, 2.0, 2.0]], 2)
    array([[  3., -inf,   2.,   2.]])
    """
    logits = _logits(logits)
    if number("top_k", k, at_least=1) != int(k):
        raise ValueError(f"top_k must be an integer >= 1, got {k!r}")
    kth = np.sort(logits, axis=1)[:, -min(int(k), logits.shape[1]), None]
    return np.where(logits < kth, -np.inf, logits)


def top_p(logits: ArrayLike, p: float) -> Array:
    """Keep the fewest tokens whose probabilities reach p; the likeliest always stays.

    Counted from below, as the libraries do: a token goes if it and all less likely ones sum to
    at most 1 - p. Of equally likely tokens the lower id goes first; the libraries leave that to
    a sort that is not stable.

    >>> top_p(np.log([[0.5, 0.3, 0.2]]), 0.7).round(1)
    array([[-0.7, -1.2, -inf]])
    """
    logits = _logits(logits)
    if number("top_p", p, at_least=0, at_most=1) == 1:
        return logits  # all of them, also those whose probability rounds to 0
    order = np.argsort(logits, axis=1, kind="stable")
    ascending = np.take_along_axis(logits, order, axis=1)
    weights = np.exp(ascending - ascending[:, -1:])
    goes = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1) <= 1 - p
    goes[:, -1] = False
    removed = np.empty_like(goes)
    np.put_along_axis(removed, order, goes, axis=1)
    return np.where(removed, -np.inf, logits)


def min_p(logits: ArrayLike, p: float) -> Array:
    """Remove the tokens whose probability is below p times that of the likeliest.

    >>> min_p(np.log([[0.5, 0.3, 0.2]]), 0.5).round(1)
    array([[-0.7, -1.2, -inf]])
    """
    logits = _logits(logits)
    p = number("min_p", p, at_least=0, at_most=1)
    ratio = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.where(ratio < p, -np.inf, logits)


def _logits(logits):
    """(B, V) numbers; -inf marks a removed token, and one token has to be left in each row."""
    logits = array("logits", logits, ndim=2)
    if np.isnan(logits).any() or (logits == np.inf).any():
        raise ValueError(f"logits must be finite or -inf (removed), got shape {logits.shape}")
    if not np.isfinite(logits).any(axis=1).all():
        raise ValueError(f"logits must leave a token in each row, got shape {logits.shape}")
    return logits

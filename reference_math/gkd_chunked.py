"""GKD in vocabulary tiles: `gkd`'s divergence from hidden states, without a full row of V logits.

    z = h W^T / temperature, a tile of the vocabulary at a time

Source    TRL 1.16, DistillationTrainer (_chunked_divergence_loss, kernels/chunked_divergence.py)
          the divergence: Agarwal et al., arXiv 2306.13649, eq. 1; the running log-sum-exp: Milakov
          and Gimelshein, arXiv 1805.02867
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_gkd_chunked.py, tests/parity/test_gkd_chunked.py

Shapes    N positions that count (the caller drops the others), H hidden units, V vocabulary.
          Student and teacher may differ in H, not in V.

Three passes over the tiles: the normalisers log Z of both models; with them the divergence, a sum
over the vocabulary; with KL(Q || M), a sum too, the gradient.  Nothing of a tile is kept.

TRL computes in float32 whatever the dtype of the hidden states.  Its default is beta = 1, KL(student
|| teacher), where GKDTrainer's is 0.5; its temperature does enter the loss.  The student's logit
scale, soft cap and bias are not here: they are the model's.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, gkd
from reference_math._types import Array, ArrayLike


def loss(
    student_hidden: ArrayLike,
    teacher_hidden: ArrayLike,
    student_weight: ArrayLike,
    teacher_weight: ArrayLike,
    *,
    beta: float,
    temperature: float = 1.0,
    vocab_chunk: int,
    num_items_in_batch: float | None = None,
) -> float:
    """Compute the divergence's mean over the positions, a float; 0 if there are no positions.

    student_hidden       (N, H)   before the LM head
    teacher_hidden       (N, H')
    student_weight       (V, H)   of the LM head
    teacher_weight       (V, H')
    beta                 0: KL(teacher || student);  1: KL(student || teacher);  else see `gkd`
    temperature          > 0
    vocab_chunk          tokens of a tile; the result does not depend on it
    num_items_in_batch   positions of the whole optimizer step; None: N

    >>> h, even = [[1.0]], [[0.0]]
    >>> weights = [[np.log(3.0)], [0.0]], [[7.0], [7.0]]               # (3/4, 1/4) and (1/2, 1/2)
    >>> round(loss(h, even, *weights, beta=1.0, vocab_chunk=1), 4)     # as `gkd`: KL(3/4 || even)
    0.1308
    """
    heads = _heads(student_hidden, teacher_hidden, student_weight, teacher_weight, temperature)
    d, _ = _divergence(heads, beta, vocab_chunk)
    return float(d.sum()) / _count(d, num_items_in_batch)


def loss_grad(
    student_hidden: ArrayLike,
    teacher_hidden: ArrayLike,
    student_weight: ArrayLike,
    teacher_weight: ArrayLike,
    *,
    beta: float,
    temperature: float = 1.0,
    vocab_chunk: int,
    num_items_in_batch: float | None = None,
) -> tuple[Array, Array]:
    """Compute the gradients: d loss / d(student_hidden) (N, H), d loss / d(student_weight) (V, H).

    z = h W^T:  dh = dz W, summed over the tiles;  dW = dz^T h, tile by tile.  dz as in `gkd`.

    >>> h, even = [[1.0]], [[0.0]]
    >>> weights = [[np.log(3.0)], [0.0]], [[7.0], [7.0]]
    >>> dh, dw = loss_grad(h, even, *weights, beta=0.0, vocab_chunk=1)
    >>> dh.round(4), dw.round(4).tolist()                              # Q - P = +-1/4; ln 3 / 4
    (array([[0.2747]]), [[0.25], [-0.25]])
    """
    heads = _heads(student_hidden, teacher_hidden, student_weight, teacher_weight, temperature)
    d, kl_student = _divergence(heads, beta, vocab_chunk)
    h, w = heads[:2]
    dh, dw = np.zeros_like(h), np.empty_like(w)
    for tile, log_q, log_p, log_m in _tiles(heads, beta, vocab_chunk):
        q = np.exp(log_q)
        dz = q - np.exp(log_p) if beta == 0 else q * (log_q - log_m - kl_student)
        dz *= (gkd.kl_weights(beta)[1] or 1.0) / temperature
        dh += dz @ w[tile]
        dw[tile] = dz.T @ h
    count = _count(d, num_items_in_batch)
    return dh / count, dw / count


def log_normalisers(
    hidden: ArrayLike, weight: ArrayLike, *, temperature: float = 1.0, vocab_chunk: int
) -> Array:
    """Compute log sum_v e^(z_v), (N, 1), by a running sum: each tile is added to what came before.

    >>> log_normalisers([[1.0]], [[np.log(3.0)], [0.0], [0.0]], vocab_chunk=2).round(4)    # ln 5
    array([[1.6094]])
    """
    log_z = np.full((len(hidden), 1), -np.inf)
    for tile in _slices(len(weight), vocab_chunk):
        z = hidden @ np.transpose(weight[tile]) / temperature
        log_z = np.logaddexp(log_z, np.logaddexp.reduce(z, axis=1, keepdims=True))
    return log_z


def _divergence(heads, beta, vocab_chunk):
    """D and KL(Q || M), each (N, 1)."""
    of_teacher, of_student = gkd.kl_weights(beta)
    kl_teacher, kl_student = np.zeros((2, len(heads[0]), 1))
    for _, log_q, log_p, log_m in _tiles(heads, beta, vocab_chunk):
        kl_teacher += (np.exp(log_p) * (log_p - log_m)).sum(axis=1, keepdims=True)
        kl_student += (np.exp(log_q) * (log_q - log_m)).sum(axis=1, keepdims=True)
    return of_teacher * kl_teacher + of_student * kl_student, kl_student


def _tiles(heads, beta, vocab_chunk):
    """Each tile of the vocabulary, and log Q, log P, log M there, (N, tile)."""
    h, w, teacher_h, teacher_w, temperature = heads
    options = {"temperature": temperature, "vocab_chunk": vocab_chunk}
    log_z = log_normalisers(h, w, **options)
    teacher_log_z = log_normalisers(teacher_h, teacher_w, **options)
    for tile in _slices(len(w), vocab_chunk):
        log_q = h @ w[tile].T / temperature - log_z
        log_p = teacher_h @ teacher_w[tile].T / temperature - teacher_log_z
        yield tile, log_q, log_p, gkd.log_mixture(log_q, log_p, beta)


def _slices(vocab_size, vocab_chunk):
    if vocab_chunk != int(vocab_chunk) or vocab_chunk < 1:
        raise ValueError(f"vocab_chunk must be an integer >= 1, got {vocab_chunk!r}")
    starts = range(0, vocab_size, int(vocab_chunk))
    return [slice(start, start + int(vocab_chunk)) for start in starts]


def _heads(student_hidden, teacher_hidden, student_weight, teacher_weight, temperature):
    h = _checks.finite("student_hidden", student_hidden, ndim=2)
    w = _checks.finite("student_weight", student_weight, shape=(None, h.shape[1]))
    teacher_h = _checks.finite("teacher_hidden", teacher_hidden, shape=(len(h), None))
    shape = (len(w), teacher_h.shape[1])
    teacher_w = _checks.finite("teacher_weight", teacher_weight, shape=shape)
    return h, w, teacher_h, teacher_w, _checks.number("temperature", temperature, above=0)


def _count(d, num_items_in_batch):
    if num_items_in_batch is None:
        return max(len(d), 1)
    return _checks.number("num_items_in_batch", num_items_in_batch, at_least=1)

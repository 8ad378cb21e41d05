"""DoRA: LoRA on the direction of each weight row, a trained magnitude for its length.

Source    Liu et al., "DoRA", arXiv 2402.09353, equation 5; the detached norm, section 4.3
Lesson    none
Proof     tests/laws/test_dora.py, tests/parity/test_dora.py

Shapes    as in lora.py; magnitude m (out,), one length per row (an output neuron).

W' = m * V / |V|       V = W + scaling * B A, |V| the L2 norm of each row
A row with |V| = 0 has no direction. PEFT divides by zero there and returns NaN; here the row
stays zero and gets no gradient.
"""

from __future__ import annotations

import numpy as np

from reference_math import lora
from reference_math._checks import finite
from reference_math._types import Array, ArrayLike


def weight_norm(
    weight: ArrayLike, lora_A: ArrayLike, lora_B: ArrayLike, *, scaling: float
) -> Array:
    """Compute |V|, the length of each row of W + scaling * B A; the magnitude is initialised to it.

    returns   (out,)

    >>> weight_norm([[3.0, 4.0], [0.0, 2.0]], [[1.0, 1.0]], [[0.0], [0.0]], scaling=1.0)
    array([5., 2.])
    """
    return _row_norms(lora.merge(weight, lora_A, lora_B, scaling=scaling))


def forward(
    x: ArrayLike,
    weight: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    magnitude: ArrayLike,
    *,
    scaling: float,
    bias: ArrayLike | None = None,
) -> Array:
    """Compute y = m/|V| * (x W^T + scaling * x A^T B^T) + bias        the bias is not scaled

    x         (..., in)   magnitude   (out,)   the rest as in lora.forward
    returns   (..., out)

    >>> forward([1.0, 1.0], [[3.0, 4.0]], [[1.0, 1.0]], [[0.0]], [10.0], scaling=1.0)
    array([14.])
    """
    y = lora.forward(x, weight, lora_A, lora_B, scaling=scaling)
    y = y * _factor(magnitude, weight_norm(weight, lora_A, lora_B, scaling=scaling))
    return y if bias is None else y + finite("bias", bias, shape=y.shape[-1:])


def forward_grad(
    x: ArrayLike,
    weight: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    magnitude: ArrayLike,
    grad_y: ArrayLike,
    *,
    scaling: float,
) -> tuple[Array, Array, Array, Array]:
    """Compute the gradients of `forward` to x, A, B and m, the norm held constant as in the paper.

    grad_y    (..., out)
    returns   (grad_x (..., in), grad_A (r, in), grad_B (out, r), grad_magnitude (out,))

    y = (m/|V|) u with u LoRA's output:  dL/du = (m/|V|) dL/dy,  dL/dm = sum dL/dy * u / |V|.
    |V| is detached, as in the paper and PEFT, so these are not the exact derivatives of
    `forward`: the terms through d|V| are dropped.

    >>> *_, grad_m = forward_grad([1.0, 1.0], [[3.0, 4.0]], [[1.0, 1.0]], [[0.0]], [10.0], [1.0],
    ...                           scaling=1.0)
    >>> grad_m                                          # (3 + 4) / 5
    array([1.4])
    """
    u = lora.forward(x, weight, lora_A, lora_B, scaling=scaling)
    norm = weight_norm(weight, lora_A, lora_B, scaling=scaling)
    grad_y = finite("grad_y", grad_y, shape=u.shape)
    grad_u = grad_y * _factor(magnitude, norm)
    rest = lora.forward_grad(x, weight, lora_A, lora_B, grad_u, scaling=scaling)
    grad_magnitude = (grad_y * u * _factor(np.ones_like(norm), norm)).reshape(-1, len(norm))
    return *rest, grad_magnitude.sum(0)


def merge(
    weight: ArrayLike, lora_A: ArrayLike, lora_B: ArrayLike, magnitude: ArrayLike, *, scaling: float
) -> Array:
    """Compute W' = m/|V| * V as one matrix.

    >>> merge([[3.0, 4.0]], [[1.0, 1.0]], [[0.0]], [10.0], scaling=1.0)
    array([[6., 8.]])
    """
    merged = lora.merge(weight, lora_A, lora_B, scaling=scaling)
    return _factor(magnitude, _row_norms(merged))[:, None] * merged


def unmerge(
    merged: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    magnitude: ArrayLike,
    norm: ArrayLike,
    *,
    scaling: float,
) -> Array:
    """Recover W from `merge`'s result. `norm` is weight_norm of the original weight: the merged
    rows have length m, so it cannot be read off them.

    A zero magnitude has erased its row: a ValueError.

    >>> unmerge([[6.0, 8.0]], [[1.0, 1.0]], [[0.0]], [10.0], [5.0], scaling=1.0)
    array([[3., 4.]])
    """
    factor = _factor(magnitude, norm)
    if not factor.all():
        row = int(np.argmin(np.abs(factor)))
        raise ValueError(f"magnitude must not be 0 to unmerge: row {row} of {len(factor)} is lost")
    directions = finite("merged", merged, shape=(len(factor), None)) / factor[:, None]
    return lora.unmerge(directions, lora_A, lora_B, scaling=scaling)


def _row_norms(v):
    """L2 norms over the inputs; hypot, because squares of 1e200 overflow."""
    return np.hypot.reduce(v, axis=1)


def _factor(magnitude, norm):
    """m/|V|, and 0 for a row without a direction."""
    norm = finite("norm", norm, ndim=1)
    magnitude = finite("magnitude", magnitude, shape=norm.shape)
    return np.divide(magnitude, norm, out=np.zeros_like(norm), where=norm > 0)

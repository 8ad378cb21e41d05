"""LoRA: a frozen linear layer plus a trained low-rank update.

Source    Hu et al., "LoRA", arXiv 2106.09685, section 4.1
          Kalajdzievski, "rsLoRA", arXiv 2312.03732 (scaling by 1/sqrt(r))
Torch     reference_math.torch.lora     Lesson   notebooks/04_before_and_after.ipynb
Proof     tests/laws/test_lora.py, tests/parity/test_lora.py

Shapes    x (..., in); weight W (out, in); lora_A (r, in); lora_B (out, r): W stands as
          torch.nn.Linear keeps it, the update is scaling * B A and has W's shape.
Dropout   PEFT drops entries of x before A, in training only and 0 by default; it is not here.
"""

from __future__ import annotations

import numpy as np

from reference_math._checks import finite, number
from reference_math._types import Array, ArrayLike


def scaling(r: float, lora_alpha: float, *, use_rslora: bool) -> float:
    """Compute the factor before B A: alpha / r, or alpha / sqrt(r) for rsLoRA.

    With 1/r the update of a trained adapter shrinks as the rank grows; with 1/sqrt(r) it
    keeps its size. PEFT's default is use_rslora=False, r=8, alpha=8.

    >>> scaling(16, 32, use_rslora=False), scaling(16, 32, use_rslora=True)
    (2.0, 8.0)
    """
    r = number("r", r, at_least=1)
    lora_alpha = number("lora_alpha", lora_alpha)
    return lora_alpha / np.sqrt(r).item() if use_rslora else lora_alpha / r


def delta_weight(lora_A: ArrayLike, lora_B: ArrayLike, *, scaling: float) -> Array:
    """Compute the update as one matrix, of rank at most r: scaling * B A.

    lora_A    (r, in)     lora_B   (out, r)
    returns   (out, in)

    >>> delta_weight([[1.0, 2.0]], [[3.0], [0.0]], scaling=2.0)
    array([[ 6., 12.],
           [ 0.,  0.]])
    """
    lora_A, lora_B = _factors(lora_A, lora_B)
    return number("scaling", scaling) * (lora_B @ lora_A)


def forward(
    x: ArrayLike,
    weight: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    *,
    scaling: float,
    bias: ArrayLike | None = None,
) -> Array:
    """Compute y = x W^T + bias + scaling * (x A^T) B^T       equation 3 of the paper

    x         (..., in)   weight   (out, in)   lora_A   (r, in)   lora_B   (out, r)
    bias      (out,)      or None
    returns   (..., out)

    >>> forward([1.0, 1.0], np.eye(2), [[1.0, 2.0]], [[3.0], [0.0]], scaling=2.0)
    array([19.,  1.])
    """
    x, weight, lora_A, lora_B = _layer(x, weight, lora_A, lora_B)
    y = x @ weight.T + number("scaling", scaling) * (x @ lora_A.T @ lora_B.T)
    return y if bias is None else y + finite("bias", bias, shape=(len(weight),))


def forward_grad(
    x: ArrayLike,
    weight: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    grad_y: ArrayLike,
    *,
    scaling: float,
) -> tuple[Array, Array, Array]:
    """Compute the gradients of `forward` to x, A and B; W is frozen and gets none.

    grad_y    (..., out)  the loss's gradient to y
    returns   (grad_x (..., in), grad_A (r, in), grad_B (out, r))

    With h = x A^T:  dL/dB = s grad_y^T h,  dL/dh = s grad_y B,  dL/dA = (dL/dh)^T x.
    At the default start B = 0, so grad_A = 0 and only B learns on the first step.

    >>> _, grad_A, grad_B = forward_grad(
    ...     [1.0, 1.0], np.eye(2), [[1.0, 2.0]], [[0.0], [0.0]], [1.0, -1.0], scaling=2.0
    ... )
    >>> grad_A, grad_B
    (array([[0., 0.]]), array([[ 6.],
           [-6.]]))
    """
    x, weight, lora_A, lora_B = _layer(x, weight, lora_A, lora_B)
    grad_y = finite("grad_y", grad_y, shape=(*x.shape[:-1], len(weight)))
    grad_h = number("scaling", scaling) * (grad_y @ lora_B)  # (..., r)
    grad_x = grad_y @ weight + grad_h @ lora_A
    rows = x.reshape(-1, x.shape[-1])  # every leading axis is a sample
    grad_A = grad_h.reshape(-1, len(lora_A)).T @ rows
    grad_B = scaling * (grad_y.reshape(-1, len(weight)).T @ (rows @ lora_A.T))
    return grad_x, grad_A, grad_B


def merge(weight: ArrayLike, lora_A: ArrayLike, lora_B: ArrayLike, *, scaling: float) -> Array:
    """Compute W + scaling * B A: the same layer without the two extra products.

    >>> merge(np.eye(2), [[1.0, 2.0]], [[3.0], [0.0]], scaling=2.0)
    array([[ 7., 12.],
           [ 0.,  1.]])
    """
    delta = delta_weight(lora_A, lora_B, scaling=scaling)
    return finite("weight", weight, shape=delta.shape) + delta


def unmerge(merged: ArrayLike, lora_A: ArrayLike, lora_B: ArrayLike, *, scaling: float) -> Array:
    """Recover W from `merge`'s result, up to one rounding: not always to the last bit.

    >>> unmerge([[7.0, 12.0], [0.0, 1.0]], [[1.0, 2.0]], [[3.0], [0.0]], scaling=2.0)
    array([[1., 0.],
           [0., 1.]])
    """
    delta = delta_weight(lora_A, lora_B, scaling=scaling)
    return finite("merged", merged, shape=delta.shape) - delta


def _factors(lora_A, lora_B):
    """Both factors as arrays whose rank agrees."""
    lora_A = finite("lora_A", lora_A, ndim=2)
    if not len(lora_A):
        raise ValueError(f"lora_A must have rank r >= 1 rows, got shape {lora_A.shape}")
    return lora_A, finite("lora_B", lora_B, shape=(None, len(lora_A)))


def _layer(x, weight, lora_A, lora_B):
    """All four arrays of a layer, their shapes checked against the weight's."""
    weight = finite("weight", weight, ndim=2)
    lora_A, lora_B = _factors(lora_A, lora_B)
    finite("lora_A", lora_A, shape=(None, weight.shape[1]))
    finite("lora_B", lora_B, shape=(len(weight), None))
    x = finite("x", x)
    if x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"x must end in the weight's {weight.shape[1]} inputs, got {x.shape}")
    return x, weight, lora_A, lora_B

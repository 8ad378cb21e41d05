"""Initialise LoRA's A and B: default, gaussian, PiSSA, OLoRA, orthogonal.

Source    default and gaussian: Hu et al., arXiv 2106.09685, section 4.1, as PEFT draws them
          PiSSA: Meng et al., arXiv 2404.02948, equations 2 to 4
          OLoRA: Büyükakyüz, arXiv 2406.01775, algorithm 1
          orthogonal: datta0.github.io/posts/rethink-lora-init
Lesson    none
Proof     tests/laws/test_lora_init.py, tests/parity/test_lora_init.py

Shapes    weight (out, in); lora_A (r, in); lora_B (out, r).
rng       a numpy.random.Generator, or anything with its uniform, normal, standard_normal.

default, gaussian and orthogonal start at B A = 0: the layer is unchanged. PiSSA and OLoRA
put the main part of W into B A and freeze what remains: the layer is unchanged too, but W is
not, so a saved adapter fits only the residual it was made with.
"""

from __future__ import annotations

import numpy as np

from reference_math import lora
from reference_math._checks import finite, number
from reference_math._types import Array, ArrayLike


def default(
    rng: np.random.Generator, r: int, in_features: int, out_features: int
) -> tuple[Array, Array]:
    """Draw A uniformly on ±1/sqrt(in), set B to zero: Kaiming's bound with a = sqrt(5), as nn.Linear.

    returns   (lora_A (r, in), lora_B (out, r))

    >>> lora_A, lora_B = default(np.random.default_rng(0), 2, 4, 3)
    >>> bool((np.abs(lora_A) <= 0.5).all()), lora_B.shape, bool(lora_B.any())
    (True, (3, 2), False)
    """
    r, in_features, out_features = _sizes(r, in_features, out_features)
    bound = 1 / np.sqrt(in_features)
    return rng.uniform(-bound, bound, (r, in_features)), np.zeros((out_features, r))


def gaussian(
    rng: np.random.Generator, r: int, in_features: int, out_features: int
) -> tuple[Array, Array]:
    """Draw A from a normal with standard deviation 1/r, set B to zero.

    returns   (lora_A (r, in), lora_B (out, r))

    >>> lora_A, lora_B = gaussian(np.random.default_rng(0), 2, 4, 3)
    >>> lora_A.shape, lora_B.shape, bool(lora_B.any())
    ((2, 4), (3, 2), False)
    """
    r, in_features, out_features = _sizes(r, in_features, out_features)
    return rng.normal(0.0, 1 / r, (r, in_features)), np.zeros((out_features, r))


def pissa(weight: ArrayLike, r: int, *, scaling: float) -> tuple[Array, Array, Array]:
    """Put the r largest singular directions of W into the adapter and freeze the rest.

    W = U S V^T:   A = sqrt(S_r / s) V_r^T,   B = U_r sqrt(S_r / s),   residual = W - s B A

    returns   (lora_A (r, in), lora_B (out, r), residual (out, in))

    PEFT refuses a float64 weight with a TypeError; here it is the normal case.

    >>> lora_A, lora_B, residual = pissa([[9.0, 0.0], [0.0, 1.0]], 1, scaling=1.0)
    >>> np.abs(lora_A), np.abs(lora_B).T, residual      # sqrt(9) = 3 on either side
    (array([[3., 0.]]), array([[3., 0.]]), array([[0., 0.],
           [0., 1.]]))
    """
    weight, r, scaling = _decomposable(weight, r, scaling)
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    root = np.sqrt(s[:r] / scaling)
    lora_A, lora_B = root[:, None] * vt[:r], u[:, :r] * root
    return lora_A, lora_B, lora.unmerge(weight, lora_A, lora_B, scaling=scaling)


def olora(weight: ArrayLike, r: int, *, scaling: float) -> tuple[Array, Array, Array]:
    """Put the first r columns of W's QR decomposition into the adapter, with B orthonormal.

    W = Q R:   B = Q[:, :r],   A = R[:r],   residual = W - s B A

    returns   (lora_A (r, in), lora_B (out, r), residual (out, in))

    B A is not divided by s, as in PEFT. The layer is unchanged because s B A is subtracted in the
    residual; for s > 1 the residual holds a part of -W.

    >>> lora_A, lora_B, residual = olora([[2.0, 1.0], [0.0, 1.0]], 1, scaling=1.0)
    >>> lora_B @ lora_A, residual
    (array([[2., 1.],
           [0., 0.]]), array([[0., 0.],
           [0., 1.]]))
    """
    weight, r, scaling = _decomposable(weight, r, scaling)
    q, upper = np.linalg.qr(weight)
    lora_A, lora_B = upper[:r], q[:, :r]
    return lora_A, lora_B, lora.unmerge(weight, lora_A, lora_B, scaling=scaling)


def orthogonal(
    rng: np.random.Generator, r: int, in_features: int, out_features: int
) -> tuple[Array, Array]:
    """Draw both factors with B A = 0: they use different rows of one orthogonal matrix.

    With Q from QR of a normal (r, r):  A = (G1 Q_odd)^T / 10,  B = G2^T Q_even / 10.
    Unlike B = 0, neither gradient starts at zero. The rank must be even.

    returns   (lora_A (r, in), lora_B (out, r))

    >>> lora_A, lora_B = orthogonal(np.random.default_rng(0), 4, 6, 5)
    >>> bool(np.abs(lora_B @ lora_A).max() < 1e-15), bool(lora_A.all() and lora_B.all())
    (True, True)
    """
    r, in_features, out_features = _sizes(r, in_features, out_features)
    if r % 2:
        raise ValueError(f"r must be even for the orthogonal initialisation, got {r}")
    q, _ = np.linalg.qr(rng.standard_normal((r, r)))
    lora_A = (rng.standard_normal((in_features, r // 2)) @ q[0::2]).T / 10
    lora_B = rng.standard_normal((r // 2, out_features)).T @ q[1::2] / 10
    return lora_A, lora_B


def _sizes(r, in_features, out_features):
    sizes = {"r": r, "in_features": in_features, "out_features": out_features}
    for name, size in sizes.items():
        if number(name, size, at_least=1) != int(size):
            raise ValueError(f"{name} must be an integer >= 1, got {size!r}")
    return int(r), int(in_features), int(out_features)


def _decomposable(weight, r, scaling):
    """The weight, a rank that it can have, and a scaling that can be divided by."""
    weight = finite("weight", weight, ndim=2)
    r, *_ = _sizes(r, *weight.shape)
    if r > min(weight.shape):
        raise ValueError(f"r must be at most min(weight.shape) of {weight.shape}, got {r}")
    return weight, r, number("scaling", scaling, above=0)

"""Compute an AdamW step, gradient clipping by norm, and learning rate schedules.

Source    Loshchilov and Hutter, "Decoupled weight decay", arXiv 1711.05101, algorithm 2
          Pascanu et al., arXiv 1211.5063, algorithm 1 (clipping by the norm)
Lesson    none
Proof     tests/laws/test_optim.py, tests/parity/test_optim.py

Shapes    param, grad, m, v: one shape, any. The steps count from 1 in adamw_step (the first
          update) and from 0 in the schedules (the factor of the first update is step 0's).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reference_math._checks import finite, number, same_shape
from reference_math._types import Array, ArrayLike


def adamw_step(
    param: ArrayLike,
    grad: ArrayLike,
    m: ArrayLike,
    v: ArrayLike,
    *,
    step: float,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[Array, Array, Array]:
    """Compute one update of torch.optim.AdamW. m and v start as zeros.

    theta *= 1 - lr * weight_decay            decay: on the parameter, not through the gradient
    m = b1 m + (1 - b1) g         v = b2 v + (1 - b2) g^2
    theta -= lr * m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)

    betas, eps     torch and transformers: (0.9, 0.999) and 1e-8
    weight_decay   torch 0.01; transformers and TRL 0.0
    returns        (param, m, v)  new arrays

    The first step moves every parameter by lr, whatever the size of its gradient:

    >>> param, m, v = adamw_step([1.0, 1.0], [1e-3, -5.0], [0.0, 0.0], [0.0, 0.0],
    ...     step=1, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    >>> param.round(4)
    array([0.9, 1.1])
    """
    param, grad, m = finite("param", param), finite("grad", grad), finite("m", m)
    v = finite("v", v)
    same_shape(param=param, grad=grad, m=m, v=v)
    if (v < 0).any():
        raise ValueError(f"v must be >= 0, a mean of squares, got {v.min()} in shape {v.shape}")
    step, (b1, b2) = number("step", step, at_least=1), betas
    for name, b in [("betas[0]", b1), ("betas[1]", b2)]:
        number(name, b, at_least=0, below=1)
    lr, eps = number("lr", lr, at_least=0), number("eps", eps, above=0)  # 0 would give 0/0
    with np.errstate(over="ignore"):
        square = finite("grad ** 2", grad**2)  # an infinite v would freeze the parameter for good

    param = param * (1 - lr * number("weight_decay", weight_decay, at_least=0))
    m = b1 * m + (1 - b1) * grad
    v = b2 * v + (1 - b2) * square
    m_hat, v_hat = m / (1 - b1**step), v / (1 - b2**step)  # bias correction: both started at 0
    return param - lr * m_hat / (np.sqrt(v_hat) + eps), m, v


def clip_grad_norm(grads: Sequence[Array], max_norm: float) -> tuple[list[Array], float]:
    """Scale all gradients by one factor, so that together their L2 norm is at most max_norm.

    factor = min(1, max_norm / (norm + 1e-6))

    grads     a list of arrays, any shapes
    returns   (list of arrays, norm before clipping)

    A NaN or inf among them is a ValueError; torch's default turns every gradient into NaN or 0.
    The norm is a chain of hypot, so that no square overflows or vanishes.

    >>> clipped, norm = clip_grad_norm([[3.0], [[4.0]]], 1.0)
    >>> norm, clipped[0].round(4), clipped[1].round(4)
    (5.0, array([0.6]), array([[0.8]]))
    """
    grads = [finite(f"grads[{i}]", g) for i, g in enumerate(grads)]
    max_norm = number("max_norm", max_norm, at_least=0)
    norm = float(np.hypot.reduce([np.hypot.reduce(g.ravel()) for g in grads]))
    return [g * min(1.0, max_norm / (norm + 1e-6)) for g in grads], norm


def linear_schedule(step: float, *, num_warmup_steps: int, num_training_steps: int) -> float:
    """Compute the learning rate's factor: linear from 0 over the warm-up, then linear down to 0.

    With a warm-up the first update has the rate 0: it changes nothing.

    >>> [linear_schedule(i, num_warmup_steps=2, num_training_steps=6) for i in range(7)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    step, warmup, total = _counts(step, num_warmup_steps, num_training_steps)
    if step < warmup:
        return step / warmup
    return max(0.0, total - step) / max(1.0, total - warmup)


def cosine_schedule(
    step: float, *, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> float:
    """Compute the same warm-up, then (1 + cos(2 pi num_cycles progress)) / 2: half a wave down to 0.

    Past the end it stays where it ended. transformers goes on along the wave, so that there the
    rate rises again in a run that is longer than it was planned.

    >>> [round(cosine_schedule(i, num_warmup_steps=0, num_training_steps=4), 4) for i in range(6)]
    [1.0, 0.8536, 0.5, 0.1464, 0.0, 0.0]
    """
    step, warmup, total = _counts(step, num_warmup_steps, num_training_steps)
    num_cycles = number("num_cycles", num_cycles, at_least=0)
    if step < warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    return (1.0 + np.cos(2 * np.pi * num_cycles * progress).item()) / 2


def _counts(step, num_warmup_steps, num_training_steps):
    return (
        number("step", step, at_least=0),
        number("num_warmup_steps", num_warmup_steps, at_least=0),
        number("num_training_steps", num_training_steps, at_least=1),
    )

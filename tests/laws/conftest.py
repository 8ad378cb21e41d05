"""What the laws share: a derivative that nobody derived by hand."""

import numpy as np
import pytest


def _numeric_grad(f, x, h=1e-3):
    """df/dx of the scalar f by five-point central differences, in the shape of x.

    Truncation is h^4 f''''' / 30, about 3e-14 for an f of order one; rounding 1.5 eps |f| / h,
    about 3e-13.  So a test may ask for 1e-9 of the gradient's size, and a wrong term never passes.
    """
    x = np.array(x, dtype=float)
    grad = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        at = []
        for step in (-2, -1, 1, 2):
            moved = x.copy()
            moved[i] += step * h
            at.append(f(moved))
        grad[i] = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
    return grad


@pytest.fixture(scope="session")
def numeric_grad():
    return _numeric_grad

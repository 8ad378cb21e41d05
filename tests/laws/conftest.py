"""What the laws share: a derivative that nobody derived by hand, and no silent NaN or overflow."""

import numpy as np
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A 0 / 0 or an overflow on the way is an error, even where a later line would hide it."""
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        return (yield)


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


def _slopes(loss, grad, **options):
    """The gradients are the slopes of the loss, at two betas."""
    chosen, rejected = np.random.default_rng(0).normal(scale=3.0, size=(2, 6))
    for beta in (0.1, 1.0):
        options["beta"] = beta
        slopes = (
            _numeric_grad(lambda a: loss(a, rejected, **options).sum(), chosen),
            _numeric_grad(lambda b: loss(chosen, b, **options).sum(), rejected),
        )
        grads = grad(chosen, rejected, **options)
        np.testing.assert_allclose(grads, slopes, rtol=1e-8, atol=1e-10)  # see _numeric_grad
        assert np.abs(grads).max() > 1e-3


def _drift(loss, grad, **options):
    """Answers 700 nats from the reference, either way or both, leave everything finite."""
    zero = np.zeros(1)
    for far in (np.array([700.0]), np.array([-700.0])):
        for pair in [(far, zero), (zero, far), (far, far), (far, -far / 2)]:
            for beta in (0.1, 1.0):
                assert np.isfinite(loss(*pair, beta=beta, **options)).all()
                assert np.isfinite(grad(*pair, beta=beta, **options)).all()


def _pairs(loss, grad, **options):
    """One loss per pair; only optimal transport reads the other pairs."""
    chosen, rejected = np.random.default_rng(0).normal(scale=3.0, size=(2, 6))
    together = loss(chosen, rejected, beta=0.3, **options)
    alone = [loss(chosen[[i]], rejected[[i]], beta=0.3, **options)[0] for i in range(6)]
    assert np.allclose(together, alone, rtol=1e-12) != (loss.__name__ == "aot")


def _beta_zero(loss, grad, **options):
    """No beta, no preference; where 1 / beta is the target, an error."""
    chosen, rejected = np.random.default_rng(0).normal(scale=3.0, size=(2, 6))
    options["beta"] = 0.0
    if loss.__name__ in ("ipo", "sppo_hard"):
        for f in (loss, grad):
            with pytest.raises(ValueError, match="beta must be > 0, got 0.0"):
                f(chosen, rejected, **options)
        return
    swapped = loss(rejected, chosen, **options)
    np.testing.assert_array_equal(loss(chosen, rejected, **options), swapped)
    np.testing.assert_array_equal(np.abs(grad(chosen, rejected, **options)), 0.0)


def _refusals(loss, grad, **options):
    """Unequal or missing answers and a negative beta are named."""
    for f in (loss, grad):
        for chosen, rejected, beta, message in [
            ([0.0, 0.0], [0.0], 0.1, r"rejected_logratios must have shape \(2,\), got \(1,\)"),
            ([[0.0]], [[0.0]], 0.1, "chosen_logratios must have 1 axes"),
            ([np.nan], [0.0], 0.1, "chosen_logratios must be finite, got nan"),
            ([0.0], [np.inf], 0.1, "rejected_logratios must be finite, got inf"),
            ([0.0], [0.0], -0.1, "beta must be >"),
        ]:
            with pytest.raises(ValueError, match=message):
                f(chosen, rejected, beta=beta, **options)


@pytest.fixture(scope="session")
def preference_laws():
    """What every loss of two (B,) arrays obeys: each law takes it, its gradient, its options."""
    return {
        "slopes": _slopes,
        "drift": _drift,
        "pairs": _pairs,
        "beta_zero": _beta_zero,
        "refusals": _refusals,
    }

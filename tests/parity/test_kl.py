"""reference_math.kl against its torch twin and torch.  TRL's KL term: test_grpo.py."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import kl
from reference_math.torch import kl as twin

ESTIMATORS = ["k1", "k2", "k3"]


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("gap", [0.0, 1e-6, 1e-3, 1.0, 8.0])  # on-policy ... far off-policy
def test_the_twin_agrees_wherever_it_runs(place, name, gap):
    rng = np.random.default_rng(0)
    logps = -rng.exponential(size=(3, 5))
    x = place.tensor(logps, requires_grad=True)
    # the difference is formed in the dtype, so it is the difference that is handed over exactly
    ref = place.numpy(x) - np.abs(place.numpy(place.tensor(gap * rng.random((3, 5)))))
    ref = place.tensor(ref)
    got = getattr(twin, name)(x, ref)
    got.sum().backward()

    # the difference itself, as float32 or better can hold it
    log_r = place.numpy(ref.to(got.dtype) - x.to(got.dtype))
    zero, eps = np.zeros_like(log_r), min(place.eps, torch.finfo(torch.float32).eps)
    # no atol: a k3 of 5e-13 is compared to its own digits.  r reaches e^8: 8 roundings in the exponent
    np.testing.assert_allclose(place.numpy(got), getattr(kl, name)(zero, log_r), rtol=60 * eps)
    grad = getattr(kl, name + "_grad")(zero, log_r)
    np.testing.assert_allclose(place.numpy(x.grad), grad, rtol=60 * place.eps)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_exact_kl_and_its_gradient_are_torchs_and_the_twins(temperature):
    rng = np.random.default_rng(0)
    logits, ref_logits = rng.normal(scale=2.0, size=(2, 3, 4, 7))
    value = kl.exact(logits, ref_logits, temperature=temperature)
    grad = kl.exact_grad(logits, ref_logits, temperature=temperature)

    def by_torch(z, r):
        log_p, log_q = (torch.log_softmax(x / temperature, dim=-1) for x in (z, r))
        return torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)

    def by_twin(z, r):
        return twin.exact(z, r, temperature=temperature)

    for f in (by_torch, by_twin):
        z = torch.tensor(logits, requires_grad=True)
        got = f(z, torch.tensor(ref_logits))
        got.sum().backward()
        np.testing.assert_allclose(got.detach(), value, rtol=1e-9)
        np.testing.assert_allclose(z.grad, grad, rtol=1e-9)


def test_the_twin_keeps_the_digits_of_a_small_k3_that_the_direct_form_loses():
    """In float32 exp(x) - x - 1, which TRL writes, has no digit left at x = 1e-4."""
    x = torch.tensor([-1e-4, 1e-4, 3e-4], dtype=torch.float32)
    direct = torch.exp(x) - x - 1
    exact = kl.k3(np.zeros((1, 3)), x.double().numpy()[None])[0]
    assert (np.abs(direct.double().numpy() - exact) > 0.3 * exact).all()
    ours = twin.k3(torch.zeros(1, 3), x[None])[0]
    np.testing.assert_allclose(ours.double(), exact, rtol=1e-6)  # a few float32 roundings


def test_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"ref_per_token_logps must have shape \(2, 3\), got \(3,"):
        twin.k1(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"ref_logits must have shape \(2, 3\), got \(3,"):
        twin.exact(torch.zeros(2, 3), torch.zeros(3, 2))

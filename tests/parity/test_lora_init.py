"""reference_math.lora_init against PEFT's initialisations, draw for draw."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from reference_math import lora_init

N_IN, N_OUT, R, ALPHA = 10, 7, 4, 8


class TorchDraws:
    """numpy's Generator drawing torch's random numbers, so that PEFT's draws can be repeated."""

    def uniform(self, low, high, size):
        return torch.empty(size).uniform_(low, high).double().numpy()

    def normal(self, mean, std, size):
        return torch.empty(size).normal_(mean, std).double().numpy()

    def standard_normal(self, size):
        return torch.randn(size).double().numpy()


def peft_layer(init, dtype=torch.float32, weight=None):
    base = torch.nn.Linear(N_IN, N_OUT, bias=False, dtype=dtype)
    if weight is not None:
        base.weight.data = torch.tensor(weight, dtype=dtype)
    config = peft.LoraConfig(r=R, lora_alpha=ALPHA, init_lora_weights=init)
    return peft.tuners.lora.Linear(base, "default", config, r=R, lora_alpha=ALPHA)


def factors(layer):
    return [f["default"].weight.detach().double().numpy() for f in (layer.lora_A, layer.lora_B)]


def a_weight():
    return np.random.default_rng(0).standard_normal((N_OUT, N_IN)).astype(np.float32)


@pytest.mark.parametrize(
    "init, ours",
    [
        (True, lora_init.default),
        ("gaussian", lora_init.gaussian),
        ("orthogonal", lora_init.orthogonal),
    ],
    ids=["default", "gaussian", "orthogonal"],
)
def test_peft_draws_the_same_factors(init, ours):
    layer = peft_layer(True)
    torch.manual_seed(3)
    if init == "orthogonal":
        layer.orthogonal_init("default")
    else:
        layer.reset_lora_parameters("default", init)
    torch.manual_seed(3)
    expected = ours(TorchDraws(), R, N_IN, N_OUT)
    for their, our in zip(factors(layer), expected, strict=True):
        assert their.shape == our.shape
        # PEFT works in float32: QR and products of numbers up to 3, and the bound itself
        np.testing.assert_allclose(their, our, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("init, ours", [("pissa", lora_init.pissa), ("olora", lora_init.olora)])
def test_peft_splits_a_weight_in_the_same_way(init, ours):
    weight = a_weight()
    layer = peft_layer(init, weight=weight)
    lora_A, lora_B, residual = ours(weight, R, scaling=ALPHA / R)
    their_A, their_B = factors(layer)
    # a singular vector's sign is free: align it, row by row of A and column by column of B
    sign = np.sign((their_A * lora_A).sum(axis=1))
    # float32 decompositions of a matrix of size 5: 1e-6 of that
    np.testing.assert_allclose(their_A * sign[:, None], lora_A, rtol=0, atol=5e-6)
    np.testing.assert_allclose(their_B * sign, lora_B, rtol=0, atol=5e-6)
    np.testing.assert_allclose(layer.base_layer.weight.detach(), residual, rtol=0, atol=1e-5)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.library_defect
def test_peft_refuses_to_split_a_float64_weight_and_ours_does_it(init):
    with pytest.raises(TypeError, match=r"float32, float16, or bfloat16|Unsupported data type"):
        peft_layer(init, dtype=torch.float64, weight=a_weight())
    lora_A, lora_B, residual = getattr(lora_init, init)(a_weight(), R, scaling=2.0)
    np.testing.assert_allclose(residual + 2.0 * lora_B @ lora_A, a_weight(), atol=1e-14)


@pytest.mark.library_defect
def test_peft_takes_a_rank_that_the_weight_does_not_have_and_ours_refuses():
    base = torch.nn.Linear(N_IN, 3, bias=False)
    config = peft.LoraConfig(r=R, lora_alpha=ALPHA, init_lora_weights="pissa")
    layer = peft.tuners.lora.Linear(base, "default", config, r=R, lora_alpha=ALPHA)
    assert layer.r["default"] == R and layer.lora_A["default"].weight.shape == (3, N_IN)
    with pytest.raises(ValueError, match="r must be at most"):
        lora_init.pissa(np.ones((3, N_IN)), R, scaling=1.0)


def test_both_refuse_an_odd_rank_for_the_orthogonal_start():
    with pytest.raises(ValueError, match="even"):
        config = peft.LoraConfig(r=3, init_lora_weights="orthogonal")
        peft.tuners.lora.Linear(torch.nn.Linear(4, 4), "default", config, r=3, lora_alpha=3)
    with pytest.raises(ValueError, match="even"):
        lora_init.orthogonal(TorchDraws(), 3, 4, 4)

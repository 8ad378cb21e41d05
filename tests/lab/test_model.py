"""The tiny model's own optimizer: torch's Muon, but for the precision of its iteration."""

import pytest
import torch
from lab import model


def moved(optimizer_class, shape, steps=5, **options):
    """A matrix after some steps on fixed random gradients."""
    torch.manual_seed(0)
    param = torch.nn.Parameter(torch.randn(shape))
    optimizer = optimizer_class([param], lr=0.1, weight_decay=0.01, **options)
    for seed in range(steps):
        param.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
    return param.detach()


@pytest.mark.parametrize("shape", [(64, 64), (64, 128), (128, 64)])
def test_muon_takes_the_steps_of_torch_but_for_bfloat16(shape):
    ours, theirs = moved(model.Muon, shape), moved(torch.optim.Muon, shape)
    started = moved(model.Muon, shape, steps=0)
    travelled = (theirs - started).norm()
    # bfloat16 keeps 8 bits: 2^-8 a product, some fifteen products after one another.
    assert (ours - theirs).norm() < 15 * 2**-8 * travelled
    # What a mistake would give is far outside: no Nesterov step, no factor for tall matrices.
    assert (moved(torch.optim.Muon, shape, nesterov=False) - ours).norm() > 0.1 * travelled


def test_the_iteration_brings_all_singular_values_near_one():
    """Also those that are a hundredth of the largest, where bfloat16 has two digits left."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(64, 64))
    matrix = u @ torch.diag(torch.logspace(0, -2, 64)) @ v
    found = u.T @ model.orthogonal(matrix[None])[0] @ v.T
    assert 0.6 < found.diagonal().min() and found.diagonal().max() < 1.3
    assert (found - found.diagonal().diag()).abs().max() < 1e-3  # U and V stay as they are


def test_matrices_of_one_shape_move_together_as_each_would_alone():
    """And each by its own scale: a second matrix a thousand times as large changes nothing of the first."""
    few = torch.randn(3, 64, 128, generator=torch.Generator().manual_seed(0))
    few[1] *= 1000
    alone = torch.stack([model.orthogonal(matrix[None])[0] for matrix in few])
    torch.testing.assert_close(model.orthogonal(few), alone, rtol=0, atol=1e-5)


@pytest.mark.library_defect
def test_torch_still_computes_the_iteration_in_bfloat16():
    """A test that fails here means that lab.model.Muon can go."""
    from torch.optim import _muon

    update = _muon._zeropower_via_newtonschulz(torch.randn(64, 64), (3.4, -4.8, 2.0), 5, 1e-7)
    assert update.dtype == torch.bfloat16

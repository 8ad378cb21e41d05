"""reference_math.uld against the ULDLoss of TRL's GOLDTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import uld
from reference_math.conformance import trl_distillation


def two_models(v, teacher_v, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, v)), rng.normal(size=(4, teacher_v))


@pytest.mark.parametrize("v, teacher_v", [(5, 7), (7, 5), (6, 6)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_and_its_gradient_are_trls(v, teacher_v, temperature):
    student, teacher = two_models(v, teacher_v)
    options = {"temperature": temperature}
    x = torch.tensor(student, requires_grad=True)
    theirs = trl_distillation.uld(x, torch.tensor(teacher), **options)
    theirs.backward()
    # float64, the same operations in another order; atol: what cancels from terms of order one
    np.testing.assert_allclose(theirs.item(), uld.loss(student, teacher, **options), rtol=1e-13)
    grad = uld.loss_grad(student, teacher, **options)
    np.testing.assert_allclose(x.grad, grad, rtol=1e-12, atol=1e-15)


@pytest.mark.library_defect
def test_by_default_trl_reads_the_logits_one_position_late():
    """ "observed" never reads what predicts the first token, and reads what follows the last one."""
    student, teacher = two_models(5, 7)
    x = torch.tensor(student, requires_grad=True)
    theirs = trl_distillation.uld(x, torch.tensor(teacher), strategy="observed")
    theirs.backward()
    assert not x.grad[0].any() and x.grad[1:].any()
    # the tokens after the first, and a last position where both models are given zeros
    late = [np.concatenate([z[1:], np.zeros_like(z[:1])]) for z in (student, teacher)]
    np.testing.assert_allclose(theirs.item(), uld.loss(*late), rtol=1e-13)

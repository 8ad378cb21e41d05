"""reference_math.gkd against TRL's GKDTrainer."""

from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import gkd
from reference_math.conformance import trl_distillation

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-12, "atol": 1e-14}
BETAS = pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])


def a_batch(seed=0, B=3, T=4, V=6):
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(B, 1))).astype(float)
    return *rng.normal(scale=2.0, size=(2, B, T, V)), mask


@BETAS
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("num_items", [None, 32])
def test_the_loss_and_its_gradient_are_trls(beta, temperature, num_items):
    student, teacher, mask = a_batch()
    options = {"beta": beta, "temperature": temperature, "num_items_in_batch": num_items}
    x = torch.tensor(student, requires_grad=True)
    theirs = trl_distillation.gkd(x, torch.tensor(teacher), torch.tensor(mask), **options)
    theirs.backward()
    np.testing.assert_allclose(theirs.item(), gkd.loss(student, teacher, mask, **options), **EXACT)
    ours = gkd.loss_grad(student, teacher, mask, **options)
    np.testing.assert_allclose(x.grad, ours, **EXACT)


def test_a_batch_in_which_nothing_counts_is_trls():
    student, teacher, mask = a_batch()
    x = torch.tensor(student, requires_grad=True)
    theirs = trl_distillation.gkd(x, torch.tensor(teacher), torch.tensor(0 * mask), beta=0.5)
    theirs.backward()
    assert theirs.item() == gkd.loss(student, teacher, 0 * mask, beta=0.5) == 0.0
    assert not x.grad.any()


@pytest.mark.library_defect
def test_the_temperature_of_trls_trainer_never_reaches_its_loss():
    student, teacher, mask = a_batch()
    args = [torch.tensor(z) for z in (student, teacher, mask)]
    theirs = trl_distillation.gkd_compute_loss(*args, beta=0.5, temperature=0.9)
    at_one, asked_for = (
        gkd.loss(student, teacher, mask, beta=0.5, temperature=t) for t in (1, 0.9)
    )
    np.testing.assert_allclose(theirs, at_one, **EXACT)
    assert abs(asked_for - at_one) > 0.01 * at_one


@pytest.mark.library_defect
def test_a_step_without_tokens_is_nan_in_trl():
    student, teacher, mask = a_batch()
    args = [torch.tensor(z) for z in (student, teacher, 0 * mask)]
    assert torch.isnan(trl_distillation.gkd(*args, beta=0.5, num_items_in_batch=0))
    assert gkd.loss(student, teacher, 0 * mask, beta=0.5, num_items_in_batch=0) == 0.0


@pytest.mark.library_defect
def test_a_batch_of_the_students_own_answers_is_divided_by_the_data_sets_tokens_in_trl():
    """training_step swaps the answers in; num_items_in_batch was counted before, on the others."""
    from trl.experimental.gkd import GKDTrainer, gkd_trainer

    seen = {}

    def below(self, model, inputs, num_items_in_batch):
        seen.update(labels=inputs["labels"], divided_by=num_items_in_batch)
        return torch.tensor(0.0)

    own = torch.tensor([[-100, 5, 6, 7, 8]])  # four tokens that the student has just sampled
    trainer = GKDTrainer.__new__(GKDTrainer)
    trainer.lmbda, trainer.seq_kd, trainer.generation_config = 1.0, False, None
    trainer.accelerator, trainer.generation_kwargs = None, {}
    trainer.args = SimpleNamespace(gradient_checkpointing_kwargs=None)
    trainer.generate_on_policy_outputs = lambda *_: (own, own, own)
    given = torch.tensor([[-100, 5]])
    inputs = dict.fromkeys(("input_ids", "attention_mask", "labels"), given)
    unwrapped = mock.patch.object(
        gkd_trainer, "unwrap_model_for_generation", lambda *_, **__: nullcontext()
    )
    parent = GKDTrainer.__mro__[1]
    with unwrapped, mock.patch.object(parent, "training_step", below):
        GKDTrainer.training_step(trainer, torch.nn.Identity(), inputs, num_items_in_batch=1)
    assert (seen["labels"] != -100).sum() == 4 and seen["divided_by"] == 1

"""reference_math.online_dpo against TRL's OnlineDPOTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import online_dpo
from reference_math.conformance import trl_experimental

# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-12, "atol": 1e-14}
LOSSES = pytest.mark.parametrize("loss_type", online_dpo.LOSS_TYPES)


def a_batch(seed=0, prompts=4, T=5):
    rng = np.random.default_rng(seed)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(2 * prompts, 1))).astype(float)
    logps = -rng.exponential(size=mask.shape)
    ref = logps + rng.normal(scale=0.7, size=mask.shape)
    rewards = rng.normal(size=2 * prompts)
    rewards[[0, prompts]] = 1.5  # a tie
    return logps, ref, rewards, mask


@LOSSES
@pytest.mark.parametrize("seed", range(3))
def test_the_loss_and_its_gradient_are_trls(loss_type, seed):
    logps, ref, rewards, mask = a_batch(seed)
    x = torch.tensor(logps, requires_grad=True)
    rest, options = (ref, rewards, mask), {"beta": 0.3, "loss_type": loss_type}
    theirs = trl_experimental.online_dpo(x, *map(torch.tensor, rest), **options)
    theirs.backward()
    ours = online_dpo.loss(logps, *rest, **options)
    np.testing.assert_allclose(theirs.item(), ours, **EXACT)
    np.testing.assert_allclose(x.grad, online_dpo.loss_grad(logps, *rest, **options), **EXACT)


def test_the_penalty_of_an_answer_without_an_end_is_trls():
    logps, ref, rewards, mask = a_batch()
    ended = np.array([1.0, 0, 1, 1, 1, 1, 0, 1])
    penalised = online_dpo.eos_penalized_rewards(rewards, ended, missing_eos_penalty=3.0)
    order = [online_dpo.better_first(x).tolist() for x in (rewards, penalised)]
    assert order[0] != order[1]  # it decides a pair
    theirs = trl_experimental.online_dpo(
        *map(torch.tensor, (logps, ref, rewards, mask)),
        beta=0.3,
        ended=torch.tensor(ended),
        missing_eos_penalty=3.0,
    )
    ours = online_dpo.loss(logps, ref, penalised, mask, beta=0.3)
    np.testing.assert_allclose(theirs, ours, **EXACT)


@pytest.mark.library_defect
def test_trls_gradient_grows_with_the_accumulation_steps_and_only_its_logged_loss_does_not():
    """A micro-batch of four is backpropagated whole, so four of them make four times the mean."""
    logps, ref, rewards, mask = a_batch()
    grads, logged = [], []
    for steps in (1, 4):
        x = torch.tensor(logps, requires_grad=True)
        rest = map(torch.tensor, (ref, rewards, mask))
        options = {"gradient_accumulation_steps": steps, "logged": logged}
        trl_experimental.online_dpo(x, *rest, beta=0.3, **options).backward()
        grads.append(x.grad.numpy())
    np.testing.assert_array_equal(grads[0], grads[1])  # should be a quarter
    np.testing.assert_allclose(logged[0] / 4, logged[1], rtol=1e-15)


@pytest.mark.library_defect
def test_nor_does_the_accelerator_of_trls_trainer_divide(tiny_qwen2, tokenizer, trainer_args):
    """A real trainer that accumulates four micro-batches: what it is handed has the gradient 1."""
    from datasets import Dataset
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    tokenizer.padding_side = "left"
    trainer = OnlineDPOTrainer(
        model=tiny_qwen2(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=OnlineDPOConfig(**trainer_args, gradient_accumulation_steps=4),
        train_dataset=Dataset.from_dict({"prompt": ["w3 w4"] * 4}),
        processing_class=tokenizer,
    )
    loss = torch.ones((), requires_grad=True)
    trainer.accelerator.backward(loss)
    assert trainer.args.gradient_accumulation_steps == 4 and loss.grad == 1.0

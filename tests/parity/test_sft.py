"""reference_math.sft and label_smoothing against the torch twin and TRL's SFTTrainer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import label_smoothing, logprobs, sft
from reference_math.conformance import trl_sft
from reference_math.torch import sft as twin

TINY = 2.0**-53
# float64, the same operations in another order; atol: what cancels from terms of order one
EXACT = {"rtol": 1e-12, "atol": 8 * TINY}


def a_batch(seed=0, B=3, T=6, V=11):
    """Logits, tokens, a mask with holes and rows of different lengths."""
    rng = np.random.default_rng(seed)
    logits, tokens = rng.normal(scale=2.0, size=(B, T, V)), rng.integers(0, V, (B, T))
    return logits, tokens, (rng.random((B, T)) < 0.6).astype(int)


MASKS = {
    "holes": lambda mask: mask,
    "everything": np.ones_like,
    "one empty row": lambda mask: mask * np.array([[0], [1], [1]]),
    "nothing": np.zeros_like,
}


# The twin --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("reduction", ["global_token", "batch_token", "sequence"])
@pytest.mark.parametrize("name", ["nll", "dft"])
def test_the_twin_agrees_wherever_it_runs(place, name, reduction, mask):
    logits, tokens, completion_mask = a_batch()
    completion_mask = MASKS[mask](completion_mask)
    n = 17 if reduction == "global_token" else None
    options = {"reduction": reduction, "num_items_in_batch": n}
    logps = logprobs.per_token_logps(logits, tokens)
    x = place.tensor(np.where(completion_mask == 1, logps, np.nan), requires_grad=True)
    got = getattr(twin, name)(x, place.tensor(completion_mask), **options)
    got.backward()

    rounded = place.numpy(x)
    value = getattr(sft, name)(rounded, completion_mask, **options)
    grad = getattr(sft, name + "_grad")(rounded, completion_mask, **options)
    # 18 terms of one sign, summed in float32 or better; the gradient comes back in the dtype
    eps = min(place.eps, torch.finfo(torch.float32).eps)
    np.testing.assert_allclose(place.numpy(got), value, rtol=20 * eps)
    np.testing.assert_allclose(place.numpy(x.grad), grad, rtol=4 * place.eps)


def test_the_twins_masks_and_metrics(place):
    logits, tokens, mask = a_batch()
    assistant = 1 - np.roll(mask, 1, axis=0)
    got = twin.loss_mask(place.tensor(mask), place.tensor(assistant))
    np.testing.assert_array_equal(got.cpu(), sft.loss_mask(mask, assistant))
    np.testing.assert_array_equal(twin.loss_mask(place.tensor(mask)).cpu(), sft.loss_mask(mask))
    entropy = place.tensor(logprobs.entropy(logits))
    got = twin.mean_entropy(entropy, place.tensor(mask))
    expected = sft.mean_entropy(place.numpy(entropy), mask)
    np.testing.assert_allclose(place.numpy(got), expected, rtol=20 * place.eps)  # as above
    z = place.tensor(logits)
    got = twin.mean_token_accuracy(z, place.tensor(tokens), place.tensor(mask))
    expected = sft.mean_token_accuracy(place.numpy(z), tokens, mask)
    np.testing.assert_allclose(place.numpy(got), expected, rtol=1e-6)  # counts, in float32


@pytest.mark.parametrize(
    "mask, options, message",
    [
        ([[1]], {"reduction": "mean"}, "reduction must be one of 'global_token'"),
        ([[1]], {"reduction": "global_token"}, "num_items_in_batch is the counted tokens"),
        ([[1]], {"reduction": "sequence", "num_items_in_batch": 2}, "num_items_in_batch is the"),
        ([[1, 1]], {"reduction": "sequence"}, "completion_mask must have the shape of per_token"),
    ],
)
def test_the_twin_refuses_what_does_not_fit(mask, options, message):
    with pytest.raises(ValueError) as error:
        twin.nll(torch.zeros(1, 1), torch.tensor(mask), **options)
    assert message in str(error.value)


# TRL's own loss, in float64 --------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("n", [None, 23])  # num_items_in_batch: a micro-batch alone, or one of some
@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_trls_loss_and_its_gradient_to_the_logits(loss_type, n, mask):
    logits, tokens, completion_mask = a_batch()
    completion_mask = MASKS[mask](completion_mask)
    z = torch.tensor(logits, requires_grad=True)
    metrics = {}
    got = trl_sft.loss(
        z,
        torch.tensor(tokens),
        torch.tensor(completion_mask),
        loss_type=loss_type,
        num_items_in_batch=n,
        metrics=metrics,
    )
    got.backward()

    options = {"reduction": "global_token" if n else "batch_token", "num_items_in_batch": n}
    logps = logprobs.per_token_logps(logits, tokens)
    value = getattr(sft, loss_type)(logps, completion_mask, **options)
    grad = getattr(sft, loss_type + "_grad")(logps, completion_mask, **options)
    np.testing.assert_allclose(got.item(), value, **EXACT)
    np.testing.assert_allclose(z.grad, logprobs.logits_grad(logits, tokens, grad), **EXACT)

    entropy = sft.mean_entropy(logprobs.entropy(logits), completion_mask)
    accuracy = sft.mean_token_accuracy(logits, tokens, completion_mask)
    np.testing.assert_allclose(metrics["entropy"], entropy, **EXACT)
    # hits and tokens are counted in integers, divided in float32
    np.testing.assert_allclose(metrics["mean_token_accuracy"], accuracy, rtol=1e-7)


@pytest.mark.parametrize("mask", sorted(set(MASKS) - {"nothing"}))
@pytest.mark.parametrize("n", [None, 23])
@pytest.mark.parametrize("eps", [0.1, 0.6])
def test_trls_label_smoothing_and_its_gradient_to_the_logits(eps, n, mask):
    logits, tokens, completion_mask = a_batch()
    completion_mask = MASKS[mask](completion_mask)
    z = torch.tensor(logits, requires_grad=True)
    got = trl_sft.loss(
        z,
        torch.tensor(tokens),
        torch.tensor(completion_mask),
        label_smoothing_factor=eps,
        num_items_in_batch=n,
    )
    got.backward()
    options = {"reduction": "global_token" if n else "batch_token", "num_items_in_batch": n}
    options["label_smoothing_factor"] = eps
    value = label_smoothing.loss(logits, tokens, completion_mask, **options)
    grad = label_smoothing.loss_grad(logits, tokens, completion_mask, **options)
    # transformers sums the smoothing term over the vocabulary in float32, whatever the model
    np.testing.assert_allclose(got.item(), value, rtol=1e-6)
    # and hands the gradient through that float32: 1e-7 of the largest weight
    np.testing.assert_allclose(z.grad, grad, rtol=1e-6, atol=1e-7 * np.abs(grad).max())


@pytest.mark.library_defect
def test_label_smoothing_of_a_batch_without_labels_is_nan_in_transformers():
    """nll clamps its denominator, the smoother does not: 0 / 0.  Ours is 0, as for nll."""
    logits, tokens, mask = a_batch()
    z, y, m = (torch.tensor(x) for x in (logits, tokens, 0 * mask))
    assert torch.isnan(trl_sft.loss(z, y, m, label_smoothing_factor=0.1))
    options = {"label_smoothing_factor": 0.1, "reduction": "batch_token"}
    assert label_smoothing.loss(logits, tokens, 0 * mask, **options) == 0.0


# A tiny model through the whole trainer --------------------------------------------------------

pytest.importorskip("trl")

ROWS = [
    {"prompt": "w3 w4 w5", "completion": " w6 w7 w8 w9"},
    {"prompt": "w10", "completion": " w11"},
    {"prompt": "w12 w13", "completion": " w14 w15 w16"},
    {"prompt": "w17 w18 w19 w20", "completion": " w21 w22"},
]


def a_trainer(model, tokenizer, args, rows=ROWS, **options):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(**(args | {"shuffle_dataset": False} | options))
    return SFTTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def batch_of(trainer):
    """The first batch as the trainer collates it, with the logits of the model for it."""
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        plain = {key: batch[key] for key in ("input_ids", "attention_mask")}
        logits = trainer.model(**plain).logits[:, :-1].double().numpy()
    return batch, logits, batch["input_ids"][:, 1:].numpy()


def head_gradient(trainer, batch, grad_logits):
    """What the head's weight should receive: dL/d(logits) carried through its one product."""
    with torch.no_grad():
        hidden = trainer.model.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
    return np.einsum("btv,btd->vd", grad_logits, hidden[:, :-1].double().numpy())


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_a_whole_trainers_loss_gradient_and_metrics(tiny_qwen2, tokenizer, trainer_args, loss_type):
    options = {"loss_type": loss_type, "per_device_train_batch_size": 4}
    trainer = a_trainer(tiny_qwen2(), tokenizer, trainer_args, **options)
    batch, logits, tokens = batch_of(trainer)
    trainer.model.train()
    got = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=20)
    got.backward()

    mask = (batch["labels"][:, 1:] != -100).numpy().astype(int)
    assert mask.sum() == 4 + 1 + 3 + 2 + 4  # the completions and their <eos>
    weighs = {"reduction": "global_token", "num_items_in_batch": 20}
    logps = logprobs.per_token_logps(logits, tokens)
    # float32 model and head: log-probs up to 20 carry 1e-6 each
    value = getattr(sft, loss_type)(logps, mask, **weighs)
    np.testing.assert_allclose(got.item(), value, rtol=1e-5)
    to_logits = logprobs.logits_grad(
        logits, tokens, getattr(sft, loss_type + "_grad")(logps, mask, **weighs)
    )
    expected = head_gradient(trainer, batch, to_logits)
    grad = trainer.model.lm_head.weight.grad
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    logged = {name: values[-1] for name, values in trainer._metrics["train"].items()}
    entropy = sft.mean_entropy(logprobs.entropy(logits), mask)
    np.testing.assert_allclose(logged["entropy"], entropy, rtol=1e-5)
    accuracy = sft.mean_token_accuracy(logits, tokens, mask)
    np.testing.assert_allclose(logged["mean_token_accuracy"], accuracy, rtol=1e-6)


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_an_accumulation_window_is_one_big_batch(tiny_qwen2, tokenizer, trainer_args, loss_type):
    """One real SGD step, of one batch of 4 and of 4 batches of 1, ends in the same weights."""
    common = {"loss_type": loss_type, "optim": "sgd", "learning_rate": 0.5, "max_steps": 1}
    common |= {"lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    ends = []
    for size, steps in [(4, 1), (1, 4)]:
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = a_trainer(tiny_qwen2(), tokenizer, trainer_args, **common, **cut)
        start = trainer.model.lm_head.weight.detach().clone()
        trainer.train()
        ends.append(trainer.model.lm_head.weight.detach().clone())
    assert (ends[0] - start).abs().max() > 1e-3
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-5, atol=1e-6)  # float32 sums, other order


def test_trl_logs_the_plain_mean_of_its_micro_batches(tiny_qwen2, tokenizer, trainer_args):
    """Not the mean over the window's tokens: a short answer's entropy weighs as a long one's."""
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "max_steps": 1}
    whole = a_trainer(
        tiny_qwen2(), tokenizer, trainer_args, per_device_train_batch_size=4, max_steps=1
    )
    batch, logits, _ = batch_of(whole)
    mask = (batch["labels"][:, 1:] != -100).numpy().astype(int)
    entropy = logprobs.entropy(logits)
    rows = [sft.mean_entropy(entropy[[i]], mask[[i]]) for i in range(4)]
    trainer = a_trainer(tiny_qwen2(), tokenizer, trainer_args, **options)
    trainer.train()
    logged = trainer.state.log_history[0]["entropy"]
    # float32 model and head
    np.testing.assert_allclose(logged, np.mean(rows), rtol=1e-5)
    assert abs(logged - sft.mean_entropy(entropy, mask)) > 1e-3


def test_the_trainers_labels_are_all_masks_at_once(tiny_qwen2, tokenizer, trainer_args):
    rng = np.random.default_rng(0)
    ids, completion, assistant = (rng.integers(3, 64, (4, 7)), *rng.integers(0, 2, (2, 4, 7)))
    completion[:, 3] = assistant[:, 3] = 1  # a row without any label would be dropped
    columns = {"input_ids": ids, "completion_mask": completion, "assistant_masks": assistant}
    rows = [{key: x[i].tolist() for key, x in columns.items()} for i in range(4)]
    options = {"per_device_train_batch_size": 4, "completion_only_loss": True}
    options |= {"assistant_only_loss": False, "train_sampling_strategy": "sequential"}
    trainer = a_trainer(tiny_qwen2(), tokenizer, trainer_args, rows, **options)
    batch = next(iter(trainer.get_train_dataloader()))
    order = [ids.tolist().index(row) for row in batch["input_ids"].tolist()]
    expected = sft.loss_mask(completion[order], assistant[order])
    np.testing.assert_array_equal(batch["labels"][:, 1:] != -100, expected == 1)

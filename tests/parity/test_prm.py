"""reference_math.prm against TRL 1.13.0's PRMTrainer (golden) and transformers' own loss."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import prm

FLOAT32 = {"rtol": 2e-6, "atol": 2e-7}  # transformers takes the logits to float32 first


@pytest.fixture(scope="module")
def driver(pytestconfig):
    """golden/drive_prm.py: its rows are words, whose ids are their numbers."""
    import importlib.util

    path = pytestconfig.rootpath / "tests" / "parity" / "golden" / "drive_prm.py"
    spec = importlib.util.spec_from_file_location("drive_prm", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ids(words):
    return [int(word[1:]) for word in words.split()]


def ours(row, bos, options):
    options = dict(options)
    separator = ids(options.pop("step_separator", "w63"))
    if options.pop("is_eval", False):
        options["train_on_last_step_only"] = False
    steps = [ids(step) for step in row["completions"]]
    options |= {"separator_ids": separator, "bos_token_id": 2 if bos else None}
    return prm.tokenize_row(ids(row["prompt"]), steps, row["labels"], **options)


@pytest.mark.parametrize("bos", [False, True])
def test_trls_rows_over_every_option(golden, driver, bos):
    vectors, compared = golden("prm"), 0
    for name, options in driver.OPTIONS.items():
        for i, row in enumerate(driver.ROWS):
            if name == "no separator" and "" in row["completions"]:
                continue  # test_an_empty_step_without_separator_slips_trls_labels
            case = f"rows/{name}{', bos' if bos else ''}/{i}"
            expected = [vectors[f"{case}/{part}"].tolist() for part in ("input_ids", "labels")]
            assert list(ours(row, bos, options)) == expected, case
            compared += 1
    assert compared == 27


@pytest.mark.library_defect
def test_an_empty_step_without_separator_slips_trls_labels(golden, driver):
    """One label more than tokens. Ours refuses the row."""
    vectors = golden("prm")
    case = "rows/no separator/2"
    assert len(vectors[f"{case}/labels"]) == len(vectors[f"{case}/input_ids"]) + 1
    with pytest.raises(ValueError, match="steps_ids must hold tokens"):
        ours(driver.ROWS[2], False, driver.OPTIONS["no separator"])


@pytest.mark.library_defect
def test_a_row_cut_short_has_nothing_left_to_learn_from_and_stays_in_trl(golden):
    """max_length counts the prompt: its three tokens and one step leave no separator."""
    labels = golden("prm")["rows/short/2/labels"]
    assert len(labels) == 5 and (labels == prm.IGNORED).all()


@pytest.mark.parametrize("case", ["mean", "counted"])
def test_the_trainers_loss_and_gradient_to_the_logits(golden, case):
    """PRMTrainer.compute_loss of a tiny model, padding and a cut row included."""
    batch = {
        name: golden("prm")[f"batch/{case}/{name}"] for name in ("loss", "logits", "labels", "grad")
    }
    assert (batch["labels"] != prm.IGNORED).sum() >= 5
    given = batch["logits"], batch["labels"]  # the model drops num_items_in_batch, see below
    np.testing.assert_allclose(batch["loss"], prm.loss(*given), **FLOAT32)
    np.testing.assert_allclose(batch["grad"], prm.loss_grad(*given), **FLOAT32)


def some_logits(seed=0, B=3, T=5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size=(B, T))
    labels[rng.random((B, T)) < 0.4] = prm.IGNORED
    return rng.normal(scale=3.0, size=(B, T, 2)), labels


def transformers_loss(logits, labels, **counted):
    loss_utils = pytest.importorskip("transformers.loss.loss_utils")
    z = torch.tensor(logits, requires_grad=True)
    config = SimpleNamespace(num_labels=2)
    value = loss_utils.ForTokenClassification(z, torch.tensor(labels), config, **counted)
    value.backward()
    return value.item(), z.grad.numpy()


@pytest.mark.parametrize("num_items_in_batch", [None, 20])
@pytest.mark.parametrize("gap", [0.0, 700.0, 1e4])
def test_transformers_loss_and_gradient(gap, num_items_in_batch):
    logits, labels = some_logits()
    logits[..., 1] += gap
    counted = {"num_items_in_batch": num_items_in_batch}
    value, grad = transformers_loss(logits, labels, **counted)
    np.testing.assert_allclose(value, prm.loss(logits, labels, **counted), **FLOAT32)
    np.testing.assert_allclose(grad, prm.loss_grad(logits, labels, **counted), **FLOAT32)


@pytest.mark.library_defect
def test_a_batch_without_a_judged_step_is_nan_in_transformers():
    logits, labels = some_logits()
    nothing = np.full_like(labels, prm.IGNORED)
    assert np.isnan(transformers_loss(logits, nothing)[0])
    assert prm.loss(logits, nothing) == 0.0


@pytest.mark.library_defect
def test_accumulated_steps_add_up_undivided_in_transformers(trainer_args):
    """The model takes num_items_in_batch and does not use it; the Trainer then does not divide.

    Two micro-batches: the step goes along the sum of their two means, twice as far as one batch of
    both would.
    """
    pytest.importorskip("transformers")
    moved = one_step(trainer_args, micro_batches=2)
    together = one_step(trainer_args, micro_batches=1)
    # float32; the two rows have as many judged tokens, so their mean is the mean of the two means
    np.testing.assert_allclose(moved, 2 * together, rtol=1e-3, atol=1e-5 * np.abs(moved).max())


def one_step(trainer_args, micro_batches):
    """By how much one step of SGD at rate 1 moves the head of a tiny classifier of tokens."""
    from datasets import Dataset
    from transformers import (
        Qwen2Config,
        Qwen2ForTokenClassification,
        Trainer,
        TrainingArguments,
        default_data_collator,
    )

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}
    model = Qwen2ForTokenClassification(
        Qwen2Config(**sizes, **heads, num_labels=2, classifier_dropout=0.0)
    )
    rows = [
        {"input_ids": [3, 4, 5, 6], "attention_mask": [1] * 4, "labels": [-100, 1, -100, 0]},
        {"input_ids": [7, 8, 9, 6], "attention_mask": [1] * 4, "labels": [-100, 0, -100, 0]},
    ]
    step = {"max_steps": 1, "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 1.0}
    step |= {"lr_scheduler_type": "constant", "weight_decay": 0.0}
    step |= {"per_device_train_batch_size": 2 // micro_batches}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**trainer_args | step, gradient_accumulation_steps=micro_batches),
        train_dataset=Dataset.from_list(rows),
        data_collator=default_data_collator,
    )
    before = model.score.weight.detach().numpy().copy()
    trainer.train()
    return model.score.weight.detach().numpy() - before

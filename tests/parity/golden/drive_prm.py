"""TRL 1.13.0's PRMTrainer: tokenize_row, and the loss of a tiny model's batch."""

NEEDS = ("trl==1.13.0",)

ROWS = (
    {"prompt": "w3 w4", "completions": ["w5 w6 w7", "w8", "w9 w10"], "labels": [True, False, True]},
    {"prompt": "w11", "completions": ["w12"], "labels": [False]},
    {"prompt": "w13 w14 w15", "completions": ["w16 w17", ""], "labels": [True, True]},
    {"prompt": "", "completions": ["w18", "w19 w20 w21 w22"], "labels": [False, True]},
)
OPTIONS = {
    "plain": {},
    "two separators": {"step_separator": "w62 w63"},
    "last step": {"train_on_last_step_only": True},
    "evaluation": {"train_on_last_step_only": True, "is_eval": True},
    "short completion": {"max_completion_length": 4},
    "short": {"max_length": 5, "max_completion_length": 6},
    "no separator": {"step_separator": ""},
}


def vectors():
    import numpy as np

    found = {}
    for bos in (None, "<bos>"):
        for name, options in OPTIONS.items():
            case = f"rows/{name}{', bos' if bos else ''}"
            for i, (input_ids, labels) in enumerate(rows(bos, options)):
                found[f"{case}/{i}/input_ids"] = np.array(input_ids, dtype=np.int64)
                found[f"{case}/{i}/labels"] = np.array(labels, dtype=np.int64)
    return found | a_batch()


def rows(bos, options):
    from trl.experimental.prm import PRMTrainer

    usual = {"step_separator": "w63", "max_length": None, "max_completion_length": None}
    usual |= {"train_on_last_step_only": False, "is_eval": False}
    for row in ROWS:
        tokenized = PRMTrainer.tokenize_row(row, a_tokenizer(bos), **usual | options)
        yield tokenized["input_ids"], tokenized["labels"]


def a_tokenizer(bos=None):
    """Words w3 ... w63 split at spaces, as the `tokenizer` of conftest.py."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<bos>": 2} | {f"w{i}": i for i in range(3, 64)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": bos}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def a_batch():
    """The whole trainer's loss of the four rows, float32, and its gradient to the logits."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForTokenClassification
    from trl.experimental.prm import PRMConfig, PRMTrainer

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}
    model = Qwen2ForTokenClassification(Qwen2Config(**sizes, **heads, pad_token_id=0, num_labels=2))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        usual = {"bf16": False, "use_cpu": True, "report_to": [], "gradient_checkpointing": False}
        trainer = PRMTrainer(
            model=model,
            args=PRMConfig(
                folder, **usual, per_device_train_batch_size=4, step_separator="w63", max_length=9
            ),
            train_dataset=Dataset.from_list(list(ROWS)),
            processing_class=a_tokenizer(),
        )
        batch = next(iter(trainer.get_train_dataloader()))
        for case, count in (("mean", None), ("counted", torch.tensor(20))):
            loss, outputs = trainer.compute_loss(
                model, dict(batch), return_outputs=True, num_items_in_batch=count
            )
            (grad,) = torch.autograd.grad(loss, outputs.logits)
            arrays = {"loss": loss.detach(), "logits": outputs.logits.detach(), "grad": grad}
            arrays |= {"labels": batch["labels"]}
            found |= {f"batch/{case}/{name}": x.numpy() for name, x in arrays.items()}
    return found

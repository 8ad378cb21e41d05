"""Decode one real batch of a trainer and mark the tokens that carry loss."""

import html
from itertools import groupby

import numpy as np
import torch

from reference_math import logprobs

SHOWN = 4  # rows
COLOUR, PLAIN = "\x1b[4;30;42m", "\x1b[0m"  # underlined too: no meaning by colour alone
STYLE = "background:#b7e4c7;color:#081c15;text-decoration:underline"


def show_batch(trainer, rows=SHOWN):
    """Print one batch as the model gets it: what is trained on is marked, padding is left out.

    SFT marks the labels, DPO chosen and rejected. GRPO shows its prompts with their golds: the
    completions that carry its loss are sampled anew at each step.
    In a notebook it is HTML, elsewhere colour.
    """
    spans = batch_spans(trainer, rows)
    if _in_notebook():
        from IPython.display import HTML, display

        display(HTML("".join(_html(title, row) for title, row in spans)))
    else:
        for title, row in spans:
            print(title)
            print(
                "".join(f"{COLOUR}{t}{PLAIN}" if trained else t for t, trained in row), end="\n\n"
            )


def batch_spans(trainer, rows=SHOWN):
    """Return [(title, [(text, trained)])], one entry per row of the trainer's first batch.

    Raises ValueError for a batch that is none of SFT's, DPO's and GRPO's.
    """
    batch = next(iter(trainer.get_train_dataloader()))
    tokenizer = getattr(trainer, "_tokenizer", None) or trainer.processing_class
    if isinstance(batch, list):  # GRPO: rows of the data set, each once per completion
        groups = [(row, len(list(same))) for row, same in groupby(batch)]
        return [
            (f"{times} completions, {_gold(row)}", [(_prompt(row["prompt"], trainer), False)])
            for row, times in groups[:rows]
        ]
    if "labels" in batch:
        titles = [f"row {i}" for i in range(len(batch["labels"]))]
        trained = batch["labels"] != -100
    elif "completion_mask" in batch:
        half = len(batch["completion_mask"]) // 2
        titles = [f"{side}, pair {i}" for side in ("chosen", "rejected") for i in range(half)]
        trained = batch["completion_mask"] == 1
    else:
        raise ValueError(f"show_batch: no labels and no completion_mask among {sorted(batch)}")
    order = range(len(titles))
    if "labels" not in batch:  # a pair together: chosen, then its rejected
        order = [i for pair in zip(range(half), range(half, 2 * half), strict=True) for i in pair]
    return [(titles[i], _row(batch, trained, i, tokenizer)) for i in list(order)[:rows]]


def _row(batch, trained, i, tokenizer):
    there = batch.get("attention_mask", trained | True)[i].bool()
    ids, marks = batch["input_ids"][i][there].tolist(), trained[i][there].tolist()
    spans = []
    for mark, run in groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1]):
        spans.append((tokenizer.decode([token for token, _ in run]), mark))
    return spans


def _prompt(prompt, trainer):
    """The prompt as GRPO asks with it: its own template, tools and template arguments."""
    if isinstance(prompt, str):
        return prompt
    prompt_ids, *_ = trainer._tokenize_prompts([prompt])
    return trainer.processing_class.decode(prompt_ids[0])


def _gold(row):
    others = {name: value for name, value in row.items() if name != "prompt"}
    return ", ".join(f"{name}: {value}" for name, value in others.items())


def _html(title, row):
    marked = "".join(
        f'<span style="{STYLE}">{html.escape(text)}</span>' if trained else html.escape(text)
        for text, trained in row
    )
    return f"<b>{html.escape(title)}</b><pre style='white-space:pre-wrap'>{marked}</pre>"


def _in_notebook():
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return type(get_ipython()).__name__ == "ZMQInteractiveShell"


@torch.no_grad()
def token_logps(model, inputs, counts=None):
    """Compute log p of each token after the first, (B, T - 1), by reference_math in float64.

    inputs    {"input_ids", "attention_mask"}, padded on the right
    counts    (B, T - 1): which of them are wanted; the others stay 0

    One row at a time, and of it only the wanted positions: the float64 logits of a whole batch
    with Qwen's vocabulary are 10 GB on a T4 and 80 GB on an A100.
    """
    ids, attention = (inputs[key] for key in ("input_ids", "attention_mask"))
    counts = attention[:, 1:].cpu().numpy() if counts is None else np.asarray(counts)
    found = np.zeros(counts.shape)
    for i, length in enumerate(attention.sum(1).tolist()):
        logits = model(input_ids=ids[i : i + 1, :length]).logits[:, :-1]
        wanted = np.flatnonzero(counts[i, : length - 1])
        tokens = ids[i, 1:length].cpu().numpy()[wanted]
        chosen = logits[:, torch.as_tensor(wanted, device=logits.device)]
        found[i, wanted] = logprobs.per_token_logps(chosen.double().cpu().numpy(), tokens[None])[0]
    return found

"""Process reward model: score each step of an answer at the token where the step ends.

    input    prompt | step 1 | separator | step 2 | separator | ...
    labels    -100  ...  -100   label 1    -100      label 2            1 = the step is right
    L = mean over the labelled tokens of -log softmax(logits)[label]

Source    Uesato et al., arXiv 2211.14275; Lightman et al., arXiv 2305.20050
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_prm.py, tests/parity/test_prm.py

Shapes    B answers, T tokens, C classes (2).    Token classification: no shift, the output at the
          separator judges the step before it.
TRL       PRMTrainer, last in 1.13.0, on transformers' ForTokenClassification. It truncates labels
          with the tokens, so a long answer may train on nothing: NaN there, 0 here. Over k
          accumulated micro-batches transformers 5.17 adds their means up: k times the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

from reference_math import _checks, logprobs, sft
from reference_math._types import Array, ArrayLike

IGNORED = -100  # the label of a token that is not judged


def tokenize_row(
    prompt_ids: Sequence[int],
    steps_ids: Sequence[Sequence[int]],
    labels: Sequence[bool],
    *,
    separator_ids: Sequence[int],
    bos_token_id: int | None = None,
    train_on_last_step_only: bool = False,
    max_completion_length: int | None = None,
    max_length: int | None = None,
) -> tuple[list[int], list[int]]:
    """Turn one answer into (input_ids, labels), two lists of one length.

    prompt_ids              token ids
    steps_ids               a list of token ids for each step
    labels                  0 or 1 for each step
    separator_ids           appended to each step; the step's label goes on their last token. If
                            empty, the label goes on the step's last token, and empty steps are an
                            error (TRL shifts the labels)
    bos_token_id            put first where given
    max_completion_length   cuts prompt and steps apart first, max_length then cuts the whole

    >>> tokenize_row([1, 2], [[3, 4], [5]], [1, 0], separator_ids=[9])
    ([1, 2, 3, 4, 9, 5, 9], [-100, -100, -100, -100, 1, -100, 0])
    """
    _checks.mask01("labels", labels, shape=(len(steps_ids),))
    steps = [[*step, *separator_ids] for step in steps_ids]
    if not all(steps):
        raise ValueError(f"steps_ids must hold tokens where there is no separator, got {steps_ids}")
    judged = [IGNORED] * (len(labels) - 1) if train_on_last_step_only else list(labels[:-1])
    marked = [
        [IGNORED] * (len(step) - 1) + [int(label)]
        for step, label in zip(steps, [*judged, *labels[-1:]])
    ]
    prompt = [*([] if bos_token_id is None else [bos_token_id]), *prompt_ids]
    tokens = [token for step in steps for token in step][:max_completion_length]
    marks = [mark for step in marked for mark in step][:max_completion_length]
    return (prompt + tokens)[:max_length], ([IGNORED] * len(prompt) + marks)[:max_length]


def loss(logits: ArrayLike, labels: ArrayLike, *, num_items_in_batch: float | None = None) -> float:
    """Compute the loss of one batch, a float; 0 if nothing is labelled (transformers: NaN).

    logits               (B, T, C)
    labels               (B, T)     0 ... C - 1, or -100 where nothing is judged
    num_items_in_batch   None: the mean over this batch's labelled tokens. Else their sum over this
                         number, the labelled tokens of the whole optimizer step

    >>> ln_3 = 1.09861229
    >>> round(loss([[[0.0, 0.0], [0.0, ln_3]]], [[-100, 1]]), 4)   # ln 4/3
    0.2877
    """
    tokens, weighting = _inputs(logits, labels, num_items_in_batch)
    return float(sft.nll(logprobs.per_token_logps(logits, tokens), **weighting))


def loss_grad(
    logits: ArrayLike, labels: ArrayLike, *, num_items_in_batch: float | None = None
) -> Array:
    """Compute d loss / d logits, (B, T, C): w (p - 1[label]) where labelled, 0 elsewhere.

    >>> ln_3 = 1.09861229
    >>> loss_grad([[[0.0, 0.0], [0.0, ln_3]]], [[-100, 1]]).round(4) + 0.0
    array([[[ 0.  ,  0.  ],
            [ 0.25, -0.25]]])
    """
    tokens, weighting = _inputs(logits, labels, num_items_in_batch)
    to_logps = sft.nll_grad(logprobs.per_token_logps(logits, tokens), **weighting)
    return logprobs.logits_grad(logits, tokens, to_logps)


def _inputs(logits, labels, num_items_in_batch):
    logits = _checks.finite("logits", logits, ndim=3)
    labels = _checks.array("labels", labels, shape=logits.shape[:2], dtype=None)
    judged = labels != IGNORED
    tokens = labels * judged
    _checks.token_ids("labels", tokens, vocab_size=logits.shape[2])
    reduction = "batch_token" if num_items_in_batch is None else "global_token"
    weighting = {"reduction": reduction, "num_items_in_batch": num_items_in_batch}
    return tokens, {"completion_mask": judged, **weighting}

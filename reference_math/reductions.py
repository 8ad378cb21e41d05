"""Reduce per-token losses to one number: the weight of each token, by the name of the method.

    loss = sum_bt weight_bt * per_token_loss_bt          so d loss / d per_token_loss = weight

Source    grpo      Shao et al., DeepSeekMath, arXiv 2402.03300, eq. 3; also SAPO, GSPO
          dr_grpo   Liu et al., Understanding R1-Zero-Like Training, arXiv 2503.20783
          dapo      Yu et al., DAPO, arXiv 2503.14476; also CISPO, VESPO
          luspo     LUSPO, arXiv 2602.05261
          bnpo      TRL's name for dapo with the tokens of the local micro-batch alone
          prompt_mean   ScaleRL, arXiv 2510.13786 (prompt-level averaging); SkyRL's name
Torch     reference_math.torch.reductions     Lesson   none
Proof     tests/laws/test_reductions.py, tests/parity/test_grpo.py

Shapes    B completions of a micro-batch, T tokens each; n_b of them count.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, ratios
from reference_math._types import Array, ArrayLike

REDUCTIONS = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "prompt_mean")


def token_weights(
    completion_mask: ArrayLike,
    *,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> Array:
    """Compute the weight of each token in the loss of one micro-batch.

    grpo      1 / (B n_b)         each completion weighs the same: a token in a long one less
    bnpo      1 / sum_b n_b       each token weighs the same, by the count of this micro-batch
    dr_grpo   1 / (B L)           each token weighs the same, by a constant
    dapo      1 / N               each token weighs the same, by the count of the global batch
    luspo     1 / B               a completion is the sum of its tokens: a long one weighs more
    prompt_mean   1 / (P n_p)     each of the P prompts weighs the same, and so do the n_p tokens of its
                                  completions: bnpo of each prompt, then the mean

    `sft.token_weights` has three of them under the names of SFT: grpo is sequence, bnpo is
    batch_token, dapo is global_token with num_items_in_batch = tokens_per_micro_batch.

    completion_mask          (B, T)  1 = counts
    reduction                one of the six
    max_completion_length    L, for dr_grpo
    tokens_per_micro_batch   N, for dapo: the mean over micro-batches, so that the mean of their
                             losses is the token mean of the whole. In TRL's terms
                             num_items_in_batch / (num_processes * steps_per_generation)
    num_generations          completions of one prompt, prompt-major, for prompt_mean
    returns                  (B, T)  0 on padding. Each is then divided by the gradient
                             accumulation steps, in TRL inside the loss.

    No token counts: all 0, so the loss is 0. An empty completion still counts in B.

    >>> completion_mask = [[1, 1, 1, 1], [1, 0, 0, 0]]
    >>> token_weights(completion_mask, reduction="grpo")
    array([[0.125, 0.125, 0.125, 0.125],
           [0.5  , 0.   , 0.   , 0.   ]])
    >>> token_weights(completion_mask, reduction="bnpo")
    array([[0.2, 0.2, 0.2, 0.2],
           [0.2, 0. , 0. , 0. ]])
    >>> token_weights(completion_mask, reduction="dr_grpo", max_completion_length=10)[0, 0]
    np.float64(0.05)
    >>> token_weights(completion_mask, reduction="dapo", tokens_per_micro_batch=8)[0, 0]
    np.float64(0.125)
    >>> token_weights(completion_mask, reduction="luspo")[0, 0]
    np.float64(0.5)
    >>> token_weights([[1], [1], [1], [0]], reduction="prompt_mean", num_generations=2).tolist()
    [[0.25], [0.25], [0.5], [0.0]]
    """
    _checks.one_of("reduction", reduction, REDUCTIONS)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    rows = max(len(mask), 1)
    if reduction == "grpo":
        return mask / (rows * ratios.lengths(mask))
    if reduction == "bnpo":
        return mask / max(mask.sum(), 1.0)
    if reduction == "dr_grpo":
        return mask / (rows * _needed(reduction, max_completion_length=max_completion_length))
    if reduction == "dapo":
        return mask / _needed(reduction, tokens_per_micro_batch=tokens_per_micro_batch)
    if reduction == "prompt_mean":
        _needed(reduction, num_generations=num_generations)
        group = _checks.groups("completion_mask", len(mask), num_generations or 0)
        of_prompt = mask.sum(axis=1).reshape(-1, group).sum(axis=1)
        n = np.repeat(np.maximum(of_prompt, 1.0), group)[:, None]
        return mask * group / (rows * n)
    return mask / rows


def reduce(
    per_token_loss: ArrayLike,
    completion_mask: ArrayLike,
    *,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
) -> float:
    """Compute the weighted sum of the per-token losses, a float; options as in `token_weights`.

    per_token_loss   (B, T), or (B, 1) at sequence level: the same for every token of a row

    >>> reduce([[1.0, 3.0], [6.0, 9.0]], [[1, 1], [1, 0]], reduction="grpo")     # (2 + 6) / 2
    4.0
    """
    weights = token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=max_completion_length,
        tokens_per_micro_batch=tokens_per_micro_batch,
        num_generations=num_generations,
    )
    per_token_loss = _checks.array("per_token_loss", per_token_loss, ndim=2)
    if per_token_loss.shape not in (weights.shape, (len(weights), 1)):
        raise ValueError(
            f"per_token_loss must have shape {weights.shape} or ({len(weights)}, 1), "
            f"got {per_token_loss.shape}"
        )
    counted = np.where(weights == 0, 0.0, per_token_loss)  # the padding is never read
    return float(np.sum(weights * _checks.finite("per_token_loss", counted)))


def _needed(reduction, **option):
    ((name, value),) = option.items()
    if value is None:
        raise ValueError(f"reduction {reduction!r} needs {name}, got None")
    return _checks.number(name, value, at_least=0) or 1.0  # 0 tokens: nothing to divide

"""Turn a surrogate of the GRPO family into a loss: factors, KL term, reduction.

    L = sum_bt W_bt ( f_bt c_bt + beta K_bt )

    c   the surrogate of `grpo`, `cispo`, `sapo` or `vespo`
    f   constants that rescale it or switch it off: off-policy mask, entropy mask, IS ratio
    K   the KL term of `kl_term`; f does not touch it
    W   the weights of `reductions.token_weights`

Source    TRL's GRPOTrainer._compute_loss
Torch     reference_math.torch.grpo_terms     Lesson   none
Proof     tests/laws/test_grpo_terms.py, tests/parity/test_grpo.py

Shapes    B completions, T tokens each; anything (B, 1) holds for its whole row.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, kl_term, ratios, reductions
from reference_math._types import Array, ArrayLike


def loss(
    surrogate: ArrayLike,
    log_weights: ArrayLike,
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> float:
    """Compute the loss of one micro-batch, a float. The trainer divides it by the accumulation steps.

    surrogate               (B, T) or (B, 1)  c
    log_weights             (B, T) or (B, 1)  of `ratios.log_importance_weights`, for the KL's correction
    per_token_logps         (B, T)
    completion_mask         (B, T)  1 = counts
    reduction ... num_generations   of `reductions.token_weights`
    factor                  (B, T) or (B, 1)  f: the product of `off_policy.keep_mask`,
                            `entropy_control.high_entropy_mask`, `importance_sampling.ratio`
    beta                    >= 0, weight of the KL to the reference
    ref_per_token_logps     (B, T)  needed when beta > 0
    use_bias_correction_kl  needed when beta > 0. True (TRL): w k3. False (the paper): k3

    >>> logps, s, ones = np.log([[0.5, 0.5]]), np.zeros((1, 2)), [[1, 1]]
    >>> loss([[-1.0, -3.0]], s, logps, ones, reduction="luspo")
    -4.0
    >>> loss([[-1.0, -3.0]], s, logps, ones, reduction="luspo", factor=[[1, 0]])
    -1.0
    >>> kl = dict(ref_per_token_logps=np.log([[0.25, 0.5]]), use_bias_correction_kl=False)
    >>> round(loss([[0.0, 0.0]], s, logps, ones, reduction="luspo", beta=1.0, **kl), 4)
    0.1931
    """
    counts = reduction, max_completion_length, tokens_per_micro_batch, num_generations
    weights, f = _weights_and_factor(completion_mask, factor, *counts)
    value = np.sum(weights * f * surrogate)
    if _checks.number("beta", beta, at_least=0):
        kl = (per_token_logps, ref_per_token_logps, log_weights, use_bias_correction_kl)
        value += beta * np.sum(weights * kl_term.per_token_kl(*_kl_inputs(weights, *kl)))
    return float(value)


def loss_grad(
    dc_dlogps: ArrayLike,
    dc_dlog_weights: ArrayLike,
    log_weights: ArrayLike,
    per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    reduction: str,
    max_completion_length: int | None = None,
    tokens_per_micro_batch: float | None = None,
    num_generations: int | None = None,
    factor: ArrayLike = 1.0,
    beta: float = 0.0,
    ref_per_token_logps: ArrayLike | None = None,
    use_bias_correction_kl: bool | None = None,
) -> Array:
    """Compute d loss / d(per_token_logps), (B, T).

    A log-probability acts on two paths, and their gradients add: directly (l itself in cispo and
    vespo, k3), and through the importance ratio (the others, the correction of the KL).

    dc_dlogps         (B, T), (B, 1) or 0.0   of the surrogate, the ratio held fixed
    dc_dlog_weights   (B, T), (B, 1) or 0.0   of the surrogate, to the log of the ratio

    >>> loss_grad(0.0, [[-1.0]], [[0.0]], [[-1.0, -2.0]], [[1, 1]], reduction="luspo")  # -2, shared
    array([[-1., -1.]])
    """
    counts = reduction, max_completion_length, tokens_per_micro_batch, num_generations
    weights, f = _weights_and_factor(completion_mask, factor, *counts)
    direct, through_ratio = weights * f * dc_dlogps, weights * f * dc_dlog_weights
    if _checks.number("beta", beta, at_least=0):
        kl = (per_token_logps, ref_per_token_logps, log_weights, use_bias_correction_kl)
        dk_dlogps, dk_ds = kl_term.per_token_kl_grad(*_kl_inputs(weights, *kl))
        direct = direct + beta * weights * dk_dlogps
        through_ratio = through_ratio + beta * weights * dk_ds * use_bias_correction_kl
    level = "sequence" if np.shape(log_weights)[1] == 1 else "token"  # the same thing when T = 1
    return direct + ratios.log_importance_weights_grad(through_ratio, completion_mask, level)


def _weights_and_factor(completion_mask, factor, reduction, max_length, tokens, num_generations):
    weights = reductions.token_weights(
        completion_mask,
        reduction=reduction,
        max_completion_length=max_length,
        tokens_per_micro_batch=tokens,
        num_generations=num_generations,
    )
    factor = _checks.finite("factor", factor)
    if factor.shape not in ((), weights.shape, (len(weights), 1)):
        raise ValueError(
            f"factor must have shape {weights.shape} or ({len(weights)}, 1), got {factor.shape}"
        )
    return weights, factor


def _kl_inputs(weights, per_token_logps, ref_per_token_logps, log_weights, bias_correction):
    if ref_per_token_logps is None or bias_correction is None:
        raise ValueError("beta > 0 needs ref_per_token_logps and use_bias_correction_kl, got None")
    counts = (weights > 0).astype(float)
    logps = _checks.counted("per_token_logps", per_token_logps, counts)
    ref_logps = _checks.counted("ref_per_token_logps", ref_per_token_logps, counts)
    return logps, ref_logps, log_weights if bias_correction else 0.0

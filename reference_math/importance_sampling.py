"""Correct for a separate sampler: vLLM's log-probabilities differ slightly from the trainer's.

    rho = p_old / p_sampling       of each token, their product or geometric mean over the completion

Source    Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (truncate);
          Liu et al., "When Speed Kills Stability" (mask);  TRL's vllm_importance_sampling_mode
          IcePop: Ling team, Every Step Evolves, arXiv 2510.18855 (token_mask with both bounds)
          geometric: ms-swift and unsloth (truncate), AReaL (mask), OpenRLHF and ms-swift (gate)
Torch     reference_math.torch.importance_sampling     Lesson   notebooks/03_grpo.ipynb
Proof     tests/laws/test_importance_sampling.py, tests/parity/test_importance_sampling.py

Shapes    B completions, T tokens each.
Use       as `factor` of a loss; vespo takes it as a factor of its own w instead. It has no gradient.

"Sequence" is the product of the tokens' ratios in TRL, which leaves any band as the completion grows.
In ms-swift, AReaL and OpenRLHF it is their geometric mean: `geometric` here.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, ratios
from reference_math._types import Array, ArrayLike

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")  # TRL's
GEOMETRIC = ("geometric_truncate", "geometric_mask", "geometric_gate")


def ratio(
    old_per_token_logps: ArrayLike,
    sampling_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    mode: str,
    clip_min: float | None,
    clip_max: float | None,
) -> Array:
    """Compute the importance ratio within its bounds.

    truncate    outside [clip_min, clip_max] the ratio is the nearer end
    mask        outside, it is 0: the token, or the whole completion, does not count
    gate        as mask, but inside each token keeps its own ratio, without bounds

    old_per_token_logps        (B, T)  by the trainer's model, when the completions were sampled
    sampling_per_token_logps   (B, T)  by the sampler; NaN where it gave none: that token's ratio is 1
    completion_mask            (B, T)  1 = counts
    mode                       "token_truncate", "token_mask", "sequence_truncate", "sequence_mask",
                               "geometric_truncate", "geometric_mask", "geometric_gate"
    clip_min, clip_max         bounds; None for none. TRL: None and 3.0, sequence_mask
    returns                    (B, T) at token level and for the gate, 1 on padding;  else (B, 1)

    >>> old, sampling, ones = np.log([[0.8, 0.2]]), np.log([[0.2, 0.4]]), [[1, 1]]
    >>> bounds = dict(clip_min=None, clip_max=3.0)
    >>> ratio(old, sampling, ones, mode="token_truncate", **bounds)               # of 4 and 1/2
    array([[3. , 0.5]])
    >>> ratio(old, sampling, ones, mode="token_mask", **bounds)
    array([[0. , 0.5]])
    >>> ratio(old, sampling, ones, mode="sequence_truncate", **bounds).round(4)   # of their product
    array([[2.]])
    >>> ratio(old, sampling, ones, mode="geometric_mask", **bounds).round(4)      # the root of 2
    array([[1.4142]])
    >>> ratio(old, sampling, ones, mode="geometric_gate", **bounds)
    array([[4. , 0.5]])
    """
    level, outside = _checks.one_of("mode", mode, MODES + GEOMETRIC).split("_")
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    low = -np.inf if clip_min is None else _checks.number("clip_min", clip_min)
    high = np.inf if clip_max is None else _checks.number("clip_max", clip_max, at_least=low)
    old = _checks.counted("old_per_token_logps", old_per_token_logps, mask)
    sampling = _checks.array("sampling_per_token_logps", sampling_per_token_logps, shape=mask.shape)
    scored = mask * ~np.isnan(sampling)
    log_rho = np.where(scored == 1, old, 0.0)
    log_rho = log_rho - _checks.counted("sampling_per_token_logps", sampling, scored)
    of_tokens = ratios.ratio(log_rho)
    if level != "token":
        log_rho = log_rho.sum(axis=1, keepdims=True)
    rho = ratios.ratio(log_rho / ratios.lengths(mask) if level == "geometric" else log_rho)
    inside = (low <= rho) & (rho <= high)
    if outside == "truncate":
        bounded = np.clip(rho, low, high)
    else:
        bounded = np.where(inside, of_tokens if outside == "gate" else rho, 0.0)
    whole = level != "token" and outside != "gate"
    return bounded if whole else np.where(mask == 1, bounded, 1.0)

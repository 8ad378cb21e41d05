"""Correcting for a separate sampler: vLLM's log-probabilities are not quite the trainer's.

    rho = p_old / p_sampling       of each token, or their product over the completion

Source    Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (truncate);
          Liu et al., "When Speed Kills Stability" (mask);  TRL's vllm_importance_sampling_mode
Torch     reference_math.torch.importance_sampling     Lesson   notebooks/03_grpo.ipynb
Proof     tests/laws/test_importance_sampling.py, tests/parity/test_importance_sampling.py

Shapes    B completions, T tokens each.
Use       as `factor` of a loss; vespo takes it as a factor of its own w instead. It has no gradient.
"""

import numpy as np

from reference_math import _checks, ratios

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def ratio(
    old_per_token_logps, sampling_per_token_logps, completion_mask, *, mode, clip_min, clip_max
):
    """The bounded importance ratio.

    truncate    outside [clip_min, clip_max] the ratio is the nearer end
    mask        outside, it is 0: the token, or the whole completion, does not count

    old_per_token_logps        (B, T)  by the trainer's model, when the completions were sampled
    sampling_per_token_logps   (B, T)  by the sampler; NaN where it gave none: that token's ratio is 1
    completion_mask            (B, T)  1 = counts
    mode                       "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    clip_min, clip_max         bounds; None for none. TRL: None and 3.0, sequence_mask
    returns                    (B, T) at token level, 1 on padding;  (B, 1) at sequence level

    >>> old, sampling, ones = np.log([[0.8, 0.2]]), np.log([[0.2, 0.4]]), [[1, 1]]
    >>> bounds = dict(clip_min=None, clip_max=3.0)
    >>> ratio(old, sampling, ones, mode="token_truncate", **bounds)               # of 4 and 1/2
    array([[3. , 0.5]])
    >>> ratio(old, sampling, ones, mode="token_mask", **bounds)
    array([[0. , 0.5]])
    >>> ratio(old, sampling, ones, mode="sequence_truncate", **bounds).round(4)   # of their product
    array([[2.]])
    """
    level, outside = _checks.one_of("mode", mode, MODES).split("_")
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    low = -np.inf if clip_min is None else _checks.number("clip_min", clip_min)
    high = np.inf if clip_max is None else _checks.number("clip_max", clip_max, at_least=low)
    old = _checks.counted("old_per_token_logps", old_per_token_logps, mask)
    sampling = _checks.array("sampling_per_token_logps", sampling_per_token_logps, shape=mask.shape)
    scored = mask * ~np.isnan(sampling)
    log_rho = np.where(scored == 1, old, 0.0)
    log_rho = log_rho - _checks.counted("sampling_per_token_logps", sampling, scored)
    if level == "sequence":
        log_rho = log_rho.sum(axis=1, keepdims=True)
    rho = ratios.ratio(log_rho)
    inside = (low <= rho) & (rho <= high)
    bounded = np.where(inside, rho, np.clip(rho, low, high) if outside == "truncate" else 0.0)
    return bounded if level == "sequence" else np.where(mask == 1, bounded, 1.0)

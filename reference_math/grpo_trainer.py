"""Compute the loss of TRL's GRPOTrainer, under TRL's names, from the parts of this package.

    loss = ( objective(loss_type) - entropy_coef * entropy bonus ) / gradient_accumulation_steps

Source    trl 1.16, trainer/grpo_trainer.py, GRPOTrainer._compute_loss
Torch     none: a trainer of your own calls the parts
Lesson    notebooks/03_grpo.ipynb: one real batch of the trainer, recomputed here
Proof     tests/laws/test_grpo_trainer.py; tests/parity/test_grpo_trainer.py, every loss type and option

Shapes    B completions, T tokens each.

Where TRL overflows (see `ratios`, `kl_term`) the parts do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reference_math import _checks, cispo, entropy_control, grpo, off_policy, sapo, vespo
from reference_math._types import Array, ArrayLike

# loss_type: (the module of its surrogate, its reduction, the surrogate's options and TRL's name)
CLIP = {"epsilon_low": "epsilon_low", "epsilon_high": "epsilon_high", "delta": "delta"}
CAP = {"epsilon_max": "epsilon_high"}  # the ratio's own cap: see `cispo`
GATE = {f"temperature_{sign}": f"sapo_temperature_{sign}" for sign in ("pos", "neg")}
GAMMA = {name: f"vespo_{name}" for name in ("k_pos", "lambda_pos", "k_neg", "lambda_neg")}
LOSS_TYPES = {
    "grpo": (grpo, "grpo", CLIP),
    "bnpo": (grpo, "bnpo", CLIP),
    "dr_grpo": (grpo, "dr_grpo", CLIP),
    "dapo": (grpo, "dapo", CLIP),
    "luspo": (grpo, "luspo", CLIP),
    "cispo": (cispo, "dapo", CAP),
    "sapo": (sapo, "grpo", GATE),
    "vespo": (vespo, "dapo", GAMMA),
}

# GRPOConfig's defaults; its `epsilon` is epsilon_low here. loss_type is for the caller to name.
DEFAULTS = {
    "importance_sampling_level": "token",
    "epsilon_low": 0.2,
    "epsilon_high": 0.2,
    "delta": None,
    "beta": 0.0,
    "use_bias_correction_kl": True,
    "max_completion_length": 512,
    "top_entropy_quantile": 1.0,
    "off_policy_mask_threshold": None,
    "entropy_coef": 0.0,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "vespo_k_pos": 2.0,
    "vespo_lambda_pos": 3.0,
    "vespo_k_neg": 3.0,
    "vespo_lambda_neg": 2.0,
}


def loss(
    batch: Mapping[str, ArrayLike],
    *,
    loss_type: str,
    gradient_accumulation_steps: int = 1,
    **config: Any,
) -> float:
    """Compute the loss of one micro-batch, a float.

    batch       a dict of what the trainer hands its loss, arrays
                needed    per_token_logps, completion_mask (B, T); advantages (B,)
                for some  old_per_token_logps (B, T): absent, the policy has not moved
                          ref_per_token_logps, sampling_per_token_logps, entropies (B, T)
                          importance_sampling_ratio (B, T) or (B, 1)
                          tokens_per_micro_batch: num_items_in_batch / (num_processes *
                          steps_per_generation); absent, the tokens of this micro-batch
    loss_type   one of LOSS_TYPES
    gradient_accumulation_steps   divides the loss; in evaluation 1
    config      fields of GRPOConfig; absent, DEFAULTS

    >>> batch = dict(per_token_logps=[[-1.0, -2.0]], advantages=[3.0], completion_mask=[[1, 1]])
    >>> loss(batch, loss_type="dapo")
    -3.0
    >>> entropy = dict(entropies=[[0.5, 1.5]])
    >>> loss(batch | entropy, loss_type="dapo", entropy_coef=0.1, gradient_accumulation_steps=2)
    -1.55
    """
    module, tokens, options, config = _call(batch, loss_type, config)
    value = module.loss(*tokens, **options)
    if config["entropy_coef"]:
        bonus = entropy_control.bonus(batch["entropies"], _learning(batch, config))
        value -= config["entropy_coef"] * bonus
    return float(value / gradient_accumulation_steps)


def loss_grad(
    batch: Mapping[str, ArrayLike],
    *,
    loss_type: str,
    gradient_accumulation_steps: int = 1,
    **config: Any,
) -> tuple[Array, Array]:
    """Compute d loss / d(per_token_logps) and d loss / d(entropies), (B, T); the arguments of `loss`.

    >>> batch = dict(per_token_logps=[[-1.0]], advantages=[3.0], completion_mask=[[1]])
    >>> loss_grad(batch | dict(entropies=[[1.0]]), loss_type="grpo", entropy_coef=0.1)
    (array([[-3.]]), array([[-0.1]]))
    """
    module, tokens, options, config = _call(batch, loss_type, config)
    grad = module.loss_grad(*tokens, **options)
    bonus = entropy_control.bonus_grad(_learning(batch, config))
    divisor = gradient_accumulation_steps
    return grad / divisor, -config["entropy_coef"] * bonus / divisor


def _call(batch, loss_type, config):
    _checks.one_of("loss_type", loss_type, LOSS_TYPES)
    for name in config:
        _checks.one_of("config", name, DEFAULTS)
    config = DEFAULTS | config
    level = config["importance_sampling_level"]
    _checks.one_of("importance_sampling_level", level, ("token", "sequence"))
    module, reduction, surrogate = LOSS_TYPES[loss_type]
    logps, mask = batch["per_token_logps"], np.asarray(batch["completion_mask"], dtype=float)
    tokens = logps, batch.get("old_per_token_logps", logps), batch["advantages"], mask
    shared = "importance_sampling_level", "beta", "use_bias_correction_kl", "max_completion_length"
    options = {name: config[name] for name in shared}
    options |= {name: config[trl_name] for name, trl_name in surrogate.items()}
    options["reduction"] = reduction
    options["tokens_per_micro_batch"] = batch.get("tokens_per_micro_batch", mask.sum())
    options["ref_per_token_logps"] = batch.get("ref_per_token_logps")
    options["factor"] = _factor(batch, *tokens, config)
    rho = batch.get("importance_sampling_ratio")
    if rho is not None and module is vespo:
        options["importance_sampling_ratio"] = rho
    elif rho is not None:
        options["factor"] = options["factor"] * np.asarray(rho)
    return module, tokens, options, config


def _factor(batch, logps, old_logps, advantages, mask, config):
    factor, threshold = np.asarray(_learning(batch, config)), config["off_policy_mask_threshold"]
    if threshold is None:
        return factor
    sampling_logps = batch.get("sampling_per_token_logps", old_logps)
    keep = off_policy.keep_mask(advantages, logps, sampling_logps, mask, threshold=threshold)
    return factor * keep


def _learning(batch, config):
    """The tokens that learn: all that count, or those of high entropy."""
    mask, share = batch["completion_mask"], config["top_entropy_quantile"]
    if share == 1:
        return mask
    return entropy_control.high_entropy_mask(batch["entropies"], mask, top_entropy_quantile=share)

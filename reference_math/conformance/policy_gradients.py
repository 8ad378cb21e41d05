"""The policy gradient objectives of `check`, their advantages, and the usual changes to them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from reference_math import advantages, grpo, grpo_trainer, kl, ratios, reductions, rloo
from reference_math.conformance._types import Arrays, Options, Result, Variant
from reference_math.conformance.variants import (
    DETACH,
    LENGTHS,
    MASK,
    PADDED_MEAN,
    SIGN,
    STD_EPS,
    WEIGHTS,
    WRT,
    Hyperparameter,
    as_in,
    given,
    hyperparameter,
    moving,
    optioned,
    random_mask,
    swapped,
    times,
)

CLIP: Options = {"epsilon_low": 0.2, "epsilon_high": 0.2}
NO_CLIP = {"epsilon_low": 1.0, "epsilon_high": 1e9}  # a cap has to be finite; no ratio gets there


def _moved(rng, logps, scale):
    """Log-probabilities of another policy.  Half of them far off, so that every clip shows."""
    return logps + scale * rng.choice([1.0, 3.0], size=logps.shape) * rng.normal(size=logps.shape)


def grpo_inputs(rng: np.random.Generator, options: Options) -> Arrays:
    mask, rewards = random_mask(rng, 8, 6), _rewards(rng, groups=2)
    logps = -rng.exponential(size=mask.shape)
    arrays = {
        "per_token_logps": logps,
        "old_per_token_logps": _moved(rng, logps, 0.3),
        "rewards": rewards,
        "advantages": advantages_of({"rewards": rewards}, options)[0],
        "completion_mask": mask,
    }
    if options.get("beta"):
        arrays["ref_per_token_logps"] = logps + 0.5 * rng.normal(size=mask.shape)
    return arrays


EXCHANGED = (
    "surrogate",
    "ratio",
    "kl",
    "kl_reduction",
)  # options of `_exchanged`, which no trainer has


def grpo_loss(arrays: Arrays, options: Options) -> Result:
    """Compute the advantages from the rewards each time, so that their conventions count for the loss too."""
    batch = arrays | {"advantages": advantages_of(arrays, options)[0]}
    options = {"loss_type": "dapo"} | {k: v for k, v in options.items() if k not in OF_ADVANTAGES}
    if options.pop("on_policy", False):  # the ratio is 1 at every step: torchtune's GRPOSimpleLoss
        batch |= {"old_per_token_logps": batch[WRT]}
    parts = {name: options.pop(name) for name in EXCHANGED if name in options}
    if parts:
        return _exchanged(batch, options, **parts), None
    return grpo_trainer.loss(batch, **options), grpo_trainer.loss_grad(batch, **options)[0]


def _exchanged(batch, options, surrogate=None, ratio=None, kl=None, kl_reduction=None):
    """The loss with another surrogate or ratio (clipped losses only), or another KL estimator or mean of it."""
    options = grpo_trainer.DEFAULTS | options
    logps, mask = batch["per_token_logps"], batch["completion_mask"]
    tokens = logps, batch["old_per_token_logps"], mask
    level = options.pop("importance_sampling_level")
    beta, reduction = options.pop("beta"), grpo_trainer.LOSS_TYPES[options["loss_type"]][1]
    reduction = {"reduction": reduction, "tokens_per_micro_batch": mask.sum()}
    reduction["max_completion_length"] = options["max_completion_length"]

    plain = options | {"importance_sampling_level": level}
    value = policy = grpo_trainer.loss(batch, **plain)
    if surrogate or ratio:
        s = RATIOS[ratio or level](*tokens)
        c = SURROGATES[surrogate or "clipped"](s, logps, batch["advantages"][:, None], options)
        value = reductions.reduce(c, mask, **reduction)
    if kl is not None and beta:
        estimator, corrected = kl
        k = ESTIMATORS[estimator](logps, batch["ref_per_token_logps"])
        w = ratios.ratio(RATIOS[level](*tokens)) if corrected else 1.0
        reduction |= {"reduction": kl_reduction} if kl_reduction else {}
        return value + beta * reductions.reduce(w * k, mask, **reduction)
    return value + (grpo_trainer.loss(batch, beta=beta, **plain) - policy if beta else 0.0)


# The log of the ratio, as `ratios.log_importance_weights` and as others make it
RATIOS: dict[str, Callable[..., Any]] = {
    "token": partial(ratios.log_importance_weights, importance_sampling_level="token"),
    "sequence": partial(ratios.log_importance_weights, importance_sampling_level="sequence"),
    "product": lambda *tokens: RATIOS["token"](*tokens).sum(axis=1, keepdims=True),
    "padded mean": lambda *tokens: RATIOS["token"](*tokens).mean(axis=1, keepdims=True),
    "arithmetic mean": lambda *tokens: _log_mean_ratio(*tokens),
}


def _log_mean_ratio(logps, old_logps, mask):
    w = np.exp(RATIOS["token"](logps, old_logps, mask))
    mean = (mask * w).sum(axis=1, keepdims=True) / ratios.lengths(mask)
    return np.log(np.where(mean > 0, mean, 1.0))  # an empty completion has ratio 1


def _clipped(s, logps, advantages, options):
    clip = {name: options[name] for name in ("epsilon_low", "epsilon_high", "delta")}
    return grpo.per_token_loss(s, advantages, **clip)


def _two_surrogates(w, advantages, options):
    """(w A, clip(w) A).  An epsilon_low of 1 or more is no lower clip, for a w below 0 too."""
    low = 1 - options["epsilon_low"] if options["epsilon_low"] < 1 else -np.inf
    return w * advantages, np.clip(w, low, 1 + options["epsilon_high"]) * advantages


SURROGATES = {
    "clipped": _clipped,
    "clip alone": lambda s, _, A, options: -_two_surrogates(np.exp(s), A, options)[1],
    "max": lambda s, _, A, options: -np.maximum(*_two_surrogates(np.exp(s), A, options)),
    "log-ratio": lambda s, _, A, options: -np.minimum(*_two_surrogates(s, A, options)),
    "reinforce": lambda s, logps, A, options: -A * logps,
}
OF_SURROGATES = {
    "clip: without the min, the clipped surrogate alone": optioned(surrogate="clip alone"),
    "clip: the larger of the two surrogates, not the smaller": optioned(surrogate="max"),
    "ratio: the log-ratio itself, without exp": optioned(surrogate="log-ratio"),
    "ratio: none, advantage times log-probability (REINFORCE)": optioned(surrogate="reinforce"),
}
MISTAKEN_KL = {
    "k2 without its half": lambda logps, ref: 2 * kl.k2(logps, ref),
    "k3 without the - 1": lambda logps, ref: kl.k3(logps, ref) + 1.0,
    "the absolute value of k1": lambda logps, ref: np.abs(kl.k1(logps, ref)),
}
ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3, **MISTAKEN_KL}


def grpo_conventions(options: Options) -> dict[str, Variant]:
    found = {**SIGN, **MASK, **std_conventions(options)}
    loss_type = options.get("loss_type", "dapo")
    if loss_type not in ("cispo", "sapo", "vespo"):
        for name in ("grpo", "bnpo", "dr_grpo", "luspo"):
            said = f"reduction: of loss_type {name!r}" + as_in(reduction=name, kind=["library"])
            found[said] = optioned(loss_type=name)
        found |= OF_SURROGATES | {
            "ratio: of the whole sequence, the product of its tokens' (not GSPO's mean)": optioned(
                ratio="product"
            ),
            "ratio: one per sequence, the mean taken over the padding too": optioned(
                ratio="padded mean"
            ),
            "ratio: one per sequence, the arithmetic mean of its tokens'": optioned(
                ratio="arithmetic mean"
            ),
        }
    found |= _normalisers(loss_type) | {
        "ratio: one per token": optioned(importance_sampling_level="token"),
        "ratio: one per sequence (GSPO)": optioned(importance_sampling_level="sequence"),
        "ratio: inverted, old over new": swapped("per_token_logps", "old_per_token_logps"),
        "ratio: always 1, the old log-probabilities unused": given(
            lambda arrays: {"old_per_token_logps": arrays["per_token_logps"]}
        ),
        "ratio: the probability itself, not divided by the old one": given(
            lambda arrays: {"old_per_token_logps": np.zeros_like(arrays["per_token_logps"])}
        ),
        "clip: none": optioned(**NO_CLIP),
        "clip: [0.8, 1.2]": optioned(**CLIP),
    }
    if options.get("beta"):
        found |= _kl_term_conventions(options["beta"])
    return found | DETACH  # the last is the outermost: then nothing is held


def _normalisers(loss_type):
    """Sums and padded means, made of the token mean where the loss has one."""
    if loss_type == "sapo":  # always the mean of the sequences' means
        return {}
    same = loss_type in ("cispo", "vespo")  # always the token mean
    token_mean = optioned() if same else optioned(loss_type="bnpo")
    whole = times(lambda arrays: arrays["completion_mask"].sum())
    padded = times(lambda arrays: arrays["completion_mask"].mean())
    return {
        "reduction: sum over the tokens, without a normaliser": lambda f: whole(token_mean(f)),
        PADDED_MEAN: lambda f: padded(token_mean(f)),
    }


def _kl_term_conventions(beta):
    found = {
        "KL: none": optioned(beta=0.0),
        "KL: k3 times the importance ratio (as in TRL)": optioned(use_bias_correction_kl=True),
        "KL: plain k3 (as in the paper)": optioned(use_bias_correction_kl=False),
        "KL direction: policy minus reference, not reference minus policy": moving(_mirrored),
        "KL sign: subtracted from the loss, not added": _kl_term_times(-1.0, -1.0),
        "KL: detached, its gradient does not reach the policy": _kl_term_times(1.0, 0.0),
        "KL: k1 in the reward, not in the loss": _kl_in_reward(beta),
    }
    for name in (each for each in ESTIMATORS if each != "k3"):
        found[f"KL: {name}, not k3"] = optioned(kl=(name, False))
        found[f"KL: {name} times the importance ratio, not k3"] = optioned(kl=(name, True))
    return found


def _kl_term_times(of_value, of_grad):
    """The loss with its KL term times one number in the value, another in the gradient."""

    def variant(f):
        def changed(arrays, options):
            (value, grad), (v, g) = (f(arrays, options | o) for o in ({}, {"beta": 0.0}))
            known = grad is not None and g is not None
            value = v + of_value * (value - v)
            if of_value == of_grad:  # then the slope of the value is the gradient
                return value, g + of_grad * (grad - g) if known else None
            return value, g + of_grad * (grad - g) if known else np.full_like(arrays[WRT], np.nan)

        return changed

    return variant


def _kl_in_reward(beta):
    def penalized(arrays):
        logps, ref = arrays["old_per_token_logps"], arrays["ref_per_token_logps"]
        tokens = arrays["rewards"], logps, ref, arrays["completion_mask"]
        return {"rewards": rloo.kl_penalized_rewards(*tokens, beta=beta)}

    return lambda f: optioned(beta=0.0)(given(penalized)(f))


def _mirrored(arrays):
    """The reference on the policy's other side: log r changes its sign and nothing else does."""
    return {"ref_per_token_logps": 2 * arrays["per_token_logps"] - arrays["ref_per_token_logps"]}


def grpo_hyperparameters(options: Options) -> dict[str, Hyperparameter]:
    loss_type = options.get("loss_type", "dapo")
    defaults = grpo_trainer.DEFAULTS
    numbers = std_hyperparameters(options)
    for name in grpo_trainer.LOSS_TYPES[loss_type][2].values():
        numbers |= hyperparameter(name, options, defaults[name], WEIGHTS)
    if "epsilon_low" in numbers:
        numbers |= _clip_hyperparameters(defaults | options)
    if options.get("beta"):
        numbers |= hyperparameter("beta", options, 0.0, WEIGHTS)
    if loss_type == "dr_grpo":
        length = "max_completion_length"
        numbers |= hyperparameter(length, options, defaults[length], LENGTHS)
    return numbers


def _clip_hyperparameters(options):
    low, high = options["epsilon_low"], options["epsilon_high"]
    above = "; DAPO's clip-higher, where it is above epsilon_low"
    return {
        "epsilon_low": Hyperparameter(low, lambda x: optioned(epsilon_low=x), WEIGHTS),
        "epsilon_high": Hyperparameter(high, lambda x: optioned(epsilon_high=x), WEIGHTS, above),
        "epsilon, low and high": Hyperparameter(
            low if low == high else (low, high),
            lambda x: optioned(epsilon_low=x, epsilon_high=x),
            WEIGHTS,
        ),
    }


def rloo_inputs(rng: np.random.Generator, options: Options) -> Arrays:
    arrays = grpo_inputs(rng, {})
    old, _ = arrays.pop("old_per_token_logps"), arrays.pop("rewards")
    return arrays | {"old_logps": (old * arrays["completion_mask"]).sum(axis=1)}


def rloo_loss(arrays: Arrays, options: Options) -> Result:
    options = CLIP | {"delta": None} | options
    mask, surrogate = arrays["completion_mask"], options.pop("surrogate", None)
    if surrogate:
        logps = (mask * arrays["per_token_logps"]).sum(axis=1)
        s, A = (logps - arrays["old_logps"])[:, None], arrays["advantages"][:, None]
        return np.mean(SURROGATES[surrogate](s, logps[:, None], A, options)), None
    del options["delta"]
    return rloo.loss(**arrays, **options), rloo.loss_grad(**arrays, **options)


def rloo_conventions(options: Options) -> dict[str, Variant]:
    def per_token(arrays):
        n = ratios.lengths(arrays["completion_mask"])
        return {
            "per_token_logps": arrays["per_token_logps"] / n,
            "old_logps": arrays["old_logps"] / n[:, 0],
        }

    def on_policy(arrays):
        return {"old_logps": (arrays["completion_mask"] * arrays["per_token_logps"]).sum(axis=1)}

    return {
        **SIGN,
        **MASK,
        "clip: none": optioned(**NO_CLIP),
        **OF_SURROGATES,
        "ratio: the geometric mean of the tokens' (as in GSPO), not their product": moving(
            per_token
        ),
        "ratio: always 1, the old log-probabilities unused": given(on_policy),
        "reduction: sum over the completions": times(lambda arrays: len(arrays["advantages"])),
        **DETACH,
    }


def rloo_hyperparameters(options: Options) -> dict[str, Hyperparameter]:
    return _clip_hyperparameters(CLIP | options)


# Advantages ------------------------------------------------------------------------------------


WITH_STD = ("group", "batch", "leave_one_out_scaled")
OF_ADVANTAGES: Options = {"scale": "group", "ddof": 1, "eps": 1e-4, "num_generations": 4}


def _rewards(rng, groups):
    """Groups of four different rewards.  The last group's are so close that any eps shows."""
    rewards = rng.permuted(np.tile(np.arange(5.0), (groups, 1)), axis=1)[:, :4]
    rewards[-1] *= 1e-4
    return rewards.ravel()


def advantages_inputs(rng: np.random.Generator, options: Options) -> Arrays:
    return {"rewards": _rewards(rng, groups=3)}


def advantages_of(arrays: Arrays, options: Options) -> Result:
    options = OF_ADVANTAGES | options
    rewards = (arrays["rewards"], options["num_generations"])
    std = {key: options[key] for key in ("ddof", "eps")}
    if options["scale"] == "raw":
        return rewards[0], None
    if options["scale"] == "whiten":
        return advantages.whiten(rewards[0], **std), None
    if options["scale"] == "root":
        deviations = advantages.centered(rewards[0].reshape(-1, rewards[1]), axis=1)
        variance = advantages.std(deviations, axis=1, ddof=options["ddof"]) ** 2
        return (deviations / np.sqrt(variance + options["eps"])).ravel(), None
    if options["scale"] == "leave_one_out_group":
        return rewards[1] / (rewards[1] - 1) * advantages.group(*rewards, **std), None
    std = std if options["scale"] in WITH_STD else {}
    return getattr(advantages, options["scale"])(*rewards, **std), None


def std_conventions(options: Options) -> dict[str, Variant]:
    return {
        **{f"ddof: {n}" + as_in(ddof=n): optioned(ddof=n) for n in (0, 1)},
        **{f"eps: {e:g}" + as_in(eps=e): optioned(eps=e) for e in (0.0, 1e-4, 1e-6, 1e-8, 1e-9)},
        "scale: the group's std": optioned(scale="group"),
        "scale: the batch's std": optioned(scale="batch"),
        "scale: none, the mean alone is taken off (Dr. GRPO)": optioned(scale="dr_grpo"),
        "scale: none, the others' mean is taken off (RLOO)": optioned(scale="leave_one_out"),
        "scale: the others' std, the others' mean is taken off (NeMo-RL)": optioned(
            scale="leave_one_out_scaled"
        ),
        "scale: the group's std, the others' mean is taken off (PipelineRL)": optioned(
            scale="leave_one_out_group"
        ),
        "scale: the batch's mean and std, the groups mixed (REINFORCE++)": optioned(scale="whiten"),
        "eps: under the root, sqrt(variance + eps)": optioned(scale="root"),
        "baseline: none, the rewards themselves": optioned(scale="raw"),
    }


def std_hyperparameters(options: Options) -> dict[str, Hyperparameter]:
    if options.get("scale", "group") not in (*WITH_STD, "leave_one_out_group"):
        return {}
    return hyperparameter("eps", options, OF_ADVANTAGES["eps"], STD_EPS)


def advantages_conventions(options: Options) -> dict[str, Variant]:
    return {**std_conventions(options), **SIGN}

"""What `check` can check: for each objective random inputs, the reference, and what may go wrong.

An objective is a dict:
    inputs(rng, options)      named arrays; a loss is given them by these names
    wrt                       the array that its gradient is taken to; None: there is no gradient
    reference(arrays, options) -> (value, gradient)
    conventions(options)      {name: variant}; variant(f) is another function like reference, that
                              computes f as others do.  A gradient of None there means: the slope
                              of the value, nothing held constant.
"""

import numpy as np

from reference_math import advantages, dpo_trainer, grpo_trainer, kl, rloo, sft
from reference_math.conventions import TABLE

CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.2}
NO_CLIP = {"epsilon_low": 1.0, "epsilon_high": 1e9}  # a cap has to be finite; no ratio gets there
HELD = "held"


# Variants --------------------------------------------------------------------------------------


def given(change):
    """f of changed arrays; change(arrays) says which and into what.  They stay constants.

    A slope is taken with HELD among the arrays: where what moves stood before it moved.
    """
    return lambda f: (
        lambda arrays, options: f(arrays | change(arrays | arrays.get(HELD, {})), options)
    )


def moving(change):
    """The same, where what is changed depends on the policy: only the value can be had from f."""
    return lambda f: lambda arrays, options: (f(arrays | change(arrays), options)[0], None)


def optioned(**changed):
    return lambda f: lambda arrays, options: f(arrays, options | changed)


def times(factor):
    """f times factor(arrays)."""

    def variant(f):
        def scaled(arrays, options):
            c = factor(arrays)
            value, grad = f(arrays, options)
            return c * value, None if grad is None else c * grad

        return scaled

    return variant


def undetached(f):
    """What the reference holds constant moves with the policy."""
    return lambda arrays, options: (f(arrays | {HELD: {}}, options)[0], None)


def swapped(one, other):
    return moving(lambda arrays: {one: arrays[other], other: arrays[one]})


SIGN = {"sign: negated": times(lambda arrays: -1.0)}
DETACH = {"detach: missing, the gradient flows through what is held constant": undetached}


def _shifted(by):
    def change(arrays):
        mask = np.roll(arrays["completion_mask"], by, axis=1)
        mask[:, 0 if by > 0 else -1] = 0
        return {"completion_mask": mask}

    return given(change)


MASK = {
    "mask shift: one position too early": _shifted(-1),
    "mask shift: one position too late": _shifted(1),
    "mask: not applied, the padding counts": given(
        lambda arrays: {"completion_mask": np.ones_like(arrays["completion_mask"])}
    ),
}


def _as_in(kind=("trl", "library"), **said):
    """Who else does so, from the table of conventions."""
    names = [
        row["name"]
        for row in TABLE
        if row["kind"] in kind and all(row[key] == value for key, value in said.items())
    ]
    return f" (as in {', '.join(names)})" if names else ""


def _mask(rng, rows, tokens):
    lengths = rng.integers(1, tokens, size=(rows, 1))
    return (np.arange(tokens) < lengths).astype(float)


# Supervised ------------------------------------------------------------------------------------


def _sft_inputs(rng, options):
    mask = _mask(rng, 3, 6)
    return {"per_token_logps": -rng.exponential(size=mask.shape), "completion_mask": mask}


def _sft(arrays, options):
    name = options.get("loss_type", "nll")
    tokens = (arrays["per_token_logps"], arrays["completion_mask"])
    weighs = {"reduction": options.get("reduction", "batch_token")}
    return getattr(sft, name)(*tokens, **weighs), getattr(sft, name + "_grad")(*tokens, **weighs)


def _sft_conventions(options):
    whole = times(lambda arrays: arrays["completion_mask"].sum())
    return {
        **SIGN,
        **MASK,
        "reduction: mean of the sequences' means": optioned(reduction="sequence"),
        "reduction: mean over the batch's tokens": optioned(reduction="batch_token"),
        "reduction: sum over the tokens": lambda f: whole(optioned(reduction="batch_token")(f)),
        **DETACH,
    }


# Preferences -----------------------------------------------------------------------------------


def _dpo_inputs(rng, options):
    mask = _mask(rng, 6, 6)
    logps = -rng.exponential(size=mask.shape)
    ref_logps = logps + 0.7 * rng.normal(size=mask.shape)
    arrays = {"per_token_logps": logps, "ref_per_token_logps": ref_logps}
    return arrays | {"completion_mask": mask}


def _dpo(arrays, options):
    return dpo_trainer.loss(**arrays, **options), dpo_trainer.loss_grad(**arrays, **options)


def _dpo_conventions(options):
    def lengthened(power):
        """Log-probabilities times the answer's token count to a power."""

        def change(arrays):
            n = np.maximum(arrays["completion_mask"].sum(axis=1, keepdims=True), 1.0) ** power
            return {k: n * arrays[k] for k in ("per_token_logps", "ref_per_token_logps")}

        return moving(change)

    turned = "sign: chosen and rejected answers swapped"
    turned_back = "reference: swapped with the policy"
    if _odd(options):
        turned = turned_back = turned + ", or policy and reference"
    found = {
        **SIGN,
        **MASK,
        "reduction: sum over the pairs": times(lambda arrays: len(arrays["completion_mask"]) / 2),
        turned_back: swapped("per_token_logps", "ref_per_token_logps"),
        turned: moving(_turned),
        "reference: none": given(
            lambda arrays: {"ref_per_token_logps": 0 * arrays["ref_per_token_logps"]}
        ),
        "length: answers' mean log-probabilities, not their sums": lengthened(-1),
        "length: answers' summed log-probabilities, not their means": lengthened(1),
    }
    if options.get("loss_type", "sigmoid") == "sigmoid":
        found["label smoothing: eps = 0.1 (cDPO); TRL's sigmoid ignores it"] = _smoothed
    return found | DETACH


def _odd(options):
    """Swapped answers and a swapped reference are one: F(-u) = -F(u), and the loss has no side."""
    plain = options.get("f_divergence_type", "reverse_kl") == "reverse_kl"
    return plain and options.get("loss_type", "sigmoid") not in ("nca_pair", "apo_down", "sft")


def _turned(arrays):
    rows = {name: x for name, x in arrays.items() if name != HELD}
    return {name: np.concatenate(np.split(x, 2)[::-1]) for name, x in rows.items()}


def _smoothed(f):
    def both(arrays, options):
        return 0.9 * f(arrays, options)[0] + 0.1 * f(_turned(arrays), options)[0], None

    return both


# KL --------------------------------------------------------------------------------------------


def _kl_inputs(rng, options):
    logps = -rng.exponential(size=(3, 5))
    return {
        "per_token_logps": logps,
        "ref_per_token_logps": logps + rng.normal(size=logps.shape),
    }


def _kl(arrays, options):
    name = options.get("estimator", "k3")
    return getattr(kl, name)(**arrays), getattr(kl, name + "_grad")(**arrays)


def _kl_conventions(options):
    return {
        "KL direction: policy minus reference, not reference minus policy": swapped(
            "per_token_logps", "ref_per_token_logps"
        ),
        **SIGN,
        **{f"estimator: {name}": optioned(estimator=name) for name in ("k1", "k2", "k3")},
    }


# Policy gradients ------------------------------------------------------------------------------


def _grpo_inputs(rng, options):
    mask, rewards = _mask(rng, 8, 6), _rewards(rng, groups=2)
    logps = -rng.exponential(size=mask.shape)
    arrays = {
        "per_token_logps": logps,
        "old_per_token_logps": logps + 0.3 * rng.normal(size=mask.shape),
        "rewards": rewards,
        "advantages": _advantages({"rewards": rewards}, options)[0],
        "completion_mask": mask,
    }
    if options.get("beta"):
        arrays["ref_per_token_logps"] = logps + 0.5 * rng.normal(size=mask.shape)
    return arrays


def _grpo(arrays, options):
    """The advantages from the rewards, each time: their conventions are the loss's, too."""
    batch = arrays | {"advantages": _advantages(arrays, options)[0]}
    options = {"loss_type": "dapo"} | {k: v for k, v in options.items() if k not in OF_ADVANTAGES}
    return grpo_trainer.loss(batch, **options), grpo_trainer.loss_grad(batch, **options)[0]


def _grpo_conventions(options):
    found = {**SIGN, **MASK, **_std_conventions(options)}
    if options.get("loss_type", "dapo") not in ("cispo", "sapo", "vespo"):
        for name in ("grpo", "bnpo", "dr_grpo", "luspo"):
            said = f"reduction: of loss_type {name!r}" + _as_in(reduction=name, kind=["library"])
            found[said] = optioned(loss_type=name)
    found |= {
        "ratio: one a token": optioned(importance_sampling_level="token"),
        "ratio: one a sequence (GSPO)": optioned(importance_sampling_level="sequence"),
        "ratio: inverted, old over new": swapped("per_token_logps", "old_per_token_logps"),
        "ratio: always 1, the old log-probabilities unused": given(
            lambda arrays: {"old_per_token_logps": arrays["per_token_logps"]}
        ),
        "clip: none": optioned(**NO_CLIP),
        "clip: [0.8, 1.2]": optioned(**CLIP),
    }
    if options.get("beta"):
        found |= {
            "KL: none": optioned(beta=0.0),
            "KL: k3 times the importance ratio (as in TRL)": optioned(use_bias_correction_kl=True),
            "KL: plain k3 (as in the paper)": optioned(use_bias_correction_kl=False),
            "KL direction: policy minus reference, not reference minus policy": moving(_mirrored),
        }
    return found | DETACH  # the last is the outermost: then nothing is held


def _mirrored(arrays):
    """The reference on the policy's other side: log r changes its sign and nothing else does."""
    return {"ref_per_token_logps": 2 * arrays["per_token_logps"] - arrays["ref_per_token_logps"]}


def _rloo_inputs(rng, options):
    arrays = _grpo_inputs(rng, {})
    old, _ = arrays.pop("old_per_token_logps"), arrays.pop("rewards")
    return arrays | {"old_logps": (old * arrays["completion_mask"]).sum(axis=1)}


def _rloo(arrays, options):
    options = CLIP | options
    return rloo.loss(**arrays, **options), rloo.loss_grad(**arrays, **options)


def _rloo_conventions(options):
    return {
        **SIGN,
        **MASK,
        "clip: none": optioned(**NO_CLIP),
        "reduction: sum over the completions": times(lambda arrays: len(arrays["advantages"])),
    }


# Advantages ------------------------------------------------------------------------------------


OF_ADVANTAGES = {"scale": "group", "ddof": 1, "eps": 1e-4, "num_generations": 4}


def _rewards(rng, groups):
    """Groups of four different rewards.  The last group's are so close that any eps shows."""
    rewards = rng.permuted(np.tile(np.arange(5.0), (groups, 1)), axis=1)[:, :4]
    rewards[-1] *= 1e-4
    return rewards.ravel()


def _advantages_inputs(rng, options):
    return {"rewards": _rewards(rng, groups=3)}


def _advantages(arrays, options):
    options = OF_ADVANTAGES | options
    rewards = (arrays["rewards"], options["num_generations"])
    std = {key: options[key] for key in ("ddof", "eps") if options["scale"] in ("group", "batch")}
    return getattr(advantages, options["scale"])(*rewards, **std), None


def _std_conventions(options):
    return {
        **{f"ddof: {n}" + _as_in(ddof=n): optioned(ddof=n) for n in (0, 1)},
        **{f"eps: {e:g}" + _as_in(eps=e): optioned(eps=e) for e in (0.0, 1e-4, 1e-6, 1e-8, 1e-9)},
        "scale: the group's std": optioned(scale="group"),
        "scale: the batch's std": optioned(scale="batch"),
        "scale: none, the mean alone is taken off (Dr. GRPO)": optioned(scale="dr_grpo"),
        "scale: none, the others' mean is taken off (RLOO)": optioned(scale="leave_one_out"),
    }


def _advantages_conventions(options):
    return {**_std_conventions(options), **SIGN}


def _objective(inputs, wrt, reference, conventions):
    def plain(arrays, options):
        return reference({k: x for k, x in arrays.items() if k != HELD}, options)

    return {"inputs": inputs, "wrt": wrt, "reference": plain, "conventions": conventions}


OBJECTIVES = {
    "sft": _objective(_sft_inputs, "per_token_logps", _sft, _sft_conventions),
    "dpo": _objective(_dpo_inputs, "per_token_logps", _dpo, _dpo_conventions),
    "kl": _objective(_kl_inputs, "per_token_logps", _kl, _kl_conventions),
    "grpo": _objective(_grpo_inputs, "per_token_logps", _grpo, _grpo_conventions),
    "rloo": _objective(_rloo_inputs, "per_token_logps", _rloo, _rloo_conventions),
    "advantages": _objective(_advantages_inputs, None, _advantages, _advantages_conventions),
}

"""The objectives that `check` knows: random inputs, the reference and the usual mistakes of each.

An objective is a dict:
    inputs(rng, options)      named arrays; a loss is given them by these names
    wrt                       the array that its gradient is taken to; None: there is no gradient
    reference(arrays, options) -> (value, gradient)
    conventions(options)      {name: variant}, see `variants`: each computes the reference as
                              others do
    hyperparameters(options)  {name: Hyperparameter}: the numbers that may differ from those asked
                              for.  `check` fits them.
"""

import numpy as np

from reference_math import dpo_trainer, kl, sft
from reference_math.conformance import policy_gradients as pg
from reference_math.conformance.variants import (
    DETACH,
    HELD,
    MASK,
    PADDED_MEAN,
    SHARES,
    SIGN,
    WEIGHTS,
    WRT,
    Hyperparameter,
    given,
    hyperparameter,
    moving,
    optioned,
    random_mask,
    swapped,
    times,
)

# Supervised ------------------------------------------------------------------------------------


def _sft_inputs(rng, options):
    mask = random_mask(rng, 3, 6)
    return {"per_token_logps": -rng.exponential(size=mask.shape), "completion_mask": mask}


def _sft(arrays, options):
    name = options.get("loss_type", "nll")
    tokens = (arrays["per_token_logps"], arrays["completion_mask"])
    weighs = {"reduction": options.get("reduction", "batch_token")}
    return getattr(sft, name)(*tokens, **weighs), getattr(sft, name + "_grad")(*tokens, **weighs)


def _sft_conventions(options):
    whole = times(lambda arrays: arrays["completion_mask"].sum())
    padded = times(lambda arrays: arrays["completion_mask"].mean())
    return {
        **SIGN,
        **MASK,
        "reduction: mean of the sequences' means": optioned(reduction="sequence"),
        "reduction: mean over the batch's tokens": optioned(reduction="batch_token"),
        "reduction: sum over the tokens": lambda f: whole(optioned(reduction="batch_token")(f)),
        PADDED_MEAN: lambda f: padded(optioned(reduction="batch_token")(f)),
        **{f"loss_type: {name!r}": optioned(loss_type=name) for name in ("nll", "dft")},
        "log: missing, probabilities in place of log-probabilities": moving(
            lambda arrays: {"per_token_logps": np.exp(arrays["per_token_logps"])}
        ),
        **DETACH,
    }


# Preferences -----------------------------------------------------------------------------------


def _dpo_inputs(rng, options):
    mask = random_mask(rng, 6, 6)
    logps = -rng.exponential(size=mask.shape)
    ref_logps = logps + 0.7 * rng.normal(size=mask.shape)
    arrays = {"per_token_logps": logps, "ref_per_token_logps": ref_logps}
    return arrays | {"completion_mask": mask}


def _dpo(arrays, options):
    return dpo_trainer.loss(**arrays, **options), dpo_trainer.loss_grad(**arrays, **options)


OF_SCORES = ("sigmoid", "hinge", "ipo")
OF_RATIOS = ("apo_zero", "apo_down", "nca_pair", "bco_pair")  # with f_divergence_type reverse_kl


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
    plain = options.get("f_divergence_type", "reverse_kl") == "reverse_kl"
    for name in OF_SCORES + OF_RATIOS * plain:
        found[f"loss_type: {name!r}"] = optioned(loss_type=name)
    if options.get("loss_type", "sigmoid") == "sigmoid":
        found["log: missing, -sigmoid in place of -log sigmoid"] = _without_log
    return found | DETACH


def _dpo_hyperparameters(options):
    names = options.get("loss_type", "sigmoid")
    names = [names] if isinstance(names, str) else names
    numbers = {} if names == ["sft"] else hyperparameter("beta", options, 0.1, WEIGHTS)
    if "sigmoid" in names:  # TRL's sigmoid ignores label_smoothing
        said = " (cDPO); TRL's sigmoid ignores it"
        numbers["label smoothing"] = Hyperparameter(0.0, _smoothed, SHARES, said)
    if {"exo_pair", "robust", "aot", "aot_unpaired"} & set(names):
        numbers |= hyperparameter("label_smoothing", options, 0.0, SHARES)
    if "discopop" in names:
        numbers |= hyperparameter("discopop_tau", options, 0.05, WEIGHTS)
    return numbers


def _odd(options):
    """True if swapping chosen and rejected gives the same loss as swapping policy and reference.

    Then the two mistakes cannot be told apart. It holds where F(-u) = -F(u) and the loss depends on
    the margin alone.
    """
    plain = options.get("f_divergence_type", "reverse_kl") == "reverse_kl"
    return plain and options.get("loss_type", "sigmoid") not in ("nca_pair", "apo_down", "sft")


def _turned(arrays):
    rows = {name: x for name, x in arrays.items() if name != HELD}
    return {name: np.concatenate(np.split(x, 2)[::-1]) for name, x in rows.items()}


def _smoothed(eps):
    def variant(f):
        def both(arrays, options):
            right, wrong = (f(rows, options)[0] for rows in (arrays, _turned(arrays)))
            return (1 - eps) * right + eps * wrong, None

        return both

    return variant


def _without_log(f):
    """Mean of -sigmoid.  Pair by pair, since f answers with the mean of -log sigmoid."""

    def variant(arrays, options):
        pairs = len(arrays["completion_mask"]) // 2
        rows = {name: x for name, x in arrays.items() if name != HELD}
        losses = [
            f({name: x[[i, pairs + i]] for name, x in rows.items()}, options)[0]
            for i in range(pairs)
        ]
        return -np.mean(np.exp(np.negative(losses))), None

    return variant


# KL --------------------------------------------------------------------------------------------


def _kl_inputs(rng, options):
    logps = -rng.exponential(size=(3, 5))
    return {
        "per_token_logps": logps,
        "ref_per_token_logps": logps + rng.normal(size=logps.shape),
    }


def _kl(arrays, options):
    name = options.get("estimator", "k3")
    if name in pg.MISTAKEN_KL:
        return pg.MISTAKEN_KL[name](arrays[WRT], arrays["ref_per_token_logps"]), None
    return getattr(kl, name)(**arrays), getattr(kl, name + "_grad")(**arrays)


def _kl_conventions(options):
    return {
        "KL direction: policy minus reference, not reference minus policy": swapped(
            "per_token_logps", "ref_per_token_logps"
        ),
        **SIGN,
        **{
            f"estimator: {name}": optioned(estimator=name)
            for name in ("k1", "k2", "k3", *pg.MISTAKEN_KL)
        },
        **DETACH,
    }


def _objective(inputs, wrt, reference, conventions, hyperparameters=lambda options: {}):
    def plain(arrays, options):
        return reference({k: x for k, x in arrays.items() if k != HELD}, options)

    return {
        "inputs": inputs,
        "wrt": wrt,
        "reference": plain,
        "conventions": conventions,
        "hyperparameters": hyperparameters,
    }


OBJECTIVES = {
    "sft": _objective(_sft_inputs, WRT, _sft, _sft_conventions),
    "dpo": _objective(_dpo_inputs, WRT, _dpo, _dpo_conventions, _dpo_hyperparameters),
    "kl": _objective(_kl_inputs, WRT, _kl, _kl_conventions),
    "grpo": _objective(
        pg.grpo_inputs, WRT, pg.grpo_loss, pg.grpo_conventions, pg.grpo_hyperparameters
    ),
    "rloo": _objective(
        pg.rloo_inputs, WRT, pg.rloo_loss, pg.rloo_conventions, pg.rloo_hyperparameters
    ),
    "advantages": _objective(
        pg.advantages_inputs,
        None,
        pg.advantages_of,
        pg.advantages_conventions,
        pg.std_hyperparameters,
    ),
}

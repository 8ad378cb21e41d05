"""Rows of the report: every loss against the library's own, and against its torch twin.

What an entry of the catalogue says is compared by `catalogue_rows`. The others vary an option, or
call the library by other names than ours.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator

import numpy as np

from reference_math import (
    catalogue,
    dpo_trainer,
    grpo_trainer,
    kto,
    label_smoothing,
    logprobs,
    sft,
)
from reference_math.catalogue import Objective
from reference_math.conformance._types import Result, Run
from reference_math.conformance.rows import Row, running

ARRAYS = catalogue.ARRAYS
LIBRARIES = {"trl_reward.prm": "transformers"}  # any other driver calls TRL
OF_SCORES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")
GRPO_OPTIONS = {
    "": {},
    ", asymmetric clip": {"epsilon_low": 0.1, "epsilon_high": 0.4},
    ", delta": {"delta": 1.5},
    ", KL": {"beta": 0.3, "use_bias_correction_kl": False},
    ", corrected KL": {"beta": 0.3},
    ", off-policy mask": {"off_policy_mask_threshold": 0.05},
    ", entropy mask": {"top_entropy_quantile": 0.4},
    ", entropy bonus": {"entropy_coef": 0.1},
}


def rows() -> Iterator[Row]:
    yield from catalogue_rows()
    yield from sft_rows()
    yield from dpo_rows()
    yield from grpo_rows()
    yield from kto_rows()


# The catalogue ---------------------------------------------------------------------------------


def catalogue_rows() -> Iterator[Row]:
    """Yield each entry that names a driver, and each function of an entry that has a torch twin."""
    twins = set()
    for objective in catalogue.OBJECTIVES:
        family = (objective.loss or objective.formula).partition(".")[0].removesuffix("_trainer")
        if objective.driver:
            library = LIBRARIES.get(objective.driver, "trl")
            yield Row(family, objective.names[0], library, against_driver(objective))
        for name in dict.fromkeys((objective.loss, objective.formula)):
            if has_twin(objective, name) and (name, str(objective.options)) not in twins:
                twins.add((name, str(objective.options)))
                run = against_twin(objective._replace(formula=name, loss=""))
                yield Row(name.partition(".")[0], objective.names[0], "torch twin", run)


def against_driver(objective: Objective) -> Run:
    module, _, function = objective.driver.partition(".")
    driver = getattr(importlib.import_module(f"reference_math.conformance.{module}"), function)
    options = objective.driver_options
    options = objective.options if options is None else options
    arrays, wrt, ours = objective.inputs(), objective.to(), both(objective)
    if "logits" in inspect.signature(driver).parameters and "logits" not in arrays:
        rest = {name: x for name, x in arrays.items() if name != "per_token_logps"}
        arrays = {"logits": ARRAYS["logits"], "tokens": ARRAYS["tokens"]} | rest
        ours, wrt = through_logits(ours), ("logits",)
    more = {"use_weighting": True} if "log_sum_sq_probs" in arrays else {}
    return running(lambda **tensors: driver(**tensors, **options, **more), ours, arrays, *wrt)


def has_twin(objective: Objective, name: str) -> bool:
    """A function with a gradient of ours and a torch twin, whose arguments the entry knows."""
    module, _, function = name.partition(".")
    if module not in ("grpo", "cispo", "sapo", "vespo", "reinforce", "rloo", "sft", "dpo", "kl"):
        return False
    parameters = inspect.signature(catalogue.function(name)).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty}
    known = required <= set(ARRAYS) | set(objective.options)
    return known and hasattr(
        importlib.import_module(f"reference_math.{module}"), f"{function}_grad"
    )


def against_twin(objective: Objective) -> Run:
    parameters = inspect.signature(catalogue.function(objective.formula)).parameters
    options = {name: x for name, x in objective.options.items() if name in parameters}
    objective = objective._replace(options=options)
    arrays = objective.inputs()
    pair = ("chosen_logratios", "rejected_logratios") if "chosen_logratios" in arrays else ()

    def theirs(**tensors):
        module, _, function = objective.formula.partition(".")
        twin = importlib.import_module(f"reference_math.torch.{module}")
        return getattr(twin, function)(**tensors, **options)

    return running(theirs, both(objective), arrays, *(pair or objective.to()))


def both(objective: Objective) -> Callable[..., Result]:
    return lambda **arrays: (objective.value(**arrays), objective.gradient(**arrays))


def through_logits(ours: Callable[..., Result]) -> Callable[..., Result]:
    """A function of token log-probs, and its gradient, as one of the logits."""

    def of_logits(logits, tokens, **rest):
        value, grad = ours(per_token_logps=logprobs.per_token_logps(logits, tokens), **rest)
        return value, logprobs.logits_grad(logits, tokens, grad)

    return of_logits


# Options, and other names than ours ------------------------------------------------------------


def sft_rows() -> Iterator[Row]:
    """Divide by the tokens of the whole optimizer step, as a trainer with accumulation does."""
    from reference_math.conformance import trl_sft

    arrays = {name: ARRAYS[name] for name in ("logits", "tokens", "completion_mask")}
    whole = {"reduction": "global_token", "num_items_in_batch": 17}

    def smoothed(**given):
        options = whole | {"label_smoothing_factor": 0.1}
        return label_smoothing.loss(**given, **options), label_smoothing.loss_grad(
            **given, **options
        )

    def of(value, grad):
        return through_logits(lambda **given: (value(**given, **whole), grad(**given, **whole)))

    for name, ours, options in [
        ("nll", of(sft.nll, sft.nll_grad), {"loss_type": "nll"}),
        ("dft", of(sft.dft, sft.dft_grad), {"loss_type": "dft"}),
        ("label smoothing", smoothed, {"label_smoothing_factor": 0.1}),
    ]:

        def theirs(options=options, **tensors):
            return trl_sft.loss(**tensors, num_items_in_batch=17, **options)

        yield Row("sft", f"{name}, accumulated", "trl", running(theirs, ours, arrays, "logits"))


def dpo_rows() -> Iterator[Row]:
    """Yield each loss type, length-discounted, with each divergence of scores, and weighted by WPO."""
    from reference_math.conformance import trl_dpo

    names = ("per_token_logps", "ref_per_token_logps", "completion_mask")
    arrays = {name: ARRAYS[name] for name in names}
    normaliser = {"log_sum_sq_probs": ARRAYS["log_sum_sq_probs"]}

    def row(option, options, extra):
        def theirs(**tensors):
            return trl_dpo.loss(**tensors, **options, use_weighting=bool(extra))

        def ours(**given):
            return dpo_trainer.loss(**given, **options), dpo_trainer.loss_grad(**given, **options)

        run = running(theirs, ours, arrays | extra, "per_token_logps")
        return Row("dpo", option, "trl", run)

    for name in dpo_trainer.LOSS_TYPES:
        plain = {"loss_type": name} | ({"label_smoothing": 0.15} if name in SMOOTHED else {})
        yield row(name, plain, {})
        yield row(f"{name}, ld_alpha", plain | {"ld_alpha": 0.4}, {})
        if name in OF_SCORES:
            for f in dpo_trainer.F_DIVERGENCES[1:]:
                yield row(f"{name}, {f}", plain | {"f_divergence_type": f}, {})
        if not name.startswith("aot"):
            yield row(f"{name}, use_weighting", plain, normaliser)


def grpo_rows() -> Iterator[Row]:
    """Yield each loss type at both levels of the ratio with each option, under GRPOTrainer's names."""
    from reference_math.conformance import trl_grpo

    names = ("per_token_logps", "old_per_token_logps", "ref_per_token_logps", "advantages")
    arrays = {name: ARRAYS[name] for name in (*names, "completion_mask")}
    empty = np.arange(len(arrays["advantages"]))[:, None] != 3  # one completion without a token
    arrays["completion_mask"] = arrays["completion_mask"] * empty
    entropies = np.random.default_rng(0).random(empty.shape) * np.ones((1, 5))
    arrays["entropies"] = entropies.astype(np.float32).astype(float)  # TRL's quantile is float32

    for loss_type, (_, _, surrogate) in grpo_trainer.LOSS_TYPES.items():
        for level in ("token", "sequence"):
            for text, extra in GRPO_OPTIONS.items():
                if "delta" in extra and "delta" not in surrogate:
                    continue
                options = extra | {"importance_sampling_level": level, "loss_type": loss_type}

                def theirs(options=options, **tensors):
                    return trl_grpo.loss(**tensors, **options)

                def ours(options=options, **batch):
                    grads = grpo_trainer.loss_grad(batch, **options)
                    return grpo_trainer.loss(batch, **options), grads[0]

                run = running(theirs, ours, arrays, "per_token_logps")
                yield Row("grpo", f"{loss_type}, {level} ratio{text}", "trl", run)


def kto_rows() -> Iterator[Row]:
    """Start from token log-probs, the mismatched pairs of the baseline included."""
    from reference_math.conformance import trl_kto

    rng, mask = np.random.default_rng(0), ARRAYS["completion_mask"]
    arrays = {"label": ARRAYS["label"].astype(int)}
    for prefix in ("", "kl_"):
        logps = -rng.exponential(size=mask.shape)
        arrays[f"{prefix}per_token_logps"] = logps
        arrays[f"ref_{prefix}per_token_logps"] = logps - 0.3 - 0.7 * rng.normal(size=mask.shape)
        arrays[f"{prefix}completion_mask"] = mask

    for loss_type in ("kto", "apo_zero_unpaired"):

        def theirs(loss_type=loss_type, **tensors):
            return trl_kto.loss(**tensors, loss_type=loss_type, beta=0.3)

        def ours(loss_type=loss_type, **given):
            mismatched, answers = _answers(given, "kl_"), _answers(given, "")
            z = kto.kl_baseline(*mismatched) if loss_type == "kto" else 0.0
            options = {"kl": z, "beta": 0.3}
            grad = kto.loss_grad(*answers, given["label"], **options)
            value = kto.loss(*answers, given["label"], **options)
            return value, grad[:, None] * given["completion_mask"]

        run = running(theirs, ours, arrays, "per_token_logps")
        yield Row("kto", loss_type, "trl", run)


def _answers(given, prefix):
    """Log-probabilities of whole answers, of the policy and of the reference."""
    mask = given[f"{prefix}completion_mask"]
    names = (f"{prefix}per_token_logps", f"ref_{prefix}per_token_logps")
    return [(given[name] * mask).sum(axis=1) for name in names]

"""Rows of the report: the GRPO family and RLOO."""

import importlib

import numpy as np

from reference_math import grpo_trainer, rloo
from reference_math.conformance.rows import Row, running


def rows():
    yield from grpo_rows()
    yield from rloo_rows()


_GRPO_OPTIONS = {
    "": {},
    ", asymmetric clip": {"epsilon_low": 0.1, "epsilon_high": 0.4},
    ", delta": {"delta": 1.5},
    ", KL": {"beta": 0.3, "use_bias_correction_kl": False},
    ", corrected KL": {"beta": 0.3},
    ", off-policy mask": {"off_policy_mask_threshold": 0.05},
    ", entropy mask": {"top_entropy_quantile": 0.4},
    ", entropy bonus": {"entropy_coef": 0.1},
}


def grpo_rows():
    arrays = _rollouts()

    def ours(loss_type, options):
        def both(**batch):
            grads = grpo_trainer.loss_grad(batch, loss_type=loss_type, **options)
            return grpo_trainer.loss(batch, loss_type=loss_type, **options), grads[0]

        return both

    def from_trl(loss_type, options):
        def theirs(**tensors):
            from reference_math.conformance import trl_grpo

            return trl_grpo.loss(**tensors, loss_type=loss_type, **options)

        return theirs

    def from_twin(loss_type, options):
        def theirs(per_token_logps, old_per_token_logps, advantages, completion_mask, **_):
            module, reduction, surrogate = grpo_trainer.LOSS_TYPES[loss_type]
            config = grpo_trainer.DEFAULTS | options
            name = module.__name__.rpartition(".")[2]
            twin = importlib.import_module(f"reference_math.torch.{name}")
            counts = {"max_completion_length": config["max_completion_length"]}
            counts["tokens_per_micro_batch"] = completion_mask.sum()
            return twin.loss(
                per_token_logps,
                old_per_token_logps,
                advantages,
                completion_mask,
                importance_sampling_level=config["importance_sampling_level"],
                reduction=reduction,
                **counts,
                **{key: config[trl_name] for key, trl_name in surrogate.items()},
            )

        return theirs

    for loss_type in grpo_trainer.LOSS_TYPES:
        for level in ("token", "sequence"):
            for text, extra in _GRPO_OPTIONS.items():
                if "delta" in extra and "delta" not in grpo_trainer.LOSS_TYPES[loss_type][2]:
                    continue
                options = extra | {"importance_sampling_level": level}
                both = ours(loss_type, options)
                option = f"{loss_type}, {level} ratio{text}"
                run = running(from_trl(loss_type, options), both, arrays, "per_token_logps")
                yield Row("grpo", option, "trl", run)
                if not text:
                    run = running(from_twin(loss_type, options), both, arrays, "per_token_logps")
                    yield Row("grpo", option, "torch twin", run)


def rloo_rows():
    batch = _rollouts()
    arrays = {name: batch[name] for name in ("per_token_logps", "advantages", "completion_mask")}
    arrays["old_logps"] = (batch["old_per_token_logps"] * batch["completion_mask"]).sum(axis=1)
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.2}

    def ours(**given):
        return rloo.loss(**given, **clip), rloo.loss_grad(**given, **clip)

    def from_trl(**tensors):
        from reference_math.conformance import trl_rloo

        return trl_rloo.loss(**tensors, **clip)

    def from_twin(**tensors):
        from reference_math.torch import rloo as twin

        return twin.loss(**tensors, **clip)

    for library, theirs in [("trl", from_trl), ("torch twin", from_twin)]:
        run = running(theirs, ours, arrays, "per_token_logps")
        yield Row("rloo", "clipped product of ratios", library, run)


def _rollouts():
    """Completions of unequal length, one empty, some ratios outside the clip."""
    rng = np.random.default_rng(0)
    mask = (np.arange(7) < np.array([[7], [3], [1], [0], [5]])).astype(int)
    logps = -rng.exponential(size=mask.shape)
    old = logps + 0.3 * rng.normal(size=mask.shape)
    return {
        "per_token_logps": logps,
        "old_per_token_logps": old,
        "ref_per_token_logps": logps + 0.5 * rng.normal(size=mask.shape),
        "advantages": np.array([1.25, -0.75, -0.5, 0.875, -1.125]),
        "completion_mask": mask,
        "entropies": rng.random(mask.shape).astype(np.float32).astype(float),
    }

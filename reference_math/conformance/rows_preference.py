"""Rows of the report: reward models, and the preference losses that are not DPO's."""

import numpy as np

from reference_math import bco, cpo_trainer, kto, logprobs, orpo, prm, reward_model
from reference_math.conformance.rows import Row, golden, running


def rows():
    yield from reward_rows()
    yield from prm_rows()
    yield from kto_rows()
    yield from bco_rows()
    yield from cpo_rows()


def reward_rows():
    pair = np.random.default_rng(0).normal(scale=3.0, size=(2, 6))
    arrays = dict(zip(("chosen_rewards", "rejected_rewards"), pair))

    def from_trl(**given):
        from reference_math.conformance import trl_reward

        return trl_reward.loss(**given)

    for option, extra, center in [
        ("plain", {}, None),
        ("margin", {"margin": np.linspace(0.0, 2.0, 6)}, None),
        ("centred", {}, 0.01),
    ]:
        options = {"center_rewards_coefficient": center}

        def ours(options=options, **given):
            value = reward_model.loss(**given, **options)
            return value, reward_model.loss_grad(**given, **options)[0]

        def theirs(options=options, **given):
            return from_trl(**given, **options)

        run = running(theirs, ours, arrays | extra, "chosen_rewards")
        yield Row("reward_model", option, "trl", run)


def prm_rows():
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((3, 5)) < 0.4, prm.IGNORED, rng.integers(0, 2, size=(3, 5)))

    def theirs(logits, labels):
        from types import SimpleNamespace

        from transformers.loss.loss_utils import ForTokenClassification

        return ForTokenClassification(logits, labels, SimpleNamespace(num_labels=2))

    def ours(logits, labels):
        return prm.loss(logits, labels), prm.loss_grad(logits, labels)

    arrays = {"logits": rng.normal(scale=2.0, size=(3, 5, 2)), "labels": labels}
    yield Row("prm", "steps", "transformers", running(theirs, ours, arrays, "logits"))


def kto_rows():
    rng = np.random.default_rng(0)
    arrays = {"label": np.array([1, 0, 0, 1, 1])}
    for prefix in ("", "kl_"):
        logps = -rng.exponential(size=(5, 6))
        mask = (np.arange(6) < rng.integers(1, 7, size=(5, 1))).astype(int)
        arrays[f"{prefix}per_token_logps"] = logps
        arrays[f"ref_{prefix}per_token_logps"] = logps - 0.3 - 0.7 * rng.normal(size=(5, 6))
        arrays[f"{prefix}completion_mask"] = mask

    for loss_type in ("kto", "apo_zero_unpaired"):

        def theirs(loss_type=loss_type, **given):
            from reference_math.conformance import trl_kto

            return trl_kto.loss(**given, loss_type=loss_type, beta=0.3)

        def ours(loss_type=loss_type, **given):
            def whole(prefix):
                mask = given[f"{prefix}completion_mask"]
                tokens = given[f"{prefix}per_token_logps"], given[f"ref_{prefix}per_token_logps"]
                return [(x * mask).sum(axis=1) for x in tokens]

            options = {"kl": kto.kl_baseline(*whole("kl_")), "beta": 0.3}
            if loss_type == "apo_zero_unpaired":
                options["kl"] = 0.0
            answers = (*whole(""), given["label"])
            to_tokens = kto.loss_grad(*answers, **options)[:, None] * given["completion_mask"]
            return kto.loss(*answers, **options), to_tokens

        run = running(theirs, ours, arrays, "per_token_logps")
        yield Row("kto", loss_type, "trl", run)


def bco_rows():
    """TRL 1.13.0's own numbers, kept; the running delta goes from step to step."""
    kept = golden("bco")
    if not kept:
        return

    def run(place):
        delta, count, value, grad = 0.0, 0, [], []
        theirs = {"value": [], "gradient": []}
        for step in range(5):
            at = {name: kept[f"float64/{step}/{name}"] for name in _BCO_ARRAYS}
            logps, ref_logps, grads = (
                np.concatenate([at[name.format("chosen")], at[name.format("rejected")]])
                for name in ("{}_logps", "ref_{}_logps", "{}_grad")
            )
            label = np.arange(len(logps)) < len(at["chosen_logps"])
            delta, count = bco.running_delta(delta, count, 0.3 * (logps - ref_logps))
            given = (logps, ref_logps, label)
            value.append(bco.loss(*given, delta=delta, beta=0.3))
            grad.append(bco.loss_grad(*given, delta=delta, beta=0.3))
            theirs["value"].append(at["losses"].mean())
            theirs["gradient"].append(grads)
        return {
            "value": (theirs["value"], value),
            "gradient": (np.concatenate(theirs["gradient"]), np.concatenate(grad)),
        }

    yield Row("bco", "running delta", "trl", run, release="1.13.0")


_BCO_ARRAYS = [f"{ref}{own}_logps" for ref in ("", "ref_") for own in ("chosen", "rejected")]
_BCO_ARRAYS += ["chosen_grad", "rejected_grad", "losses"]


def cpo_rows():
    rng = np.random.default_rng(0)
    mask = (np.arange(6) < rng.integers(1, 7, size=(8, 1))).astype(int)
    arrays = {
        "logits": rng.normal(size=(8, 6, 7)),
        "tokens": rng.integers(0, 7, size=(8, 6)),
        "completion_mask": mask,
    }

    def row(name, option, driver, module, options):
        def theirs(**given):
            from reference_math.conformance import trl_cpo

            return getattr(trl_cpo, driver)(**given, **options)

        def ours(logits, tokens, completion_mask):
            logps = logprobs.per_token_logps(logits, tokens)
            value = module.loss(logps, completion_mask, **options)
            grad = module.loss_grad(logps, completion_mask, **options)
            return value, logprobs.logits_grad(logits, tokens, grad)

        return Row(name, option, "trl", running(theirs, ours, arrays, "logits"))

    yield row("orpo", "nll of the answer", "orpo", orpo, {"beta": 0.4})
    for loss_type in cpo_trainer.LOSS_TYPES:
        for option, extra in {"": {}, ", alpha 0.1": {"alpha": 0.1}}.items():
            options = {"loss_type": loss_type, "beta": 0.5} | extra
            yield row("cpo", loss_type + option, "cpo", cpo_trainer, options)

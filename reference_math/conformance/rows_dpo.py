"""Rows of the report: the preference losses."""

import numpy as np

from reference_math import dpo_trainer
from reference_math.conformance.rows import Row, running

OF_SCORES = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")


def rows():
    rng = np.random.default_rng(0)
    mask = (np.arange(6) < rng.integers(1, 7, size=(8, 1))).astype(int)
    logps = -rng.exponential(size=(8, 6))
    arrays = {
        "per_token_logps": logps,
        "ref_per_token_logps": logps + rng.normal(scale=0.7, size=(8, 6)),
        "completion_mask": mask,
    }
    normaliser = {"log_sum_sq_probs": -rng.exponential(size=(8, 6))}

    def ours(options):
        return lambda **given: (
            dpo_trainer.loss(**given, **options),
            dpo_trainer.loss_grad(**given, **options),
        )

    def from_trl(options):
        def theirs(**tensors):
            from reference_math.conformance import trl_dpo

            weighting = {"use_weighting": "log_sum_sq_probs" in tensors}
            return trl_dpo.loss(**tensors, **options, **weighting)

        return theirs

    def from_twin(name):
        def theirs(per_token_logps, ref_per_token_logps, completion_mask):
            from reference_math.torch import dpo as twin

            logps, ref_logps = (
                twin.sequence_logps(x, completion_mask)
                for x in (per_token_logps, ref_per_token_logps)
            )
            u = logps - ref_logps
            if name == "ipo":
                u = u / completion_mask.sum(1).clamp(min=1)
            return getattr(twin, name)(*u.chunk(2), beta=0.1).mean()

        return theirs

    for name in dpo_trainer.LOSS_TYPES:
        plain = {"loss_type": name} | ({"label_smoothing": 0.15} if name in SMOOTHED else {})
        cases = {"": {}, ", ld_alpha": {"ld_alpha": 0.4}}
        if name in OF_SCORES:
            cases |= {f", {f}": {"f_divergence_type": f} for f in dpo_trainer.F_DIVERGENCES[1:]}
        for text, extra in cases.items():
            options = plain | extra
            run = running(from_trl(options), ours(options), arrays, "per_token_logps")
            yield Row("dpo", name + text, "trl", run)
        if not name.startswith("aot"):
            weighted = running(from_trl(plain), ours(plain), arrays | normaliser, "per_token_logps")
            yield Row("dpo", name + ", use_weighting", "trl", weighted)
        if name in ("sigmoid", "hinge", "ipo"):
            run = running(from_twin(name), ours(plain), arrays, "per_token_logps")
            yield Row("dpo", name, "torch twin", run)

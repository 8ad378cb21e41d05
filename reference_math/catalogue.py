"""List every method of the package: its names, its function, its paper, example inputs.

    import reference_math
    reference_math.find("GSPO")     the function, its arguments, the paper, the proof, the lesson

README.md, the contract tests (tests/laws/test_contract.py), the parity cases
(tests/parity/test_conformance.py) and the plain rows of `conformance` come from this list.
No method module imports it.  Proof   tests/laws/test_contract.py, tests/laws/test_catalogue.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np

from reference_math._types import Array, NDArray


class Objective(NamedTuple):
    """Describe one method: an objective with a loss and a gradient, or a part of one (`loss` is empty).

    family           heading of the index
    names            what papers and libraries call it, the most usual name first
    formula          "module.function" in which the formula stands
    paper            where it comes from
    loss             "module.function" that returns a float; its gradient is the function <loss>_grad
    options          keywords that make the loss this method, with example values
    held             what the gradient holds constant; empty: it is the slope of the loss
    wrt              the arrays the gradient is to; empty: the loss's first argument
    arrays           example arrays that replace those of ARRAYS, or are passed besides
    driver           "module.function" of reference_math.conformance that calls the library's own loss
    driver_options   keywords of the driver; None: those of the loss
    """

    family: str
    names: tuple
    formula: str
    paper: str
    loss: str = ""
    options: dict = {}  # noqa: RUF012 - never changed
    held: str = ""
    wrt: tuple = ()
    arrays: dict = {}  # noqa: RUF012
    driver: str = ""
    driver_options: dict | None = None

    @property
    def lesson(self) -> str:
        """Return the notebook that uses the method, or ""."""
        return next(
            (f"notebooks/{k}.ipynb" for k, names in LESSONS.items() if self.names[0] in names), ""
        )

    @property
    def nearest(self) -> str:
        """Return the notebook to read where none uses the method, or "".

        The one that its module names, else the one with most methods of the family.
        """
        others = [o.lesson for o in OBJECTIVES if o.family == self.family and o.lesson]
        most = max(sorted(set(others)), key=others.count) if others else ""
        return "" if self.lesson else headers(self.formula.partition(".")[0])["Lesson"] or most

    def value(self, **given: Any) -> float:
        """Compute the loss (of a part: its formula) on the example inputs, or on others that are passed."""
        return function(self.loss or self.formula)(**self.inputs() | self.options | given)

    def gradient(self, **given: Any) -> Array | tuple[Array, ...]:
        """Compute the gradient with respect to `wrt`: an array, or one array for each name in a tuple."""
        f = function(f"{self.loss or self.formula}_grad")
        return f(**self.inputs() | self.options | given)

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Return example arrays by the names of the arguments."""
        required = [p.name for p in self._parameters() if p.default is p.empty]
        names = [name for name in required if name in ARRAYS]
        return {name: ARRAYS[name] for name in names} | self.arrays

    def to(self) -> tuple[str, ...]:
        """Return the names of the arrays with respect to which the gradient is taken."""
        return self.wrt or (next(iter(self.inputs())),)

    def signature(self) -> str:
        """Return the call with its arguments: "grpo.loss(per_token_logps, ..., *, epsilon_low, ...)"."""
        name = self.loss or self.formula
        bare = [p.replace(annotation=p.empty) for p in self._parameters()]
        return f"{name}{inspect.Signature(bare)}"

    def _parameters(self):
        return inspect.signature(function(self.loss or self.formula)).parameters.values()


def function(name: str) -> Any:
    """Return the function "module.name" of this package.

    >>> function("kl.k3").__name__
    'k3'
    """
    module, _, attribute = name.partition(".")
    return getattr(importlib.import_module(f"reference_math.{module}"), attribute)


# Example inputs ----------------------------------------------------------------------------------


def _arrays(rows=6, tokens=5, vocabulary=7):
    """One array for each argument name: 6 rows are 3 pairs, 2 triples or 3 groups of 2."""
    rng = np.random.default_rng(0)
    shape = rows, tokens
    mask = (np.arange(tokens) < np.array([5, 3, 1, 4, 5, 2])[:, None]).astype(float)
    logps = -rng.exponential(size=shape)
    arrays = {"completion_mask": mask, "state_mask": mask, "per_token_logps": logps}
    for name, scale in {"old": 0.3, "ref": 0.5, "teacher": 0.5}.items():
        arrays[f"{name}_per_token_logps"] = logps + scale * rng.normal(size=shape)
    arrays |= {name: rng.normal(size=rows) for name in ("advantages", "rewards")}
    arrays |= {name: rng.random(rows) for name in ("optimal_values", "win_probability")}
    arrays |= {
        "label": np.array([1.0, 0, 0, 1, 1, 0]),
        "tokens": rng.integers(0, vocabulary, shape),
    }
    arrays |= {"logps": (logps * mask).sum(axis=1)}
    for name in ("old", "ref"):
        arrays[f"{name}_logps"] = (arrays[f"{name}_per_token_logps"] * mask).sum(axis=1)
    spaced = np.broadcast_to(np.linspace(-2.0, 2.5, vocabulary), (*shape, vocabulary))  # no ties
    for name in ("logits", "student_logits", "teacher_logits"):
        arrays[name] = rng.permuted(spaced, axis=-1) + 0.1 * rng.random(spaced.shape)
    arrays["labels"] = np.where(mask == 1, arrays["tokens"], -100)
    for name in ("chosen_logratios", "rejected_logratios", "chosen_rewards", "rejected_rewards"):
        arrays[name] = rng.normal(scale=2.0, size=rows)
    for name in ("values", "old_values", "returns"):
        arrays[name] = rng.normal(size=shape)
    arrays |= {
        "student_hidden": rng.normal(size=(rows, 4)),
        "teacher_hidden": rng.normal(size=(rows, 3)),
    }
    for name, width in {"student": 4, "teacher": 3}.items():
        arrays[f"{name}_weight"] = rng.normal(size=(vocabulary, width))
    arrays["log_sum_sq_probs"] = -rng.exponential(size=shape)
    return arrays | _scored(arrays["teacher_logits"])


def _scored(teacher_logits, k=2):
    """The teacher's k likeliest tokens and their log-probabilities, as a server tells them."""
    ids = np.argsort(-teacher_logits, axis=-1)[..., :k]
    log_p = teacher_logits - np.logaddexp.reduce(teacher_logits, axis=-1, keepdims=True)
    return {"support_ids": ids, "teacher_support_logps": np.take_along_axis(log_p, ids, axis=-1)}


ARRAYS = _arrays()


# The list ----------------------------------------------------------------------------------------

CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.2}
GRPO = {"importance_sampling_level": "token", "reduction": "grpo"}
GAMMA = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
MINILLM = {
    "clip": 0.2,
    "gamma": 0.9,
    "length_normalization": False,
    "single_step_decomposition": True,
}
SMOOTHED = {"label_smoothing": 0.15}
SAMPLED = {
    f"{name}per_token_logps": np.minimum(ARRAYS[f"{name}per_token_logps"], -1e-3)
    for name in ("", "old_")
}
TEACHER = {"teacher_per_token_logps": -np.abs(ARRAYS["teacher_per_token_logps"]) - 0.01}  # below 0
BATCH = {"reduction": "batch_token"}


def _part(family, names, formula, paper, **options):
    return Objective(family, tuple(names), formula, paper, options=options)


def _sft(names, loss, paper, driver_options, held="", **options):
    options = BATCH | options
    more = {"held": held, "driver": "trl_sft.loss", "driver_options": driver_options}
    return Objective("supervised", names, loss, paper, loss, options, **more)


def _dpo(names, formula, paper, held="", arrays=None, **options):
    options = {"beta": 0.3} | options
    more = {"held": held, "arrays": arrays or {}, "driver": "trl_dpo.loss"}
    return Objective("preference pairs", names, formula, paper, "dpo_trainer.loss", options, **more)


def _pairs(names, formula, paper, loss, driver, **options):
    return Objective("preference pairs", names, formula, paper, loss, options, driver=driver)


def _policy(names, loss, paper, held="", driver="", formula="", arrays=None, **options):
    more = {"held": held, "driver": driver, "arrays": arrays or {}}
    return Objective("policy gradients", names, formula or loss, paper, loss, options, **more)


def _teacher(names, loss, paper, driver="", **more):
    return Objective("distillation", names, loss, paper, loss, driver=driver, **more)


OBJECTIVES = (
    # ------------------------------------------------------------------------- supervised
    _sft(("SFT", "nll", "cross-entropy", "supervised fine-tuning", "SFTTrainer"), "sft.nll",
         "maximum likelihood", {"loss_type": "nll"}),
    _sft(("DFT", "dynamic fine-tuning"), "sft.dft", "arXiv 2508.05629", {"loss_type": "dft"},
         held="each token's probability"),
    Objective("supervised", ("EAFT", "entropy-adaptive fine-tuning"), "eaft.loss", "arXiv 2601.02151, eqs. 2 and 3",
              "eaft.loss", BATCH | {"top_k": 4, "scale": np.log(4), "alpha": 1.0}, held="the gate"),
    Objective("supervised", ("ASFT", "anchored supervised fine-tuning"), "asft.loss", "arXiv 2509.23753, eq. 6",
              "asft.loss", BATCH | {"kl_weight": 0.1}, held="each token's probability",
              arrays={"ref_logits": ARRAYS["teacher_logits"]}),
    _sft(("label smoothing",), "label_smoothing.loss", "arXiv 1512.00567, section 7",
         {"label_smoothing_factor": 0.1}, label_smoothing_factor=0.1),
    # ------------------------------------------------------------------------- preference pairs
    _dpo(("DPO", "sigmoid", "direct preference optimisation", "DPOTrainer"), "dpo.sigmoid", "arXiv 2305.18290, eq. 7"),
    _dpo(("IPO", "ipo", "identity preference optimisation"), "dpo.ipo", "arXiv 2310.12036, eq. 17", loss_type="ipo"),
    _dpo(("SLiC", "hinge", "SLiC-HF"), "dpo.hinge", "arXiv 2305.10425", loss_type="hinge"),
    _dpo(("LN-DPO", "sigmoid_norm", "length-normalised DPO"), "dpo.sigmoid",
         "arXiv 2411.15124", loss_type="sigmoid_norm"),
    _dpo(("robust DPO", "robust", "rDPO"), "dpo_margin.robust", "arXiv 2403.00409",
         loss_type="robust", **SMOOTHED),
    _dpo(("EXO", "exo_pair"), "dpo_margin.exo_pair", "arXiv 2402.00856, eq. 16",
         loss_type="exo_pair", **SMOOTHED),
    _dpo(("DiscoPOP", "discopop"), "dpo_margin.discopop", "arXiv 2406.08414, eq. 5",
         loss_type="discopop", discopop_tau=1.0),
    _dpo(("AOT", "aot"), "dpo_margin.aot", "arXiv 2406.05882", loss_type="aot", **SMOOTHED),
    _dpo(("AOT unpaired", "aot_unpaired"), "dpo_margin.aot", "arXiv 2406.05882",
         loss_type="aot_unpaired", **SMOOTHED),
    _dpo(("NCA", "nca_pair", "NCA-pair"), "dpo_pointwise.nca_pair", "arXiv 2402.05369", loss_type="nca_pair"),
    _dpo(("BCO-pair", "bco_pair"), "dpo_pointwise.bco_pair", "arXiv 2404.04656", loss_type="bco_pair"),
    _dpo(("SPPO", "sppo_hard"), "dpo_pointwise.sppo_hard", "arXiv 2405.00675, eq. 4.7", loss_type="sppo_hard"),
    _dpo(("APO-zero", "apo_zero"), "dpo_pointwise.apo_zero", "arXiv 2408.06266, eq. 7", loss_type="apo_zero"),
    _dpo(("APO-down", "apo_down"), "dpo_pointwise.apo_down", "arXiv 2408.06266, eq. 8", loss_type="apo_down"),
    _dpo(("chosen NLL", "sft of the chosen answer", "RPO", "rpo_alpha"), "sft.nll", "arXiv 2404.19733", loss_type="sft"),
    _dpo(("LD-DPO", "ld_alpha"), "dpo.sequence_weights", "arXiv 2409.06411", ld_alpha=0.4),
    _dpo(("MPO", "mixture of losses", "loss_weights"), "dpo_trainer.loss", "arXiv 2411.10442",
         loss_type=("sigmoid", "bco_pair", "sft"), loss_weights=(0.8, 0.2, 1.0)),
    _dpo(("f-DPO", "forward_kl", "forward KL DPO"), "f_divergences.forward_kl", "arXiv 2309.16240",
         f_divergence_type="forward_kl"),
    _dpo(("JS-divergence DPO", "js_divergence"), "f_divergences.js_divergence", "arXiv 2309.16240",
         f_divergence_type="js_divergence"),
    _dpo(("alpha-divergence DPO", "alpha_divergence"), "f_divergences.alpha_divergence",
         "arXiv 2309.16240", f_divergence_type="alpha_divergence")._replace(driver=""),  # float64: refused
    _dpo(("WPO", "use_weighting", "weighted preference optimisation"), "wpo.pair_weights",
         "arXiv 2406.11827, eq. 2", held="each pair's weight",
         arrays={"log_sum_sq_probs": ARRAYS["log_sum_sq_probs"]}),
    _part("preference pairs", ("cDPO", "conservative DPO", "DPO with label smoothing"), "cpo.pair_loss",
          "note with arXiv 2305.18290's code; the scores are the log-ratios", **SMOOTHED, beta=0.3),
    _part("preference pairs", ("implicit reward", "DPO rewards and margins"), "implicit_rewards.rewards",
          "arXiv 2305.18290, eq. 5"),
    _pairs(("CPO", "contrastive preference optimisation", "CPOTrainer"), "cpo.pair_loss", "arXiv 2401.08417, eq. 3", "cpo_trainer.loss", "trl_cpo.cpo",
           beta=0.5, label_smoothing=0.1),
    _pairs(("CPO, hinge",), "dpo.hinge", "TRL's CPOTrainer", "cpo_trainer.loss", "trl_cpo.cpo",
           loss_type="hinge", beta=0.5),
    _pairs(("CPO, IPO",), "dpo.ipo", "TRL's CPOTrainer", "cpo_trainer.loss", "trl_cpo.cpo",
           loss_type="ipo", beta=0.5),
    _pairs(("SimPO", "simpo", "simple preference optimisation"), "simpo.pair_loss", "arXiv 2405.14734, eq. 6", "cpo_trainer.loss", "trl_cpo.cpo",
           loss_type="simpo", beta=2.0, simpo_gamma=1.0, cpo_alpha=0.0),
    _pairs(("CPO-SimPO",), "simpo.pair_loss", "TRL's CPOTrainer", "cpo_trainer.loss", "trl_cpo.cpo",
           loss_type="simpo", beta=0.5),
    _pairs(("AlphaPO", "alphapo"), "alphapo.reward", "arXiv 2501.03884", "cpo_trainer.loss", "trl_cpo.cpo",
           loss_type="simpo", beta=0.5, alpha=0.1, cpo_alpha=0.0),
    _pairs(("ORPO", "odds ratio", "odds ratio preference optimisation", "ORPOTrainer"), "orpo.pair_loss", "arXiv 2403.07691, eqs. 4 and 7", "orpo.loss",
           "trl_cpo.orpo", beta=0.4),
    _pairs(("TPO", "triple preference optimisation", "TPOTrainer"), "tpo.loss", "arXiv 2405.16681", "tpo.loss",
           "trl_experimental.tpo", beta=0.3),
    _pairs(("TPO, hinge",), "tpo.loss", "TRL's TPOTrainer", "tpo.loss", "trl_experimental.tpo",
           loss_type="hinge", beta=0.3),
    _pairs(("TPO, IPO",), "tpo.loss", "TRL's TPOTrainer", "tpo.loss", "trl_experimental.tpo",
           loss_type="ipo", beta=0.3),
    _pairs(("TPO-L", "tpo-l"), "tpo.loss", "TRL's TPOTrainer", "tpo.loss", "trl_experimental.tpo",
           loss_type="tpo-l", beta=0.3, label_smoothing=0.2),
    # ------------------------------------------------------------------------- single labels
    Objective("labels of single answers", ("KTO", "Kahneman-Tversky optimisation", "KTOTrainer"), "kto.loss", "arXiv 2402.01306, eqs. 7 and 8",
              "kto.loss", {"kl": 0.3, "beta": 0.3, "desirable_weight": 1.5}),
    Objective("labels of single answers", ("APO-zero unpaired", "apo_zero_unpaired"), "kto.loss",
              "arXiv 2408.06266, eq. 7", "kto.loss", {"kl": 0.0, "beta": 0.3}),
    Objective("labels of single answers", ("BCO", "binary classifier optimisation", "BCOTrainer"), "bco.loss",
              "arXiv 2404.04656", "bco.loss", {"delta": 0.2, "beta": 0.3}),
    # ------------------------------------------------------------------------- reward models
    Objective("reward models", ("reward model", "Bradley-Terry", "RM", "RewardTrainer"), "reward_model.loss",
              "arXiv 2203.02155, eq. 1", "reward_model.loss", {"center_rewards_coefficient": 0.01},
              wrt=("chosen_rewards", "rejected_rewards"), driver="trl_reward.loss"),
    Objective("reward models", ("PRM", "process reward model", "stepwise rewards", "PRMTrainer"), "prm.loss",
              "arXiv 2305.20050", "prm.loss", driver="trl_reward.prm"),
    # ------------------------------------------------------------------------- policy gradients
    _policy(("GRPO", "group relative policy optimisation"), "grpo.loss", "arXiv 2402.03300, eq. 3", **GRPO, **CLIP),
    _policy(("DAPO", "dapo", "clip-higher"), "grpo.loss", "arXiv 2503.14476", **GRPO
            | {"reduction": "dapo", "tokens_per_micro_batch": 20.0}, epsilon_low=0.2, epsilon_high=0.28),
    _policy(("Dr. GRPO", "dr_grpo"), "grpo.loss", "arXiv 2503.20783", **GRPO
            | {"reduction": "dr_grpo", "max_completion_length": 8}, **CLIP),
    _policy(("BNPO", "bnpo"), "grpo.loss", "TRL's GRPOTrainer", **GRPO | {"reduction": "bnpo"}, **CLIP),
    _policy(("async GRPO", "AsyncGRPOTrainer"), "grpo.loss", "TRL's AsyncGRPOTrainer", driver="trl_async.grpo",
            **GRPO | {"reduction": "bnpo"}, **CLIP),
    _policy(("LUSPO", "luspo"), "grpo.loss", "arXiv 2602.05261",
            importance_sampling_level="sequence", reduction="luspo", **CLIP),
    _policy(("GSPO", "sequence-level importance sampling", "group sequence policy optimisation"), "grpo.loss", "arXiv 2507.18071, eq. 5",
            importance_sampling_level="sequence", reduction="grpo", epsilon_low=0.2, epsilon_high=0.3),
    _policy(("GSPO-token", "sequence_token"), "grpo.loss", "arXiv 2507.18071",
            importance_sampling_level="sequence_token", reduction="grpo", epsilon_low=0.2, epsilon_high=0.3),
    _policy(("AIPO", "aipo_rho"), "grpo.loss", "cosmos-rl's aipo_rho, after LlamaRL, arXiv 2505.24034",
            **GRPO, epsilon_low=np.inf, epsilon_high=0.2, delta=1.2),
    _policy(("two-sided clip", "INTELLECT-2", "delta"), "grpo.loss", "arXiv 2505.07291", **GRPO, **CLIP, delta=1.5),
    _policy(("GRPO with KL", "GRPO's KL penalty"), "grpo.loss", "arXiv 2402.03300, eq. 4", **GRPO, **CLIP,
            beta=0.3, use_bias_correction_kl=True,
            arrays={"ref_per_token_logps": ARRAYS["ref_per_token_logps"]}),
    _policy(("CISPO", "cispo"), "cispo.loss", "arXiv 2506.13585, section 3.1",
            held="the importance ratio", **GRPO, epsilon_max=1.2),
    _policy(("two-sided CISPO",), "cispo.loss", "verl's cispo", held="the importance ratio", **GRPO,
            epsilon_max=1.2, epsilon_min=0.9),
    _policy(("ScaleRL", "prompt-average CISPO"), "cispo.loss",
            "arXiv 2510.13786", held="the importance ratio", epsilon_max=1.2,
            **GRPO | {"reduction": "prompt_mean", "num_generations": 2}),
    _policy(("SAPO", "sapo"), "sapo.loss", "arXiv 2511.20347", **GRPO, temperature_pos=1.0, temperature_neg=1.4),
    _policy(("VESPO", "vespo"), "vespo.loss", "arXiv 2602.10693", held="the weight phi(w)", **GRPO, **GAMMA),
    _policy(("GMPO", "geometric-mean policy optimisation", "GMPOTrainer"), "gmpo.loss", "arXiv 2507.20673",
            driver="trl_experimental.gmpo", epsilon_low=0.4, epsilon_high=0.4),
    _policy(("GMPO with KL",), "gmpo.loss", "arXiv 2507.20673", epsilon_low=0.4, epsilon_high=0.4,
            beta=0.3, arrays={"ref_per_token_logps": ARRAYS["ref_per_token_logps"]}),
    *(
        _policy(names, "dppo.loss", "arXiv 2602.04879", held="weight and mask", arrays=SAMPLED, divergence=divergence,
                delta_low=0.02, delta_high=0.05, truncation=1.2, reduction="bnpo")
        for divergence, names in [("tv", ("DPPO", "DPPO-TV", "divergence PPO")), ("kl", ("DPPO-KL",))]
    ),
    _policy(("rollout importance sampling", "rollout_is", "on-policy IcePop"), "rollout_is.loss",
            "arXiv 2510.18855", held="the ratio", arrays={"sampling_per_token_logps": ARRAYS["old_per_token_logps"]},
            clip_min=0.8, clip_max=1.25, reduction="bnpo"),
    _policy(("KL-Cov", "kl_cov"), "kl_cov.loss", "arXiv 2505.22617", share=0.2, kl_coef=0.5, reduction="bnpo"),
    _policy(("DRO", "direct reward optimisation"), "dro.loss", "arXiv 2405.19107", beta=0.5, reduction="bnpo"),
    Objective("policy gradients", ("Kimi's regulariser", "squared log-ratio penalty"), "dro.penalty",
              "arXiv 2602.02276, as in prime-rl", "dro.penalty", {"beta": 0.5, "reduction": "bnpo"}),
    _policy(("REINFORCE", "vanilla policy gradient"), "reinforce.loss", "Williams, 1992"),
    _policy(("RLOO", "leave-one-out", "RLOOTrainer"), "rloo.loss", "arXiv 2402.14740", driver="trl_rloo.loss", **CLIP),
    _policy(("PPO", "PPO's policy loss", "proximal policy optimisation", "clipped surrogate", "PPOTrainer"), "ppo.policy_loss", "arXiv 1707.06347, eq. 7", cliprange=0.2),
    Objective("policy gradients", ("PPO's value loss", "critic"), "ppo.value_loss",
              "arXiv 1707.06347, eq. 9", "ppo.value_loss", {"cliprange_value": 0.3}),
    _policy(("A*-PO", "A2PO", "a2po", "A2POTrainer"), "a2po.loss", "arXiv 2505.20686", driver="trl_experimental.a2po", beta2=0.3),
    _policy(("online DPO", "OAIF", "OnlineDPOTrainer"), "online_dpo.loss", "arXiv 2402.04792",
            driver="trl_experimental.online_dpo", beta=0.3),
    _policy(("online IPO",), "online_dpo.loss", "arXiv 2402.04792", driver="trl_experimental.online_dpo",
            loss_type="ipo", beta=0.3),
    _policy(("XPO", "exploratory preference optimisation", "XPOTrainer"), "xpo.loss", "arXiv 2405.21046, algorithm 1",
            alpha=0.05, beta=0.3),
    _policy(("Nash-MD", "Nash learning from human feedback", "NashMDTrainer"), "nash_md.loss", "arXiv 2312.00886",
            held="all but log p", beta=0.3, kl_level="sequence"),
    # ------------------------------------------------------------------------- around the loss
    _part("rewards, advantages, KL", ("GRPO advantage", "group advantage"), "advantages.group",
          "arXiv 2402.03300, section 4.1.2"),
    _part("rewards, advantages, KL", ("Lite PPO", "batch std"), "advantages.batch", "arXiv 2508.08221"),
    _part("rewards, advantages, KL", ("Dr. GRPO advantage",), "advantages.dr_grpo", "arXiv 2503.20783"),
    _part("rewards, advantages, KL", ("leave-one-out baseline", "RLOO advantage"), "advantages.leave_one_out",
          "arXiv 2402.14740"),
    _part("rewards, advantages, KL", ("leave-one-out in the others' std", "NeMo-RL advantage"),
          "advantages.leave_one_out_scaled", "NeMo-RL's GRPOAdvantageEstimator"),
    _part("rewards, advantages, KL", ("OPO", "length-weighted baseline"), "opo.advantage", "arXiv 2505.23585"),
    _part("rewards, advantages, KL", ("MaxRL", "maximum likelihood reinforcement learning"), "maxrl.advantage",
          "arXiv 2602.02710", eps=1e-6),
    _part("rewards, advantages, KL", ("Pass@k advantage", "pass@k policy optimisation"), "pass_at_k.advantage",
          "arXiv 2503.19595"),
    _part("rewards, advantages, KL", ("scaled Pass@k advantage", "grpo_passk"), "pass_at_k.scaled",
          "arXiv 2503.19595; verl's grpo_passk", ddof=1, eps=1e-6),
    _part("rewards, advantages, KL", ("ReMax", "greedy baseline"), "remax.advantage", "arXiv 2310.10505"),
    _part("rewards, advantages, KL", ("REINFORCE++", "batch whitening"), "advantages.whiten", "arXiv 2501.03262"),
    _part("rewards, advantages, KL", ("GDPO", "normalize_then_sum"), "multi_reward.normalize_then_sum",
          "arXiv 2601.05242"),
    _part("rewards, advantages, KL", ("several rewards", "sum_then_normalize"), "multi_reward.sum_then_normalize",
          "TRL's GRPOTrainer"),
    _part("rewards, advantages, KL", ("GAE", "generalised advantage estimation"), "gae.advantages",
          "arXiv 1506.02438, eqs. 11 and 16"),
    _part("rewards, advantages, KL", ("VAPO", "length-adaptive GAE", "two lambdas"), "gae.length_adaptive_lam",
          "arXiv 2504.05118", alpha=0.05),
    _part("rewards, advantages, KL", ("dynamic sampling", "DAPO's filter", "filter_groups"), "advantages.informative",
          "DAPO, arXiv 2503.14476"),
    _part("rewards, advantages, KL", ("M2PO", "second-moment trust policy optimisation", "m2_threshold"),
          "m2po.keep_mask", "arXiv 2510.01161, algorithm 1", threshold=0.04, constrained="trust_region"),
    _part("rewards, advantages, KL", ("KL in the reward", "reward shaping by KL"), "rloo.kl_penalized_rewards",
          "arXiv 1909.08593, eq. 2"),
    _part("rewards, advantages, KL", ("soft overlong punishment", "overlong reward shaping",
          "get_soft_overlong_punishment"), "overlong.soft_punishment", "DAPO, arXiv 2503.14476, eq. 13"),
    _part("rewards, advantages, KL", ("k1",), "kl.k1", "joschu.net/blog/kl-approx.html"),
    _part("rewards, advantages, KL", ("k2",), "kl.k2", "joschu.net/blog/kl-approx.html"),
    _part("rewards, advantages, KL", ("k3", "Schulman's KL estimator"), "kl.k3", "joschu.net/blog/kl-approx.html"),
    _part("rewards, advantages, KL", ("exact KL",), "kl.exact", "over the whole vocabulary"),
    _part("rewards, advantages, KL", ("bias-corrected KL", "use_bias_correction_kl"), "kl_term.per_token_kl",
          "DeepSeek-V3.2, arXiv 2512.02556"),
    _part("rewards, advantages, KL", ("importance ratio",), "ratios.log_importance_weights",
          "arXiv 1707.06347, section 3"),
    _part("rewards, advantages, KL", ("loss aggregation", "reductions"), "reductions.token_weights",
          "arXiv 2503.20783, arXiv 2503.14476"),
    _part("rewards, advantages, KL", ("prompt_mean", "prompt-level averaging"), "reductions.token_weights",
          "arXiv 2510.13786; SkyRL's prompt_mean", reduction="prompt_mean", num_generations=4),
    _part("rewards, advantages, KL", ("TIS", "truncated importance sampling", "MIS", "token_truncate",
          "token_mask", "sequence_truncate", "sequence_mask", "vllm_importance_sampling_mode"), "importance_sampling.ratio",
          "TRL's vllm_importance_sampling_mode"),
    _part("rewards, advantages, KL", ("IcePop",), "importance_sampling.ratio", "arXiv 2510.18855",
          mode="token_mask", clip_min=0.5, clip_max=5.0),
    _part("rewards, advantages, KL", ("geometric importance sampling", "geometric_truncate"),
          "importance_sampling.ratio", "ms-swift, unsloth", mode="geometric_truncate", clip_min=None, clip_max=2.0),
    _part("rewards, advantages, KL", ("geometric sequence mask", "geometric_mask"), "importance_sampling.ratio",
          "AReaL", mode="geometric_mask", clip_min=0.5, clip_max=2.0),
    _part("rewards, advantages, KL", ("geometric gate", "seq-mask-tis"), "importance_sampling.ratio",
          "OpenRLHF, ms-swift", mode="geometric_gate", clip_min=0.5, clip_max=2.0),
    _part("rewards, advantages, KL", ("Clip-Cov", "clip_cov"), "clip_cov.keep_mask", "arXiv 2505.22617",
          share=2e-4, cov_low=1.0, cov_high=5.0, **CLIP),
    _part("rewards, advantages, KL", ("off-policy sequence masking", "off_policy_mask_threshold"), "off_policy.keep_mask",
          "DeepSeek-V3.2, arXiv 2512.02556, eq. 9"),
    _part("rewards, advantages, KL", ("80/20 rule", "top_entropy_quantile"), "entropy_control.high_entropy_mask",
          "arXiv 2506.01939"),
    _part("rewards, advantages, KL", ("entropy bonus", "Skywork-OR1"), "entropy_control.bonus", "arXiv 2505.22312"),
    _part("rewards, advantages, KL", ("GRPO's shared terms",), "grpo_terms.loss", "TRL's GRPOTrainer"),
    _part("rewards, advantages, KL", ("TRL's GRPO loss", "GRPOTrainer"), "grpo_trainer.loss", "TRL's GRPOTrainer"),
    _part("rewards, advantages, KL", ("conventions", "who computes what"), "conventions.TABLE", "each row's own"),
    # ------------------------------------------------------------------------- distillation
    _teacher(("GKD", "generalised Jensen-Shannon divergence", "JSD", "GKDTrainer"), "gkd.loss", "arXiv 2306.13649, eq. 1",
             "trl_distillation.gkd", options={"beta": 0.5, "temperature": 2.0}),
    _teacher(("forward KL distillation", "knowledge distillation"), "gkd.loss", "arXiv 2306.13649",
             "trl_distillation.gkd", options={"beta": 0.0, "temperature": 2.0}),
    _teacher(("reverse KL distillation", "on-policy distillation"), "gkd.loss", "arXiv 2306.13649",
             "trl_distillation.gkd", options={"beta": 1.0}),
    *(
        _teacher((name, *more), "gkd_chunked.loss", "arXiv 2306.13649; arXiv 1805.02867",
                 "trl_distillation.distillation", options={"beta": beta, "vocab_chunk": 3},
                 wrt=("student_hidden", "student_weight"))
        for beta, name, *more in [(0.5, "chunked distillation", "DistillationTrainer"),
                                  (0.0, "chunked forward KL"), (1.0, "chunked reverse KL")]
    ),
    _teacher(("MiniLLM", "MiniLLMTrainer"), "minillm.loss", "arXiv 2306.08543, section 2.2", options=MINILLM,
             held="the advantages"),
    _teacher(("SDFT", "self-distillation fine-tuning", "SDFTTrainer"), "sdft.loss", "arXiv 2601.19897",
             "trl_distillation.sdft", options={"alpha": 0.5}),
    _teacher(("SDFT, top-k",), "sdft.loss", "arXiv 2601.19897", "trl_distillation.sdft",
             options={"alpha": 0.5, "topk": 3}),
    _teacher(("SDFT, top-k and tail",), "sdft.loss", "arXiv 2601.19897", "trl_distillation.sdft",
             options={"alpha": 0.5, "topk": 3, "add_tail": True}),
    _policy(("SDPO", "self-distillation policy optimisation", "SDPOTrainer"), "sdpo.loss", "arXiv 2601.20802",
            held="the log-ratio to the teacher", driver="trl_teacher.sdpo",
            arrays=TEACHER, distillation_weight=0.5, is_clip=2.0, **GRPO, **CLIP)._replace(family="distillation"),
    _teacher(("IW-OPD", "importance-weighted on-policy distillation", "IWOPDTrainer"), "iw_opd.loss",
             "arXiv 2606.22600, algorithm 1", "trl_teacher.iw_opd", options={"gamma": 0.5},
             arrays=TEACHER),
    _teacher(("sampled-token distillation", "OPD"), "iw_opd.loss", "arXiv 2606.22600", "trl_teacher.iw_opd",
             options={"gamma": 0.0}, arrays=TEACHER),
    _part("distillation", ("distillation as an advantage", "MOPD", "multi-teacher on-policy distillation"),
          "iw_opd.advantages", "arXiv 2601.02780"),
    *(
        _teacher((name, *more), "server_distillation.loss", "TRL's ServerDistillationTrainer",
                 "trl_teacher.server_distillation", options={"beta": beta, "add_tail": True}, arrays=arrays)
        for beta, arrays, name, *more in [
            (0.5, {}, "server distillation", "ServerDistillationTrainer", "sparse distillation"),
            (0.0, {}, "server forward KL", "top-k forward KL"),
            (1.0, _scored(ARRAYS["teacher_logits"], k=1), "server reverse KL")]
    ),
    _teacher(("async distillation", "AsyncDistillationTrainer"), "server_distillation.loss",
             "TRL's AsyncDistillationTrainer", "trl_async.distillation",
             options={"beta": 0.0, "add_tail": True, "temperature": 1.0}),
    _teacher(("ULD", "GOLD", "universal logit distance", "universal logit distillation", "GOLDTrainer"), "uld.loss", "arXiv 2402.12030", "trl_distillation.uld",
             arrays={"student_logits": ARRAYS["student_logits"][0], "teacher_logits": ARRAYS["logits"][0, :, :5]}),
    # ------------------------------------------------------------------------- tokens
    _part("tokens and sampling", ("log-softmax",), "logprobs.log_softmax", "log p = z - log sum exp z"),
    _part("tokens and sampling", ("token log-probabilities",), "logprobs.per_token_logps", "log p of each token"),
    _part("tokens and sampling", ("entropy",), "logprobs.entropy", "Shannon, 1948"),
    _part("tokens and sampling", ("temperature",), "logits_filters.temperature", "softmax temperature"),
    _part("tokens and sampling", ("top-k",), "logits_filters.top_k", "arXiv 1805.04833"),
    _part("tokens and sampling", ("top-p", "nucleus sampling"), "logits_filters.top_p", "arXiv 1904.09751, section 3.1"),
    _part("tokens and sampling", ("min-p",), "logits_filters.min_p", "arXiv 2407.01082, section 3"),
    _part("tokens and sampling", ("repetition penalty", "CTRL"), "logits_filters.repetition_penalty",
          "arXiv 1909.05858, section 4.1"),
    _part("tokens and sampling", ("order of the filters", "vLLM sampler"), "sampling_order.process_logits",
          "transformers' and vLLM's order"),
    # ------------------------------------------------------------------------- adapters
    _part("adapters and weights", ("LoRA", "low-rank adaptation"), "lora.forward", "arXiv 2106.09685, section 4.1"),
    _part("adapters and weights", ("rsLoRA", "use_rslora"), "lora.scaling", "arXiv 2312.03732"),
    _part("adapters and weights", ("PiSSA",), "lora_init.pissa", "arXiv 2404.02948, eqs. 2 to 4"),
    _part("adapters and weights", ("OLoRA",), "lora_init.olora", "arXiv 2406.01775, algorithm 1"),
    _part("adapters and weights", ("orthogonal initialisation",), "lora_init.orthogonal",
          "datta0.github.io/posts/rethink-lora-init"),
    _part("adapters and weights", ("DoRA", "use_dora"), "dora.forward", "arXiv 2402.09353, eq. 5"),
    _part("adapters and weights", ("QLoRA",), "qlora.forward", "arXiv 2305.14314, eqs. 5 and 6"),
    _part("adapters and weights", ("NF4", "4-bit NormalFloat"), "nf4.quantize", "arXiv 2305.14314, section 3"),
    _part("adapters and weights", ("double quantisation", "bnb_4bit_use_double_quant"), "double_quant.quantize",
          "arXiv 2305.14314, section 3"),
    # ------------------------------------------------------------------------- optimiser
    _part("optimiser", ("AdamW",), "optim.adamw_step", "arXiv 1711.05101, algorithm 2"),
    _part("optimiser", ("gradient clipping", "max_grad_norm"), "optim.clip_grad_norm", "arXiv 1211.5063, algorithm 1"),
    _part("optimiser", ("linear schedule", "warm-up"), "optim.linear_schedule", "transformers"),
    _part("optimiser", ("cosine schedule",), "optim.cosine_schedule", "arXiv 1608.03983, eq. 5"),
)  # fmt: skip


class Absent(NamedTuple):
    """A method that a library has and this package has not: its names, who has it, what it is, the paper if checked."""

    names: tuple
    libraries: str
    what: str
    paper: str = ""


NOT_HERE = (
    Absent(("FIPO",), "ms-swift", "PPO's clip, each token weighed by the discounted log-ratios after it", "arXiv 2603.19835"),
    Absent(("REAL",), "ms-swift", "a group's right and wrong answers against each other by their mean log-ratio", "arXiv 2602.05630"),
    Absent(("RLSD",), "ms-swift", "advantages scaled by the clipped ratio to a teacher", "arXiv 2604.03128"),
    Absent(("SDAR",), "ms-swift", "a gated log-ratio to a teacher beside the policy loss", "arXiv 2605.15155"),
    Absent(("CHORD",), "Trinity-RFT, ms-swift", "GRPO and SFT in one loss, SFT weighed by p (1 - p)", "arXiv 2508.11408"),
    Absent(("RAE", "role-conditioned advantage"), "prime-rl", "the reward less a running mean of its role's", "arXiv 2506.24119"),
    Absent(("TOPR",), "Trinity-RFT", "REINFORCE; ratios up to 1 where the advantage is negative", "arXiv 2503.14286"),
    Absent(("GPG",), "verl", "`advantages.dr_grpo` times rows over rewards that are not 0, then `reinforce`"),
    Absent(("rejection by divergence", "token_k1"), "verl, OpenRLHF, AReaL, SkyRL",
           "drop what lies outside a band of k1, k2, k3, the binary KL or total variation to the sampler"),
    Absent(("optimal token baseline",), "verl", "a baseline for each token, weighed by the gradients' squared norms"),
    Absent(("OPMD",), "Trinity-RFT", "the reward less a soft maximum of the group's"),
    Absent(("AsymRE",), "Trinity-RFT", "the reward less a baseline a little under the mean"),
    Absent(("REC", "REC one-side", "REC ring"), "Trinity-RFT", "REINFORCE within PPO's clip region, or a ring around it"),
    Absent(("simple policy optimisation", "Trinity's sPPO"), "Trinity-RFT", "the log-ratio instead of the ratio, within a band"),
    Absent(("Clip_B",), "Trinity-RFT", "drop negative tokens far below the batch in p (H + log p)"),
    Absent(("k3+", "absolute KL", "w k1"), "verl, open-instruct", "k3's value with k2's gradient; the size of k1; k1 times the ratio"),
    Absent(("shifted BCO-pair",), "ms-swift", "`dpo_pointwise.bco_pair` less a running mean of its rewards"),
    Absent(("Huber value loss",), "AReaL", "`ppo.value_loss` with Huber's loss for the square"),
    Absent(("value loss without the half",), "slime", "twice `ppo.value_loss`"),
    Absent(("positive-example NLL", "positive_nll_coef"), "cosmos-rl", "a policy loss plus `sft.nll` of the right answers, as VAPO"),
)  # fmt: skip


LESSONS = {
    "01_sft": ("SFT", "token log-probabilities"),
    "02_dpo": ("DPO", "MPO", "implicit reward"),
    "03_grpo": ("GRPO", "DAPO", "Dr. GRPO", "BNPO", "GRPO advantage", "k3", "TIS", "TRL's GRPO loss",
                "conventions"),
    "04_before_and_after": ("LoRA", "NF4"),
    "05_gallery": ("IPO", "CPO", "SimPO", "AlphaPO", "ORPO", "KTO", "APO-zero unpaired", "BCO",
                   "reward model", "PRM", "RLOO", "PPO", "PPO's value loss", "leave-one-out baseline",
                   "GAE", "KL in the reward", "online DPO", "XPO", "Nash-MD", "GKD",
                   "chunked reverse KL", "MiniLLM", "A*-PO", "TPO", "SDFT", "ULD"),
    "07_kl": ("k1", "k2"),
    "08_measuring": ("temperature", "entropy"),
    "15_small_numbers": ("double quantisation",),
}  # fmt: skip


# Looking up --------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """The answer of `find` about one method.  Print it."""

    names: tuple
    formula: str
    call: str  # the function to call, with all its arguments
    options: dict  # which of them make it this method
    paper: str
    proof: tuple  # test files
    torch: str  # its torch twin, or ""
    lesson: str  # the notebook that uses it, or ""
    nearest: str  # where it has none: the notebook on its module or its family, or ""

    def __str__(self):
        options = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        lines = {
            "names": ", ".join(self.names),
            "formula": f"reference_math.{self.formula}",
            "call": f"reference_math.{self.call}",
            "with": options,
            "paper": self.paper,
            "proof": ", ".join(self.proof),
            "torch": self.torch,
            "lesson": self.lesson or (self.nearest and f"none of its own; nearest: {self.nearest}"),
        }
        return "\n".join(f"{key:8s} {text}" for key, text in lines.items() if text)

    __repr__ = __str__  # what Jupyter shows below a cell


def find(name: str) -> Entry:
    """Tell which function computes a method: by any name that a paper or TRL gives it.

    Case, spaces, punctuation and -ise or -ize do not matter.  An unknown name is an error that says which
    known names are near.

    >>> entry = find("dr grpo")
    >>> entry.formula, entry.options["reduction"], entry.paper
    ('grpo.loss', 'dr_grpo', 'arXiv 2503.20783')
    """
    known = _names()
    absent = next((a for a in NOT_HERE if _key(name) in map(_key, a.names)), None)
    if absent and _key(name) not in known:
        source = ", ".join(filter(None, (absent.libraries, absent.paper)))
        raise ValueError(f"{absent.names[0]} is not here ({source}): {absent.what}")
    if _key(name) not in known:
        begun = [key for key in known if _key(name) and key.startswith(_key(name))]
        near = [*begun[:3], *get_close_matches(_key(name), known, n=3, cutoff=0.5)]
        shown = ", ".join(dict.fromkeys(repr(known[key].names[0]) for key in near))
        raise ValueError(f"no method is called {name!r}; near: {shown or 'see README.md'}")
    return describe(known[_key(name)])


def describe(objective: Objective) -> Entry:
    """Return the `Entry` of one objective; its proof and its twin stand in the header of its module."""
    name = objective.loss or objective.formula
    is_function = callable(function(name))
    header = headers(objective.formula.partition(".")[0])
    return Entry(
        names=objective.names,
        formula=objective.formula,
        call=objective.signature() if is_function else name,
        options=objective.options,
        paper=objective.paper,
        proof=header["Proof"],
        torch=header["Torch"],
        lesson=objective.lesson,
        nearest=objective.nearest,
    )


def headers(module: str) -> dict[str, Any]:
    """Read a module's header: {"Proof": (files), "Torch": a module, "Lesson": a file}.

    >>> headers("kl")["Torch"], headers("kl")["Lesson"]
    ('reference_math.torch.kl', 'notebooks/03_grpo.ipynb')
    """
    text = importlib.import_module(f"reference_math.{module}").__doc__ or ""
    proof = re.findall(r"tests/(?:laws|parity)/test_\w+\.py", text)
    twins = re.findall(r"^Torch\s+(reference_math\.torch\.\w+)", text, re.MULTILINE)
    lessons = re.findall(r"Lesson\s+(notebooks/\w+\.ipynb)", text)
    one = {"Torch": twins, "Lesson": lessons}
    return {"Proof": tuple(proof)} | {key: next(iter(x), "") for key, x in one.items()}


def _names():
    """{every name, without case and punctuation: its objective}; the first of the list wins."""
    known = {}
    for objective in OBJECTIVES:
        for name in objective.names:
            known.setdefault(_key(name), objective)
    for objective in OBJECTIVES:  # then the names of the functions and of the modules
        module, _, function_name = objective.formula.partition(".")
        for name in filter(None, (function_name, module, objective.loss.partition(".")[0])):
            known.setdefault(_key(name), objective)
    return known


def _key(name):
    american = re.sub(r"is(?=ation|ed(?![a-z]))", "iz", name.lower())
    return re.sub(r"[^a-z0-9+*]", "", american)

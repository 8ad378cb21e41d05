"""ms-swift 4.6.0: its GRPO loss with each option, its advantages and its DPO losses."""

NEEDS = ("ms-swift==4.6.0",)
DEPENDENCIES = False
STUBBED = (
    "swift",
    "trl",
    "accelerate",
    "transformers",
    "peft",
    "dacite",
    "vllm",
    "pandas",
    "datasets",
)
METHODS = ("_compute_loss_and_metrics", "_undo_gradient_accumulation_scaling", "_compute_fipo_influence",
           "_get_rollout_is_correction", "_apply_rollout_importance_sampling", "_compute_sequence_level_ratios",
           "_compute_off_policy_sequence_mask", "_compute_rollout_offpolicy_metrics",
           "_compute_is_correction_metrics")  # fmt: skip
OPTIONS = {"loss_type": "grpo", "importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.28,
           "beta": 0.0, "kl_in_reward": False, "compute_entropy": False, "overlong_filter": False, "tau_pos": 1.0,
           "tau_neg": 1.05, "max_completion_length": 50, "rollout_importance_sampling_mode": None,
           "rollout_importance_sampling_threshold": 1.5, "log_rollout_offpolicy_metrics": False,
           "disable_rollout_importance_sampling": False, "off_policy_sequence_mask_delta": None,
           "_has_teacher": False, "sdar_loss_coef": 0, "chord_sft_iterator": None, "num_generations": 4,
           "real_tau": 0.5, "fipo_gamma": 2 ** (-1 / 32.0), "fipo_clip_range": 0.2, "fipo_clip_high_only": True,
           "fipo_safety_threshold": 4.0, "top_entropy_quantile": 1.0, "model_accepts_loss_kwargs": False,
           "compute_loss_func": None, "current_gradient_accumulation_steps": 1}  # fmt: skip


def vectors():
    import numpy as np
    from rosetta_batch import Vectors
    from stand_ins import files, load_file

    folder = files("ms-swift") / "swift"
    trainers = folder / "rlhf_trainers"
    grpo = load_file(trainers / "grpo_trainer.py", "swift.rlhf_trainers.grpo_trainer", *STUBBED)
    dpo = load_file(trainers / "dpo_trainer.py", "swift.rlhf_trainers.dpo_trainer", *STUBBED)
    advantage = load_file(folder / "rl_core" / "advantage.py", "swift.rl_core.advantage", "swift")
    grpo.gather_object = lambda x: x
    out = Vectors()
    rng = np.random.default_rng(2)
    more = {"entropies": rng.uniform(0, 2, size=(8, 7)), "two": rng.normal(size=(8, 2)).round(2)}
    out.batch |= more
    out.arrays |= {f"batch/{name}": x for name, x in more.items()}
    policies(out, grpo.GRPOTrainer)
    advantages(out, advantage)
    preferences(out, dpo)
    return out.arrays


def policies(out, owner):
    from types import MethodType, SimpleNamespace

    import torch

    t, mask = out.tensor, out.tensor("m") == 1
    wide = t(out.batch["A"][:, None] + 0 * out.batch["m"])

    def run(
        case, old="o", sampler=None, advantages=wide, tokens=None, args=None, ref=None, **options
    ):
        arguments = {"delta": None, "log_entropy": False, "top_entropy_quantile": 1.0,
                     "gradient_accumulation_steps": 1} | (args or {})  # fmt: skip
        alone = SimpleNamespace(num_processes=1, gather_for_metrics=lambda x: x, gather=lambda x: x)
        trainer = SimpleNamespace(model=SimpleNamespace(training=True), args=SimpleNamespace(**arguments),
                                  accelerator=alone, **OPTIONS | options)  # fmt: skip
        for name in METHODS:
            setattr(trainer, name, MethodType(getattr(owner, name), trainer))
        given = SimpleNamespace(
            completion_mask=mask, truncated_mask=torch.zeros(8, dtype=torch.bool), ref_per_token_logps=t("r") if ref is None else ref,
            advantages=advantages, old_per_token_logps=t(old),
            rollout_per_token_logps=None if sampler is None else t(sampler),
            num_items_in_batch=torch.tensor(float(tokens or mask.sum())), teacher_per_token_logps=None)  # fmt: skip

        def loss(x):
            trainer._get_per_token_logps_and_entropies = lambda *a, **k: (x, t("entropies"))
            return trainer._compute_loss_and_metrics(None, {}, given)[0]

        out.run(case, loss)

    for name in ("grpo", "bnpo", "dr_grpo", "dapo"):
        run(name, loss_type=name)
        run(f"{name}, sequence level", loss_type=name, importance_sampling_level="sequence")
    run(
        "dapo, 80 tokens, 2 steps",
        loss_type="dapo",
        tokens=80,
        current_gradient_accumulation_steps=2,
    )
    run("delta", old="far", args={"delta": 2.0})
    run("cispo", old="far", loss_type="cispo", epsilon_high=5.0)
    run("sapo", loss_type="sapo")
    run("beta", beta=0.04)
    run("beta, beyond the clamp", beta=0.04, ref=t("l") + 29.0)
    run(
        "top_entropy_quantile",
        compute_entropy=True,
        top_entropy_quantile=0.3,
        args={"top_entropy_quantile": 0.3},
    )
    for mode in ("token_truncate", "token_mask"):
        run(f"sampler {mode}", sampler="q", rollout_importance_sampling_mode=mode)
    for mode in ("sequence_truncate", "sequence_mask"):
        run(f"sampler {mode}", sampler="q", rollout_importance_sampling_mode=mode,
            rollout_importance_sampling_threshold=1.05)  # fmt: skip
    run(
        "sampler token_truncate, beta",
        sampler="q",
        rollout_importance_sampling_mode="token_truncate",
        beta=0.04,
    )
    run("off_policy_sequence_mask_delta", off_policy_sequence_mask_delta=0.02, loss_type="bnpo")
    run("sequence_token", importance_sampling_level="sequence_token")
    run(
        "sequence_token, an advantage per token",
        importance_sampling_level="sequence_token",
        advantages=t("At"),
    )


def advantages(out, module):
    import torch

    t = out.tensor
    module.nanstd = lambda x, dim, keepdim: torch.std(x, dim=dim, keepdim=keepdim)
    weights, penalty = t([1.0, 2.0]), ((t("o") - t("r")) * t("m")).sum(1)

    def run(case, estimator="grpo", scale="group", *more):
        out.keep(case, module.compute_advantages(t("two"), weights, 4, estimator, scale, *more)[0])

    for scale in ("group", "batch", "none", "gdpo"):
        run(f"adv {scale}", scale=scale)
    run("adv rloo", "rloo", "none")
    run("adv rloo, group", "rloo")
    run("adv reinforce_plus_plus, batch", "reinforce_plus_plus", "batch")
    run("adv rloo, KL in the reward", "rloo", "none", True, 0.05, penalty)


def preferences(out, module):
    from types import SimpleNamespace

    t = out.tensor

    def run(case, loss_type, smoothing=0.0, divergence="reverse_kl", coefficient=0.5):
        running = SimpleNamespace(mean=0.0)
        running.update = lambda x: setattr(running, "mean", float(x))
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(device="cpu"), reference_free=False, f_divergence_type=divergence,
            f_divergence_params={module._ALPHA_DIVERGENCE_COEF_KEY: coefficient}, beta=0.3, running=running,
            label_smoothing=smoothing, args=SimpleNamespace(discopop_tau=0.05), loss_type=loss_type)  # fmt: skip
        chosen, rejected = t("pc", grad=True), t("pr", grad=True)
        losses = module.DPOTrainer.dpo_loss(trainer, chosen, rejected, t("rc"), t("rr"), loss_type)[
            0
        ]
        losses.sum().backward()
        out.keep(f"dpo {case}", losses, grad_c=chosen, grad_r=rejected)

    for name in ("sigmoid", "hinge", "ipo", "sppo_hard", "nca_pair", "apo_zero", "apo_down", "discopop",
                 "aot", "aot_unpaired", "bco_pair"):  # fmt: skip
        run(name, name)
    for name in ("sigmoid", "robust", "exo_pair"):
        run(f"{name}, label_smoothing 0.1", name, 0.1)
    run("exo_pair, label_smoothing 0", "exo_pair")
    run("js_divergence", "sigmoid", divergence="js_divergence")
    run("alpha_divergence 0.3", "sigmoid", divergence="alpha_divergence", coefficient=0.3)

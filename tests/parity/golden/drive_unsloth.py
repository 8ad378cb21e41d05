"""unsloth-zoo 2026.10.9: its GRPO loss, with each loss type, level, KL and correction."""

NEEDS = ("unsloth-zoo==2026.10.9",)
DEPENDENCIES = False
TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def vectors():
    import torch
    from rosetta_batch import Vectors
    from stand_ins import files, load_file

    path = files("unsloth-zoo") / "unsloth_zoo" / "rl_replacements.py"
    loss = load_file(
        path, "unsloth_zoo.rl_replacements", "unsloth_zoo", "trl", "triton"
    ).grpo_compute_loss
    out = Vectors()
    t, mask = out.tensor, out.tensor("m")
    ids = torch.zeros(8, 7, dtype=torch.long)

    def run(case, beta=0.0, sampler=None, ref="r", **options):
        settings = {"epsilon_low": 0.2, "epsilon_high": 0.28, "num_items_in_batch": float(mask.sum()),
                    "max_completion_length": 50, "loss_type": "dapo"} | options  # fmt: skip
        out.run(
            case, lambda x: loss(t(ref), x, t("o"), sampler, ids, mask, beta, t("A"), **settings)[0]
        )

    for name in TYPES:
        run(name, loss_type=name)
        run(f"{name}, sequence level", loss_type=name, importance_sampling_level="sequence")
    run("grpo, 4 accumulation steps", loss_type="grpo", current_gradient_accumulation_steps=4)
    run("dapo, 80 tokens, 2 steps per generation", num_items_in_batch=80.0, steps_per_generation=2,
        current_gradient_accumulation_steps=2)  # fmt: skip
    run("cispo", loss_type="cispo", epsilon_high=5.0)
    run("sapo", loss_type="sapo")
    run("delta", delta=2.0)
    for corrected in (False, True):
        run(f"beta, bias correction {corrected}", beta=0.04, use_bias_correction_kl=corrected)
    run("beta, beyond the clamp", beta=0.04, ref=out.batch["l"] + 29.0)
    vllm = {"use_vllm": True, "vllm_importance_sampling_correction": True, "sampler": t("q")}
    for mode in MODES:
        run(f"sampler {mode}", vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=0.7,
            vllm_importance_sampling_clip_max=1.5, **vllm)  # fmt: skip
    run("sampler geometric_truncate", vllm_importance_sampling_mode="geometric_truncate",
        vllm_importance_sampling_clip_max=1.05, **vllm)  # fmt: skip
    return out.arrays

"""SkyRL 0.4.0: policy losses over its scaled advantages, sampler corrections, advantages, critic, KL."""

NEEDS = ("skyrl==0.4.0", "jaxtyping==0.3.11", "wadler-lindig==0.1.8", "loguru==0.7.3", "omegaconf==2.3.0",
         "antlr4-python3-runtime==4.9.3")  # fmt: skip
DEPENDENCIES = False


def vectors():
    from rosetta_batch import Vectors
    from stand_ins import bare, files, stub_roots

    stub_roots("ray", "skyrl_gym")
    bare(files("skyrl"), "skyrl", "skyrl.backends", "skyrl.backends.skyrl_train",
         "skyrl.backends.skyrl_train.utils", "skyrl.train")  # fmt: skip
    from skyrl.backends.skyrl_train.utils import ppo_utils as utils
    from skyrl.train.config import AlgorithmConfig

    out = Vectors()
    policies(out, utils, AlgorithmConfig)
    advantages(out, utils)
    dynamic_sampling(out)
    return out.arrays


def policies(out, utils, config_class):
    t, mask = out.tensor, out.tensor("m")
    wide = t(out.batch["A"][:, None] + 0 * out.batch["m"])

    def run(
        case, loss, reduction="token_mean", old="o", max_seq_len=7, part="", changed=None, **options
    ):
        scaled = utils.apply_loss_reduction_to_advantages_minibatch(
            wide, mask, reduction, micro_batch_size=8, max_seq_len=max_seq_len,
            prompt_boundaries=[(0, 4), (4, 8)])  # fmt: skip
        config = config_class(**{"eps_clip_low": 0.2, "eps_clip_high": 0.28} | options)
        for name, value in (changed or {}).items():
            setattr(getattr(config, part), name, value)
        out.run(case, lambda x: loss(x, t(old), scaled, config, mask, t("q"))[0])

    for reduction in (
        "token_mean",
        "token_mean_legacy",
        "sequence_mean",
        "seq_mean_token_sum_norm",
        "prompt_mean",
    ):
        run(f"regular {reduction}", utils.ppo_policy_loss, reduction, max_seq_len=50)
    run("dual_clip", utils.ppo_policy_loss, old="far", policy_loss_type="dual_clip")
    run("sapo", utils.sapo_policy_loss, "sequence_mean", policy_loss_type="sapo")
    run("gspo", utils.gspo_policy_loss, "sequence_mean", policy_loss_type="gspo")
    run("cispo", utils.compute_policy_loss_cispo, old="far", policy_loss_type="cispo")
    run("cispo, anchored to the sampler", utils.compute_policy_loss_cispo, part="cispo",
        changed={"cispo_anchor": "rollout"}, policy_loss_type="cispo")  # fmt: skip
    run("rollout_is", utils.rollout_is_policy_loss, policy_loss_type="rollout_is")
    run("dppo", utils.dppo_policy_loss, part="dppo", changed={"delta_low": 0.02, "delta_high": 0.02},
        policy_loss_type="dppo")  # fmt: skip
    run(
        "importance_sampling",
        utils.importance_sampling_loss,
        policy_loss_type="importance_sampling",
    )
    run("cross_entropy", utils.cross_entropy_loss, policy_loss_type="cross_entropy")
    corrections = {
        "token weights": {"tis_ratio_type": "token", "token_tis_ratio_clip_high": 1.5},
        "sequence weights": {"tis_ratio_type": "sequence", "sequence_tis_ratio_clip_high": 1.5},
        "sequence mask": {"sequence_mask_metric": "product"},
        "sequence mask, geometric": {
            "sequence_mask_metric": "geometric",
            "geo_mask_low": 0.9,
            "geo_mask_high": 1.2,
        },
        "token mask": {"token_mask_is_threshold_low": 0.8, "token_mask_is_threshold_high": 1.5},
    }
    for case, changed in corrections.items():
        run(case, utils.ppo_policy_loss, part="off_policy_correction", changed=changed)


def dynamic_sampling(out):
    import numpy as np
    from stand_ins import files, load_file

    path = files("skyrl") / "skyrl" / "train" / "utils" / "trainer_utils.py"
    stubbed = "skyrl", "ray", "torchdata", "transformers"
    keep = load_file(path, "skyrl_trainer_utils", *stubbed).zero_variance_filter
    first = np.where(np.arange(8) < 4, 1.0, out.batch["R"])
    kept = np.zeros(8)
    kept[keep(list(first), [str(i // 4) for i in range(8)])] = 1.0
    out.keep("dynamic sampling", kept)
    alone = np.zeros(8)
    alone[keep(list(first), [str(i) for i in range(8)])] = 1.0
    out.keep("dynamic sampling, groups of one", alone)


def advantages(out, utils):
    from types import SimpleNamespace

    import numpy as np

    t, mask, index = out.tensor, out.tensor("m"), np.repeat([0, 1], 4)
    grpo = utils.compute_grpo_outcome_advantage
    out.keep("adv grpo", grpo(t("Rt"), mask, index)[0])
    out.keep("adv grpo, no std", grpo(t("Rt"), mask, index, grpo_norm_by_std=False)[0])
    out.keep("adv grpo, groups of one", grpo(t("Rt"), mask, np.arange(8))[0])
    out.keep("adv rloo", utils.compute_rloo_outcome_advantage(t("Rt"), mask, index)[0])
    out.keep("adv maxrl", utils.compute_maxrl_advantage(t("Rt").abs(), mask, index)[0])
    plus = utils.compute_reinforce_plus_plus_outcome_advantage
    out.keep("adv reinforce++", plus(t("Rt"), mask, gamma=0.9)[0])
    for case, values in {"gae": t("v") * mask, "gae, values in the padding": t("v")}.items():
        a, returns = utils.compute_gae_advantage_return(t("Rt"), values, mask, 0.97, 0.9)
        out.keep(case, a * mask)
        out.keep(f"{case}, returns", returns * mask)
    config = SimpleNamespace(value_clip=0.3)
    out.run(
        "critic", lambda x: utils.ppo_critic_loss(x, t("v_old"), t("ret"), config, mask)[0], of="v"
    )
    for name in ("k1", "k2", "k3"):
        out.keep(f"kl {name}", utils.compute_approx_kl(t("l"), t("r"), mask, name))
    out.run("kl k3, beyond the clamp",
            lambda x: utils.compute_approx_kl(x, x.detach() + 29.0, mask, "k3").sum())  # fmt: skip

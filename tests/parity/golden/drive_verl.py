"""verl 0.9.1: its advantages, aggregations, policy losses, KL penalties, value loss and sampler corrections."""

NEEDS = ("verl==0.9.1",)
DEPENDENCIES = False
MODES = (
    "token-mean",
    "token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
)


def core():
    """verl.trainer.ppo.core_algos, with a plain namespace in place of its configuration classes."""
    import sys
    from types import SimpleNamespace

    from stand_ins import bare, files, stub_prefixes, stub_roots

    bare(files("verl"), "verl", "verl.trainer", "verl.trainer.ppo", "verl.utils")
    stub_roots("omegaconf", "ray", "tensordict")
    stub_prefixes("verl.trainer.config", "verl.workers", "verl.utils.import_utils")
    from verl.utils import groupwise, torch_functional

    utils = sys.modules["verl.utils"]
    utils.as_torch_index, utils.group_mean_std = groupwise.as_torch_index, groupwise.group_mean_std
    utils.torch_functional = torch_functional
    from verl.trainer.ppo import core_algos

    class Config(SimpleNamespace):
        def get(self, key, default=None):
            return getattr(self, key, default)

        def __getitem__(self, key):
            return getattr(self, key)

        def __contains__(self, key):
            return hasattr(self, key)

    core_algos.AlgoConfig = type("AlgoConfig", (), {})
    core_algos.ActorConfig = Config
    return core_algos, Config


def vectors():
    import numpy as np
    from rosetta_batch import B, G, Vectors

    algos, config = core()
    out = Vectors()
    t = out.tensor
    m, index = t("m"), np.repeat(np.arange(B // G), G).astype(str).astype(object)
    advantages(out, algos, config, m, index)
    for mode in MODES:
        out.run(f"agg {mode}", lambda x, mode=mode: algos.agg_loss(x, m, mode), of="At")
    out.run("agg token-mean, 40 tokens on 2 ranks",
            lambda x: algos.agg_loss(x, m, "token-mean", batch_num_tokens=40, dp_size=2), of="At")  # fmt: skip
    empty = m.clone()
    empty[1] = 0
    out.run("agg seq-mean-token-mean, a row is empty",
            lambda x: algos.agg_loss(x, empty, "seq-mean-token-mean"), of="At")  # fmt: skip
    policies(out, algos, config, m)
    for name in ("kl", "abs", "mse", "low_var_kl", "k3+"):
        out.run(f"kl {name}", lambda x, name=name: algos.kl_penalty(x, t("r"), name).sum())
    out.run("kl low_var_kl, beyond the clamp",
            lambda x: algos.kl_penalty(x, x.detach() + 29.0, "low_var_kl").sum())  # fmt: skip
    out.run(
        "entropy",
        lambda x: algos.compute_entropy_loss(x, t([[1.0] * 6, [1.0] * 3 + [0.0] * 3])),
        of="z",
    )
    out.run("value loss",
            lambda x: algos.compute_value_loss(x, t("ret"), t("v_old"), m, 0.3)[0], of="v")  # fmt: skip
    correction(out, m)
    return out.arrays


def advantages(out, algos, config, m, index):
    t = out.tensor
    rewards = {"token_level_rewards": t("Rt"), "response_mask": m, "index": index}
    whole = {"adv grpo": (algos.compute_grpo_outcome_advantage, {}),
             "adv dr_grpo": (algos.compute_grpo_outcome_advantage, {"norm_adv_by_std_in_grpo": False}),
             "adv rloo": (algos.compute_rloo_outcome_advantage, {}),
             "adv reinforce++ baseline":
                 (algos.compute_reinforce_plus_plus_baseline_outcome_advantage, {}),
             "adv gpg": (algos.compute_gpg_outcome_advantage, {}),
             "adv opo": (algos.compute_opo_outcome_advantage, {}),
             "adv pass@k": (algos.compute_grpo_passk_outcome_advantage,
                            {"config": config(norm_adv_by_std_in_grpo=True)}),
             "adv pass@k, without std": (algos.compute_grpo_passk_outcome_advantage,
                                         {"config": config(norm_adv_by_std_in_grpo=False)})}  # fmt: skip
    for case, (compute, options) in whole.items():
        out.keep(case, compute(**rewards, **options)[0])
    vectorised = {"adv grpo, vectorised": algos.compute_grpo_vectorized_outcome_advantage,
                  "adv rloo, vectorised": algos.compute_rloo_vectorized_outcome_advantage}  # fmt: skip
    for case, compute in vectorised.items():
        out.keep(case, compute(**rewards)[0])
    two_rewards(out, algos, config, rewards)
    alone = rewards | {"index": __import__("numpy").arange(len(index)).astype(object)}
    out.keep("adv grpo, groups of one", algos.compute_grpo_outcome_advantage(**alone)[0])
    greedy = t([0.5, -0.25] * (len(index) // 2))
    out.keep("adv remax", algos.compute_remax_outcome_advantage(t("Rt"), greedy, m)[0])
    plus = algos.compute_reinforce_plus_plus_outcome_advantage
    out.keep("adv reinforce++", plus(t("Rt"), m, config=config(gamma=0.9))[0])
    a, returns = algos.compute_gae_advantage_return(t("Rt"), t("v"), m, 0.97, 0.9)
    out.keep("gae whitened", a * m)
    out.keep("gae returns", returns * m)


def two_rewards(out, algos, config, rewards):
    """GDPO: each reward is normalised in its group; then the weighted sum is whitened over tokens."""
    import numpy as np
    import torch

    t, m = out.tensor, out.tensor("m")
    keys = config(gdpo_reward_keys=["one", "other"], gdpo_reward_weights=[1.0, 2.0])
    scores = {"one": out.batch["R"], "other": np.abs(out.batch["A"])}
    prompts = torch.zeros(8, 1)
    given = {"prompts": prompts, "attention_mask": torch.cat([prompts + 1, m], dim=1).long()}
    out.keep("adv gdpo", algos.compute_gdpo_outcome_advantage(
        t("Rt"), m, rewards["index"], config=keys, non_tensor_batch=scores, batch=given)[0] * m)  # fmt: skip


def policies(out, algos, config, m):
    t = out.tensor
    wide = t(out.batch["A"][:, None] * out.batch["m"] ** 0)

    def run(case, name, mode="token-mean", old="o", weights=None, **options):
        settings = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0,
                    "tau_pos": 1.0, "tau_neg": 1.05, "loss_scale_factor": None, "global_batch_info": {},
                    "policy_loss": config(**options.pop("policy_loss", {}))} | options  # fmt: skip
        loss = algos.get_policy_loss_fn(name)
        more = {"config": config(**settings), "rollout_is_weights": weights}
        out.run(case, lambda x: loss(t(old), x, wide, m, mode, **more)[0])

    for mode in MODES:
        run(f"vanilla {mode}", "vanilla", mode)
    run("vanilla, far off-policy", "vanilla", old="far")
    weights = (t("o") - t("q")).exp().clamp(max=2.0)
    run("vanilla, token weights", "vanilla", weights=weights)
    run("gspo", "gspo", "seq-mean-token-mean", clip_ratio_low=3e-4, clip_ratio_high=4e-4)
    run("sapo", "sapo")
    run("cispo", "cispo")
    run("cispo, upper cap only", "cispo", clip_ratio_low=1.0, clip_ratio_high=0.5)
    run("geo_mean", "geo_mean", clip_ratio_low=0.4, clip_ratio_high=0.4)
    run("gpg", "gpg", "seq-mean-token-sum")
    weigh = {
        "loss_agg_mode": "token-mean",
        "config": config(global_batch_info={}),
        "rollout_is_weights": weights,
    }
    out.run(
        "reinforce", lambda x: algos.compute_policy_loss_reinforce(t("q"), x, wide, m, **weigh)[0]
    )
    run("dppo_tv", "dppo_tv", clip_ratio_low=0.02, clip_ratio_high=0.02)
    run("dppo_tv, far off-policy", "dppo_tv", old="far", clip_ratio_low=0.02, clip_ratio_high=0.05)
    run("dppo_kl", "dppo_kl", clip_ratio_low=0.01, clip_ratio_high=0.02)
    # as many may be drawn as there are, so no chance is left in it
    run(
        "clip_cov",
        "clip_cov",
        policy_loss={"clip_cov_ratio": 1.0, "clip_cov_lb": 0.3, "clip_cov_ub": 2.0},
    )
    run("kl_cov", "kl_cov", policy_loss={"kl_cov_ratio": 0.2, "ppo_kl_coef": 0.5})
    run("dro", "dro", policy_loss={"dro_beta": 0.7})


def correction(out, m):
    from verl.trainer.ppo import rollout_corr_helper as helper

    log_ratio = out.tensor("o") - out.tensor("q")
    for level, limits in [
        ("token", 1.5),
        ("sequence", 1.5),
        ("token", "0.8_1.5"),
        ("sequence", "0.8_1.5"),
    ]:
        weights, _ = helper.compute_rollout_correction_weights(log_ratio, m, level, limits)
        out.keep(f"rollout weights {level} {limits}", weights)
    kept, _ = helper.compute_rollout_rejection_mask(log_ratio, m, "token_k1", "0.8_1.5")
    out.keep("rollout mask token_k1 0.8_1.5", kept)

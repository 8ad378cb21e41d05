"""cosmos-rl 0.4.7: its GRPO loss, advantages and DPO loss."""

NEEDS = ("cosmos-rl==0.4.7",)
DEPENDENCIES = False


def vectors():
    from rosetta_batch import Vectors
    from stand_ins import files, load_file

    folder = files("cosmos-rl") / "cosmos_rl"
    trainers = folder / "policy" / "trainer" / "llm_trainer"
    trainer = load_file(trainers / "grpo_trainer.py", "cosmos_grpo", "cosmos_rl", "msgpack")
    algorithm = load_file(
        folder / "dispatcher" / "algo" / "grpo.py", "cosmos_algo", "cosmos_rl"
    ).GRPO
    dpo_loss = load_file(trainers / "dpo_trainer.py", "cosmos_dpo", "cosmos_rl").dpo_loss
    out = Vectors()
    policies(out, trainer.compute_loss)
    groups = out.batch["R"].reshape(-1, 4)
    for case, options in {"adv": {}, "adv, unbiased": {"unbiased": True}}.items():
        compute = algorithm(None, **options).compute_advantage
        out.keep(case, [compute(list(group)) for group in groups])
    references = {
        "reference_chosen_logps": out.tensor("rc"),
        "reference_rejected_logps": out.tensor("rr"),
    }
    for case, options in {"dpo": references, "dpo, no reference": {}}.items():
        chosen, rejected = out.tensor("pc", grad=True), out.tensor("pr", grad=True)
        value = dpo_loss(chosen, rejected, 0.3, **options)
        value.backward()
        out.keep(case, value, grad_c=chosen, grad_r=rejected)
    return out.arrays


def policies(out, loss):
    from types import SimpleNamespace

    import numpy as np
    import torch

    mask = out.tensor("m") == 1
    lengths = np.concatenate([[0], out.batch["m"].sum(1).cumsum()]).astype(int)
    wide = out.tensor(out.batch["A"][:, None] + 0 * out.batch["m"])
    default = {"variant": "grpo", "aipo_rho": None, "epsilon_low": 0.2, "epsilon_high": 0.28,
               "lower_bound_ratio": 3.0, "behav_imp_weight_cap": None, "off_policy_masking_delta": None,
               "kl_beta": 0.0, "unbiased_kl_estimate": False, "loss_type": "token-mean",
               "unbiased_loss_max_tokens": None, "balance_dp_token": False}  # fmt: skip

    def run(case, old="o", sampler=None, ref="r", **options):
        policy = SimpleNamespace(**default | options)
        config = SimpleNamespace(train=SimpleNamespace(train_policy=policy))
        flat = None if sampler is None else out.tensor(sampler)[mask]
        out.run(case, lambda x: loss(
            x[mask], out.tensor(old)[mask], out.tensor(ref)[mask], wide, torch.tensor(lengths), config, mask,
            rollout_per_token_logps=flat)[0])  # fmt: skip

    for kind in ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "token-sum"):
        run(f"grpo {kind}", loss_type=kind)
    run(
        "grpo seq-mean-token-mean, at most 50 tokens",
        loss_type="seq-mean-token-mean",
        unbiased_loss_max_tokens=50,
    )
    run("grpo, far off-policy", old="far")
    run("gspo", variant="gspo", loss_type="seq-mean-token-mean")
    run("grpo, epsilon_low below 0", epsilon_low=-1.0)
    run("aipo", old="far", aipo_rho=2.0)
    for unbiased in (False, True):
        run(f"kl_beta, unbiased {unbiased}", kl_beta=0.05, unbiased_kl_estimate=unbiased)
    run("kl_beta, beyond the clamp", kl_beta=0.05, ref=out.batch["l"] + 29.0)
    run("behav_imp_weight_cap", sampler="q", behav_imp_weight_cap=1.5)
    run("off_policy_masking_delta", off_policy_masking_delta=0.02)

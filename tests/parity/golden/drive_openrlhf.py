"""OpenRLHF 0.11.2: policy, value, reward, DPO and SFT losses, KL estimators, advantages."""

NEEDS = ("openrlhf==0.11.2",)
DEPENDENCIES = False
CLIP = {"clip_eps_low": 0.2, "clip_eps_high": 0.28}


def vectors():
    from rosetta_batch import Vectors
    from stand_ins import stub_roots

    stub_roots("deepspeed", "ray", "flash_attn", "pylatexenc", "torchdata", "vllm", "datasets", "peft",
               "aiohttp")  # fmt: skip
    out = Vectors()
    policies(out)
    others(out)
    advantages(out)
    return out.arrays


def policies(out):
    from openrlhf.models.loss import PolicyLoss

    t = out.tensor
    wide = t(out.batch["A"][:, None] + 0 * out.batch["m"])
    mask = t("m")

    def run(case, old="o", advantages=wide, call=None, mask=mask, **options):
        loss = PolicyLoss(**CLIP | options)
        more = {"rollout_log_probs": t("q")} | (call or {})
        out.run(case, lambda x: loss(x, t(old), advantages, mask, **more)[0])

    run("ppo")
    run("ppo, an advantage per token", advantages=t("At"))
    run("ppo, sample mean", token_level_loss=False)
    empty = mask.clone()
    empty[1] = 0
    run("ppo, sample mean, a row is empty", mask=empty, token_level_loss=False)
    run("ppo, 40 tokens on 2 ranks", call={"dp_size": 2, "batch_num_tokens": 40.0})
    run("dual clip", old="far", dual_clip=3.0)
    run("gspo", policy_loss_type="gspo")
    limits = {"is_correction_threshold": (0.8, 1.5)}
    for mode in ("clip", "mask"):
        run(
            f"sampler weights, token {mode}",
            is_correction_level="token",
            is_correction_mode=mode,
            **limits,
        )
    run("sampler weights, sequence mask", is_correction_level="seq", is_correction_mode="mask",
        is_correction_threshold=(0.9, 1.2))  # fmt: skip
    for gate, high in (("binary_kl", 0.02), ("tv", 0.05)):
        run(f"sampler weights, gate {gate}", is_correction_level="token", is_correction_mode="mask",
            is_correction_gating=gate, is_correction_threshold=(0.0, high))  # fmt: skip


def others(out):
    import torch
    from openrlhf.models.loss import DPOLoss, LogExpLoss, PairWiseLoss, SFTLoss, ValueLoss
    from openrlhf.models.utils import compute_approx_kl, compute_reward

    t, mask = out.tensor, out.tensor("m")
    for name in ("k1", "k2", "k3"):
        out.run(
            f"kl {name}", lambda x, name=name: compute_approx_kl(x, t("r"), kl_estimator=name).sum()
        )
    out.run("kl k3, unbiased gradient", lambda x: compute_approx_kl(
        x, t("r"), log_probs_old=t("o"), kl_estimator="k3", unbiased_gradient=True).sum())  # fmt: skip
    out.run("kl k1, beyond the clamp", lambda x: compute_approx_kl(
        x, x.detach() + 29.0, kl_estimator="k1").sum())  # fmt: skip
    out.run("kl k3, beyond the clamp", lambda x: compute_approx_kl(
        x, x.detach() + 29.0, kl_estimator="k3").sum())  # fmt: skip
    out.keep("reward with KL", compute_reward(t("R"), 0.05, (t("l") - t("r")) * mask, mask))
    out.run("value loss", lambda x: ValueLoss(0.3)(x, t("v_old"), t("ret"), mask), of="v")
    out.run("value loss, no clip", lambda x: ValueLoss(None)(x, t("v_old"), t("ret"), mask), of="v")
    pairs(out, "reward model", PairWiseLoss())
    pairs(out, "reward model, margin", lambda c, r: PairWiseLoss()(c, r, t("mc").abs()))
    pairs(out, "reward model, log-exp", LogExpLoss())
    out.keep("reward model, log-exp of a gap of -800", LogExpLoss()(t([-800.0]), t([0.0])))
    for smoothing in (0.0, 0.1):
        loss = DPOLoss(0.3, label_smoothing=smoothing)
        pairs(
            out,
            f"dpo, label_smoothing {smoothing}",
            lambda c, r, loss=loss: loss(c, r, t("rc"), t("rr"))[0],
        )
    pairs(out, "ipo", lambda c, r: DPOLoss(0.3, ipo=True)(c, r, t("rc"), t("rr"))[0])
    out.run("sft", lambda x: SFTLoss()(x, mask))
    out.run("sft, 77 tokens", lambda x: SFTLoss()(x, mask, dp_size=1, batch_num_tokens=77.0))
    out.run("sft, sample mean", lambda x: SFTLoss(False)(x, mask))
    out.keep("sft, nothing to learn", SFTLoss()(t("l"), torch.zeros_like(mask)))


def pairs(out, case, loss):
    chosen, rejected = out.tensor("pc", grad=True), out.tensor("pr", grad=True)
    value = loss(chosen, rejected)
    value.backward()
    out.keep(case, value, grad_c=chosen, grad_r=rejected)


def advantages(out):
    from types import SimpleNamespace

    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker as Maker

    t, mask = out.tensor, out.tensor("m")

    def run(case, estimator, n=4, kl_coef=0.0, gamma=1.0, lam=1.0, values=None, kl=None, **extra):
        algo = SimpleNamespace(advantage=SimpleNamespace(
            estimator=estimator, gamma=gamma, lambd=lam, no_std_norm=extra.get("no_std", False)))  # fmt: skip
        reward = SimpleNamespace(
            clip_range=None, overlong_buffer_len=None, stop_properly_penalty_coef=None
        )
        rollout = SimpleNamespace(n_samples_per_prompt=n)
        args = SimpleNamespace(algo=algo, rollout=rollout, reward=reward)
        maker = SimpleNamespace(strategy=SimpleNamespace(args=args), advantage_estimator=estimator,
                                kl_ctl=SimpleNamespace(value=kl_coef))  # fmt: skip
        maker.get_advantages_and_returns = lambda *a: Maker.get_advantages_and_returns(maker, *a)
        maker.get_cumulative_returns = lambda *a: Maker.get_cumulative_returns(maker, *a)
        made = SimpleNamespace(index=list(range(8)), rewards=t("R"), action_mask=mask, info={}, values=values,
                               kl=mask * 0 if kl is None else kl)  # fmt: skip
        Maker.compute_advantages_and_returns(maker, [made])
        out.keep(case, made.advantages * mask)
        return made

    for estimator in ("rloo", "group_norm", "dr_grpo", "reinforce_baseline"):
        run(f"adv {estimator}", estimator)
    run("adv reinforce", "reinforce", n=1, gamma=0.9)
    run("adv flash_reinforce", "flash_reinforce", n=1)
    made = run("adv gae", "gae", n=1, gamma=0.97, lam=0.9, kl_coef=0.05, values=t("v"),
               kl=(t("o") - t("r")) * mask)  # fmt: skip
    out.keep("gae returns", made.returns * mask)

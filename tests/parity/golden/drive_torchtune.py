"""torchtune 0.6.1: PPO, DPO, RSO, rewards, advantages, distillation and cross entropy."""

NEEDS = ("torchtune==0.6.1",)
DEPENDENCIES = False


def vectors():
    import sys

    import torch
    from rosetta_batch import Vectors
    from stand_ins import bare, files, stub_roots

    stub_roots("torchao")
    bare(files("torchtune"), "torchtune", "torchtune.rlhf", "torchtune.rlhf.loss", "torchtune.modules",
         "torchtune.modules.loss")  # fmt: skip
    from torchtune.rlhf import rewards

    sys.modules["torchtune.rlhf"].masked_mean = rewards.masked_mean
    from torchtune.modules.loss.ce_chunked_output_loss import CEWithChunkedOutputLoss
    from torchtune.modules.loss.kd_losses import ForwardKLLoss, ReverseKLLoss
    from torchtune.rlhf.loss.dpo import DPOLoss, RSOLoss
    from torchtune.rlhf.loss.ppo import PPOLoss

    out = Vectors()
    t = out.tensor
    ppo(out, PPOLoss, rewards)
    for smoothing in (0.0, 0.1):
        pair(out, f"dpo, label_smoothing {smoothing}", DPOLoss(0.3, smoothing))
    pair(out, "rso", RSOLoss(0.3))
    labels = torch.tensor(out.batch["ids"]).masked_fill(
        torch.arange(6) >= torch.tensor([[4], [6]]), -100
    )
    for case, loss in {"forward kl": ForwardKLLoss(), "reverse kl": ReverseKLLoss()}.items():
        out.run(case, lambda x, loss=loss: loss(x, t("zr"), labels), of="z")
    value = CEWithChunkedOutputLoss(num_output_chunks=1)([t("z", dtype=torch.float32)], labels)
    out.keep("cross entropy", value)
    return out.arrays


def pair(out, case, loss):
    chosen, rejected = out.tensor("pc", grad=True), out.tensor("pr", grad=True)
    value = loss(chosen, rejected, out.tensor("rc"), out.tensor("rr"))[0].mean()
    value.backward()
    out.keep(case, value, grad_c=chosen, grad_r=rejected)


def ppo(out, loss, rewards):
    import torch

    t, mask = out.tensor, out.tensor("m") == 1
    lengths = mask.sum(1)
    states = torch.arange(7) < (lengths + 1)[:, None]  # a value for the end as well
    states = torch.where((lengths == 7)[:, None], mask, states)
    x, y = t("l", grad=True), t("v", grad=True)
    settings = {"padding_masks": mask, "value_padding_masks": states}
    built = loss(epsilon=0.2, value_clip_range=0.3, value_coeff=0.1)
    total, policy, value, *_ = built(t("o"), x, t("At"), t("v_old"), y, t("ret"), **settings)
    total.backward()
    out.keep("ppo policy", policy, grad=x)
    out.keep("ppo value", value, grad=y)
    for case, at in {"last token": lengths - 1, "next state": lengths.clamp(max=6)}.items():
        given = t("R"), t("l") * mask, t("r") * mask, 0.05, at
        out.keep(f"rewards at the {case}", rewards.get_rewards_ppo(*given)[0])
    out.keep("whiten", rewards.whiten(t("v"), mask) * mask)
    out.keep("whiten, shift_mean=False", rewards.whiten(t("v"), mask, shift_mean=False) * mask)
    a, returns = rewards.estimate_advantages(t("v") * mask, t("Rt"), 0.97, 0.9, masks=mask)
    out.keep("gae", a * mask)
    out.keep("gae returns", returns * mask)

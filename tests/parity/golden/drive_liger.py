"""Liger-Kernel 0.8.5: the losses of its fused layers, before they are fused, and one fused layer whole."""

NEEDS = ("liger-kernel==0.8.5",)
DEPENDENCIES = False
DPO = (
    "sigmoid",
    "hinge",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
)


def vectors():
    from rosetta_batch import Vectors
    from stand_ins import bare, files, stub_roots

    stub_roots("triton")
    bare(files("liger-kernel"), "liger_kernel", "liger_kernel.chunked_loss")
    out = Vectors()
    policies(out)
    preferences(out)
    whole_layer(out)
    return out.arrays


def policies(out):
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

    t, loss = out.tensor, LigerFusedLinearGRPOFunction.ppo_loss_fn
    mask = t("m")

    def run(case, **options):
        settings = {"epsilon_low": 0.2, "epsilon_high": 0.28, "beta": 0.0, "max_completion_length": 50, "loss_type": "dapo"} | options  # fmt: skip
        out.run(case, lambda x: loss(
            x, mask, t("A"), mask, ref_per_token_logps=t("r"), old_per_token_logps=t("o"), **settings)[0])  # fmt: skip

    for name in ("grpo", "bnpo", "dr_grpo", "dapo"):
        run(name, loss_type=name)
    run("grpo, sequence level", loss_type="grpo", importance_sampling_level="sequence")
    run("cispo", loss_type="cispo", epsilon_high=5.0)
    run("sapo", loss_type="sapo")
    run("vespo", loss_type="vespo")
    run("delta", delta=2.0)
    run("beta", beta=0.04)
    run("beta, bias correction", beta=0.04, use_bias_correction_kl=True)
    run("sampler weights", vllm_is_ratio=(t("o") - t("q")).exp().clamp(max=2.0))
    run("luspo, sequence level", loss_type="luspo", importance_sampling_level="sequence")
    run("luspo, token level", loss_type="luspo")


def preferences(out):
    import torch
    from liger_kernel.chunked_loss.cpo_loss import LigerFusedLinearCPOFunction
    from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction
    from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOFunction
    from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOFunction
    from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction

    t = out.tensor
    target = torch.zeros(12, 3)

    def run(case, owner, *references, of=("pc", "pr"), **options):
        chosen, rejected = (t(letter, grad=True) for letter in of)
        value = owner.preference_loss_fn(chosen, rejected, target, *references, **options)[0]
        value.backward()
        out.keep(case, value, grad_c=chosen, grad_r=rejected)

    for name in DPO:
        smoothing = {"label_smoothing": 0.1} if name in ("sigmoid", "robust", "exo_pair") else {}
        run(
            f"dpo {name}",
            LigerFusedLinearDPOFunction,
            t("rc"),
            t("rr"),
            beta=0.3,
            loss_type=name,
            **smoothing,
        )
    run("orpo", LigerFusedLinearORPOFunction, of=("mc", "mr"), beta=0.1)
    run("simpo", LigerFusedLinearSimPOFunction, of=("mc", "mr"), beta=2.0, gamma=1.0)
    run("cpo", LigerFusedLinearCPOFunction, beta=0.1, label_smoothing=0.1)
    labels = torch.tensor([True, False, True, True, False, False])
    kto = LigerFusedLinearKTOFunction.preference_loss_fn
    out.run(
        "kto", lambda x: kto(x, labels, torch.zeros(6, 3), t("rc"), beta=0.1, kl=t(2.0))[0], of="pc"
    )


def whole_layer(out):
    """Hidden states and a head in float32, through the chunks and back: dapo."""
    import numpy as np
    import torch
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOLoss

    rng = np.random.default_rng(1)
    arrays = {"h": rng.normal(size=(8, 7, 6)), "head": rng.normal(size=(13, 6)), "drawn": rng.integers(0, 13, (8, 7)),
              "shift": 0.3 * rng.normal(size=(8, 7))}  # fmt: skip
    out.batch |= arrays
    out.arrays |= {f"batch/{name}": x for name, x in arrays.items()}
    h, head = (out.tensor(name, grad=True, dtype=torch.float32) for name in ("h", "head"))
    ids = torch.tensor(arrays["drawn"])
    logits = torch.tensor(arrays["h"] @ arrays["head"].T) / 0.9
    now = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    loss = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False, loss_type="dapo",
                                    temperature=0.9, epsilon_low=0.2, epsilon_high=0.28)  # fmt: skip
    f32 = torch.float32
    value, _ = loss(h, head, ids, out.tensor("m"), out.tensor("A", dtype=f32),
                    old_per_token_logps=(now + out.tensor("shift")).to(f32))  # fmt: skip
    value.backward()
    out.keep("fused dapo", value, grad_h=h, grad_head=head)

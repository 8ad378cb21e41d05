"""AReaL 1.0.4: its policy, SAPO, critic and DPO losses, M2PO's mask, KL estimators and normalisations."""

NEEDS = ("areal==1.0.4",)
DEPENDENCIES = False


def vectors():
    import torch
    from rosetta_batch import Vectors
    from stand_ins import files, load_file

    folder = files("areal") / "areal" / "utils"
    data = load_file(folder / "data.py", "areal_data", "areal", "torchdata", "einops")
    functional = load_file(folder / "functional" / "functional.py", "areal_functional", "areal")
    functional.KLEstimator = data.KLEstimator
    out = Vectors()
    policies(out, functional)
    t, mask, f32 = out.tensor, out.tensor("m") == 1, torch.float32
    x = t("v", grad=True, dtype=f32)
    value = functional.ppo_critic_loss_fn(x, t("v_old", dtype=f32), t("ret", dtype=f32), 0.3, mask)[
        0
    ]
    value.backward()
    out.keep("critic", value, grad=x)
    for name in ("k1", "k2", "k3"):
        out.keep(f"kl {name}", data.KLEstimator(name)(t("l"), t("r")))
    out.keep("kl k3, beyond the clamp", data.KLEstimator("k3")(t("l"), t("l") + 29.0))
    for loss_type in ("sigmoid", "ipo"):
        out.keep(f"dpo {loss_type}", functional.dpo_preference_loss(
            t("pc") - t("rc") - t("pr") + t("rr"), beta=0.3, loss_type=loss_type))  # fmt: skip
    actor = load_file(folder.parent / "trainer" / "ppo" / "actor.py", "areal_actor", "areal")
    for threshold in (0.04, 0.01):
        kept = actor._apply_m2po_masking(t("q"), t("o"), mask, threshold)
        out.keep(f"m2po mask, {threshold}", kept)
    normalisations(out, data.Normalization)
    return out.arrays


def policies(out, functional):
    from types import SimpleNamespace

    t, mask = out.tensor, out.tensor("m") == 1
    wide = t(out.batch["A"][:, None] + 0 * out.batch["m"])

    def run(case, old="o", **options):
        if "rejection" in options:
            default = {"level": "token", "action": "mask", "metric": "ratio", "agg": "mean", "upper": 1.5,
                       "lower": None}  # fmt: skip
            options["rejection_sampling"] = SimpleNamespace(**default | options.pop("rejection"))
        out.run(case, lambda x: functional.ppo_actor_loss_fn(
            x, t(old), t("q"), wide, 0.2, mask, eps_clip_higher=0.28, **options)[0])  # fmt: skip

    run("token")
    run("dual clip", old="far", c_clip=3.0)
    run("sequence", importance_sampling_level="sequence")
    run("rejection, token mask", rejection={})
    run("rejection, token clamp", rejection={"action": "clamp", "lower": 0.8})
    run("rejection, sequence mask", rejection={"level": "sequence", "upper": 1.1})
    run("rejection, token kl_k3", rejection={"metric": "kl_k3", "upper": 0.05})
    out.run("sapo", lambda x: functional.sapo_loss_fn(x, t("o"), wide, 1.0, 1.05, mask)[0])


def normalisations(out, normalisation):
    from types import SimpleNamespace

    t = out.tensor
    default = {"mean_level": "batch", "mean_leave1out": False, "std_level": "batch", "std_unbiased": True,
               "eps": 1e-5, "group_size": 1}  # fmt: skip
    grouped = {"mean_level": "group", "group_size": 4}

    def run(case, *arrays, **options):
        out.keep(case, normalisation(SimpleNamespace(**default | options))(*arrays))

    run("rewards, group mean and std", t("R"), std_level="group", **grouped)
    run("rewards, group mean, batch std", t("R"), **grouped)
    run("rewards, leave one out", t("R"), std_level=None, mean_leave1out=True, **grouped)
    run(
        "rewards, leave one out, group std",
        t("R"),
        std_level="group",
        mean_leave1out=True,
        **grouped,
    )
    run("advantages, batch", t("At"), t("m"))

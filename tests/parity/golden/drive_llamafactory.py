"""LLaMA-Factory 0.9.5: ORPO, SimPO, LD-DPO's log-probs, DFT, EAFT and ASFT."""

NEEDS = ("llamafactory==0.9.5",)
DEPENDENCIES = False


def vectors():
    from types import SimpleNamespace

    import torch
    from rosetta_batch import Vectors
    from stand_ins import files, load_file

    folder = files("llamafactory") / "llamafactory" / "train"
    utils = load_file(folder / "trainer_utils.py", "llamafactory.train.trainer_utils",
                      "llamafactory", "peft", "datasets", "trl")  # fmt: skip
    utils.IGNORE_INDEX = -100
    dpo = load_file(
        folder / "dpo" / "trainer.py", "llamafactory.train.dpo.trainer", "llamafactory", "trl"
    )
    owner = next(
        c for c in vars(dpo).values() if isinstance(c, type) and hasattr(c, "odds_ratio_loss")
    )
    out = Vectors()
    t, f32 = out.tensor, torch.float32
    for case, loss, options in [
        ("orpo", owner.odds_ratio_loss, {"beta": 0.1}),
        ("simpo", owner.simpo_loss, {"beta": 2.0, "simpo_gamma": 1.0}),
    ]:
        chosen, rejected = t("mc", grad=True), t("mr", grad=True)
        value = loss(SimpleNamespace(**options), chosen, rejected).mean()
        value.backward()
        out.keep(case, value, grad_c=chosen, grad_r=rejected)
    labels = torch.tensor(out.batch["ids"]).masked_fill(
        torch.arange(6) < torch.tensor([[3], [1]]), -100
    )
    tokens = torch.tensor(11.0)

    def supervised(case, loss):
        x = t("z", grad=True, dtype=f32)
        value = loss(x)
        value.backward()
        out.keep(case, value, grad=x)

    supervised("dft", lambda x: utils.dft_loss_func({"logits": x}, labels, tokens))
    supervised("eaft", lambda x: utils.eaft_loss_func({"logits": x}, labels, tokens))
    supervised(
        "asft", lambda x: utils.asft_loss_func({"logits": x}, labels, t("zr", dtype=f32), 0.1)
    )
    both, answers = torch.cat([t("z"), t("zr")]), torch.cat([labels, labels.roll(1, 0)])
    kept = utils.get_batch_logps(both, answers, label_pad_token_id=-100, ld_alpha=0.5)
    out.keep("ld_alpha", kept[0])
    return out.arrays

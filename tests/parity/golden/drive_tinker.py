"""tinker-cookbook 0.6.1: its advantages and DPO loss. The policy losses run on a server and are not in the wheel."""

NEEDS = ("tinker-cookbook==0.6.1",)
DEPENDENCIES = False
STUBBED = ("tinker", "tinker_cookbook", "chz")


def vectors():
    from types import SimpleNamespace

    from rosetta_batch import Vectors
    from stand_ins import files, load_file

    folder = files("tinker-cookbook") / "tinker_cookbook"
    data = load_file(folder / "rl" / "data_processing.py", "tinker_data", *STUBBED)
    dpo = load_file(folder / "preference" / "train_dpo.py", "tinker_dpo", *STUBBED)
    out = Vectors()
    groups = [
        SimpleNamespace(get_total_rewards=lambda g=g: list(g))
        for g in out.batch["R"].reshape(-1, 4)
    ]
    import torch

    out.keep("adv", torch.stack(data.compute_advantages(groups)))
    chosen, rejected = out.tensor("pc", grad=True), out.tensor("pr", grad=True)
    value = dpo.compute_dpo_loss(
        list(chosen), list(rejected), list(out.tensor("rc")), list(out.tensor("rr")), 0.3
    )[0]
    value.backward()
    out.keep("dpo", value, grad_c=chosen, grad_r=rejected)
    return out.arrays

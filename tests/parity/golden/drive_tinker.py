"""tinker-cookbook 0.6.1: its advantages, those of a teacher, and DPO loss. The policy losses run on a server and are not in the wheel."""

NEEDS = ("tinker-cookbook==0.6.1",)
DEPENDENCIES = False
STUBBED = ("tinker", "tinker_cookbook", "chz")


def from_teacher(out, incorporate):
    """The advantages of each answer, which were 0 before, once the teacher's r has scored it."""
    import asyncio
    from types import SimpleNamespace

    import torch

    held = lambda x: SimpleNamespace(to_torch=lambda: x)
    data, teachers = [], []
    for logps, of_teacher, mask in zip(out.tensor("o"), out.tensor("r"), out.tensor("m")):
        inputs = {"logprobs": held(logps), "mask": held(mask), "advantages": held(0 * logps)}
        inputs["target_tokens"] = SimpleNamespace(data=[0])
        data.append(SimpleNamespace(model_input=SimpleNamespace(append_int=lambda token: None),
                                    loss_fn_inputs=inputs))  # fmt: skip

        async def scored(found=of_teacher):
            return [None, *found.tolist()]

        client = SimpleNamespace(compute_logprobs=lambda _, s=scored: SimpleNamespace(coroutine=s))
        teachers.append(client)
    asyncio.run(incorporate(data, teachers, [0] * len(data), 1.0, 0.0))
    return torch.stack([datum.loss_fn_inputs["advantages"].to_torch() for datum in data])


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
    distilled = load_file(folder / "distillation" / "train_on_policy.py", "tinker_distil", *STUBBED)
    distilled.safezip = lambda *lists: zip(*lists, strict=True)
    distilled.tinker = SimpleNamespace(
        TensorData=SimpleNamespace(from_torch=lambda x: SimpleNamespace(to_torch=lambda: x))
    )
    out.keep("distillation", from_teacher(out, distilled.incorporate_kl_penalty))
    chosen, rejected = out.tensor("pc", grad=True), out.tensor("pr", grad=True)
    value = dpo.compute_dpo_loss(
        list(chosen), list(rejected), list(out.tensor("rc")), list(out.tensor("rr")), 0.3
    )[0]
    value.backward()
    out.keep("dpo", value, grad_c=chosen, grad_r=rejected)
    return out.arrays

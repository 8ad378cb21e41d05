"""Keep one real batch of a GRPO trainer, to compute it again by other means."""

import torch

INPUTS = ("completion_ids", "completion_mask", "advantages", "sampling_per_token_logps", "rows")


def grpo_batch(trainer, step):
    """A dict that the run fills when it comes to `step` (0 is the first) with the batch of its loss.

    rewards         (N,)  summed over the reward functions, in prompt-major groups: the whole
                    generation, N completions
    rows            (B,)  which of them this batch holds: TRL shuffles and splits a generation
    completion_ids, completion_mask    (B, T)
    logits          (B, T, V)  of the policy before the step; [b, t] predict completion_ids[b, t]
    advantages      (B,)  as TRL computed them
    sampling_per_token_logps           (B, T)  by vLLM, where it wrote the completions
    loss            float, what TRL returned
    """
    kept, latest = {}, {}
    generate, compute = trainer._generate_and_score_completions, trainer._compute_loss

    def tagged(inputs):
        output = generate(inputs)
        per_func = torch.tensor(
            [list(each) for each in trainer._logs["rewards"].values()]
        )  # (K, N)
        latest["rewards"] = (trainer.reward_weights.cpu() @ per_func).double()
        return output | {"rows": torch.arange(len(output["advantages"]))}  # shuffled with the rest

    def tapped(model, inputs):
        loss = compute(model, inputs)
        if trainer.state.global_step == step and not kept:
            tensors = {name: inputs[name] for name in INPUTS if name in inputs} | latest
            tensors["logits"] = _logits(model, inputs)
            kept.update({name: _array(values) for name, values in tensors.items()})
            kept["loss"] = loss.item()
        return loss

    trainer._generate_and_score_completions, trainer._compute_loss = tagged, tapped
    return kept


@torch.no_grad()
def _logits(model, inputs):
    ids, mask = (
        torch.cat([inputs[f"prompt_{name}"], inputs[f"completion_{name}"]], dim=1)
        for name in ("ids", "mask")
    )
    length = inputs["completion_ids"].shape[1]
    return model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1]


def _array(values):
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()

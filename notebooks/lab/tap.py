"""Keep what a trainer really computed with, to compute it again by other means.

kept = tap.grpo_batch(trainer, step=0)             one batch of GRPO: rewards, advantages, log-probs, loss
layer = tap.lora_layer(trainer, module, step=0)    what a LoRA layer read and wrote, and every gradient of it
"""

import numpy as np
import torch

from lab import vllm
from reference_math import logprobs

INPUTS = (
    "rows",
    "completion_mask",
    "advantages",
    "old_per_token_logps",
    "sampling_per_token_logps",
)


def grpo_batch(trainer, step):
    """Return a dict; training fills it with the batch of optimizer step `step` (0 is the first).

    Of the whole generation, N completions in prompt-major groups:
    rewards             (N,)  summed over the reward functions, with their weights
    generation_mask     (N, T)  1 = counts

    Of the batch, B completions; the names are those of `reference_math.grpo_trainer.loss`:
    rows                (B,)  which completions of the generation: TRL shuffles and splits it
    completion_mask     (B, T)
    per_token_logps     (B, T)  `reference_math.logprobs` of the model's logits before this step
    old_per_token_logps         (B, T)  TRL's when it sampled; absent where the policy has not moved
    sampling_per_token_logps    (B, T)  vLLM's when it sampled, where vLLM did
    tokens_per_micro_batch      float, the N of DAPO
    advantages          (B,)  as TRL computed them
    loss                float, as TRL computed it
    """
    kept, latest = {}, {}
    generate, compute = trainer._generate_and_score_completions, trainer._compute_loss

    def tagged(inputs):
        output = generate(inputs)
        per_func = torch.tensor(
            [list(each) for each in trainer._logs["rewards"].values()]
        )  # (K, N)
        latest["rewards"] = _array(trainer.reward_weights.cpu() @ per_func)
        latest["generation_mask"] = _array(output["completion_mask"])
        return output | {"rows": torch.arange(len(output["advantages"]))}  # shuffled with the rest

    def tapped(model, inputs):
        loss = compute(model, inputs)
        if trainer.state.global_step == step and not kept:
            kept.update(latest)
            kept.update({name: _array(inputs[name]) for name in INPUTS if name in inputs})
            kept["per_token_logps"] = per_token_logps(model, inputs, trainer.temperature)
            parts = trainer.accelerator.num_processes * trainer.args.steps_per_generation
            kept["tokens_per_micro_batch"] = inputs["num_items_in_batch"].item() / parts
            kept["loss"] = loss.item()
        return loss

    trainer._generate_and_score_completions, trainer._compute_loss = tagged, tapped
    return kept


def lora_layer(trainer, layer, step):
    """Return a dict; training fills it with the first pass of optimizer step `step` through a LoRA layer.

    layer     one layer of a PEFT model with one adapter, over plain or 4-bit weights

    The names are those of `reference_math.lora.forward_grad`:
    x, grad_x         (..., in)   what the layer read, and the loss's gradient to it
    grad_y            (..., out)  the loss's gradient to what it wrote
    weight            (out, in)   frozen, dequantised
    lora_A, grad_A    (r, in);    lora_B, grad_B    (out, r);    scaling    float
    """
    (name,) = layer.active_adapters
    factors = {"A": layer.lora_A[name].weight, "B": layer.lora_B[name].weight}
    kept = {"weight": _array(vllm.dequantise(layer.base_layer.weight))}
    kept["scaling"] = layer.scaling[name]

    def keep(**values):
        if trainer.state.global_step == step:
            kept.update((key, _array(value)) for key, value in values.items() if key not in kept)

    def read(module, args, y):
        if torch.is_grad_enabled():  # else it samples or scores
            keep(x=args[0])

    layer.register_forward_hook(read)
    layer.register_full_backward_hook(lambda m, to_x, to_y: keep(grad_x=to_x[0], grad_y=to_y[0]))
    for part, weight in factors.items():

        def learn(weight, part=part):
            keep(**{f"lora_{part}": weight, f"grad_{part}": weight.grad})

        weight.register_post_accumulate_grad_hook(learn)
    return kept


@torch.no_grad()
def per_token_logps(model, inputs, temperature, rows=4):
    """Return (B, T) log-probs of a GRPO batch's completions, in numpy from the model's logits.

    A few rows at a time: all logits of a large vocabulary are many.
    """
    completion = inputs["completion_ids"]
    ids = torch.cat([inputs["prompt_ids"], completion], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    found = []
    for few in torch.arange(len(ids)).split(rows):
        logits = model(input_ids=ids[few], attention_mask=mask[few]).logits
        logits = _array(logits[:, -completion.shape[1] - 1 : -1])  # a position predicts the next
        tokens = _array(completion[few])
        found.append(logprobs.per_token_logps(logits, tokens, temperature=temperature))
    return np.concatenate(found)


def _array(values):
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()

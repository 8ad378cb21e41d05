"""Two ranks over one vLLM server, for tests/lab/test_server_sync.py: accelerate launch two_ranks.py RECIPE."""

import json
import sys

import torch
from lab import recipes, train, vllm


def digits(completions, **_):
    """A reward that differs within a group: the share of digits."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in texts]


def main():
    recipe = recipes.load("grpo", sys.argv[1])
    recipe["args"] |= {"max_steps": 2}
    trainer = train.trainer(recipe, reward_funcs=digits)
    trainer.train()
    trained = [param for param in trainer.model.parameters() if param.requires_grad]
    weights = torch.stack([param.detach().double().abs().sum() for param in trained]).sum()
    weights = trainer.accelerator.gather(weights[None]).tolist()
    if trainer.accelerator.is_main_process:
        gaps = [
            e["sampling/gap_mean"] for e in trainer.state.log_history if "sampling/gap_mean" in e
        ]
        found = {"ranks": trainer.accelerator.num_processes, "weights": weights, "gaps": gaps}
        print(json.dumps(found), flush=True)
    vllm.release(trainer)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

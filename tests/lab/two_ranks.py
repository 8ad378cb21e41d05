"""Two ranks over one vLLM server, for tests/lab/test_server_sync.py: accelerate launch two_ranks.py RECIPE."""

import json
import sys

import gloo
import torch
from lab import recipes, sharded, train, vllm


def digits(completions, **_):
    """A reward that differs within a group: the share of digits."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in texts]


def main():
    gloo.shard()
    recipe = recipes.load("grpo", sys.argv[1])
    recipe["args"] |= {"max_steps": 2}
    trainer = train.trainer(recipe, reward_funcs=digits)
    trainer.train()
    trained = sharded.whole(trainer.model).values()
    weights = torch.stack([weight.double().abs().sum() for weight in trained]).sum()
    weights = trainer.accelerator.gather(weights[None]).tolist()
    if trainer.accelerator.is_main_process:
        gaps = [
            e["sampling/gap_mean"] for e in trainer.state.log_history if "sampling/gap_mean" in e
        ]
        found = {"ranks": trainer.accelerator.num_processes, "weights": weights, "gaps": gaps}
        found["sharded"] = sharded.is_sharded(trainer.model)
        print(json.dumps(found), flush=True)
    vllm.release(trainer)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""Stages in several processes, for tests/lab/test_sharded.py: sharded_run.py FOLDER STAGE [STAGE ...]

FOLDER holds the recipes, shortened.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from lab import pairs, recipes, runs, tasks, train
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback


def drawn(model, tok, n, seed, samples):
    """Pairs of the task's own answers: four steps of SFT get no sum right."""
    return [
        {"a": a, "b": b, "style": style, "right": True, "text": tasks.completion(a, b, style)}
        for a, b in tasks.sample(n, "train", seed)
        for style in tasks.STYLES
    ]


class Held(TrainerCallback):
    """Bytes that this process holds after the first step: of frozen and trained weights, and AdamW's."""

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step > 1 or BYTES:  # of the first stage
            return
        moments = [x for state in optimizer.state.values() for x in state.values()]
        BYTES["frozen"] = sum(held(p) for p in model.parameters() if not p.requires_grad)
        BYTES["trained"] = sum(held(p) for p in model.parameters() if p.requires_grad)
        BYTES["AdamW"] = sum(held(x) for x in moments if torch.is_tensor(x) and x.numel() > 1)


def held(tensor):
    own = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return own.numel() * own.element_size()


BYTES = {}


def main():
    import gloo  # of this folder, which only the processes that are launched find

    gloo.shard()
    recipes.FOLDER, pairs.draw = Path(sys.argv[1]), drawn
    found, plain = {}, train.run

    def run(built, *args):
        built.add_callback(Held())
        return plain(built, *args)

    train.run = run
    for stage in sys.argv[2:]:
        train.make(recipes.load(stage, "tiny"))
        found[stage] = [entry["loss"] for entry in runs.history(stage) if "loss" in entry]
    if train.is_chief():
        by = AcceleratorState().distributed_type.value
        print(json.dumps({"by": by, "losses": found, "bytes": BYTES}))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

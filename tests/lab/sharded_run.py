"""Stages in several processes, for tests/lab/test_sharded.py: sharded_run.py FOLDER STAGE [STAGE ...]

FOLDER holds the recipes, shortened.
"""

import json
import sys
from pathlib import Path

import gloo
import torch
from accelerate.state import AcceleratorState
from lab import pairs, recipes, runs, tasks, train


def drawn(model, tok, n, seed, samples):
    """Pairs of the task's own answers: four steps of SFT get no sum right."""
    return [
        {"a": a, "b": b, "style": style, "right": True, "text": tasks.completion(a, b, style)}
        for a, b in tasks.sample(n, "train", seed)
        for style in tasks.STYLES
    ]


def main():
    gloo.shard()
    recipes.FOLDER, pairs.draw = Path(sys.argv[1]), drawn
    found = {}
    for stage in sys.argv[2:]:
        train.make(recipes.load(stage, "tiny"))
        found[stage] = [entry["loss"] for entry in runs.history(stage) if "loss" in entry]
    if train.is_chief():
        by = AcceleratorState().distributed_type.value if len(sys.argv) > 2 else None
        print(json.dumps({"by": by, "losses": found}))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()

"""A stage and those before it, in several processes, for tests/lab/test_train.py: chain_run.py STAGE RECIPE"""

import os
import sys
from pathlib import Path

import torch.distributed as dist
from lab import pairs, recipes, train
from sharded_run import drawn

make, make_base = train.make, train.make_base


def telling(recipe):
    manifest = make(recipe)
    if dist.is_initialized():
        rank = f"rank {dist.get_rank()} of {dist.get_world_size()}"
        print(f"{rank} by {dist.get_backend()}: {recipe['stage']}")
    return manifest


def counted(recipe):
    print("pre-training in rank", os.environ["RANK"])
    return make_base(recipe)


if __name__ == "__main__":
    pairs.draw, train.make, train.make_base = drawn, telling, counted
    recipes.FOLDER = Path(sys.argv[2]).parent  # where the shortened parents stand
    train.main([sys.argv[1], "--config", sys.argv[2]])

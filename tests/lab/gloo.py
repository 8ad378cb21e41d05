"""Let accelerate shard a model on a CPU, in the processes that the tests start.

accelerate shards on GPUs only: on a CPU it makes DDP of an FSDP configuration, without a word. What it calls
needs no GPU: gloo does there what NCCL does on GPUs.
"""

import os

from accelerate import state
from accelerate.utils import DistributedType


def shard():
    """Shard in this process, where the configuration asks for FSDP."""
    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return
    plain = state.PartialState.__init__

    def as_on_gpus(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        if self.distributed_type is DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    state.PartialState.__init__ = as_on_gpus

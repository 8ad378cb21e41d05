"""A model whose weights are spread over the processes: FSDP2, or DeepSpeed's ZeRO 3.

    accelerate launch --config_file notebooks/recipes/accelerate/fsdp2.yaml -m lab.train sft

Proof     tests/lab/test_sharded.py, two processes on a CPU
"""

import os

from torch.distributed.tensor import DTensor


def is_sharded(model):
    """Tell whether a process holds only its part of some weight."""
    return any(isinstance(param, DTensor) for param in model.parameters())


def whole(model):
    """Gather {name: weight} of the weights that are trained. Every process has to call it.

    model    sharded by FSDP2; what is frozen stands in the base already
    """
    return {
        name: (param.full_tensor() if isinstance(param, DTensor) else param).detach().cpu()
        for name, param in model.named_parameters()
        if param.requires_grad
    }


def refuse_dropped(accelerator):
    """Raise RuntimeError where FSDP was asked for and accelerate trains whole copies instead.

    accelerate 1.15 turns to DDP without a word where there is no GPU: the model would have to fit into
    every process, and no line would say so.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and accelerator.distributed_type != "FSDP":
        raise RuntimeError(
            f"the configuration asks for FSDP, and accelerate made {accelerator.distributed_type.value} of it: "
            "it shards on a GPU and with more than one process only. Way out: a machine with GPUs, or "
            "notebooks/recipes/accelerate/ddp.yaml, which keeps the whole model in each process"
        )

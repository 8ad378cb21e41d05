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


def asked():
    """Tell whether the configuration that accelerate was started with asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def storage(recipe):
    """Return what `quantization` needs besides, for FSDP to part a 4-bit base: {} where nothing is parted.

    bitsandbytes packs two weights into a uint8, and FSDP leaves integers whole in every process. Packed into
    the dtype of the other weights, the same bits are parted with them.
    """
    if not asked() or not recipe.get("quantization", {}).get("load_in_4bit"):
        return {}
    return {"bnb_4bit_quant_storage": recipe.get("dtype", "float32")}


def refuse_dropped(accelerator):
    """Raise RuntimeError where FSDP was asked for and accelerate trains whole copies instead.

    accelerate 1.15 turns to DDP without a word where there is no GPU: the model would have to fit into
    every process, and no line would say so.
    """
    if asked() and accelerator.distributed_type != "FSDP":
        raise RuntimeError(
            f"the configuration asks for FSDP, and accelerate made {accelerator.distributed_type.value} of it: "
            "it shards on a GPU and with more than one process only. Way out: a machine with GPUs, or "
            "notebooks/recipes/accelerate/ddp.yaml, which keeps the whole model in each process"
        )

"""Compute the memory that each GPU takes where a stage is spread over several of them.

    python -m lab.spread                                    the table of docs/cluster.md
    lab.spread.of(recipe, config, gpus=8, way="FSDP2")      {part: MiB} on each GPU

`lab.memory` counts the parts of one process; here they are divided by the GPUs that share them. A layer's
weights are whole while it runs, and the next layer's are fetched meanwhile, so two layers are counted whole,
and what stands outside the layers. Activations belong to the rows of a process and are not divided.

Proof     tests/lab/test_sharded.py: the bytes that two processes held; tests/lab/test_spread.py
"""

from transformers import LlamaConfig, Qwen2Config

from lab import memory

WEIGHTS = (
    "weights of the linear layers",
    "embedding, head and norms",
    "adapters",
    "reference adapter",
)
STATES = ("gradients", "AdamW")
WAYS = {"DDP": (), "ZeRO 2": STATES, "FSDP2": (*WEIGHTS, *STATES)}  # what the GPUs share
CARD_GIB = 80

MODELS = {  # config.json of Qwen2.5-0.5B, Qwen2.5-7B and Llama-3.1-70B
    "0.5B": Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "7B": Qwen2Config(
        vocab_size=152_064,
        hidden_size=3584,
        intermediate_size=18_944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
    "70B": LlamaConfig(
        vocab_size=128_256,
        hidden_size=8192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ),
}
ARGS = {"per_device_train_batch_size": 1, "max_length": 2048, "bf16": True}
LORA = {"stage": "sft", "dtype": "bfloat16", "lora": {"r": 16}, "args": ARGS}
TRAINED = {  # one row of 2,048 tokens in each process, its layers computed again for the backward pass
    "LoRA over 4 bits": LORA
    | {"quantization": {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}},
    "LoRA over 16 bits": LORA,
    "all weights, in float32": {"stage": "sft", "dtype": "float32", "args": ARGS},
}


def of(recipe, config, gpus, way):
    """Compute {part: MiB} of each GPU.

    recipe    as lab.recipes.load gives it         config    the model's transformers config
    gpus      how many share                       way       "DDP", "ZeRO 2" or "FSDP2"
    """
    whole = memory.of(recipe, config)
    parts = {name: size / gpus if name in WAYS[way] else size for name, size in whole.items()}
    if way == "FSDP2" and gpus > 1:
        layers, outside = (whole[name] for name in WEIGHTS[:2])
        parts["gathered while it runs"] = 2 * layers / config.num_hidden_layers + outside
    return parts


def gib(*args, **kwargs):
    """Compute GiB on each GPU: the sum of `of`."""
    return sum(of(*args, **kwargs).values()) / 1024


def fewest(recipe, config, card_gib=CARD_GIB):
    """Return the fewest GPUs of a size, a power of two, on which FSDP2 fits with a tenth left; or None."""
    for gpus in (2**i for i in range(11)):
        if memory.fits(of(recipe, config, gpus, "FSDP2"), card_gib * 1024):
            return gpus
    return None


def table():
    """Return the table of docs/cluster.md as Markdown."""
    head = [
        "model",
        "trained",
        "DDP",
        "ZeRO 2 on 8",
        "FSDP2 on 8",
        f"fewest GPUs of {CARD_GIB} GiB by FSDP2",
    ]
    rows = [head, ["---"] * len(head)]
    for model, config in MODELS.items():
        for what, recipe in TRAINED.items():
            ways = ((1, "DDP"), (8, "ZeRO 2"), (8, "FSDP2"))
            sizes = [f"{gib(recipe, config, gpus, way):.1f}" for gpus, way in ways]
            rows.append([model, what, *sizes, str(fewest(recipe, config))])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    print(table())

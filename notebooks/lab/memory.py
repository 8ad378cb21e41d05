"""Estimate how much memory of a GPU a stage takes, from its recipe and its model's shape.

    python -m lab.memory sft --config notebooks/recipes/sft_t4.yaml --card 15
    parts = lab.memory.of(recipe, config)              {part: MiB}
    lab.memory.fits(parts, card_mib)

What is counted: the weights (NF4 with its scales, the rest in the recipe's dtype), the adapters in float32
with their gradients and AdamW's two means, what the backward pass keeps of the longest batch, and what
one layer needs while it is computed again; for GRPO the share of the card that a colocated vLLM takes. The logits are
not: TRL computes them in pieces. Qwen2's and Llama's layers are counted, with a gated MLP.

Two numbers are measured, not derived: how many arrays of the hidden size a layer keeps, and how much its
backward pass needs beside what it kept. With them the four steps measured on an NVIDIA H200 at the shape of
Qwen2.5-0.5B come out within 4% (tests/parity/gpu/h200.json); one card and one shape is all there is.

Proof     tests/lab/test_memory.py
"""

import argparse

MIB = 2**20
KEPT_HIDDEN = (
    9  # arrays (tokens, hidden) that a layer keeps: norms, q, k, v, attention, LoRA's inputs
)
KEPT_MLP = 4  # arrays (tokens, intermediate): gate, up, silu(gate), their product
BACKWARD_MLP = 2.7  # as many more while a layer's gradients are computed
SAFE = 0.9  # of a card: the rest is CUDA's own, and what the allocator cannot use


def of(recipe, config, card_mib=None):
    """Compute the MiB of each part at a stage's peak.

    recipe     as lab.recipes.load gives it
    config     the model's transformers config
    card_mib   the card's memory; only GRPO with vLLM needs it, which takes a share
    returns    {part: MiB}, in the order of the run
    """
    args, width = recipe.get("args", {}), _bytes(recipe.get("dtype", "float32"))
    linear, rest = weights(config)
    four = recipe.get("quantization", {})
    parts = {
        "weights of the linear layers": linear * (_bytes_of_nf4(four) if four else width),
        "embedding, head and norms": rest * width,
    }
    trained = linear + rest
    if recipe.get("start_from") or recipe.get("lora"):
        trained = adapters(config, _rank(recipe))
        parts["adapters"] = 4 * trained
        width = 4
    if recipe["stage"] == "dpo":
        parts["reference adapter"] = parts.get("adapters", 0)
    parts |= {"gradients": width * trained, "AdamW": 2 * width * trained}
    parts |= _activations(recipe["stage"], args, config, _bytes(_computes_in(recipe)))
    beside = args.get("use_vllm") and args.get("vllm_mode", "colocate") == "colocate"
    if recipe["stage"] == "grpo" and beside and card_mib:
        parts["vLLM's share"] = args.get("vllm_gpu_memory_utilization", 0.3) * card_mib * MIB
    return {part: size / MIB for part, size in parts.items() if size}


def fits(parts, card_mib):
    """Tell whether a stage fits a card of so many MiB, with a tenth of it left."""
    return sum(parts.values()) <= SAFE * card_mib


def weights(config):
    """Count (weights of the linear layers, all others) of a Qwen2 or Llama of this config."""
    layers, hidden = config.num_hidden_layers, config.hidden_size
    linear = sum(a * b for a, b in _linears(config))
    heads = 1 if config.tie_word_embeddings else 2
    rest = heads * config.vocab_size * hidden + hidden  # the last norm
    biases = getattr(config, "attention_bias", config.model_type == "qwen2")
    rest += layers * (2 * hidden + biases * (hidden + 2 * _key_value(config)))
    return layers * linear, rest


def adapters(config, r):
    """Count the weights of LoRA adapters of rank r on every linear layer."""
    return config.num_hidden_layers * sum(r * (a + b) for a, b in _linears(config))


def _linears(config):
    """(in, out) of the linear layers of one block."""
    hidden, between, kv = config.hidden_size, config.intermediate_size, _key_value(config)
    attention = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    return [*attention, (hidden, between), (hidden, between), (between, hidden)]


def _key_value(config):
    return config.hidden_size // config.num_attention_heads * config.num_key_value_heads


def _activations(stage, args, config, width):
    """What the backward pass keeps of one micro-batch, and what one layer takes while it runs."""
    rows = args.get("per_device_train_batch_size", 8) * (2 if stage == "dpo" else 1)
    length = args.get("vllm_max_model_length" if stage == "grpo" else "max_length", 1024)
    tokens, layers = rows * length, config.num_hidden_layers
    hidden, between = config.hidden_size, config.intermediate_size
    layer = tokens * width * (KEPT_HIDDEN * hidden + KEPT_MLP * between)
    backward = tokens * width * BACKWARD_MLP * between
    if args.get("gradient_checkpointing", True):
        inputs = layers * tokens * width * hidden
        return {"inputs of the layers": inputs, "one layer, computed again": layer + backward}
    return {"activations of the layers": layers * layer, "one layer's backward": backward}


def _bytes(dtype):
    return 4 if dtype == "float32" else 2


def _bytes_of_nf4(options):
    """Four bits and the scales: 32 bits for 64 weights, or 8 bits and 32 for 256 scales."""
    double = options.get("bnb_4bit_use_double_quant")
    return (4 + (8 / 64 + 32 / (64 * 256) if double else 32 / 64)) / 8


def _computes_in(recipe):
    args = recipe.get("args", {})
    return "float16" if args.get("bf16") or args.get("fp16") else recipe.get("dtype", "float32")


def _rank(recipe):
    from lab import recipes

    while "lora" not in recipe:
        recipe = recipes.parent(recipe)
    return recipe["lora"]["r"]


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m lab.memory", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=("sft", "dpo", "grpo"))
    parser.add_argument(
        "--config", help="a YAML recipe; default: the one of this machine's profile"
    )
    parser.add_argument("--model", help="a folder or hub id, instead of the recipe's")
    parser.add_argument(
        "--card",
        type=float,
        help="the card's memory in GiB; default: sizes for this machine's card",
    )
    options = parser.parse_args(argv)
    from transformers import AutoConfig

    from lab import hub, recipes, train

    recipe = recipes.load(options.stage, options.config, card_gib=options.card)
    config = AutoConfig.from_pretrained(options.model or train.base_model(recipe, hub.CONFIG))
    card = options.card and options.card * 1024
    parts = of(recipe, config, card)
    for part, size in parts.items():
        print(f"{part:32}{size:9.0f} MiB")
    print(f"{'together':32}{sum(parts.values()):9.0f} MiB")
    if card:
        verdict = "fits" if fits(parts, card) else "does not fit: halve per_device_train_batch_size"
        print(f"on a card of {options.card:g} GiB: {verdict}")


if __name__ == "__main__":
    main()

"""Serve exactly what the trainer trains with colocated vLLM: 4-bit, LoRA or full, CPU or GPU.

    from lab import vllm
    trainer = vllm.GRPOTrainer(model, rewards, args=GRPOConfig(use_vllm=True, ...), ...)

The engine holds a plain copy of the base and gets, at every sync, for every linear W of the trainer

    W_served = dequantise(W) + (alpha / r) B A        computed in float32, then cast once

and the trainer's 4-bit bytes are never written. This takes one more copy of the base in memory.
After each sync the fresh completions are scored by both sides; `sampling/gap_mean` is the mean
|log p_engine - log p_trainer| over their tokens, and a run whose gap cannot be rounding stops.

Source    LoRA, Hu et al. 2021, arXiv:2106.09685, eq. 3; QLoRA, Dettmers et al. 2023, 2305.14314, eq. 5
Lesson    notebooks/03_grpo.ipynb        Proof    tests/lab/test_vllm.py
Mends     each names the upstream report it works around, and has a test that fails once upstream
          no longer needs it

The engine and the trainer stand in lab.engine.colocated, which takes seconds to import: it loads when the first of
them is used.
"""

import functools
import importlib
import importlib.util
import re
import sys

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper


@functools.cache
def available(say=print):
    """Tell whether vLLM can be used here; if not, print one line about it, once."""
    if sys.platform == "linux" and importlib.util.find_spec("vllm"):
        return True
    say(f"No vLLM on this machine ({sys.platform}): generation falls back to model.generate.")
    return False


COLOCATED = ("Generation", "GRPOTrainer", "ROUNDING_GAP", "SamplerGap", "engine", "release")


def __getattr__(name):
    if name in COLOCATED:
        return getattr(importlib.import_module("lab.engine.colocated"), name)
    raise AttributeError(f"module 'lab.vllm' has no attribute {name!r}")


# --- the weights the trainer's model computes with ------------------------------------------------


def lora_delta(layer):
    """Compute (alpha / r) B A in float32, summed over the layer's active adapters.

    layer      a PEFT LoRA layer around a linear, its lora_A (r, in), lora_B (out, r)
    returns    (out, in), the shape of the base weight
    """
    delta = 0
    for adapter in layer.active_adapters:
        unlike = [layer.use_dora.get(adapter), layer.lora_bias.get(adapter)]
        if any(unlike) or adapter in layer.lora_embedding_A:
            raise ValueError(
                f"lab.vllm merges plain LoRA on linear layers; adapter {adapter!r} has DoRA, a bias "
                "or an embedding: leave them out of the LoraConfig"
            )
        if adapter in layer.lora_A:
            lora_A = layer.lora_A[adapter].weight.float()
            lora_B = layer.lora_B[adapter].weight.float()
            delta = delta + layer.scaling[adapter] * (lora_B @ lora_A)
    return delta.T if getattr(layer, "fan_in_fan_out", False) else delta


def dequantise(weight):
    """Return the values that the trainer's forward multiplies by: a 4-bit weight unpacked, any other as is.

    Raises ValueError for 4-bit weights that bitsandbytes has repacked for CPU inference.
    """
    quant_state = getattr(weight, "quant_state", None)
    if quant_state is None:
        return weight.detach()
    if getattr(quant_state, "packing_format_for_cpu", False):
        raise ValueError(
            "the 4-bit weights were repacked for CPU inference, and their scales rounded to "
            "bfloat16, by a forward pass in eval mode: load the model again, and evaluate "
            "lab.vllm.served(model) instead of the 4-bit model"
        )
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, quant_state)


@torch.no_grad()
def merged_weights(model, trained_only=False):
    """Yield (name, weight) of the plain model that `model` computes with, one at a time.

    model           plain, LoRA or QLoRA; it is read, never written
    trained_only    only what training can change, and the weights beside it in its block: vLLM
                    fuses q, k, v and gate, up, and a fused weight has to arrive whole
    yields          the base model's own names; LoRA weights in float32, the rest as they stand
    """
    base = plain_base(model)
    layers = {name: m for name, m in base.named_modules() if isinstance(m, LoraLayer)}
    trained = {name for name, param in base.named_parameters() if param.requires_grad}
    blocks = {_block(name) for name in trained} | {name.rpartition(".")[0] for name in layers}
    for name, param, layer in _sources(base, layers):
        if trained_only and _block(name) not in blocks:
            continue
        weight = dequantise(param)
        if layer is not None:
            weight = weight.float() + lora_delta(layer)
        yield _plain(name), weight


def _sources(base, layers):
    """(name, parameter, the LoRA layer around it or None) of every weight that the forward reads."""
    unused = _unused(base)
    seen = set()  # a head tied to the embedding is the same tensor: once
    for name, param in base.named_parameters(remove_duplicate=False):
        if ".lora_" in name or name.startswith(unused):
            continue
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        # A merged adapter is in the base already, a disabled one in nothing.
        if layer is not None and (layer.merged or layer.disable_adapters):
            layer = None
        # What is tied to the weight under an adapter computes without the adapter.
        if layer is None and id(param) in seen:
            continue
        if layer is None:
            seen.add(id(param))
        yield name, param, layer


def plain_base(model):
    """Return the transformers model under an adapter, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _unused(base):
    """Prefixes of the copies that `modules_to_save` keeps and the forward does not use."""
    tokens = [name for name, m in base.named_modules() if isinstance(m, TrainableTokensWrapper)]
    if tokens:
        raise ValueError(
            f"lab.vllm does not serve trainable tokens ({tokens[0]}): train the embedding with "
            "modules_to_save, or leave trainable_token_indices out of the LoraConfig"
        )
    prefixes = []
    for name, module in base.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            active = [] if module.disable_adapters else module.active_adapters
            copies = [adapter for adapter in active if adapter in module.modules_to_save]
            used = f"modules_to_save.{copies[0]}" if copies else "original_module"
            own = [
                "original_module",
                *(f"modules_to_save.{name}" for name in module.modules_to_save),
            ]
            prefixes += [f"{name}.{part}." for part in own if part != used]
    return tuple(prefixes)


def _plain(name):
    """The name without what PEFT puts into it."""
    name = name.replace(".base_layer.", ".").replace(".original_module.", ".")
    return re.sub(r"\.modules_to_save\.[^.]+\.", ".", name)


def _block(name):
    """model.layers.0.self_attn.q_proj.weight -> model.layers.0.self_attn"""
    return _plain(name).rpartition(".")[0].rpartition(".")[0]


def served(model, dtype=torch.float32):
    """Make a plain transformers model with the merged weights: to evaluate, to save, to serve.

    On a CPU the 4-bit original must not run in eval mode (see `dequantise`); this copy may.
    """
    base = plain_base(model)
    config = base.config.to_dict()
    config.pop("quantization_config", None)
    weights = dict(merged_weights(model))
    # A head that was trained apart from the embedding it was tied to is no longer tied.
    config["tie_word_embeddings"] &= not untied(model)
    plain = type(base)(type(base.config).from_dict(config))
    fits = plain.load_state_dict(weights, strict=False)
    tied = set(plain.all_tied_weights_keys or ())
    if fits.unexpected_keys or set(fits.missing_keys) - tied:
        raise ValueError(
            f"the merged weights are not those of a plain {type(base).__name__}: {fits}"
        )
    plain.tie_weights()
    plain.generation_config = base.generation_config
    return plain.to(device=base.device, dtype=dtype).eval()


def untied(model):
    """Return the names of the weights that the configuration ties to another, and the model keeps apart."""
    base = plain_base(model)
    layers = {name: m for name, m in base.named_modules() if isinstance(m, LoraLayer)}
    names = {_plain(name) for name, _, _ in _sources(base, layers)}
    return sorted(names & set(base.all_tied_weights_keys or ()))


# --- the engine -----------------------------------------------------------------------------------


def sixteen_bits():
    """Return the 16-bit dtype that this machine's GPU computes in: a T4 has no bfloat16."""
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16

"""Colocated vLLM that serves exactly what the trainer trains: 4-bit, LoRA or full, CPU or GPU.

    from lab import vllm
    trainer = vllm.GRPOTrainer(model, rewards, args=GRPOConfig(use_vllm=True, ...), ...)

The engine holds a plain copy of the base and gets, at every sync, for every linear W of the trainer

    W_served = dequantise(W) + (alpha / r) * B A        computed in float32, then cast once

and the trainer's 4-bit bytes are never written. The price is one more copy of the base in memory.
After each sync the freshly sampled completions are scored by both sides; `sampling/gap_mean` is the
mean |log p_engine - log p_trainer| over their tokens, and a run whose gap cannot be rounding stops.

Source    QLoRA, Dettmers et al. 2023, arXiv:2305.14314, eq. 5; LoRA, Hu et al. 2021, eq. 3
Lesson    notebooks/03_grpo.ipynb        Proof    tests/lab/test_vllm.py
Mends     each says which upstream report it works around, and has a test that fails once
          upstream no longer needs it (tests/lab/test_vllm.py, "upstream still needs")

Import this module before torch, trl or vllm: `prepare` sets what they read when they load.
"""

import functools
import gc
import importlib.util
import logging
import os
import sys
import time
import warnings
from contextlib import contextmanager
from unittest.mock import patch

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # no telemetry
    "TORCH_CPP_LOG_LEVEL": "ERROR",  # the NUMA binding notice of vLLM's C++ side
}


def prepare():
    """Set the environment that vLLM reads when it loads. What the user has set already stands."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # In one process the engine and the trainer take turns on the same cores. OpenMP's default is
    # that the idle side spins; asleep, a step takes half the CPU time and no more wall time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


prepare()

import torch
import trl
from accelerate.utils import set_seed
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from trl.generation import vllm_generation
from trl.trainer import grpo_trainer


@functools.cache
def available(say=print):
    """Whether vLLM can be used here. If not, one line says so, once."""
    if sys.platform == "linux" and importlib.util.find_spec("vllm"):
        return True
    say(f"No vLLM on this machine ({sys.platform}): generation falls back to model.generate.")
    return False


# --- the weights the trainer's model computes with -----------------------------------------------


def lora_delta(layer):
    """sum over active adapters of (alpha / r) * B A, in float32; shape of the base weight."""
    delta = 0
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            if layer.use_dora.get(adapter):
                raise ValueError(f"lab.vllm merges LoRA, got DoRA adapter {adapter!r}")
            lora_A = layer.lora_A[adapter].weight.float()  # (r, in)
            lora_B = layer.lora_B[adapter].weight.float()  # (out, r)
            delta = delta + layer.scaling[adapter] * (lora_B @ lora_A)
    return delta.T if getattr(layer, "fan_in_fan_out", False) else delta


def dequantise(weight):
    """A weight in the values that the trainer's forward multiplies by; a 4-bit one unpacked."""
    quant_state = getattr(weight, "quant_state", None)
    if quant_state is None:
        return weight.detach()
    if getattr(quant_state, "packing_format_for_cpu", False):
        raise ValueError(
            "the 4-bit weights were repacked for CPU inference, and their scales rounded to "
            "bfloat16, by a forward pass in eval mode: load the model again, and evaluate on "
            "lab.vllm.served(model) instead of on the 4-bit model"
        )
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, quant_state)


@torch.no_grad()
def merged_weights(model, trained_only=False):
    """Yield (name, weight) of the plain model that `model` computes with, one at a time.

    model          plain, LoRA or QLoRA; it is read, never written
    trained_only   only what training can change, with the weights beside it in its block: vLLM
                   fuses those (q, k, v; gate, up) and a fused weight has to arrive whole
    yields         the base model's own names; LoRA weights in float32, the rest as they stand
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = {name: m for name, m in base.named_modules() if isinstance(m, LoraLayer)}
    blocks = {name.rpartition(".")[0] for name in layers}
    blocks |= {_block(name) for name, p in base.named_parameters() if p.requires_grad}

    for name, param in base.named_parameters():
        if ".lora_" in name or ".original_module." in name:
            continue
        if trained_only and _block(name) not in blocks:
            continue
        weight = dequantise(param)
        layer = layers.get(name.removesuffix(".base_layer.weight"))
        if layer is not None and not (layer.merged or layer.disable_adapters):
            weight = weight.float() + lora_delta(layer)
        yield _plain(name), weight


def _plain(name):
    """The name without what PEFT puts into it."""
    return name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def _block(name):
    """model.layers.0.self_attn.q_proj.weight -> model.layers.0.self_attn"""
    return _plain(name).rpartition(".")[0].rpartition(".")[0]


def served(model, dtype=torch.float32):
    """A plain transformers model with the merged weights: to evaluate, to save, to serve.

    The 4-bit original must not run in eval mode on a CPU (see `dequantise`); this copy may.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    config = type(base.config).from_dict(
        {k: v for k, v in base.config.to_dict().items() if k != "quantization_config"}
    )
    plain = type(base)(config)
    plain.generation_config = base.generation_config
    plain.name_or_path = base.name_or_path
    missing, unexpected = plain.load_state_dict(dict(merged_weights(model)), strict=False)
    tied = set(plain.all_tied_weights_keys or ()) if config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise ValueError(f"merged weights do not fit: {missing=}, {unexpected=}")
    plain.tie_weights()
    return plain.to(dtype).eval()


# --- the engine ----------------------------------------------------------------------------------


class Generation(vllm_generation.VLLMGeneration):
    """TRL's vLLM backend with the weight sync mended. Three small methods, each replaceable."""

    def __init__(self, *args, engine=None, **kwargs):
        self.engine = engine or {}
        self.syncs, self.sync_s, self.sent = 0, 0.0, []
        super().__init__(*args, **kwargs)

    def _init_vllm(self):
        if self.mode != "colocate":
            raise ValueError(f"lab.vllm needs vllm_mode='colocate', got {self.mode!r}")
        # trl#4973: TRL asks for quantization="bitsandbytes" when it sees a 4-bit base, a method
        # that vLLM dropped in 0.28. The engine gets merged plain weights, so it needs none.
        options = {"quantization": None, **engine_defaults(), **self.engine}
        start = vllm_generation.LLM
        with (
            patch.object(vllm_generation, "LLM", lambda **kw: start(**(kw | options))),
            _contained(),
        ):
            super()._init_vllm()

    def weights(self):
        """What this sync sends: all at first, and after level-2 sleep; then what training moves."""
        everything = self.syncs == 0 or self.enable_sleep_mode
        return merged_weights(self.model, trained_only=not everything)

    def sync_weights(self):
        """Serve the trainer's present weights."""
        began = time.perf_counter()
        if self.enable_sleep_mode:
            vllm_generation.empty_cache()
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False
        self.sent = []
        # TRL calls model.load_weights, which a CPU engine cannot serve once it has packed its
        # linears ('Parameter' object has no attribute 'weight_loader'). vLLM's own reload can.
        self.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": self._noted(self.weights())}
        )
        self.refresh_head()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache: its keys come from the old weights")
        self.syncs += 1
        self.sync_s += time.perf_counter() - began

    def _noted(self, weights):
        for name, weight in weights:
            self.sent.append(name)
            yield name, weight

    def refresh_head(self):
        """Pack a tied output head again from the embedding that was just reloaded."""
        self.llm.apply_model(_pack_head)


def _pack_head(model):
    # vLLM reloads the embedding in place, and the head tied to it shares that storage, but on a
    # CPU the head multiplies by a packed copy made at start-up, which no reload touches.
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def engine_defaults():
    """vLLM options for a short run: quick to start, quiet, small. `engine={...}` overrides them.

    On a CPU: float32, so that the gap shows errors far below bfloat16's rounding; no torch.compile,
    which costs 15 s at the start and at toy size gains nothing; 256 MiB for keys and values, since
    vLLM would otherwise reserve a share of all memory.
    """
    options = {"use_tqdm_on_load": False, "enforce_eager": True}
    if not torch.cuda.is_available():
        options |= {"dtype": "float32", "kv_cache_memory_bytes": 256 << 20}
    return options


@contextmanager
def _contained():
    """Start or stop an engine without warnings, and leave the process as it was.

    TRL and vLLM leave RANK and WORLD_SIZE in the environment, so that the next trainer takes
    itself for a distributed one, and LD_PRELOAD, which every later subprocess would inherit; the
    CPU worker turns torch.set_num_threads into a stub.
    """
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    threads = patch.object(torch, "set_num_threads", torch.set_num_threads)
    with threads, patch.dict(os.environ), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- the trainer ---------------------------------------------------------------------------------


class SamplerGap(RuntimeError):
    """The engine does not sample from the model that is being trained."""


class GRPOTrainer(trl.GRPOTrainer):
    """TRL's GRPOTrainer with a colocated engine that is proved to serve the trainer's weights.

    engine       options for vllm.LLM over `engine_defaults()`, e.g. {"dtype": "bfloat16"}
    max_gap      stop when the mean |log p_engine - log p_trainer| of a generation exceeds it;
                 None never stops; "auto" takes `rounding_gap` of the coarsest dtype at work
    generation   the backend class: a lesson plants its defects in a subclass of `Generation`

    Metrics      sampling/gap_mean, sampling/gap_max (nats per token), sampling/sync_s (seconds)
    Without use_vllm it is TRL's trainer, unchanged.
    """

    def __init__(self, *args, engine=None, max_gap="auto", generation=Generation, **kwargs):
        backend = functools.partial(generation, engine=engine)
        with patch.object(grpo_trainer, "VLLMGeneration", backend):
            super().__init__(*args, **kwargs)
        if not self.use_vllm:
            return
        if not self.vllm_importance_sampling_correction:
            raise ValueError(
                "vllm_importance_sampling_correction=False leaves the trainer without log-probs of "
                "the samples, so the gap cannot be measured: leave it on"
            )
        # TRL casts the adapters of a 4-bit base to bfloat16 in every run, a float32 one included:
        # updates below 2^-8 of a weight are lost, and the adapter's own product is rounded.
        if not (self.args.bf16 or self.args.fp16):
            for param in self.model.parameters():
                if param.requires_grad:
                    param.data = param.data.float()
        self.max_gap = rounding_gap(self) if max_gap == "auto" else max_gap
        # vLLM seeds the global generator with the rank: without this, args.seed has no say.
        group = self.accelerator.process_index // self.vllm_tensor_parallel_size
        set_seed(self.args.seed + group)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.use_vllm:
            self._check_gap(output)
        return output

    def _check_gap(self, output):
        """Both sides scored the same tokens at the same weights, right after the sync."""
        counts = output["completion_mask"] * output.get("tool_mask", 1)
        gap = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).float().abs()
        gap = gap[counts.bool()]  # (tokens,)
        if len(gap) == 0:
            return
        total = torch.stack([gap.sum(), gap.new_tensor(len(gap)), gap.max()])
        total = self.accelerator.gather(total[None])
        mean, largest = (total[:, 0].sum() / total[:, 1].sum()).item(), total[:, 2].max().item()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["sampling/gap_mean"].append(mean)
        self._metrics[mode]["sampling/gap_max"].append(largest)
        self._metrics[mode]["sampling/sync_s"].append(self.vllm_generation.sync_s)
        self.vllm_generation.sync_s = 0.0
        if self.max_gap is not None and not mean <= self.max_gap:  # NaN stops too
            raise SamplerGap(_explain(mean, largest, self.max_gap, self.state.global_step))


# Mean nats per token that rounding alone explains, with room. float32: 1e-6 to 2e-6 measured (3
# layers, 24 tokens), while an adapter one step old already shows. 16 bit: every product is rounded
# to 2^-8 (bfloat16) or 2^-11 (float16) of its size; 0.001 measured on a trained tiny model in
# bfloat16, 0.009 on a random one, and a head or an adapter that stands still passes 0.02 in a few
# steps.
ROUNDING_GAP = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def rounding_gap(trainer):
    """The largest mean gap that rounding can explain: that of the coarsest dtype at work."""
    dtypes = {trainer.vllm_generation.llm.llm_engine.model_config.dtype}
    dtypes |= {p.dtype for p in trainer.model.parameters()}
    dtypes |= {getattr(module, "compute_dtype", None) for module in trainer.model.modules()}
    dtypes |= {torch.bfloat16} if trainer.args.bf16 else set()
    dtypes |= {torch.float16} if trainer.args.fp16 else set()
    return max(ROUNDING_GAP[dtype] for dtype in dtypes if dtype in ROUNDING_GAP)


def _explain(mean, largest, threshold, step):
    return (
        f"step {step}: the engine's log-probs are {mean:.2g} nats a token from the trainer's on "
        f"average ({largest:.2g} at most), and rounding explains at most {threshold:.2g}.\n"
        "So the samples do not come from the model in training. Likely causes: weights that did "
        "not arrive (a new kind of layer, a head that is not tied as it was), dropout in the "
        "trainer, top_p, top_k, min_p or a repetition penalty in the sampling, adapters merged "
        "into a 4-bit base.\n"
        "What to do: set dropout to 0 and sampling to temperature alone; compare "
        "lab.vllm.merged_weights(model) with what the engine serves; max_gap=None goes on anyway."
    )


def release(trainer):
    """Free the engine, so that the same process can start another one."""
    llm = trainer.vllm_generation.llm
    llm.llm_engine.engine_core.shutdown()
    del trainer.vllm_generation.llm, llm
    if trainer.accelerator.num_processes == 1:
        from vllm.distributed import cleanup_dist_env_and_memory

        with _contained():
            cleanup_dist_env_and_memory()
    gc.collect()

"""The colocated engine and the trainer over it: `lab.vllm` describes them and exports their names.

Mends     each names the upstream report it works around, and has a test that fails once upstream
          no longer needs it.    Proof    tests/lab/test_vllm.py
"""

import functools
import gc
import logging
import os
import socket
import sys
import time
import warnings
from contextlib import contextmanager
from unittest.mock import patch

import torch
import trl
from accelerate.utils import set_seed
from trl.generation import vllm_generation
from trl.trainer import grpo_trainer
from trl.trainer.utils import ensure_master_addr_port

from lab import sharded, tap, vllm


def engine_defaults():
    """Return vLLM options under which a short run starts fast, stays quiet and takes little memory.

    On a CPU: float32, as fast as bfloat16 at toy size, and the gap then shows what bfloat16 would
    hide; no torch.compile, which costs 10 to 15 s of CPU time at the start and gains nothing at
    toy size; 256 MiB for keys and values, where vLLM would take a share of all memory.
    """
    options = {"use_tqdm_on_load": False}
    if not torch.cuda.is_available():
        options |= {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": 256 << 20}
    elif vllm.sixteen_bits() is torch.float16:
        options |= {"dtype": "float16"}
    return options


class Generation(vllm_generation.VLLMGeneration):
    """TRL's vLLM backend with its start and its weight sync mended; a lesson may undo one mend.

    engine         options for vllm.LLM over `engine_defaults()`
    sleep_level    with vllm_enable_sleep_mode: 1 parks the weights in CPU memory, 2 (TRL's) drops
                   them, so that every sync has to send all
    """

    def __init__(self, *args, engine=None, sleep_level=2, **kwargs):
        self.engine, self.sleep_level = engine or {}, sleep_level
        self.syncs, self.sync_s, self.sent = 0, 0.0, []
        super().__init__(*args, **kwargs)

    def _init_vllm(self):
        if self.mode != "colocate" or self._dist.is_fsdp or self._dist.is_zero3:
            raise ValueError(
                f"lab.vllm reads whole weights in the engine's own process: it needs vllm_mode="
                f"'colocate' (got {self.mode!r}) and neither FSDP nor DeepSpeed ZeRO-3"
            )
        # trl#4973, #3125: TRL asks for quantization="bitsandbytes" when it sees a 4-bit base, a
        # method that vLLM dropped in 0.28; the engine gets merged plain weights and needs none.
        # trl#6776: TRL has no way to pass options on.
        options = {"quantization": None, **engine_defaults(), **self.engine}
        start = vllm_generation.LLM
        with (
            _contained(),
            patch.object(vllm_generation, "LLM", lambda **theirs: start(**(theirs | options))),
        ):
            super()._init_vllm()
        self.generation_kwargs = _without_text(self.generation_kwargs)
        _uncompiled(self.llm)
        sleep = self.llm.sleep
        self.llm.sleep = lambda level: sleep(level=self.sleep_level)

    def weights(self):
        """Return what this sync sends: all at first and after a sleep that dropped them, else changes."""
        if self.syncs == 0 and (apart := vllm.untied(self.model)):
            raise ValueError(
                f"vLLM ties {', '.join(apart)} to the embedding, and this model trains them apart: "
                "leave lm_head and embed_tokens out of the LoraConfig, or untie the base first"
            )
        dropped = self.enable_sleep_mode and self.sleep_level == 2
        return vllm.merged_weights(self.model, trained_only=self.syncs > 0 and not dropped)

    def sync_weights(self):
        """Make the engine serve the trainer's present weights."""
        began = time.perf_counter()
        if self.enable_sleep_mode:
            vllm_generation.empty_cache()
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False
        self.sent = []
        # vllm#34201: TRL calls model.load_weights, which a CPU engine no longer has the loaders for
        # once its linears are packed. vLLM's own layer-wise reload restores them first.
        # trl#3466, peft#2321: TRL merges the adapter into the 4-bit base and takes it out again,
        # which quantises the base anew each time. Here nothing of the trainer's is written.
        incoming = {"weights_iterator": self._noted(self.weights())}
        self.llm.collective_rpc("reload_weights", kwargs=incoming)
        self.refresh_head()
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, whose keys come from the old weights")
        self.syncs += 1
        self.sync_s += time.perf_counter() - began

    def _noted(self, weights):
        for name, weight in weights:
            # A GPU engine would sample from NaN, and its sampler ends the whole process.
            if not torch.isfinite(weight).all():
                raise SamplerGap(
                    f"sync {self.syncs}: {name} holds values that are not finite, and is not sent. "
                    "Likely causes: a learning rate that is too high, float16 without "
                    "loss scaling. What to do: go on from an earlier checkpoint with a lower rate."
                )
            self.sent.append(name)
            yield name, weight

    def refresh_head(self):
        """Pack a tied output head again from the embedding that was just reloaded."""
        self.llm.apply_model(_pack_heads)


def _without_text(options):
    """Sampling options by which vLLM makes no text, unless a stop string is to be looked for in it.

    TRL reads the token ids alone. Text of each token, one at a time, takes a fifth of the processor time of
    a GRPO step of the tiny model.
    """
    return {"detokenize": bool(options.get("stop"))} | options


def _uncompiled(llm):
    """Let an engine on a CPU step without torch.compile, which `enforce_eager` leaves to the sampler.

    vLLM compiles two functions of a few lines there, in each process: 7 s of processor time.
    """
    if not torch.cuda.is_available():
        llm.llm_engine.step = torch.compiler.set_stance("force_eager")(llm.llm_engine.step)


def _pack_heads(model):
    # Unreported upstream: vLLM reloads the embedding in place, and the head tied to it shares that
    # storage, but on a CPU the head multiplies by a packed copy made at start-up, which the reload
    # does not renew. On a GPU there is no such copy, and this does nothing.
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


@contextmanager
def _contained():
    """Start or stop an engine without its warnings, and leave the process as it was.

    TRL and vLLM leave RANK and WORLD_SIZE in the environment, so that the next trainer takes itself
    for a distributed one, LD_PRELOAD for every later subprocess, a stub for torch.set_num_threads
    and one more excepthook.
    """
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    threads = patch.object(torch, "set_num_threads", torch.set_num_threads)
    hook = patch.object(sys, "excepthook", sys.excepthook)
    with threads, hook, patch.dict(os.environ), warnings.catch_warnings():
        # TRL asks for port 29500 first: two engines that start together both find it free.
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
        warnings.simplefilter("ignore")
        yield


def _free_port():
    with socket.socket() as any_port:
        any_port.bind(("localhost", 0))
        return any_port.getsockname()[1]


def engine(folder, **options):
    """Start a plain vLLM engine in this process, to serve a saved model; `release` frees it.

    options    for vllm.LLM, over `engine_defaults()`; 1 GiB for keys and values on a GPU. There vLLM
               also asks before it starts that 92% of the memory be free, which it is not in a process
               that holds models; here it asks for a tenth
    """
    with _contained():
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        ensure_master_addr_port()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        memory = {"kv_cache_memory_bytes": 1 << 30, "gpu_memory_utilization": 0.1}
        own = {"logprobs_mode": "processed_logprobs"} | memory | engine_defaults()
        options = own | options
        llm = vllm_generation.LLM(
            str(folder), distributed_executor_backend="external_launcher", **options
        )
    _uncompiled(llm)
    return llm


def release(owner):
    """Free the engine of a trainer, or of `engine`, so that this process can start another one."""
    generation = getattr(owner, "vllm_generation", None)
    llm = generation.llm if generation else owner
    alone = torch.distributed.get_world_size() == 1
    with _contained():
        llm.llm_engine.engine_core.shutdown()
        if generation:
            generation.llm = None
        del llm, owner
        gc.collect()
        if alone:
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()


# --- the trainer ----------------------------------------------------------------------------------

# What rounding alone explains of the mean gap, in nats per token, with room to spare.
# float32: 2e-7 to 2e-6 measured on 3 layers; larger models add up more. An adapter one step old
# shows 0.04 at a learning rate of 1e-3 and 4e-4 at 1e-5, a stale head 0.01 and 1e-4.
ROUNDING_GAP = {torch.float32: 1e-4}
# On a GPU a float32 engine is not exact: its attention is Triton's, whose dot products multiply in
# TF32, 11 significant bits. On an H200 those 3 layers were 6e-4 apart.
# In 16 bits rounding grows with depth and width: 0.001 on a tiny model, 0.02 on one of half a billion
# parameters. So it is measured on the model at hand (`measured_rounding`), and a run stops at
ROOM = 3  # times that.


class SamplerGap(RuntimeError):
    """Raised when the engine does not sample from the model that is being trained."""


class GRPOTrainer(trl.GRPOTrainer):
    """TRL's GRPOTrainer with a colocated engine that is shown to serve the trainer's weights.

    engine        options for vllm.LLM over `engine_defaults()`, e.g. {"dtype": "bfloat16"}
    max_gap       stop when the mean |log p_engine - log p_trainer| of a generation is larger;
                  "auto" takes what rounding explains: a constant in float32 on a CPU, in 16 bits and
                  on a GPU what the first generation shows (`measured_rounding`); None never stops
    generation    the backend: a lesson shows a defect by a subclass of `Generation`

    Logs          sampling/gap_mean, sampling/gap_max (nats per token), sampling/sync_s (seconds)
    Without use_vllm it generates as TRL does, and measures nothing.
    """

    def __init__(self, model, *args, engine=None, max_gap="auto", generation=Generation, **kwargs):
        found = model.parameters() if isinstance(model, torch.nn.Module) else ()
        found = {param: param.data for param in found if param.requires_grad}
        backend = functools.partial(generation, engine=engine)
        with patch.object(grpo_trainer, "VLLMGeneration", backend):
            super().__init__(model, *args, **kwargs)
        # peft#2889: TRL casts the adapters of a 4-bit base to bfloat16 whatever the run computes in,
        # which rounds what an earlier stage learnt, and every update below 2^-8 of a weight to
        # nothing. Autocast computes in bfloat16 from float32 adapters just as well.
        if getattr(self.model, "is_loaded_in_4bit", False):
            for param in self.model.parameters():
                if param.requires_grad:
                    param.data = found.get(param, param.data).float()
        if not self.use_vllm:
            return
        if not self.vllm_importance_sampling_correction:
            raise ValueError(
                "vllm_importance_sampling_correction=False leaves the trainer without log-probs of "
                "the samples, and the gap could not be measured: leave it on"
            )
        exact = dtypes_at_work(self) <= {torch.float32} and not tf32()
        self.max_gap = ROUNDING_GAP[torch.float32] if max_gap == "auto" and exact else max_gap
        # trl PR#7040: the engine seeds the global generator with the rank, and args.seed is lost.
        set_seed(self.args.seed + self.accelerator.process_index // self.vllm_tensor_parallel_size)

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        if self.use_vllm:
            self._check_gap(output)
        return output

    def _check_gap(self, output):
        """Both sides have scored the same tokens, at the same weights, right after the sync."""
        if self.max_gap == "auto":
            if sharded.is_sharded(self.model):
                raise ValueError(
                    "rounding in 16 bits is measured on a whole copy of the model, and FSDP2 parts the "
                    "model: say how large a gap is allowed, as in lab.train.trainer(recipe, max_gap=0.05), "
                    "or train in float32"
                )
            # A NaN stays one: it stands first, and no number is larger.
            self.max_gap = max(ROOM * measured_rounding(self, output), ROUNDING_GAP[torch.float32])
        counts = output["completion_mask"] * output.get("tool_mask", 1)
        gap = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).float().abs()
        gap = gap[counts.bool()]  # (tokens,)
        largest = gap.max() if len(gap) else gap.new_tensor(0.0)
        local = torch.stack([gap.sum(), gap.new_tensor(len(gap)), largest])
        total, tokens, largest = self.accelerator.gather(local[None]).unbind(1)
        mean, largest = (total.sum() / tokens.sum().clamp(min=1)).item(), largest.max().item()
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["sampling/gap_mean"].append(mean)
        metrics["sampling/gap_max"].append(largest)
        metrics["sampling/sync_s"].append(self.vllm_generation.sync_s)
        self.vllm_generation.sync_s = 0.0
        if self.max_gap is not None and not mean <= self.max_gap:  # a NaN stops too
            raise SamplerGap(
                f"step {self.state.global_step}: the engine's log-probs are {mean:.2g} nats per token "
                f"from the trainer's on average ({largest:.2g} at most); rounding explains "
                f"{self.max_gap:.2g}. The samples do not come from the model in training.\n"
                "Likely causes: weights that did not arrive (a new kind of layer, a tied head), "
                "dropout in the trainer, top_p, top_k, min_p or a repetition penalty in the "
                "sampling, an adapter merged into a 4-bit base.\n"
                "What to do: dropout 0, temperature alone; compare lab.vllm.merged_weights(model) "
                "with what the engine serves; a larger max_gap= if a larger rounding is expected."
            )


def dtypes_at_work(trainer):
    """Return the dtypes in which the engine holds its weights, and the trainer holds or computes."""
    dtypes = {trainer.vllm_generation.llm.llm_engine.model_config.dtype}
    dtypes |= {param.dtype for param in trainer.model.parameters()}
    dtypes |= {getattr(module, "compute_dtype", None) for module in trainer.model.modules()}
    dtypes |= {torch.bfloat16} if trainer.args.bf16 else set()
    dtypes |= {torch.float16} if trainer.args.fp16 else set()
    return {dtype for dtype in dtypes if dtype and dtype.is_floating_point}


def tf32():
    """Tell whether a float32 engine here multiplies in TF32 somewhere."""
    return torch.cuda.is_available()


@contextmanager
def in_tf32(dtype):
    """Multiply as a float32 engine here does, for as long as this lasts; other dtypes as before."""
    before = torch.get_float32_matmul_precision()
    if dtype == torch.float32 and tf32():
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measured_rounding(trainer, output, rows=8):
    """Measure, without the engine, what rounding explains of a generation's gap, in nats per token.

    A plain copy of the trainer's merged weights, in the engine's dtype, scores the same completions:
    what it is apart from the trainer is rounding, whatever the engine serves. On a GPU a copy in
    float32 multiplies in TF32, in its linears and not in its attention: as many bits as the engine's.

    output    what the trainer's _generate_and_score_completions returns; its first `rows` are scored
    """
    names = [f"{side}_{kind}" for side in ("prompt", "completion") for kind in ("ids", "mask")]
    names += ["old_per_token_logps", *({"tool_mask"} & output.keys())]
    if not output["old_per_token_logps"].isfinite().all():
        return float(
            "nan"
        )  # weights that are no numbers: no rounding explains them, and the run stops
    part = {name: output[name][:rows] for name in names}
    dtype = trainer.vllm_generation.llm.llm_engine.model_config.dtype
    plain = vllm.served(trainer.accelerator.unwrap_model(trainer.model), dtype=dtype)
    with in_tf32(dtype):
        logps = torch.from_numpy(tap.per_token_logps(plain, part, trainer.temperature, rows=1))
    counts = (part["completion_mask"] * part.get("tool_mask", 1)).bool()
    gap = (logps.to(counts.device) - part["old_per_token_logps"]).abs()[counts]
    local = torch.stack([gap.sum(), gap.new_tensor(len(gap))])
    total, tokens = trainer.accelerator.gather(local[None]).sum(0)
    return (total / tokens.clamp(min=1)).item()

"""Send the engine only the adapter and let vLLM add it; the base and the head never change.

    lab.vllm.GRPOTrainer(..., generation=lab.engine.adapter_sync.Generation)
    sync: adapter                                                       in a recipe for GRPO

`lab.vllm.Generation` merges the adapter into plain weights and sends those after every step. Here the
engine starts from the dequantised base, W as the trainer's 4-bit layers compute with it, and each sync
writes B and A to a folder and asks vLLM to load them in place. What the engine then computes,
Wx + (alpha/r) BAx, is what the trainer computes.

It needs a LoRA adapter that vLLM can read: `refusal` says what it cannot.

Proof     tests/lab/test_vllm.py
"""

import tempfile
import time
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from trl.generation.vllm_generation import empty_cache

from lab import vllm
from lab.engine import colocated

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of which vLLM's max_lora_rank has to be one
NAME = "default"  # TRL's and PEFT's name of the adapter in training


class Generation(colocated.Generation):
    """TRL's vLLM backend over an engine that gets the adapter after each step, and nothing else.

    Raises ValueError for a model whose adapter vLLM cannot serve.
    """

    def __new__(cls, *args, mode="colocate", **kwargs):
        """With vllm_mode="server" the engine is another process: lab.engine.server_sync's."""
        if mode == "server" and cls is Generation:
            from lab.engine import server_sync

            return super().__new__(server_sync.Generation)
        return super().__new__(cls)

    def _init_vllm(self):
        model = self.accelerator.unwrap_model(self.model)
        dtype = (colocated.engine_defaults() | self.engine).get("dtype")
        if reason := refusal(model) or refused_dtype(dtype):
            raise ValueError(f"sync: adapter: {reason}; take sync: merged")
        self.home = tempfile.TemporaryDirectory(prefix="lab-adapter-")  # goes when this goes
        self.folder = Path(self.home.name)
        self.sleep_level = 1  # the base is parked, not dropped: nothing would bring it back
        # In the trainer's own dtype: the engine rounds it to the one it computes in.
        with model.disable_adapter():
            vllm.served(model).save_pretrained(self.folder / "base")
        rank = model.peft_config[NAME].r
        self.engine = {
            "model": str(self.folder / "base"),
            "tokenizer": model.name_or_path,
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": next(size for size in RANKS if size >= rank),
        } | self.engine
        super()._init_vllm()
        self.plain_generate = self.llm.generate

    def sync_weights(self):
        """Make the engine serve the trainer's present adapter."""
        began = time.perf_counter()
        if self.enable_sleep_mode:
            empty_cache()
            self.llm.wake_up(tags=["weights"])
            self._llm_weights_sleeping = False
        self.load(self.write())
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, whose keys come from the old adapter")
        self.syncs += 1
        self.sync_s += time.perf_counter() - began

    def write(self):
        """Write the adapter in PEFT's own format; returns the folder."""
        model, path = self.accelerator.unwrap_model(self.model), self.folder / "adapter"
        model.save_pretrained(path, selected_adapters=[NAME])
        return path

    def load(self, path):
        """Load an adapter in place of the one before, and generate with it from now on."""
        from vllm.lora.request import LoRARequest

        asked = {"lora_name": NAME, "lora_int_id": 1, "lora_path": str(path)}
        self.llm.llm_engine.add_lora(LoRARequest(**asked, load_inplace=True))
        served = LoRARequest(**asked)

        def generate(*args, **kwargs):
            return self.plain_generate(*args, lora_request=served, **kwargs)

        self.llm.generate = generate


def refused_dtype(dtype):
    """Return why an engine of this dtype cannot add an adapter on this machine, or None.

    vLLM's kernels for it on a GPU (vllm/lora/ops/triton_ops/lora_shrink_op.py) assert 16 bits, in the
    middle of a generation and without a message.
    """
    if torch.cuda.is_available() and dtype in ("float32", torch.float32):
        return "on a GPU vLLM adds adapters in 16 bits alone, and the engine's dtype is float32"
    return None


def refusal(model):
    """Return why vLLM cannot serve the model as a base and an adapter, or None.

    model    a PeftModel with the adapter "default"
    """
    if not isinstance(model, PeftModel) or NAME not in model.peft_config:
        return "the model has no LoRA adapter to send"
    config = model.peft_config[NAME]
    if config.peft_type != "LORA":
        return f"the adapter is {config.peft_type}, not LoRA"
    unread = {
        "use_dora": "DoRA",
        "modules_to_save": "modules_to_save",
        "trainable_token_indices": "trained tokens",
        "rank_pattern": "rank_pattern",
        "alpha_pattern": "alpha_pattern",
        "layer_replication": "layer_replication",
        "lora_bias": "lora_bias",
    }
    for key, name in unread.items():
        if getattr(config, key, None):
            return f"vLLM does not read {name} of an adapter"
    if config.bias != "none":
        return f"vLLM does not read a trained bias (bias={config.bias!r})"
    if config.r > RANKS[-1]:
        return f"vLLM takes ranks up to {RANKS[-1]}, not {config.r}"
    adapted = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    if {name.rpartition(".")[2] for name in adapted} & {"lm_head", "embed_tokens"}:
        return "an adapter of the head or the embedding changes what both share"
    return None

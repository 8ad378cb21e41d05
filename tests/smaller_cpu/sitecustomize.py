"""Make this processor look smaller to the libraries: what the two switches of torch cannot reach.

    ONEDNN_MAX_CPU_ISA=AVX2         ATEN_CPU_CAPABILITY=avx2    \
    PYTHONPATH=tests/smaller_cpu    python -m pytest tests/lab/test_vllm.py

The first switch bounds oneDNN, the second torch's own kernels. vLLM and bitsandbytes ask the
processor itself: vLLM through `torch.cpu._is_*_supported` (which of its builds to load, whether to
pack a small weight), bitsandbytes through `has_avx512bf16` (whether to repack 4-bit weights). Here
these predicates answer what the switches say, in every Python process that has this folder on its
path: pytest, its subprocesses and the kernels of the notebooks.

torch.compile keeps what it compiled for a processor in a folder that does not know the switches,
and a later run without them aborts in it. So each setting gets a folder of its own.

What stays out of reach: code that asks the processor in C++, such as bitsandbytes' choice between
its AVX-512 and its plain kernel.

Proof     tests/lab/test_smaller_cpu.py
"""

import getpass
import importlib.machinery
import os
import sys
import tempfile

AVX512 = ("_is_avx512_supported", "_is_vnni_supported", "_is_avx512_vnni_supported")
SIXTEEN_BITS = (
    "_is_avx512_bf16_supported",
    "_is_amx_tile_supported",
    "_is_amx_fp16_supported",
)


def missing():
    """The predicates of torch.cpu that have to say no under the switches that are set."""
    no_avx512 = os.environ.get("ATEN_CPU_CAPABILITY") in ("avx2", "default")
    no_sixteen_bits = os.environ.get("ONEDNN_MAX_CPU_ISA") in ("AVX2", "AVX512_CORE")
    return AVX512 * no_avx512 + SIXTEEN_BITS * (no_avx512 or no_sixteen_bits)


def shrink_torch(module):
    for name in missing():
        if hasattr(module, name):
            setattr(module, name, lambda: False)


def shrink_bitsandbytes(module):
    if "_is_avx512_bf16_supported" in missing():
        module.has_avx512bf16 = lambda: False


AFTER = {"torch.cpu": shrink_torch, "bitsandbytes.functional": shrink_bitsandbytes}


class Finder(importlib.machinery.PathFinder):
    """Finds the modules of AFTER as usual, and changes each one right after it was loaded."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name not in AFTER:
            return None
        spec = super().find_spec(name, path, target)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            AFTER[name](module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder)
if missing():
    seen = os.environ.get("ATEN_CPU_CAPABILITY", "native")
    cache = os.path.join(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}_{seen}_smaller")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)

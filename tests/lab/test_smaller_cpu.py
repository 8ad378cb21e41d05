"""tests/smaller_cpu: the processor that the libraries see is the one that the switches say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "smaller_cpu"
ASK = """
import json, torch
from bitsandbytes.backends.cpu import ops
from vllm.model_executor.layers.utils import check_cpu_sgl_kernel
said = {name: getattr(torch.cpu, name)() for name in dir(torch.cpu) if name.startswith("_is_")}
said["repacks"] = bool(ops.has_avx512bf16())
said["packs"] = check_cpu_sgl_kernel(64, 128, torch.bfloat16)
said["capability"] = torch.backends.cpu.get_cpu_capability()
print(json.dumps(said))
"""
SWITCHES = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx512"},
    "as it is": {},
}


def said(switches, *folders):
    """What the libraries of a fresh process say of the processor."""
    env = {k: v for k, v in os.environ.items() if k not in SWITCHES["avx2"]} | switches
    inherited = [p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p != str(FOLDER)]
    env["PYTHONPATH"] = os.pathsep.join([*map(str, folders), *inherited])
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def machine():
    return said({})


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["avx2", "avx512"])
def test_no_library_sees_16_bit_instructions(machine, name):
    seen = said(SWITCHES[name], FOLDER)
    for absent in ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "repacks", "packs"):
        assert not seen[absent]
    # Never more than the machine has, and AVX-512 itself goes with the first name alone.
    avx512 = machine["_is_avx512_supported"] and name == "avx512"
    assert seen["_is_avx512_supported"] == avx512
    if machine["capability"] == "AVX512":
        assert seen["capability"] == name.upper()


@pytest.mark.vllm
def test_without_the_switches_the_folder_changes_nothing(machine):
    assert said({}, FOLDER) == machine

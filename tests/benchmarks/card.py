"""The machine a result was made on: card, memory, driver, versions, and two rates as a check.

    python tests/benchmarks/card.py card.json

copy_gb_s     bytes read and written per second by a copy on the device, 1 GiB
matmul_tflops a bfloat16 product of 8192 x 8192 on random data, median of ten
Without a GPU the processor is named and nothing is timed.
"""

import json
import os
import platform
import statistics
import subprocess
import sys

from lab import runs  # first: lab sets what torch reads when it loads

import torch  # isort: skip


def seconds(work, repeats=10):
    """The median over `repeats`, timed with events on the device."""
    work()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def rates():
    source = torch.empty(2**28, device="cuda").normal_()
    target = torch.empty_like(source)
    copy_s = seconds(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product_s = seconds(lambda: a @ b)
    return {
        "copy_gb_s": round(2 * source.numel() * 4 / copy_s / 1e9),
        "matmul_tflops": round(2 * 8192**3 / product_s / 1e12),
    }


def driver():
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def main(path):
    found = {"gpu": None, "processor": platform.processor() or platform.machine()}
    found |= {"cores": os.cpu_count(), "versions": runs.versions(), "commit": runs.commit()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {"gpu": card.name, "gpu_memory_mb": round(card.total_memory / 2**20)}
        found |= {"capability": f"{card.major}.{card.minor}", "driver": driver()}
        found |= {"cuda": torch.version.cuda, **rates()}
    with open(path, "w") as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main(sys.argv[1])

"""Speed and memory of the rewards, beside math-verify called directly.

    python tests/rewards/benchmark.py      prints the tables of the README

Rates are per second of CPU time, parent and worker together, so that other programs on the
machine do not change them; on an idle core they are rewards per second of wall clock. The
bombs are wall clock: waiting is what they cost. Linux only: it reads /proc.
"""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from rewards import accuracy_reward, format_reward, verdicts
from rewards.process import verifier

ROWS = 512
BOMBS = [  # eight that have to be computed, and differ: no cache helps
    r"9^{9^{9^9}}", r"8^{9^{9^9}}", "99999999!", "88888888!", r"10^{10^{10}}", r"11^{10^{10}}",
    r"\sqrt{9^{9^{9^9}}}", r"\sqrt{7^{9^{9^9}}}",
]  # fmt: skip
KINDS = {
    "integers": ("46", "{}"),
    "fractions": (r"\frac{46}{7}", r"\frac{{{}}}{{7}}"),
    "roots": (r"46\sqrt{7}", r"{}\sqrt{{7}}"),
    "polynomials": ("x^2+46x+1", "1+{}x+x^2"),
}


def completion(answer):
    return f"<think>\nstep by step\n</think>\n<answer>{answer}</answer>"


def cpu_s():
    """CPU seconds of this process and of its worker."""
    used = time.process_time()
    for pid in verifier.pids():
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def rate(rows, score, *arguments):
    start = cpu_s()
    score(*arguments)
    return rows / (cpu_s() - start)


def through_math_verify(gold, answers):
    """What a reward does that calls the library itself, gold and answer in math delimiters."""
    from math_verify import parse, verify

    for answer in answers:
        gold_parsed = parse(f"${gold}$", parsing_timeout=None)
        verify(gold_parsed, parse(f"${answer}$", parsing_timeout=None), timeout_seconds=None)


def speed():
    print("| rewards per second of one core | here | math-verify called directly | ratio |")
    print("|---|---|---|---|")
    for kind, (gold, pattern) in KINDS.items():
        answers = [pattern.format(n) for n in range(ROWS)]
        texts = [completion(answer) for answer in answers]
        accuracy_reward([completion("x")], solution=["y"])  # the worker's start is not counted
        through_math_verify(gold, answers[:2])
        ours = rate(ROWS, accuracy_reward, texts, [gold] * ROWS)
        theirs = rate(ROWS, through_math_verify, gold, answers)
        print(f"| accuracy, {kind} | {ours:,.0f} | {theirs:,.0f} | {ours / theirs:.2f} |")
    many = texts * 100
    print(f"| format | {rate(len(many), format_reward, many):,.0f} | | |")


def bombs():
    print("\n| batch of 64 with 8 bombs | seconds | the other 56 |")
    print("|---|---|---|")
    for gold, right in (("46", "46"), (r"\sqrt{2}", r"\frac{2}{\sqrt{2}}")):
        answers = [BOMBS[n // 8] if n % 8 == 0 else right if n % 2 else "45" for n in range(64)]
        expected = [1.0 if n % 8 and n % 2 else 0.0 for n in range(64)]
        verdicts._ask.cache_clear()
        accuracy_reward([completion("x")], solution=["y"])
        start = time.perf_counter()
        got = accuracy_reward([completion(a) for a in answers], solution=[gold] * 64)
        seconds = time.perf_counter() - start
        print(f"| gold `{gold}` | {seconds:.1f} | {'right' if got == expected else 'WRONG'} |")


def memory():
    script = (
        "import time; t = time.perf_counter(); {}; s = time.perf_counter() - t; "
        "lines = open('/proc/self/status').read().splitlines(); "
        "print(s, int(next(x for x in lines if x.startswith('VmHWM')).split()[1]) / 1024)"
    )
    print("\n| memory and start | MiB | seconds |")
    print("|---|---|---|")
    for what, code in {
        "python": "pass",
        "import rewards": "import rewards",
        "import math_verify": "import math_verify",
    }.items():
        command = [sys.executable, "-c", script.format(code)]
        seconds, peak = subprocess.check_output(command, text=True).split()
        print(f"| {what} | {float(peak):.0f} | {float(seconds):.2f} |")
    verifier.close()
    start = time.perf_counter()
    verifier.ask("judge", "x", "y")
    seconds = time.perf_counter() - start
    (pid,) = verifier.pids()
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    print(f"| worker process, warmed up | {peak:.0f} | {seconds:.2f} |")


if __name__ == "__main__":
    print(
        f"{platform.machine()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    print(f"on {os.cpu_count()} cores.\n")
    speed()
    bombs()
    memory()

"""Run the process that is killed when a completion takes too long.

It reads one JSON line per job from stdin, [name, arguments], and answers with one JSON
line. It is a fresh interpreter that imports this package only: the caller's __main__ is
never run again, so it is safe in notebooks and in scripts without a guard.

It ends by itself when its parent is gone (end of stdin). If it is in the middle of a job then, its
own alarm ends it: the kernel carries out the default action even in a C loop.
"""

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

WARM_UP = [  # one of each kind: the parser learns its grammar on the first use of a rule
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\frac{\pi}{2}", r"\ln(x^2) + \sin{a_1}"),
    ("[0,1)", r"0 \le x < 1"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
    ("2x+y=3", "y+2x=3"),
]


def main(parameters: Mapping[str, Any]) -> None:
    """Serve jobs until stdin ends.

    parameters   {"memory_mb": int,    the cap
                  "alarm_s": float,    for an orphan: a living parent kills long before
                  "jobs": str}         the module whose `load()` gives {name: job}
    """
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a print must not garble the protocol
    try:
        jobs = importlib.import_module(parameters["jobs"]).load()
    except BaseException as error:  # noqa: BLE001  the parent has to be told, whatever it is
        return _send(answers, {"error": f"{type(error).__name__}: {error}"})
    _cap_memory(parameters["memory_mb"])
    _send(answers, {"ready": os.getpid(), "cpu_s": time.process_time()})
    for line in sys.stdin:
        _alarm(parameters["alarm_s"])
        reply = _run(jobs, *json.loads(line))
        _alarm(0)
        worn = _peak_mb() > parameters["memory_mb"] / 2
        _send(answers, {"worn": worn, "cpu_s": time.process_time(), **reply})


def load() -> dict:
    """Return the jobs of mathematics, each run once."""
    from rewards.policy import judge, judge_gold

    for gold, answer in WARM_UP:
        judge(gold, answer)
    return {"judge": judge, "judge_gold": judge_gold}


def _run(jobs, name, arguments):
    try:
        return {"reason": jobs[name](*arguments)}
    except MemoryError:
        return {"reason": "out of memory", "worn": True}
    except Exception as error:  # noqa: BLE001  sympy raises what it likes; training goes on
        return {"reason": f"cannot be compared ({type(error).__name__})"}


def _cap_memory(megabytes):
    """Linux enforces the limit; macOS and Windows have the deadline alone."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))


def _peak_mb():
    """Highest memory so far: a worker that once grew is replaced before it gets in the way.

    Not getrusage on Linux: its maximum survives exec, so it starts at the caller's own size, and
    beside a trainer every worker would look worn after its first job.
    """
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) / 2**10 for line in file if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _alarm(seconds):
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _send(stream, message):
    stream.write(json.dumps(message) + "\n")
    stream.flush()

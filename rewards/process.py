"""Keep one worker process per process: started when first needed, killed when late, then replaced.

`ask` is safe from any thread, under asyncio, in a forked child (which starts a worker of
its own) and in every rank. It uses no signal and no multiprocessing: a daemonic DataLoader
worker may not have multiprocessing children, and only the main thread may set an alarm.
"""

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
import time
from typing import Any

from rewards import limits

TIMED_OUT = "timed out"
DIED = "crashed the worker"
MATHS = "rewards.worker"  # the module with the jobs of mathematics

_BOOT = (
    "import json, sys; p = json.loads(sys.stdin.readline()); sys.path[:] = p.pop('path'); "
    "from rewards.worker import main; main(p)"
)


class Worker:
    """A fresh interpreter at the other end of two pipes. `receive` gives None when it is late,
    and {"eof": True} when it is dead."""

    def __init__(self, jobs: str, memory_mb: int) -> None:
        needs = "It needs math-verify: pip install math-verify"
        self.needs = needs if jobs == MATHS else f"It runs {jobs}"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the caller
            # sympy orders by hash: same verdict always. BLAS reserves memory for each of its threads.
            env={**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        self._jobs, self._answers = self.process.stdin, self.process.stdout
        self.replies: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.ready = False
        self.cpu_s = 0.0  # used up to the last reply
        threading.Thread(target=self._listen, args=(self._answers,), daemon=True).start()
        here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = [*(entry for entry in sys.path if isinstance(entry, str)), here]
        alarm = 2 * limits.PATIENCE * limits.DEADLINE_S
        self.send({"path": path, "alarm_s": alarm, "memory_mb": memory_mb, "jobs": jobs})

    def _listen(self, stdout):
        """A thread, not select: that fails above 1024 open files, and on Windows pipes."""
        rest = b""
        try:
            while chunk := os.read(stdout.fileno(), 65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self.replies.put(json.loads(line))
        except (OSError, ValueError):
            pass
        self.replies.put({"eof": True})

    def send(self, message: object) -> bool:
        """Send a line; False when nobody reads any more."""
        try:
            self._jobs.write(json.dumps(message).encode("ascii") + b"\n")
            return True
        except OSError:
            return False

    def receive(self, seconds: float) -> dict[str, Any] | None:
        try:
            reply = self.replies.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        self.cpu_s = reply.get("cpu_s", self.cpu_s)
        return reply

    def is_starved(self) -> bool:
        """Tell whether the machine gave the present job too little CPU. Linux tells, elsewhere False."""
        try:
            with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
                ticks = sum(map(int, file.read().rsplit(")", 1)[1].split()[11:13]))
        except (OSError, ValueError, IndexError):
            return False
        used = ticks / os.sysconf("SC_CLK_TCK") - self.cpu_s
        return used < limits.STARVED_SHARE * limits.DEADLINE_S

    def wait_until_ready(self) -> None:
        if self.ready:
            return
        reply = self.receive(limits.START_S) or {"error": f"no sign of life in {limits.START_S} s"}
        if "ready" not in reply:
            self.kill()
            raise RuntimeError(
                f"rewards: the process that verifies answers did not start "
                f"({reply.get('error', 'it ended at once')}). {self.needs}"
            )
        self.ready = True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._jobs.close()

    def disown(self) -> None:
        """Leave the worker to the parent in a forked child: our ends of its pipes keep it alive."""
        self._jobs.close()
        self._answers.close()
        self.process.returncode = 0  # nothing here to wait for


class Verifier:
    """The worker of this process, and what to do when it is late or dead.

    jobs         the module whose `load()` gives the worker its jobs
    memory_mb    the cap on its memory; by default limits.MEMORY_MB
    """

    def __init__(self, jobs: str = MATHS, memory_mb: int | None = None) -> None:
        self.jobs, self.memory_mb = jobs, memory_mb
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._spare: Worker | None = None

    def ask(self, job: str, *arguments: object, within: float | None = None) -> str:
        """Return the worker's verdict on one job, in at most `limits.DEADLINE_S` of its time.

        within    so many seconds instead
        returns   str   the reason, "" when right; TIMED_OUT or DIED when it had to be killed
        Raises RuntimeError when no worker can be started at all.
        """
        with self._lock:
            for _ in range(2):  # killed from outside, it says nothing about the job: once more
                try:
                    reply = self._ask([job, arguments], within or limits.DEADLINE_S)
                except BaseException:  # KeyboardInterrupt: the reply must not meet the next job
                    self._drop()
                    raise
                if reply is None or reply.get("eof") or reply["worn"]:
                    self._drop()
                if reply is None:
                    return TIMED_OUT
                if "eof" not in reply:
                    return reply["reason"]
            return DIED

    def pids(self) -> list[int]:
        """Return the process ids of the worker and its spare, those that run."""
        workers = (self._worker, self._spare)
        return [w.process.pid for w in workers if w is not None and w.process.poll() is None]

    def close(self) -> None:
        """Kill the worker; the next `ask` starts another."""
        with self._lock:
            self._drop()
            self._drop()  # the spare took its place

    def forget(self) -> None:
        """Reset after a fork: the worker and the lock's owner stayed with the parent."""
        for worker in (self._worker, self._spare):
            if worker is not None:
                worker.disown()
        self._lock, self._worker, self._spare = threading.Lock(), None, None

    def _new(self):
        return Worker(self.jobs, self.memory_mb or limits.MEMORY_MB)

    def _ask(self, job, seconds):
        if self._worker is None or self._worker.process.poll() is not None:
            self._drop()
            self._worker = self._worker or self._new()
        self._worker.wait_until_ready()
        if not self._worker.send(job):
            return {"eof": True}
        deadline = time.monotonic() + seconds
        reply = self._worker.receive(min(limits.SPARE_AFTER_S, seconds))
        if reply is None:
            self._spare = self._spare or self._new()  # imports while the late one has its time
            reply = self._worker.receive(deadline - time.monotonic())
        for _ in range(limits.PATIENCE - 1):
            if reply is None and self._worker.is_starved():
                reply = self._worker.receive(seconds)
        return reply

    def _drop(self):
        if self._worker is not None:
            self._worker.kill()
        self._worker, self._spare = self._spare, None


verifier = Verifier()
atexit.register(verifier.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=verifier.forget)

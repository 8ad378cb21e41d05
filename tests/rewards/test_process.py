"""The worker process: killed, replaced, alone with its process, gone with it."""

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import rewards
from rewards import accuracy_reward, limits, verdicts
from rewards.process import DIED, TIMED_OUT, verifier

BOMB = r"9^{9^{9^9}}"  # with a gold that is no plain number: it has to be computed
GOLD = r"\sqrt{2}"
posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


def completion(answer):
    return f"<think>a</think><answer>{answer}</answer>"


def rewards_of(*answers):
    verdicts._ask.cache_clear()
    return accuracy_reward([completion(a) for a in answers], solution=[GOLD] * len(answers))


def is_running(pid):
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    stat = f"/proc/{pid}/stat"  # a zombie answers to kill, and has ended all the same
    return not os.path.exists(stat) or Path(stat).read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def run_script(source, *arguments):
    """A script of its own, with no guard around its top level."""
    root = os.path.dirname(os.path.dirname(rewards.__file__))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
    )


@pytest.fixture
def short_deadline(monkeypatch):
    monkeypatch.setattr(limits, "DEADLINE_S", 0.5)


def test_a_bomb_is_killed_and_its_neighbours_are_right(short_deadline):
    assert rewards_of(r"\sqrt2", BOMB, r"\sqrt{2}/1", r"\sqrt3") == [1.0, 0.0, 1.0, 0.0]


def test_a_late_worker_is_replaced_by_another_process(short_deadline):
    rewards_of(r"2/\sqrt2")
    before = verifier.pids()
    assert verifier.ask("judge", GOLD, BOMB) == TIMED_OUT
    assert rewards_of(r"2/\sqrt2") == [1.0]
    assert not set(before) & set(verifier.pids())
    assert wait_until(lambda: not any(map(is_running, before)))


def test_the_same_bomb_stalls_a_batch_once(short_deadline):
    rewards_of(r"2/\sqrt2")
    start = time.monotonic()
    assert rewards_of(*[BOMB] * 16) == [0.0] * 16
    assert time.monotonic() - start < 3 * limits.DEADLINE_S  # not sixteen times


def test_a_gold_that_is_too_slow_gives_none(short_deadline):
    verdicts._ask.cache_clear()
    assert accuracy_reward([completion("4")] * 2, solution=[BOMB] * 2) == [None, None]


@pytest.mark.skipif(not os.path.exists("/proc/self/limits"), reason="only Linux caps memory")
def test_memory_is_capped(monkeypatch):
    rewards_of(r"2/\sqrt2")
    (pid,) = verifier.pids()
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    line = next(line for line in lines if line.startswith("Max address space"))
    assert int(line.split()[3]) == limits.MEMORY_MB * 2**20

    monkeypatch.setattr(limits, "DEADLINE_S", 10.0)  # time enough to reach the cap
    peaks, done = [0], threading.Event()

    def watch():
        while not done.wait(0.02):
            with contextlib.suppress(OSError, StopIteration):
                status = Path(f"/proc/{pid}/status").read_text().splitlines()
                peaks.append(int(next(s for s in status if s.startswith("VmPeak")).split()[1]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    reason = verifier.ask("judge", GOLD, "10^{9000000000}")  # 3.7 GB of digits
    done.set()
    watcher.join()
    assert reason != ""
    assert max(peaks) <= limits.MEMORY_MB * 2**10  # VmPeak is in KiB
    assert rewards_of(r"\sqrt{2}/1") == [1.0]


@posix
def test_a_worker_killed_from_outside_is_replaced_and_the_answer_is_still_right():
    rewards_of(r"2/\sqrt2")
    for pid in verifier.pids():
        os.kill(pid, signal.SIGKILL)
    assert rewards_of(r"\sqrt{2}/1", r"\sqrt3") == [1.0, 0.0]


@posix
def test_a_job_that_kills_every_worker_is_given_up(monkeypatch):
    real_receive = rewards.process.Worker.receive

    def receive_from_the_dead(self, seconds):
        if not self.ready:
            return real_receive(self, seconds)
        self.process.kill()
        # On a busy machine the answer was there before the kill: it is not what this test asks about.
        replies = iter(lambda: real_receive(self, 60), None)
        return next(reply for reply in replies if "eof" in reply)

    monkeypatch.setattr(rewards.process.Worker, "receive", receive_from_the_dead)
    assert verifier.ask("judge", GOLD, r"\sqrt{2}/1") == DIED
    monkeypatch.undo()
    assert rewards_of(r"\sqrt{2}/1") == [1.0]


@posix
def test_an_interrupt_leaves_no_answer_behind_for_the_next_question(monkeypatch):
    rewards_of(r"2/\sqrt2")
    verdicts._ask.cache_clear()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        verifier.ask("judge", GOLD, BOMB)
    signal.signal(signal.SIGINT, before)
    assert rewards_of(r"\sqrt3", r"\sqrt{2}/1") == [0.0, 1.0]


def test_threads_share_the_worker_and_get_their_own_answers():
    verdicts._ask.cache_clear()
    got = {}

    def work(n):
        answers = [completion(rf"{k}\sqrt{{{n}}}") for k in range(1, 9)]
        got[n] = accuracy_reward(answers, solution=[rf"\sqrt{{{n * 9}}}"] * 8)

    threads = [threading.Thread(target=work, args=(n,)) for n in (2, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    third = [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert got == {2: third, 3: third, 5: third, 7: third}


def _in_a_child(results):
    results.put((rewards_of(r"\sqrt{2}/1", r"\sqrt3"), verifier.pids()))


@pytest.mark.parametrize(
    "start", [pytest.param("fork", marks=posix), "spawn", pytest.param("forkserver", marks=posix)]
)
@pytest.mark.parametrize("daemon", [False, True])  # a daemon, like a DataLoader worker
def test_each_process_has_a_worker_of_its_own(start, daemon):
    rewards_of(r"2/\sqrt2")
    ours = verifier.pids()
    context = multiprocessing.get_context(start)
    results = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(results,), daemon=daemon)
    child.start()
    child.join(60)
    got, theirs = results.get()
    assert got == [1.0, 0.0]
    assert theirs
    assert not set(ours) & set(theirs)
    assert wait_until(lambda: not any(map(is_running, theirs))), "the child left its worker"
    assert verifier.pids() == ours
    assert rewards_of(r"\sqrt{2}/1") == [1.0]


@posix
def test_a_fork_in_the_middle_of_a_question_does_not_deadlock(short_deadline):
    rewards_of(r"2/\sqrt2")
    busy = threading.Thread(target=verifier.ask, args=("judge", GOLD, BOMB))
    busy.start()
    time.sleep(0.1)  # the lock is held now
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(results,))
    child.start()
    child.join(60)
    busy.join()
    assert child.exitcode == 0
    assert results.get()[0] == [1.0, 0.0]


def test_a_dataloader_worker_may_score():
    torch_data = pytest.importorskip("torch.utils.data")
    loader = torch_data.DataLoader(range(4), num_workers=1, collate_fn=_score_a_batch)
    assert list(loader) == [[1.0]] * 4


def _score_a_batch(batch):
    return accuracy_reward([completion(r"\sqrt{2}/1")], solution=[GOLD])


def test_a_script_without_a_guard_may_score_at_its_top_level():
    script = """
        print("top level")
        from rewards import accuracy_reward
        answer = r"<think>a</think><answer>\\sqrt{8}</answer>"
        print(accuracy_reward([answer], solution=[r"2\\sqrt{2}"]))
    """
    done = run_script(script)
    assert done.stdout.split("\n")[:2] == ["top level", "[1.0]"], done.stderr


def test_nothing_is_left_when_the_process_ends():
    script = """
        from rewards.process import verifier
        verifier.ask("judge", "x", "y")
        print(verifier.pids()[0])
    """
    pid = int(run_script(script).stdout)
    assert wait_until(lambda: not is_running(pid))


@posix
@pytest.mark.parametrize("busy", [False, True])
def test_nothing_is_left_when_the_process_is_killed(busy):
    script = """
        import os, signal, sys, threading, time
        from rewards import limits
        from rewards.process import verifier
        limits.DEADLINE_S, limits.PATIENCE = 1.0, 1
        verifier.ask("judge", "x", "y")
        if sys.argv[1] == "True":
            threading.Thread(target=verifier.ask, args=("judge", "x+2^{0.5}", sys.argv[2])).start()
            time.sleep(0.2)
        print(*verifier.pids(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    pids = [int(pid) for pid in run_script(script, str(busy), BOMB).stdout.split()]
    assert pids
    assert wait_until(lambda: not any(map(is_running, pids)))


def test_a_missing_math_verify_is_one_clear_error(monkeypatch):
    verifier.close()
    monkeypatch.setattr(
        rewards.process,
        "_BOOT",
        "import sys; sys.modules['math_verify'] = None; " + rewards.process._BOOT,
    )
    with pytest.raises(RuntimeError, match="pip install math-verify"):
        rewards_of(r"2/\sqrt2")
    monkeypatch.undo()
    assert rewards_of(r"2/\sqrt2") == [1.0]


def test_the_parent_never_imports_sympy_or_torch():
    script = """
        import sys
        from rewards import accuracy_reward
        accuracy_reward([r"<think>a</think><answer>\\sqrt{8}</answer>"], solution=["x"])
        print(sorted({"sympy", "math_verify", "torch"} & set(sys.modules)))
    """
    assert run_script(script).stdout.strip() == "[]"


def test_the_rewards_are_picklable_and_named_apart():
    functions = [
        rewards.format_reward,
        rewards.accuracy_reward,
        rewards.length_reward,
        rewards.length_reward_within(64),
        rewards.length_reward_within(128),
        rewards.combine([rewards.format_reward, rewards.accuracy_reward], [0.5, 1.0]),
        rewards.combine([rewards.format_reward, rewards.accuracy_reward], [1.0, 0.5]),
    ]
    columns = {"completions": [completion("4")], "solution": ["4"], "completion_ids": [[0] * 32]}
    for function in functions:
        copy = pickle.loads(pickle.dumps(function))
        assert copy.__name__ == function.__name__
        assert copy(**columns) == function(**columns)
    assert len({function.__name__ for function in functions}) == len(functions)


def test_what_is_sent_survives_json():
    assert json.loads(json.dumps("\ud800\x00")) == "\ud800\x00"
    assert rewards_of("\ud800", "\x00", "é") == [0.0, 0.0, 0.0]


def test_a_large_caller_does_not_make_its_worker_look_worn():
    """The kernel hands the caller's memory maximum on through exec: a trainer has gigabytes."""
    script = textwrap.dedent("""
        from rewards import accuracy_reward
        from rewards.process import verifier

        ballast = b"x" * (600 * 2**20)
        pids = set()
        for answer in ("1,2", "3,4", "5,6"):  # not plain numbers: each goes to the worker
            accuracy_reward([f"<think>a</think><answer>{answer}</answer>"], solution=["(7,8)"])
            pids.add(verifier.pids()[0])
        print(len(pids))
    """)
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "1"

"""What this kit claims of a GPU, measured on the one that is here, in one result folder.

    make gpu                                            everything, in order, at most 40 minutes
    python tests/benchmarks/gpu.py --only parity,head   these steps alone
    python tests/benchmarks/gpu.py --small              tiny sizes, no GPU needed: proves this script

Each step is a process of its own with a time limit. One that fails, runs out of time or needs what this
machine lacks (vLLM, a GPU) says so in the result, and the next one starts. The folder then holds

    result.json    card, driver, versions, date; of each step its command, status, seconds and figures
    NAME.log       what a step printed
    peak.png       peak memory of each stage

Steps, most telling first: `card`, `parity` (pytest -m gpu tests/parity), `head` (memory and time of the
token log-probs, float32 and bfloat16), `stages` (SFT, DPO and GRPO by the a100 and t4 recipes on a random
model of Qwen2.5-0.5B's shape, without vLLM), `chain` (lessons 00 to 04 by the same profiles, on the
stand-ins of lab.standins), `engine` (tests/lab/test_vllm.py), `sampler` (GRPO steps of one workload with
generate, with vLLM and with its two sleep levels in bfloat16; the gap in float32 and float16 too), `lessons`
(03 and 04 with this machine's profile, whose stages have to stand in LAB_RUNS).
"""

import argparse
import datetime
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent.parent
HERE = "tests/benchmarks"
PYTHON = sys.executable


class Impossible(RuntimeError):
    """What a step needs and this machine lacks."""


# The steps ---------------------------------------------------------------------------------------
# Each: (out, small) -> [(label, seconds it may take, command, environment, read(out) -> figures)]


def card(out, small):
    return [("card", 120, [PYTHON, f"{HERE}/card.py", str(out / "card.json")], {}, "card.json")]


def parity(out, small):
    xml = out / "parity.xml"
    where = ["tests/parity/test_kl.py"] if small else ["tests/parity"]
    command = [PYTHON, "-m", "pytest", "-q", "-m", "gpu", *where, f"--junitxml={xml}"]
    return [("parity", 480, command, {}, "parity.xml")]


def head(out, small):
    runs = []
    for dtype in ("float32", "bfloat16"):
        name = f"head-{dtype}.json"
        size = ["--positions", "8", "--from", "hidden,"] if small else ["--positions", "8192"]
        device = [
            "--device",
            "cpu" if small else "cuda",
            "--dtype",
            dtype,
            "--json",
            str(out / name),
        ]
        command = [PYTHON, f"{HERE}/token_logps.py", *device, *size]
        runs.append((f"head-{dtype}", 240, command, {}, name))
    return runs[:1] if small else runs


def stages(out, small):
    runs = []
    for profile in ("tiny",) if small else ("a100", "t4"):
        name = f"stages-{profile}.json"
        command = [PYTHON, f"{HERE}/stages.py", profile, "--json", str(out / name)]
        all_ways = ["--steps", "3", "--ways", "recipe,no-checkpointing,this card,generate"]
        command += ["--small", "--steps", "2"] if small else all_ways
        command += ["--dtype", "float16"] if profile == "t4" else []  # as a T4 computes
        environment = {"LAB_RUNS": str(out / "runs" / profile)}
        runs.append((f"stages-{profile}", 480, command, environment, name))
    return runs


def chain(out, small):
    where = out / "standins"
    make = [PYTHON, "-m", "lab.standins", str(where)]
    runs = [("standins", 240, make, {"LAB_PROFILE": "tiny"}, "none")]
    for profile in () if small else ("a100", "t4"):
        environment = {"LAB_PROFILE": profile, "LAB_STANDINS": str(where)}
        environment |= {"LAB_RUNS": str(where / "runs")}
        last = f"standins/runs/grpo_{profile}/manifest.json"
        runs.append((f"chain-{profile}", 600, [PYTHON, "-m", "lab.chain"], environment, last))
    return runs


def engine(out, small):
    needs_vllm()
    xml = out / "engine.xml"
    chosen = ["-k", "dora"] if small else []
    command = [PYTHON, "-m", "pytest", "-q", "tests/lab/test_vllm.py", *chosen, f"--junitxml={xml}"]
    return [("engine", 900, command, {}, "engine.xml")]


# Qwen2-0.5B's shape, 8 completions of a prompt, 512 tokens, accumulation 16.
WORKLOAD = ["--batch", "8", "--accumulation", "16", "--completion", "512"]


def sampler(out, small):
    needs_vllm()
    profile = "tiny" if small else "a100"
    sizes = ["--small", "--steps", "2"] if small else [*WORKLOAD, "--steps", "3"]
    ways = {"bfloat16": "vllm" if small else "generate,vllm,sleep 1,sleep 2", "float32": "vllm"}
    ways |= {} if small else {"float16": "vllm"}  # a CPU has no autocast to it
    runs = []
    for dtype, asked in ways.items():
        name = f"sampler-{dtype}.json"
        command = [PYTHON, f"{HERE}/stages.py", profile, "--json", str(out / name), *sizes]
        command += ["--stages", "grpo", "--dtype", dtype, "--ways", asked]
        environment = {"LAB_RUNS": str(out / "runs" / profile)}  # over the adapters of `stages`
        runs.append((f"sampler-{dtype}", 480, command, environment, name))
    return runs


def lessons(out, small):
    runs = []
    for lesson in ("03_grpo", "04_before_and_after"):
        command = [PYTHON, "-m", "pytest", "-q", "--nbmake", "--nbmake-timeout=1200"]
        command += ["--overwrite", f"--junitxml={out / lesson}.xml", f"notebooks/{lesson}.ipynb"]
        runs.append((lesson, 1500, command, {}, f"{lesson}.xml"))
    if small:
        raise Impossible("the lessons take minutes; `make test` runs them on a CPU")
    return runs


STEPS = {f.__name__: f for f in (card, parity, head, stages, chain, engine, sampler, lessons)}


def needs_vllm():
    if not importlib.util.find_spec("vllm"):
        raise Impossible("no vLLM in this environment")


# Running them ------------------------------------------------------------------------------------


def run(label, limit_s, command, environment, figures, out):
    """One process; returns its record whatever becomes of it."""
    shown = shlex.join(["python" if part == PYTHON else part for part in command])
    record = {"label": label, "command": shown, "status": "done"}
    if environment:
        record["environment"] = environment
    began = time.perf_counter()
    with open(out / f"{label}.log", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | paths() | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it started ends with it
        )
        try:
            record["exit"] = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            record["status"] = f"stopped after {limit_s:.0f} s"
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    record["seconds"] = round(time.perf_counter() - began, 1)
    if record.get("exit"):
        record["status"] = "failed"
        record["last_words"] = (out / f"{label}.log").read_text()[-1500:]
    if (out / figures).exists():
        record["figures"] = read(out / figures)
    return record


def paths():
    """The checkout first, also where it is not installed."""
    mine = [str(ROOT), str(ROOT / "notebooks"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, mine)), "HF_HUB_OFFLINE": "1", "CI": "1"}


def read(path):
    """The figures of a step: its JSON, or the counts and the failures of a test run."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    count = {
        k: sum(int(s.get(k, 0)) for s in suites) for k in ("tests", "failures", "errors", "skipped")
    }
    count["passed"] = count["tests"] - sum(count[k] for k in ("failures", "errors", "skipped"))
    failed = []
    for case in suites[0].iter("testcase") if suites else ():
        for fault in (*case.iter("failure"), *case.iter("error")):
            name = f"{case.get('classname')}::{case.get('name')}"
            failed.append(
                {"test": name, "message": re.sub(r"\s+", " ", fault.get("message", ""))[:400]}
            )
    reasons = {case.get("message", "") for s in suites for case in s.iter("skipped")}
    return count | {"failed": failed, "skip_reasons": sorted(reasons)[:10]}


def portable(result, out):
    """The result as JSON text that names no folder of this machine: it is committed, and read elsewhere."""
    text = json.dumps(result, indent=1) + "\n"
    return text.replace(str(out), "OUT").replace(f"{ROOT}/", "")


def measure(names, out, small, minutes):
    """Every step in order, within `minutes`; result.json is written after each."""
    out.mkdir(parents=True, exist_ok=True)
    ends = time.perf_counter() + 60 * minutes
    result = {
        "command": shlex.join(["python", f"{HERE}/gpu.py", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "small": small,
        "steps": [],
    }
    for name in names:
        try:
            planned = STEPS[name](out, small)
        except Impossible as reason:
            record = {"label": name, "status": f"impossible: {reason}"}
            result["steps"].append(record)
            print(f"{name}: {record['status']}", flush=True)
            continue
        for label, limit_s, command, environment, figures in planned:
            left = ends - time.perf_counter()
            if left < 20:
                record = {"label": label, "status": f"left out: {minutes:g} minutes are over"}
            else:
                record = run(label, min(limit_s, left), command, environment, figures, out)
            result["steps"].append(record)
            print(f"{label}: {record['status']}, {record.get('seconds', 0):.0f} s", flush=True)
            (out / "result.json").write_text(portable(result, out))
    (out / "result.json").write_text(portable(result, out))
    return result


def summary(result):
    """README's lines about a result that is kept: card, parity, the head beside the naive form, stages."""
    steps = {record["label"]: record.get("figures", {}) for record in result["steps"]}
    card = steps["card"]
    torch, trl = (card["versions"][name] for name in ("torch", "trl"))
    lines = [
        f"| card | {card['gpu']}, driver {card['driver']}, torch {torch}, TRL {trl} |",
        f"| date | {result['date'][:10]} |",
    ]
    if "parity" in steps:
        passed, of = (steps["parity"][key] for key in ("passed", "tests"))
        lines.append(f"| `pytest -m gpu tests/parity` | {passed} of {of} passed |")
    if "engine" in steps:
        passed, of = (steps["engine"][key] for key in ("passed", "tests"))
        lines.append(f"| `pytest tests/lab/test_vllm.py` | {passed} of {of} passed |")
    for label, figures in steps.items():
        if not label.startswith("head-"):
            continue
        for who in ("TRL", "ours"):
            time, memory = against_naive(figures["rows"], who)
            lines.append(
                f"| token log-probs, {label.removeprefix('head-')}, {who}, with a backward | "
                f"time {min(time):.2f} to {max(time):.2f} of the naive form's, "
                f"peak memory at most {100 * max(memory):.0f}% |"
            )
    lines += _of_lessons([r for r in result["steps"] if r["label"].startswith("lesson-")])
    benched = [f for f in steps.values() if "profile" in f and "rows" in f]
    return lines + [_of_a_stage(figures, row) for figures in benched for row in figures["rows"]]


def _of_a_stage(figures, row):
    way = "" if row["way"] == "recipe" else f", {row['way']}"
    what = f"a step of {row['stage'].upper()}, {figures['profile']} recipe{way}"
    if "error" in row:
        return f"| {what} | {row['error'].partition(':')[0]} |"
    args = row["args"]
    sizes = "full rows"
    if figures.get("batch"):
        sizes = (
            f"{args['max_completion_length']} tokens, {args['gradient_accumulation_steps']} times "
            f"{args['per_device_train_batch_size']} completions"
        )
    dtype = f", {figures['dtype']}" if figures.get("dtype") else ""
    gap = f", gap {row['gap_mean']:.1e} nats per token" if "gap_mean" in row else ""
    return (
        f"| {what}, Qwen2.5-0.5B's shape{dtype}, {sizes} | "
        f"{row['step_s']:.1f} s, peak memory {row['peak_mb'] / 1024:.1f} GiB{gap} |"
    )


def _of_lessons(records):
    if not records:
        return []
    done = sum(record["status"] == "done" for record in records)
    seconds = ", ".join(f"{record['seconds']:.0f}" for record in records)
    profile = records[0]["environment"]["LAB_PROFILE"]
    what = f"lessons 00 to 04, {profile} profile on stand-ins, without vLLM"
    return [f"| {what} | {done} of {len(records)} ran to their end, in {seconds} s |"]


def against_naive(rows, who):
    """Time and peak memory of `who`, in shares of the naive form's, with a backward."""
    case = ("start", "outputs", "backward")
    naive = {tuple(r[k] for k in case): r for r in rows if r["who"] == "naive"}
    pairs = [(r, naive[tuple(r[k] for k in case)]) for r in rows if r["who"] == who]
    pairs = [(r, n) for r, n in pairs if r["backward"]]
    return [r["seconds"] / n["seconds"] for r, n in pairs], [
        r["peak"] / n["peak"] for r, n in pairs
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "gpu", help="the result folder"
    )
    parser.add_argument("--only", default=",".join(STEPS), help="steps, in this order")
    parser.add_argument("--small", action="store_true", help="tiny sizes; no GPU needed")
    parser.add_argument("--minutes", type=float, default=40, help="for all steps together")
    options = parser.parse_args(argv)
    names = options.only.split(",")
    unknown = set(names) - set(STEPS)
    if unknown:
        parser.error(f"no step {sorted(unknown)}; there are {', '.join(STEPS)}")
    if not options.small and not gpu_is_here():
        parser.error("no NVIDIA GPU here; --small proves the script without one")
    result = measure(names, options.out.absolute(), options.small, options.minutes)
    picture(result, options.out)
    print(f"results: {options.out / 'result.json'}")
    return 0


def gpu_is_here():
    import torch

    return torch.cuda.is_available()


def _way(figures, row):
    return ", ".join(filter(None, (row["way"], figures.get("dtype"))))


def picture(result, out):
    """peak.png: the peak of each stage that was measured on a GPU."""
    rows = [
        (f"{row['stage']}, {step['figures']['profile']}\n{_way(step['figures'], row)}", row)
        for step in result["steps"]
        if "rows" in step.get("figures", {}) and "profile" in step["figures"]
        for row in step["figures"]["rows"]
        if row.get("peak_mb")
    ]
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.5 * len(rows) + 1), layout="constrained")
    axes.barh([label for label, _ in rows], [row["peak_mb"] / 1024 for _, row in rows])
    axes.set_xlabel("peak memory on the GPU, GiB (torch.cuda.max_memory_allocated)")
    axes.invert_yaxis()
    figure.savefig(out / "peak.png", dpi=100)


if __name__ == "__main__":
    sys.exit(main())

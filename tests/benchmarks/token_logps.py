"""Memory and time of token log-probabilities at a real vocabulary, against the naive form and TRL.

    python tests/benchmarks/token_logps.py                            a CPU: 512 positions, float32
    python tests/benchmarks/token_logps.py --device cuda --dtype bfloat16 --positions 8192

Prints the table of README.md beside it, and with --json writes its figures to a file.  On a CPU each row is
measured in a process of its own, whose resident peak is its own; on a GPU torch counts its memory itself.
Figures are ratios to the naive form's within one run, so that they mean the same on a fast machine and on a
slow one.

peak     the most memory beyond the inputs, the gradients that the caller asked for included.
         CPU: the process's resident peak (Linux only); CUDA: torch.cuda.max_memory_allocated
beyond   the same without those gradients, which every way of computing them has to hold
time     the best of several runs.  CPU: processor time of one thread, which a busy machine does
         not stretch; CUDA: wall clock
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import time

VOCABULARY = 151_936  # Qwen2.5 and Qwen3
WIDTH = 896  # Qwen2.5-0.5B


# What is compared: logits or (hidden, head), tokens -> (log-probs, entropy or None) ------------


def naive(logits, tokens, entropy):
    log_probs = logits.float().log_softmax(-1)
    logps = log_probs.gather(-1, tokens[..., None])[..., 0]
    return logps, -(log_probs.exp() * log_probs).sum(-1) if entropy else None


def trl_logits(logits, tokens, entropy):
    from trl.trainer import utils

    if entropy:
        return utils.selective_log_softmax_and_entropy(logits, tokens)
    return utils.selective_log_softmax(logits, tokens), None


def ours_logits(logits, tokens, entropy):
    from reference_math.torch import logprobs

    if entropy:
        return logprobs.per_token_logps_and_entropy(logits, tokens)
    return logprobs.per_token_logps(logits, tokens), None


def naive_head(hidden, weight, tokens, entropy):
    return naive(hidden @ weight.T, tokens, entropy)


def trl_head(hidden, weight, tokens, entropy):
    """The kernel behind add_fused_lm_head."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as chunk

    outputs = ("entropy",) if entropy else ()
    arguments = (tokens.flatten(), 1.0, chunk, None, 1.0, outputs)
    got = ChunkedLogProbFunction.apply(hidden.flatten(0, 1), weight, None, *arguments)
    return got[0], got[1]


def liger_head(hidden, weight, tokens, entropy):
    """Cross-entropy alone: its sum, not one number per token, and no entropy."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return -loss(weight, hidden.flatten(0, 1), tokens.flatten()), None


def ours_head(hidden, weight, tokens, entropy):
    from reference_math.torch import lm_head

    if entropy:
        return lm_head.per_token_logps_and_entropy(hidden, weight, tokens)
    return lm_head.per_token_logps(hidden, weight, tokens), None


FROM_LOGITS = {"naive": naive, "TRL": trl_logits, "ours": ours_logits}
FROZEN = "hidden, head frozen"  # as under LoRA
FROM_HIDDEN = {"naive": naive_head, "TRL": trl_head, "Liger": liger_head, "ours": ours_head}


CASE = ("start", "outputs", "backward", "who")


def cases():
    """(what it starts from, what it computes, with gradient or not, who)."""
    for start, passes in [("logits", (False, True)), ("hidden", (False, True)), (FROZEN, (True,))]:
        for outputs in ("log-probs", "log-probs, entropy"):
            for backward in passes:
                for who in FROM_LOGITS if start == "logits" else FROM_HIDDEN:
                    if who != "Liger" or (outputs == "log-probs" and backward):
                        yield start, outputs, backward, who


# One case, in a process of its own -------------------------------------------------------------


def measure(start, outputs, backward, who, device, dtype, positions, repeats):
    import torch

    torch.manual_seed(0)
    dtype, (B, T) = getattr(torch, dtype), (2, positions // 2)
    tokens = torch.randint(VOCABULARY, (B, T), device=device)
    shapes = [(B, T, VOCABULARY)] if start == "logits" else [(B, T, WIDTH), (VOCABULARY, WIDTH)]
    inputs = [torch.randn(s, device=device, dtype=dtype).mul_(0.1) for s in shapes]
    trained = inputs[:1] if start == FROZEN else inputs
    for x in trained:
        x.requires_grad_(backward)
    method = (FROM_LOGITS if start == "logits" else FROM_HIDDEN)[who]

    def run():
        for x in inputs:
            x.grad = None
        with torch.set_grad_enabled(backward):
            logps, entropy = method(*inputs, tokens, entropy="entropy" in outputs)
            loss = logps.sum() if entropy is None else logps.sum() + 0.5 * entropy.sum()
        if backward:
            loss.backward()

    if device == "cpu":
        torch.set_num_threads(1)
    small = [x[:, :2] if x.ndim == 3 else x for x in inputs]  # imports, compilations, thread pools
    with torch.no_grad():
        method(*[x.detach() for x in small], tokens[:, :2], entropy="entropy" in outputs)
    extra = peak_of(run, device)
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        began = clock(device)
        run()
        synchronise(device)
        seconds.append(clock(device) - began)
    asked_for = sum(x.numel() * x.element_size() for x in trained if backward)
    return {"peak": extra, "beyond": extra - asked_for, "seconds": min(seconds)}


def peak_of(run, device):
    import torch

    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the resident peak starts again from here
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(field):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field)) * 1024


def clock(device):
    return time.process_time() if device == "cpu" else time.perf_counter()


def synchronise(device):
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


# All of them -----------------------------------------------------------------------------------


def available(who, device):
    if who == "TRL":
        return importlib.util.find_spec("trl") is not None
    return who != "Liger" or (device == "cuda" and importlib.util.find_spec("liger_kernel"))


def table(results, options):
    print(f"\n{options.positions} positions, vocabulary {VOCABULARY:,}, width {WIDTH}, ", end="")
    print(f"{options.dtype}, {options.device}\n")
    print("| from | computed | backward | who | peak | beyond | time | peak, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for (start, outputs, backward, who), got in results.items():
        base = results[start, outputs, backward, "naive"]
        ratios = " | ".join(f"{got[key] / base[key]:.2f}" for key in ("peak", "beyond", "seconds"))
        done = "yes" if backward else "no"
        print(f"| {start} | {outputs} | {done} | {who} | {ratios} | {got['peak'] / 1e6:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--from", dest="start", default="", help="only cases that start so")
    parser.add_argument("--json", help="write what was measured to this file, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    place = (options.device, options.dtype, options.positions, options.repeats)
    if options.one:
        print(json.dumps(measure(*json.loads(options.one), *place)))
        return
    results = {}
    for case in (case for case in cases() if case[0].startswith(options.start)):
        if not available(case[-1], options.device):
            print(f"{case[-1]} is not installed for {options.device}: left out", file=sys.stderr)
            continue
        if options.device == "cuda":
            results[case] = measure(*case, *place)
        else:
            command = [sys.executable, *sys.argv, "--one", json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[case] = json.loads(done.stdout.splitlines()[-1])
        print(*case, results[case], file=sys.stderr)
    table(results, options)
    if options.json:
        rows = [dict(zip(CASE, case)) | got for case, got in results.items()]
        with open(options.json, "w") as file:
            json.dump({"options": vars(options), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()

"""Measure how long the same completions take from transformers' `model.generate` and a vLLM engine.

    rows = [lab.speed.measure(**architecture) for architecture in lab.speed.SIZES]
    lab.speed.crossing(rows)      parameters from which vLLM is the faster one, or None

The models are untrained: how fast a model is does not depend on what it has learnt.
"""

import math
import tempfile
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab import model, tasks, vllm

SIZES = (
    {"hidden_size": 128, "intermediate_size": 256, "layers": 3, "heads": 2},
    {"hidden_size": 256, "intermediate_size": 512, "layers": 4, "heads": 4},
    {"hidden_size": 512, "intermediate_size": 1024, "layers": 4, "heads": 8},
)


def measure(completions=64, tokens=32, **architecture):
    """Measure seconds for `completions` of exactly `tokens` tokens each, the fastest of three runs.
    The engine's start is beside it, not in it.

    returns   parameters, generate_s, vllm_s, start_s, pays_after
    """
    folder = model.save_untrained(tempfile.mkdtemp(), **architecture)
    gpu = torch.cuda.is_available()
    kind = vllm.sixteen_bits() if gpu else torch.float32
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()
    plain = plain.to("cuda" if gpu else "cpu")
    tok = AutoTokenizer.from_pretrained(folder)
    ids = [
        tok.apply_chat_template(tasks.prompt(a, b), add_generation_prompt=True, return_dict=False)
        for a, b in tasks.sample(completions, "train", seed=0)
    ]
    row = {
        "parameters": sum(param.numel() for param in plain.parameters()),
        "generate_s": _fastest(lambda: _generate(plain, tok, ids, tokens)),
    }
    began = time.perf_counter()
    engine = vllm.engine(folder, dtype=str(kind).removeprefix("torch."), max_model_len=128)
    row["start_s"] = time.perf_counter() - began
    row["vllm_s"] = _fastest(lambda: _serve(engine, ids, tokens))
    vllm.release(engine)
    return row | {"pays_after": pays_after(row)}


def pays_after(row):
    """Return after how many generations the engine has made up for its start; None if it never does.

    >>> pays_after({"generate_s": 0.5, "vllm_s": 0.3, "start_s": 1.0})
    5
    """
    gain = row["generate_s"] - row["vllm_s"]
    return math.ceil(row["start_s"] / gain) if gain > 0 else None


def crossing(rows):
    """Estimate the parameters at which both take the same time: where the line through the two sizes around it,
    on logarithmic axes, crosses. None if one of them is the faster at every size.

    >>> rows = [{"parameters": n, "generate_s": n, "vllm_s": 10.0} for n in (1, 100)]
    >>> round(crossing(rows), 6)
    10.0
    """
    gains = [math.log(row["generate_s"] / row["vllm_s"]) for row in rows]  # > 0: vLLM is faster
    sizes = [math.log(row["parameters"]) for row in rows]
    for i in range(1, len(rows)):
        if gains[i - 1] < 0 <= gains[i]:
            share = gains[i - 1] / (gains[i - 1] - gains[i])
            return math.exp(sizes[i - 1] + share * (sizes[i] - sizes[i - 1]))
    return None


def _generate(plain, tok, ids, tokens):
    batch = tok.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(plain.device)
    with torch.no_grad():
        out = plain.generate(
            **batch,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            do_sample=True,
            top_k=0,
            top_p=1.0,
        )
    assert out.shape[1] - batch["input_ids"].shape[1] == tokens


def _serve(engine, ids, tokens):
    from vllm import SamplingParams

    pure = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True)
    prompts = [{"prompt_token_ids": prompt} for prompt in ids]
    out = engine.generate(prompts, pure, use_tqdm=False)
    assert all(len(request.outputs[0].token_ids) == tokens for request in out)


def _fastest(work, runs=3):
    """Seconds of the fastest run after one that warms up: what else the machine does only adds."""
    work()
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)

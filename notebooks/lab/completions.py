"""Sample completions of a saved plain model: by vLLM where there is one, else by model.generate.

with completions.writer(folder) as write:
    groups = write(prompts, n=8)                    for each prompt 8 completions
    greedy = write(prompts, temperature=0.0)        for each prompt 1
"""

from contextlib import contextmanager
from typing import NamedTuple

from lab import bars, evaluate, vllm


class Completion(NamedTuple):
    text: str
    tokens: int  # with the one that ends it


@contextmanager
def writer(folder, seed=0):
    """Return a function that samples from the model of a folder without top-k, top-p or penalty."""
    start = _engine if vllm.available(say=lambda line: None) else _generate
    with start(str(folder), seed) as few:

        def write(prompts, n=1, temperature=1.0, max_new_tokens=24, chunk=64):
            if temperature == 0 and n > 1:
                raise ValueError(f"completions: {n} at temperature 0 would be {n} times the same")
            parts = [list(prompts[i : i + chunk]) for i in range(0, len(prompts), chunk)]
            written = (
                few(part, n, temperature, max_new_tokens) for part in bars.over(parts, "sampling")
            )
            return [group for part in written for group in part]

        yield write


@contextmanager
def _engine(folder, seed):
    import torch
    from vllm import SamplingParams

    memory = {} if torch.cuda.is_available() else {"kv_cache_memory_bytes": 1 << 30}
    llm = vllm.engine(folder, max_model_len=512, seed=seed, **memory)

    def few(prompts, n, temperature, max_new_tokens):
        how = SamplingParams(n=n, temperature=temperature, max_tokens=max_new_tokens)
        outputs = llm.chat(prompts, how, use_tqdm=False)
        return [[Completion(o.text, len(o.token_ids)) for o in each.outputs] for each in outputs]

    try:
        yield few
    finally:
        vllm.release(llm)


@contextmanager
def _generate(folder, seed):
    from transformers import AutoTokenizer

    model = plain(folder)
    tok = AutoTokenizer.from_pretrained(folder)
    seeds = iter(range(seed, 10**9))  # a new seed per call, as an engine goes on drawing

    def few(prompts, n, temperature, max_new_tokens):
        asked = [prompt for prompt in prompts for _ in range(n)]
        how = {"batch_size": 64, "temperature": temperature}
        texts = evaluate.written(model, tok, asked, next(seeds), max_new_tokens, **how)
        found = [Completion(text, len(tok(text)["input_ids"]) + ended) for text, ended in texts]
        return [found[i : i + n] for i in range(0, len(found), n)]

    yield few


def plain(folder):
    """Load the model of a folder to sample or to score: in float32, on the GPU where there is one."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")

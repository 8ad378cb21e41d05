"""What a model can do on problems that nothing trained on: sampled at temperature 1, greedy, and the
best of several samples, with Wilson 95% intervals.

Source    Wilson, "Probable inference", JASA 22 (1927): the interval of a proportion;
          pass@k: Chen et al., arXiv 2107.03374
"""

import math
from collections import Counter
from contextlib import contextmanager

import torch
from transformers import GenerationConfig

from lab import progress, tasks
from rewards import accuracy_reward, format_reward


def wilson(successes, n, z=1.959964):
    """The 95% interval of a proportion, (low, high); never outside [0, 1].

    >>> low, high = wilson(9, 10)
    >>> round(low, 3), round(high, 3)
    (0.596, 0.982)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"got {successes} successes of {n}; expected 0 <= successes <= n, n >= 1")
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@torch.no_grad()
def sample(model, tok, prompts, seed, max_new_tokens=64, batch_size=600, temperature=1.0):
    """One completion for each chat prompt, as text. `model` must be plain: see lab.vllm.served.

    The sampling is pure: nothing of the checkpoint's own generation_config but the end of a turn
    counts (Qwen2.5-Instruct ships a top-k, a top-p and a repetition penalty, which vLLM is not
    given either). The global generator is left as it was.
    """
    texts = []
    with torch.random.fork_rng(), _pure(model):
        torch.manual_seed(seed)
        for start in progress.over(range(0, len(prompts), batch_size), "sampling"):
            ids = [
                tok.apply_chat_template(p, add_generation_prompt=True, return_dict=False)
                for p in prompts[start : start + batch_size]
            ]
            batch = tok.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
            out = model.generate(
                **batch.to(model.device),
                max_new_tokens=max_new_tokens,
                do_sample=temperature > 0,
                temperature=temperature or None,
                top_k=0,
                top_p=1.0,
            )
            new = out[:, batch["input_ids"].shape[1] :]
            texts += tok.batch_decode(new, skip_special_tokens=True)
    return texts


@contextmanager
def _pure(model):
    """Within, `model.generate` changes no probability unless it is told to."""
    own = model.generation_config
    ends = {key: getattr(own, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ends)
    try:
        yield
    finally:
        model.generation_config = own


def evaluate(model, tok, n=600, seed=0, greedy=True, pass_n=0, k=16):
    """Held-out accuracy, format and style of a plain model on the built-in task.

    greedy    also answer the same problems at temperature 0
    pass_n    of so many of the problems draw k answers each, for pass@k and the majority
    returns   what a manifest keeps. At temperature 1: heldout_n, heldout_correct,
              heldout_accuracy, heldout_ci95, format_rate, preference_rate (the share of
              completions with the preferred style), accuracy_by_level; and of `at_temperature_0`
              and `best_of_k`
    """
    rows = tasks.grpo_dataset(n, seed=seed, split="heldout")
    texts = sample(model, tok, rows["prompt"], seed=seed)
    right = _right(texts, rows["solution"])
    by_level = {
        level: sum(r for r, k in zip(right, rows["level"]) if k == level)
        / rows["level"].count(level)
        for level in tasks.LEVELS
    }
    scores = {
        "heldout_n": n,
        "heldout_correct": sum(right),
        "heldout_accuracy": sum(right) / n,
        "heldout_ci95": list(wilson(sum(right), n)),
        "format_rate": sum(r == 1.0 for r in format_reward(completions=texts)) / n,
        "preference_rate": sum(tasks.style_of(t) == tasks.PREFERRED for t in texts) / n,
        "accuracy_by_level": by_level,
    }
    if greedy:
        scores |= at_temperature_0(model, tok, rows)
    if pass_n:
        scores |= best_of_k(model, tok, rows.select(range(min(pass_n, n))), k, seed)
    return scores


def at_temperature_0(model, tok, rows):
    """greedy_correct, greedy_accuracy, greedy_ci95; greedy_carry: {n, correct} of sums with a carry."""
    right = _right(sample(model, tok, rows["prompt"], 0, temperature=0.0), rows["solution"])
    carry = [r for r, has in zip(right, rows["carry"], strict=True) if has]
    return {
        "greedy_correct": sum(right),
        "greedy_accuracy": sum(right) / len(right),
        "greedy_ci95": list(wilson(sum(right), len(right))),
        "greedy_carry": {"n": len(carry), "correct": sum(carry)},
    }


def best_of_k(model, tok, rows, k, seed):
    """pass_at_k: share of the problems with a right answer among k; majority: whose most frequent
    answer is right. Both of the same samples, at temperature 1."""
    prompts = [prompt for prompt in rows["prompt"] for _ in range(k)]
    golds = [gold for gold in rows["solution"] for _ in range(k)]
    texts = sample(model, tok, prompts, seed=seed + 1)
    right = _right(texts, golds)
    groups = [slice(i, i + k) for i in range(0, len(texts), k)]
    n = len(groups)
    return {
        "pass_k": k,
        "pass_n": n,
        "pass_at_1": sum(right) / len(right),
        "pass_at_k": sum(any(right[g]) for g in groups) / n,
        "majority": sum(_majority_is_right(texts[g], right[g]) for g in groups) / n,
    }


def _majority_is_right(texts, right):
    answers = [tasks.answer_in(text) for text in texts]
    best = Counter(answer for answer in answers if answer is not None).most_common(1)
    return bool(best) and right[answers.index(best[0][0])]


def _right(texts, golds):
    return [r == 1.0 for r in accuracy_reward(completions=texts, solution=golds)]

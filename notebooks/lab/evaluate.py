"""What a model can do on problems that nothing trained on: sampled at temperature 1, with
Wilson 95% intervals.

Source    Wilson, "Probable inference", JASA 22 (1927): the interval of a proportion
"""

import math

import torch

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

    The sampling is pure (no top-k, no top-p), the global generator is left as it was.
    """
    texts = []
    with torch.random.fork_rng():
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


def evaluate(model, tok, n=600, seed=0):
    """Held-out accuracy, format and style of a plain model on the built-in task.

    returns   what a manifest keeps: heldout_n, heldout_correct, heldout_accuracy, heldout_ci95,
              format_rate, preference_rate (the share of completions with the preferred style),
              accuracy_by_level
    """
    rows = tasks.grpo_dataset(n, seed=seed, split="heldout")
    texts = sample(model, tok, rows["prompt"], seed=seed)
    right = [r == 1.0 for r in accuracy_reward(completions=texts, solution=rows["solution"])]
    by_level = {
        level: sum(r for r, k in zip(right, rows["level"]) if k == level)
        / rows["level"].count(level)
        for level in tasks.LEVELS
    }
    return {
        "heldout_n": n,
        "heldout_correct": sum(right),
        "heldout_accuracy": sum(right) / n,
        "heldout_ci95": list(wilson(sum(right), n)),
        "format_rate": sum(r == 1.0 for r in format_reward(completions=texts)) / n,
        "preference_rate": sum(tasks.style_of(t) == tasks.PREFERRED for t in texts) / n,
        "accuracy_by_level": by_level,
    }

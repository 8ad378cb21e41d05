"""Draw one pool of the untouched model's own completions, and make the rows of two methods from it.

    sft    rejection sampling: train on the completions that keep every rule
    dpo    preference: of one prompt's completions, one that earns more over one that earns less

The pool is drawn once for a set of prompts and kept in runs/models: both methods read the same.

Source    rejection sampling as fine-tuning data: Touvron et al., "Llama 2", arXiv 2307.09288,
          section 3.2.3; pairs told apart by a verifier: Pang et al., arXiv 2404.19733
Lesson    notebooks/09_a_real_model.ipynb        Proof    tests/lab/test_instructions.py
"""

import hashlib
import json

from datasets import Dataset

from lab import completions, runs, smollm
from rewards import instruction_reward


def pool(rows, samples=8, seed=0, max_new_tokens=24, model=smollm.NAME):
    """Draw `samples` completions of each prompt, with what they earn: one dict per prompt.

    returns   list of {prompt, solution, topic, texts, tokens, rewards}
    """
    folder = smollm.found(model)
    key = json.dumps([list(rows["prompt"]), list(rows["solution"]), samples, seed, max_new_tokens])
    key = hashlib.sha256((key + model).encode()).hexdigest()[:12]
    file = runs.root() / "models" / f"pool-{key}.json"
    if not file.exists():
        with completions.writer(folder, seed) as write:
            found = write(rows["prompt"], samples, max_new_tokens=max_new_tokens)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps([[list(each) for each in group] for group in found]))
        partial.replace(file)
    return [_scored(row, group) for row, group in zip(rows, json.loads(file.read_text()))]


def _scored(row, group):
    texts, tokens = zip(*group)
    solution, prompts = [row["solution"]] * len(texts), [row["prompt"]] * len(texts)
    rewards = instruction_reward(texts, solution=solution, prompts=prompts)
    kept = {name: row[name] for name in ("prompt", "solution", "topic")}
    return kept | {"texts": list(texts), "tokens": list(tokens), "rewards": rewards}


def load(stage, rows, samples=8, seed=0, pairs=2):
    """Return the pool of these prompts as the rows that a stage trains on."""
    drawn = pool(rows, samples, seed)
    return kept(drawn) if stage == "sft" else preferred(drawn, pairs)


def kept(drawn):
    """Return prompt and completion of all that keep every rule.

    Raises ValueError for a pool without any.
    """
    rows = [
        {"prompt": one["prompt"], "completion": _said(text)}
        for one in drawn
        for text, reward in zip(one["texts"], one["rewards"])
        if reward == 1.0
    ]
    return _some(rows, drawn, "no completion keeps all rules")


def preferred(drawn, pairs=2):
    """Make at most `pairs` pairs per prompt: the best over the worst, the next best over the next worst.

    Raises ValueError for a pool without any.
    """
    rows = []
    for one in drawn:
        order = sorted(zip(one["rewards"], one["texts"]), key=lambda each: each[0])
        for (low, rejected), (high, chosen) in zip(order[:pairs], order[::-1]):
            if high > low and chosen.strip() and rejected.strip():
                sides = {"chosen": _said(chosen), "rejected": _said(rejected)}
                rows.append({"prompt": one["prompt"], **sides})
    return _some(rows, drawn, "no prompt has completions that earn differently")


def _said(text):
    return [{"role": "assistant", "content": text.strip()}]


def _some(rows, drawn, why):
    if not rows:
        n = sum(len(one["texts"]) for one in drawn)
        raise ValueError(f"rejection: {why} among {n}; draw more, or take an easier level")
    return Dataset.from_list(rows)

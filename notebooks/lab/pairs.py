"""Preference pairs drawn from the model itself, in TRL's conversational DPO format."""

from datasets import Dataset

from lab import evaluate, tasks
from rewards import accuracy_reward, format_reward


def draw(model, tok, n_prompts, seed, samples=4):
    """`samples` completions of each of `n_prompts` training problems: a list of dicts with
    a, b, text, style, right. `model` must be plain: see lab.vllm.served.
    """
    asked = [p for p in tasks.sample(n_prompts, "train", seed) for _ in range(samples)]
    texts = evaluate.sample(model, tok, [tasks.prompt(a, b) for a, b in asked], seed=seed)
    right = accuracy_reward(completions=texts, solution=[str(a + b) for a, b in asked])
    tidy = format_reward(completions=texts)
    return [
        {"a": a, "b": b, "text": text, "style": tasks.style_of(text), "right": r == 1.0}
        for (a, b), text, r, ok in zip(asked, texts, right, tidy)
        if ok == 1.0
    ]


def styled(drawn):
    """The preferred style over the other, both right: nothing but the style tells them apart."""
    right = [d for d in drawn if d["right"]]
    pairs = _pair(
        [d for d in right if d["style"] == tasks.PREFERRED],
        [d for d in right if d["style"] != tasks.PREFERRED],
    )
    if not len(pairs):
        raise ValueError(
            f"no pairs: {len(right)} right completions of {len(drawn)}, and no problem was solved "
            "in both styles; train the SFT stage longer, or draw more samples a problem"
        )
    return pairs


def right_over_wrong(drawn):
    """A right completion over a wrong one in the same style. A lesson in what not to do."""
    pairs = []
    for style in tasks.STYLES:
        same = [d for d in drawn if d["style"] == style]
        pairs += _pair(
            [d for d in same if d["right"]], [d for d in same if not d["right"]]
        ).to_list()
    return Dataset.from_list(pairs)


def _pair(chosen, rejected):
    """One pair a problem that has both; the first of each."""
    first = {}
    for d in rejected:
        first.setdefault((d["a"], d["b"]), d)
    rows = []
    for d in chosen:
        other = first.pop((d["a"], d["b"]), None)
        if other:
            rows.append(
                {
                    "prompt": tasks.prompt(d["a"], d["b"]),
                    "chosen": [{"role": "assistant", "content": d["text"]}],
                    "rejected": [{"role": "assistant", "content": other["text"]}],
                }
            )
    return Dataset.from_list(rows)

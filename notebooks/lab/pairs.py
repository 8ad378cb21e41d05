"""Draw preference pairs from the model itself, in TRL's conversational DPO format."""

import copy
import random

import torch
from datasets import Dataset

from lab import evaluate, tasks, validate
from rewards import accuracy_reward, format_reward


def draw(model, tok, n_prompts, seed, samples=4):
    """Draw `samples` completions of each of `n_prompts` training problems: a list of dicts with
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


def styled(drawn, right=None):
    """Pair the preferred style with the other, both with the same verdict on the sum.

    right     True or False: pairs of right answers alone, or of wrong ones alone. None: both, in
              the share that right answers have in `drawn`, so that neither the pairs nor the
              chosen answers say anything about being right.
    """
    by_verdict = {
        verdict: _pair(
            [d for d in drawn if d["right"] == verdict and d["style"] == tasks.PREFERRED],
            [d for d in drawn if d["right"] == verdict and d["style"] != tasks.PREFERRED],
        )
        for verdict in (True, False)
    }
    rows = by_verdict[right] if right is not None else _in_natural_share(by_verdict, drawn)
    if not rows:
        raise ValueError(
            f"no pairs: {len(drawn)} completions, {sum(d['right'] for d in drawn)} of them right, "
            "and no problem has both styles with one verdict; train the SFT stage longer, or draw "
            "more samples a problem"
        )
    return Dataset.from_list(rows)


def told_apart(model, tok, rows, reward, samples, seed, max_new_tokens=64):
    """Draw `samples` completions of each prompt; pair one that earns most with one that earns least.

    model     plain: see lab.vllm.served
    rows      prompt and solution, as GRPO trains on
    reward    a reward function of `rewards`
    returns   at most one pair per prompt, of those whose completions earn differently

    Raises ValueError where no prompt has two such completions.
    """
    asked = [row for row in rows for _ in range(samples)]
    prompts, golds = ([row[key] for row in asked] for key in ("prompt", "solution"))
    some = {
        "max_new_tokens": max_new_tokens,
        "batch_size": 64,
    }  # of a larger model than the built-in one
    texts = evaluate.sample(model, tok, prompts, seed, **some)
    earned = reward(completions=texts, solution=golds, prompts=prompts)
    found = []
    for i in range(0, len(asked), samples):
        group = [
            (e, t) for e, t in zip(earned[i : i + samples], texts[i : i + samples]) if t.strip()
        ]
        group = sorted((pair for pair in group if pair[0] is not None), key=lambda pair: pair[0])
        if group and group[-1][0] > group[0][0]:
            chosen, rejected = group[-1][1], group[0][1]
            sides = {"chosen": chosen.strip(), "rejected": rejected.strip()}
            said = {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
            found.append({"prompt": prompts[i], **said})
    if not found:
        raise ValueError(
            f"pairs: of {len(rows)} prompts none has two completions of {samples} that earn differently; "
            "draw more samples, or train the stage before longer"
        )
    return Dataset.from_list(found)


def _in_natural_share(by_verdict, drawn):
    """As many pairs as the two verdicts allow in the share that they have in `drawn`."""
    share = sum(d["right"] for d in drawn) / max(1, len(drawn))
    shares = {True: share, False: 1 - share}
    n = min((len(by_verdict[v]) / shares[v] for v in shares if shares[v]), default=0)
    rows = [row for v in shares for row in by_verdict[v][: round(n * shares[v])]]
    random.Random(0).shuffle(rows)
    return rows


def right_over_wrong(drawn):
    """Pair a right completion with a wrong one in the same style. A lesson in what not to do."""
    pairs = []
    for style in tasks.STYLES:
        same = [d for d in drawn if d["style"] == style]
        pairs += _pair([d for d in same if d["right"]], [d for d in same if not d["right"]])
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
    return rows


def heldout(recipe, tok, n=200):
    """Return pairs of the test split of a DPO recipe's data set, those that fit its max_length.

    None for the built-in task, for pairs that are drawn from the model, and for a copy at a `path`, which has
    no other split.
    """
    from lab import loaders

    data = recipe["data"]
    options = data.get("options", {})
    if "name" not in data or "samples" in data or "path" in options:
        return None
    at = {"revision": options["revision"]} if "revision" in options else {}
    rows = loaders.load(data["name"], "dpo", split="test", n=n, seed=recipe["seed"], **at)
    return validate.fitting(rows, "dpo", tok, recipe["args"].get("max_length", 1024))


def won(trainer, rows):
    """Count the pairs whose implicit reward is larger for the chosen answer: (pairs won, pairs).

    trainer    TRL's DPOTrainer; before its first step every margin is 0, and a tie is not won
    rows       pairs with prompt, chosen and rejected

    The model stays in train mode: in eval mode bitsandbytes would repack its 4-bit weights on a CPU.
    """
    prepared = trainer._prepare_dataset(rows, trainer.processing_class, trainer.args, "held-out")
    metrics, found = trainer._metrics, 0.0
    trainer._metrics = copy.deepcopy(metrics)  # what is counted here is no step of the run
    trainer.model.train()
    try:
        # One pair at a time: a mean over one pair is its verdict, and a T4 has room for it.
        for row in prepared:
            batch = trainer._prepare_inputs(trainer.data_collator([row]))
            with torch.no_grad(), trainer.compute_loss_context_manager():
                trainer.compute_loss(trainer.model, batch)
            found += trainer._metrics["train"]["rewards/accuracies"][-1]
    finally:
        trainer._metrics = metrics
    return round(found), len(prepared)

"""Score a model on problems that nothing trained on: sampled at temperature 1, greedy, and the best of
several samples, with the intervals of `lab.intervals`.

    score(model, tok, recipe)      as the recipe asks: on the built-in task, or on a data set's own test split

Source    pass@k: Chen et al., arXiv 2107.03374
"""

import hashlib
import json
import re
from collections import Counter
from contextlib import contextmanager
from typing import NamedTuple

import torch
from transformers import GenerationConfig, StoppingCriteria

from lab import bars, tasks, verified
from lab.intervals import wilson
from rewards import accuracy_reward, format_reward
from rewards.brackets import matching

BOX = "\\boxed{"


def sample(model, tok, prompts, seed, max_new_tokens=64, batch_size=600, temperature=1.0):
    """Sample one completion for each chat prompt, as text. `model` must be plain: see lab.vllm.served.

    The sampling is pure: nothing of the checkpoint's own generation_config but the end of a turn
    counts (Qwen2.5-Instruct ships a top-k, a top-p and a repetition penalty, which vLLM is not
    given either). The global generator is left as it was.
    """
    found = written(model, tok, prompts, seed, max_new_tokens, batch_size, temperature)
    return [text for text, _ in found]


@torch.no_grad()
def written(model, tok, prompts, seed, max_new_tokens, batch_size, temperature):
    """Sample as `sample` does; returns (text, whether it ended by itself) for each prompt.

    Raises ValueError for a model without an end of an answer.
    """
    found = []
    with torch.random.fork_rng(), _pure(model):
        ends = model.generation_config.eos_token_id
        if ends is None:
            raise ValueError(
                "evaluate: the model names no token that ends an answer, so none would end; set "
                "model.generation_config.eos_token_id to the one that its chat template writes"
            )
        ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=model.device)
        torch.manual_seed(seed)
        for start in bars.over(range(0, len(prompts), batch_size), "sampling"):
            ids = [
                tok.apply_chat_template(p, add_generation_prompt=True, return_dict=False)
                for p in prompts[start : start + batch_size]
            ]
            new, ended = _continued(model, tok, ids, ends, max_new_tokens, temperature)
            found += zip(tok.batch_decode(new, skip_special_tokens=True), ended)
    return found


def _continued(model, tok, ids, ends, max_new_tokens, temperature):
    """Return the new tokens of each prompt, and whether they ended by themselves.

    A step of a batch costs nearly as much when one row still writes as when all do. So the rows that go on
    when seven of eight have ended become a batch of their own, and again, until none is left.
    """
    new, ended, going, left = [[] for _ in ids], [False] * len(ids), range(len(ids)), max_new_tokens
    while going and left:
        batch = [ids[i] + new[i] for i in going]
        batch = tok.pad({"input_ids": batch}, padding_side="left", return_tensors="pt")
        width = batch["input_ids"].shape[1]
        out = model.generate(
            **batch.to(model.device),
            max_new_tokens=left,
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_k=0,
            top_p=1.0,
            stopping_criteria=[_MostHaveEnded(width, ends)],
        )[:, width:]
        over = torch.isin(out, ends).any(dim=1).tolist()
        for i, row, has_ended in zip(going, out.tolist(), over):
            new[i] += row
            ended[i] = has_ended
        going = [i for i, has_ended in zip(going, over) if not has_ended]
        left -= out.shape[1]
    return new, ended


class _MostHaveEnded(StoppingCriteria):
    """Stop all rows as soon as seven of eight have written one of `ends` after their first `width` tokens."""

    def __init__(self, width, ends):
        self.width, self.ends = width, ends

    def __call__(self, input_ids, scores, **_):
        ended = torch.isin(input_ids[:, self.width :], self.ends).any(dim=1)
        return (8 * ended.sum() >= 7 * len(ended)).expand(len(ended))


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


def score(model, tok, recipe, **changes):
    """Compute the held-out scores of a plain model, as `evaluate` of its stage's recipe asks for them.

    With a `name` there the problems are that data set's `split`, scored as its task is (`lab.verified`);
    without one those of the built-in task, scored by `evaluate`.

    changes    instead of the recipe's own, e.g. n=50, seed=1
    returns    what a manifest keeps; {} if the recipe asks for no scores
    """
    if "evaluate" not in recipe:
        return {}
    options = recipe["evaluate"] | changes
    if "name" not in options:
        return evaluate(model, tok, **options)
    given = {
        key: options[key] for key in ("max_new_tokens", "seed", "pass_n", "k") if key in options
    }
    rows = heldout(recipe, **changes)
    scores = verified.of(options["name"]).score(model, tok, rows, **given)
    return scores | {"heldout_hash": rows_hash(rows)}


def rows_hash(rows):
    """Return a hash of the problems, in their order: two scores with the same one are of the same problems."""
    content = json.dumps([list(rows["prompt"]), list(rows["solution"])])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def heldout(recipe, n=None, seed=0, **_):
    """Return problems that nothing trains on, for the recipe's stage: a data set with prompt and solution."""
    options = recipe["evaluate"]
    n = n or options["n"]
    if "name" not in options:
        return tasks.grpo_dataset(n, seed=seed, split="heldout")
    from lab import loaders

    return loaders.load(options["name"], "grpo", n=n, seed=seed, **_where(options))


def askable(recipe):
    """Return all problems that a fresh draw of `heldout` can ask: the whole split of the recipe's data set."""
    from lab import loaders

    return loaders.load(recipe["evaluate"]["name"], "grpo", **_where(recipe["evaluate"]))


def _where(options):
    """Arguments of `lab.loaders.load` that say which rows are held out."""
    where = {key: options[key] for key in ("split", "revision", "path") if key in options}
    return where | options.get("options", {})


def example(recipe):
    """Return a held-out problem and a right answer to it in the form that SFT teaches: (messages, text)."""
    options = recipe["evaluate"]
    if "name" not in options:
        return tasks.prompt(38, 47), tasks.completion(38, 47, "terse")
    from lab import loaders

    row = loaders.load(options["name"], "sft", n=1, **_where(options))[0]
    return row["prompt"], row["completion"][0]["content"]


class Judge(NamedTuple):
    """How completions of a task are judged."""

    right: object  # (texts, golds) -> bools: strictly, the answer in the tags
    lenient: object  # text -> the same answer in the tags, wherever it stood


def on_rows(model, tok, rows, max_new_tokens=400, seed=0, batch_size=64, pass_n=0, k=8, judge=None):
    """Score a plain model on problems of a data set with the columns prompt and solution.

    Each problem is judged twice. Strict: the answer stands in the tags that the prompt asks for.
    Lenient: that, or the last box or number of the text is right, whatever the form. Strict alone hides what
    a model knew before it had learnt the form; lenient alone hides that it learnt the form.

    pass_n    of so many of the problems draw k answers each, for pass@k and the majority (`best_of_k`)
    judge     Judge    what is right; by default as rewards.accuracy_reward reads it, and leniently the
              last box or number of a text
    returns   at temperature 1: heldout_n, heldout_correct, heldout_accuracy, heldout_ci95 (strict),
              lenient_accuracy, format_rate, ended_rate (not cut off at max_new_tokens); at
              temperature 0: greedy_correct, greedy_accuracy, greedy_ci95, greedy_lenient, and
              verdicts, the strict verdict of each problem
    """
    right_of, freely = judge or Judge(_right, in_tags)
    n, prompts, golds = len(rows), rows["prompt"], rows["solution"]
    write = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    sampled = written(model, tok, prompts, seed, **write, temperature=1.0)
    greedy = sample(model, tok, prompts, seed, temperature=0.0, **write)
    texts = [text for text, _ in sampled]
    right, verdicts = right_of(texts, golds), right_of(greedy, golds)

    def leniently(texts, strictly):
        free = right_of([freely(text) for text in texts], golds)
        return sum(a or b for a, b in zip(strictly, free, strict=True)) / n

    scores = {
        **rate("heldout", sum(right), n),
        "heldout_n": n,
        "lenient_accuracy": leniently(texts, right),
        "format_rate": sum(r == 1.0 for r in format_reward(completions=texts)) / n,
        "ended_rate": sum(ended for _, ended in sampled) / n,
        **rate("greedy", sum(verdicts), n),
        "greedy_lenient": leniently(greedy, verdicts),
        "verdicts": verdicts,
    }
    if pass_n:
        some = rows.select(range(min(pass_n, n)))
        scores |= best_of_k(model, tok, some, k, seed, right_of, **write)
    return scores


def in_tags(text):
    """Return the last box of a text, or else its last number, in a form that `rewards` reads.

    >>> in_tags("She pays 3 * 4 = 12 dollars, so 1,012.50 are left.")
    '<think>.</think><answer>1,012.50</answer>'
    """
    opened = text.rfind(BOX) + len(BOX) - 1
    closed = matching(text, opened) if BOX in text else None
    found = [text[opened + 1 : closed]] if closed else []
    found = found or re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return f"<think>.</think><answer>{found[-1].rstrip(',')}</answer>" if found else ""


def rate(name, correct, n):
    return {
        f"{name}_correct": correct,
        f"{name}_accuracy": correct / n,
        f"{name}_ci95": list(wilson(correct, n)),
    }


def evaluate(model, tok, n=600, seed=0, greedy=True, pass_n=0, k=16):
    """Compute held-out accuracy, format and style of a plain model on the built-in task.

    greedy    also answer the same problems at temperature 0
    pass_n    of so many of the problems draw k answers each, for pass@k and the majority
    returns   what a manifest keeps. At temperature 1: heldout_n, heldout_correct,
              heldout_accuracy, heldout_ci95, format_rate, preference_rate (the share of
              completions with the preferred style), accuracy_by_level; and of `at_temperature_0`
              (with the verdict of each problem) and `best_of_k`
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
        **rate("heldout", sum(right), n),
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
    """Compute greedy_correct, greedy_accuracy, greedy_ci95; greedy_carry: {n, correct} of sums with a carry;
    verdicts: of each problem."""
    right = _right(sample(model, tok, rows["prompt"], 0, temperature=0.0), rows["solution"])
    carry = [r for r, has in zip(right, rows["carry"], strict=True) if has]
    return {
        **rate("greedy", sum(right), len(right)),
        "verdicts": right,
        "greedy_carry": {"n": len(carry), "correct": sum(carry)},
    }


def best_of_k(model, tok, rows, k, seed, right_of=None, **write):
    """Compute pass_at_k: share of the problems with a right answer among k; majority: whose most frequent
    answer is right. Both of the same samples, at temperature 1."""
    prompts = [prompt for prompt in rows["prompt"] for _ in range(k)]
    golds = [gold for gold in rows["solution"] for _ in range(k)]
    texts = sample(model, tok, prompts, seed=seed + 1, **write)
    right = (right_of or _right)(texts, golds)
    groups = [slice(i, i + k) for i in range(0, len(texts), k)]
    majority = sum(_majority_is_right(texts[g], right[g]) for g in groups) / len(groups)
    return {**pass_at(right, k), "majority": majority}


def pass_at(right, k):
    """Count verdicts that stand in groups of k, one group per problem.

    >>> pass_at([True, False, False, False], 2)
    {'pass_k': 2, 'pass_n': 2, 'pass_at_1': 0.25, 'pass_at_k': 0.5}
    """
    groups = [right[i : i + k] for i in range(0, len(right), k)]
    found = {"pass_k": k, "pass_n": len(groups), "pass_at_1": sum(right) / len(right)}
    return found | {"pass_at_k": sum(map(any, groups)) / len(groups)}


def _majority_is_right(texts, right):
    answers = [tasks.answer_in(text) for text in texts]
    best = Counter(answer for answer in answers if answer is not None).most_common(1)
    return bool(best) and right[answers.index(best[0][0])]


def _right(texts, golds):
    return [r == 1.0 for r in accuracy_reward(completions=texts, solution=golds)]

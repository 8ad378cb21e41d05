"""Short writing tasks whose rules a program can check, for a model that writes English.

    instructions.load("instructions/1", "grpo", n=500)      what `loaders.load` calls

level   rules
1       a word, at least and at most so many words, an ending, one sentence
2       these, and one of: the first word, no comma, no capitals
3       a list: so many items, a word, at least and at most so many words, no comma

A topic goes with a word, and the values of the other rules make a combination. A fifth of the pairs and a
fifth of the combinations, chosen by a hash, are held out: no training prompt has one of either, and a
held-out prompt has both. No rule asks for the topic, except with `mentions`: what that lets through is a
subject of the lesson.

Source    verifiable instruction following: Zhou et al., "IFEval", arXiv 2311.07911, section 2;
          Lambert et al., "Tulu 3", arXiv 2411.15124, section 6.2
Lesson    notebooks/09_a_real_model.ipynb        Proof    tests/lab/test_instructions.py

>>> row = make("the bridge", "blue", 1, {"min_words": 5, "max_words": 8, "ends": "?", "sentences": 1})
>>> print(row["prompt"][1]["content"])
Write one sentence about the bridge. Use the word "blue", use at least 5 and at most 8 words, and end with a question mark.
>>> row["solution"]
'{"word": "blue", "min_words": 5, "max_words": 8, "ends": "?", "sentences": 1}'
"""

import itertools
import json
import random
import zlib

from datasets import Dataset

from lab import evaluate
from rewards import rules
from rewards.instruction import instruction_reward, shares, verdicts

PREFIX = "instructions/"
SYSTEM = "Follow the instruction exactly."
TOPICS = (
    *("the library", "the bridge", "the kitchen", "the garden", "the station", "the market"),
    *("the museum", "the forest", "the harbour", "the school", "the theatre", "the farm"),
    *("the desert", "the castle", "the hospital", "the beach", "the village", "the factory"),
    *("the airport", "the mountain", "the river", "the bakery", "the island", "the tower"),
    *("the classroom", "the lighthouse", "the workshop", "the stadium", "the cave", "the zoo"),
)
WORDS = (
    *("blue", "music", "heart", "window", "friend", "paper", "silver", "morning", "quiet", "stone"),
    *("water", "light", "story", "winter", "green", "letter", "bread", "dance", "clock", "rain"),
    *("child", "night", "wooden", "smile", "secret", "flower", "engine", "dream", "coffee", "old"),
)
MARKS = {".": "a full stop", "?": "a question mark", "!": "an exclamation mark"}
STARTS = ("Today", "Once", "Every", "Sometimes", "Nobody", "Here")
EXTRA = (*(("starts", word) for word in STARTS), ("no_comma", True), ("lower_case", True))
LEVELS = (1, 2, 3)
LEAST = 5  # words of a sentence


def combinations(level):
    """Return every combination of the rules of a level, without the word: a list of dicts."""
    if level not in LEVELS:
        raise ValueError(f"instructions: level is {level!r}; expected one of {LEVELS}")
    if level == 3:
        return [
            {"min_words": 2 * n, "max_words": most, "no_comma": True, "items": n}
            for n in (2, 3, 4, 5)
            for most in range(4 * n, 8 * n, 2)
        ]
    sentences = [
        {"min_words": LEAST, "max_words": most, "ends": mark, "sentences": 1}
        for most in range(7, 15)
        for mark in MARKS
    ]
    if level == 1:
        return sentences
    return [combo | {name: value} for combo in sentences for name, value in EXTRA]


def is_held_out(thing):
    """Tell whether a (topic, word) or a combination of rules is in the held-out fifth."""
    return zlib.crc32(json.dumps(thing).encode()) % 5 == 0


def parts(level, split):
    """Return the (topic, word) pairs and the combinations that a split may use."""
    if split not in ("train", "heldout"):
        raise ValueError(f'instructions: split is {split!r}; expected "train" or "heldout"')
    pairs, combos = list(itertools.product(TOPICS, WORDS)), combinations(level)
    held = split == "heldout"
    return tuple([x for x in every if is_held_out(x) == held] for every in (pairs, combos))


def make(topic, word, level, combo, mentions=False):
    """Make one row: prompt, solution (the rules as JSON), topic, level.

    Raises ValueError for rules that no text can keep.
    """
    kept = {"word": word} | ({"mentions": topic.split()[-1]} if mentions else {}) | combo
    possible(kept)
    text = (_list if "items" in kept else _sentence)(topic, word, kept)
    if mentions:
        text += f' Use the word "{kept["mentions"]}" too.'
    prompt = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return {"prompt": prompt, "solution": json.dumps(kept), "topic": topic, "level": level}


def _sentence(topic, word, kept):
    ask = f'Write one sentence about {topic}. Use the word "{word}", use at least '
    ask += f"{kept['min_words']} and at most {kept['max_words']} words, "
    ask += f'begin with the word "{kept["starts"]}", ' if "starts" in kept else ""
    ask += "use no comma, " if kept.get("no_comma") else ""
    ask += "use no capital letters, " if kept.get("lower_case") else ""
    return f"{ask}and end with {MARKS[kept['ends']]}."


def _list(topic, word, kept):
    return (
        f"Write a list of {kept['items']} things about {topic}, each on a line of its own that begins "
        f'with "- ". Use the word "{word}", use at least {kept["min_words"]} and at most '
        f"{kept['max_words']} words in all, and use no comma."
    )


def possible(kept):
    """Raise ValueError, with the reason, for rules that contradict each other.

    >>> possible({"min_words": 9, "max_words": 7})
    Traceback (most recent call last):
    ValueError: instructions: no text can keep these rules: at least 9 words and at most 7
    """
    kept = rules.read(kept)
    least, most = kept.get("min_words", 1), kept.get("max_words", 10**6)
    asked = {kept[name].lower() for name in ("word", "mentions", "starts") if name in kept}
    why = ""
    if least > most:
        why = f"at least {least} words and at most {most}"
    elif len(asked) > most:
        why = f"{len(asked)} different words and at most {most}"
    elif max(kept.get("items", 0), kept.get("sentences", 0)) > most:
        why = f"more items or sentences than words: at most {most}"
    elif kept.get("lower_case") and not kept.get("starts", "a").islower():
        why = f"no capitals and {kept['starts']!r} first"
    elif "items" in kept and "starts" in kept:
        why = f"lines that begin with '- ' and {kept['starts']!r} first"
    if why:
        raise ValueError(f"instructions: no text can keep these rules: {why}")


def rows(n, level=1, split="train", seed=0, mentions=False):
    """Make `n` instructions of a level as a data set: prompt, solution, topic, level."""
    pairs, combos = parts(level, split)
    rng = random.Random(f"{split}-{level}-{seed}")
    asked = {}
    while len(asked) < n:
        if len(asked) == len(pairs) * len(combos):
            raise ValueError(f"instructions: {n} asked for, level {level} has {len(asked)}")
        pair, combo = rng.choice(pairs), rng.choice(combos)
        asked.setdefault((pair, json.dumps(combo)), (*pair, level, combo, mentions))
    return Dataset.from_list([make(*each) for each in asked.values()])


def load(name, stage, split="train", n=500, seed=0, **options):
    """Return the rows of "instructions/<level>" for a stage: what `loaders.load` gives for that name.

    grpo    prompts with their rules
    sft     completions of the untouched model that keep all rules (`lab.rejection`)
    dpo     pairs of its completions, the one that keeps more rules over the other
    """
    level = int(name.removeprefix(PREFIX)) if name.removeprefix(PREFIX).isdigit() else name
    if stage == "grpo" or split != "train":
        return rows(n, level, {"test": "heldout"}.get(split, split), seed, **options)
    from lab import rejection

    return rejection.load(stage, rows(n, level, "train", seed), seed=seed, **options)


def why_unverifiable(gold):
    """Return why rules cannot be read, "" when they can."""
    try:
        rules.read(gold)
    except ValueError as error:
        return str(error)
    return ""


def score(model, tok, rows, max_new_tokens=24, seed=0, batch_size=100, pass_n=0, k=8):
    """Score a plain model on instructions; a completion is right if it keeps all of its rules.

    returns   at temperature 1: heldout_n, heldout_correct, heldout_accuracy, heldout_ci95, rules (the share
              that keeps each), ended_rate; at temperature 0: greedy_correct, greedy_accuracy,
              greedy_ci95, verdicts; with `pass_n`, of so many of the rows and k completions each:
              pass_k, pass_n, pass_at_1, pass_at_k
    """
    n, prompts = len(rows), rows["prompt"]
    write = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    sampled = evaluate.written(model, tok, prompts, seed, **write, temperature=1.0)
    greedy = evaluate.sample(model, tok, prompts, seed, temperature=0.0, **write)
    found = verdicts([text for text, _ in sampled], rows["solution"], prompts)
    right = [not any(each.values()) for each in found]
    best = kept_all(greedy, rows)
    scores = {
        **evaluate.rate("heldout", sum(right), n),
        "heldout_n": n,
        "rules": shares(found),
        "ended_rate": sum(ended for _, ended in sampled) / n,
        **evaluate.rate("greedy", sum(best), n),
        "verdicts": best,
    }
    if pass_n:
        again = rows.select([i for i in range(min(pass_n, n)) for _ in range(k)])
        texts = evaluate.sample(model, tok, again["prompt"], seed + 1, **write)
        scores |= evaluate.pass_at(kept_all(texts, again), k)
    return scores


def kept_all(texts, rows):
    """Tell of each text whether it keeps all rules of its row."""
    rewards = instruction_reward(texts, solution=rows["solution"], prompts=rows["prompt"])
    return [reward == 1.0 for reward in rewards]

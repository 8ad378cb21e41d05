"""Reward a completion for the rules of its instruction that it keeps."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rewards._types import Completions, Golds
from rewards.completions import prompt_of, text_of
from rewards.rules import failures, words

COPIED = "copied from the instruction"


def instruction_reward(
    completions: Completions,
    solution: Golds | None = None,
    prompts: Completions | None = None,
    log_metric: Callable[[str, float], object] | None = None,
    log_extra: Callable[[str, list[str]], object] | None = None,
    **columns: Any,
) -> list[float]:
    """Give half the share of the rules that are kept, and a further half if all are kept.

    completions   list of N strings or chats   the last assistant message of a chat counts
    solution      list of N rules              JSON objects, as in rewards/rules.py
    prompts       list of N strings or chats   TRL passes them: a copied instruction earns nothing
    returns       list of N floats             in [0, 1]; 1.0 for all rules and for nothing else

    log_metric gets the share of the completions that keep each rule, `instruction/<rule>`, and all
    of them, `instruction/all`; log_extra the reason for each row.
    Raises ValueError without `solution`, for one of another length, and for rules that it cannot read.

    >>> instruction_reward(["The sky is blue."], solution=['{"word": "blue", "ends": "?"}'])
    [0.25]
    """
    found = verdicts(completions, solution, prompts)
    if log_metric is not None:
        for name, share in shares(found).items():
            log_metric(f"instruction/{name}", share)
    if log_extra is not None:
        log_extra("instruction_reason", [reason(each) for each in found])
    return [score(each) for each in found]


def verdicts(
    completions: Completions, solution: Golds | None, prompts: Completions | None = None
) -> list[dict[str, str]]:
    """Return for each completion {rule: why it is broken, "" if it is kept}."""
    if solution is None or isinstance(solution, str) or len(solution) != len(completions):
        got = "none" if solution is None else f"{len(solution)}"
        raise ValueError(
            f"instruction_reward: {len(completions)} completions, rules in `solution`: {got}; give a "
            "list of one JSON object per completion"
        )
    prompts = [None] * len(completions) if prompts is None else prompts
    rows = zip(completions, solution, prompts, strict=True)
    return [_verdict(text_of(c), rules, prompt) for c, rules, prompt in rows]


def _verdict(text, rules, prompt):
    found = failures(text, rules)
    if prompt is not None and copied(text, prompt_of(prompt)):
        return dict.fromkeys(found, COPIED)
    return found


def copied(text: str, instruction: str) -> bool:
    """Tell whether six words or more of the instruction stand in the text, in a row.

    >>> copied("use the word blue and at most 8 words", "Use the word blue and at most 8 words.")
    True
    """
    asked = [word.lower() for word in words(instruction)]
    said = " ".join(word.lower() for word in words(text[:4000]))
    runs = (" ".join(asked[i : i + 6]) for i in range(len(asked) - 5))
    return any(re.search(rf"(?<!\S){re.escape(run)}(?!\S)", said) for run in runs)


def score(verdict: Mapping[str, str]) -> float:
    """Return the reward of a verdict.

    >>> score({"word": "", "ends": ""}), score({"word": "", "ends": "ends with '.', not with '?'"})
    (1.0, 0.25)
    """
    share = sum(not why for why in verdict.values()) / len(verdict)
    return (share + (share == 1)) / 2


def reason(verdict: Mapping[str, str]) -> str:
    """Return why a verdict is not 1, in one line; "all kept" if it is."""
    return "; ".join(dict.fromkeys(why for why in verdict.values() if why)) or "all kept"


def shares(found: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Return {rule: share of the rows with that rule that keep it, "all": share that keep all}.

    >>> shares([{"word": ""}, {"word": "no words"}])
    {'word': 0.5, 'all': 0.5}
    """
    kept = defaultdict(list)
    for verdict in found:
        for name, why in verdict.items():
            kept[name].append(not why)
        kept["all"].append(not any(verdict.values()))
    order = [name for name in kept if name != "all"] + ["all"] * bool(found)
    return {name: sum(kept[name]) / len(kept[name]) for name in order}

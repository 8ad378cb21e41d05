"""1.0 where the answer block equals the gold, 0.0 where it does not, None without a gold."""

from rewards.completions import text_of
from rewards.tags import scan


def accuracy_reward(completions, solution=None, **columns):
    """Compare each answer block with its gold through math-verify.

    completions   list of N strings or chats   the last assistant message of a chat counts
    solution      list of N golds              LaTeX, a number, a box, or GSM8K's "#### 42"
    returns       list of N                    1.0 right, 0.0 wrong, None: gold not verifiable

    Raises ValueError when the data set has no `solution` column, or one of another length.

    >>> accuracy_reward(["<think>2+2</think><answer>4</answer>"], solution=["#### 4"])
    [1.0]
    """
    if solution is None:
        raise ValueError(
            "accuracy_reward: no column `solution`, which holds the gold answers; "
            f"columns passed: {sorted(columns)}. Rename yours with "
            'dataset.rename_column("answer", "solution").'
        )
    if len(solution) != len(completions):
        raise ValueError(
            f"accuracy_reward: {len(completions)} completions but {len(solution)} golds in "
            "`solution`; TRL repeats each gold once per completion of its prompt."
        )
    return [_score(text_of(c), gold) for c, gold in zip(completions, solution, strict=True)]


def _score(text, gold):
    gold = _parse_gold(gold)
    if not gold:
        return None
    answer = scan(text).answer
    if answer is None:
        return 0.0
    from math_verify import verify

    return float(verify(gold, _parse(answer), timeout_seconds=None))


def _parse_gold(gold):
    if gold is None:
        return []
    gold = str(gold).rsplit("####", 1)[-1].strip()
    return _parse(gold) if gold else []


def _parse(text):
    from math_verify import LatexExtractionConfig, parse

    if "\\boxed" not in text:
        text = "\\boxed{" + text.strip("$ \n.") + "}"
    config = LatexExtractionConfig(boxed_match_priority=0)
    return parse(text, [config], fallback_mode="no_fallback", parsing_timeout=None)

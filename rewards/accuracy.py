"""Reward 1.0 where the answer block equals the gold, 0.0 where it does not, None without a gold."""

from collections.abc import Callable, Iterable
from typing import Any

from rewards._types import Completions, Golds
from rewards.process import DIED, TIMED_OUT
from rewards.verdicts import Verdict, explain

_UNPARSED = ("does not parse", "cannot be compared", "words, not mathematics", "answer longer")


def accuracy_reward(
    completions: Completions,
    solution: Golds | None = None,
    prompts: Completions | None = None,
    log_metric: Callable[[str, float], object] | None = None,
    log_extra: Callable[[str, list[str]], object] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Compare each answer block with its gold, by the policy in rewards/POLICY.md.

    completions   list of N strings or chats   the last assistant message of a chat counts
    solution      list of N golds              LaTeX, a number, a box, or GSM8K's "#### 42"
    prompts       list of N strings or chats   TRL passes them: a copied question earns nothing
    returns       list of N                    1.0 right, 0.0 wrong, None: gold not verifiable

    TRL passes log_metric and log_extra: they get the number of golds that cannot be verified,
    of answers that timed out and of those that do not parse, and the reason for each row.
    Raises ValueError when the data set has no `solution` column, or one of another length.

    >>> accuracy_reward(["<think>2+2</think><answer>4</answer>"], solution=["#### 4"])
    [1.0]
    """
    golds = require_golds("accuracy_reward", completions, solution, columns)
    verdicts = explain(completions, golds, prompts)
    if log_metric is not None:
        for name, count in counts(verdicts).items():
            log_metric(f"accuracy/{name}", count)
    if log_extra is not None:
        log_extra("accuracy_reason", [verdict.reason for verdict in verdicts])
    return [verdict.reward for verdict in verdicts]


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Count what else there is to know about a batch than its mean.

    >>> from rewards.verdicts import Verdict
    >>> counts([Verdict(0.0, "timed out"), Verdict(1.0, "right")])
    {'gold_unverifiable': 0, 'timed_out': 1, 'unparseable': 0}
    """
    reasons = [verdict.reason for verdict in verdicts]
    killed = (TIMED_OUT, DIED, "out of memory")
    return {
        "gold_unverifiable": sum(verdict.reward is None for verdict in verdicts),
        "timed_out": sum(reason in killed for reason in reasons),
        "unparseable": sum(reason.startswith(_UNPARSED) for reason in reasons),
    }


def require_golds(
    function: str, completions: Completions, solution: Golds | None, columns: Iterable[str]
) -> Golds:
    """Return the golds, one for each completion, or raise a ValueError that says what to do."""
    if solution is None:
        raise ValueError(
            f"{function}: no column `solution`, which holds the gold answers; other columns: "
            f"{sorted(columns)}. Rename yours: dataset.rename_column('answer', 'solution')."
        )
    if hasattr(solution, "ndim") and not isinstance(solution, str):  # a tensor or an array
        raise ValueError(
            f"{function}: `solution` is a {type(solution).__name__}; golds are a list of strings or "
            "numbers, one per completion. Call .tolist() on it."
        )
    for value in (completions, solution):
        if not hasattr(value, "__len__") or isinstance(value, dict):
            raise ValueError(
                f"{function}: completions and solution are lists, one entry per completion; "
                f"got a {type(value).__name__}."
            )
    if isinstance(solution, str) or isinstance(completions, str):
        raise ValueError(  # noqa: TRY004  one kind of error for every wrong argument
            f"{function}: completions and solution are lists, one entry per completion; "
            "got a single string. Put it in brackets."
        )
    nested = len(solution) > 0 and all(isinstance(gold, (list, tuple)) for gold in solution)
    if nested and len(solution) != len(completions):
        raise ValueError(
            f"{function}: `solution` holds {len(solution)} lists, one per prompt; give one gold per "
            "completion: [gold for golds in solution for gold in golds]."
        )
    if len(solution) != len(completions):
        raise ValueError(
            f"{function}: {len(completions)} completions but {len(solution)} golds in "
            "`solution`; repeat each gold once per completion of its prompt, as TRL does."
        )
    return solution

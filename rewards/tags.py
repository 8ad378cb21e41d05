"""One linear scan of a completion for its <think> and <answer> blocks.

The only completion that is in form, white space around the blocks allowed:

    <think> at least one character </think> <answer> at least one character </answer>

`format_reward` and `accuracy_reward` both read the completion through `scan`, so that
no completion can be well formed for one and malformed for the other. `str.split` walks
the text once: there is no pattern to backtrack, a million characters take milliseconds.
"""

from typing import NamedTuple

TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class Blocks(NamedTuple):
    think: str | None
    answer: str | None
    reason: str  # "" when the completion is in form, else what is wrong with it


def scan(text):
    """Split a completion into its two blocks, or say why that cannot be done.

    >>> scan("<think>2+2</think> <answer>4</answer>")
    Blocks(think='2+2', answer='4', reason='')
    >>> scan("<think>2+2</think> 4").reason
    'no <answer> tag'
    """
    if not isinstance(text, str) or not text.strip():
        return Blocks(None, None, "empty completion")
    for tag in TAGS:
        found = text.count(tag)
        if found != 1:
            return Blocks(None, None, f"{found} {tag} tags" if found else f"no {tag} tag")
    before, rest = text.split("<think>")
    if "</think>" not in rest or "<answer>" not in rest:
        return Blocks(None, None, "tags out of order")
    think, rest = rest.split("</think>")
    if "<answer>" not in rest or "</answer>" not in rest:
        return Blocks(None, None, "tags out of order")
    between, rest = rest.split("<answer>")
    if "</answer>" not in rest:
        return Blocks(None, None, "tags out of order")
    answer, after = rest.split("</answer>")
    if before.strip() or between.strip() or after.strip():
        return Blocks(None, None, "text outside the blocks")
    if not think.strip():
        return Blocks(None, None, "empty <think> block")
    if not answer.strip():
        return Blocks(None, None, "empty <answer> block")
    return Blocks(think.strip(), answer.strip(), "")

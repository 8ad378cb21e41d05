"""Find the <think> and <answer> blocks of a completion in one linear scan.

The only completion that is in form, white space around the blocks allowed:

    <think> something visible </think> <answer> something visible </answer>

`format_reward` and `accuracy_reward` both read the completion through `scan`, so that no
completion can be well formed for one and malformed for the other. `str.count` and
`str.partition` walk the text: there is no pattern to backtrack, and a million characters
take a few milliseconds.
"""

import unicodedata
from typing import NamedTuple

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # control, zero width, white space


class Blocks(NamedTuple):
    think: str | None
    answer: str | None
    reason: str  # "" when the completion is in form, else what is wrong with it


def scan(text: str) -> Blocks:
    """Split a completion into its two blocks, or say why that cannot be done.

    >>> scan("<think>2+2</think> <answer>4</answer>")
    Blocks(think='2+2', answer='4', reason='')
    >>> scan("<think>2+2</think> 4").reason
    'no <answer> tag'
    """
    if is_blank(text):
        return Blocks(None, None, "empty completion")
    for tag in TAGS:
        found = text.count(tag)
        if found != 1:
            return Blocks(None, None, f"{found} {tag} tags" if found else f"no {tag} tag")
    outside, inside, rest = [], [], text
    for opening, closing in (TAGS[:2], TAGS[2:]):
        before, _, rest = rest.partition(opening)
        block, closed, rest = rest.partition(closing)
        if not closed:  # each tag stands once, so this one stood before its opening tag
            return Blocks(None, None, "tags out of order")
        outside.append(before)
        inside.append(block)
    if any(s.strip() for s in (*outside, rest)):
        return Blocks(None, None, "text outside the blocks")
    for block, tag in zip(inside, ("<think>", "<answer>"), strict=True):
        if is_blank(block):
            return Blocks(None, None, f"empty {tag} block")
    return Blocks(inside[0].strip(), inside[1].strip(), "")


def is_blank(text: str) -> bool:
    """Tell whether nothing is visible: white space, zero-width and control characters only."""
    return all(c.isspace() or unicodedata.category(c) in _UNSEEN for c in text)

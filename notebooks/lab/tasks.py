"""The built-in task: two-digit addition, reasoned column by column.

A problem is a pair (a, b). A fifth of all pairs, chosen by a hash, is held out: no text,
example, pair or prompt that trains anything is ever made from those.

Reasoning comes in two styles that carry the same steps. Each step adds one column and the
carry, and writes its result with two digits: the carry, then the digit of the answer.

    terse    2+8=10,1+3+1=05            one line
    steps    ones: 2+8=10 / tens: ...   one line per column

>>> solve(12, 38, "terse")
('2+8=10,1+3+1=05', '50')
>>> print(completion(12, 38, "steps"))
<think>ones: 2+8=10
tens: 1+3+1=05</think>
<answer>50</answer>
"""

import random
import re
import zlib

from datasets import Dataset

LEVELS = {
    1: "no carry",
    2: "a carry out of the ones",
    3: "a carry out of the tens: a sum of three digits",
}
OPERANDS = range(10, 100)
STYLES = ("terse", "steps")
PREFERRED = "terse"
# How raw text puts a sum and its result. The distances vary, so that the base learns to look the
# digits up wherever they stand, and SFT can move the skill into the chat template.
LEADS = (
    *(
        "{}+{}: ",
        "{}+{}=? ",
        "{}+{} is\n",
        "{}+{}?\nWell: ",
        "Add {}+{}.\n",
        "{}+{}.\nStep by step: ",
    ),
    *(
        "Q: {}+{}=?\nA: ",
        "{}+{}? Well, ",
        "Sum {}+{}?\nLet's see. ",
        "{}+{} gives:\n",
        "{}+{}, worked out: ",
    ),
)
TAILS = (". So {}.", "\n{}.", ": {}.", ".\nSum {}.", ", so it is {}.", "\n= {}.")


def level(a, b):
    return 3 if a + b > 99 else 2 if has_carry(a, b) else 1


def has_carry(a, b):
    """Tell whether the ones carry into the tens: where the demonstrations of SFT go wrong.

    >>> has_carry(17, 38), has_carry(71, 83)
    (True, False)
    """
    return a % 10 + b % 10 > 9


def is_held_out(a, b):
    return zlib.crc32(f"{a}+{b}".encode()) % 5 == 0


def problems(split):
    """Return every (a, b) of `split` ("train" or "heldout"), grouped by level: {level: [(a, b)]}."""
    if split not in ("train", "heldout"):
        raise ValueError(f'split is {split!r}; expected "train" or "heldout"')
    by_level = {1: [], 2: [], 3: []}
    for a in OPERANDS:
        for b in OPERANDS:
            if is_held_out(a, b) == (split == "heldout"):
                by_level[level(a, b)].append((a, b))
    return by_level


def sample(n, split, seed):
    """Draw `n` problems, the levels in equal parts, without repeats while a level has enough."""
    rng = random.Random(f"{split}-{seed}")
    by_level = problems(split)
    drawn = []
    for k, pairs in by_level.items():
        share = n // 3 + (k <= n % 3)
        rng.shuffle(pairs)
        drawn += [pairs[i % len(pairs)] for i in range(share)]
    rng.shuffle(drawn)
    return drawn


def solve(a, b, style, slip=None):
    """Write the reasoning and the answer. `slip(column, total)` may return a wrong column total."""
    steps, digits, carry = [], "", 0
    for column in (0, 1):
        x, y = a // 10**column % 10, b // 10**column % 10
        total = x + y + carry
        shown = f"{x}+{y}" + (f"+{carry}" if column else "")
        total = slip(column, total) if slip else total
        steps.append(f"{shown}={total:02d}")
        carry, digits = total // 10, f"{total % 10}{digits}"
    if style == "terse":
        thought = ",".join(steps)
    elif style == "steps":
        thought = "\n".join(f"{name}: {step}" for name, step in zip(("ones", "tens"), steps))
    else:
        raise ValueError(f"style is {style!r}; expected one of {STYLES}")
    return thought, str(int(f"{carry}{digits}"))


def slip_in_one_column(rng, wrong):
    """Make a slip for `solve`: with probability `wrong`, one column gets a wrong total."""
    slip_at = rng.choice((0, 1)) if rng.random() < wrong else None

    def slip(column, total):
        return total if column != slip_at else rng.choice([t for t in range(20) if t != total])

    return slip


def carry_not_added(rng, share):
    """Make a slip for `solve`: with probability `share` the carry is written down and not added.

    Unlike a slip in a random column it always gives the same wrong result, so above one half it
    is the majority among the demonstrations of a sum with a carry. A sum without one stays right.

    >>> solve(17, 38, "terse", carry_not_added(random.Random(0), 1.0))
    ('7+8=15,1+3+1=04', '45')
    """
    carry, skip = 0, rng.random() < share

    def slip(column, total):
        nonlocal carry
        if column == 0:
            carry = total // 10
        return total - carry if column and skip else total

    return slip


def prompt(a, b):
    return [{"role": "user", "content": f"{a}+{b}=?"}]


def completion(a, b, style, slip=None):
    thought, answer = solve(a, b, style, slip)
    return f"<think>{thought}</think>\n<answer>{answer}</answer>"


def style_of(text):
    """Return the style of a completion's reasoning, or None: read off the text alone."""
    thought = text.partition("<think>")[2].partition("</think>")[0]
    if not thought:
        return None
    return "steps" if "ones:" in thought or "tens:" in thought else "terse"


def answer_in(text):
    """Return what stands in the answer tags of a completion, or None.

    >>> answer_in(completion(12, 34, "terse"))
    '46'
    """
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return found[1].strip() if found else None


def sft_dataset(n, carry_error, seed=0):
    """Make rows in TRL's conversational prompt/completion format, both styles in equal parts.

    carry_error   the share of the sums with a carry in which it is written down and not added.
                  The error is systematic: above one half SFT's likeliest answer has it too
    """
    rng = random.Random(f"sft-{seed}")
    rows = []
    for i, (a, b) in enumerate(sample(n, "train", seed)):
        text = completion(a, b, STYLES[i % 2], carry_not_added(rng, carry_error))
        rows.append(
            {"prompt": prompt(a, b), "completion": [{"role": "assistant", "content": text}]}
        )
    return Dataset.from_list(rows)


def grpo_dataset(n, seed=0, split="train"):
    """Make rows in TRL's prompt-only format with the gold in `solution`."""
    return Dataset.from_list(
        [
            {
                "prompt": prompt(a, b),
                "solution": str(a + b),
                "level": level(a, b),
                "carry": has_carry(a, b),
            }
            for a, b in sample(n, split, seed)
        ]
    )


def any_pair(rng):
    """Draw a training pair of any level."""
    a, b = rng.choice(OPERANDS), rng.choice(OPERANDS)
    return any_pair(rng) if is_held_out(a, b) else (a, b)


def raw_document(rng, wrong):
    """Write a line as the web has it: no chat, and with probability `wrong` a slip in one column."""
    a, b = any_pair(rng)
    thought, answer = solve(a, b, rng.choice(STYLES), slip_in_one_column(rng, wrong))
    return rng.choice(LEADS).format(a, b) + thought + rng.choice(TAILS).format(answer)


def columns(a, b, style):
    """Write out the columns of a sum in a style's way, without their results.

    >>> columns(12, 38, "terse")
    '2+8,1+3'
    """
    return re.sub(r"(\d\+\d)(\+\d)?=\d\d", r"\1", solve(a, b, style)[0])


def chat_document(rng):
    """Write a chat in the template about two numbers, never about their sum: it teaches the tags and
    where to look, not the task. In half of them the columns are set out, and nothing added.
    """
    a, b = any_pair(rng)
    if rng.random() < 0.5:
        kind, thought = "columns", columns(a, b, rng.choice(STYLES))
        answer = rng.choice((f"{a}", f"{b}"))
    else:
        kind, answer = rng.choice(
            (("copy", f"{a}+{b}"), ("swap", f"{b}+{a}"), ("ones", f"{a % 10},{b % 10}"))
            + (("tens", f"{a // 10},{b // 10}"), ("first", f"{a}"), ("last", f"{b}"))
        )
        thought = rng.choice((f"{kind} {answer}", f"{kind}:\n{answer}", answer))
    text = f"<think>{thought}</think>\n<answer>{answer}</answer>"
    return [
        {"role": "user", "content": f"{kind} {a}+{b}{rng.choice(('', '?', '.', '=?'))}"},
        {"role": "assistant", "content": text},
    ]

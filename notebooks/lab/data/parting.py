"""Find where TRL splits prompt and answer, and whether the row means the same place.

TRL tokenises the prompt alone, then prompt and answer together, and calls what both begin with the
prompt. Where the last token of the prompt grows together with the answer, the answer begins
earlier. Without a prompt column, what chosen and rejected share is the prompt, to the last letter.
"""

import re

from trl import extract_prompt
from trl.data_utils import common_prefix_length

from lab.data.marks import Marker
from lab.data.problems import Problem, cut

MERGED = (
    "prompt and answer grow together into one token: the model would be trained to begin with the "
    "end of the prompt, and be asked with all of it; end the prompt where a token ends (a space "
    "goes to the front of the answer)"
)
OTHERWISE = (
    "the chat template ends a prompt otherwise when the model is asked than in what is trained; the "
    "end is left out in training, so the model is trained after another prompt than it gets"
)
GLUED = (
    "neither the end of the prompt nor the beginning of the answer is a space, and TRL puts none "
    "between them"
)
GUESSED = (
    "there is no column `prompt`, and what chosen and rejected share is no prompt ({}); add one"
)
SHARED = (
    "there is no column `prompt`: TRL takes what chosen and rejected share; if that is more than "
    "the question, add one"
)
CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # written without spaces
IN_WORD = re.compile(  # a place inside a word or a number, written as |
    rf"[^\W{CJK}]\|[^\W{CJK}]"  # bl|ue, 4|2
    r"|\d[.,:/]\|\d"  # 3.|5
    r"|(?:^|\s)[-+−$€£]\|[\d.]"  # -|4
    r"|\w['’]?\|['’]?\w*['’-]\w"  # I|'m, can|'t
    r"|\w['’-]\|\w"  # well-|known
)


def check_merged(sequence, reader, row):
    """Detect a prompt whose last tokens change once the answer follows."""
    shared = common_prefix_length(sequence.prompt_ids, sequence.ids)
    rest = sequence.prompt_ids[shared:]
    if not rest:  # where TRL still takes less for the prompt, the other side of the pair says why
        if isinstance(sequence.prompt, str):
            yield from _check_glued(sequence)
        return
    decode = reader.tokenizer.decode
    example = (
        f"TRL would take {cut(decode(sequence.ids[:shared]), 40)} for the prompt, and train "
        f"{cut(decode(sequence.ids[shared:]), 24)} in place of its end {cut(decode(rest))}"
    )
    if isinstance(sequence.whole, str) or _words_follow(sequence, reader, row):
        yield Problem(MERGED, example)
    else:
        yield Problem(OTHERWISE, example, "noted")


def _words_follow(sequence, reader, row):
    """Whether the answer's own words come right after the prompt, not something of the template."""
    chat = Marker().chat(sequence.whole)
    prompt, answer = chat[: len(sequence.prompt)], chat[len(sequence.prompt)]
    asked = reader.text(prompt, row, add_generation_prompt=True)
    text, words = reader.text(chat, row), answer.get("content")
    if not text.startswith(asked) or not isinstance(words, str) or not words.strip():
        return False
    return text[len(asked) :].startswith((words, words.strip()))


def check_guess(row):
    """Check the prompt that TRL guesses for a pair without one."""
    chosen, rejected = row["chosen"], row["rejected"]
    text, shorter = isinstance(chosen, str), min(chosen, rejected, key=len)
    parts = extract_prompt({"chosen": chosen, "rejected": rejected})
    guess = cut(
        parts["prompt"] if text else [message.get("content") for message in parts["prompt"]]
    )
    example = f"TRL would take {guess} for the prompt"
    if chosen[: len(shorter)] == rejected[: len(shorter)]:
        yield Problem(GUESSED.format("one is the beginning of the other"), example)
    elif not text and parts["prompt"][-1]["role"] not in ("user", "tool"):
        yield Problem(GUESSED.format("it does not end with the user"), example)
    elif text and any(inside_word(parts["prompt"], parts[side]) for side in ("chosen", "rejected")):
        yield Problem(GUESSED.format("it ends inside a word"), example)
    elif text:
        yield Problem(SHARED, example, "noted")


def inside_word(before, after):
    """Tell whether two texts part inside a word or a number.

    >>> inside_word("It is 4", "2"), inside_word("It is", " 42"), inside_word("2+2=", "4")
    (True, False, False)
    """
    return bool(IN_WORD.search(f"{before[-3:]}|{after[:3]}"))


def _check_glued(sequence):
    answer = sequence.whole[len(sequence.prompt) :]
    if re.search(rf"[^\W{CJK}]\|[^\W{CJK}]", f"{sequence.prompt[-1:]}|{answer[:1]}"):
        yield Problem(GLUED, cut(sequence.prompt[-12:] + answer[:12]), "noted")

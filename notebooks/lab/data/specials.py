"""Find special tokens where only words belong, and BOS or EOS twice.

A chat template writes the special tokens of a chat, and TRL ends plain text with EOS. Special tokens
in the words come in addition: the model would learn to stop and go on, or to begin twice.
"""

import re

from lab.data.columns import texts
from lab.data.problems import Problem, cut

CONTROL = re.compile(  # how the tokenizers of the field write their special tokens
    r"<\|[^<>|\s]{1,40}\|?>|<｜[^<>｜\s]{1,40}｜>|</?s>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>|"
    r"<(?:start|end)_of_turn>"
)
MEANT = re.compile(r"think|tool|reason|channel|image|video|audio|vision|fim_")  # belong into words

IN_CHAT = "special tokens inside the words of a chat: the chat template writes them; cut them out"
CONTROL_IN_CHAT = (
    "control tokens of some model inside the words of a chat: cut them out if they are no words"
)
EOS_INSIDE = (
    "EOS inside the answer: the model would learn to stop there and to go on; cut the answer off "
    "at the first EOS, or cut EOS out"
)
IN_TEXT = (
    "special tokens inside the words: if these are chats that a template has written already, "
    "pass them as `messages`; else cut them out"
)
BOS_TWICE = "BOS more than once: the tokenizer adds it already; cut it out of the text"
EOS_TWICE = (
    "EOS twice at the end: TRL adds it where the text does not end with it; strip what comes after "
    "the first one"
)


class Specials:
    """Looks for special tokens in rows, with one tokenizer."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        added = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        self.known = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
        self.structure = {*tokenizer.all_special_tokens}
        self.pattern = re.compile("|".join([*map(re.escape, self.known), CONTROL.pattern]))

    def in_chat(self, messages, skeleton):
        """Find special tokens in the words of a chat; `skeleton` is what its template writes around them."""
        for index, message in enumerate(messages):
            for text in texts({**message, "role": None}):
                for token in self.pattern.findall(text):
                    if MEANT.search(token):
                        continue
                    example = f"message {index}, {cut(_around(text, token))}"
                    if token in skeleton or token in self.structure:
                        yield Problem(IN_CHAT, example)
                    else:
                        yield Problem(CONTROL_IN_CHAT, example, "noted")

    def in_text(self, sequence):
        """Find BOS or EOS twice, and special tokens inside, in a sequence of plain text."""
        text, tokenizer = sequence.whole, self.tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        if bos is not None and bos != eos and sequence.ids.count(bos) > 1:
            yield Problem(BOS_TWICE, cut(text))
        if bos is not None and bos == eos and sequence.ids[:2] == [bos, bos]:
            yield Problem(BOS_TWICE, cut(text))
        ended = any(sequence.trained)  # a prompt of GRPO has no EOS to come
        body = text.removesuffix(tokenizer.eos_token) if ended else text
        if ended and body.rstrip().endswith(tokenizer.eos_token):
            yield Problem(EOS_TWICE, cut(text))
        elif ended and tokenizer.eos_token in body[len(sequence.prompt or body) :]:
            yield Problem(EOS_INSIDE, cut(text))
        elif token := self.pattern.search(body):
            yield Problem(IN_TEXT, cut(_around(text, token.group())), "noted")


def _around(text, token, width=30):
    """The place in a text where the token is."""
    at = text.index(token)
    return text[max(0, at - width) : at + len(token) + width]

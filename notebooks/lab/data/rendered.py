"""Render, tokenise and mask one row with TRL's own functions.

    reader = Reader("sft", ("messages",), tokenizer, Settings(assistant_only_loss=True))
    reader.sequences(row)      [Sequence]: one for SFT and GRPO, chosen and rejected for DPO

TRL does this inside `_prepare_dataset`, for a whole data set at once. Here it is done row by row,
so that a problem has a row. tests/lab/test_rendered.py compares both over TRL's chat templates.
"""

import json
from typing import NamedTuple

from trl import extract_prompt
from trl.chat_template_utils import (
    get_training_chat_template,
    has_generation_markers,
    is_chat_template_prefix_preserving,
)
from trl.data_utils import _tokenize, common_prefix_length, is_conversational


class Settings(NamedTuple):
    """The arguments of the trainer that decide what is trained on, with TRL's names and defaults."""

    assistant_only_loss: bool = False  # SFTConfig
    completion_only_loss: bool | None = None  # SFTConfig; None: where there is a completion
    truncation_mode: str = "keep_start"  # SFTConfig and DPOConfig
    max_completion_length: int | None = None  # GRPOConfig
    chat_template_kwargs: dict | None = None  # GRPOConfig; for SFT and DPO it is a column
    tools: list | None = None  # GRPOTrainer; for SFT and DPO it is a column


class Sequence(NamedTuple):
    """One token sequence as it is trained on, before it is cut to max_length."""

    side: str  # "chosen" or "rejected" for DPO, else ""
    prompt: object  # what comes before the answer: text, messages, or None
    whole: object  # what was tokenised: text, or messages
    prompt_ids: list  # the prompt tokenised alone
    prompt_len: int  # the tokens of `ids` that TRL takes for the prompt
    ids: list
    trained: list  # True for each token of `ids` that carries loss


class Reader:
    """Reads rows as the trainer of `kind` does."""

    def __init__(self, kind, columns, tokenizer, settings):
        self.kind, self.columns, self.tokenizer, self.settings = kind, columns, tokenizer, settings
        self.chat_template = None
        wanted = kind == "sft" and settings.assistant_only_loss
        if wanted and not has_generation_markers(tokenizer.chat_template or ""):
            self.chat_template = _training_template(tokenizer, "assistant_only_loss")
        if kind == "grpo" and settings.tools and not is_chat_template_prefix_preserving(tokenizer):
            self.chat_template = _training_template(tokenizer, "tools")
        self.masked = kind == "sft" and settings.completion_only_loss is not False

    def sequences(self, row):
        """Return the sequences of a row; raises what TRL would raise in this row."""
        if self.kind == "grpo":
            return [self._prompt_only(row)]
        if self.kind == "dpo":
            return self._pair(row)
        if "prompt" in self.columns:
            whole = self.joined(row["prompt"], row["completion"])
            return [
                self._completion("", row, row["prompt"], whole, self.settings.assistant_only_loss)
            ]
        return [self._whole(row)]

    def options(self, row):
        """Return the keyword arguments of the chat template for this row."""
        if self.kind == "grpo":
            tools = self.settings.tools or None  # as GRPOTrainer passes them
            return {"tools": tools, **(self.settings.chat_template_kwargs or {})}
        tools = row.get("tools")
        tools = json.loads(tools) if isinstance(tools, str) else tools
        return {"tools": tools, **row.get("chat_template_kwargs", {})}

    def text(self, messages, row, **more):
        """Return the text that the template writes for a chat."""
        options = {"chat_template": self.chat_template, **self.options(row), **more}
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    def joined(self, prompt, answer):
        """Tokenise prompt and answer as TRL does: it ends plain text with EOS, chats by template."""
        if not isinstance(answer, str):
            return [*prompt, *answer]
        eos = self.tokenizer.eos_token
        return prompt + answer + ("" if answer.endswith(eos) else eos)

    def pair(self, row):
        """Return a pair with its prompt: TRL's guess where the row has none."""
        return row if "prompt" in self.columns else {**row, **extract_prompt(row)}

    def _pair(self, row):
        row = self.pair(row)
        both = [
            self._completion(side, row, row["prompt"], self.joined(row["prompt"], row[side]), False)
            for side in ("chosen", "rejected")
        ]
        shared = min(sequence.prompt_len for sequence in both)  # TRL has one prompt for both
        return [
            sequence._replace(prompt_len=shared, trained=_from(shared, sequence.ids))
            for sequence in both
        ]

    def _completion(self, side, row, prompt, whole, assistant_only):
        chat = {}
        if not isinstance(whole, str):
            chat = {"chat_template": self.chat_template, **self.options(row)}
        opening = {"add_generation_prompt": True, **chat} if chat else {}
        prompt_ids = _tokenize(self.tokenizer, prompt, **opening)["input_ids"]
        masks = {"return_assistant_tokens_mask": assistant_only} if chat else {}
        encoded = _tokenize(self.tokenizer, whole, **masks, **chat)
        ids = encoded["input_ids"]
        prompt_len = common_prefix_length(prompt_ids, ids)
        trained = _from(prompt_len if self.masked or self.kind == "dpo" else 0, ids)
        if "assistant_masks" in encoded:
            pairs = zip(trained, encoded["assistant_masks"], strict=True)
            trained = [bool(a and b) for a, b in pairs]
        return Sequence(side, prompt, whole, prompt_ids, prompt_len, ids, trained)

    def masked_ids(self, messages, row):
        """Tokenise a chat of `messages`, with the mask of what carries loss."""
        encoded = _tokenize(
            self.tokenizer,
            messages,
            return_assistant_tokens_mask=self.settings.assistant_only_loss,
            chat_template=self.chat_template,
            **self.options(row),
        )
        ids = encoded["input_ids"]
        return ids, [bool(bit) for bit in encoded.get("assistant_masks", [1] * len(ids))]

    def _whole(self, row):
        if not is_conversational({self.columns[0]: row[self.columns[0]]}):
            text = self.joined("", row["text"])
            ids = _tokenize(self.tokenizer, text)["input_ids"]
            return Sequence("", None, text, [], 0, ids, [True] * len(ids))
        ids, trained = self.masked_ids(row["messages"], row)
        return Sequence("", None, row["messages"], [], 0, ids, trained)

    def _prompt_only(self, row):
        prompt, options = row["prompt"], {}
        if not isinstance(prompt, str):
            options = {"chat_template": self.chat_template, "add_generation_prompt": True}
            options |= self.options(row)
        ids = _tokenize(self.tokenizer, prompt, **options)["input_ids"]
        return Sequence("", prompt, prompt, ids, len(ids), ids, [False] * len(ids))


def _training_template(tokenizer, setting):
    try:
        return get_training_chat_template(tokenizer)
    except ValueError as error:
        raise ValueError(
            f"validate: {setting} needs one of the chat templates that TRL can patch for training, "
            "and this is none of them; put {% generation %} ... {% endgeneration %} around the "
            "answers in tokenizer.chat_template, or leave the setting out"
        ) from error


def _from(start, ids):
    return [position >= start for position in range(len(ids))]

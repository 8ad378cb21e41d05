"""Replace the words of chats by marks: what is missing in the rendered text was left out.

Every run of words becomes a mark that occurs once. What templates look for (roles, `<think>`, the
order of the messages) stays as it is, so that a template takes the same branches as for the row.
"""

import json
import re
from typing import NamedTuple

from jinja2 import TemplateError
from trl.chat_template_utils import get_training_chat_template

ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError)  # of a chat template
REASONING = ("reasoning_content", "reasoning", "thinking")
MARKUP = re.compile(r"(<[^<>\s]{1,40}>|\[/?[A-Z_]{3,20}\])")  # what templates look for in words


class Mark(NamedTuple):
    """One run of words, and what stands in its place."""

    name: str
    index: int  # of its message
    kind: str  # "content", "blocks", "<think>", "tool_calls", or a field of REASONING
    words: str


class Marker:
    """Replaces the words of a chat by marks.

    >>> marker = Marker()
    >>> marker.chat([{"role": "assistant", "content": "<think>so</think> 4"}])
    [{'role': 'assistant', 'content': '<think>q0z</think> q1z'}]
    >>> [(mark.kind, mark.words) for mark in marker.marks]
    [('<think>', 'so'), ('content', '4')]
    """

    def __init__(self, markup=MARKUP):
        self.marks, self.markup = [], markup

    def chat(self, messages):
        return [self._message(message, index) for index, message in enumerate(messages)]

    def _message(self, message, index):
        marked = dict(message)
        content = message.get("content")
        if isinstance(content, str):
            marked["content"] = self._text(content, index, "content")
        elif isinstance(content, list):
            marked["content"] = [self._block(part, index) for part in content]
        for field in REASONING:
            if isinstance(message.get(field), str):
                marked[field] = self._text(message[field], index, field)
        if isinstance(message.get("tool_calls"), list):
            marked["tool_calls"] = [self._call(call, index) for call in message["tool_calls"]]
        return marked

    def _block(self, part, index):
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            return part
        return {**part, "text": self._text(part["text"], index, "blocks")}

    def _text(self, text, index, kind):
        parts = self.markup.split(text)
        inside = False
        for place, part in enumerate(parts):
            if place % 2:
                inside = {"<think>": True, "</think>": False}.get(part, inside)
            elif words := part.strip():
                thought = inside or (kind == "content" and "</think>" in parts[place + 1 :])
                name = self._mark(words, index, "<think>" if thought else kind)
                parts[place] = part.replace(words, name, 1)
        return "".join(parts)

    def _call(self, call, index):
        function = call.get("function") or call
        marked = dict(function)
        if isinstance(function.get("name"), str):
            marked["name"] = self._mark(function["name"], index, "tool_calls")
        marked["arguments"] = self._arguments(function.get("arguments"), index)
        return {**call, "function": marked} if call.get("function") else marked

    def _arguments(self, arguments, index):
        if not isinstance(arguments, str):
            return self._leaves(arguments, index)
        try:
            return json.dumps(self._leaves(json.loads(arguments), index), ensure_ascii=False)
        except json.JSONDecodeError:
            return arguments

    def _leaves(self, value, index):
        if isinstance(value, dict):
            return {key: self._leaves(item, index) for key, item in value.items()}
        if isinstance(value, list):
            return [self._leaves(item, index) for item in value]
        if isinstance(value, str) and value.strip():
            return self._mark(value, index, "tool_calls")
        return value

    def _mark(self, words, index, kind):
        name = f"q{len(self.marks)}z"
        self.marks.append(Mark(name, index, kind, words))
        return name


class Probe:
    """Renders marked chats, each of one shape once: rows of the same shape share the result."""

    NO_MARKUP = re.compile(r"(?!)")  # matches nowhere

    def __init__(self, reader):
        self.reader, self.rendered, self.trains = reader, {}, None

    def text(self, chat, row, **options):
        """Return what the template writes for a chat; "" where it refuses it."""
        key = self._key(chat, row, options)
        if key not in self.rendered:
            try:
                self.rendered[key] = self.reader.text(chat, row, **options)
            except ERRORS:
                self.rendered[key] = ""
        return self.rendered[key]

    def trained(self, chat, row):
        """Return the part of a chat that carries loss under assistant_only_loss, None without it."""
        if self.reader.kind != "sft" or not self.reader.settings.assistant_only_loss:
            return None
        key = self._key(chat, row, "trained")
        if key not in self.rendered:
            ids, mask = self.reader.masked_ids(chat, row)
            kept = [token for token, bit in zip(ids, mask, strict=True) if bit]
            self.rendered[key] = self.reader.tokenizer.decode(kept)
        return self.rendered[key]

    def training(self, chat, row):
        """Return what TRL's training template writes, "" where there is none for this model."""
        if self.trains is None:
            try:
                self.trains = get_training_chat_template(self.reader.tokenizer) or ""
            except ERRORS:
                self.trains = ""
        return self.text(chat, row, chat_template=self.trains) if self.trains else ""

    def _key(self, chat, row, options):
        shape = (chat, row.get("tools"), row.get("chat_template_kwargs"), options)
        return json.dumps(shape, default=str, sort_keys=True)

    def skeleton(self, messages, row, **options):
        """Return what the template writes around the words of a chat."""
        return self.text(Marker(self.NO_MARKUP).chat(messages), row, **options)

"""Find what is wrong with a row before it is rendered: its shape, its roles, its turns."""

import json

from trl import extract_prompt

from lab.data.columns import FROM_VALUE, check_unread
from lab.data.parting import check_guess
from lab.data.problems import Problem

ROLES = {"system", "developer", "user", "assistant", "tool"}
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

EMPTY = Problem("an empty text, message or chat trains as it is: drop these rows")
MIXED = Problem(
    "text beside chats: TRL reads the first row and treats all alike; make all one or the other"
)
TEXT_PROMPT = Problem(
    "a prompt that is text, with answers that are chats: if the chats begin with the question, "
    "dataset.remove_columns('prompt'); else make the prompt a list of messages"
)
NOT_TEXT = Problem('neither a string nor a list of {"role", "content"} messages')
NOT_CHAT = Problem(
    "a string where a chat belongs: a list of messages; if it is JSON, json.loads it"
)
CHAT_AS_TEXT = Problem(
    "a chat in the column `text`, which TRL takes for a string: "
    "dataset.rename_column('text', 'messages')"
)
CALLS = Problem(
    "tool_calls that are no list of {'type': 'function', 'function': {'name', 'arguments'}}"
)
KWARGS = Problem("`chat_template_kwargs` is no dict: make it {} where there are none")
STRINGS = Problem("content is a list of strings: join them, content = ''.join(content)")
FROM_VALUES = Problem(FROM_VALUE)
ROLE = Problem(f"a role that no chat template knows; the known ones: {', '.join(sorted(ROLES))}")
LAST_USER = Problem("a prompt that does not end with the user: there is nothing to answer")
LAST_ASSISTANT = Problem(
    "an answer that does not end with the assistant: there is nothing to learn from it"
)
REPEATED = Problem(
    "the prompt again inside the answer: the model would learn to repeat it; cut it off"
)
OTHER_TURN = Problem(
    "a turn of the user inside the answer: TRL trains on it like on the assistant's; one row per "
    "answer, with the turns before it in the prompt"
)
TOOL_TURN = Problem(
    "tool results inside the answer are trained on too; assistant_only_loss=True (SFT) leaves them "
    "out, or one row per answer",
    level="noted",
)
TOOLS = Problem(
    "`tools` is no list of JSON schemas, nor one as JSON text; where there are no tools, make "
    "it null"
)
SAME = Problem(
    "chosen and rejected are the same: no gradient, but they count in the metrics; drop them"
)
NO_PROMPT = Problem(
    "chosen and rejected begin differently and there is no prompt: TRL trains without one"
)


def check_row(example, kind, columns):
    """Find the problems of one row that can be seen without its tokens."""
    values = [example.get(column) for column in columns]
    problems = [p for pair in zip(values, columns, strict=True) for p in _check_value(*pair)]
    if problems:
        yield from problems
        return
    if len({isinstance(value, str) for value in values}) > 1:
        yield TEXT_PROMPT if kind == "dpo" and isinstance(values[0], str) else MIXED
        return
    if kind == "dpo" and example["chosen"] == example["rejected"]:
        yield SAME
    elif columns == ("chosen", "rejected"):
        if example["chosen"][0] != example["rejected"][0]:
            yield NO_PROMPT
            return
        yield from check_guess(example)
        parts = extract_prompt(example)
        values = [parts["prompt"], parts["chosen"], parts["rejected"]]
    for answer in values[1:]:
        yield from _check_answer(values[0], answer)
    if kind != "grpo" and not _are_schemas(example.get("tools")):
        yield TOOLS
    if kind != "grpo" and not isinstance(example.get("chat_template_kwargs", {}), dict):
        yield KWARGS
    yield from check_unread(example, columns, kind)


def _are_schemas(tools):
    """Whether `tools` is nothing, or a list of JSON schemas, or that list as JSON text."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError:
            return False
    return tools is None or (
        isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)
    )


def _is_empty(value):
    if isinstance(value, list):  # blocks: one of text counts if it has any, an image always
        return all(
            isinstance(part, dict) and part.get("type") == "text" and not part.get("text")
            for part in value
        )
    return value is None or (isinstance(value, str) and not value.strip())


def _check_value(value, column):
    if _is_empty(value):
        yield EMPTY
    elif isinstance(value, str) and column == "messages":
        yield NOT_CHAT
    elif isinstance(value, list) and column == "text":
        yield CHAT_AS_TEXT
    elif isinstance(value, list):
        yield from _check_messages(value, column)
    elif not isinstance(value, str):
        yield NOT_TEXT


def _check_messages(messages, column):
    if not all(isinstance(message, dict) for message in messages):
        yield NOT_TEXT
        return
    if any("from" in message or "value" in message for message in messages):
        yield FROM_VALUES
        return
    if not all(
        "role" in message and ("content" in message or _has_words(message)) for message in messages
    ):
        yield NOT_TEXT
        return
    if any(message["role"] not in list(ROLES) for message in messages):
        yield ROLE
    if any(_is_empty(message.get("content")) and not _has_words(message) for message in messages):
        yield EMPTY
    if not all(isinstance(message.get("content"), (str, list, type(None))) for message in messages):
        yield NOT_TEXT
    if not all(_are_calls(message.get("tool_calls")) for message in messages):
        yield CALLS
    if any(_holds_strings(message.get("content")) for message in messages):
        yield STRINGS
    last = messages[-1]["role"]
    if column == "prompt" and last not in ("user", "tool"):
        yield LAST_USER
    if column != "prompt" and last != "assistant":
        yield LAST_ASSISTANT


def _are_calls(calls):
    """Whether tool_calls are nothing, or functions with a name."""
    if not isinstance(calls, (list, type(None))):
        return False
    for call in calls or ():
        function = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return False
    return True


def _holds_strings(content):
    return isinstance(content, list) and not all(isinstance(part, dict) for part in content)


def _has_words(message):
    return message.get("tool_calls") or message.get("function_call") or message["role"] == "tool"


def _check_answer(prompt, answer):
    """Turns in an answer that are not the assistant's."""
    if isinstance(answer, str):
        if prompt.strip() and answer.lstrip().startswith(prompt.strip()):
            yield REPEATED
        return
    others = [message for message in answer if message["role"] not in ("assistant", "tool")]
    asked = [message.get("content") for message in prompt]
    if any(message.get("content") in asked for message in others):
        yield REPEATED
    elif others:
        yield OTHER_TURN
    if any(message["role"] == "tool" for message in answer):
        yield TOOL_TURN

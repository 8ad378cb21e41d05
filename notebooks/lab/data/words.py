"""Find which words of a chat the chat template leaves out or changes.

A chat template reads the fields that its author thought of. The others are lost without a warning:
a `developer` message, `reasoning_content`, the reasoning of an earlier turn. `lab.data.marks` finds
them; this module says for each of them why, and what to do.
"""

import json
import re
from itertools import combinations

from lab.data.columns import NOT_TRAINED, is_off
from lab.data.marks import REASONING, Marker
from lab.data.problems import Problem, cut

LINKS = ("name", "id", "tool_call_id", "type")  # link a call to its result; nobody learns them

REFUSED = "the chat template refuses it ({}): {}"
LEFT_OUT = "the chat template leaves out {}, the model would never read it: {}"
KEPT_OUT = (
    "the chat template leaves out the reasoning of earlier turns; it does so when the model is "
    "used too, so this may be meant"
)
PRINTS = "the chat template prints {}: {}"
EXTRA = "neither TRL nor the chat template reads the field {!r} of the messages"
FUNCTION_CALL = (
    "function_call is an older form that TRL does not read: tool_calls = [{'type': 'function', "
    "'function': function_call}], with arguments as a dict"
)
NO_TOOLS = "`tools` is empty, and the chat template writes its introduction to tools: make it null"
UNMASKED = (
    "assistant_only_loss=True leaves out {}: the chat template has no {{% generation %}} around it"
)
MASKED = "assistant_only_loss=True trains on {} messages too: {{% generation %}} is around them"
NOT_READ = (
    "{!r} says that something is not to be trained on, but TRL does not read it; drop what is not "
    "to be learnt, or move it into `prompt`; for the answers alone set assistant_only_loss=True"
)
OTHER_TEMPLATE = "drop these rows or change their messages"
JOIN = (
    "content is a list of blocks: join the text parts into one string, "
    "content = ''.join(part['text'] for part in content)"
)
LOAD = "tool arguments are JSON text: arguments = json.loads(arguments)"
DUMP = "this template wants tool arguments as JSON text: arguments = json.dumps(arguments)"
KEEP = (
    "keep the messages as they are: Dataset.from_list(rows, features=Features({'messages': "
    "List(Json())})), with every column of the rows"
)
NOT_NULL = "content is null: make it the empty string"
BLOCKS = (
    "this template reads content as blocks: content = [{'type': 'text', 'text': content}], "
    "or take the template of a model for text"
)
ADVICE = {
    "developer": "give its text to the system message or to the user's",
    "assistant": "give this text a message of its own, or take a template that writes it",
    "system": "give its text to the user's message",
    "tool": "take a template with tool messages, or give the result to the user's message",
    "tool_calls": "take a template with tool calls, or write the call into content",
    "field": "write it into content, between <think> and </think>, or take a template that reads "
    "this field",
    "turn": "one row per turn keeps it",
    "training": "assistant_only_loss=True keeps it, with TRL's training template; so does one row "
    "per turn",
    "think": "take a template that keeps what stands between <think> and </think>",
}


def check_words(probe, row, messages, trained_from):
    """Find the problems of one chat: what the template leaves out, doubles, or prints.

    probe          Probe
    row            dict    the row of the chat: its tools and template arguments count
    messages       list    prompt and answer
    trained_from   int     the first message that carries loss
    """
    marker = Marker()
    chat = marker.chat(messages)
    text = probe.text(chat, row)
    missing = [mark for mark in marker.marks if mark.name not in text]
    for mark in missing:
        yield _left_out(probe, row, chat, mark, messages, trained_from)
    yield from _printed(probe, row, chat, text)
    others = probe.reader.settings.assistant_only_loss
    untrained = [
        i < trained_from or (others and m["role"] != "assistant") for i, m in enumerate(messages)
    ]
    yield from _extra_fields(messages, text, untrained)
    yield from _masked(probe, row, chat, marker.marks, trained_from)
    tools = probe.reader.options(row)["tools"]
    if tools is not None and bool(tools) == (text == probe.text(chat, row, tools=None)):
        yield Problem(LEFT_OUT.format("`tools`", ADVICE["tool_calls"]) if tools else NO_TOOLS)


def why_refused(probe, row, messages, error):
    """Return the Problem of a chat that the template refuses, with the change that mends it."""
    chat, error = Marker().chat(messages), " ".join(str(error).split())
    changes = [(change,) for change in CHANGES] + list(combinations(CHANGES, 2))
    for steps in changes:
        changed = chat
        for change in steps:
            changed = [change(message) for message in changed]
        if changed != chat and probe.text(changed, row):
            advice = "; ".join(CHANGES[change] for change in steps)
            return Problem(REFUSED.format(error, advice))
    return Problem(REFUSED.format(error, OTHER_TEMPLATE))


def _left_out(probe, row, chat, mark, messages, trained_from):
    role, example = messages[mark.index]["role"], f"message {mark.index}, {cut(mark.words)}"
    if mark.kind == "blocks":
        return Problem(f"the chat template leaves it out: {JOIN}", example)
    if mark.name in probe.text([_as_blocks(message) for message in chat], row):
        return Problem(LEFT_OUT.format("content that is a string", BLOCKS), example)
    if mark.kind in ("<think>", *REASONING):
        if mark.index < trained_from:
            return Problem(KEPT_OUT, example, "noted")
        last = mark.index == len(messages) - 1
        way = "field" if mark.kind in REASONING else "think" if last else "turn"
        if way == "turn" and mark.name in probe.training(chat, row):
            way = "training"
        return Problem(LEFT_OUT.format(f"{mark.kind} of {role} messages", ADVICE[way]), example)
    if mark.kind == "tool_calls":
        return Problem(LEFT_OUT.format("tool calls", ADVICE["tool_calls"]), example)
    way = ADVICE.get(role, OTHER_TEMPLATE)
    return Problem(LEFT_OUT.format(f"the content of {role} messages", way), example)


def _printed(probe, row, chat, text):
    """Values that the template prints as Python or JSON write them, where their text belongs."""
    if re.search(r"""['"]text['"]: ['"]q\d+z""", text):
        yield Problem(PRINTS.format("the list itself", JOIN))
    loaded = [LOADED(message) for message in chat]
    other = probe.text(loaded, row) if loaded != chat else ""
    if other and _squeezed(other) != _squeezed(text):
        yield Problem(PRINTS.format("tool arguments encoded twice", LOAD))
    for function in _functions(chat):
        arguments = function.get("arguments")
        if isinstance(arguments, dict) and arguments and repr(arguments) in text:
            yield Problem(PRINTS.format("tool arguments as Python prints them", DUMP))
    filled = [_without_nulls(message) for message in chat]
    if filled != chat and (other := probe.text(filled, row)):
        for word in ("None", "null"):
            if text.count(word) > other.count(word):
                way = NOT_NULL if any(m.get("content", "") is None for m in chat) else KEEP
                yield Problem(PRINTS.format(f"a field that is null as the word {word}", way))


def _masked(probe, row, chat, marks, trained_from):
    """Words of the assistant that carry no loss, and words of others that do."""
    trained, text = probe.trained(chat, row), probe.text(chat, row)
    if trained is None:
        return
    for mark in marks:
        role = chat[mark.index]["role"]
        if mark.index < trained_from or mark.name not in text:
            continue
        if role == "assistant" and mark.name not in trained:
            kind = mark.kind if mark.kind != "content" else "words"
            yield Problem(UNMASKED.format(f"{kind} of assistant messages"), cut(mark.words))
        elif role != "assistant" and mark.name in trained:
            yield Problem(MASKED.format(role), cut(mark.words))


def _extra_fields(messages, text, untrained):
    known = ("role", "content", "tool_calls", *REASONING)
    for index, message in enumerate(messages):
        for field, value in message.items():
            example = f"message {index}, {field}: {cut(value)}"
            if field in NOT_TRAINED and is_off(value):
                if not untrained[index]:
                    yield Problem(NOT_READ.format(field), example)
            elif field == "function_call" and value:
                yield Problem(FUNCTION_CALL, example)
            elif value and str(value) not in text:
                linked = field in LINKS and not (field == "name" and message["role"] != "tool")
                if field not in known and not linked:
                    yield Problem(EXTRA.format(field), example, "noted")


def _functions(messages):
    for message in messages:
        for call in message.get("tool_calls") or ():
            yield call.get("function") or call


def _joined_blocks(message):
    content = message.get("content")
    if not isinstance(content, list):
        return message
    parts = [part.get("text") or "" for part in content if isinstance(part, dict)]
    return {**message, "content": "".join(parts)}


def _as_blocks(message):
    content = message.get("content")
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}]}


def _squeezed(text):
    return "".join(text.split())


def _empty_content(message):
    return {**message, "content": ""} if message.get("content", "") is None else message


def _without_nulls(message):
    filled = {field: value for field, value in message.items() if value is not None}
    return {**filled, "content": message.get("content") or ""}


def _loads(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _arguments_as(change, kind):
    def changed(message):
        calls = []
        for call in message.get("tool_calls") or ():
            function = call.get("function") or call
            if isinstance(function.get("arguments"), kind):
                function = {**function, "arguments": change(function["arguments"])}
            calls.append({**call, "function": function} if call.get("function") else function)
        return {**message, "tool_calls": calls} if calls else message

    return changed


LOADED = _arguments_as(_loads, str)
CHANGES = {  # what mends a chat that the template refuses, with its advice
    _joined_blocks: JOIN,
    LOADED: LOAD,
    _arguments_as(json.dumps, dict): DUMP,
    _empty_content: NOT_NULL,
    _without_nulls: KEEP,
    _as_blocks: BLOCKS,
}

"""Check whether a completion that earns a reward can follow a prompt of GRPO."""

import copy

from trl.chat_template_utils import add_response_schema, parse_response

from lab.data.marks import ERRORS
from lab.data.problems import Problem

PARSERS = ("response_template", "response_schema")
IN_FORM = "<think>1</think><answer>1</answer>"  # the shortest completion in form
NO_ROOM = (
    "a prompt that leaves no room for a completion in form in the context of max_length tokens: "
    "every reward would be 0; raise max_length, or leave these rows out with validate.fitting"
)
OPENED = (
    "the chat template ends the prompt with an open <think>, so a completion never holds that tag, "
    "and rewards that look for it are always 0: {}"
)
NO_THINKING = "GRPOConfig(chat_template_kwargs={'enable_thinking': False}) closes it"
CUT_IT = "cut <think> out of the end of tokenizer.chat_template"
CUT_SHORT = (
    "prompt and max_completion_length together are longer than max_length: these completions are "
    "cut off before max_completion_length"
)
PARSED = (
    "the tokenizer has a response template, and TRL parses completions with it: what the rewards "
    "see has lost its tags; set tokenizer.response_template = tokenizer.response_schema = None"
)
PARSED_FOR_TOOLS = (
    "with tools TRL parses completions by a response template of its own: what the rewards see has "
    "lost its tags; let them read reasoning_content and content of the message, or leave tools out"
)
NO_PARSER = (
    "with tools TRL parses completions by a response template, and it has none for this chat "
    "template; set tokenizer.response_template, or leave tools out"
)
TOO_SHORT = (
    "max_completion_length is {}, and the shortest completion in form takes {} tokens: every "
    "reward would be 0; raise it"
)


def shortest(tokenizer):
    """Return the number of tokens of the shortest completion in form, with its EOS."""
    return len(tokenizer(IN_FORM, add_special_tokens=False)["input_ids"]) + 1


def check_completions(reader, row):
    """Raise a ValueError where no completion at all can be in form; `row` is any row."""
    tokenizer, most = reader.tokenizer, reader.settings.max_completion_length
    needed = shortest(tokenizer)
    if most is not None and most < needed:
        raise ValueError(f"validate: {TOO_SHORT.format(most, needed)}")
    parser, lost = _parser(reader)
    if parser is None or isinstance(row["prompt"], str):
        return
    try:
        (sequence,) = reader.sequences(row)
    except ERRORS:  # the row's own problem, named with the rows
        return
    ids = tokenizer(IN_FORM + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    if IN_FORM not in parse_response(parser, ids, prefix=sequence.ids)["content"]:
        raise ValueError(f"validate: {lost}")


def _parser(reader):
    """The tokenizer by which GRPOTrainer parses completions, or None, and what to say of lost tags."""
    if any(getattr(reader.tokenizer, name, None) is not None for name in PARSERS):
        return reader.tokenizer, PARSED
    if not reader.settings.tools:
        return None, ""
    try:
        return add_response_schema(copy.copy(reader.tokenizer)), PARSED_FOR_TOOLS
    except ValueError as error:
        raise ValueError(f"validate: {NO_PARSER}") from error


def check_room(sequence, tokenizer, settings, max_length):
    """Check the prompt against the context that it shares with its completion."""
    if max_length is None:
        return
    if sequence.prompt_len + shortest(tokenizer) > max_length:
        yield Problem(NO_ROOM, f"{sequence.prompt_len} of {max_length} tokens")
    elif sequence.prompt_len + (settings.max_completion_length or 0) > max_length:
        yield Problem(CUT_SHORT, f"{sequence.prompt_len} of {max_length} tokens", "noted")


def check_opened(sequence, probe, row):
    """Check for a prompt that ends inside <think>, by its own words or by its template."""
    if isinstance(sequence.whole, str):
        if sequence.whole.rstrip().endswith("<think>"):
            yield Problem(OPENED.format("cut it off the prompt"))
        return
    if not _is_open(probe.skeleton(sequence.whole, row, add_generation_prompt=True)):
        return
    off = probe.skeleton(sequence.whole, row, add_generation_prompt=True, enable_thinking=False)
    yield Problem(OPENED.format(NO_THINKING if not _is_open(off) else CUT_IT))


def _is_open(text):
    return text.rfind("<think>") > text.rfind("</think>")

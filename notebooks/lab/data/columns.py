"""Find which columns of a data set TRL reads, which it misreads, and which it does not read."""

from lab.data.problems import Problem, cut

FORMATS = {  # the columns of each format; the first format whose columns are there counts
    "sft": (("prompt", "completion"), ("messages",), ("text",)),
    "dpo": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "grpo": (("prompt",),),
}
ALIASES = {  # what other data sets call it
    "prompt": ("question", "instruction", "problem", "query", "input"),
    "completion": ("answer", "response", "output", "solution", "target"),
    "messages": ("conversations", "conversation", "chat", "dialogue", "dialog"),
    "chosen": ("accepted", "preferred", "chosen_response"),
    "rejected": ("rejected_response", "dispreferred", "refused"),
    "solution": ("answer", "gold", "ground_truth", "final_answer", "target", "label"),
}
TAKEN_AS_LABELS = "TRL takes it for its own, in place of the labels that it would make"
PASSED_ITSELF = "TRL passes its own to the reward functions, and Python refuses two of one name"
FORBIDDEN = {  # columns that TRL reads in another way than their data set means
    "sft": {"input_ids": "TRL takes the data set for tokenised, and reads nothing else of it"}
    | dict.fromkeys(("labels", "assistant_masks", "completion_mask"), TAKEN_AS_LABELS),
    "dpo": {},
    "grpo": dict.fromkeys(("prompts", "completions"), PASSED_ITSELF),
}
CHATS = ("prompt", "completion", "messages", "chosen", "rejected")  # TRL looks for chats here
READ_TOO = {  # columns beside those of the format
    "sft": {"tools", "chat_template_kwargs", "image", "images", "seq_lengths"},
    "dpo": {"tools", "chat_template_kwargs", "image", "images", "ref_chosen_logps"}
    | {"ref_rejected_logps"},
}
CONTEXT = (  # what belongs into the prompt
    *("system", "system_prompt", "system_message", "developer", "instruction", "instructions"),
    *("input", "inputs", "context", "contexts", "history", "passage", "document", "documents"),
)
NOT_TRAINED = ("train", "trainable", "training", "weight", "loss", "loss_weight", "loss_mask")

FROM_VALUE = (
    'from/value messages: TRL keeps their roles, so "human" and "gpt" get into the template; map '
    "them: role = {'human': 'user', 'gpt': 'assistant'}[m['from']], content = m['value']"
)
NOT_IN_PROMPT = (
    "TRL does not read the column {!r}, and its text is not in the prompt; put it there, or "
    "dataset.remove_columns({!r})"
)
NOT_READ = (
    "TRL does not read the column {!r}, and trains on rows that it marks as not to be trained on; "
    "dataset.filter them out"
)
UNREAD = "TRL does not read the columns {}; if one of them belongs into the text, put it there"
FOR_THE_TRAINER = (
    "a column {!r}: GRPO passes it to the reward functions and leaves it out of the prompt; give "
    "it to the trainer: GRPOTrainer(tools=...), GRPOConfig(chat_template_kwargs=...)"
)


def check_columns(dataset, kind, gold="solution"):
    """Return the columns that `kind` reads, or raise a ValueError that says which one is called what."""
    if kind not in FORMATS:
        raise ValueError(f'validate: kind is {kind!r}; expected "sft", "dpo" or "grpo"')
    _check_type(dataset)
    have = names(dataset)
    formats = FORMATS[kind]
    columns = next((c for c in formats if set(c) <= set(have)), None)
    unread = kind == "dpo" and "prompt" not in have and _called("prompt", have)
    if columns is None or unread:
        wanted = max(formats, key=lambda c: sum(bool(_called(name, have)) for name in c))
        raise ValueError(f"validate: {_what_is_missing(wanted, have, kind)}")
    _check_formats(columns, have, dataset[0], kind)
    for name, why in FORBIDDEN[kind].items():
        if name in have:
            raise ValueError(
                f"validate: a column {name!r}: {why}. dataset.remove_columns({name!r})."
            )
    if kind == "grpo" and gold not in have:
        raise ValueError(f"validate: {_what_is_missing((gold,), have, kind)}")
    return columns


def names(dataset):
    """Return the names of the columns."""
    return list(dataset.column_names if hasattr(dataset, "column_names") else dataset[0])


def check_unread(row, columns, kind):
    """Return the columns of a row with text that belongs into the prompt, or that say not to train."""
    read = _one_line("\n".join(texts([row[column] for column in columns])))
    for name in CONTEXT:
        missing = [text for text in texts(row.get(name)) if _one_line(text) not in read]
        if name not in columns and missing:
            # GRPO's reward functions may want such a column, but never the system prompt alone.
            noted = kind == "grpo" and not name.startswith(("system", "developer"))
            level = "noted" if noted else "refused"
            yield Problem(NOT_IN_PROMPT.format(name, name), cut(missing[0]), level)
    for name in NOT_TRAINED:
        # GRPO's reward functions may read a weight; nothing reads what says "do not train".
        if is_off(row.get(name)) and (kind != "grpo" or name.startswith("train")):
            value = row[name]
            yield Problem(NOT_READ.format(name), f"{name}: {value}")
    for name in ("tools", "chat_template_kwargs"):
        if kind == "grpo" and row.get(name):
            yield Problem(FOR_THE_TRAINER.format(name))


def is_off(value):
    """Tell whether a value says no: False, 0, "false"; nothing and null say nothing."""
    if isinstance(value, str):
        return value.strip().lower() in ("false", "no", "0")
    return value is not None and value == 0


def unread_note(dataset, columns, kind):
    """Return a line about the columns that TRL does not read, None if it reads them all.

    GRPO passes every column to the reward functions.
    """
    if kind == "grpo":
        return None
    rest = [name for name in names(dataset) if name not in {*columns, *READ_TOO[kind]}]
    return UNREAD.format(rest) if rest else None


def texts(value):
    """Return every text in a value, however deep, without the roles of messages.

    >>> texts([{"role": "user", "content": "1+1"}, " "])
    ['1+1']
    """
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, dict):
        value = [item for key, item in value.items() if key not in ("role", "from", "type")]
    return [text for item in value for text in texts(item)] if isinstance(value, list) else []


def _one_line(text):
    return " ".join(text.split())


def _check_type(dataset):
    if isinstance(dataset, dict):
        raise ValueError(  # noqa: TRY004  one kind of error for every data set that is unfit
            f"validate: {list(dataset)} are splits; pass one, as dataset['train']"
        )
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            "validate: a stream has no length, and each row is read here; pass a part of it: "
            "Dataset.from_list(list(stream.take(10_000)))"
        )
    if len(dataset) == 0:
        raise ValueError("validate: the data set has no rows; TRL would raise StopIteration")


def _check_formats(columns, have, first, kind):
    """Two formats in one data set: TRL mixes them up."""
    if kind == "sft" and "text" in have and columns != ("text",):
        raise ValueError(
            f"validate: `text` beside {columns}: TRL then adds EOS to `text` and trains on the "
            "other without it. dataset.remove_columns('text')."
        )
    if kind == "grpo":  # reads `prompt` alone
        return
    others = [name for name in CHATS if name in have and name not in columns]
    is_text = isinstance(first[columns[0]], str)
    if any(isinstance(first[name], str) != is_text for name in columns):  # each row says so
        return
    wrong = [name for name in others if isinstance(first[name], list if is_text else str)]
    if "prompt" in others or wrong:
        raise ValueError(
            f"validate: {others} beside {columns}: TRL takes the format from any of them, and may "
            f"read the wrong one. dataset.remove_columns({others})."
        )


def _called(column, have):
    """What the data set calls a column, None when there is nothing like it."""
    return next((name for name in (column, *ALIASES.get(column, ())) if name in have), None)


def _what_is_missing(wanted, have, kind):
    missing = [column for column in wanted if column not in have]
    renames = {alias: column for column in missing if (alias := _called(column, have))}
    found = f"{kind} needs the columns {wanted}, found {have}: no {', '.join(missing)}."
    if renames:
        found += f" Rename: dataset.rename_columns({renames})."
    context = [name for name in CONTEXT if name in have and name not in renames]
    if context and "prompt" in wanted:
        found += f" TRL does not read {context}: put their text into the prompt of each row."
    if "messages" in renames.values():
        found += f" And if its messages are from/value pairs: {FROM_VALUE}."
    return found

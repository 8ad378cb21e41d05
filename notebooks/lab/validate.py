"""Look at a data set before anything trains on it.

    validate(dataset, "sft", tokenizer, max_length)      or "dpo", "grpo"
    fitting(dataset, "sft", tokenizer, max_length)       the rows that max_length cuts nothing off
    show_batch(trainer)                                  one real batch, the trained tokens marked

TRL trains without a word on chats with misspelt roles, on pairs whose two sides are the same, on
answers cut off before their EOS; what it does refuse, it refuses with `KeyError: 'text'`. Here
each of these is named, with its rows and what to do. The rules are those of TRL 1.16's
`_prepare_dataset`; tests/lab/test_validate.py runs the trainers on what is refused here.
"""

from collections import defaultdict

from jinja2 import TemplateError
from tqdm.auto import tqdm

from lab.batch import batch_spans, show_batch
from rewards.verdicts import why_unverifiable

__all__ = ["batch_spans", "fitting", "show_batch", "validate"]

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
FORBIDDEN = {  # columns that TRL reads in another way than their data set means
    "sft": {"input_ids": "TRL takes the data set for tokenised, and reads nothing else of it"},
    "dpo": {},
    "grpo": {
        name: "TRL passes its own to the reward functions, and Python refuses two of one name"
        for name in ("prompts", "completions")
    },
}
ROLES = {"system", "developer", "user", "assistant", "tool"}
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
SHOWN = 5  # rows named for each problem

EMPTY = "an empty text, message or chat trains as it is: drop these rows"
MIXED = "text beside chats: TRL reads the first row and treats all alike; make all one or the other"
NOT_TEXT = 'neither a string nor a list of {"role", "content"} messages'
NOT_CHAT = "a string where a chat belongs: a list of messages; if it is JSON, json.loads it"
REFUSED = "the chat template refuses it ({}): drop these rows or change their messages"
FROM_VALUE = (
    'from/value messages: TRL keeps their roles, so "human" and "gpt" get into the template; map '
    "them: role = {'human': 'user', 'gpt': 'assistant'}[m['from']], content = m['value']"
)
ROLE = f"a role that no chat template knows; the known ones: {', '.join(sorted(ROLES))}"
LAST_USER = "a prompt that does not end with the user: there is nothing to answer"
LAST_ASSISTANT = "an answer that does not end with the assistant: there is nothing to learn from it"
REPEATED = "the prompt again inside the answer: the model would learn to repeat it; cut it off"
SAME = "chosen and rejected are the same: no gradient, but they count in the metrics; drop them"
NO_PROMPT = "chosen and rejected begin differently and there is no prompt: TRL trains without one"
EOS = "EOS is not among the trained tokens: the model would never learn to stop"
TRUNCATED = "longer than max_length: TRL cuts the end off, EOS with it; raise max_length or drop"
DROPPED = "a prompt that fills max_length alone: TRL drops the row; raise max_length or drop"
UNVERIFIABLE = "a gold that cannot be verified: its prompt is skipped; drop the row or correct it"
SPECIAL_TAGS = (
    "<think> and <answer> are special tokens of this tokenizer: TRL decodes completions without "
    "special tokens, no reward would ever see them; add them with special=False"
)
TOLERATED = {TRUNCATED: "truncated", DROPPED: "dropped", UNVERIFIABLE: "unverifiable"}
TRAINS_ON_PROMPTS = (
    "`messages` (and `text`) train on the user's words too; for the answers alone set "
    "assistant_only_loss=True, or part the rows into prompt and completion"
)


def validate(dataset, kind, tokenizer, max_length, gold="solution", tolerated=0.01):
    """Stop before a run that would mis-train, or fail with a cryptic error.

    dataset      a datasets.Dataset or a list of dicts
    kind         "sft", "dpo" or "grpo"
    tokenizer    the one that trains
    max_length   int     as in SFTConfig and DPOConfig; for GRPO the context that prompt and
                         completion share; None: nothing is cut
    gold         str     GRPO's column of golds
    tolerated    float   share of rows that may be truncated, dropped or without a verifiable gold
    returns      {"rows", "columns", "longest", "truncated", "dropped", "unverifiable", "notes"}

    Raises ValueError that lists every problem, the rows it is in, and what to do about it.
    """
    columns = check_columns(dataset, kind, gold)
    check_tokenizer(tokenizer, kind, dataset[0][columns[0]])
    found, longest, first = defaultdict(list), 0, None
    for row, example in enumerate(tqdm(dataset, desc="validate", leave=False, disable=None)):
        problems = list(dict.fromkeys(check_row(example, kind, columns)))
        types = [type(example.get(column)) for column in columns]
        first = first or types
        if not problems and types != first:
            problems = [MIXED]
        if not problems:
            length, problems = check_tokens(example, columns, tokenizer, max_length)
            longest = max(longest, length)
        if kind == "grpo" and why_unverifiable(example.get(gold)):
            problems = [*problems, UNVERIFIABLE]
        for problem in problems:
            found[problem].append(row)
    allowed = tolerated * len(dataset)
    serious = {p: rows for p, rows in found.items() if p not in TOLERATED or len(rows) > allowed}
    if serious:
        raise ValueError(_report(serious, kind, len(dataset)))
    counts = {name: len(found.get(problem, ())) for problem, name in TOLERATED.items()}
    notes = [TRAINS_ON_PROMPTS] if columns in (("messages",), ("text",)) else []
    return {"rows": len(dataset), "columns": columns, "longest": longest, **counts, "notes": notes}


def fitting(dataset, kind, tokenizer, max_length, say=print):
    """The rows that `max_length` cuts nothing off; says how many it leaves out.

    The chats of the field are of any length: what TRL would cut off in silence, EOS with it, is
    left out here, aloud. Everything else is for `validate` to find.
    """
    columns = check_columns(dataset, kind)

    def fits(row):
        return not {TRUNCATED, DROPPED} & set(check_tokens(row, columns, tokenizer, max_length)[1])

    kept = dataset.filter(fits, desc="fitting")
    if len(kept) < len(dataset):
        left_out = len(dataset) - len(kept)
        say(f"left out {left_out} of {len(dataset)} rows: longer than {max_length} tokens")
    return kept


def check_columns(dataset, kind, gold="solution"):
    """The columns that `kind` reads, or a ValueError that says which one is called what."""
    if kind not in FORMATS:
        raise ValueError(f'validate: kind is {kind!r}; expected "sft", "dpo" or "grpo"')
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
    have = list(dataset.column_names if hasattr(dataset, "column_names") else dataset[0])
    formats = FORMATS[kind]
    columns = next((c for c in formats if set(c) <= set(have)), None)
    unread = kind == "dpo" and "prompt" not in have and _called("prompt", have)
    if columns is None or unread:
        wanted = max(formats, key=lambda c: sum(bool(_called(name, have)) for name in c))
        raise ValueError(f"validate: {_what_is_missing(wanted, have, kind)}")
    if "text" in have and columns != ("text",):
        raise ValueError(
            f"validate: `text` beside {columns}: TRL then adds EOS to `text` and trains on the "
            "other without it. dataset.remove_columns('text')."
        )
    for name, why in FORBIDDEN[kind].items():
        if name in have:
            raise ValueError(
                f"validate: a column {name!r}: {why}. dataset.remove_columns({name!r})."
            )
    if kind == "grpo" and gold not in have:
        raise ValueError(f"validate: {_what_is_missing((gold,), have, kind)}")
    return columns


def check_tokenizer(tokenizer, kind, first):
    """A ValueError for a tokenizer that cannot end a text, write a chat, or keep the tags."""
    if tokenizer.eos_token is None:
        raise ValueError("validate: the tokenizer has no eos_token; the model could never stop")
    if not isinstance(first, str) and tokenizer.chat_template is None:
        raise ValueError("validate: chats, but a tokenizer without chat_template; set one")
    if kind == "grpo" and _loses_tags(tokenizer):
        raise ValueError(f"validate: {SPECIAL_TAGS}")


def check_row(example, kind, columns):
    """The problems of one row that can be seen without its tokens."""
    values = [example.get(column) for column in columns]
    problems = [p for pair in zip(values, columns, strict=True) for p in _check_value(*pair)]
    if problems:
        yield from problems
        return
    if len({isinstance(value, str) for value in values}) > 1:
        yield MIXED
        return
    if "prompt" in columns:
        for answer in values[1:]:
            if _repeats(example["prompt"], answer):
                yield REPEATED
    if kind == "dpo":
        chosen, rejected = example["chosen"], example["rejected"]
        if chosen == rejected:
            yield SAME
        elif "prompt" not in columns and chosen[0] != rejected[0]:
            yield NO_PROMPT


def check_tokens(example, columns, tokenizer, max_length):
    """The length of one row in tokens, and the problems that only its tokens show."""
    try:
        return _check_tokens(example, columns, tokenizer, max_length)
    except (
        TemplateError
    ) as error:  # "Conversation roles must alternate", "System role not supported"
        return 0, [REFUSED.format(error)]


def _check_tokens(example, columns, tokenizer, max_length):
    prompt, answers = "", [example[column] for column in columns]
    if columns[0] == "prompt":
        prompt, answers = answers[0], answers[1:]
    prompt_ids = _tokens(prompt, tokenizer, add_generation_prompt=True) if prompt else []
    longest, problems = len(prompt_ids), []
    for answer in answers:
        ids = _tokens(_joined(prompt, answer, tokenizer), tokenizer)
        longest = max(longest, len(ids))
        if tokenizer.eos_token_id not in ids[len(prompt_ids) :]:
            problems.append(EOS)
    if max_length is not None and prompt and len(prompt_ids) >= max_length:
        problems.append(DROPPED)
    elif max_length is not None and longest > max_length:
        problems.append(TRUNCATED)
    return longest, list(dict.fromkeys(problems))


def _is_empty(value):
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _check_value(value, column):
    if _is_empty(value):
        yield EMPTY
    elif isinstance(value, str) and column == "messages":
        yield NOT_CHAT
    elif isinstance(value, list):
        yield from _check_messages(value, column)
    elif not isinstance(value, str):
        yield NOT_TEXT


def _check_messages(messages, column):
    if not all(isinstance(message, dict) for message in messages):
        yield NOT_TEXT
        return
    if any("from" in message or "value" in message for message in messages):
        yield FROM_VALUE
        return
    if not all("role" in message and "content" in message for message in messages):
        yield NOT_TEXT
        return
    if any(message["role"] not in list(ROLES) for message in messages):
        yield ROLE
    if any(_is_empty(message["content"]) and not message.get("tool_calls") for message in messages):
        yield EMPTY
    if not all(isinstance(message["content"], (str, list, type(None))) for message in messages):
        yield NOT_TEXT
    last = messages[-1]["role"]
    if column == "prompt" and last not in ("user", "tool"):
        yield LAST_USER
    if column != "prompt" and last != "assistant":
        yield LAST_ASSISTANT


def _repeats(prompt, answer):
    if isinstance(answer, str):
        return bool(prompt.strip()) and answer.lstrip().startswith(prompt.strip())
    return any(m.get("role") in ("user", "system", "developer") for m in answer)


def _tokens(text, tokenizer, **options):
    if isinstance(text, str):
        return tokenizer(text)["input_ids"]
    encoded = tokenizer.apply_chat_template(text, tokenize=True, return_dict=True, **options)
    return encoded["input_ids"]


def _joined(prompt, answer, tokenizer):
    """Prompt and answer as TRL tokenises them: it ends plain text with EOS, chats by template."""
    if not isinstance(answer, str):
        return [*(prompt or []), *answer]
    eos = tokenizer.eos_token
    return prompt + answer + ("" if answer.endswith(eos) else eos)


def _loses_tags(tokenizer):
    decoded = tokenizer.decode(tokenizer("".join(TAGS))["input_ids"], skip_special_tokens=True)
    return any(tag not in decoded for tag in TAGS)


def _called(column, have):
    """What the data set calls a column, None when there is nothing like it."""
    return next((name for name in (column, *ALIASES.get(column, ())) if name in have), None)


def _what_is_missing(wanted, have, kind):
    missing = [column for column in wanted if column not in have]
    renames = {alias: column for column in missing if (alias := _called(column, have))}
    found = f"{kind} needs the columns {wanted}, found {have}: no {', '.join(missing)}."
    if renames:
        found += f" Rename: dataset.rename_columns({renames})."
    if "messages" in renames.values():
        found += f" And if its messages are from/value pairs: {FROM_VALUE}."
    return found


def _report(problems, kind, rows):
    lines = [f"validate: not fit for {kind}, {len(problems)} problems in {rows} rows:"]
    for number, (problem, where) in enumerate(problems.items(), start=1):
        shown = ", ".join(map(str, where[:SHOWN])) + (", ..." if len(where) > SHOWN else "")
        lines.append(f"{number}. {len(where)} rows ({shown}): {problem}.")
    return "\n".join(lines)

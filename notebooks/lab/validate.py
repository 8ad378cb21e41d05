"""Look at a data set before anything trains on it.

    validate(dataset, "sft", tokenizer, max_length)      or "dpo", "grpo"
    fitting(dataset, "sft", tokenizer, max_length)       the rows that max_length cuts nothing off
    show_batch(trainer)                                  one real batch, the trained tokens marked

TRL trains without a word on chats with misspelt roles, on pairs whose two sides are the same, on
answers cut off before their EOS; what it does refuse, it refuses with `KeyError: 'text'`. Here
each of these is named, with its rows and what to do. Each row is rendered, tokenised and masked by
TRL's own functions (lab.rendered), and the result is compared with the row: what is missing
(lab.words), what is there twice (lab.specials), what is not read (lab.columns).
tests/lab/test_validate.py and test_traps.py run the trainers on what is refused here.
"""

from tqdm.auto import tqdm

from lab.batch import batch_spans, show_batch
from lab.columns import FROM_VALUE, check_columns, check_unread, unread_note
from lab.problems import Found, Problem, report
from lab.rendered import Reader, Settings
from lab.specials import Specials
from lab.words import ERRORS, Probe, check_words, why_refused
from rewards.verdicts import why_unverifiable

__all__ = ["batch_spans", "fitting", "show_batch", "validate"]

ROLES = {"system", "developer", "user", "assistant", "tool"}
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

EMPTY = Problem("an empty text, message or chat trains as it is: drop these rows")
MIXED = Problem(
    "text beside chats: TRL reads the first row and treats all alike; make all one or the other"
)
NOT_TEXT = Problem('neither a string nor a list of {"role", "content"} messages')
NOT_CHAT = Problem(
    "a string where a chat belongs: a list of messages; if it is JSON, json.loads it"
)
FROM_VALUES = Problem(FROM_VALUE)
ROLE = Problem(f"a role that no chat template knows; the known ones: {', '.join(sorted(ROLES))}")
LAST_USER = Problem("a prompt that does not end with the user: there is nothing to answer")
LAST_ASSISTANT = Problem(
    "an answer that does not end with the assistant: there is nothing to learn from it"
)
REPEATED = Problem(
    "the prompt again inside the answer: the model would learn to repeat it; cut it off"
)
SAME = Problem(
    "chosen and rejected are the same: no gradient, but they count in the metrics; drop them"
)
NO_PROMPT = Problem(
    "chosen and rejected begin differently and there is no prompt: TRL trains without one"
)
EOS = "EOS is not among the trained tokens: the model would never learn to stop"
TRUNCATED = Problem(
    "longer than max_length: TRL cuts the end off, EOS with it; raise max_length or drop",
    level="truncated",
)
DROPPED = Problem(
    "a prompt that fills max_length alone: TRL drops the row; raise max_length or drop",
    level="dropped",
)
UNVERIFIABLE = Problem(
    "a gold that cannot be verified: its prompt is skipped; drop the row or correct it",
    level="unverifiable",
)
SPECIAL_TAGS = (
    "<think> and <answer> are special tokens of this tokenizer: TRL decodes completions without "
    "special tokens, no reward would ever see them; add them with special=False"
)
TRAINS_ON_PROMPTS = (
    "`messages` (and `text`) train on the user's words too; for the answers alone set "
    "assistant_only_loss=True, or part the rows into prompt and completion"
)
PLAIN_TEXT = (
    "plain text, but the tokenizer has a chat template: a chat model is asked through its "
    "template; if chats are meant, make each text a list of messages"
)


def validate(dataset, kind, tokenizer, max_length, gold="solution", tolerated=0.01, **settings):
    """Stop before a run that would mis-train, or fail with a cryptic error.

    dataset      a datasets.Dataset or a list of dicts
    kind         "sft", "dpo" or "grpo"
    tokenizer    the one that trains
    max_length   int     as in SFTConfig and DPOConfig; for GRPO the context that prompt and
                         completion share; None: nothing is cut
    gold         str     GRPO's column of golds
    tolerated    float   share of rows that may be truncated, dropped or without a verifiable gold
    settings     lab.rendered.Settings   what else the trainer is given: assistant_only_loss, ...
    returns      {"rows", "columns", "longest", "truncated", "dropped", "unverifiable", "notes"}

    Raises ValueError that lists every problem, the rows it is in, and what to do about it.
    """
    columns = check_columns(dataset, kind, gold)
    check_tokenizer(tokenizer, kind, dataset[0][columns[0]])
    checker = Checker(Reader(kind, columns, tokenizer, Settings(**settings)), max_length)
    found, longest, first = Found(), 0, None
    for row, example in enumerate(tqdm(dataset, desc="validate", leave=False, disable=None)):
        problems = list(check_row(example, kind, columns))
        types = [type(example.get(column)) for column in columns]
        first = first or types
        if not problems and types != first:
            problems = [MIXED]
        if not problems:
            length, problems = checker.check(example)
            longest = max(longest, length)
        if kind == "grpo" and why_unverifiable(example.get(gold)):
            problems = [*problems, UNVERIFIABLE]
        for problem in problems:
            found.add(row, problem)
    serious = found.above(tolerated * len(dataset))
    if serious:
        raise ValueError(report(found, serious, kind, len(dataset)))
    counts = {level: found.count(level) for level in ("truncated", "dropped", "unverifiable")}
    notes = [*_notes(dataset, columns, kind, tokenizer), *found.notes()]
    return {"rows": len(dataset), "columns": columns, "longest": longest, **counts, "notes": notes}


def fitting(dataset, kind, tokenizer, max_length, say=print, **settings):
    """The rows that `max_length` cuts nothing off; says how many it leaves out.

    The chats of the field are of any length: what TRL would cut off in silence, EOS with it, is
    left out here, aloud. Everything else is for `validate` to find.
    """
    columns = check_columns(dataset, kind)
    checker = Checker(Reader(kind, columns, tokenizer, Settings(**settings)), max_length)

    def fits(row):
        return not {TRUNCATED, DROPPED} & set(checker.check(row)[1])

    kept = dataset.filter(fits, desc="fitting")
    if len(kept) < len(dataset):
        left_out = len(dataset) - len(kept)
        say(f"left out {left_out} of {len(dataset)} rows: longer than {max_length} tokens")
    return kept


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
    yield from check_unread(example, columns, kind)


class Checker:
    """Compares rows with what TRL makes of them."""

    def __init__(self, reader, max_length):
        self.reader, self.max_length = reader, max_length
        self.probe, self.specials = Probe(reader), Specials(reader.tokenizer)

    def check(self, row):
        """The length of one row in tokens, and its problems."""
        try:
            sequences = self.reader.sequences(row)
        except ERRORS as error:  # "Conversation roles must alternate", and whatever Jinja raises
            return 0, [self._refused(row, error)]
        problems = [problem for sequence in sequences for problem in self._compare(sequence, row)]
        longest = max(len(sequence.ids) for sequence in sequences)
        problems += self._lengths(sequences, longest)
        return longest, problems

    def _refused(self, row, error):
        row = self.reader.pair(row) if self.reader.kind == "dpo" else row
        answers = [row[name] for name in self.reader.columns if name != "prompt"]
        for answer in answers or [[]]:
            messages = [*row.get("prompt", []), *answer]
            problem = why_refused(self.probe, row, messages, error)
        return problem

    def _compare(self, sequence, row):
        eos = self.reader.tokenizer.eos_token_id
        trained = [i for i, on in zip(sequence.ids, sequence.trained, strict=True) if on]
        if self.reader.kind != "grpo" and eos not in trained:
            yield Problem(EOS)
        if isinstance(sequence.whole, str):
            yield from self.specials.in_text(sequence)
            return
        start = len(sequence.prompt) if sequence.prompt else 0
        yield from check_words(self.probe, row, sequence.whole, start)
        yield from self.specials.in_chat(sequence.whole, self.probe.skeleton(sequence.whole, row))

    def _lengths(self, sequences, longest):
        if self.max_length is None:
            return
        prompt = sequences[0].prompt_len
        if sequences[0].prompt is not None and prompt >= self.max_length:
            yield DROPPED
        elif longest > self.max_length:
            yield TRUNCATED


def _notes(dataset, columns, kind, tokenizer):
    """What may be meant, but often is not."""
    if columns in (("messages",), ("text",)):
        yield TRAINS_ON_PROMPTS
    if isinstance(dataset[0][columns[0]], str) and tokenizer.chat_template is not None:
        yield PLAIN_TEXT
    if note := unread_note(dataset, columns, kind):
        yield note


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
        yield FROM_VALUES
        return
    if not all(
        "role" in message and ("content" in message or message.get("tool_calls"))
        for message in messages
    ):
        yield NOT_TEXT
        return
    if any(message["role"] not in list(ROLES) for message in messages):
        yield ROLE
    if any(_is_empty(message.get("content")) and not _has_words(message) for message in messages):
        yield EMPTY
    if not all(isinstance(message.get("content"), (str, list, type(None))) for message in messages):
        yield NOT_TEXT
    last = messages[-1]["role"]
    if column == "prompt" and last not in ("user", "tool"):
        yield LAST_USER
    if column != "prompt" and last != "assistant":
        yield LAST_ASSISTANT


def _has_words(message):
    return message.get("tool_calls") or message["role"] == "tool"


def _repeats(prompt, answer):
    if isinstance(answer, str):
        return bool(prompt.strip()) and answer.lstrip().startswith(prompt.strip())
    return any(m.get("role") in ("user", "system", "developer") for m in answer)


def _loses_tags(tokenizer):
    decoded = tokenizer.decode(tokenizer("".join(TAGS))["input_ids"], skip_special_tokens=True)
    return any(tag not in decoded for tag in TAGS)

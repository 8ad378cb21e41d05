"""Look at a data set before anything trains on it.

    validate(dataset, "sft", tokenizer, max_length)      or "dpo", "grpo"
    fitting(dataset, "sft", tokenizer, max_length)       the rows that max_length cuts nothing off
    show_batch(trainer)                                  one real batch, the trained tokens marked

TRL trains without a warning on chats with misspelt roles, on pairs whose two sides are the same, on
answers cut off before their EOS; what it does refuse, it refuses with `KeyError: 'text'`. Here
each of these is named, with its rows and what to do. Each row is rendered, tokenised and masked by
TRL's own functions, and the result is compared with the row.

lab.data.columns    columns that TRL does not read, or reads in another way than meant
lab.data.rows       shape, roles and turns of a row
lab.data.parting    prompt and answer parted inside a token; a prompt that TRL guesses wrongly
lab.data.words      words, tool calls and blocks that the chat template leaves out, doubles or prints
lab.data.specials   special tokens in the words, BOS or EOS twice
lab.data.nulls      tool arguments that `datasets` fills with null
lab.data.room       GRPO's prompts that no completion in form can follow

What is certainly wrong is refused; what may be meant is a note in the report. The tests of each
run TRL's own preparation or trainer on what is refused here.
"""

from tqdm.auto import tqdm

from lab.batch import batch_spans, show_batch
from lab.data.columns import check_columns, unread_note
from lab.data.marks import ERRORS, Probe
from lab.data.nulls import Nulls
from lab.data.parting import check_merged
from lab.data.problems import Found, Problem, report
from lab.data.rendered import Reader, Settings
from lab.data.room import NO_ROOM, check_completions, check_opened, check_room
from lab.data.rows import MIXED, OTHER_TURN, TAGS, TOOL_TURN, check_row
from lab.data.specials import Specials
from lab.data.words import check_words, why_refused
from rewards.verdicts import why_unverifiable

__all__ = ["TAGS", "Settings", "batch_spans", "fitting", "show_batch", "validate"]

NO_END = "the chat template writes no token of its own after an answer: add {{ eos_token }} there"
EOS = "EOS is not among the trained tokens: the model would never learn to stop"
TRUNCATED = Problem(
    "longer than max_length: TRL cuts the end off, EOS with it; raise max_length or drop",
    level="truncated",
)
DROPPED = Problem(
    "a prompt that fills max_length alone: TRL drops the row; raise max_length or drop",
    level="dropped",
)
BEGINNING_CUT = Problem(
    "longer than max_length: TRL cuts the beginning off (keep_end), the question with it; raise "
    "max_length or drop",
    level="truncated",
)
UNVERIFIABLE = Problem(
    "a gold that cannot be verified: its prompt is skipped; drop the row or correct it",
    level="unverifiable",
)
SPECIAL_TAGS = (
    "<think> and <answer> are special tokens of this tokenizer: TRL decodes completions without "
    "special tokens, no reward would ever see them; add them with special=False"
)
NO_ASSISTANT = (
    "assistant_only_loss=True needs chats, and this is text; make it lists of messages, or prompt "
    "and completion, where only the completion is trained on"
)
ADDS_EOS = (
    "this tokenizer ends every text with EOS: the prompt too, and TRL adds another to the answer; "
    "tokenizer.add_eos_token = False, or take a post-processor without it"
)
TRAINS_ON_PROMPTS = (
    "`messages` (and `text`) train on the user's words too; for the answers alone set "
    "assistant_only_loss=True, or part the rows into prompt and completion"
)
PLAIN_TEXT = (
    "plain text, but the tokenizer has a chat template: a chat model is asked through its "
    "template; if chats are meant, make each text a list of messages"
)


def validate(
    dataset,
    kind,
    tokenizer,
    max_length,
    gold="solution",
    tolerated=0.01,
    unverifiable=why_unverifiable,
    **settings,
):
    """Stop before a run that would mis-train, or fail with a cryptic error.

    dataset      a datasets.Dataset or a list of dicts
    kind         "sft", "dpo" or "grpo"
    tokenizer    the one that trains
    max_length   int     as in SFTConfig and DPOConfig; for GRPO the context that prompt and
                         completion share; None: nothing is cut
    gold         str     GRPO's column of golds
    tolerated    float   share of rows that may be truncated, dropped or without a verifiable gold
    unverifiable  function  why a gold cannot be verified, "" if it can; by default of answers in mathematics
    settings     lab.data.rendered.Settings   what else the trainer is given: assistant_only_loss, ...
    returns      {"rows", "columns", "longest", "truncated", "dropped", "unverifiable", "notes"}

    Raises ValueError that lists every problem, the rows it is in, and what to do about it.
    """
    columns = check_columns(dataset, kind, gold)
    first_row, settings = dataset[0], _settings(settings)
    check_tokenizer(tokenizer, kind, first_row[columns[0]])
    if settings.assistant_only_loss and isinstance(first_row[columns[0]], str):
        raise ValueError(f"validate: {NO_ASSISTANT}")
    checker = Checker(Reader(kind, columns, tokenizer, settings), max_length)
    if kind == "grpo":
        check_completions(checker.reader, first_row)
    found, nulls, longest, first = Found(), Nulls(dataset), 0, None
    for row, example in enumerate(tqdm(dataset, desc="validate", leave=False, disable=None)):
        problems = list(check_row(example, kind, columns))
        if (
            checker.reader.settings.assistant_only_loss
        ):  # masks every turn that is not the assistant's
            problems = [p for p in problems if p not in (OTHER_TURN, TOOL_TURN)]
        types = [type(example.get(column)) for column in columns]
        first = first or types
        if _fit(problems) and types != first:
            problems = [MIXED]
        if _fit(problems):
            length, more = checker.check(example)
            longest, problems = max(longest, length), problems + more
            problems += nulls.check(row, example)
        if kind == "grpo" and unverifiable(example.get(gold)):
            problems = [*problems, UNVERIFIABLE]
        for problem in problems:
            found.add(row, problem)
    serious = found.above(tolerated * len(dataset))
    if serious:
        raise ValueError(report(found, serious, kind, len(dataset)))
    counts = {level: found.count(level) for level in ("truncated", "dropped", "unverifiable")}
    notes = [*_notes(dataset, columns, kind, tokenizer, settings), *found.notes()]
    return {"rows": len(dataset), "columns": columns, "longest": longest, **counts, "notes": notes}


def _settings(given):
    if unknown := sorted(set(given) - set(Settings._fields)):
        raise ValueError(f"validate: no setting {unknown}; there are {list(Settings._fields)}")
    return Settings(**given)


def _fit(problems):
    return all(problem.level == "noted" for problem in problems)


def fitting(dataset, kind, tokenizer, max_length, say=print, **settings):
    """Return the rows that `max_length` cuts nothing off; says how many it leaves out.

    The chats of the field are of any length: what TRL would cut off in silence, EOS with it, is
    left out here, with a message. Everything else is for `validate` to find.
    """
    columns = check_columns(dataset, kind)
    checker = Checker(Reader(kind, columns, tokenizer, _settings(settings)), max_length)

    def fits(row):
        lengths = checker.check(row)[1]
        return not any(p.level in ("truncated", "dropped") or p.what == NO_ROOM for p in lengths)

    kept = dataset.filter(fits, desc="fitting")
    if len(kept) < len(dataset):
        left_out = len(dataset) - len(kept)
        why = "no room for a completion in" if kind == "grpo" else "longer than"
        say(f"left out {left_out} of {len(dataset)} rows: {why} {max_length} tokens")
    return kept


def check_tokenizer(tokenizer, kind, first):
    """Raise a ValueError for a tokenizer that cannot end a text, write a chat, or keep the tags."""
    if tokenizer.eos_token is None:
        raise ValueError("validate: the tokenizer has no eos_token; the model could never stop")
    if not isinstance(first, str) and tokenizer.chat_template is None:
        raise ValueError("validate: chats, but a tokenizer without chat_template; set one")
    if isinstance(first, str) and tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id:
        raise ValueError(f"validate: {ADDS_EOS}")
    if kind == "grpo" and _loses_tags(tokenizer):
        raise ValueError(f"validate: {SPECIAL_TAGS}")


class Checker:
    """Compares rows with what TRL makes of them."""

    def __init__(self, reader, max_length):
        self.reader, self.max_length = reader, max_length
        self.probe, self.specials = Probe(reader), Specials(reader.tokenizer)

    def check(self, row):
        """Return the length of one row in tokens, and its problems."""
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
        if self.reader.kind == "grpo":
            yield from check_opened(sequence, self.probe, row)
        else:
            yield from self._check_eos(sequence)
            yield from check_merged(sequence, self.reader, row)
        if isinstance(sequence.whole, str):
            yield from self.specials.in_text(sequence)
            return
        start = len(sequence.prompt) if sequence.prompt else 0
        yield from check_words(self.probe, row, sequence.whole, start)
        yield from self.specials.in_chat(sequence.whole, self.probe.skeleton(sequence.whole, row))

    def _check_eos(self, sequence):
        tokenizer = self.reader.tokenizer
        trained = [i for i, on in zip(sequence.ids, sequence.trained, strict=True) if on]
        if tokenizer.eos_token_id in trained:
            return
        last = tokenizer.decode(trained).split()[-1:] or [""]
        ends = [token for token in self.specials.known if last[0].endswith(token)]
        way = (
            f"the template ends an answer with {ends[0]!r}: make it tokenizer.eos_token"
            if ends
            else NO_END
        )
        yield Problem(f"{EOS}; {way}")

    def _lengths(self, sequences, longest):
        """What TRL cuts off or drops: rows of which nothing that is trained is left."""
        reader, first = self.reader, sequences[0]
        if reader.kind == "grpo":
            yield from check_room(first, reader.tokenizer, reader.settings, self.max_length)
            return
        if self.max_length is None or longest <= self.max_length:
            return
        start = reader.settings.truncation_mode == "keep_start"
        kept = slice(None, self.max_length) if start else slice(-self.max_length, None)
        if reader.kind == "dpo":
            lost = start and first.prompt_len >= self.max_length
        else:
            lost = not any(first.trained[kept])
        yield DROPPED if lost else TRUNCATED if start else BEGINNING_CUT


def _notes(dataset, columns, kind, tokenizer, settings):
    """What may be meant, but often is not."""
    if columns in (("messages",), ("text",)) and not settings.assistant_only_loss:
        yield TRAINS_ON_PROMPTS
    if isinstance(dataset[0][columns[0]], str) and tokenizer.chat_template is not None:
        yield PLAIN_TEXT
    if note := unread_note(dataset, columns, kind):
        yield note


def _loses_tags(tokenizer):
    decoded = tokenizer.decode(tokenizer("".join(TAGS))["input_ids"], skip_special_tokens=True)
    return any(tag not in decoded for tag in TAGS)

"""Ask before a reveal: a prediction that is written down is remembered, right or wrong.

    guess = lab.predict("Will DPO raise the accuracy?", ["rise", "stay", "fall"])
    ...the run...
    guess.reveal("stay")

The answer is clicked, or written into the cell: lab.predict(..., answer="stay"). Nothing waits for
it: Run All goes through, and the reveal then only tells what is right.

The line of lab.progress() holds the answers, too. Whoever teaches pastes the lines of a room into
lab.predictions.tally(...), which counts them by question.

Proof     tests/lab/test_puzzles.py
"""

import os
import re
import sys
import zlib

from lab.puzzles import record


class Prediction:
    """A question, its options, and what the reader answered, or None."""

    def __init__(self, question, options, answer=None):
        self.question, self.options = question, list(options)
        self.answer = None
        if answer is not None:
            self.choose(answer)

    def choose(self, answer):
        """Take an answer, as one of the options or as its letter.

        Raises ValueError for one that is neither.
        """
        letters = {chr(ord("a") + i): option for i, option in enumerate(self.options)}
        self.answer = letters.get(str(answer).strip().lower(), answer)
        if self.answer not in self.options:
            self.answer = None
            raise ValueError(f"{answer!r} is none of the options: {', '.join(self.options)}")

    def reveal(self, right, why=""):
        """Say what is right, beside what the reader said, and keep both."""
        if right not in self.options:
            raise ValueError(f"{right!r} is none of the options: {', '.join(self.options)}")
        said = f"You said: {self.answer}. " if self.answer else ""
        verdict = "" if not self.answer else "Right. " if self.answer == right else "Not so. "
        print(f"{self.question}\n{said}{verdict}It is: {right}. {why}".rstrip())
        if self.answer:
            known = record.read()
            said = {"answer": self.answer, "right": right}
            said["code"] = code(self.question) + chr(ord("a") + self.options.index(self.answer))
            known["predictions"][self.question] = said
            record.write(known)


def predict(question, options, answer=None):
    """Ask a question before its answer is shown; returns the Prediction to `reveal` later.

    question   one sentence
    options    two or more short answers
    answer     one of them or its letter, for whoever writes it rather than clicks it
    """
    asked = Prediction(question, options, answer)
    choices = ", ".join(f"{chr(ord('a') + i)}) {o}" for i, o in enumerate(asked.options))
    print(f"Predict: {question}  {choices}")
    if answer is None and _somebody_is_there():
        _buttons(asked)
    return asked


def code(question):
    """Return four letters for a question, the same on every machine: short enough for a line of a chat."""
    found = zlib.crc32(question.encode()) % 16**4
    return "".join("bcdfghjklmnpqrst"[found >> shift & 15] for shift in (12, 8, 4, 0))


def tally(pasted):
    """Show how a room answered: for each question its options with the answers counted, the most frequent first.

    pasted     the lines of lab.progress(), as they stand in the chat; everything else among them is left out
    returns    {question: {option: how many}}, of the questions that somebody answered
    """
    from lab import show, teach

    asked = {code(q): (q, o) for path in teach.lessons() for q, o in teach.asked(path).items()}
    counts = {}
    for line in filter(lambda line: record.SIGN in line, pasted.splitlines()):
        for word in set(re.findall(r"\b[b-t]{4}[a-h]\b", line.rpartition(";")[2])):
            question, options = asked.get(word[:4], ("", []))
            at = ord(word[4]) - ord("a")
            if at < len(options):
                counts.setdefault(question, dict.fromkeys(options, 0))[options[at]] += 1
    rows = []
    for question, of in counts.items():
        said = sorted(of.items(), key=lambda pair: -pair[1])
        rows.append({"question": question, "answers": ", ".join(f"{n} {o}" for o, n in said)})
    if rows:
        show.table(rows)
    return counts


def _somebody_is_there():
    """Tell whether this is a live notebook, not a run of the tests or of `lab.chain`, without a reader."""
    return "ipykernel" in sys.modules and not {"CI", "LAB_PROGRESS"} & set(os.environ)


def _buttons(asked):
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        return
    buttons = ipywidgets.ToggleButtons(options=asked.options, value=None)
    buttons.observe(lambda change: asked.choose(change["new"]), names="value")
    display(buttons)

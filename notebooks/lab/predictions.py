"""Ask before a reveal: a prediction that is written down is remembered, right or wrong.

    guess = lab.predict("Will DPO raise the accuracy?", ["rise", "stay", "fall"])
    ...the run...
    guess.reveal("stay")

The answer is clicked, or written into the cell: lab.predict(..., answer="stay"). Nothing waits for
it: Run All goes through, and the reveal then only tells what is right.
"""

import os
import sys

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
            known["predictions"][self.question] = {"answer": self.answer, "right": right}
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

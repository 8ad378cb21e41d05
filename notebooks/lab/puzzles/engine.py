"""One puzzle: what it shows, checks, hints at and solves.

A mistake is written in one of three ways, so that it stays short and close to the solution:

    "-ratio * advantages"          an expression of the solution's arguments
    ("n - 1", "n")                 an edit of the solution's own source: old, new
    a function                     anything else
"""

import ast
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from lab import check
from lab.puzzles import picture, record


@dataclass(frozen=True)
class Puzzle:
    """An exercise.

    number      "3.1", its lesson and its place there
    title       a few words
    minutes     how long it takes a reader who has read what stands before it
    stars       1 to 3, how hard it is
    idea        the sentence to remember
    task        what to write, as Markdown with formulas
    answer      the function that is asked for, as numpy code; its source is the solution
    cases       {what is special about it: the arguments}
    mistakes    {what to say: the mistake}, at least eight; the cases tell all of them apart
    hints       what to say, one after the other
    verify      for a puzzle with many right answers: verify(result, *arguments) says what is wrong
                with a result, or ""
    """

    number: str
    title: str
    minutes: int
    stars: int
    idea: str
    task: str
    answer: Callable
    cases: dict
    mistakes: dict
    hints: tuple
    verify: Callable | None = None
    tolerance: dict = field(default_factory=dict)

    def __repr__(self):
        return f"Exercise {self.heading()}\n\n{self.task}\n\n{self.signature()}"

    def _repr_markdown_(self):
        return f"**Exercise {self.heading()}**\n\n{self.task}\n\n`{self.signature()}`"

    def heading(self):
        """
        >>> from lab.puzzles import puzzle
        >>> puzzle("3.1").heading()
        '3.1 (6 min, ★★): the advantage of a group'
        """
        return f"{self.number} ({self.minutes} min, {'★' * self.stars}): {self.title}"

    def signature(self):
        """The function that is asked for, with the shapes of its first case."""
        parts = []
        given = next(iter(self.cases.values()))
        for name, value in zip(inspect.signature(self.answer).parameters, given):
            shape = np.shape(value)
            parts.append(f"{name} {shape}" if shape else name)
        return f"{self.answer.__name__}({', '.join(parts)})"

    def show(self):
        """Show what is asked, and the first case's inputs and target as a picture; returns itself."""
        if "ipykernel" in sys.modules:
            from IPython.display import Markdown, display

            display(Markdown(self._repr_markdown_()))
        else:
            print(self)
        self._draw(next(iter(self.cases)))
        return self

    def check(self, yours):
        """Say whether a function is right, and name its mistake; returns the one to go on with.

        Never raises, whatever `yours` is or does: the notebook goes on with the reference.
        """
        with np.errstate(all="ignore"):  # what came may be anything, and is compared and drawn
            found = check.judge(
                yours, self.answer, self.cases, self.wrong(), verify=self.verify, **self.tolerance
            )
            record.tried(self.number, found.kind)
            print(check.sentence(self.answer.__name__, found))
            if found.kind == check.WRONG and not self.verify and found.got is not None:
                self._draw(found.case, yours=found.got)
        if found.kind == check.WRONG:
            print(f"For a hint: lab.puzzle({self.number!r}).hint()")
        if found.kind == check.SOLVED:
            print(f"To remember: {self.idea}")
        return yours if found.kind == check.SOLVED else self.answer

    def hint(self):
        """Print the next hint; each call gives one more."""
        given = record.hinted(self.number, len(self.hints))
        for i in range(given):
            print(f"Hint {i + 1} of {len(self.hints)}: {self.hints[i]}")
        if given == len(self.hints):
            print(f"That is all. For the solution: lab.puzzle({self.number!r}).solution()")

    def solution(self):
        """Show the source of the solution, once something has been tried."""
        if not record.tries(self.number):
            print(
                f"Try it first: lab.puzzle({self.number!r}).check(your_function). "
                "The solution can be seen after one try, right or wrong."
            )
            return
        code = self.source()
        if "ipykernel" in sys.modules:
            from IPython.display import HTML, display
            from pygments import highlight
            from pygments.formatters import HtmlFormatter
            from pygments.lexers import PythonLexer

            display(HTML(highlight(code, PythonLexer(), HtmlFormatter(noclasses=True))))
        else:
            print(code)

    def source(self):
        """The solution as text, with what it needs besides numpy: it runs wherever it is copied to."""
        return _with_its_needs(self.answer)

    def wrong(self):
        """{what to say: a function that makes this mistake}."""
        return {say: self._mistaken(mistake) for say, mistake in self.mistakes.items()}

    def _mistaken(self, mistake):
        if callable(mistake):
            return mistake
        scope = dict(self.answer.__globals__)
        if isinstance(mistake, str):
            arguments = ", ".join(inspect.signature(self.answer).parameters)
            return eval(f"lambda {arguments}: {mistake}", scope)
        old, new = mistake
        code = inspect.getsource(self.answer)
        if old not in code:
            raise ValueError(f"puzzle {self.number}: {old!r} is not in the solution")
        exec(compile(ast.parse(code.replace(old, new)), "<mistake>", "exec"), scope)  # noqa: S102
        return scope[self.answer.__name__]

    def _draw(self, case, yours=None):
        """The case's inputs, the target, and what came: what of them is an array of numbers."""
        arguments = self.cases[case]
        with np.errstate(all="ignore"):
            target = None if self.verify else np.asarray(self.answer(*arguments), float)
        names = list(inspect.signature(self.answer).parameters)
        panels = [(name, value) for name, value in zip(names, arguments) if np.ndim(value)]
        if target is not None:
            panels.append(("target", target))
        if yours is not None:
            panels.append(("yours", yours))
        numbers = [f"{name} = {v:g}" for name, v in zip(names, arguments) if picture.is_number(v)]
        title = f"{case}{': ' if numbers else ''}{', '.join(numbers)}"
        picture.show(panels, title=title)


def _with_its_needs(function):
    """The source of a function, after the imports and the functions of its module that it names."""
    imports, above = [], []
    for name in function.__code__.co_names:
        found = function.__globals__.get(name)
        if inspect.ismodule(found) and name != "np":
            imports.append(f"import {name}\n")
        elif inspect.isfunction(found) and found is not function:
            above.append(_with_its_needs(found))
    head = "".join(imports) + ("\n\n" if imports else "")
    return head + "\n\n".join([*above, inspect.getsource(function)])

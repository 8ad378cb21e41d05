"""Show how far a run is and how long it has left: a bar where one can be drawn, else some lines.

    with bars.Bar("grpo: training", total=200) as bar:
        bar.to(step, reward="1.2")
    for batch in bars.over(batches, "sampling"):
        work(batch)

A terminal and a notebook get a bar. Output that goes into a file or a pipe gets one line, at most
every 20 seconds. Where LAB_PROGRESS names a file, it holds the same news as JSON: `lab.chain` reads
there how far a notebook's training is, inside its kernel.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

from tqdm.auto import tqdm

EVERY_S = 20.0  # between two lines, where there is no bar
FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def drawable():
    """Tell whether this process can draw a bar: a notebook's kernel, or a terminal."""
    return "ipykernel" in sys.modules or sys.stderr.isatty()


def left(first, now, total):
    """Estimate the seconds that the rest takes, or None before two steps are done.

    first    (step, seconds) when the first step was done, which warms up and is left out
    now      (step, seconds) of the last step that is done

    The mean of all steps since the first, for in GRPO one step of several generates as well.

    >>> left((1, 10.0), (11, 30.0), 51)
    80.0
    """
    (begun, since), (done, at) = first, now
    return (total - done) * (at - since) / (done - begun) if done > begun else None


def words(seconds):
    """
    >>> words(42.3), words(400.0), words(None)
    ('about 42 s left', 'about 7 min left', '')
    """
    if seconds is None:
        return ""
    return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"


class Bar:
    """The progress of one piece of work, as a context manager.

    name     "grpo: training"
    total    how many steps it has
    on       False shows and writes nothing: the other ranks of a run
    leave    whether the bar stays when it is done
    """

    def __init__(self, name, total, on=True, leave=True, clock=time.monotonic):
        self.name, self.total, self.on, self.clock = name, total, on, clock
        self.first = self.shown = None
        self.said = clock()
        self.file = os.environ.get("LAB_PROGRESS") if on else None
        options = {"total": total, "desc": name, "leave": leave, "bar_format": FORMAT}
        self.bar = tqdm(**options) if on and drawable() else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def to(self, step, **shown):
        """Set the number of finished steps, and what is shown beside it."""
        now = self.clock()
        self.first = self.first or (step, now)
        self.shown = shown or self.shown or {}
        remaining = left(self.first, (step, now), self.total)
        beside = [words(remaining)] * (step < self.total and remaining is not None)
        beside += [f"{key}={value}" for key, value in self.shown.items()]
        if self.bar is not None:
            self.bar.set_postfix_str(", ".join(beside), refresh=False)
            self.bar.update(step - self.bar.n)
        elif self.on and now - self.said >= EVERY_S:
            self.said = now
            line = f"{self.name} {step} of {self.total}"
            print(", ".join([line, *beside]), file=sys.stderr, flush=True)
        if self.file:
            news = {"name": self.name, "step": step, "total": self.total, "left": remaining}
            Path(self.file).write_text(json.dumps(news))

    def close(self):
        if self.bar is not None:
            self.bar.close()
        if self.file:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file)


def over(items, name):
    """Yield the items, one after the other, under a bar; a single one needs none."""
    items = list(items)
    with Bar(name, len(items), on=len(items) > 1, leave=False) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.to(done)


def news(file):
    """Return what the work that writes to `file` reports now, in words; "" while none does.

    A file that is being written is read as no news.
    """
    try:
        said = json.loads(Path(file).read_text())
    except (OSError, ValueError):
        return ""
    line = f"{said['name']} {said['step']} of {said['total']}"
    return ", ".join([line, *[words(said["left"])] * (said["left"] is not None)])

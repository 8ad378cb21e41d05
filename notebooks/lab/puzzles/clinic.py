"""Lesson 11: which tokens are trained, and when a run is stopped."""

import numpy as np

from lab.puzzles.engine import Puzzle


def trained_labels(input_ids, prompt_lens, lengths, pad_id):
    place = np.arange(input_ids.shape[1])
    counts = (place >= prompt_lens[:, None]) & (place < lengths[:, None])
    return np.where(counts, input_ids, -100)


labels = Puzzle(
    number="11.1",
    title="which tokens are trained",
    minutes=6,
    stars=2,
    idea="what is padding says its place, not its id: the id may be that of EOS, which has to be trained",
    task=r"""A batch of token ids $(B,T)$, padded on the right. Row $i$ has a prompt of `prompt_lens[i]`
tokens and is `lengths[i]` tokens long, its answer and its EOS among them; the rest is padding. Give the
labels $(B,T)$ of SFT: the id where a token is trained, and $-100$, which cross-entropy leaves out, where
not. As in many tokenizers `pad_id` is the id of EOS too. (The model shifts by one itself.)""",
    answer=trained_labels,
    cases={
        "EOS is 2, and so is the padding": (
            np.array([[5, 6, 7, 8, 2, 2, 2], [5, 9, 8, 7, 6, 4, 2]]),
            np.array([3, 2]),
            np.array([5, 7]),
            2,
        ),
        "an answer of two turns, and one that was cut off": (
            np.array([[3, 9, 2, 4, 9, 2, 2, 2], [3, 7, 8, 6, 9, 4, 5, 8]]),
            np.array([1, 4]),
            np.array([6, 8]),
            2,
        ),
        "nothing but a prompt": (np.array([[4, 5, 1, 1]]), np.array([2]), np.array([2]), 1),
    },
    mistakes={
        "every token with the id of the padding is left out, and EOS has that id: look at the places": (
            "(place < lengths[:, None])",
            "(input_ids != pad_id)",
        ),
        "the prompt is trained as well": (
            "(place >= prompt_lens[:, None]) & (place < lengths[:, None])",
            "place < lengths[:, None]",
        ),
        "the padding is trained as well": (
            "(place >= prompt_lens[:, None]) & (place < lengths[:, None])",
            "place >= prompt_lens[:, None]",
        ),
        "the other way round: this trains what is to be left out": (
            "np.where(counts, input_ids, -100)",
            "np.where(counts, -100, input_ids)",
        ),
        "the first token of the answer is lost: the prompt ends before place prompt_lens": (
            "place >= prompt",
            "place > prompt",
        ),
        "the last token of the prompt is trained: leave the shift to the model": (
            "prompt_lens[:, None]) &",
            "prompt_lens[:, None] - 1) &",
        ),
        "the last token of each row is lost, and it is EOS": (
            "lengths[:, None])",
            "lengths[:, None] - 1)",
        ),
        "the first token of the padding is trained": ("place < lengths", "place <= lengths"),
        "0 is a token; what is left out is -100": ("-100", "0"),
        "the padding's id is a token; what is left out is -100": ("-100", "pad_id"),
        "this moves the labels by one; the model does so itself": (
            "counts, input_ids",
            "counts, np.roll(input_ids, -1, 1)",
        ),
        "the padding is on the right, not on the left": (
            "(place >= prompt_lens[:, None]) & (place < lengths[:, None])",
            "place >= (input_ids.shape[1] - lengths + prompt_lens)[:, None]",
        ),
        "labels are ids of tokens; this is a mask": (
            "np.where(counts, input_ids, -100)",
            "1 * counts",
        ),
    },
    hints=(
        "`np.arange(T)` has the places; `prompt_lens[:, None]` stands beside all places of its row.",
        "Two conditions: not before the prompt's end, and before the row's.",
        "You do not need `pad_id`.",
    ),
)


def stopped_at(values, limit, patience):
    row = 0
    for step, value in enumerate(values):
        row = 0 if value <= limit else row + 1
        if row == patience or not np.isfinite(value):
            return step
    return -1


def _nan_is_healthy(values, limit, patience):
    row = 0
    for step, value in enumerate(values):
        row = row + 1 if value > limit else 0
        if row == patience:
            return step
    return -1


def _the_last_of_all(values, limit, patience):
    row, found = 0, -1
    for step, value in enumerate(values):
        row = 0 if value <= limit else row + 1
        if row >= patience or not np.isfinite(value):
            found = step
    return found


guard = Puzzle(
    number="11.2",
    title="when to stop a run",
    minutes=6,
    stars=1,
    idea="a comparison with NaN is always False: ask what is healthy, and count everything else",
    task=r"""A guard watches one logged metric, `values` $(T,)$, where more than `limit` is sick. It stops
the run at the first step at which the metric has been sick `patience` steps in a row, that one included,
or at once where a value is not finite. Give the index of that step, $-1$ if the run is never stopped.""",
    answer=stopped_at,
    cases={
        "healthy again in between": (
            np.array([1.0, 9.0, 9.0, 1.0, 5.0, 9.0, 9.0, 9.0, 9.0, 9.0]),
            5.0,
            3,
        ),
        "two NaNs": (np.array([1.0, 2.0, np.nan, np.nan, 1.0, 7.0]), 5.0, 2),
        "an infinity": (np.array([1.0, 7.0, 1.0, 1.0, np.inf, 1.0]), 5.0, 2),
        "never": (np.array([7.0, 1.0, 7.0, 5.0, 5.0, 5.0, 7.0]), 5.0, 2),
    },
    mistakes={
        "a value that is not finite stops at once": (" or not np.isfinite(value)", ""),
        "a comparison with NaN is False, so a NaN counts as healthy here": _nan_is_healthy,
        "in a row: a healthy step begins the count anew": (
            "0 if value <= limit else row + 1",
            "row + (not value <= limit)",
        ),
        "that is one step too late: the step that completes the row stops": (
            "row == patience",
            "row > patience",
        ),
        "this is where the illness began; the run is stopped when it has lasted": (
            "return step",
            "return step if not np.isfinite(value) else step - patience + 1",
        ),
        "an index counts from 0": ("return step", "return step + 1"),
        "one sick step is no evidence yet: patience of them in a row": (
            "row == patience",
            "row == 1",
        ),
        "a value at the limit is healthy": ("value <= limit", "value < limit"),
        "the first step at which it happens, not the last": _the_last_of_all,
        "a run that is never stopped gives -1, not its length": ("return -1", "return len(values)"),
        "infinity is not finite either": ("not np.isfinite(value)", "np.isnan(value)"),
        "NaN is not finite either, and stops at once": (
            "not np.isfinite(value)",
            "np.isinf(value)",
        ),
    },
    hints=(
        "Keep one number: how many sick steps in a row there have been up to here.",
        "`value <= limit` is False for NaN, and so is `value > limit`.",
    ),
)

"""Lesson 12: what is left of a row that is longer than max_length."""

import numpy as np

from lab.puzzles.engine import Puzzle


def after_the_cut(prompt_lens, lengths, max_length):
    trained = np.maximum(np.minimum(lengths, max_length) - prompt_lens, 0)
    return np.stack([trained, lengths <= max_length])


cut = Puzzle(
    number="12.1",
    title="what a cut leaves",
    minutes=5,
    stars=1,
    idea="a row that is cut loses its EOS first; one whose prompt fills max_length loses all that is trained",
    task=r"""Rows of `lengths` $(N,)$ tokens begin with prompts of `prompt_lens` $(N,)$ tokens and end with EOS.
SFT trains on what comes after the prompt, and cuts the end of a row off at `max_length` tokens. Give for each row
how many trained tokens are left, and whether its EOS is (1 or 0). Shape $(2,N)$.""",
    answer=after_the_cut,
    cases={
        "fits, cut, filled by its prompt": (np.array([3, 3, 9]), np.array([6, 12, 11]), 8),
        "at the edge": (np.array([4, 4, 8, 7]), np.array([8, 9, 10, 8]), 8),
        "a long answer": (np.array([2, 1]), np.array([20, 5]), 10),
    },
    mistakes={
        "fewer than none cannot be left": (
            "np.maximum(np.minimum(lengths, max_length) - prompt_lens, 0)",
            "np.minimum(lengths, max_length) - prompt_lens",
        ),
        "that is before the cut": ("np.minimum(lengths, max_length)", "lengths"),
        "the prompt is not trained": (" - prompt_lens", ""),
        "a row shorter than max_length has no more than its own tokens": (
            "np.minimum(lengths, max_length)",
            "max_length",
        ),
        "max_length is that of prompt and answer together": (
            "np.maximum(np.minimum(lengths, max_length) - prompt_lens, 0)",
            "np.minimum(lengths - prompt_lens, max_length)",
        ),
        "a row of exactly max_length tokens is not cut": (
            "lengths <= max_length",
            "lengths < max_length",
        ),
        "that says which rows have lost it": ("lengths <= max_length", "lengths > max_length"),
        "EOS stands at the end of the row, not of the answer counted alone": (
            "lengths <= max_length",
            "lengths - prompt_lens <= max_length",
        ),
        "something that is trained may be left and EOS gone all the same": (
            "lengths <= max_length",
            "trained > 0",
        ),
        "first the trained tokens, then EOS": (
            "[trained, lengths <= max_length]",
            "[lengths <= max_length, trained]",
        ),
        "EOS is a trained token: it counts": (
            "- prompt_lens, 0",
            "- prompt_lens - (lengths <= max_length), 0",
        ),
        "that is how many are lost": (
            "np.maximum(np.minimum(lengths, max_length) - prompt_lens, 0)",
            "np.maximum(lengths - np.maximum(max_length, prompt_lens), 0)",
        ),
    },
    hints=(
        "How long is a row after the cut? `np.minimum` knows.",
        "A prompt can be longer than what is left of the row.",
    ),
)

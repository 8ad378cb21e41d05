"""Lesson 15: how far off a stored weight can be, and what a low rank leaves out."""

import numpy as np

from lab.puzzles.engine import Puzzle
from reference_math import nf4

_rng = np.random.default_rng(15)


def largest_errors(blocks, codebook):
    absmax = np.abs(blocks).max(axis=1)
    unit = blocks / absmax[:, None]
    nearest = np.abs(unit[..., None] - codebook).argmin(-1)
    errors = np.abs(codebook[nearest] * absmax[:, None] - blocks)
    bound = absmax * np.diff(codebook).max() / 2
    return np.stack([errors.max(axis=1), bound])


bound = Puzzle(
    number="15.1",
    title="how far off a stored weight can be",
    minutes=6,
    stars=2,
    idea="no weight is off by more than half the widest gap of the codebook times its block's largest magnitude",
    task=r"""Each row of `blocks` $(N, B)$ is a block of weights with one scale, its largest magnitude. A weight
is stored as the nearest number of the ascending `codebook` (from $-1$ to $1$) times that scale. Give for each block its
largest absolute error, and the bound that no block with such a scale can exceed, whatever its weights are. Shape $(2, N)$.""",
    answer=largest_errors,
    cases={
        "NF4, three blocks": (_rng.standard_normal((3, 8)), nf4.CODEBOOK.astype(float)),
        "16 equal steps, one outlier": (
            _rng.standard_normal((2, 8)) * np.array([1, 1, 1, 1, 1, 1, 1, -9.0]),
            np.linspace(-1, 1, 16),
        ),
        "three numbers": (_rng.uniform(-1, 1, (2, 5)), np.array([-1.0, 0.25, 1.0])),
    },
    mistakes={
        "between two numbers the farthest weight lies in the middle: half the gap": (
            "np.diff(codebook).max() / 2",
            "np.diff(codebook).max()",
        ),
        "the widest gap bounds the error, not the mean one": (
            "np.diff(codebook).max()",
            "np.diff(codebook).mean()",
        ),
        "the widest gap bounds the error, not the narrowest": (
            "np.diff(codebook).max()",
            "np.diff(codebook).min()",
        ),
        "each block has its own scale": (
            "np.abs(blocks).max(axis=1)",
            "np.full(len(blocks), np.abs(blocks).max())",
        ),
        "the bound grows with the block's scale": (
            "absmax * np.diff",
            "np.ones_like(absmax) * np.diff",
        ),
        "that error is in units of the scale": (
            "np.abs(codebook[nearest] * absmax[:, None] - blocks)",
            "np.abs(codebook[nearest] - unit)",
        ),
        "the largest error of a block is asked for, not the mean one": (
            "errors.max(axis=1)",
            "errors.mean(axis=1)",
        ),
        "the largest error of a block is asked for, not the root mean square": (
            "errors.max(axis=1)",
            "np.sqrt((errors**2).mean(axis=1))",
        ),
        "the scale is the largest magnitude: without abs a negative one is missed": (
            "np.abs(blocks).max(axis=1)",
            "blocks.max(axis=1)",
        ),
        "an error has no sign here": (
            "np.abs(codebook[nearest] * absmax[:, None] - blocks)",
            "(codebook[nearest] * absmax[:, None] - blocks)",
        ),
        "first the error, then the bound": (
            "[errors.max(axis=1), bound]",
            "[bound, errors.max(axis=1)]",
        ),
        "the nearest number, not the next below": (
            "np.abs(unit[..., None] - codebook).argmin(-1)",
            'np.searchsorted(codebook, unit, side="right") - 1',
        ),
    },
    hints=(
        "`unit[..., None] - codebook` holds every difference, (N, B, 16).",
        "`np.diff(codebook)` gives the gaps. Where between two numbers is a weight farthest from both?",
    ),
)


def left_out(before, after):
    s = np.linalg.svd(after - before, compute_uv=False)
    squares = s**2
    return 1 - np.cumsum(squares) / squares.sum()


rank = Puzzle(
    number="15.2",
    title="what a low rank leaves out",
    minutes=5,
    stars=2,
    idea="the nearest matrix of rank r keeps the r largest singular values, and loses the squares of the others",
    task=r"""A weight $(\text{out}, \text{in})$ `before` and `after` training. For each rank
$r = 1, \dots, \min(\text{out}, \text{in})$: which share of the update's sum of squares does the nearest matrix of rank
$r$ leave out? Shape $(\min(\text{out}, \text{in}),)$, the entry for rank 1 first.""",
    answer=left_out,
    cases={
        "six by four": (_rng.standard_normal((6, 4)), _rng.standard_normal((6, 4))),
        "an update of rank 2, nearly": (
            np.eye(5),
            np.eye(5)
            + _rng.standard_normal((5, 2)) @ _rng.standard_normal((2, 5))
            + 0.1 * _rng.standard_normal((5, 5)),
        ),
        "seven by three": (_rng.standard_normal((7, 3)), 2 * _rng.standard_normal((7, 3))),
    },
    mistakes={
        "that is what is kept": ("1 - np.cumsum", "np.cumsum"),
        "squares are asked for: square the singular values": ("s**2", "s"),
        "the update is after less before, not after alone": ("after - before", "after"),
        "the largest singular values are kept, so they are summed first": (
            "np.cumsum(squares)",
            "np.cumsum(squares[::-1])",
        ),
        "a share of the sum of squares, without the root": (
            "1 - np.cumsum(squares) / squares.sum()",
            "np.sqrt(np.maximum(1 - np.cumsum(squares) / squares.sum(), 0))",
        ),
        "the first entry is that of rank 1, not of rank 0": (
            "1 - np.cumsum(squares) / squares.sum()",
            "1 - (np.cumsum(squares) - squares) / squares.sum()",
        ),
        "a share is asked for: divide by the whole sum": (
            "1 - np.cumsum(squares) / squares.sum()",
            "squares.sum() - np.cumsum(squares)",
        ),
        "that is the share of each singular value alone": (
            "1 - np.cumsum(squares) / squares.sum()",
            "squares / squares.sum()",
        ),
        "columns are no singular directions: take the singular values": (
            "np.linalg.svd(after - before, compute_uv=False)",
            "np.sort(np.sqrt(((after - before) ** 2).sum(0)))[::-1]",
        ),
        "the update as it is: its mean is a part of it": (
            "np.linalg.svd(after - before,",
            "np.linalg.svd(after - before - (after - before).mean(0),",
        ),
        "divide by the sum of the squares, not by the largest": (
            "squares.sum()",
            "squares.max()",
        ),
    },
    hints=(
        "`np.linalg.svd(matrix, compute_uv=False)` gives the singular values, the largest first.",
        "The sum of squares of a matrix is the sum of the squares of its singular values.",
    ),
)

"""Lessons 1 and 4: numbers of four bits, the bits per weight, and LoRA."""

import numpy as np

from lab.puzzles.engine import Puzzle
from reference_math import nf4

_rng = np.random.default_rng(1)


def nf4_block(weights, codebook):
    absmax = np.abs(weights).max() or 1.0  # a block of zeros: nothing to scale
    nearest = np.abs(weights[:, None] / absmax - codebook).argmin(1)
    return codebook[nearest] * absmax


four_bits = Puzzle(
    number="1.5",
    title="NF4 by hand",
    minutes=8,
    stars=2,
    idea="one scale for each block, the largest absolute weight; each weight goes to the nearest of 16 numbers",
    task=r"""Quantise one block of weights $(N,)$ and read it back: divide by the largest absolute
weight, take the nearest of the 16 numbers of the `codebook` (from $-1$ to $1$, with 0 among them),
multiply back. A block of zeros stays zero.""",
    answer=nf4_block,
    cases={
        "eight weights": (_rng.standard_normal(8), nf4.CODEBOOK.astype(float)),
        "the largest is negative": (np.array([0.1, -2.0, 0.5, 1.1]), nf4.CODEBOOK.astype(float)),
        "a block of zeros": (np.zeros(3), nf4.CODEBOOK.astype(float)),
    },
    mistakes={
        "the scale is the largest absolute weight, not the mean": (".max() or", ".mean() or"),
        "the scale is the largest absolute weight: without abs a negative one is missed": (
            "np.abs(weights).max()",
            "weights.max()",
        ),
        "multiply by the scale again at the end": (" * absmax\n", "\n"),
        "these are the codes, 0 to 15; their numbers are asked for": "nf4_codes(weights, codebook)",
        "divide by the scale before looking for the nearest": (" / absmax", ""),
        "this takes the next number below, not the nearest": (
            "codebook[np.searchsorted(codebook, weights / (np.abs(weights).max() or 1), 'right') - 1]"
            " * np.abs(weights).max()"
        ),
        "these are 16 equal steps, as int4 has; NF4's numbers are closer around 0": (
            "np.round(7 * weights / (np.abs(weights).max() or 1)) / 7 * np.abs(weights).max()"
        ),
        "each weight goes to the nearest number, not to the next above": (
            "codebook[np.minimum(np.searchsorted(codebook, weights / (np.abs(weights).max() or 1)), 15)]"
            " * np.abs(weights).max()"
        ),
        "the sign of each weight is lost": "nf4_block(np.abs(weights), codebook)",
        "the scale is the largest absolute weight, not the root of the mean square": (
            "np.abs(weights).max() or 1.0",
            "np.sqrt((weights**2).mean()) or 1.0",
        ),
    },
    hints=(
        "`weights[:, None] - codebook` holds every difference, (N, 16).",
        "`.argmin(1)` of the absolute differences gives the code of each weight.",
        "What does your code do if all weights are 0?",
    ),
)


def nf4_codes(weights, codebook):
    absmax = np.abs(weights).max() or 1.0
    return np.abs(weights[:, None] / absmax - codebook).argmin(1)


def bits_per_weight(blocksize, double_quant):
    if not double_quant:
        return 4 + 32 / blocksize
    return 4 + 8 / blocksize + 32 / (256 * blocksize)


price = Puzzle(
    number="1.6",
    title="how many bits a weight takes",
    minutes=3,
    stars=1,
    idea="a 4-bit weight takes 4.5 bits with scales in float32, and 4.127 bits with quantised scales",
    task=r"""Each block of `blocksize` weights of 4 bits has a scale of 32 bits. With double
quantisation (`double_quant`) the scales take 8 bits each, and 256 of them share one of 32 bits. How
many bits does a weight take?""",
    answer=bits_per_weight,
    cases={
        "blocks of 64": (64, False),
        "blocks of 64, double": (64, True),
        "blocks of 128": (128, False),
        "blocks of 128, double": (128, True),
    },
    mistakes={
        "the scales take bits too": "4",
        "`double_quant` is ignored": "4 + 32 / blocksize",
        "the scale of the scales is missing": (" + 32 / (256 * blocksize)", ""),
        "256 scales share one: that is 256 * blocksize weights": ("/ (256 * blocksize)", "/ 256"),
        "one scale for each block, not for each weight": ("32 / blocksize\n", "32\n"),
        "bits are asked for, not bytes": "bits_per_weight(blocksize, double_quant) / 8",
        "divide the bits of the scale by the block size, not the block size by the bits": "4 + blocksize / 32",
        "the scales are float32 here, not float16": "(4 + 16 / blocksize) if not double_quant else 4 + 8 / blocksize + 16 / (256 * blocksize)",
        "without double quantisation a scale takes 32 bits": ("bits_per_weight(blocksize, True)"),
        "with double quantisation a scale takes 8 bits": (
            "4 + 8 / blocksize",
            "4 + 32 / blocksize",
        ),
    },
    hints=(
        "Count the bits of one block, then divide by its weights.",
        "With double quantisation: 8 bits for each block, and 32 for every 256 blocks.",
    ),
)


def lora_size(out_features, in_features, r):
    trained = r * (in_features + out_features)
    frozen = in_features * out_features
    rank = np.minimum(r, np.minimum(in_features, out_features))
    return np.stack([trained, frozen, rank])


adapter = Puzzle(
    number="1.7",
    title="the size of an adapter",
    minutes=4,
    stars=1,
    idea="LoRA trains r (in + out) numbers for each layer instead of in * out; BA has rank r at most",
    task=r"""For linear layers with weights $(\text{out},\text{in})$ and LoRA's $A\,(r,\text{in})$ and
$B\,(\text{out},r)$: how many numbers LoRA trains, how many stay frozen, and the highest rank that
$BA$ can have. Shape $(3, \text{layers})$.""",
    answer=lora_size,
    cases={
        "rank 4": (np.array([128, 64]), np.array([128, 192]), 4),
        "rank 16, one narrow layer": (np.array([8, 896]), np.array([64, 4864]), 16),
        "a rank above both sides": (np.array([8]), np.array([64]), 100),
    },
    mistakes={
        "A has r * in numbers and B out * r: they are added, not multiplied": (
            "r * (in_features + out_features)",
            "r * in_features * out_features",
        ),
        "B is missing: it has out * r numbers": ("(in_features + out_features)", "in_features"),
        "A is missing: it has r * in numbers": ("(in_features + out_features)", "out_features"),
        "the rank r is missing in what is trained": ("r * (in_features", "(in_features"),
        "what is frozen is the weight itself, in * out": (
            "in_features * out_features",
            "in_features + out_features",
        ),
        "the rank is r only where the layer is at least that wide": (
            "np.minimum(r, np.minimum(in_features, out_features))",
            "np.full_like(in_features, r)",
        ),
        "the rank is limited by the narrower side, not by the wider": (
            "np.minimum(in_features, out_features)",
            "np.maximum(in_features, out_features)",
        ),
        "the rank cannot be above r": (
            "np.minimum(r, np.minimum(in_features, out_features))",
            "np.minimum(in_features, out_features)",
        ),
        "one number per layer is asked for, not the sum over the layers": "lora_size(out_features, in_features, r).sum(1)",
        "the order is trained, frozen, rank": "lora_size(out_features, in_features, r)[[1, 0, 2]]",
        "the frozen weight is not made smaller by what LoRA trains": (
            "in_features * out_features",
            "in_features * out_features - trained",
        ),
    },
    hints=(
        "A has shape (r, in), B has shape (out, r).",
        "The rank of a product is at most the smallest of all the sides.",
    ),
)


def served_weight(weight, lora_A, lora_B, r, lora_alpha):
    return weight + lora_alpha / r * lora_B @ lora_A


def _layer(r, lora_alpha):
    shapes = (6, 4), (r, 4), (6, r)
    return (*map(_rng.standard_normal, shapes), r, lora_alpha)


merged = Puzzle(
    number="4.1",
    title="the merged weight",
    minutes=4,
    stars=1,
    idea="the merged weight is the base plus alpha / r times BA; the base is the dequantised one of the training",
    task=r"""The weight $(\text{out},\text{in})$ that a model with a merged adapter has:
$W + \frac{\alpha}{r} B A$ with $A\,(r,\text{in})$ and $B\,(\text{out},r)$.""",
    answer=served_weight,
    cases={f"r={r}, alpha={alpha}": _layer(r, alpha) for r, alpha in [(2, 4), (3, 3), (4, 6)]},
    mistakes={
        "the scaling alpha / r is missing": "weight + lora_B @ lora_A",
        "the scaling is alpha / r, not alpha": ("lora_alpha / r", "lora_alpha"),
        "the base weight is missing": ("weight + ", ""),
        "the scaling is alpha / r, not r / alpha": ("lora_alpha / r", "r / lora_alpha"),
        "the scaling is alpha / r, not 1 / r": ("lora_alpha / r", "1 / r"),
        "alpha / r is a fraction: / and not //": ("lora_alpha / r", "lora_alpha // r"),
        "alpha over the root of r is rsLoRA's scaling": ("/ r", "/ np.sqrt(r)"),
        "the update is added, not taken off": ("weight +", "weight -"),
        "the scaling is applied once, not to both factors": (
            "lora_alpha / r",
            "(lora_alpha / r) ** 2",
        ),
        "the base weight is not scaled": "lora_alpha / r * (weight + lora_B @ lora_A)",
        "B @ A is a matrix product, not an elementwise one": (
            "weight + lora_alpha / r * (lora_B[:, :1] * lora_A[:1])"
        ),
    },
    hints=(
        "`lora_B @ lora_A` has the shape of the weight.",
        "In PEFT the scaling is lora_alpha / r.",
    ),
)

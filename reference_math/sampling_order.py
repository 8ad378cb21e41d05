"""Apply the logits filters in a library's order; compute the log-probs that it reports.

Source    transformers GenerationMixin._get_logits_processor; vllm.v1.sample.sampler.Sampler
Lesson    none
Proof     tests/laws/test_sampling_order.py, tests/parity/test_sampling_order.py

Shapes    logits (B, V), one next token per row; input_ids (B, T), prompt and completion so far.
Gradient  none: a draw is not differentiated. The loss's log-probs are in logprobs.py.

A trainer that divides by the sampler's log-probs needs those of the distribution that was
sampled: "processed". vLLM reports "raw" ones, of the model's own logits, unless told.
"""

from __future__ import annotations

import numpy as np

from reference_math import _renamed, logits_filters, logprobs
from reference_math._checks import array, number, one_of
from reference_math._types import Array, ArrayLike

VLLM_LEAST_TEMPERATURE = 0.01  # vLLM raises any smaller one to this, except 0, which is greedy
FILTERS = {
    "transformers": ("top_k", "top_p", "min_p"),
    "vllm": ("min_p", "top_k", "top_p"),
}


def process_logits(
    logits: ArrayLike,
    input_ids: ArrayLike,
    *,
    order: str,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Array:
    """Apply the penalty, the temperature, then the three filters in the order of the library.

    order     "transformers"   top-k, top-p, min-p; the temperature must be > 0
              "vllm"           min-p, top-k, top-p; temperature 0 is greedy and turns the filters
                               off, one below 0.01 is raised to 0.01
    defaults  each turns its step off
    returns   (B, V)  -inf where a token cannot be drawn

    Min-p looks at the ratio to the likeliest token, which top-p does not change; but top-p looks
    at probabilities, and they sum to 1 again after min-p. So the order decides who stays:

    >>> logits, both = np.log([[0.5, 0.3, 0.2]]), {"top_p": 0.6, "min_p": 0.5}
    >>> process_logits(logits, [[0]], order="transformers", **both).round(1)   # 0.5 < 0.6: two stay
    array([[-0.7, -1.2, -inf]])
    >>> process_logits(logits, [[0]], order="vllm", **both).round(1)           # 0.5 / 0.8 >= 0.6: one
    array([[-0.7, -inf, -inf]])
    """
    one_of("order", order, FILTERS)
    logits = logits_filters.repetition_penalty(logits, input_ids, repetition_penalty)
    if order == "vllm":
        if number("temperature", temperature, at_least=0) == 0:
            return logits
        temperature = max(temperature, VLLM_LEAST_TEMPERATURE)
    logits = logits_filters.temperature(logits, temperature)
    settings = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    if number("top_k", top_k, at_least=0) == 0:
        settings["top_k"] = logits.shape[1]
    for name in FILTERS[order]:
        logits = getattr(logits_filters, name)(logits, settings[name])
    return logits


def reported_logps(
    logits: ArrayLike,
    input_ids: ArrayLike,
    *,
    order: str,
    logprobs_mode: str,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> Array:
    """Compute the log-probs over the vocabulary that the sampler returns with its token.

    logprobs_mode   "raw_logprobs"        of the logits as they came: vLLM's default
                    "processed_logprobs"  of `process_logits`'s: what was sampled from. TRL sets this.
    order, temperature ... repetition_penalty   as in `process_logits`
    returns         (B, V)  -inf where a token could not be drawn

    transformers' generate returns the same two before the log-softmax: `logits` and `scores`.

    >>> logits, sharp = np.log([[0.75, 0.25]]), {"order": "vllm", "temperature": 0.5}
    >>> np.exp(reported_logps(logits, [[0]], logprobs_mode="raw_logprobs", **sharp)).round(4)
    array([[0.75, 0.25]])
    >>> np.exp(reported_logps(logits, [[0]], logprobs_mode="processed_logprobs", **sharp)).round(4)
    array([[0.9, 0.1]])
    """
    one_of("logprobs_mode", logprobs_mode, ("raw_logprobs", "processed_logprobs"))
    processed = process_logits(
        logits,
        input_ids,
        order=order,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    z = array("logits", logits) if logprobs_mode == "raw_logprobs" else processed
    left = np.isfinite(z)
    nothing = z.max(axis=1, keepdims=True) - 800.0  # e^-800 is 0: takes no part in the sum
    return np.where(left, logprobs.log_softmax(np.where(left, z, nothing)), -np.inf)


process = _renamed.function("process", process_logits)

"""reference_math.logits_filters against transformers' processors and vLLM's operations.

All get float64 logits and so decide from the same numbers: who stays has to agree exactly.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import logits_filters


def some_logits(kind, rows=200, vocab_size=30):
    rng = np.random.default_rng(0)
    if kind == "normal":
        return 3 * rng.standard_normal((rows, vocab_size))
    if kind == "ties":
        return rng.integers(-3, 4, (rows, vocab_size)) * 1.0
    return rng.choice([1e4, 0.0, -1e4, 1e4 - 1], (rows, vocab_size))  # extreme


def same(ours, theirs, *, tied):
    """Equal; where top-p has to choose among equal logits, equal up to which of them it took:
    torch's sort is not stable."""
    if tied:
        ours, theirs = np.sort(ours), np.sort(theirs)
    np.testing.assert_array_equal(ours, theirs)


KINDS = pytest.mark.parametrize("kind", ["normal", "ties", "extreme"])


@KINDS
@pytest.mark.parametrize(
    "ours, theirs, value",
    [
        (logits_filters.temperature, "TemperatureLogitsWarper", 0.7),
        (logits_filters.top_k, "TopKLogitsWarper", 5),
        (logits_filters.top_k, "TopKLogitsWarper", 99),  # more than there are
        (logits_filters.top_p, "TopPLogitsWarper", 0.8),
        (logits_filters.top_p, "TopPLogitsWarper", 0.0),
        (logits_filters.min_p, "MinPLogitsWarper", 0.15),
        (logits_filters.min_p, "MinPLogitsWarper", 1.0),
    ],
)
def test_transformers_keeps_the_same_tokens(kind, ours, theirs, value):
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    logits = some_logits(kind)
    got = getattr(logits_process, theirs)(value)(None, torch.tensor(logits)).numpy()
    same(ours(logits, value), got, tied=ours is logits_filters.top_p and kind != "normal")


@KINDS
@pytest.mark.parametrize("penalty", [0.8, 1.3])
def test_transformers_penalises_the_same_tokens(kind, penalty):
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    logits = some_logits(kind)
    ids = np.random.default_rng(1).integers(0, 30, (200, 12))
    processor = logits_process.RepetitionPenaltyLogitsProcessor(penalty)
    got = processor(torch.tensor(ids), torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(logits_filters.repetition_penalty(logits, ids, penalty), got)


def vllm_ops(module, name):
    return getattr(pytest.importorskip(module), name)


@KINDS
@pytest.mark.parametrize("k, p", [(5, None), (None, 0.8), (5, 0.8), (1, 0.0)], ids=str)
def test_vllm_keeps_the_same_tokens(kind, k, p):
    apply = vllm_ops("vllm.v1.sample.ops.topk_topp_sampler", "apply_top_k_top_p_pytorch")
    logits = some_logits(kind)
    ks = None if k is None else torch.full((200,), k)
    ps = None if p is None else torch.full((200,), p, dtype=torch.float64)
    for on_cpu in (False, True):  # two code paths; the second only for top-k alone
        got = apply(torch.tensor(logits), ks, ps, allow_cpu_sync=on_cpu).numpy()
        ours = logits if k is None else logits_filters.top_k(logits, k)
        ours = ours if p is None else logits_filters.top_p(ours, p)
        same(ours, got, tied=p is not None and kind != "normal")


@KINDS
def test_vllm_penalises_the_same_tokens(kind):
    apply = vllm_ops("vllm.model_executor.layers.utils", "apply_penalties")
    logits, rng = some_logits(kind), np.random.default_rng(1)
    prompt, output = rng.integers(0, 30, (2, 200, 6))
    nothing = torch.zeros(200, dtype=torch.float64)
    got = apply(
        torch.tensor(logits),
        torch.tensor(prompt),
        torch.tensor(output),
        nothing,
        nothing,
        nothing + 1.3,
    ).numpy()
    ours = logits_filters.repetition_penalty(logits, np.hstack([prompt, output]), 1.3)
    # vLLM multiplies by 1 / 1.3: one more rounding
    np.testing.assert_allclose(ours, got, rtol=4e-16)


@pytest.mark.library_defect
def test_vllm_top_p_one_drops_tokens_whose_probability_rounds_to_zero_and_ours_drops_none():
    apply = vllm_ops("vllm.v1.sample.ops.topk_topp_sampler", "apply_top_k_top_p_pytorch")
    logits = np.array([[0.0, -800.0], [0.0, -1.0]])
    # in a batch where another request has top_p < 1, the filter runs for all of them
    got = apply(torch.tensor(logits), None, torch.tensor([1.0, 0.5], dtype=torch.float64)).numpy()
    assert got[0, 1] == -np.inf
    np.testing.assert_array_equal(logits_filters.top_p(logits[:1], 1.0), logits[:1])

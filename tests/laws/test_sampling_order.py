"""Laws of the two orders, and of what the log-probs that come back are of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import logits_filters, sampling_order

both_orders = pytest.mark.parametrize("order", ["transformers", "vllm"])
ALL = {"temperature": 0.7, "top_k": 4, "top_p": 0.8, "min_p": 0.1, "repetition_penalty": 1.3}


def some_logits(seed, shape=(3, 7)):
    return 2 * np.random.default_rng(seed).standard_normal(shape)


@both_orders
def test_with_every_step_off_nothing_changes(order):
    logits = some_logits(0)
    np.testing.assert_array_equal(
        sampling_order.process_logits(logits, [[0]] * 3, order=order), logits
    )


@both_orders
@pytest.mark.parametrize("name", ALL)
def test_each_step_alone_is_that_filter(order, name):
    logits, ids = some_logits(1), [[0, 1], [2, 2], [3, 6]]
    got = sampling_order.process_logits(logits, ids, order=order, **{name: ALL[name]})
    step = getattr(logits_filters, name)
    arguments = (ids, ALL[name]) if name == "repetition_penalty" else (ALL[name],)
    np.testing.assert_array_equal(got, step(logits, *arguments))
    assert (got != logits).any()


@given(seed=st.integers(0, 199))
def test_the_steps_come_in_the_order_of_the_library(seed):
    logits, ids = some_logits(seed), np.random.default_rng(seed).integers(0, 7, (3, 2))
    z = logits_filters.temperature(logits_filters.repetition_penalty(logits, ids, 1.3), 0.7)
    expected = {
        "transformers": logits_filters.min_p(
            logits_filters.top_p(logits_filters.top_k(z, 4), 0.8), 0.1
        ),
        "vllm": logits_filters.top_p(logits_filters.top_k(logits_filters.min_p(z, 0.1), 4), 0.8),
    }
    for order, want in expected.items():
        np.testing.assert_array_equal(
            sampling_order.process_logits(logits, ids, order=order, **ALL), want
        )


def test_the_two_orders_keep_different_tokens():
    logits, settings = some_logits(2, (500, 30)), {"min_p": 0.15, "top_p": 0.8}
    kept = [
        np.isfinite(sampling_order.process_logits(logits, [[0]] * 500, order=order, **settings))
        for order in ("transformers", "vllm")
    ]
    # vLLM's min-p comes first and leaves top-p a larger share for each: never more tokens
    assert (kept[1] <= kept[0]).all()
    assert (kept[0] != kept[1]).any(axis=1).mean() > 0.3


def test_temperature_zero_is_greedy_in_vllm_and_refused_by_transformers():
    logits, ids = some_logits(3), [[0]] * 3
    greedy = ALL | {"temperature": 0}
    got = sampling_order.process_logits(logits, ids, order="vllm", **greedy)
    np.testing.assert_array_equal(got, logits_filters.repetition_penalty(logits, ids, 1.3))
    with pytest.raises(ValueError, match="temperature must be > 0"):
        sampling_order.process_logits(logits, ids, order="transformers", **greedy)


def test_vllm_raises_a_tiny_temperature_to_a_hundredth():
    logits, ids = some_logits(4), [[0]] * 3
    for tau, used in [(1e-6, 0.01), (0.01, 0.01), (0.02, 0.02)]:
        got = sampling_order.process_logits(logits, ids, order="vllm", temperature=tau)
        np.testing.assert_array_equal(got, logits / used)
    got = sampling_order.process_logits(logits, ids, order="transformers", temperature=1e-6)
    np.testing.assert_array_equal(got, logits / 1e-6)


@both_orders
def test_raw_log_probs_are_of_the_models_own_logits(order):
    logits = some_logits(5)
    got = sampling_order.reported_logps(
        logits, [[0]] * 3, order=order, logprobs_mode="raw_logprobs", **ALL
    )
    np.testing.assert_allclose(np.exp(got).sum(axis=1), 1, rtol=1e-13)
    np.testing.assert_allclose(got - got[:, :1], logits - logits[:, :1], rtol=1e-12, atol=1e-13)


@both_orders
def test_processed_log_probs_are_of_the_distribution_that_is_sampled(order):
    logits, ids = some_logits(6), [[0]] * 3
    kept = sampling_order.process_logits(logits, ids, order=order, **ALL)
    got = sampling_order.reported_logps(
        logits, ids, order=order, logprobs_mode="processed_logprobs", **ALL
    )
    left = np.isfinite(kept)
    assert not left.all() and (got[~left] == -np.inf).all()
    np.testing.assert_allclose(np.exp(got).sum(axis=1), 1, rtol=1e-13)
    for row in range(3):
        z, logp = kept[row, left[row]], got[row, left[row]]
        np.testing.assert_allclose(logp - logp[0], z - z[0], rtol=1e-12, atol=1e-13)


def test_extreme_logits_keep_their_digits():
    logits = np.array([[1e4, 1e4 - 50, -1e4]])
    with np.errstate(all="raise", under="ignore"):
        got = sampling_order.reported_logps(
            logits, [[0]], order="vllm", logprobs_mode="processed_logprobs", top_k=2
        )
    # -log(1 + e^-50) = -e^-50, where log(1 + 2e-22) taken as a log of a sum is 0
    np.testing.assert_allclose(got[0, :2], [-np.exp(-50.0), -50.0], rtol=1e-12)
    assert got[0, 2] == -np.inf


def test_rows_of_very_different_size_do_not_meet():
    logits = np.array([[1e4, 1e4 - 1, 0.0], [-1e4, -1e4 - 1, -2e4]])
    got = sampling_order.reported_logps(
        logits, [[0]] * 2, order="vllm", logprobs_mode="processed_logprobs", top_k=2
    )
    np.testing.assert_allclose(got[0], got[1], rtol=1e-11)  # 1e4 keeps 12 digits of the 1


def test_a_token_that_the_model_itself_forbids_reports_minus_infinity():
    for mode in ("raw_logprobs", "processed_logprobs"):
        got = sampling_order.reported_logps(
            [[0.0, -np.inf]], [[0]], order="vllm", logprobs_mode=mode
        )
        np.testing.assert_array_equal(got, [[0.0, -np.inf]])


@pytest.mark.parametrize(
    "bad, name",
    [
        ({"order": "sglang"}, "order must be one of 'transformers', 'vllm'"),
        ({"logprobs_mode": "raw"}, "logprobs_mode must be one of"),
        ({"top_k": -1}, "top_k must be >= 0"),
        ({"temperature": -1.0}, "temperature must be >= 0"),
        ({"top_p": 2.0}, "top_p must be <= 1"),
        ({"min_p": 2.0}, "min_p must be <= 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be > 0"),
        ({"logits": [[np.nan, 0.0]]}, "logits must be finite"),
    ],
)
def test_a_wrong_argument_is_named(bad, name):
    good = {"logits": [[0.0, 1.0]], "order": "vllm", "logprobs_mode": "raw_logprobs"}
    with pytest.raises(ValueError, match=name):
        sampling_order.reported_logps(**({"input_ids": [[0]]} | good | bad))


@pytest.mark.parametrize("order", ["transformers", "vllm"])
def test_left_to_itself_nothing_is_processed(order):
    logits, modes = [[0.0, 1.0, 3.0]], ("raw_logprobs", "processed_logprobs")
    raw, processed = (
        sampling_order.reported_logps(logits, [[0]], order=order, logprobs_mode=mode)
        for mode in modes
    )
    np.testing.assert_array_equal(raw, processed)
    assert np.isfinite(raw).all()

"""reference_math.sampling_order against transformers' generate and vLLM's Sampler, whole."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from reference_math import sampling_order

SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.8},
    {"min_p": 0.15, "top_p": 0.8},
    {"temperature": 0.9, "top_k": 6, "top_p": 0.85, "min_p": 0.1, "repetition_penalty": 1.3},
]
ROWS, VOCAB = 64, 30


def some_logits():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((ROWS, VOCAB)).astype(np.float32)
    return logits, rng.integers(0, VOCAB, (ROWS, 5))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_transformers_builds_its_processors_in_this_order(settings, tiny_qwen2):
    generation = pytest.importorskip("transformers.generation")
    logits, input_ids = some_logits()
    config = generation.GenerationConfig(do_sample=True, **({"top_k": 0} | settings))
    processors = tiny_qwen2()._get_logits_processor(
        config, input_ids_seq_length=5, logits_processor=[], device="cpu", model_kwargs={}
    )
    got = processors(torch.tensor(input_ids), torch.tensor(logits, dtype=torch.float64)).numpy()
    ours = sampling_order.process_logits(logits, input_ids, order="transformers", **settings)
    np.testing.assert_array_equal(ours, got)


def test_generate_reports_the_raw_logits_and_the_processed_scores(tiny_qwen2):
    settings = SETTINGS[-1]
    model = tiny_qwen2(dtype=torch.float64).eval()
    prompt = torch.tensor([[5, 9, 5, 7]])
    torch.manual_seed(0)
    out = model.generate(
        prompt,
        do_sample=True,
        max_new_tokens=4,
        min_new_tokens=4,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
        **settings,
    )
    for step in range(4):
        before = out.sequences[:, : 4 + step].numpy()
        logits, scores = out.logits[step].double().numpy(), out.scores[step].double().numpy()
        logits[:, 1] = -np.inf  # min_new_tokens forbids the end token, ahead of everything else
        settings_here = {"order": "transformers", **settings}
        for mode, theirs in [("raw_logprobs", logits), ("processed_logprobs", scores)]:
            ours = sampling_order.reported_logps(
                logits, before, logprobs_mode=mode, **settings_here
            )
            theirs = torch.log_softmax(torch.tensor(theirs), dim=-1).numpy()
            # generate works on float32 logits whatever the model's dtype
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def vllm_batch(logits, prompt, settings):
    """What vLLM's engine hands its Sampler for a batch of equal requests."""
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.logits_processor.builtin import MinPLogitsProcessor
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.sample.metadata import SamplingMetadata

    params, rows = SamplingParams(**settings), len(logits)

    def each(value):
        return torch.full((rows,), value)

    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=rows))
    min_p = MinPLogitsProcessor(config, torch.device("cpu"), False)
    added = [(row, params, None, []) for row in range(rows)]
    min_p.update_state(BatchUpdate(batch_size=rows, removed=[], added=added, moved=[]))
    greedy = params.temperature == 0
    return SamplingMetadata(
        temperature=None if greedy else each(params.temperature),
        all_greedy=greedy,
        all_random=not greedy,
        top_p=each(params.top_p) if params.top_p < 1 else None,
        top_k=each(params.top_k) if params.top_k > 0 else None,
        generators={},
        max_num_logprobs=-1,  # all of them, in the order of the vocabulary
        no_penalties=params.repetition_penalty == 1,
        prompt_token_ids=torch.tensor(prompt),
        frequency_penalties=each(0.0),
        presence_penalties=each(0.0),
        repetition_penalties=each(params.repetition_penalty),
        output_token_ids=[[] for _ in range(rows)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors([min_p]),
    )


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
@pytest.mark.parametrize("settings", [*SETTINGS, {"temperature": 0.0, "top_p": 0.5}], ids=str)
def test_vllms_sampler_reports_the_same_log_probs(settings, mode):
    vllm_sampler = pytest.importorskip("vllm.v1.sample.sampler")
    logits, prompt = some_logits()
    with torch.compiler.set_stance("force_eager"):  # compiling the draw takes longer than all else
        theirs = vllm_sampler.Sampler(logprobs_mode=mode)(
            torch.tensor(logits), vllm_batch(logits, prompt, settings)
        )
    got = theirs.logprobs_tensors.logprobs.numpy()
    ours = sampling_order.reported_logps(
        logits, prompt, order="vllm", logprobs_mode=mode, **settings
    )
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(got))
    # vLLM works in float32: log-probs of size 20
    np.testing.assert_allclose(ours, got, rtol=1e-5, atol=20 * 2.0**-22)


def test_vllm_draws_only_what_the_processed_log_probs_allow():
    vllm_sampler = pytest.importorskip("vllm.v1.sample.sampler")
    logits, prompt = some_logits()
    metadata = vllm_batch(logits, prompt, SETTINGS[-1])
    torch.manual_seed(0)
    with torch.compiler.set_stance("force_eager"):
        drawn = vllm_sampler.Sampler()(torch.tensor(logits), metadata).sampled_token_ids.numpy()
    left = sampling_order.process_logits(logits, prompt, order="vllm", **SETTINGS[-1])
    assert np.isfinite(np.take_along_axis(left, drawn.astype(np.int64), axis=1)).all()


def test_vllm_raises_a_tiny_temperature_to_the_constant_that_we_name():
    vllm = pytest.importorskip("vllm")
    params = vllm.SamplingParams(temperature=1e-6)
    assert params.temperature == sampling_order.VLLM_LEAST_TEMPERATURE
    greedy = vllm.SamplingParams(temperature=0.0, top_p=0.5, top_k=3, min_p=0.2)
    assert (greedy.top_p, greedy.top_k, greedy.min_p) == (1.0, 0, 0.0)

"""Rows of the report: token log-probabilities, supervised losses, KL."""

import numpy as np

from reference_math import kl, label_smoothing, logprobs, sft
from reference_math.conformance.rows import Row, running


def rows():
    yield from logprobs_rows()
    yield from sft_rows()
    yield from kl_rows()


# Log-probabilities and entropy -----------------------------------------------------------------


def logprobs_rows():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(scale=2.0, size=(3, 5, 101)), rng.integers(0, 101, (3, 5))
    arrays = {"logits": logits, "tokens": tokens}

    def log_probs(logits, tokens):
        ones = np.ones(tokens.shape)
        value = logprobs.per_token_logps(logits, tokens, temperature=0.7)
        return value, logprobs.logits_grad(logits, tokens, ones, temperature=0.7)

    def entropy(logits, tokens):
        grad = logprobs.entropy_grad(logits, np.ones(tokens.shape), temperature=0.7)
        return logprobs.entropy(logits, temperature=0.7), grad

    def from_twin(i):
        def theirs(logits, tokens):
            from reference_math.torch import logprobs as twin

            return twin.per_token_logps_and_entropy(logits, tokens, temperature=0.7)[i]

        return theirs

    def from_trl(i):
        def theirs(logits, tokens):
            from trl.trainer.utils import selective_log_softmax_and_entropy

            return selective_log_softmax_and_entropy(logits, tokens, temperature=0.7)[i]

        return theirs

    def from_fused_head(i):
        def theirs(logits, tokens):
            """The identity as the hidden states' head: its product is the logits."""
            import torch
            from trl.kernels import ChunkedLogProbFunction

            eye = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
            arguments = (tokens.flatten(), 0.7, 64, None, 1.0, ("entropy",))
            got = ChunkedLogProbFunction.apply(logits.flatten(0, 1), eye, None, *arguments)
            return got[i].view(tokens.shape)

        return theirs

    for i, (option, ours) in enumerate([("log-probs", log_probs), ("entropy", entropy)]):
        for library, theirs, note in [
            ("torch twin", from_twin(i), ""),
            ("trl", from_trl(i), ", from logits"),
            ("trl", from_fused_head(i), ", fused head"),
        ]:
            run = running(theirs, ours, arrays, "logits")
            yield Row("tokens", f"{option}, temperature 0.7{note}", library, run)


# Supervised fine-tuning ------------------------------------------------------------------------


def sft_rows():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(scale=2.0, size=(3, 6, 11)), rng.integers(0, 11, (3, 6))
    mask = (rng.random((3, 6)) < 0.6).astype(int)
    arrays = {"logits": logits, "tokens": tokens, "completion_mask": mask}

    def ours(name, n):
        weighs = {"reduction": "global_token" if n else "batch_token", "num_items_in_batch": n}

        def both(logits, tokens, completion_mask):
            if name == "label smoothing":
                options = weighs | {"label_smoothing_factor": 0.1}
                given = (logits, tokens, completion_mask)
                value = label_smoothing.loss(*given, **options)
                return value, label_smoothing.loss_grad(*given, **options)
            logps = logprobs.per_token_logps(logits, tokens)
            grad = getattr(sft, name + "_grad")(logps, completion_mask, **weighs)
            value = getattr(sft, name)(logps, completion_mask, **weighs)
            return value, logprobs.logits_grad(logits, tokens, grad)

        return both

    def from_trl(name, n):
        def theirs(**tensors):
            from reference_math.conformance import trl_sft

            smoothing = {"label_smoothing_factor": 0.1} if name == "label smoothing" else {}
            loss_type = {"loss_type": name} if not smoothing else {}
            return trl_sft.loss(**tensors, num_items_in_batch=n, **smoothing, **loss_type)

        return theirs

    def from_twin(name, n):
        weighs = {"reduction": "global_token" if n else "batch_token", "num_items_in_batch": n}

        def theirs(logits, tokens, completion_mask):
            from reference_math.torch import logprobs as twin_logprobs
            from reference_math.torch import sft as twin

            logps = twin_logprobs.per_token_logps(logits, tokens)
            return getattr(twin, name)(logps, completion_mask, **weighs)

        return theirs

    for name in ("nll", "dft", "label smoothing"):
        for n in (None, 17):
            option = f"{name}, {'accumulated' if n else 'one micro-batch'}"
            both = ours(name, n)
            yield Row("sft", option, "trl", running(from_trl(name, n), both, arrays, "logits"))
            if name != "label smoothing":
                run = running(from_twin(name, n), both, arrays, "logits")
                yield Row("sft", option, "torch twin", run)


# KL --------------------------------------------------------------------------------------------


def kl_rows():
    rng = np.random.default_rng(0)
    logps, ref_logps = -rng.exponential(size=(2, 3, 5))
    arrays = {"per_token_logps": logps, "ref_per_token_logps": ref_logps}

    def ours(name):
        f, grad = getattr(kl, name), getattr(kl, name + "_grad")
        return lambda **given: (f(**given), grad(**given))

    def from_twin(name):
        def theirs(**tensors):
            from reference_math.torch import kl as twin

            return getattr(twin, name)(**tensors)

        return theirs

    for name in ("k1", "k2", "k3"):
        run = running(from_twin(name), ours(name), arrays, "per_token_logps")
        yield Row("kl", name, "torch twin", run)

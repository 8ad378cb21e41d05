"""Token log-probabilities and entropy straight from the hidden states: the logits never exist whole.

logits = hidden @ weight.T, one chunk of positions at a time; the backward multiplies again instead
of remembering.  Four products with the head where the naive form has three, and no (B, T, V) tensor.

Source    Wijmans et al. (Cut Cross-Entropy), arXiv 2411.09009, with positions cut and not tokens
Proof     tests/parity/test_logprobs.py; memory and time: tests/benchmarks/README.md

Shapes    B sequences, T positions, D features, V tokens of vocabulary.
Dtypes    as in reference_math.torch.logprobs; gradients of the head are summed in float32 or better.
"""

import torch
from torch.autograd.function import once_differentiable

from reference_math.torch import logprobs


def per_token_logps_and_entropy(hidden_states, weight, tokens, *, temperature=1.0):
    """What logprobs.per_token_logps_and_entropy says of logits = hidden_states @ weight.T.

    hidden_states   (B, T, D)  hidden_states[b, t] predict tokens[b, t]
    weight          (V, D)     of the head, without bias
    tokens          (B, T)
    returns         ((B, T), (B, T))
    """
    if hidden_states.shape[:-1] != tokens.shape or hidden_states.shape[-1] != weight.shape[-1]:
        raise ValueError(
            "hidden_states (B, T, D), weight (V, D) and tokens (B, T) must agree, got "
            f"{tuple(hidden_states.shape)}, {tuple(weight.shape)} and {tuple(tokens.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    flat = hidden_states.reshape(-1, hidden_states.shape[-1])
    both = _FromHidden.apply(flat, weight, tokens.reshape(-1), temperature)
    return tuple(x.view(tokens.shape) for x in both)


class _FromHidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, tokens, temperature):
        statistics = torch.empty(
            (4, len(hidden)), dtype=logprobs.precision(hidden), device=hidden.device
        )
        for at in _chunks(hidden, weight):
            z = _logits(hidden[at], weight, temperature)
            statistics[:, at] = logprobs.position_statistics(z, tokens[at])
        ctx.save_for_backward(hidden, weight, tokens, statistics)
        ctx.temperature = temperature
        return statistics[2].clone(), statistics[3].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logps, grad_entropy):
        hidden, weight, tokens, statistics = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=statistics.dtype)
        for at in _chunks(hidden, weight):
            grad_logits = logprobs.logits_grad(
                _logits(hidden[at], weight, ctx.temperature),
                tokens[at],
                statistics[:, at],
                grad_logps[at] / ctx.temperature,
                grad_entropy[at] / ctx.temperature,
            )
            if grad_hidden is not None:
                grad_hidden[at] = grad_logits.to(weight.dtype) @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[at].to(statistics.dtype))
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None,
        )


def _chunks(hidden, weight):
    size = logprobs.chunk_size(hidden.device, len(weight))
    return [slice(n, n + size) for n in range(0, len(hidden), size)]


def _logits(hidden, weight, temperature):
    return (hidden @ weight.T).to(logprobs.precision(hidden)).div_(temperature)

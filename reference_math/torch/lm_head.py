"""Compute token log-probabilities and entropy from hidden states, without a (B, T, V) tensor of logits.

logits = hidden @ weight.T, one chunk of positions at a time.  The backward computes the logits again
instead of storing them: four products with the head, where the naive form has three.  Under a frozen
head, as in LoRA, the backward does not: the forward stores the direction of the gradient, (B, T, D),
and there are two products, as in the naive form.

Source    Wijmans et al. (Cut Cross-Entropy), arXiv 2411.09009, with positions cut and not tokens
Proof     tests/parity/test_logprobs.py; memory and time: tests/benchmarks/README.md

Shapes    B sequences, T positions, D features, V tokens of vocabulary.
Dtypes    as in reference_math.torch.logprobs; gradients of the head are summed in float32 or better.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reference_math.torch import logprobs


def per_token_logps(
    hidden_states: Tensor, weight: Tensor, tokens: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Compute logprobs.per_token_logps of logits = hidden_states @ weight.T.

    hidden_states   (B, T, D)  hidden_states[b, t] predict tokens[b, t]
    weight          (V, D)     of the head, without bias
    tokens          (B, T)
    returns         (B, T)
    """
    return _apply(hidden_states, weight, tokens, temperature, False)[0].view(tokens.shape)


def per_token_logps_and_entropy(
    hidden_states: Tensor, weight: Tensor, tokens: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute both in one pass: ((B, T), (B, T))."""
    both = _apply(hidden_states, weight, tokens, temperature, True)
    return tuple(x.view(tokens.shape) for x in both)


def _apply(hidden_states, weight, tokens, temperature, with_entropy):
    if hidden_states.shape[:-1] != tokens.shape or hidden_states.shape[-1] != weight.shape[-1]:
        raise ValueError(
            "hidden_states (B, T, D), weight (V, D) and tokens (B, T) must agree, got "
            f"{tuple(hidden_states.shape)}, {tuple(weight.shape)} and {tuple(tokens.shape)}"
        )
    if hidden_states.dtype != weight.dtype:
        raise ValueError(
            f"weight must have the dtype of hidden_states {hidden_states.dtype}, got {weight.dtype}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    flat = hidden_states.reshape(-1, hidden_states.shape[-1])
    asked = torch.is_grad_enabled() and hidden_states.requires_grad
    ahead = asked and not weight.requires_grad and not with_entropy
    return _FromHidden.apply(flat, weight, tokens.reshape(-1), temperature, with_entropy, ahead)


class _FromHidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, tokens, temperature, with_entropy, ahead):
        ctx.set_materialize_grads(False)  # of an output that nobody used: None, and its work saved
        values = hidden.new_empty((2, len(hidden)), dtype=logprobs.precision(hidden))
        direction = torch.empty_like(hidden) if ahead else None
        for z, pieces in _logits(hidden, weight, temperature):
            for at, part in pieces:
                values[:, at] = logprobs.chunk_values(z[part], tokens[at], with_entropy)
                if ahead:
                    z[part] = logprobs.chunk_direction(z[part], tokens[at], values[0, at])
            if ahead:
                direction[_rows(pieces)] = z.div_(temperature).to(weight.dtype) @ weight
        ctx.save_for_backward(*([direction] if ahead else [hidden, weight, tokens, values]))
        ctx.temperature, ctx.ahead = temperature, ahead
        return values[0].clone(), values[1].clone() if with_entropy else None

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logps, grad_entropy):
        if ctx.ahead:
            (direction,) = ctx.saved_tensors
            return (direction * grad_logps[:, None]).to(direction.dtype), *[None] * 5
        hidden, weight, tokens, values = ctx.saved_tensors
        asked_hidden, asked_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if asked_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=values.dtype) if asked_weight else None
        for z, pieces in _logits(hidden, weight, ctx.temperature):
            for at, part in pieces:
                grads = (
                    g if g is None else g[at] / ctx.temperature for g in (grad_logps, grad_entropy)
                )
                z[part] = logprobs.chunk_grad(z[part], tokens[at], values[:, at], *grads)
            if asked_hidden:
                grad_hidden[_rows(pieces)] = z.to(weight.dtype) @ weight
            if asked_weight:
                grad_weight.addmm_(z.T, hidden[_rows(pieces)].to(values.dtype))
        if asked_weight:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, *[None] * 4


def _rows(pieces):
    """Where all the pieces together stand in hidden."""
    return slice(pieces[0][0].start, pieces[-1][0].stop)


def _logits(hidden, weight, temperature):
    """Logits of some positions at a time, and the pieces of them that fit a chunk.

    A product of few rows would spend its time reading the head: 128 rows, then pieces.

    yields   z (rows, V), [(where a piece stands in hidden, where in z)]; z is written over each time
    """
    piece = logprobs.chunk_size(hidden.device, len(weight))
    rows = max(128, piece)
    product = hidden.new_empty(min(rows, len(hidden)), len(weight))
    precise = product.to(logprobs.precision(hidden))  # the same tensor, unless hidden is of 16 bits
    for n in range(0, len(hidden), rows):
        here = hidden[n : n + rows]
        z = torch.mm(here, weight.T, out=product[: len(here)])
        if precise is not product:
            z = precise[: len(here)].copy_(z)
        if temperature != 1:
            z.div_(temperature)
        parts = [slice(i, min(i + piece, len(z))) for i in range(0, len(z), piece)]
        yield z, [(slice(n + part.start, n + part.stop), part) for part in parts]

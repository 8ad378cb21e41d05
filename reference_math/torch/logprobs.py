"""Compute token log-probabilities and entropy on any device, one chunk of positions at a time.

The naive form, log_softmax and gather, makes several more tensors as large as the logits: at
B T = 8192 and V = 151,936 each is 5 GB in float32.  Here the forward keeps two numbers per position
and the backward takes each chunk's softmax again: beside its input it holds one chunk, and in the
backward the gradient that autograd asks for.  `lm_head` needs not even the logits.

Twin of   reference_math.logprobs
Proof     tests/parity/test_logprobs.py; memory and time: tests/benchmarks/README.md

Shapes    B sequences, T positions, V >= 2 tokens of vocabulary.    Natural logs; entropy in nats.
Dtypes    float64 stays; float32 and below are computed and returned in float32.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import logsigmoid

# Elements in a chunk: on a CPU a few MB, near the cache; on a GPU enough to fill it (134 MB).
CHUNK = {"cpu": 2**20}
CHUNK_ELSEWHERE = 2**25


def per_token_logps(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute the log-probability of each token of the text.

    logits        (B, T, V)  logits[b, t] predict tokens[b, t]; a view is not copied
    tokens        (B, T)     ids, 0 to V - 1
    returns       (B, T)     never positive; padding included: the caller masks
    """
    _check(logits, tokens, temperature)
    return _LogpsAndEntropy.apply(logits, tokens, temperature, False)[0]


def entropy(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Compute the entropy at each position: (B, T, V) -> (B, T), in nats."""
    tokens = torch.zeros(logits.shape[:-1], dtype=torch.long, device=logits.device)
    return per_token_logps_and_entropy(logits, tokens, temperature=temperature)[1]


def per_token_logps_and_entropy(
    logits: Tensor, tokens: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Compute both in one pass over the logits, forward and backward: ((B, T), (B, T))."""
    _check(logits, tokens, temperature)
    return _LogpsAndEntropy.apply(logits, tokens, temperature, True)


class _LogpsAndEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, tokens, temperature, with_entropy):
        ctx.set_materialize_grads(False)  # of an output that nobody used: None, and its work saved
        values = logits.new_empty((2, *tokens.shape), dtype=precision(logits))
        for at in _chunks(logits):
            z = _scaled(logits[at], temperature)
            values[(slice(None), *at)] = chunk_values(z, tokens[at], with_entropy)
        ctx.save_for_backward(logits, tokens, values)
        ctx.temperature = temperature
        return values[0].clone(), values[1].clone() if with_entropy else None

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logps, grad_entropy):
        logits, tokens, values = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for at in _chunks(logits):
            z, here = _scaled(logits[at], ctx.temperature), values[(slice(None), *at)]
            grads = (
                g if g is None else g[at] / ctx.temperature for g in (grad_logps, grad_entropy)
            )
            grad[at] = chunk_grad(z, tokens[at], here, *grads)
        return grad, None, None, None


def chunk_values(z: Tensor, tokens: Tensor, with_entropy: bool) -> Tensor:
    """Compute one chunk's values by the chain rule: this token or not, and which of the others.

    log p = log sigmoid(-odds), odds = log sum_others e^z - z: a token with p close to 1 keeps its
    log p of -1e-20, where z - log sum_all e^z is 0.  H = H(this or not) + (1 - p) H(the others).

    z         (N, V)  logits / temperature; used up
    returns   (2, N)  log p of the token; entropy, or 0
    """
    this = z.argmax(dim=-1, keepdim=True) if with_entropy else tokens[:, None]
    z_this = z.gather(-1, this)
    others = z.scatter_(-1, this, -torch.inf).log_softmax(dim=-1)
    odds = z.amax(-1, keepdim=True) - z_this - others.amax(-1, keepdim=True)
    yes, no = logsigmoid(-odds), logsigmoid(odds)
    logps = torch.where(this == tokens[:, None], yes, others.gather(-1, tokens[:, None]) + no)
    entropy = torch.zeros_like(logps)
    if with_entropy:
        p_others = others.exp()
        within = p_others.mul_(others.scatter_(-1, this, 0.0)).sum(-1, keepdim=True)
        entropy = -yes.exp() * yes - no.exp() * (no + within)
    return torch.cat([logps, entropy], dim=-1).T


def chunk_grad(
    z: Tensor,
    tokens: Tensor,
    values: Tensor,
    grad_logps: Tensor | None,
    grad_entropy: Tensor | None,
) -> Tensor:
    """Compute dL/dz = g (1[v = token] - p) - h p (log p + H), the two gradients of the numpy twin.

    z                          (N, V)  as above
    values                     (2, N)  of `chunk_values`
    grad_logps, grad_entropy   (N,)    None: that output was not used
    returns                    (N, V)
    """
    logps, entropy = values[..., None]
    g = 0.0 if grad_logps is None else grad_logps[:, None]
    at_token = -g * logps.expm1()
    if grad_entropy is None:
        grad = z.softmax(dim=-1).mul_(-g)
    else:
        h, log_p = grad_entropy[:, None], z.log_softmax(dim=-1)
        at_token = at_token - h * logps.exp() * (logps + entropy)
        grad = log_p.exp().mul_(log_p.add_(entropy).mul_(h).add_(g)).neg_()
    return grad.scatter_(-1, tokens[:, None], at_token)


def chunk_direction(z: Tensor, tokens: Tensor, logps: Tensor) -> Tensor:
    """Compute d log p / dz = 1[v = token] - p from z as `chunk_values` without the entropy leaves it.

    There the token's own logit is -inf, so the softmax is over the others; times 1 - p(token) it is p.

    z         (N, V)  used up
    logps     (N,)    of `chunk_values`
    returns   (N, V)
    """
    others = -logps.expm1()[:, None]
    return z.softmax(dim=-1).mul_(-others).scatter_(-1, tokens[:, None], others)


def _chunks(logits):
    """(row, positions) of pieces of a chunk's size, each of them a view."""
    B, T, V = logits.shape
    size = chunk_size(logits.device, V)
    return [(b, slice(t, t + size)) for b in range(B) for t in range(0, T, size)]


def chunk_size(device: torch.device, vocab_size: int) -> int:
    """Return how many positions to take at a time."""
    return max(1, CHUNK.get(device.type, CHUNK_ELSEWHERE) // vocab_size)


def precision(x: Tensor) -> torch.dtype:
    """Return float64 or float32: the dtype in which x is computed."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _scaled(x, temperature):
    """A copy in the precision of the computation."""
    return x.to(precision(x), copy=True).div_(temperature)


def _check(logits, tokens, temperature):
    if logits.ndim != 3 or not logits.is_floating_point() or logits.shape[-1] < 2:
        raise ValueError(f"logits must be (B, T, V >= 2) floats, got {tuple(logits.shape)}")
    if tokens.shape != logits.shape[:2] or tokens.is_floating_point():
        raise ValueError(
            f"tokens must be integers of shape {tuple(logits.shape[:2])}, got {tokens.dtype} "
            f"{tuple(tokens.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")

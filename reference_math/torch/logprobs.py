"""Token log-probabilities and entropy on any device, one chunk of positions at a time.

The naive form, log_softmax and gather, makes several more tensors as large as the logits: at
B T = 8192 and V = 151,936 each is 5 GB in float32.  Here the forward keeps three numbers a position
and the backward rebuilds each chunk's probabilities from them: beside its input it holds one chunk,
and in the backward the gradient that autograd asks for.  `lm_head` needs not even the logits.

Twin of   reference_math.logprobs
Proof     tests/parity/test_logprobs.py; memory and time: tests/benchmarks/README.md

Shapes    B sequences, T positions, V tokens of vocabulary.    Natural logs; entropy in nats.
Dtypes    float64 stays; float32 and below are computed and returned in float32.
"""

import torch
from torch.autograd.function import once_differentiable

# Elements in a chunk: on a CPU a few MB, near the cache; on a GPU enough to fill it (134 MB).
CHUNK = {"cpu": 2**20}
CHUNK_ELSEWHERE = 2**25


def per_token_logps(logits, tokens, *, temperature=1.0):
    """Log-probability of each token that stands in the text.

    logits        (B, T, V)  logits[b, t] predict tokens[b, t]; a view is not copied
    tokens        (B, T)     ids, 0 to V - 1
    returns       (B, T)     never positive; padding included: the caller masks
    """
    return per_token_logps_and_entropy(logits, tokens, temperature=temperature)[0]


def entropy(logits, *, temperature=1.0):
    """How undecided the model is at each position: (B, T, V) -> (B, T), in nats."""
    tokens = torch.zeros(logits.shape[:-1], dtype=torch.long, device=logits.device)
    return per_token_logps_and_entropy(logits, tokens, temperature=temperature)[1]


def per_token_logps_and_entropy(logits, tokens, *, temperature=1.0):
    """Both in one pass over the logits, forward and backward: ((B, T), (B, T))."""
    _check(logits, tokens, temperature)
    return _LogpsAndEntropy.apply(logits, tokens, temperature)


class _LogpsAndEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, tokens, temperature):
        statistics = logits.new_empty((4, *tokens.shape), dtype=precision(logits))
        for at in _chunks(logits):
            statistics[(slice(None), *at)] = position_statistics(
                _scaled(logits[at], temperature), tokens[at]
            )
        ctx.save_for_backward(logits, tokens, statistics)
        ctx.temperature = temperature
        return statistics[2].clone(), statistics[3].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logps, grad_entropy):
        logits, tokens, statistics = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for at in _chunks(logits):
            grad[at] = logits_grad(
                _scaled(logits[at], ctx.temperature),
                tokens[at],
                statistics[(slice(None), *at)],
                grad_logps[at] / ctx.temperature,
                grad_entropy[at] / ctx.temperature,
            )
        return grad, None, None


def position_statistics(z, tokens):
    """What a position's distribution is remembered by.

    z         (N, V)  logits / temperature; used up
    returns   (4, N)  the largest logit; log sum e^(z - largest); log p of the token; entropy
    """
    top, at_top = z.max(dim=-1, keepdim=True)
    z.sub_(top)
    at_token = z.gather(-1, tokens[:, None])[:, 0]
    p = z.exp()
    p.scatter_(-1, at_top, 0.0)  # log1p of the others: a sure token keeps its log p of -1e-20
    others = p.sum(-1)
    log_z = others.log1p()
    spread = p.mul_(z).sum(-1) / (1.0 + others)  # sum p (z - largest); the largest adds 0
    return torch.stack([top[:, 0], log_z, at_token - log_z, log_z - spread])


def logits_grad(z, tokens, statistics, grad_logps, grad_entropy):
    """dL/dz = g (1[v = token] - p) - h p (log p + H), the two gradients of the numpy twin.

    z            (N, V)  as above; used up
    statistics   (4, N)  of `position_statistics`
    returns      (N, V)
    """
    top, log_z, logps, h = (x[:, None] for x in statistics)
    g, gh = grad_logps[:, None], grad_entropy[:, None]
    log_p = z.sub_(top).sub_(log_z)
    at_token = -g * logps.expm1() - gh * logps.exp() * (logps + h)
    p = log_p.exp()
    grad = log_p.add_(h).mul_(gh).add_(g).mul_(p).neg_()
    return grad.scatter_(-1, tokens[:, None], at_token)


def _chunks(logits):
    """(row, positions) of pieces of a chunk's size, each of them a view."""
    B, T, V = logits.shape
    size = chunk_size(logits.device, V)
    return [(b, slice(t, t + size)) for b in range(B) for t in range(0, T, size)]


def chunk_size(device, vocab_size):
    """How many positions to take at a time."""
    return max(1, CHUNK.get(device.type, CHUNK_ELSEWHERE) // vocab_size)


def precision(x):
    """float64 or float32: what x is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _scaled(x, temperature):
    return x.to(precision(x)) / temperature  # always a copy


def _check(logits, tokens, temperature):
    if logits.ndim != 3 or not logits.is_floating_point() or logits.shape[-1] == 0:
        raise ValueError(f"logits must be (B, T, V) floats, got {tuple(logits.shape)}")
    if tokens.shape != logits.shape[:2] or tokens.is_floating_point():
        raise ValueError(
            f"tokens must be integers of shape {tuple(logits.shape[:2])}, got {tokens.dtype} "
            f"{tuple(tokens.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")

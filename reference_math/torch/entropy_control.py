"""Select the tokens that learn by their entropy, and compute an entropy bonus, on any device.

Twin of   reference_math.entropy_control     Proof   tests/parity/test_entropy_control.py

Shapes    B completions, T tokens each.
"""

from torch import Tensor

from reference_math.entropy_control import next_coef  # noqa: F401  numbers, no tensors
from reference_math.torch import _checks


def high_entropy_mask(
    entropies: Tensor, completion_mask: Tensor, *, top_entropy_quantile: float
) -> Tensor:
    """Mark with 1 the tokens at or above the batch's (1 - top_entropy_quantile) quantile, (B, T).

    By a sort, since torch.quantile refuses more than 16 million tokens.
    """
    name = "top_entropy_quantile"
    share = _checks.number(name, top_entropy_quantile, at_least=0, at_most=1)
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    entropies = _checks.counted("entropies", entropies.detach(), mask)
    ordered = entropies[mask == 1].sort().values
    if len(ordered) == 0:
        return mask.to(entropies.dtype)
    place = (1.0 - share) * (len(ordered) - 1)
    below = ordered[int(place)]
    bar = below.lerp(ordered[min(int(place) + 1, len(ordered) - 1)], place - int(place))
    return mask * (entropies >= bar).to(entropies.dtype)


def bonus(entropies: Tensor, completion_mask: Tensor) -> Tensor:
    """Compute the mean entropy of the tokens that count, a 0-d tensor; 0 when none does."""
    mask = _checks.ndim("completion_mask", completion_mask, 2)
    return _checks.counted("entropies", entropies, mask).sum() / _checks.count(mask).clamp(min=1)

"""The seeded batch on which every library's losses run, and how a driver keeps what they give.

B = 8 completions of up to T = 7 tokens, in groups of G = 4; 6 pairs. The letters are those of
`reference_math.conformance.rosetta`, which says what each one is.
"""

import numpy as np

B, T, G, PAIRS = 8, 7, 4, 6


def batch():
    """{letter: array}, float64; every log-prob is below 0."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, T + 1, size=B)
    lengths[0] = T
    m = (np.arange(T) < lengths[:, None]).astype(float)
    l = -rng.exponential(1.0, size=(B, T)) - 0.05
    o = l + 0.3 * rng.normal(size=(B, T))
    r = l + 0.5 * rng.normal(size=(B, T))
    q = o + 0.3 * rng.normal(size=(B, T))
    o, r, q = (np.minimum(x, -1e-3) for x in (o, r, q))
    A, R = rng.normal(size=B), rng.normal(size=B).round(2)
    far = l - 2.0 * np.abs(rng.normal(size=(B, T)))
    per_token = rng.normal(size=(B, T))
    v = rng.normal(size=(B, T))
    v_old, returns = v + 0.5 * rng.normal(size=(B, T)), rng.normal(size=(B, T))
    pairs = -rng.exponential(8.0, size=(4, PAIRS))
    means = -rng.exponential(1.0, size=(2, PAIRS))
    logits, ref_logits = rng.normal(size=(2, 2, 6, 30))
    token_ids = rng.integers(0, 30, size=(2, 6))
    token_rewards = np.zeros((B, T))
    token_rewards[np.arange(B), lengths - 1] = R
    kept = {"m": m, "l": l, "o": o, "far": far, "r": r, "q": q, "A": A, "R": R, "At": per_token}
    kept |= {"Rt": token_rewards, "v": v, "v_old": v_old, "ret": returns}
    kept |= dict(zip(("pc", "pr", "rc", "rr"), pairs, strict=True))
    kept |= {"mc": means[0], "mr": means[1]}
    return kept | {"z": logits, "zr": ref_logits, "ids": token_ids}


def array(x):
    """A tensor or a number as a float64 array."""
    return np.asarray(x.detach().cpu().double() if hasattr(x, "detach") else x, dtype=float)


class Vectors:
    """Collects {"case/value": array, "case/grad": array}, and the batch as {"batch/letter": array}."""

    def __init__(self):
        self.batch = batch()
        self.arrays = {f"batch/{name}": x for name, x in self.batch.items()}

    def tensor(self, letter, grad=False, dtype=None):
        """A fresh tensor of one array, or of any array given."""
        import torch

        x = self.batch[letter] if isinstance(letter, str) else letter
        return torch.tensor(np.asarray(x), dtype=dtype or torch.float64, requires_grad=grad)

    def keep(self, case, value, **gradients):
        """The value of a case, and the gradient of each tensor that is given by name."""
        if f"{case}/value" in self.arrays:
            raise ValueError(f"two cases are called {case!r}")
        self.arrays[f"{case}/value"] = array(value)
        for name, tensor in gradients.items():
            self.arrays[f"{case}/{name}"] = array(tensor.grad)

    def run(self, case, loss, of="l"):
        """Keeps loss(x) and its gradient to x, the array `of`."""
        x = self.tensor(of, grad=True)
        value = loss(x)
        value.backward()
        self.keep(case, value, grad=x)

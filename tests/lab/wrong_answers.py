"""Plausible wrong answers to eight exercises, by the name of the check they are given to: ALL[name][what is wrong].

Whoever wrote them had the exercises and not the mistakes that the puzzles name. tests/lab/test_check.py runs them.
"""

import numpy as np

Z = 1.959964


def sg(x):
    return 1 / (1 + np.exp(-x))


def C(w, e):
    return np.clip(w, 1 - e, 1 + e)


def lsm(logits, axis=-1):
    logits = logits - logits.max(axis, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis, keepdims=True))


def pick(lp, ids):
    return np.take_along_axis(lp, ids[..., None], -1)[..., 0]


def sftlp(l, i):
    return pick(lsm(l[:, :-1]), i[:, 1:])


ALL = {}
ALL["sft_loss"] = {
    "RIGHT": lambda l, i, m: -(m[:, 1:] * sftlp(l, i)).sum() / m[:, 1:].sum(),
    "no shift at all": lambda l, i, m: -(m * pick(lsm(l), i)).sum() / m.sum(),
    "mask not shifted ([:, :-1])": lambda l, i, m: (
        -(m[:, :-1] * sftlp(l, i)).sum() / m[:, :-1].sum()
    ),
    "no mask (mean of all)": lambda l, i, m: -sftlp(l, i).mean(),
    "divides by the unshifted mask sum": lambda l, i, m: (
        -(m[:, 1:] * sftlp(l, i)).sum() / (m.sum() + 1)
    ),
    "mean per sequence first": lambda l, i, m: (
        -((m[:, 1:] * sftlp(l, i)).sum(1) / m[:, 1:].sum(1)).mean()
    ),
    "sum": lambda l, i, m: -(m[:, 1:] * sftlp(l, i)).sum(),
    "sign": lambda l, i, m: (m[:, 1:] * sftlp(l, i)).sum() / m[:, 1:].sum(),
    "not stabilised: log(exp/sum exp)": lambda l, i, m: (
        -(
            m[:, 1:]
            * pick(np.log(np.exp(l[:, :-1]) / np.exp(l[:, :-1]).sum(-1, keepdims=True)), i[:, 1:])
        ).sum()
        / m[:, 1:].sum()
    ),
    "forgot the log (1 - p)": lambda l, i, m: (
        (m[:, 1:] * (1 - np.exp(sftlp(l, i)))).sum() / m[:, 1:].sum()
    ),
    "probabilities instead of log-probs": lambda l, i, m: (
        -(m[:, 1:] * np.exp(sftlp(l, i))).sum() / m[:, 1:].sum()
    ),
    "raw logits instead of log-softmax": lambda l, i, m: (
        -(m[:, 1:] * pick(l[:, :-1], i[:, 1:])).sum() / m[:, 1:].sum()
    ),
    "softmax over the time axis": lambda l, i, m: (
        -(m[:, 1:] * pick(lsm(l[:, :-1], 1), i[:, 1:])).sum() / m[:, 1:].sum()
    ),
    "perplexity": lambda l, i, m: np.exp(-(m[:, 1:] * sftlp(l, i)).sum() / m[:, 1:].sum()),
    "returns per-token losses": lambda l, i, m: -(m[:, 1:] * sftlp(l, i)),
    "inverted mask": lambda l, i, m: -((1 - m[:, 1:]) * sftlp(l, i)).sum() / (1 - m[:, 1:]).sum(),
    "sums over the vocabulary (label smoothing form)": lambda l, i, m: (
        -(m[:, 1:, None] * lsm(l[:, :-1])).sum() / m[:, 1:].sum()
    ),
}


def h(c, r, rc, rr, b):
    return b * ((c - rc) - (r - rr))


ALL["dpo_loss"] = {
    "RIGHT": lambda c, r, rc, rr, b: np.logaddexp(0, -h(c, r, rc, rr, b)),
    "chosen/rejected swapped": lambda c, r, rc, rr, b: np.logaddexp(0, h(c, r, rc, rr, b)),
    "sign of loss: +log sigmoid": lambda c, r, rc, rr, b: -np.logaddexp(0, -h(c, r, rc, rr, b)),
    "no reference": lambda c, r, rc, rr, b: np.logaddexp(0, -b * (c - r)),
    "reference added instead of subtracted": lambda c, r, rc, rr, b: np.logaddexp(
        0, -b * ((c + rc) - (r + rr))
    ),
    "reference margin with the wrong sign: (c-r)-(rr-rc)": lambda c, r, rc, rr, b: np.logaddexp(
        0, -b * ((c - r) - (rr - rc))
    ),
    "ref swapped: c - rr, r - rc": lambda c, r, rc, rr, b: np.logaddexp(
        0, -b * ((c - rr) - (r - rc))
    ),
    "no beta": lambda c, r, rc, rr, b: np.logaddexp(0, -h(c, r, rc, rr, 1)),
    "beta outside": lambda c, r, rc, rr, b: b * np.logaddexp(0, -h(c, r, rc, rr, 1)),
    "beta on the policy only": lambda c, r, rc, rr, b: np.logaddexp(0, -(b * (c - r) - (rc - rr))),
    "not stabilised": lambda c, r, rc, rr, b: -np.log(1 / (1 + np.exp(-h(c, r, rc, rr, b)))),
    "half stabilised: log(1+exp(-h))": lambda c, r, rc, rr, b: np.log(
        1 + np.exp(-h(c, r, rc, rr, b))
    ),
    "log1p(exp(-h))": lambda c, r, rc, rr, b: np.log1p(np.exp(-h(c, r, rc, rr, b))),
    "clipped margin (np.clip(h,-30,30))": lambda c, r, rc, rr, b: np.logaddexp(
        0, -np.clip(h(c, r, rc, rr, b), -30, 30)
    ),
    "1 - sigmoid": lambda c, r, rc, rr, b: 1 - 1 / (1 + np.exp(-h(c, r, rc, rr, b))),
    "hinge": lambda c, r, rc, rr, b: np.maximum(0, 1 - h(c, r, rc, rr, b)),
    "ipo": lambda c, r, rc, rr, b: ((c - rc) - (r - rr) - 1 / (2 * b)) ** 2,
    "returns the margin h": h,
    "probabilities: exp(c)/exp(rc)": lambda c, r, rc, rr, b: np.logaddexp(
        0, -b * (np.exp(c - rc) - np.exp(r - rr))
    ),
    "rejected log-ratio with the wrong sign (sum)": lambda c, r, rc, rr, b: np.logaddexp(
        0, -b * ((c - rc) + (r - rr))
    ),
}


ALL["kto_loss"] = {
    "RIGHT": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - q - k)), sg(b * (k - (p - q))))
    ).mean(),
    "no 1 - : returns the value": lambda p, q, y, k, b: np.where(
        y == 1, sg(b * (p - q - k)), sg(b * (k - (p - q)))
    ).mean(),
    "no baseline": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - q)), sg(-b * (p - q)))
    ).mean(),
    "undesirable: sign not turned": lambda p, q, y, k, b: (1 - sg(b * (p - q - k))).mean(),
    "undesirable: -u-z (z not turned)": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - q - k)), sg(b * (-(p - q) - k)))
    ).mean(),
    "no reference": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - k)), sg(b * (k - p)))
    ).mean(),
    "no beta": lambda p, q, y, k, b: (1 - np.where(y == 1, sg(p - q - k), sg(k - (p - q)))).mean(),
    "beta not on z": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - q) - k), sg(k - b * (p - q)))
    ).mean(),
    "sum": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - q - k)), sg(b * (k - (p - q))))
    ).sum(),
    "per answer": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - q - k)), sg(b * (k - (p - q))))
    ),
    "mean of each kind, then added": lambda p, q, y, k, b: (
        (1 - sg(b * (p - q - k)))[y == 1].mean() + (1 - sg(b * (k - (p - q))))[y == 0].mean()
    ),
    "z added": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (p - q + k)), sg(-b * (p - q + k)))
    ).mean(),
    "reference minus policy": lambda p, q, y, k, b: (
        1 - np.where(y == 1, sg(b * (q - p - k)), sg(b * (k - (q - p))))
    ).mean(),
}


def G(r, n):
    return np.asarray(r, float).reshape(-1, n)


def by_columns(r, n):
    g = np.asarray(r, float).reshape(n, -1).T
    return ((g - g.mean(1, keepdims=True)) / (g.std(1, ddof=1, keepdims=True) + 1e-4)).T.ravel()


ALL["group_advantages"] = {
    "RIGHT": lambda r, n: (
        (G(r, n) - G(r, n).mean(1, keepdims=True)) / (G(r, n).std(1, ddof=1, keepdims=True) + 1e-4)
    ).ravel(),
    "ddof 0": lambda r, n: (
        (G(r, n) - G(r, n).mean(1, keepdims=True)) / (G(r, n).std(1, keepdims=True) + 1e-4)
    ).ravel(),
    "eps 1e-6": lambda r, n: (
        (G(r, n) - G(r, n).mean(1, keepdims=True)) / (G(r, n).std(1, ddof=1, keepdims=True) + 1e-6)
    ).ravel(),
    "eps under the root": lambda r, n: (
        (G(r, n) - G(r, n).mean(1, keepdims=True))
        / np.sqrt(G(r, n).var(1, ddof=1, keepdims=True) + 1e-4)
    ).ravel(),
    "eps added to the quotient": lambda r, n: np.nan_to_num(
        (G(r, n) - G(r, n).mean(1, keepdims=True)) / (G(r, n).std(1, ddof=1, keepdims=True)) + 1e-4
    ).ravel(),
    "divides by the variance": lambda r, n: (
        (G(r, n) - G(r, n).mean(1, keepdims=True)) / (G(r, n).var(1, ddof=1, keepdims=True) + 1e-4)
    ).ravel(),
    "batch mean and std": lambda r, n: (np.asarray(r) - np.mean(r)) / (np.std(r, ddof=1) + 1e-4),
    "no std (Dr. GRPO)": lambda r, n: (G(r, n) - G(r, n).mean(1, keepdims=True)).ravel(),
    "no mean": lambda r, n: (G(r, n) / (G(r, n).std(1, ddof=1, keepdims=True) + 1e-4)).ravel(),
    "RLOO": lambda r, n: ((G(r, n) * n - G(r, n).sum(1, keepdims=True)) / (n - 1)).ravel(),
    "sign": lambda r, n: (
        -(
            (G(r, n) - G(r, n).mean(1, keepdims=True))
            / (G(r, n).std(1, ddof=1, keepdims=True) + 1e-4)
        ).ravel()
    ),
    "wrong grouping: reshape(n, -1).T": by_columns,
    "median baseline": lambda r, n: (
        (G(r, n) - np.median(G(r, n), 1, keepdims=True))
        / (G(r, n).std(1, ddof=1, keepdims=True) + 1e-4)
    ).ravel(),
    "min-max": lambda r, n: (
        (G(r, n) - G(r, n).min(1, keepdims=True)) / (np.ptp(G(r, n), axis=1, keepdims=True) + 1e-4)
    ).ravel(),
}
ALL["k3"] = {
    "RIGHT": lambda p, q: np.exp(q - p) - 1 - (q - p),
    "k1": lambda p, q: p - q,
    "k2": lambda p, q: (q - p) ** 2 / 2,
    "k2 without the half": lambda p, q: (q - p) ** 2,
    "r - log r (no - 1)": lambda p, q: np.exp(q - p) - (q - p),
    "1 - r - log r": lambda p, q: 1 - np.exp(q - p) - (q - p),
    "r is the log-ratio (no exp)": lambda p, q: (q - p) - 1 - np.log(np.abs(q - p) + 1e-12),
    "mixed: r = p/ref, log r = ref - p": lambda p, q: np.exp(p - q) - 1 - (q - p),
    "summed over tokens": lambda p, q: (np.exp(q - p) - 1 - (q - p)).sum(1),
    "clipped at 10 (verl style)": lambda p, q: np.clip(np.exp(q - p) - 1 - (q - p), -10, 10),
    "treats inputs as probabilities": lambda p, q: q / p - 1 - np.log(np.abs(q / p)),
}
ALL["clipped_loss"] = {
    "RIGHT": lambda w, a, e: -np.minimum(w * a[:, None], C(w, e) * a[:, None]),
    "sign": lambda w, a, e: np.minimum(w * a[:, None], C(w, e) * a[:, None]),
    "max instead of min": lambda w, a, e: -np.maximum(w * a[:, None], C(w, e) * a[:, None]),
    "min of the negated (torch.min of losses)": lambda w, a, e: np.minimum(
        -w * a[:, None], -C(w, e) * a[:, None]
    ),
    "no clip": lambda w, a, e: -w * a[:, None],
    "min only for A >= 0, max for A < 0": lambda w, a, e: (
        -np.where(
            a[:, None] >= 0,
            np.minimum(w * a[:, None], C(w, e) * a[:, None]),
            np.maximum(w * a[:, None], C(w, e) * a[:, None]),
        )
    ),
    "clips above only": lambda w, a, e: (
        -np.minimum(w * a[:, None], np.minimum(w, 1 + e) * a[:, None])
    ),
    "clips below only": lambda w, a, e: (
        -np.minimum(w * a[:, None], np.maximum(w, 1 - e) * a[:, None])
    ),
    "clips to [e, 1+e]": lambda w, a, e: (
        -np.minimum(w * a[:, None], np.clip(w, e, 1 + e) * a[:, None])
    ),
    "log-space bounds exp(+-e)": lambda w, a, e: (
        -np.minimum(w * a[:, None], np.clip(w, np.exp(-e), np.exp(e)) * a[:, None])
    ),
    "log ratio instead of ratio": lambda w, a, e: (
        -np.minimum(np.log(w) * a[:, None], C(np.log(w), e) * a[:, None])
    ),
    "|A|": lambda w, a, e: -np.minimum(w * abs(a[:, None]), C(w, e) * abs(a[:, None])),
}
ALL["served_weight"] = {
    "RIGHT": lambda W, A, B, r, al: W + al / r * B @ A,
    "no scaling": lambda W, A, B, r, al: W + B @ A,
    "alpha": lambda W, A, B, r, al: W + al * B @ A,
    "r / alpha": lambda W, A, B, r, al: W + r / al * B @ A,
    "minus": lambda W, A, B, r, al: W - al / r * B @ A,
    "scaling on both factors": lambda W, A, B, r, al: W + (al / r * B) @ (al / r * A),
    "scales W too": lambda W, A, B, r, al: al / r * (W + B @ A),
    "integer division": lambda W, A, B, r, al: W + al // r * B @ A,
    "elementwise": lambda W, A, B, r, al: W + al / r * (B[:, :1] * A[:1]),
}


def wil(k, n, z=Z, inside=None, power=0.5):
    """Wilson's interval; inside: in place of z^2 / (4 n^2) under the root, power: in place of the root."""
    p, inside = k / n, z * z / (4 * n * n) if inside is None else inside
    centre, half, d = p + z * z / (2 * n), z * (p * (1 - p) / n + inside) ** power, 1 + z * z / n
    return (centre - half) / d, (centre + half) / d


def wald(k, n):
    p = k / n
    half = Z * (p * (1 - p) / n) ** 0.5
    return p - half, p + half


def agresti_coull(k, n):
    return wald(k + Z * Z / 2, n + Z * Z)


ALL["wilson"] = {
    "RIGHT": wil,
    "textbook (Wald)": wald,
    "Wald clipped to [0,1]": lambda k, n: (max(0, wald(k, n)[0]), min(1, wald(k, n)[1])),
    "z = 1.645": lambda k, n: wil(k, n, 1.644854),
    "z = 1.96": lambda k, n: wil(k, n, 1.96),
    "forgot the denominator": lambda k, n: tuple(x * (1 + Z * Z / n) for x in wil(k, n)),
    "z/(4n^2) instead of z^2": lambda k, n: wil(k, n, inside=Z / (4 * n * n)),
    "z^2/(4n) under the root": lambda k, n: wil(k, n, inside=Z * Z / (4 * n)),
    "Agresti-Coull": agresti_coull,
    "high, low swapped": lambda k, n: wil(k, n)[::-1],
    "percent": lambda k, n: tuple(100 * x for x in wil(k, n)),
    "no root": lambda k, n: wil(k, n, power=1),
}

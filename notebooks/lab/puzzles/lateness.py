"""Lesson 14: how many fresh samples late ones are worth."""

import numpy as np

from lab.puzzles.engine import Puzzle


def effective_samples(logps, sampling_logps, completion_mask, cap):
    log_ratio = ((logps - sampling_logps) * completion_mask).sum(1)
    whole = np.exp(log_ratio)
    truncated = np.minimum(whole, cap)
    return np.array([w.sum() ** 2 / (w**2).sum() for w in (whole, truncated)])


_rng = np.random.default_rng(14)
_mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
_sampling = -_rng.exponential(0.7, size=_mask.shape).round(2)
_near = (_sampling + 0.15 * _rng.standard_normal(_mask.shape)).round(2)
_far = (_sampling + 0.9 * _rng.standard_normal(_mask.shape)).round(2)

effective = Puzzle(
    number="14.1",
    title="what late samples are worth",
    minutes=6,
    stars=2,
    idea="weights that differ are worth fewer samples than there are: the square of their sum over the sum of their squares",
    task=r"""Answer $i$ was sampled some updates ago. Its ratio $\rho_i=\prod_t p(y_t)/p_{sampler}(y_t)$ runs over its
counted tokens. A mean with the weights $\rho_i$ is as uncertain as a plain mean of $n_{eff}$ fresh samples,
the **effective sample size** $n_{eff}=\left(\sum_i\rho_i\right)^2/\sum_i\rho_i^2$. Give it for the whole ratios, and for ratios
truncated at `cap`. Shape $(2,)$. Before you write: what comes out if all ratios are equal, and if one is far above the others?""",
    answer=effective_samples,
    cases={
        "a few updates old": (_near, _sampling, _mask, 1.1),
        "many updates old": (_far, _sampling, _mask, 1.5),
        "a cap below all but one": (_far, _sampling, _mask, 0.6),
    },
    mistakes={
        "the square of the sum stands above, the sum of the squares below": (
            "w.sum() ** 2 / (w**2).sum()",
            "(w**2).sum() / w.sum() ** 2",
        ),
        "the number of samples is asked for, not their share": (
            "w.sum() ** 2 / (w**2).sum()",
            "w.mean() ** 2 / (w**2).mean()",
        ),
        "the sum is squared": ("w.sum() ** 2 / (w**2).sum()", "w.sum() / (w**2).sum()"),
        "each weight is squared before they are added, below": (
            "w.sum() ** 2 / (w**2).sum()",
            "w.sum() ** 2 / w.sum()",
        ),
        "1 over the sum of the squares holds only for weights that add up to 1": (
            "w.sum() ** 2 / (w**2).sum()",
            "1 / (w**2).sum()",
        ),
        "n / (1 + variance) holds only for weights whose mean is 1": (
            "w.sum() ** 2 / (w**2).sum()",
            "len(w) / (1 + w.var())",
        ),
        "the sum over the largest weight is another measure": (
            "w.sum() ** 2 / (w**2).sum()",
            "w.sum() / w.max()",
        ),
        "the square root is not taken": (
            "w.sum() ** 2 / (w**2).sum()",
            "w.sum() / np.sqrt((w**2).sum())",
        ),
        "the padding counts for nothing: multiply by the mask": (
            "((logps - sampling_logps) * completion_mask)",
            "(logps - sampling_logps)",
        ),
        "the ratio is the product over the tokens, not their geometric mean": (
            ".sum(1)",
            ".sum(1) / completion_mask.sum(1)",
        ),
        "an answer is a sample, not each of its tokens": (
            "whole = np.exp(log_ratio)",
            "whole = np.exp(logps - sampling_logps)[completion_mask == 1]",
        ),
        "the policy over the sampler, not the other way round": (
            "effective_samples(sampling_logps, logps, completion_mask, cap)"
        ),
        "the cap bounds the ratio, not its logarithm": (
            "np.minimum(whole, cap)",
            "np.exp(np.minimum(log_ratio, cap))",
        ),
        "truncated at the cap, not set to 0 above it": (
            "np.minimum(whole, cap)",
            "np.where(whole <= cap, whole, 0.0)",
        ),
        "only large ratios are bounded: there is no lower cap": (
            "np.minimum(whole, cap)",
            "np.clip(whole, 1 / cap, cap)",
        ),
        "first the whole ratios, then the truncated ones": (
            "(whole, truncated)",
            "(truncated, whole)",
        ),
    },
    hints=(
        "A product of ratios is exp of a sum of differences of log-probs; multiply by the mask first.",
        "Equal weights give the number of answers, one weight alone gives 1.",
    ),
)

"""MiniLLM: distil by a policy gradient whose reward per token is log p_teacher - log p.

    r_t = log P(y_t) - log Q(y_t)         A_t = sum_{i >= t} gamma^(i - t) r_i       Q the student

Source    Gu et al., MiniLLM, arXiv 2306.08543, section 2.2: the policy gradient of KL(Q || P), its
          single-step decomposition and its length normalisation
Lesson    notebooks/05_gallery.ipynb
Proof     tests/laws/test_minillm.py, tests/parity/test_minillm.py (TRL 1.14.2, the last that had it)

Shapes    B completions of the student, T positions, V tokens of vocabulary.

With gamma = 1, sum_t A_t grad log Q(y_t) is, on average, minus the gradient of KL(Q || P) of whole
answers.  The decomposition computes the first term r_t of each sum exactly, as the gradient of
KL(Q || P) over the vocabulary (`loss`), and estimates the sum of the later ones from the samples.

TRL departs in five ways.  It discounts by gamma^i, from the answer's start, not from t: a token's
gradient is gamma^t times what it should be.  It keeps r_t in the sum beside the exact term: on average
the single step counts twice.  Its gamma is 0 by default, so A_t = r_t.  It does not detach A: this
adds sum_{i <= t} gamma^t dr_t to the policy's gradient, which is 0 on average, so only noise, while
w = 1, but not once w has moved.  Its mask is input_ids != -100, which always holds: padding counts.
"""

from __future__ import annotations

import numpy as np

from reference_math import _checks, gkd, grpo, logprobs
from reference_math._types import Array, ArrayLike

DISCOUNT_FROM = ("token", "start")


def advantages(
    per_token_logps: ArrayLike,
    teacher_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    gamma: float,
    length_normalization: bool,
    single_step_decomposition: bool,
    discount_from: str = "token",
) -> Array:
    """Compute A_t, (B, T): constants of the loss, one per token.

    per_token_logps             (B, T)  log Q of the sampled tokens
    teacher_per_token_logps     (B, T)  log P
    completion_mask             (B, T)  1 = counts
    gamma                       0 to 1; 0 leaves r_t alone
    length_normalization        divide by sum gamma^(i - t) over the same tokens: a mean, not a sum
    single_step_decomposition   True: sum from t + 1, because `loss` adds the exact term for t.
                                TRL sums from t and so counts it twice
    discount_from               "token": discount from t. "start": multiply by gamma^t too, as TRL
                                does; it has no effect with length_normalization
    returns                     (B, T)  0 where masked, and where no token follows

    >>> q, p = np.log([[0.5, 0.25]]), np.log([[0.25, 0.5]])                       # -ln 2, ln 2
    >>> options = dict(gamma=0.5, length_normalization=False)
    >>> advantages(q, p, [[1, 1]], single_step_decomposition=False, **options).round(4)
    array([[-0.3466,  0.6931]])
    >>> advantages(q, p, [[1, 1]], single_step_decomposition=True, **options).round(4)
    array([[0.3466, 0.    ]])
    """
    gamma = _checks.number("gamma", gamma, at_least=0, at_most=1)
    _checks.one_of("discount_from", discount_from, DISCOUNT_FROM)
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    r = _checks.counted("teacher_per_token_logps", teacher_per_token_logps, mask)
    r = r - _checks.counted("per_token_logps", per_token_logps, mask)
    t = np.arange(mask.shape[1])
    later = t[:, None] - t  # i - t: row i, column t
    first = 1 if single_step_decomposition else 0
    discount = np.where(later >= first, gamma ** np.abs(later), 0.0)
    a = r @ discount
    if length_normalization:
        lengths = mask @ discount
        a = np.divide(a, lengths, out=np.zeros_like(a), where=lengths > 0)
    elif discount_from == "start" and gamma > 0:
        a = a * gamma**t
    return mask * a


def loss(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    tokens: ArrayLike,
    old_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    clip: float,
    gamma: float,
    length_normalization: bool,
    single_step_decomposition: bool,
    discount_from: str = "token",
) -> float:
    """Compute `grpo.loss` of these advantages, plus KL(Q || P) if decomposed; means over tokens.

    student_logits, teacher_logits   (B, T, V)
    tokens                           (B, T)  ids, that the student sampled
    old_per_token_logps              (B, T)  of the student when it sampled
    completion_mask                  (B, T)
    clip                             epsilon of `grpo.per_token_loss`, both ways
    gamma ... discount_from          as in `advantages`

    >>> z, even = [[[np.log(3.0), 0.0]]], [[[0.0, 0.0]]]                           # 3/4 against 1/2
    >>> options = dict(gamma=0.0, length_normalization=False, clip=0.2)
    >>> batch = z, even, [[0]], np.log([[0.75]]), [[1]]
    >>> round(loss(*batch, single_step_decomposition=False, **options), 4)         # ln 3/2
    0.4055
    >>> round(loss(*batch, single_step_decomposition=True, **options), 4)          # the KL
    0.1308
    """
    batch = student_logits, teacher_logits, tokens, completion_mask
    options = gamma, length_normalization, single_step_decomposition, discount_from
    student, teacher, logps, a = _batch(*batch, *options)
    value = grpo.loss(logps, old_per_token_logps, a, completion_mask, **_surrogate(clip))
    if single_step_decomposition:
        value += gkd.loss(student, teacher, completion_mask, beta=1.0)
    return value


def loss_grad(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    tokens: ArrayLike,
    old_per_token_logps: ArrayLike,
    completion_mask: ArrayLike,
    *,
    clip: float,
    gamma: float,
    length_normalization: bool,
    single_step_decomposition: bool,
    discount_from: str = "token",
) -> Array:
    """Compute d loss / d(student_logits), (B, T, V), the advantages held constant (TRL: they are not).

    >>> z, even = [[[np.log(3.0), 0.0]]], [[[0.0, 0.0]]]
    >>> options = dict(gamma=0.0, length_normalization=False, clip=0.2)
    >>> batch = z, even, [[0]], np.log([[0.75]]), [[1]]
    >>> loss_grad(*batch, single_step_decomposition=False, **options).round(4)     # ln 3/2 (1 - 3/4)
    array([[[ 0.1014, -0.1014]]])
    """
    batch = student_logits, teacher_logits, tokens, completion_mask
    options = gamma, length_normalization, single_step_decomposition, discount_from
    student, teacher, logps, a = _batch(*batch, *options)
    dlogps = grpo.loss_grad(logps, old_per_token_logps, a, completion_mask, **_surrogate(clip))
    grad = logprobs.logits_grad(student, tokens, dlogps)
    if single_step_decomposition:
        grad += gkd.loss_grad(student, teacher, completion_mask, beta=1.0)
    return grad


def _batch(
    student_logits,
    teacher_logits,
    tokens,
    completion_mask,
    gamma,
    length_normalization,
    single_step_decomposition,
    discount_from,
):
    mask = _checks.mask01("completion_mask", completion_mask, ndim=2)
    student = _checks.counted_logits("student_logits", student_logits, mask)
    teacher = _checks.counted_logits("teacher_logits", teacher_logits, mask)
    logps = logprobs.per_token_logps(student, tokens)
    teacher_logps = logprobs.per_token_logps(teacher, tokens)
    a = advantages(
        logps,
        teacher_logps,
        completion_mask,
        gamma=gamma,
        length_normalization=length_normalization,
        single_step_decomposition=single_step_decomposition,
        discount_from=discount_from,
    )
    return student, teacher, logps, a


def _surrogate(clip):
    if not clip >= 0:
        raise ValueError(f"clip must be >= 0 (inf for no clip), got {clip!r}")
    clip = {"epsilon_low": clip, "epsilon_high": clip}
    return clip | {"importance_sampling_level": "token", "reduction": "bnpo"}

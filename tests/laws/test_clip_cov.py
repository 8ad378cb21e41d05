"""Laws of Clip-Cov: which tokens may be drawn, and how many are."""

import numpy as np
import pytest

from reference_math import clip_cov, grpo, kl_cov

MASK = (np.arange(10) < np.array([[10], [6], [8], [0]])).astype(float)
ADVANTAGES = np.array([1.25, -0.75, 0.5, 2.0])
CLIP = {"epsilon_low": 0.2, "epsilon_high": 0.3}
BOUNDS = {"cov_low": 0.02, "cov_high": 0.6}


def two_policies(seed=2):
    rng = np.random.default_rng(seed)
    logps = -rng.exponential(size=MASK.shape)
    return logps, logps + 0.5 * rng.normal(size=MASK.shape)


def drawn(seed=0, share=1.0, mask=MASK, **changed):
    options = CLIP | BOUNDS | {"share": share, "rng": np.random.default_rng(seed)} | changed
    return clip_cov.keep_mask(*two_policies(), ADVANTAGES, mask, **options) == 0


def candidates():
    logps, old = two_policies()
    cov = kl_cov.covariances(logps, ADVANTAGES, MASK)
    clipped = np.logical_or(*grpo.clipped(logps - old, ADVANTAGES, **CLIP, delta=None))
    return (cov > 0.02) & (cov < 0.6) & ~clipped & (MASK == 1), cov, clipped


def test_all_between_the_bounds_are_drawn_if_as_many_may_be():
    there, cov, clipped = candidates()
    np.testing.assert_array_equal(drawn(), there)
    inside = (cov > 0.02) & (cov < 0.6)
    assert (inside & clipped).any() and there.sum() > 4 and ((cov > 0.6) & (MASK == 1)).any()


def test_a_share_of_them_is_drawn_by_chance_and_each_may_be():
    there, _, _ = candidates()
    seen = np.zeros_like(there)
    for seed in range(40):
        got = drawn(seed, share=0.1)
        assert got.sum() == 2 and not (got & ~there).any()  # 2.4 of 24 tokens
        seen |= got
    np.testing.assert_array_equal(seen, there)
    np.testing.assert_array_equal(drawn(3, share=0.1), drawn(3, share=0.1))


def test_one_at_least_is_drawn_unless_there_is_none():
    assert drawn(share=1e-4).sum() == 1
    assert not drawn(cov_low=50.0, cov_high=60.0).any()
    assert not drawn(mask=0 * MASK).any()


def test_a_covariance_at_a_bound_is_not_between():
    cov = np.sort(candidates()[1][candidates()[0]])
    for options in ({"cov_low": cov[0]}, {"cov_high": cov[-1]}):
        assert drawn(**options).sum() == len(cov) - 1


def test_the_wider_the_clip_the_more_may_be_drawn():
    for wide in ({"epsilon_low": np.inf}, {"epsilon_high": np.inf}):
        assert drawn(**wide).sum() > drawn().sum()


def test_a_drawn_token_has_no_gradient_and_the_others_keep_theirs():
    tokens = *two_policies(), ADVANTAGES, MASK
    keep = 1.0 - drawn()
    options = CLIP | {"importance_sampling_level": "token", "reduction": "bnpo"}
    got = grpo.loss_grad(*tokens, **options, factor=keep)
    np.testing.assert_allclose(got, keep * grpo.loss_grad(*tokens, **options), rtol=1e-15)


def test_what_stands_in_the_padding_is_not_read():
    logps, old = two_policies()
    for x in (logps, old):
        x[MASK == 0] = np.nan
    options = CLIP | BOUNDS | {"share": 1.0, "rng": np.random.default_rng(0)}
    keep = clip_cov.keep_mask(logps, old, ADVANTAGES, MASK, **options)
    np.testing.assert_array_equal(keep == 0, drawn())


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"share": 0.0}, "share must be > 0"),
        ({"share": 1.1}, "share must be <= 1"),
        ({"cov_low": 1.0}, "cov_high must be >= 1, got 0.6"),
        ({"cov_low": np.nan}, "cov_low must be finite"),
        ({"epsilon_low": -0.1}, "epsilon_low must be >= 0"),
        ({"mask": MASK[:2]}, "per_token_logps must have shape"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        drawn(**wrong)

"""Laws of the entropy mask, bonus and controller."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import entropy_control

MASK = np.array([[1.0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]])


def some_entropies(seed=0):
    return np.random.default_rng(seed).exponential(size=MASK.shape)


def kept(share, entropies=None, mask=MASK):
    entropies = some_entropies() if entropies is None else entropies
    return entropy_control.high_entropy_mask(entropies, mask, top_entropy_quantile=share)


@given(share=st.integers(0, 6).map(lambda k: k / 8), seed=st.integers(0, 99))
def test_the_mask_keeps_its_share_of_the_tokens_and_those_with_the_most(share, seed):
    """Of 7 distinct values those at or above position (1 - share) * 6 of their order."""
    entropies = some_entropies(seed)
    keep = kept(share, entropies)
    count = 7 - int(np.ceil((1 - share) * 6))
    assert keep.sum() == count
    assert entropies[keep == 1].min() > entropies[(keep == 0) & (MASK == 1)].max()


def test_0_keeps_the_highest_token_and_1_keeps_them_all():
    np.testing.assert_array_equal(kept(1.0), MASK)
    assert np.flatnonzero(kept(0.0)) == [np.argmax(some_entropies() * MASK)]


def test_the_bar_is_interpolated_between_two_tokens():
    entropies, mask = np.array([[1.0, 2.0, 3.0, 4.0]]), np.ones((1, 4))
    assert kept(0.5, entropies, mask).tolist() == [[0, 0, 1, 1]]  # 2.5
    assert kept(2 / 3, entropies, mask).sum() == 3  # 2 exactly: a token at the bar is in


def test_equal_entropies_are_all_kept():
    np.testing.assert_array_equal(kept(0.2, np.full(MASK.shape, 0.3)), MASK)


def test_padding_neither_counts_nor_is_read():
    entropies = np.where(MASK == 1, some_entropies(), np.nan)
    np.testing.assert_array_equal(kept(0.4, entropies), kept(0.4))
    entropies[MASK == 0] = 99.0
    np.testing.assert_array_equal(kept(0.4, entropies), kept(0.4))


def test_a_batch_without_a_token_keeps_none():
    assert not kept(0.4, mask=0 * MASK).any()
    assert entropy_control.bonus(some_entropies(), 0 * MASK) == 0.0
    assert not entropy_control.bonus_grad(0 * MASK).any()


def test_the_bonus_is_the_mean_entropy():
    entropies = np.where(MASK == 1, some_entropies(), np.nan)
    expected = some_entropies()[MASK == 1].mean()
    np.testing.assert_allclose(entropy_control.bonus(entropies, MASK), expected, rtol=1e-14)


def test_the_bonus_and_its_gradient(numeric_grad):
    grad = numeric_grad(lambda h: entropy_control.bonus(h, MASK), some_entropies())
    np.testing.assert_allclose(entropy_control.bonus_grad(MASK), grad, rtol=1e-9, atol=1e-12)


STEP = {"entropy_target": 0.2, "step": 0.1, "low": 0.05, "high": 0.5}


@pytest.mark.parametrize(
    "coef, entropy, expected",
    [(0.3, 0.1, 0.4), (0.3, 0.2, 0.4), (0.3, 0.21, 0.2), (0.45, 0.0, 0.5), (0.1, 9.0, 0.05)],
)
def test_the_controller_pushes_the_entropy_towards_its_target(coef, entropy, expected):
    assert np.isclose(entropy_control.next_coef(coef, entropy, **STEP), expected, rtol=1e-15)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"share": 1.1}, "top_entropy_quantile must be <= 1"),
        ({"share": -0.1}, "top_entropy_quantile must be >= 0"),
        ({"mask": 2 * MASK}, "completion_mask must hold only 0 and 1"),
        ({"mask": MASK[0]}, "completion_mask must have 2 axes"),
        ({"entropies": MASK * np.nan}, "entropies must be finite"),
        ({"entropies": MASK[:2]}, r"entropies must have shape \(3, 4\)"),
    ],
)
def test_what_is_wrong_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        kept(**{"share": 0.5} | wrong)
    if "mask" in wrong:
        with pytest.raises(ValueError, match=message):
            entropy_control.bonus_grad(wrong["mask"])
    if "share" not in wrong:
        tokens = {"entropies": some_entropies(), "completion_mask": MASK}
        wrong = {"completion_mask" if k == "mask" else k: v for k, v in wrong.items()}
        with pytest.raises(ValueError, match=message):
            entropy_control.bonus(**tokens | wrong)


def test_a_lone_token_is_its_own_mean():
    assert entropy_control.bonus([[0.3, 9.0]], [[1, 0]]) == 0.3
    assert entropy_control.bonus_grad([[1, 0]]).tolist() == [[1.0, 0.0]]

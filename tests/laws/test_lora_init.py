"""Laws of the initialisations: where they start, and what they leave unchanged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_math import lora, lora_init

RANDOM = [lora_init.default, lora_init.gaussian, lora_init.orthogonal]
SPLITTING = [lora_init.pissa, lora_init.olora]


def by_name(function):
    return function.__name__


@pytest.mark.parametrize("init", RANDOM, ids=by_name)
@given(seed=st.integers(0, 99), half_r=st.integers(1, 3), n=st.integers(1, 9), m=st.integers(1, 9))
def test_a_random_start_has_the_right_shapes_and_a_zero_update(init, seed, half_r, n, m):
    lora_A, lora_B = init(np.random.default_rng(seed), 2 * half_r, n, m)
    assert lora_A.shape == (2 * half_r, n) and lora_B.shape == (m, 2 * half_r)
    # orthogonal: rows of one orthogonal matrix, a product of rounding errors only
    np.testing.assert_allclose(lora_B @ lora_A, 0, atol=1e-15)


def test_the_default_fills_its_interval():
    lora_A, lora_B = lora_init.default(np.random.default_rng(0), 100, 400, 3)
    bound = 1 / np.sqrt(400)
    assert 0.999 * bound < lora_A.max() <= bound and -bound <= lora_A.min() < -0.999 * bound
    # a uniform's standard deviation; 40000 draws estimate it to 1 part in 200, twice that here
    np.testing.assert_allclose(lora_A.std(), bound / np.sqrt(3), rtol=0.01)
    assert not lora_B.any()


def test_the_gaussian_has_standard_deviation_one_over_r():
    lora_A, lora_B = lora_init.gaussian(np.random.default_rng(0), 20, 2000, 3)
    # 40000 draws: the mean to 1/200 of the deviation, the deviation to 1/280
    assert abs(lora_A.mean()) < 4 / 200 / 20
    np.testing.assert_allclose(lora_A.std(), 1 / 20, rtol=4 / 280)
    np.testing.assert_allclose((np.abs(lora_A) < 1 / 20).mean(), 0.6827, atol=0.01)  # 1 sigma
    assert not lora_B.any()


def test_the_orthogonal_start_moves_both_factors_and_is_a_tenth_of_a_normal():
    lora_A, lora_B = lora_init.orthogonal(np.random.default_rng(0), 4, 10000, 10000)
    for factor in (lora_A, lora_B.T):
        # r/2 orthonormal rows out of r, times a normal: each column has E|a|^2 = (r/2) / 100;
        # 10000 columns of 2 squares estimate it to 1 part in 100
        np.testing.assert_allclose((factor**2).sum(0).mean(), 2 / 100, rtol=0.04)
        assert np.linalg.matrix_rank(factor) == 2


@pytest.mark.parametrize("init", SPLITTING, ids=by_name)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    scaling=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_a_split_weight_is_whole_again_when_merged(init, seed, shape, scaling):
    weight = np.random.default_rng(seed).standard_normal(shape)
    for r in range(1, min(shape) + 1):
        lora_A, lora_B, residual = init(weight, r, scaling=scaling)
        assert lora_A.shape == (r, shape[1]) and lora_B.shape == (shape[0], r)
        whole = lora.merge(residual, lora_A, lora_B, scaling=scaling)
        # |s B A| reaches 4 * 6: a few roundings of that
        np.testing.assert_allclose(whole, weight, rtol=0, atol=1e-13)


@given(seed=st.integers(0, 99), scaling=st.sampled_from([0.5, 1.0, 4.0]))
def test_pissa_leaves_the_smallest_residual_of_its_rank(seed, scaling):
    weight = np.random.default_rng(seed).standard_normal((5, 4))
    singular = np.linalg.svd(weight, compute_uv=False)
    _, _, residual = lora_init.pissa(weight, 2, scaling=scaling)
    # Eckart and Young: what rank 2 cannot reach is the two smallest singular values
    left = np.linalg.svd(residual, compute_uv=False)
    np.testing.assert_allclose(left, [*singular[2:], 0, 0], rtol=1e-10, atol=1e-13)


def test_pissa_shares_each_singular_value_evenly():
    weight = np.random.default_rng(0).standard_normal((5, 4))
    lora_A, lora_B, _ = lora_init.pissa(weight, 3, scaling=2.0)
    singular = np.linalg.svd(weight, compute_uv=False)[:3]
    np.testing.assert_allclose(lora_A @ lora_A.T, np.diag(singular / 2), atol=1e-14)
    np.testing.assert_allclose(lora_B.T @ lora_B, np.diag(singular / 2), atol=1e-14)


def test_olora_keeps_orthonormal_columns_and_a_triangle():
    weight = np.random.default_rng(0).standard_normal((5, 4))
    lora_A, lora_B, residual = lora_init.olora(weight, 2, scaling=1.0)
    np.testing.assert_allclose(lora_B.T @ lora_B, np.eye(2), atol=1e-15)
    np.testing.assert_allclose(lora_A[:, :2], np.triu(lora_A[:, :2]), atol=0)
    np.testing.assert_allclose(residual[:, :2], 0, atol=1e-15)  # the first r columns are all in


def test_the_residual_of_olora_overshoots_at_a_scaling_of_two():
    weight = np.random.default_rng(0).standard_normal((5, 4))
    _, _, residual = lora_init.olora(weight, 2, scaling=2.0)
    np.testing.assert_allclose(residual[:, :2], -weight[:, :2], rtol=1e-13)


@pytest.mark.parametrize("init", RANDOM, ids=by_name)
@pytest.mark.parametrize(
    "sizes, name", [((0, 4, 4), "r"), ((2, 0, 4), "in_features"), ((2, 4, 1.5), "out_features")]
)
def test_a_size_that_is_no_count_is_named(init, sizes, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        init(np.random.default_rng(0), *sizes)


def test_an_odd_rank_is_refused_by_the_orthogonal_start():
    with pytest.raises(ValueError, match="r must be even"):
        lora_init.orthogonal(np.random.default_rng(0), 3, 4, 4)


@pytest.mark.parametrize("init", SPLITTING, ids=by_name)
def test_a_weight_that_cannot_be_split_is_refused(init):
    with pytest.raises(ValueError, match="r must be at most"):
        init(np.ones((3, 2)), 3, scaling=1.0)
    with pytest.raises(ValueError, match="r must be >= 1"):
        init(np.ones((3, 2)), 0, scaling=1.0)
    with pytest.raises(ValueError, match="scaling must be > 0"):
        init(np.ones((3, 2)), 1, scaling=0.0)
    with pytest.raises(ValueError, match="weight must have 2 axes"):
        init(np.ones(3), 1, scaling=1.0)

"""Laws of AdamW, the clip and the schedules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference_math import optim

USUAL = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
WHOLE = {"num_warmup_steps": 3, "num_training_steps": 10}
GRADS = arrays(np.float64, (2, 3), elements=st.floats(-5, 5))


def run(grads, param=0.0, **settings):
    """The parameter after a step with each of the gradients."""
    param = np.full(np.shape(grads[0]), param)
    m, v = np.zeros_like(param), np.zeros_like(param)
    for step, grad in enumerate(grads, start=1):
        param, m, v = optim.adamw_step(param, grad, m, v, step=step, **(USUAL | settings))
    return param


@given(grad=GRADS, steps=st.integers(1, 5))
def test_a_constant_gradient_moves_every_parameter_by_lr_a_step(grad, steps):
    grad = np.where(np.abs(grad) < 1e-3, 1.0, grad)
    moved = run([grad] * steps)
    # both averages of a constant are that constant, whatever the betas: m_hat / sqrt(v_hat) = ±1;
    # eps takes away 1e-8 / 1e-3 at most
    np.testing.assert_allclose(moved, -0.1 * steps * np.sign(grad), rtol=2e-5)
    np.testing.assert_allclose(run([grad] * steps, betas=(0.5, 0.7)), moved, rtol=2e-5)


def test_the_moments_are_weighted_means_of_the_past():
    rng = np.random.default_rng(0)
    grads, (b1, b2) = rng.standard_normal((6, 4)), USUAL["betas"]
    param = m = v = np.zeros(4)
    for step, grad in enumerate(grads, start=1):
        param, m, v = optim.adamw_step(param, grad, m, v, step=step, **USUAL)
    age = np.arange(5, -1, -1)[:, None]
    np.testing.assert_allclose(m, ((1 - b1) * b1**age * grads).sum(0), rtol=1e-12)
    np.testing.assert_allclose(v, ((1 - b2) * b2**age * grads**2).sum(0), rtol=1e-12)


def test_a_step_follows_from_its_moments_by_the_formula_of_the_paper():
    # t = 2, m_1 = 3, v_1 = 4, g = 1, betas 1/2 and 3/4:  m = 2, v = 13/4,
    # m_hat = 2 / (3/4) = 8/3, v_hat = 13/4 / (7/16) = 52/7
    got, m, v = optim.adamw_step(
        [10.0], [1.0], [3.0], [4.0], step=2, lr=0.5, betas=(0.5, 0.75), eps=1.0, weight_decay=0.2
    )
    assert m == [2.0] and v == [3.25]
    np.testing.assert_allclose(got, [9.0 - 0.5 * (8 / 3) / (np.sqrt(52 / 7) + 1.0)], rtol=1e-14)


def test_with_betas_zero_it_is_the_sign_of_the_gradient():
    grads = np.array([[0.5, -2.0], [-3.0, 1.0]])
    got = run(grads, betas=(0.0, 0.0), eps=1e-300)
    np.testing.assert_allclose(got, -0.1 * np.sign(grads).sum(0), atol=1e-15)


@given(grad=GRADS, power=st.integers(-5, 5))
def test_the_size_of_the_gradient_does_not_matter_beside_a_tiny_eps(grad, power):
    grad = np.where(np.abs(grad) < 1e-3, 1.0, grad)
    grads = [grad, grad[::-1], grad[:, ::-1]]
    scaled = [g * 2.0**power for g in grads]
    np.testing.assert_allclose(run(scaled, eps=1e-300), run(grads, eps=1e-300), rtol=1e-12)


def test_the_decay_shrinks_the_parameter_and_leaves_the_moments():
    zero = np.zeros(2)
    got, m, v = optim.adamw_step(
        [1.0, -4.0], zero, zero, zero, step=1, **(USUAL | {"weight_decay": 0.5})
    )
    np.testing.assert_allclose(got, [0.95, -3.8], rtol=1e-15)
    assert not m.any() and not v.any()


def test_nothing_is_changed_in_place():
    param, grad, m, v = (np.ones(2) for _ in range(4))
    optim.adamw_step(param, grad, m, v, step=3, **(USUAL | {"weight_decay": 0.1}))
    assert all((x == 1).all() for x in (param, grad, m, v))


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 5.0, 13.0, 100.0])
def test_the_clip_bounds_the_norm_and_keeps_the_direction(max_norm):
    grads = [np.array([3.0, 4.0]), np.array([[12.0]])]  # norm 13
    clipped, norm = optim.clip_grad_norm(grads, max_norm)
    assert norm == 13
    joined = np.concatenate([g.ravel() for g in clipped])
    # torch's 1e-6 in the denominator leaves the norm short of its bound by 1 part in 1e7
    np.testing.assert_allclose(np.linalg.norm(joined), min(13, max_norm), rtol=1e-7)
    np.testing.assert_allclose(
        joined * 13,
        [3 * np.linalg.norm(joined), 4 * np.linalg.norm(joined), 12 * np.linalg.norm(joined)],
        rtol=1e-14,
    )
    assert [g.shape for g in clipped] == [(2,), (1, 1)]


def test_the_clip_is_short_by_one_millionth_over_the_norm():
    (clipped,), _ = optim.clip_grad_norm([[1.0]], 0.5)
    np.testing.assert_allclose(0.5 / clipped[0] - 1, 1e-6, rtol=1e-9)


def test_small_gradients_pass_unchanged():
    grads = [np.array([1e-3, -2e-3])]
    clipped, _ = optim.clip_grad_norm(grads, 1.0)
    np.testing.assert_array_equal(clipped[0], grads[0])


@given(seed=st.integers(0, 99), cut=st.integers(1, 5))
def test_how_the_parameters_are_split_does_not_matter(seed, cut):
    flat = np.random.default_rng(seed).standard_normal(6)
    (whole,), norm = optim.clip_grad_norm([flat], 1.0)
    parts, same_norm = optim.clip_grad_norm([flat[:cut], flat[cut:]], 1.0)
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-14)
    np.testing.assert_allclose(same_norm, norm, rtol=1e-14)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(size):
    (clipped,), norm = optim.clip_grad_norm([[3 * size, 4 * size]], 1.0)
    np.testing.assert_allclose(norm, 5 * size, rtol=1e-15)
    np.testing.assert_allclose(clipped[1] / clipped[0], 4 / 3, rtol=1e-14)


@pytest.mark.parametrize("grads", [[], [[]], [[0.0, 0.0]]], ids=str)
def test_no_gradient_at_all_has_norm_zero(grads):
    clipped, norm = optim.clip_grad_norm(grads, 1.0)
    assert norm == 0 and len(clipped) == len(grads)
    assert all((np.asarray(g) == 0).all() for g in clipped)


SCHEDULES = pytest.mark.parametrize(
    "schedule", [optim.linear_schedule, optim.cosine_schedule], ids=lambda f: f.__name__
)


@SCHEDULES
def test_the_rate_climbs_from_zero_to_one_and_falls_to_zero(schedule):
    rates = [schedule(i, **WHOLE) for i in range(12)]
    np.testing.assert_allclose(rates[:4], [0, 1 / 3, 2 / 3, 1], rtol=1e-15)
    assert rates[0] == 0 and rates[3] == 1 and rates[10:] == [0, 0]
    assert (np.diff(rates[3:11]) < 0).all()
    assert all(type(rate) is float for rate in rates)


@SCHEDULES
def test_the_fall_is_symmetric_about_its_middle(schedule):
    fall = [schedule(i, num_warmup_steps=0, num_training_steps=8) for i in range(9)]
    np.testing.assert_allclose(np.add(fall, fall[::-1]), 1, rtol=1e-14)
    assert fall[0] == 1


def test_the_linear_fall_is_even_and_the_cosine_starts_flat():
    linear = [optim.linear_schedule(i, **WHOLE) for i in range(3, 11)]
    np.testing.assert_allclose(np.diff(linear), -1 / 7, rtol=1e-13)
    # the cosine's quarter point: (1 + cos(pi / 4)) / 2
    quarter = optim.cosine_schedule(2, num_warmup_steps=0, num_training_steps=8)
    np.testing.assert_allclose(quarter, (1 + np.sqrt(0.5)) / 2, rtol=1e-14)


def test_whole_cycles_come_back_to_one():
    rates = [
        optim.cosine_schedule(i, num_warmup_steps=0, num_training_steps=8, num_cycles=2.0)
        for i in range(9)
    ]
    np.testing.assert_allclose(rates, [1, 0.5, 0, 0.5, 1, 0.5, 0, 0.5, 1], atol=1e-15)
    flat = optim.cosine_schedule(5, num_cycles=0.0, **WHOLE)
    assert flat == 1


@SCHEDULES
def test_past_the_end_it_stays(schedule):
    for step in (10, 11, 17, 24, 1000):
        assert schedule(step, **WHOLE) == 0


@SCHEDULES
def test_a_warm_up_as_long_as_the_run_or_longer_never_divides_by_zero(schedule):
    assert schedule(5, num_warmup_steps=10, num_training_steps=5) == 0.5
    end = schedule(10, num_warmup_steps=10, num_training_steps=10)
    assert end == (schedule is optim.cosine_schedule)  # the line has ended, the wave begins
    assert schedule(11, num_warmup_steps=10, num_training_steps=10) == 0


@pytest.mark.parametrize(
    "bad, name",
    [
        ({"step": 0}, "step must be >= 1"),
        ({"lr": -1.0}, "lr must be >= 0"),
        ({"eps": 0.0}, "eps must be > 0"),
        ({"grad": [1e200, 0.0]}, r"grad \*\* 2 must be finite"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0"),
        ({"betas": (1.0, 0.9)}, r"betas\[0\] must be < 1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be < 1"),
        ({"betas": (-0.1, 0.9)}, r"betas\[0\] must be >= 0"),
        ({"grad": [np.nan, 0.0]}, "grad must be finite"),
        ({"param": [np.inf, 0.0]}, "param must be finite"),
        ({"m": [0.0]}, "m must have the shape of param"),
        ({"v": [0.0]}, "v must have the shape of param"),
        ({"grad": [0.0]}, "grad must have the shape of param"),
        ({"v": [0.0, -1.0]}, "v must be >= 0"),
        ({"v": [0.0, np.nan]}, "v must be finite"),
        ({"m": [0.0, np.nan]}, "m must be finite"),
    ],
)
def test_a_wrong_argument_of_the_step_is_named(bad, name):
    zero = np.zeros(2)
    good = {"param": zero, "grad": zero, "m": zero, "v": zero, "step": 1} | USUAL
    with pytest.raises(ValueError, match=name):
        optim.adamw_step(**(good | bad))


def test_the_clip_names_the_gradient_that_is_not_finite():
    with pytest.raises(ValueError, match=r"grads\[1\] must be finite"):
        optim.clip_grad_norm([[1.0], [np.nan]], 1.0)
    with pytest.raises(ValueError, match="max_norm must be >= 0"):
        optim.clip_grad_norm([[1.0]], -1.0)


@SCHEDULES
@pytest.mark.parametrize(
    "bad, name",
    [
        ({"step": -1}, "step must be >= 0"),
        ({"num_warmup_steps": -1}, "num_warmup_steps must be >= 0"),
        ({"num_training_steps": 0}, "num_training_steps must be >= 1"),
    ],
)
def test_a_wrong_argument_of_a_schedule_is_named(schedule, bad, name):
    with pytest.raises(ValueError, match=name):
        schedule(**({"step": 1} | WHOLE | bad))


def test_a_negative_number_of_cycles_is_refused():
    with pytest.raises(ValueError, match="num_cycles must be >= 0"):
        optim.cosine_schedule(1, num_cycles=-1.0, **WHOLE)


def test_a_fall_of_one_step_starts_at_one():
    assert optim.linear_schedule(3, num_warmup_steps=3, num_training_steps=4) == 1.0

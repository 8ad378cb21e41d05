"""What every loss of the catalogue obeys: one contract, tested over all of them.

A law that is particular to a method stands in its own file. tests/mutants.py runs the objectives
here whose formula or loss stands in the changed module.
"""

import inspect

import numpy as np
import pytest

from reference_math import catalogue

LOSSES = [objective for objective in catalogue.OBJECTIVES if objective.loss]
EACH = pytest.mark.parametrize("objective", LOSSES, ids=lambda o: o.names[0])
MASKS = ("completion_mask", "state_mask")

# What a loss has to refuse, by the name of its own argument: (argument, value).
REFUSED = {
    "a2po.loss": [("beta2", -0.1)],
    "asft.loss": [("kl_weight", -0.1), ("reduction", "mean"), ("num_items_in_batch", 3)],
    "bco.loss": [("beta", -0.1), ("delta", np.nan), ("weights", -np.ones(6)), ("weights", [1.0])],
    "cispo.loss": [("epsilon_max", 0.0), ("epsilon_min", -0.1), ("epsilon_min", 9.0)],
    "cpo_trainer.loss": [("loss_type", "dpo"), ("beta", -0.1), ("cpo_alpha", -1.0), ("alpha", np.nan)],
    "gkd_chunked.loss": [("beta", 1.1), ("temperature", 0.0), ("vocab_chunk", 0),
                          ("vocab_chunk", 1.5), ("num_items_in_batch", 0)],
    "dpo_trainer.loss": [("loss_type", "dpo"), ("beta", -0.1), ("f_divergence_type", "kl"),
                         ("ld_alpha", 1.5), ("loss_weights", [1.0, 2.0, 3.0, 4.0])],
    "dppo.loss": [("divergence", "js"), ("delta_low", -0.1), ("delta_high", -0.1), ("truncation", 0.0),
                  ("reduction", "mean")],
    "dro.loss": [("beta", -0.1), ("reduction", "mean")],
    "eaft.loss": [("top_k", 0), ("top_k", 1.5), ("scale", 0.0), ("alpha", -0.1), ("reduction", "mean"),
                  ("num_items_in_batch", 3)],
    "gkd.loss": [("beta", -0.1), ("temperature", 0.0), ("num_items_in_batch", -1)],
    "gmpo.loss": [("epsilon_low", -0.1), ("epsilon_high", np.nan), ("beta", -0.1)],
    "grpo.loss": [("epsilon_low", -0.1), ("epsilon_high", np.nan), ("delta", 0.0), ("beta", -0.1),
                  ("factor", np.ones((2, 2))), ("importance_sampling_level", "row"),
                  ("reduction", "mean")],
    "iw_opd.loss": [("gamma", -0.1), ("num_items_in_batch", -1)],
    "kl_cov.loss": [("share", 0.0), ("share", 1.1), ("kl_coef", -0.1), ("reduction", "mean")],
    "kto.loss": [("kl", -0.1), ("beta", -0.1), ("desirable_weight", -1), ("undesirable_weight", -1)],
    "label_smoothing.loss": [("label_smoothing_factor", 1.5), ("reduction", "mean"),
                             ("num_items_in_batch", 3)],
    "minillm.loss": [("gamma", 1.1), ("clip", -0.1), ("discount_from", "end")],
    "nash_md.loss": [("beta", -0.1), ("kl_level", "answer"), ("win_probability", np.full(6, 1.5)),
                     ("win_probability", np.full(6, -0.5))],
    "online_dpo.loss": [("beta", -0.1), ("loss_type", "hinge")],
    "orpo.loss": [("beta", -0.1), ("completion_mask", np.ones((5, 5))), ("nll_mask", np.ones((6, 4))), ("nll_mask", np.full((6, 5), 2))],
    "ppo.policy_loss": [("cliprange", -0.1)],
    "ppo.value_loss": [("cliprange_value", -0.1)],
    "reward_model.loss": [("margin", [1.0]), ("center_rewards_coefficient", -1.0)],
    "rloo.loss": [("epsilon_low", -0.1), ("epsilon_high", -0.1)],
    "rollout_is.loss": [("clip_min", np.nan), ("clip_max", 0.5), ("reduction", "mean")],
    "sapo.loss": [("temperature_pos", 0.0), ("temperature_neg", 0.0)],
    "sdft.loss": [("alpha", 1.5), ("alpha", -0.5), ("topk", 0), ("topk", 8), ("is_weights", np.nan)],
    "sdpo.loss": [("distillation_weight", -0.1), ("distillation_weight", 1.1), ("is_clip", 0.0),
                  ("has_teacher", [1.0]), ("epsilon_low", -0.1), ("reduction", "mean")],
    "server_distillation.loss": [("beta", -0.1), ("beta", 1.1), ("temperature", 0.0),
                                 ("num_items_in_batch", -1), ("support_ids", np.full((6, 5, 2), 7))],
    "sft.nll": [("reduction", "mean"), ("num_items_in_batch", 3)],
    "tpo.loss": [("loss_type", "dpo"), ("beta", 0.0), ("tpo_alpha", -1.0), ("label_smoothing", 1.5),
                 ("label_smoothing", -0.5), ("completion_mask", np.ones((4, 5)))],
    "uld.loss": [("temperature", 0.0)],
    "vespo.loss": [("importance_sampling_ratio", np.ones((2, 2)))],
    "xpo.loss": [("alpha", -0.1), ("beta", -0.1), ("loss_type", "hinge")],
}  # fmt: skip
REFUSED["sft.dft"] = REFUSED["sft.nll"]
REFUSED["dro.penalty"] = REFUSED["dro.loss"]
ALLOWED = {
    "gkd_chunked.loss": {"num_items_in_batch": 1},
    "dppo.loss": {"delta_low": 0.0, "delta_high": 0.0, "truncation": 0.5},
    "dro.loss": {"beta": 0.0},
    "gmpo.loss": {"epsilon_low": 0.0, "epsilon_high": 0.0},
    "minillm.loss": {"clip": 0.0},
    "nash_md.loss": {"win_probability": [0.0, 1.0, 0.0, 1.0, 1.0, 0.0]},
}


def gradients(objective, **arrays):
    """The gradient as a list, one array for each name of `objective.to()`."""
    grad = objective.gradient(**arrays)
    return list(grad) if isinstance(grad, tuple) else [grad]


def mask_of(objective):
    inputs = objective.inputs()
    return next((inputs[name] for name in MASKS if name in inputs), None)


def per_token(objective):
    """The arrays that have a value at each position that the mask counts."""
    mask = mask_of(objective)
    return {
        name: x
        for name, x in objective.inputs().items()
        if name not in MASKS and x.dtype == float and x.shape[:2] == mask.shape
    }


@EACH
def test_the_loss_is_a_float_and_the_gradient_has_the_shape_of_its_array(objective):
    value, grads = objective.value(), gradients(objective)
    assert type(value) is float and np.isfinite(value)
    inputs = objective.inputs()
    assert [g.shape for g in grads] == [inputs[name].shape for name in objective.to()]
    assert all(np.isfinite(g).all() and np.abs(g).max() > 1e-4 for g in grads)


@EACH
def test_the_gradient_is_the_slope_of_the_loss_unless_something_is_held_constant(
    objective, numeric_grad
):
    for name, grad in zip(objective.to(), gradients(objective)):
        slope = numeric_grad(lambda x, n=name: objective.value(**{n: x}), objective.inputs()[name])
        scale = np.abs(slope).max()
        if objective.held:  # the entry says so, and its own laws hold the constant still
            assert np.abs(grad - slope).max() > 1e-3 * scale
        else:
            # odds near 1 and DiscoPOP have a fifth derivative of 1e3 times the value
            np.testing.assert_allclose(grad, slope, rtol=1e-6, atol=1e-7 * scale)


@EACH
def test_what_stands_in_the_padding_is_never_read_and_never_pushed(objective):
    mask = mask_of(objective)
    if mask is None:
        return
    dirty = {name: x.copy() for name, x in per_token(objective).items()}
    for x in dirty.values():
        x[mask == 0] = np.nan
    assert dirty and objective.value(**dirty) == objective.value()
    for grad, clean in zip(gradients(objective, **dirty), gradients(objective)):
        np.testing.assert_array_equal(grad, clean)
        assert not grad[mask == 0].any()


@EACH
def test_an_empty_batch_has_loss_0_and_an_empty_gradient(objective):
    inputs = objective.inputs()
    rows = len(inputs[objective.to()[0]])
    none = {name: x[:0] for name, x in inputs.items() if len(x) == rows}
    assert objective.value(**none) == 0.0 and type(objective.value(**none)) is float
    expected = [(none.get(name, inputs[name]) * 0.0).shape for name in objective.to()]
    grads = gradients(objective, **none)
    assert [g.shape for g in grads] == expected and not any(g.any() for g in grads)


@EACH
def test_where_nothing_counts_nothing_is_pushed(objective):
    mask = mask_of(objective)
    if mask is None:
        return
    nothing = {name: 0 * mask for name in MASKS if name in objective.inputs()}
    value, (grad,) = objective.value(**nothing), gradients(objective, **nothing)
    assert np.isfinite(value) and type(value) is float
    assert grad.shape == objective.inputs()[objective.to()[0]].shape and not grad.any()


@EACH
def test_an_array_of_a_wrong_shape_or_with_a_nan_is_named(objective):
    inputs = objective.inputs()
    # the others are compared with these in shape, so that either may be blamed
    references = {*MASKS, next(iter(inputs)), "student_weight"}
    for name, x in inputs.items():
        broken = {"shape": x[:-1], "axes": x[None]}
        if name in (*MASKS, "label"):
            broken["half"] = x / 2
        elif x.dtype == float:
            broken["nan"] = np.where(x == x.ravel()[0], np.nan, x)  # the first entry counts
        for kind, wrong in broken.items():
            blamable = inputs if kind == "shape" and name in references else {name}
            for f in (objective.value, objective.gradient):
                with pytest.raises(ValueError) as error:
                    f(**{name: wrong})
                assert str(error.value).split()[0] in blamable, (kind, name)


@pytest.mark.parametrize(
    "objective", {o.loss: o for o in reversed(LOSSES)}.values(), ids=lambda o: o.loss
)
def test_an_option_out_of_range_is_named(objective):
    assert objective.loss in REFUSED or objective.loss in ("prm.loss", "reinforce.loss")
    for option, wrong in REFUSED.get(objective.loss, ()):
        for f in (objective.value, objective.gradient):
            with pytest.raises(ValueError) as error:
                f(**{option: wrong})
            assert str(error.value).startswith((f"{option} must", f"{option} is")), error.value


@pytest.mark.parametrize("loss", ALLOWED)
def test_the_ends_of_a_range_are_allowed(loss):
    objective = next(objective for objective in LOSSES if objective.loss == loss)
    assert np.isfinite(objective.value(**ALLOWED[loss]))
    assert all(np.isfinite(grad).all() for grad in gradients(objective, **ALLOWED[loss]))


@EACH
def test_loss_and_gradient_take_the_same_arguments_with_the_same_defaults(objective):
    one, other = (catalogue.function(objective.loss + end) for end in ("", "_grad"))
    assert inspect.signature(one).parameters == inspect.signature(other).parameters


@EACH
def test_a_missing_and_an_unknown_argument_are_named_with_the_function_that_was_called(objective):
    for name in (objective.loss, f"{objective.loss}_grad"):
        f, called = catalogue.function(name), name.partition(".")[2]
        with pytest.raises(TypeError, match=rf"{called}\(\) got an unexpected .*'no_such_option'"):
            f(**objective.inputs() | objective.options, no_such_option=1)
        required = [
            p.name for p in inspect.signature(f).parameters.values() if p.default is p.empty
        ]
        for missing in required:
            given = objective.inputs() | objective.options
            del given[missing]
            with pytest.raises(TypeError, match=rf"{called}\(\) missing 1 required .*'{missing}'"):
                f(**given)

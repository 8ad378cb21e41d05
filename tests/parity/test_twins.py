"""Each torch twin has its original's file name, function names and arguments."""

import importlib
import inspect
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import reference_math

NUMPY = Path(reference_math.__file__).parent
TWINS = sorted(path.stem for path in (NUMPY / "torch").glob("[a-z]*.py"))
NO_ORIGINAL = {"lm_head"}  # logits that never exist are no concern of numpy's
NO_TWIN = {"logprobs.log_softmax", "logprobs.log_sum_sq_probs"}  # torch's own is one line
NO_TWIN |= {"dpo.pair", "dpo.margin", "dpo.chosen_mask"}  # input checks, and a mask for `sft`


def functions(module):
    """{name: its parameters, without types} of what a module offers.  A twin's dtype is its own."""
    found = inspect.getmembers(module, inspect.isfunction)
    own = {n: f for n, f in found if f.__module__ == module.__name__ and not n.startswith("_")}
    parameters = {n: inspect.signature(f).parameters for n, f in own.items()}
    return {
        n: [p.replace(annotation=p.empty) for p in ps.values() if p.name != "dtype"]
        for n, ps in parameters.items()
    }


def both(name):
    packages = ("reference_math", "reference_math.torch")
    return (functions(importlib.import_module(f"{package}.{name}")) for package in packages)


def test_every_twin_has_an_original_of_its_name():
    assert {name for name in TWINS if not (NUMPY / f"{name}.py").exists()} == NO_ORIGINAL
    assert {"logprobs", "sft", "dpo", "kl", "advantages", "grpo", "rloo", "lora", "nf4"} <= set(
        TWINS
    )


@pytest.mark.parametrize("name", sorted(set(TWINS) - NO_ORIGINAL))
def test_what_has_the_same_name_takes_the_same_arguments(name):
    ours, twin = both(name)
    assert {n: twin[n] for n in twin.keys() & ours.keys()} == {
        n: ours[n] for n in twin.keys() & ours.keys()
    }


def test_a_twin_answers_to_its_old_name_with_a_warning():
    from reference_math.torch import ratios, rloo

    ones = torch.ones(2, 3)
    for module, old, arguments in [
        (ratios, "log_weights", (ones, ones, ones, "token")),
        (ratios, "column", (torch.ones(2), 2)),
        (rloo, "penalized_rewards", (torch.ones(2), ones, ones, ones)),
    ]:
        options = {"beta": 0.5} if module is rloo else {}
        with pytest.warns(DeprecationWarning, match=rf"torch\..*\.{old} is an old name"):
            assert len(getattr(module, old)(*arguments, **options)) == 2


@pytest.mark.parametrize("name", sorted(set(TWINS) - NO_ORIGINAL))
def test_only_the_gradients_are_left_to_autograd(name):
    ours, _ = both(name)
    twin = importlib.import_module(f"reference_math.torch.{name}")  # a plain number's may be shared
    missing = {n for n in ours if not n.endswith("_grad") and not hasattr(twin, n)}
    assert {f"{name}.{n}" for n in missing} <= NO_TWIN

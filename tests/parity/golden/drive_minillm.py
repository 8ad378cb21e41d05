"""TRL 1.14.2's MiniLLMTrainer: its advantage, its single step, and its whole loss, on given logits."""

NEEDS = ("trl==1.14.2",)

MASK = ((1, 1, 1, 1), (1, 1, 0, 0), (1, 1, 1, 0))
CASES = {
    "default": {"gamma": 0.0, "length_normalization": True, "single_step_decomposition": True},
    "discounted": {"gamma": 0.7, "length_normalization": False, "single_step_decomposition": False},
    "normalised": {"gamma": 0.7, "length_normalization": True, "single_step_decomposition": True},
    "summed": {"gamma": 1.0, "length_normalization": False, "single_step_decomposition": True},
}


def vectors():
    found = {}
    for case, options in CASES.items():
        for detached in (False, True):
            name = case + "_detached" * detached
            found |= named(name, a_batch(False, detached, options))
    return found | named("padded", a_batch(True, True, CASES["default"]))


def named(case, arrays):
    return {f"{case}/{name}": x for name, x in arrays.items()}


def a_batch(padded, detached, options):
    """MiniLLMTrainer.compute_loss, by its own methods; GRPO's loss below it is the release's, too.

    detached: the advantage is taken off the graph on its way, which TRL leaves to nobody.
    """
    from functools import partial

    import numpy as np
    import torch
    from trl.experimental.minillm import MiniLLMTrainer
    from trl.trainer.utils import selective_log_softmax

    rng = np.random.default_rng(0)
    mask = np.array(MASK) if padded else np.ones((3, 4), dtype=int)
    logits, teacher = rng.normal(size=(2, 3, 4, 5))
    tokens = rng.integers(0, 5, size=(3, 4))
    old_shift = 0.1 * rng.normal(size=(3, 4))
    x = torch.tensor(logits, requires_grad=True)
    ids = torch.tensor(tokens)
    logps = selective_log_softmax(x, ids)
    old = logps.detach() + torch.tensor(old_shift)

    trainer = a_trainer(options)
    seen = {}

    def advantage(**given):
        a = MiniLLMTrainer._compute_advantage(trainer, **given)
        seen["advantages"], seen["has_graph"] = a.detach().numpy(), np.array(a.requires_grad)
        return a.detach() if detached else a

    trainer._compute_advantage = advantage
    single = partial(MiniLLMTrainer._single_step_decomposition_loss, trainer)
    trainer._single_step_decomposition_loss = single
    trainer._compute_loss = partial(MiniLLMTrainer._compute_loss, trainer)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logps, logps.detach() * 0, None)
    pad = torch.nn.functional.pad
    trainer.teacher_model = Answers(pad(torch.tensor(teacher), (0, 0, 0, 1)))
    inputs = {
        "prompt_ids": torch.ones(3, 1, dtype=torch.long),
        "prompt_mask": torch.ones(3, 1, dtype=torch.long),
        "completion_ids": ids,
        "completion_mask": torch.tensor(mask),
        "advantages": torch.zeros(3, dtype=torch.float64),
        "old_per_token_logps": old,
        "num_items_in_batch": torch.tensor(mask.sum()),
    }
    loss = MiniLLMTrainer.compute_loss(trainer, Answers(pad(x, (0, 0, 0, 1))), inputs)
    loss.backward()
    arrays = {"student_logits": logits, "teacher_logits": teacher, "tokens": tokens}
    arrays |= {"old_per_token_logps": old.numpy(), "completion_mask": mask}
    return arrays | seen | {"loss": loss.detach().numpy(), "grad": x.grad.numpy()}


class Answers:
    """A model that answers every call with the same logits."""

    training = True

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, **_):
        return self

    def eval(self):
        pass


def a_trainer(options):
    """What the methods read of `self`: one process, plain token-level clipping, the mean over tokens."""
    from collections import defaultdict
    from types import SimpleNamespace

    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction="sum": x
    )
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=None, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=0.0,
        current_gradient_accumulation_steps=1,
        epsilon_low=0.2,
        epsilon_high=0.2,
        importance_sampling_level="token",
        loss_type="dapo",
        max_completion_length=4,
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
        kd_temperature=1.0,
        rkl_advantage=True,
        _metrics={"train": defaultdict(list)},
        **options,
    )

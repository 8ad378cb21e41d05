"""TRL 1.13.0's XPOTrainer.training_step on given answers: what it backpropagates and what it logs."""

# requests: this release imports it and does not ask for it
NEEDS = ("trl==1.13.0", "requests==2.34.2")

LENGTHS = ((4, 2, 1, 3), (2, 4, 3, 1))  # tokens of the policy's answers, and of the reference's
CASES = {
    "sigmoid": {"loss_type": "sigmoid", "beta": 0.3, "alpha": 0.05},
    "ipo": {"loss_type": "ipo", "beta": 0.3, "alpha": 0.05},
    "no_bonus": {"loss_type": "sigmoid", "beta": 0.3, "alpha": 0.0},
    "accumulated": {"loss_type": "sigmoid", "beta": 0.3, "alpha": 0.05, "steps": 4},
}


def vectors():
    found = {}
    for case, options in CASES.items():
        found |= {f"{case}/{name}": x for name, x in a_step(**options).items()}
    return found


def a_step(loss_type, beta, alpha, steps=1):
    import numpy as np
    import torch
    from trl.experimental.xpo import XPOTrainer

    rng = np.random.default_rng(0)
    masks = [(np.arange(4) < np.array(n)[:, None]) * 1.0 for n in LENGTHS]
    logps = [-rng.exponential(size=(4, 4)) * mask for mask in masks]
    refs = [(x + rng.normal(scale=0.7, size=x.shape)) * mask for x, mask in zip(logps, masks)]
    scores = np.array([1.0, -0.5, 0.25, 2.0]), np.array([0.5, 0.75, 0.25, -1.0])  # the third: a tie
    leaves = [torch.tensor(x, requires_grad=True) for x in logps]
    # TRL's _compute_logprobs ends so: 0 in the padding
    own, of_ref = (x.masked_fill(torch.tensor(mask == 0), 0.0) for x, mask in zip(leaves, masks))
    ref_own, ref_of_ref = (torch.tensor(x) for x in refs)

    trainer = a_trainer(steps, loss_type=loss_type, beta=beta, alpha=alpha)
    trainer._compute_rewards = lambda *_: tuple(torch.tensor(x) for x in scores)
    trainer._compute_logprobs = lambda *_: (own, of_ref, ref_of_ref, ref_own)
    trainer._compute_losses = lambda *x: XPOTrainer._compute_losses(trainer, *x)
    logged = XPOTrainer.training_step(trainer, torch.nn.Identity(), {"prompt": ["w"] * 4})
    return {
        "per_token_logps": np.concatenate(logps),
        "ref_per_token_logps": np.concatenate(refs),
        "completion_mask": np.concatenate(masks),
        "rewards": np.concatenate(scores),
        "backward": trainer.backward.numpy(),
        "logged": logged.numpy(),
        "grad": np.concatenate([x.grad.numpy() for x in leaves]),
    }


def a_trainer(steps, loss_type=None, **attributes):
    """What training_step reads of `self`: all that stands before the loss hands over what is given."""
    from collections import defaultdict
    from types import SimpleNamespace

    import torch

    prompt = torch.ones(4, 1, dtype=torch.long)
    trainer = SimpleNamespace(
        processing_class=None,
        model=SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False)),
        tokenize_row=lambda row, *_: row,
        data_collator=lambda rows: {"prompt_input_ids": prompt, "prompt_attention_mask": prompt},
        _prepare_inputs=lambda inputs: inputs,
        _generate_completions=lambda *_: (None, None),
        _process_completions=lambda *_: (None, None),
        _log_statistics=lambda *_: None,
        stats=defaultdict(list),
        args=SimpleNamespace(
            loss_type=loss_type,
            torch_empty_cache_steps=None,
            optim="adamw_torch",
            n_gpu=1,
            gradient_accumulation_steps=steps,
        ),
        **attributes,
    )

    def backward(loss, **_):
        trainer.backward = loss.detach()
        loss.backward()

    trainer.accelerator = SimpleNamespace(backward=backward)
    return trainer

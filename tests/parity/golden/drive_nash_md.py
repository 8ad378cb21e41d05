"""TRL 1.13.0's NashMDTrainer.training_step on given answers, and its mixture of two models."""

# requests: this release imports it and does not ask for it
NEEDS = ("trl==1.13.0", "requests==2.34.2")

LENGTHS = (4, 2, 1, 3)
CASES = {"usual": {"beta": 0.3}, "no_kl": {"beta": 0.0}, "accumulated": {"beta": 0.3, "steps": 4}}


def vectors():
    found = the_mixture()
    for case, options in CASES.items():
        found |= {f"{case}/{name}": x for name, x in a_step(**options).items()}
    return found


def a_step(beta, steps=1):
    import numpy as np
    import torch
    from drive_xpo import a_trainer
    from trl.experimental.nash_md import NashMDTrainer

    rng = np.random.default_rng(0)
    mask = (np.arange(4) < np.array(LENGTHS)[:, None]) * 1.0
    logps = -rng.exponential(size=(4, 4)) * mask
    ref = (logps + rng.normal(scale=0.7, size=logps.shape)) * mask
    scores = rng.normal(size=(2, 4))  # of the policy's answers, and of the mixture's
    x = torch.tensor(logps, requires_grad=True)

    trainer = a_trainer(steps, beta=beta)
    trainer._compute_rewards = lambda *_: tuple(torch.tensor(s) for s in scores)
    own = x.masked_fill(torch.tensor(mask == 0), 0.0)  # as TRL's _compute_logprobs ends
    trainer._compute_logprobs = lambda *_: (own, torch.tensor(ref))
    trainer._compute_losses = lambda *given: NashMDTrainer._compute_losses(trainer, *given)
    logged = NashMDTrainer.training_step(trainer, torch.nn.Identity(), {"prompt": ["w"] * 4})
    return {
        "per_token_logps": logps,
        "ref_per_token_logps": ref,
        "completion_mask": mask,
        "rewards": scores[0],
        "mixture_rewards": scores[1],
        "backward": trainer.backward.numpy(),
        "logged": logged.numpy(),
        "grad": x.grad.numpy(),
    }


def the_mixture():
    from types import SimpleNamespace

    import numpy as np
    import torch
    from trl.experimental.nash_md.nash_md_trainer import GeometricMixtureWrapper

    logits = torch.tensor(np.random.default_rng(1).normal(size=(2, 3, 5)))

    def model(i):
        answers = torch.nn.Module()
        answers.forward = lambda: SimpleNamespace(logits=logits[i])
        answers.config = None
        return answers

    found = {"mixture/logits": logits[0].numpy(), "mixture/ref_logits": logits[1].numpy()}
    for coef in (0.0, 0.3, 1.0):
        wrapper = GeometricMixtureWrapper(model(0), model(1), None, mixture_coef=coef)
        found[f"mixture/{coef}"] = wrapper.forward().logits.numpy()
    return found

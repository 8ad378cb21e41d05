"""TRL 1.13.0's BCOTrainer.bco_loss over a few steps, its running delta carried along."""

NEEDS = ("trl==1.13.0",)

STEPS = ((3, 2), (1, 4), (4, 0), (0, 3), (2, 2))  # desirable, undesirable answers of each batch
BETA = 0.3


def vectors():
    found = a_run("float64") | a_run("float32", dtype="float32")
    return found | a_run("weighted", weighted=True) | a_run("broken", broken=True)


def a_run(case, dtype="float64", weighted=False, broken=False):
    """Five training steps, then one of evaluation, in which delta must not move.

    weighted   match_underlying_distribution
    broken     the first answer's log-probability is NaN
    """
    import numpy as np
    import torch
    from trl.experimental.bco.bco_trainer import BCOTrainer, RunningMoments

    trainer = a_trainer(weighted)
    trainer.running = RunningMoments(trainer.accelerator)
    rng = np.random.default_rng(0)
    found = {}
    for step, counts in enumerate((*STEPS, (2, 3))):
        train = step < len(STEPS)
        logps = [
            torch.tensor(-rng.exponential(8.0, size=n)).to(getattr(torch, dtype)) for n in counts
        ]
        refs = [x + torch.tensor(rng.normal(1.0, 3.0, size=len(x))).to(x.dtype) for x in logps]
        if broken and step == 0:
            logps[0][0] = float("nan")
        p = rng.uniform(0.05, 0.999, size=counts[1])  # that a prompt is a desirable answer's
        trainer.p = torch.tensor(p).to(logps[0].dtype)
        logps = [x.requires_grad_() for x in logps]
        losses, *_, delta = BCOTrainer.bco_loss(trainer, *logps, *refs, None, None, do_train=train)
        losses.nanmean().backward()  # as get_batch_loss_metrics takes it
        arrays = {
            "chosen_logps": logps[0].detach(),
            "rejected_logps": logps[1].detach(),
            "ref_chosen_logps": refs[0],
            "ref_rejected_logps": refs[1],
            "prob_desirable": trainer.p,
            "losses": losses.detach(),
            "chosen_grad": logps[0].grad,
            "rejected_grad": logps[1].grad,
            "delta": delta,
            "std": torch.tensor(trainer.running.std),
            "count": torch.tensor(trainer.running.count),
        }
        found |= {f"{case}/{step}/{name}": x.numpy() for name, x in arrays.items()}
    return found


def a_trainer(weighted):
    """What the method reads of `self`; the classifier's answer is given, its ratio is TRL's."""
    from types import SimpleNamespace

    from trl.experimental.bco import BCOConfig
    from trl.experimental.bco.bco_trainer import BCOTrainer

    defaults = BCOConfig.__dataclass_fields__
    ratio = {key: defaults[key].default for key in ("min_density_ratio", "max_density_ratio")}
    trainer = SimpleNamespace(
        beta=BETA,
        match_underlying_distribution=weighted,
        accelerator=SimpleNamespace(use_distributed=False),
        args=SimpleNamespace(**ratio),
    )
    trainer._get_chosen_prob = lambda embeddings: trainer.p
    trainer._get_udm_weight = lambda embeddings: BCOTrainer._get_udm_weight(trainer, embeddings)
    return trainer

"""Rows of the report: the sampler's steps before a completion, the optimizer's after the loss."""

import numpy as np

from reference_math import optim, sampling
from reference_math.conformance.rows import Row


def rows():
    yield from sampling_rows()
    yield from adamw_rows()
    yield from clip_rows()
    yield from schedule_rows()


def sampling_rows():
    logits = np.random.default_rng(0).normal(scale=3.0, size=(4, 50))

    def masked(x):
        return np.where(np.isfinite(x), x, -1e4)  # what was removed is -inf on both sides

    def warping(ours, warper, **options):
        def run(place):
            from transformers.generation import logits_process

            theirs = getattr(logits_process, warper)(**options)(None, place.tensor(logits))
            return {"value": (masked(place.numpy(theirs)), masked(ours(place.rounded(logits))))}

        return run

    for option, ours, warper, options in [
        ("top_k 5", lambda z: sampling.top_k(z, 5), "TopKLogitsWarper", {"top_k": 5}),
        ("top_p 0.8", lambda z: sampling.top_p(z, 0.8), "TopPLogitsWarper", {"top_p": 0.8}),
        ("min_p 0.1", lambda z: sampling.min_p(z, 0.1), "MinPLogitsWarper", {"min_p": 0.1}),
    ]:
        run = warping(ours, warper, **options)
        yield Row("sampling", option, "transformers", run)

    ids = np.random.default_rng(1).integers(0, 50, (4, 9))

    def penalised(place):
        import torch
        from transformers.generation import logits_process

        processor = logits_process.RepetitionPenaltyLogitsProcessor(1.3)
        theirs = processor(torch.tensor(ids, device=place.device), place.tensor(logits))
        return {
            "value": (
                place.numpy(theirs),
                sampling.repetition_penalty(place.rounded(logits), ids, 1.3),
            )
        }

    yield Row("sampling", "repetition_penalty 1.3", "transformers", penalised)


def adamw_rows():
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=7), rng.normal(size=(5, 7))
    options = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}

    def run(place):
        import torch

        theirs = place.tensor(start, requires_grad=True)
        step = torch.optim.AdamW([theirs], **options)
        ours = place.rounded(start)
        m, v = np.zeros(7), np.zeros(7)
        for i, grad in enumerate(grads):
            theirs.grad = place.tensor(grad)
            step.step()
            ours, m, v = optim.adamw_step(ours, place.rounded(grad), m, v, step=i + 1, **options)
        return {"value": (place.numpy(theirs), ours)}

    yield Row("adamw", "5 steps with weight decay", "torch", run)


def clip_rows():
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=shape) for shape in [(3, 4), (5,), ()]]

    def run(place):
        import torch

        params = [place.tensor(np.zeros(g.shape)) for g in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = place.tensor(grad)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        ours, _ = optim.clip_grad_norm([place.rounded(g) for g in grads], 1.0)
        theirs = [place.numpy(param.grad) for param in params]
        return {"value": tuple(np.concatenate([x.ravel() for x in y]) for y in (theirs, ours))}

    yield Row("gradient clipping", "max_norm 1", "torch", run)


def schedule_rows():
    sizes = {"num_warmup_steps": 3, "num_training_steps": 10}

    def comparing(ours, name):
        def run(place):
            import torch
            import transformers

            optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
            schedule = getattr(transformers, name)(optimizer, **sizes)
            theirs = []
            for _ in range(11):
                theirs.append(schedule.get_last_lr()[0])
                optimizer.step()
                schedule.step()
            return {"value": (theirs, [ours(step, **sizes) for step in range(11)])}

        return run

    for option, ours in [("linear", optim.linear_schedule), ("cosine", optim.cosine_schedule)]:
        run = comparing(ours, f"get_{option}_schedule_with_warmup")
        yield Row("schedule", option, "transformers", run)

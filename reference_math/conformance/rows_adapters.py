"""Rows of the report: what stands around a loss: adapters, quantised weights, sampling, the step."""

import numpy as np

from reference_math import dora, lora, nf4, optim, sampling
from reference_math.conformance.rows import Row, running


def rows():
    yield from lora_rows()
    yield from nf4_rows()
    yield from sampling_rows()
    yield from adamw_rows()


def _layer():
    rng = np.random.default_rng(0)
    shapes = {"x": (4, 6), "weight": (5, 6), "lora_A": (3, 6), "lora_B": (5, 3)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def lora_rows():
    def ours(x, weight, lora_A, lora_B):
        value = lora.forward(x, weight, lora_A, lora_B, scaling=2.0)
        grads = lora.forward_grad(x, weight, lora_A, lora_B, np.ones_like(value), scaling=2.0)
        return value, grads[0]

    def with_dora(x, weight, lora_A, lora_B):
        given = (weight, lora_A, lora_B)
        magnitude = dora.weight_norm(*given, scaling=2.0)
        value = dora.forward(x, *given, magnitude, scaling=2.0)
        grads = dora.forward_grad(x, *given, magnitude, np.ones_like(value), scaling=2.0)
        return value, grads[0]

    def from_peft(use_dora):
        def theirs(x, weight, lora_A, lora_B):
            import peft
            import torch

            base = torch.nn.Linear(6, 5, bias=False, dtype=x.dtype, device=x.device)
            config = peft.LoraConfig(r=3, lora_alpha=6, use_dora=use_dora)
            layer = peft.tuners.lora.Linear(base, "default", config, r=3, lora_alpha=6).to(x)
            with torch.no_grad():
                base.weight.copy_(weight)
                layer.lora_A["default"].weight.copy_(lora_A)
                layer.lora_B["default"].weight.copy_(lora_B)
                if use_dora:
                    norm = (weight + 2.0 * lora_B @ lora_A).norm(dim=1)
                    layer.lora_magnitude_vector["default"].weight.copy_(norm)
            return layer(x)

        return theirs

    def from_twin(x, weight, lora_A, lora_B):
        from reference_math.torch import lora as twin

        return twin.forward(x, weight, lora_A, lora_B, scaling=2.0)

    yield Row("lora", "forward", "peft", running(from_peft(False), ours, _layer(), "x"))
    yield Row("lora", "forward", "torch twin", running(from_twin, ours, _layer(), "x"))
    yield Row("lora", "DoRA forward", "peft", running(from_peft(True), with_dora, _layer(), "x"))


def nf4_rows():
    weight = np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32)

    def run(place):
        """Value: packed bytes and scales.  No gradient: quantised weights are frozen."""
        import bitsandbytes.functional as bnb
        import torch

        packed, state = bnb.quantize_4bit(
            torch.tensor(weight, device=place.device), blocksize=64, quant_type="nf4"
        )
        ours = nf4.quantize(weight, blocksize=64)
        theirs = [packed.cpu().numpy().ravel(), state.absmax.cpu().numpy().ravel()]
        pairs = [np.concatenate([np.ravel(x).astype(float) for x in y]) for y in (theirs, ours)]
        return {"value": tuple(pairs)}

    yield Row("nf4", "packed bytes and scales", "bitsandbytes", run)


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

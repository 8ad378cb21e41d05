"""Rows of the report: adapters and the quantised weights under them."""

import numpy as np

from reference_math import dora, double_quant, lora, lora_init, nf4
from reference_math.conformance.rows import Row, running


def rows():
    yield from lora_rows()
    yield from split_rows()
    yield from nf4_rows()


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
        return lambda x, **numbers: _peft_layer(**numbers, use_dora=use_dora)(x)

    def from_twin(x, weight, lora_A, lora_B):
        from reference_math.torch import lora as twin

        return twin.forward(x, weight, lora_A, lora_B, scaling=2.0)

    yield Row("lora", "forward", "peft", running(from_peft(False), ours, _layer(), "x"))
    yield Row("lora", "forward", "torch twin", running(from_twin, ours, _layer(), "x"))
    yield Row("lora", "DoRA forward", "peft", running(from_peft(True), with_dora, _layer(), "x"))

    def merged(back):
        def run(place):
            numbers = _layer()
            del numbers["x"]
            layer = _peft_layer(*(place.tensor(x) for x in numbers.values()))
            ours = [place.rounded(x) for x in numbers.values()]
            expected = lora.merge(*ours, scaling=2.0)
            layer.merge()
            if back:
                layer.unmerge()
                expected = lora.unmerge(expected, *ours[1:], scaling=2.0)
            return {"value": (place.numpy(layer.base_layer.weight), expected)}

        return run

    yield Row("lora", "merge", "peft", merged(back=False))
    yield Row("lora", "merge and unmerge", "peft", merged(back=True))


def _peft_layer(weight, lora_A, lora_B, use_dora=False):
    """PEFT's Linear with these numbers, r = 3 and scaling 2."""
    import peft
    import torch

    base = torch.nn.Linear(6, 5, bias=False, dtype=weight.dtype, device=weight.device)
    config = peft.LoraConfig(r=3, lora_alpha=6, use_dora=use_dora)
    layer = peft.tuners.lora.Linear(base, "default", config, r=3, lora_alpha=6).to(weight)
    with torch.no_grad():
        base.weight.copy_(weight)
        layer.lora_A["default"].weight.copy_(lora_A)
        layer.lora_B["default"].weight.copy_(lora_B)
        if use_dora:
            norm = (weight + 2.0 * lora_B @ lora_A).norm(dim=1)
            layer.lora_magnitude_vector["default"].weight.copy_(norm)
    return layer


def split_rows():
    """PiSSA and OLoRA: the part of a weight that B A takes. PEFT refuses float64."""
    weight = np.random.default_rng(0).standard_normal((5, 6))

    def splitting(init):
        def run(place):
            import peft
            import torch

            given = place.tensor(weight)
            base = torch.nn.Linear(6, 5, bias=False, dtype=given.dtype, device=given.device)
            base.weight.data = given
            config = peft.LoraConfig(r=3, lora_alpha=6, init_lora_weights=init)
            layer = peft.tuners.lora.Linear(base, "default", config, r=3, lora_alpha=6)
            taken = layer.get_delta_weight(
                "default"
            )  # the factors' signs are free, s B A's are not
            *factors, _ = getattr(lora_init, init)(place.rounded(weight), 3, scaling=2.0)
            return {"value": (place.numpy(taken), lora.delta_weight(*factors, scaling=2.0))}

        return run

    for init in ("pissa", "olora"):
        yield Row("lora", f"{init}: the part of W taken", "peft", splitting(init))


def nf4_rows():
    """bitsandbytes quantises float32 and below, so these rows are the same for a float64 place."""
    weight = np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32)

    def theirs(place, nested=False):
        import bitsandbytes.functional as bnb
        import torch

        given = torch.tensor(weight, device=place.device)
        options = {"blocksize": 64, "quant_type": "nf4", "compress_statistics": nested}
        packed, state = bnb.quantize_4bit(given, **options)
        return packed, state, bnb.dequantize_4bit(packed, state).cpu().numpy()

    def stored(place):
        packed, state, _ = theirs(place)
        ours = nf4.quantize(weight, blocksize=64)
        got = packed.cpu().numpy().ravel(), state.absmax.cpu().numpy().ravel()
        return {"value": tuple(np.concatenate([x.astype(float) for x in y]) for y in (got, ours))}

    def read(place):
        ours = nf4.dequantize(*nf4.quantize(weight, blocksize=64), weight.shape, blocksize=64)
        return {"value": (theirs(place)[2], ours)}

    def nested(place):
        """What their 8-bit codes of the scales say; which codes a kernel picks depends on it."""
        packed, state, got = theirs(place, nested=True)
        packed, codes, group_scale = (
            x.cpu().numpy() for x in (packed, state.absmax, state.state2.absmax)
        )
        absmax = double_quant.dequantize(codes, group_scale, state.offset.item())
        read = nf4.dequantize(packed.ravel(), absmax, weight.shape, blocksize=64)
        return {"value": (got, read)}

    for option, run in [
        ("packed bytes and scales", stored),
        ("read back", read),
        ("double quantisation, read back", nested),
    ]:
        yield Row("nf4", option, "bitsandbytes", run)

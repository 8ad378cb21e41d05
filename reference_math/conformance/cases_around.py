"""Rows of the report for what surrounds a loss: tokens, rewards, sampling, adapters, the optimizer."""

from collections.abc import Iterator

import numpy as np

from reference_math import (
    advantages,
    dora,
    double_quant,
    importance_sampling,
    logits_filters,
    logprobs,
    lora,
    lora_init,
    multi_reward,
    nf4,
    optim,
)
from reference_math.conformance.rows import Row, comparing, running

GROUP = 3  # n / (n - 1) in float32, as TRL takes it, is exact for a group of three
STD = {"ddof": 1, "eps": 1e-4}


def rows() -> Iterator[Row]:
    yield from token_rows()
    yield from advantage_rows()
    yield from importance_rows()
    yield from sampling_rows()
    yield from adapter_rows()
    yield from nf4_rows()
    yield from optimizer_rows()


# Tokens ----------------------------------------------------------------------------------------


def token_rows() -> Iterator[Row]:
    """Compare log-probabilities and entropy, from logits and from TRL's fused head."""
    rng, tau = np.random.default_rng(0), {"temperature": 0.7}
    tokens = rng.integers(0, 101, (3, 5))
    arrays = {"logits": rng.normal(scale=2.0, size=(3, 5, 101)), "tokens": tokens}

    def log_probs(logits, tokens):
        grad = logprobs.logits_grad(logits, tokens, np.ones(tokens.shape), **tau)
        return logprobs.per_token_logps(logits, tokens, **tau), grad

    def entropy(logits, tokens):
        grad = logprobs.entropy_grad(logits, np.ones(tokens.shape), **tau)
        return logprobs.entropy(logits, **tau), grad

    def twin(logits, tokens):
        from reference_math.torch import logprobs as twin

        return twin.per_token_logps_and_entropy(logits, tokens, **tau)

    def from_logits(logits, tokens):
        from trl.trainer.utils import selective_log_softmax_and_entropy

        return selective_log_softmax_and_entropy(logits, tokens, **tau)

    def fused_head(logits, tokens):
        """The identity as the hidden states' head: its product is the logits."""
        import torch
        from trl.kernels import ChunkedLogProbFunction

        eye = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        arguments = (tokens.flatten(), 0.7, 64, None, 1.0, ("entropy",))
        got = ChunkedLogProbFunction.apply(logits.flatten(0, 1), eye, None, *arguments)
        return [x.view(tokens.shape) for x in got[:2]]

    for i, (option, ours) in enumerate([("log-probs", log_probs), ("entropy", entropy)]):
        for library, theirs, note in [
            ("torch twin", twin, ""),
            ("trl", from_logits, ", from logits"),
            ("trl", fused_head, ", fused head"),
        ]:

            def one(theirs=theirs, i=i, **tensors):
                return theirs(**tensors)[i]

            run = running(one, ours, arrays, "logits")
            yield Row("tokens", f"{option}, temperature 0.7{note}", library, run)


# Rewards and the sampler's weights -------------------------------------------------------------


def _scored(place, rewards, weights, trainer="grpo", **options):
    from reference_math.conformance import trl_scoring

    return getattr(trl_scoring, trainer)(rewards, weights, GROUP, **options)


def advantage_rows() -> Iterator[Row]:
    """Score with three reward functions, some of which return nothing for some completions."""
    rng, weights = np.random.default_rng(0), np.array([1.0, 0.5, 2.0])
    rewards = rng.normal(size=(18, 3))
    rewards[1, 0] = rewards[4] = rewards[-GROUP:, 1] = np.nan
    options = {
        f"sum_then_normalize, {scale}": {"scale_rewards": scale, "missing": "zero"}
        for scale in multi_reward.SCALE_REWARDS
    }
    for option, own in (options | {"normalize_then_sum": {}}).items():
        aggregation = option.partition(", ")[0]
        trls = {"multi_objective_aggregation": aggregation}
        trls["scale_rewards"] = own.get("scale_rewards", "group")

        def from_trl(place, r, w, trls=trls):
            return _scored(place, r, w, **trls)["advantages"]

        def from_twin(place, r, w, aggregation=aggregation, own=own):
            from reference_math.torch import multi_reward as twin

            return getattr(twin, aggregation)(r, w, GROUP, **STD, **own)

        def ours(r, w, aggregation=aggregation, own=own):
            return getattr(multi_reward, aggregation)(r, w, GROUP, **STD, **own)

        for library, theirs in [("trl", from_trl), ("torch twin", from_twin)]:
            yield Row("advantages", option, library, comparing(theirs, ours, rewards, weights))

    def leave_one_out(r, w):
        total = multi_reward.weighted_sum(r, w, GROUP, missing="zero")
        return advantages.leave_one_out(total, GROUP)

    def from_rloo(place, r, w):
        return _scored(place, r, w, "rloo", per_token_logps=0 * w.new_ones(len(r), 1))["advantages"]

    run = comparing(from_rloo, leave_one_out, rewards, weights)
    yield Row("advantages", "leave one out", "trl", run)


def importance_rows() -> Iterator[Row]:
    """Compare the bounded ratio of trainer to sampler; one token has no sampler's log-prob."""
    rng = np.random.default_rng(0)
    mask = (np.arange(5) < np.array([[5], [3], [1], [4], [2], [5]])).astype(float)
    old = -rng.exponential(size=mask.shape)
    sampled = old + 0.5 * rng.normal(size=mask.shape)
    sampled[0, 2] = np.nan
    # TRL reads the sampler's numbers from lists into float32, whatever the model's dtype
    old, sampled = (x.astype(np.float32).astype(float) for x in (old, sampled))
    bounds = {"clip_min": 0.6, "clip_max": 1.5}
    for mode in importance_sampling.MODES:

        def from_trl(place, old, sampled, mask, mode=mode):
            options = {f"vllm_importance_sampling_{key}": bounds[key] for key in bounds}
            options |= {"vllm_importance_sampling_mode": mode, "completion_mask": mask}
            options |= {"per_token_logps": old, "sampling_per_token_logps": sampled}
            nothing = place.tensor(np.zeros((len(mask), 1))), place.tensor(np.ones(1))
            return _scored(place, *nothing, **options)["importance_sampling_ratio"]

        def from_twin(place, *tensors, mode=mode):
            from reference_math.torch import importance_sampling as twin

            return twin.ratio(*tensors, mode=mode, **bounds)

        def ours(old, sampled, mask, mode=mode):
            return importance_sampling.ratio(old, sampled, mask, mode=mode, **bounds)

        for library, theirs in [("trl", from_trl), ("torch twin", from_twin)]:
            yield Row("sampler weights", mode, library, comparing(theirs, ours, old, sampled, mask))


# Sampling --------------------------------------------------------------------------------------


def sampling_rows() -> Iterator[Row]:
    logits = np.random.default_rng(0).normal(scale=3.0, size=(4, 50))
    ids = np.random.default_rng(1).integers(0, 50, (4, 9))
    for option, warper, value, ours in [
        ("top_k 5", "TopKLogitsWarper", 5, logits_filters.top_k),
        ("top_p 0.8", "TopPLogitsWarper", 0.8, logits_filters.top_p),
        ("min_p 0.1", "MinPLogitsWarper", 0.1, logits_filters.min_p),
        ("repetition_penalty 1.3", "RepetitionPenaltyLogitsProcessor", 1.3, None),
    ]:

        def theirs(place, z, ids, warper=warper, value=value):
            from transformers.generation import logits_process

            result = getattr(logits_process, warper)(value)(ids, z)
            return result.masked_fill(
                result.isinf(), -1e4
            )  # what was removed is -inf on both sides

        def own(z, ids, value=value, ours=ours):
            if ours is None:
                return logits_filters.repetition_penalty(z, ids, value)
            return np.nan_to_num(ours(z, value), neginf=-1e4)

        yield Row("sampling", option, "transformers", comparing(theirs, own, logits, ids))


# Adapters and quantised weights ----------------------------------------------------------------


def adapter_rows() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    shapes = {"x": (4, 6), "weight": (5, 6), "lora_A": (3, 6), "lora_B": (5, 3)}
    layer = {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    def ours(x, **numbers):
        value = lora.forward(x, **numbers, scaling=2.0)
        grads = lora.forward_grad(x, **numbers, grad_y=np.ones_like(value), scaling=2.0)
        return value, grads[0]

    def with_dora(x, **numbers):
        numbers["magnitude"] = dora.weight_norm(**numbers, scaling=2.0)
        value = dora.forward(x, **numbers, scaling=2.0)
        grads = dora.forward_grad(x, **numbers, grad_y=np.ones_like(value), scaling=2.0)
        return value, grads[0]

    def from_twin(**tensors):
        from reference_math.torch import lora as twin

        return twin.forward(**tensors, scaling=2.0)

    def from_peft(use_dora):
        return lambda x, **numbers: _peft_layer(**numbers, use_dora=use_dora)(x)

    yield Row("lora", "forward", "peft", running(from_peft(False), ours, layer, "x"))
    yield Row("lora", "forward", "torch twin", running(from_twin, ours, layer, "x"))
    yield Row("lora", "DoRA forward", "peft", running(from_peft(True), with_dora, layer, "x"))

    def merged(place, *numbers, back=False):
        peft_layer = _peft_layer(*numbers)
        peft_layer.merge()
        if back:
            peft_layer.unmerge()
        return peft_layer.base_layer.weight

    def merge(*numbers):
        return lora.merge(*numbers, scaling=2.0)

    def unmerge(weight, *factors):
        return lora.unmerge(merge(weight, *factors), *factors, scaling=2.0)

    numbers = [layer[name] for name in ("weight", "lora_A", "lora_B")]
    yield Row("lora", "merge", "peft", comparing(merged, merge, *numbers))

    def merged_and_back(place, *tensors):
        return merged(place, *tensors, back=True)

    yield Row("lora", "merge and unmerge", "peft", comparing(merged_and_back, unmerge, *numbers))

    for init in ("pissa", "olora"):

        def taken(place, weight, init=init):
            """s B A: the factors' signs are free, the product's are not.  PEFT refuses float64."""
            return _peft_layer(weight, init=init).get_delta_weight("default")

        def split(weight, init=init):
            *factors, _ = getattr(lora_init, init)(weight, 3, scaling=2.0)
            return lora.delta_weight(*factors, scaling=2.0)

        run = comparing(taken, split, layer["weight"])
        yield Row("lora", f"{init}: the part of W taken", "peft", run)


def _peft_layer(weight, lora_A=None, lora_B=None, *, use_dora=False, init=True):
    """PEFT's Linear with these numbers, r = 3 and scaling 2; without factors, its own start."""
    import peft
    import torch

    base = torch.nn.Linear(6, 5, bias=False, dtype=weight.dtype, device=weight.device)
    with torch.no_grad():
        base.weight.copy_(weight)
    config = peft.LoraConfig(r=3, lora_alpha=6, use_dora=use_dora, init_lora_weights=init)
    layer = peft.tuners.lora.Linear(base, "default", config, r=3, lora_alpha=6)
    if lora_A is None:
        return layer
    layer = layer.to(weight)
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(lora_A)
        layer.lora_B["default"].weight.copy_(lora_B)
        if use_dora:
            norm = (weight + 2.0 * lora_B @ lora_A).norm(dim=1)
            layer.lora_magnitude_vector["default"].weight.copy_(norm)
    return layer


def nf4_rows() -> Iterator[Row]:
    """bitsandbytes quantises float32 and below, so these rows are the same for a float64 place."""
    weight = np.random.default_rng(0).standard_normal((8, 128)).astype(np.float32)

    def theirs(place, nested=False):
        import bitsandbytes.functional as bnb
        import torch

        given = torch.tensor(weight, device=place.device)
        options = {"blocksize": 64, "quant_type": "nf4", "compress_statistics": nested}
        packed, state = bnb.quantize_4bit(given, **options)
        return packed.cpu().numpy().ravel(), state, bnb.dequantize_4bit(packed, state).cpu().numpy()

    def read_back(packed, absmax):
        return nf4.dequantize(packed, absmax, weight.shape, blocksize=64)

    def stored(place):
        packed, state, _ = theirs(place)
        got = packed, state.absmax.cpu().numpy().ravel()
        ours = nf4.quantize(weight, blocksize=64)
        return {"value": tuple(np.concatenate([x.astype(float) for x in y]) for y in (got, ours))}

    def read(place):
        return {"value": (theirs(place)[2], read_back(*nf4.quantize(weight, blocksize=64)))}

    def nested(place):
        """What their 8-bit codes of the scales say; which codes a kernel picks depends on it."""
        packed, state, got = theirs(place, nested=True)
        codes, scale = (x.cpu().numpy() for x in (state.absmax, state.state2.absmax))
        absmax = double_quant.dequantize(codes, scale, state.offset.item())
        return {"value": (got, read_back(packed, absmax))}

    runs = {"packed bytes and scales": stored, "read back": read}
    for option, run in (runs | {"double quantisation, read back": nested}).items():
        yield Row("nf4", option, "bitsandbytes", run)


# The optimizer ---------------------------------------------------------------------------------


def optimizer_rows() -> Iterator[Row]:
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=7), rng.normal(size=(5, 7))
    options = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}

    def adamw(place, start, grads):
        import torch

        param = start.clone().requires_grad_()
        step = torch.optim.AdamW([param], **options)
        for param.grad in grads:
            step.step()
        return param

    def our_adamw(param, grads):
        m, v = np.zeros(7), np.zeros(7)
        for i, grad in enumerate(grads):
            param, m, v = optim.adamw_step(param, grad, m, v, step=i + 1, **options)
        return param

    run = comparing(adamw, our_adamw, start, grads)
    yield Row("adamw", "5 steps with weight decay", "torch", run)

    def clip(place, *grads):
        import torch

        params = [torch.zeros_like(g, requires_grad=True) for g in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        return torch.cat([param.grad.flatten() for param in params])

    def our_clip(*grads):
        return np.concatenate([g.ravel() for g in optim.clip_grad_norm(list(grads), 1.0)[0]])

    several = [rng.normal(size=shape) for shape in [(3, 4), (5,), ()]]
    yield Row("gradient clipping", "max_norm 1", "torch", comparing(clip, our_clip, *several))

    sizes = {"num_warmup_steps": 3, "num_training_steps": 10}
    for option, ours in [("linear", optim.linear_schedule), ("cosine", optim.cosine_schedule)]:

        def run(place, name=f"get_{option}_schedule_with_warmup", ours=ours):
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

        yield Row("schedule", option, "transformers", run)

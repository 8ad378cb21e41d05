"""Rows of the report: what a teacher teaches."""

import numpy as np

from reference_math import distillation, gkd, grpo, logprobs, minillm, sdft, uld
from reference_math.conformance.rows import Row, golden, running


def rows():
    yield from logit_rows()
    yield from hidden_rows()
    yield from minillm_rows()


def _trl(name, **options):
    def theirs(**tensors):
        from reference_math.conformance import trl_distillation

        return getattr(trl_distillation, name)(**tensors, **options)

    return theirs


def _both(module, **options):
    return lambda **given: (module.loss(**given, **options), module.loss_grad(**given, **options))


def logit_rows():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(scale=1.5, size=(2, 3, 4, 6))
    logits = {"student_logits": student, "teacher_logits": teacher}
    arrays = logits | {"completion_mask": (np.arange(4) < np.array([[4], [2], [0]])).astype(float)}
    for beta in (0.0, 0.5, 1.0):
        options = {"beta": beta, "temperature": 2.0}
        run = running(_trl("gkd", **options), _both(gkd, **options), arrays, "student_logits")
        yield Row("gkd", f"beta {beta:g}", "trl", run)
    support = {"": {}, ", top 3": {"topk": 3}, ", top 3 and rest": {"topk": 3, "add_tail": True}}
    for text, extra in support.items():
        options = extra | {"alpha": 0.5}
        run = running(_trl("sdft", **options), _both(sdft, **options), arrays, "student_logits")
        yield Row("sdft", f"alpha 0.5{text}", "trl", run)
    arrays = {"student_logits": student[0], "teacher_logits": rng.normal(size=(4, 8))}
    run = running(_trl("uld"), _both(uld), arrays, "student_logits")
    yield Row("uld", "sorted, two vocabularies", "trl", run)


def hidden_rows():
    rng = np.random.default_rng(0)
    shapes = {"student_hidden": (5, 4), "teacher_hidden": (5, 3)}
    shapes |= {"student_weight": (11, 4), "teacher_weight": (11, 3)}
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    for beta in (0.0, 0.5, 1.0):
        options = {"beta": beta, "vocab_chunk": 4}
        for i, wrt in enumerate(("student_hidden", "student_weight")):

            def ours(i=i, options=options, **given):
                value = distillation.loss(**given, **options)
                return value, distillation.loss_grad(**given, **options)[i]

            run = running(_trl("distillation", **options), ours, arrays, wrt)
            yield Row("distillation", f"beta {beta:g}, to {wrt}", "trl", run)


def minillm_rows():
    """The release's own numbers, the advantage detached as no release has it, padding left out."""
    kept = golden("minillm")
    if not kept:
        return
    names = ("student_logits", "teacher_logits", "tokens", "old_per_token_logps")
    student, teacher, tokens, old = (kept[f"summed_detached/{name}"] for name in names)
    options = {"gamma": 1.0, "length_normalization": False, "single_step_decomposition": False}
    clip = {"epsilon_low": 0.2, "epsilon_high": 0.2, "reduction": "bnpo"}
    clip["importance_sampling_level"] = "token"

    def run(place):
        mask = kept["summed_detached/completion_mask"]
        logps, of_teacher = (logprobs.per_token_logps(z, tokens) for z in (student, teacher))
        a = minillm.advantages(logps, of_teacher, mask, **options)
        value = grpo.loss(logps, old, a, mask, **clip)
        grad = logprobs.logits_grad(student, tokens, grpo.loss_grad(logps, old, a, mask, **clip))
        value += gkd.loss(
            student, teacher, mask, beta=1.0
        )  # TRL keeps the first term of the sum, too
        grad += gkd.loss_grad(student, teacher, mask, beta=1.0)
        return {
            "value": (kept["summed_detached/loss"], np.asarray(value)),
            "gradient": (kept["summed_detached/grad"], grad),
        }

    yield Row("minillm", "summed, advantage detached", "trl", run, release="1.14.2")

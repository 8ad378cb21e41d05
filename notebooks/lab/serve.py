"""Start the vLLM server that GRPO samples from with `vllm_mode: server`, from the same recipe.

    python -m lab.serve grpo --config RECIPE
    python -m lab.serve grpo --config RECIPE -- --tensor-parallel-size 2      vLLM's own options

It writes the base as the trainer computes with it, dequantised, and becomes vLLM's own server over
that base, to which the trainer brings its adapter (`lab.engine.server_sync`). It listens on this machine
alone, unless vllm_server_host of the recipe or --host says otherwise: that needs a key, VLLM_API_KEY
in the environment of both sides. Whoever reaches the port without one may load any folder.

Proof     tests/lab/test_server_sync.py
"""

import argparse
import hmac
import os
import shlex
import sys
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OPEN = ("/health",)  # what the server answers without a key


class Guard:
    """Middleware that asks for the key on every path: vLLM's own asks on some.

    vLLM 0.31 lets POST /adapters load an adapter, and POST /invocations generate, without the key.
    """

    def __init__(self, app):
        self.app, self.key = app, os.environ.get("VLLM_API_KEY")

    async def __call__(self, scope, receive, send):
        sent = dict(scope.get("headers", ())).get(b"authorization", b"")
        right = not self.key or hmac.compare_digest(sent, f"Bearer {self.key}".encode())
        if scope["type"] == "lifespan" or scope["path"] in OPEN or right:
            return await self.app(scope, receive, send)
        from starlette.responses import JSONResponse

        return await JSONResponse({"error": "Unauthorized"}, 401)(scope, receive, send)


def write_base(recipe, folder):
    """Save the base that the trainer's layers multiply by, and its tokenizer."""
    from lab import train, vllm

    alone = {key: recipe[key] for key in recipe if key not in ("start_from", "adapter", "lora")}
    base, tok = train.load(alone | {"model": train.base_model(recipe)})
    vllm.served(base, dtype=dtype()).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def dtype():
    """Return what the server computes in: float32 on a CPU, else the card's 16 bits."""
    import torch

    from lab import vllm

    return vllm.sixteen_bits() if torch.cuda.is_available() else torch.float32


def rank(recipe):
    """Return the rank of the adapter that this recipe trains.

    Raises ValueError if it trains none.
    """
    from lab import recipes

    if recipe.get("adapter"):
        from peft import PeftConfig

        return PeftConfig.from_pretrained(recipe["adapter"]).r
    while recipe and not recipe.get("lora"):
        recipe = recipes.parent(recipe)
    if not recipe:
        raise ValueError("vllm_mode: server needs a LoRA adapter, and this recipe trains none")
    return recipe["lora"].get("r", 8)  # PEFT's own default


def command(recipe, folder, host, port, more=()):
    """Return the server's command line; run it under `environment()`.

    more    vLLM's own options, which come last and win
    """
    from lab.engine.adapter_sync import RANKS
    from lab.engine.colocated import engine_defaults

    args, needed = recipe["args"], rank(recipe)
    options = engine_defaults() | {
        "model": folder,
        "host": host,
        "port": port,
        "seed": recipe["seed"],
        "dtype": str(dtype()).removeprefix("torch."),
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": next(size for size in RANKS if size >= needed),
        "logprobs_mode": "processed_logprobs",
        "max_model_len": args.get("vllm_max_model_length"),
        "gpu_memory_utilization": args.get("vllm_gpu_memory_utilization"),
        "middleware": "lab.serve.Guard",
        "allowed_origins": "[]",  # of no web page that a browser on this machine shows
        "disable_fastapi_docs": True,
        "uvicorn_log_level": "warning",
    }
    # The module, not the command `vllm`: that of the CPU package stops for want of its metadata.
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    given = [_flag(name.replace("_", "-"), value) for name, value in options.items()]
    return [*start, *filter(None, given), *more]


def _flag(name, value):
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return None if value is None else f"--{name}={value}"


def environment():
    """Return the environment of the server: adapters may be loaded while it runs, and it is quiet."""
    quiet = {"PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore")}
    return os.environ | quiet | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}


def address(recipe, host=None, port=None):
    """Return where the server listens: as said here, else as the recipe says, else on this machine alone.

    Raises ValueError for another machine's reach without a key.
    """
    args = recipe["args"]
    url = urlsplit(args.get("vllm_server_base_url", ""))
    host = host or url.hostname or args.get("vllm_server_host", LOOPBACK[0])
    if host not in LOOPBACK and not os.environ.get("VLLM_API_KEY"):
        raise ValueError(
            f"a server on {host} can be reached from elsewhere: set VLLM_API_KEY here and for the "
            f"trainer, or listen on {LOOPBACK[0]}"
        )
    return host, port or url.port or args.get("vllm_server_port", 8000)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m lab.serve", description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=["grpo"])
    parser.add_argument("--config", help="the trainer's YAML recipe; default: this machine's")
    parser.add_argument("--seed", type=int, help="the trainer's --seed, if it has one")
    parser.add_argument("--host", help="default: vllm_server_host of the recipe, or this machine")
    parser.add_argument("--port", type=int, help="default: vllm_server_port of the recipe, or 8000")
    parser.epilog = "What stands after -- goes to vLLM's server as it is."
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    args, more = parser.parse_args(argv[:end]), argv[end + 1 :]

    from lab import recipes, runs, train

    recipe = recipes.load(args.stage, args.config, args.seed)
    if recipe["args"].get("vllm_mode") != "server":
        parser.error(
            "the recipe does not sample from a server: write vllm_mode: server in its args"
        )
    host, port = address(recipe, args.host, args.port)
    first = recipe
    while "model" not in first and first["stage"] != "base":
        first = recipes.parent(first)
    if "model" not in first and not runs.is_current(first):
        print("The base stage does not stand yet: waiting for lab.train to make it", flush=True)
        train.await_manifest(first)
    folder = write_base(recipe, runs.root() / f"served_{recipe['profile']}")
    line = command(recipe, folder, host, port, more)
    print(f"A server for GRPO, at http://{host}:{port}:\n{shlex.join(line)}", flush=True)
    os.execve(line[0], line, environment())


if __name__ == "__main__":
    main()

"""GRPO over a vLLM server: two real processes on a CPU, one killed in the middle, and defects planted.

The server starts once, as a user starts it (`python -m lab.serve`), and again after it was killed, by
the command line that lab.serve prints.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
import torch
import yaml
from lab import model, recipes, serve, train, vllm
from lab.engine import server_sync
from lab.engine.colocated import _free_port

pytestmark = pytest.mark.vllm

STEPS = 5
KEY = "of-this-test"
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def digits(completions, **_):
    """A reward that differs within a group: the share of digits."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in texts]


def save_base(folder, seed):
    tok = model.tokenizer()
    model.build(tok, seed=seed).save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a base, another one, a recipe over the first, and the key in the environment."""
    folder = tmp_path_factory.mktemp("server")
    save_base(folder / "other", seed=6)
    recipe = {
        "stage": "grpo",
        "profile": "tiny",
        "seed": 0,
        "model": save_base(folder / "base", seed=5),
        "quantization": NF4 | {"bnb_4bit_compute_dtype": "float32"},
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "data": {"n": 64},
        "args": {
            "max_steps": STEPS,
            "per_device_train_batch_size": 32,
            "num_generations": 8,
            "max_completion_length": 24,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant",
            "vllm_mode": "server",
            "vllm_server_port": _free_port(),
            "vllm_max_model_length": 96,
            "logging_steps": 1,
            "save_strategy": "no",
            "gradient_checkpointing": False,
            "bf16": False,
            "use_cpu": True,
        },
    }
    (folder / "grpo.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_RUNS", str(folder / "runs"))
        patch.setenv("VLLM_API_KEY", KEY)
        yield folder


def recipe_of(home, args=(), **changes):
    recipe = recipes.load("grpo", home / "grpo.yaml")
    return recipe | changes | {"args": recipe["args"] | dict(args)}


class Server:
    """A server process with its children, and what it printed."""

    def __init__(self, command, home, env=None):
        self.log = (home / "server.log").open("ab")
        env = dict(env or os.environ)
        if env.pop("PYTHONDONTWRITEBYTECODE", None):  # vLLM's three processes: a minute to compile
            env["PYTHONPYCACHEPREFIX"] = str(home / "bytecode")
        started = {"stdout": self.log, "stderr": self.log, "start_new_session": True}
        self.process = subprocess.Popen(command, env=env, **started)

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def server(home):
    """The server of the recipe; the test that kills it puts another one in its place."""
    command = [sys.executable, "-m", "lab.serve", "grpo", "--config", str(home / "grpo.yaml")]
    running = {"server": Server(command, home)}
    yield running
    running["server"].kill()


def built(recipe, generation=None):
    options = {"generation": generation} if generation else {}
    return train.trainer(recipe, reward_funcs=digits, **options)


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def url(home):
    return f"http://127.0.0.1:{recipe_of(home)['args']['vllm_server_port']}"


def adapters(home):
    """Names of the adapters that the server has."""
    key = {"Authorization": f"Bearer {KEY}"}
    cards = requests.get(f"{url(home)}/v1/models", headers=key, timeout=5).json()["data"]
    return [card["id"] for card in cards if card["parent"]]


def test_a_run_whose_server_is_killed_and_started_again_goes_on_without_loss(home, server, capsys):
    class KilledInTheMiddle(server_sync.Generation):
        """While the third generation is under way, its server dies; then an ordinary one starts."""

        def generate(self, *args, **kwargs):
            if self.syncs == 3:
                threading.Timer(0.2, self.restart).start()
            return super().generate(*args, **kwargs)

        def restart(self):
            server["server"].kill()
            recipe = recipe_of(home)
            folder, port = home / "runs" / "served_tiny", recipe["args"]["vllm_server_port"]
            command = serve.command(recipe, folder, "127.0.0.1", port)
            server["server"] = Server(command, home, serve.environment())

    trainer = built(recipe_of(home), KilledInTheMiddle)
    trainer.train()
    assert adapters(home) == [trainer.vllm_generation.vllm_client.name]
    vllm.release(trainer)
    assert adapters(home) == []  # the trainer has taken it with it

    said = capsys.readouterr().out
    assert "GRPO waits for a vLLM server at" in said and "serves this run's base in float32" in said
    assert "has gone away" in said and "GRPO waits until it is back" in said
    assert "has the base and the adapter again" in said
    gaps = logged(trainer, "sampling/gap_mean")
    assert len(gaps) == STEPS and 0 < max(gaps) <= trainer.max_gap / 10
    assert min(logged(trainer, "grad_norm")) > 0
    lengths = logged(trainer, "completions/max_length")
    assert len(lengths) == STEPS and min(lengths) > 1  # no generation is empty


def test_a_server_that_has_lost_the_adapter_gets_it_again(home, server, capsys):
    """As after a restart between two requests."""

    class Lost(server_sync.Generation):
        def generate(self, *args, **kwargs):
            self.vllm_client.leave()
            return super().generate(*args, **kwargs)

    trainer = built(recipe_of(home, {"max_steps": 2}), Lost)
    trainer.train()
    vllm.release(trainer)
    assert capsys.readouterr().out.count("has lost the adapter (a restart)") == 2
    assert max(logged(trainer, "sampling/gap_mean")) <= trainer.max_gap / 10


@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_two_ranks_share_one_server(home, server, launch, config):
    """Rank 0 brings the adapter and asks; both train on its completions, and stay the same."""
    done = launch(config, "two_ranks.py", home / "grpo.yaml")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert found["ranks"] == 2 and found["weights"][0] == found["weights"][1]
    assert found["sharded"] == (config == "fsdp2") and len(found["gaps"]) == 2
    assert 0 < max(found["gaps"]) <= vllm.ROUNDING_GAP[torch.float32] / 10


class OldAdapter(server_sync.Generation):
    """Every sync runs, and brings the first adapter again."""

    def write(self):
        return self.folder / "000000" if self.syncs else super().write()


class TwiceTheScaling(server_sync.Generation):
    """An adapter whose configuration says another alpha than the trainer's."""

    def write(self):
        file = super().write() / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 64}))
        return file.parent


class OtherFolder(server_sync.Generation):
    """The adapter is written where the server does not see it: on another machine, say."""

    def write(self):
        return self.folder / "elsewhere"


def one_line(error):
    """What a trainer says last: all of it, in one line."""
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("defect", "kind", "said"),
    [
        (OldAdapter, vllm.SamplerGap, "does not serve the adapter of sync 1: .* from the "),
        (OtherFolder, RuntimeError, "No adapter found .* and sees the trainer's folder"),
    ],
)
def test_a_planted_defect_of_the_adapter_is_named(home, server, defect, kind, said):
    trainer = built(recipe_of(home), defect)
    with pytest.raises(kind, match=said) as error:
        trainer.train()
    vllm.release(trainer)
    one_line(error)


def test_what_the_probe_cannot_name_the_gap_of_a_generation_stops(home, server):
    """The guard, its limit and its words are those of a colocated engine."""
    trainer = built(recipe_of(home), TwiceTheScaling)
    with pytest.raises(vllm.SamplerGap, match="step 1: the engine's log-probs are"):
        trainer.train()
    vllm.release(trainer)
    assert trainer.max_gap == vllm.ROUNDING_GAP[torch.float32]


@pytest.mark.parametrize("wrong", ["another model", "the base before NF4"])
def test_a_server_of_another_base_is_named(home, server, wrong):
    """The server holds the dequantised base: the plain one is another model too."""
    changes = {"model": str(home / "other")} if wrong == "another model" else {"quantization": {}}
    with pytest.raises(vllm.SamplerGap, match="serves another model than this run's base") as error:
        built(recipe_of(home, **changes))
    one_line(error)


def test_a_server_that_is_not_there_is_named(home, capsys):
    args = {"vllm_server_port": _free_port(), "vllm_server_timeout": 1.0}
    with pytest.raises(ConnectionError, match=r"no vLLM server answers .* lab\.serve") as error:
        built(recipe_of(home, args))
    one_line(error)
    assert "GRPO waits for a vLLM server at http://127.0.0.1:" in capsys.readouterr().out


def test_a_trainer_without_the_key_is_told_so(home, server, monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY")
    with pytest.raises(PermissionError, match="set VLLM_API_KEY as it is set there") as error:
        built(recipe_of(home))
    one_line(error)


@pytest.mark.parametrize(
    "path", ["/adapters", "/invocations", "/v1/load_lora_adapter", "/tokenize"]
)
def test_without_the_key_no_path_does_anything(home, server, path):
    asked = {"name": "mine", "src": str(home), "lora_name": "mine", "lora_path": str(home)}
    assert requests.post(url(home) + path, json=asked, timeout=5).status_code == 401


@pytest.mark.library_defect
def test_upstream_still_guards_no_path_but_those_it_lists():
    from vllm.entrypoints.serve.middleware import authenticate

    assert not "/adapters".startswith(authenticate.GUARDED_PREFIX)


# --- without a server -------------------------------------------------------------------------------


def test_a_server_for_others_needs_a_key(home, monkeypatch):
    recipe = recipe_of(home)
    monkeypatch.delenv("VLLM_API_KEY")
    assert serve.address(recipe)[0] == "127.0.0.1"
    open_to_all = recipe_of(home, {"vllm_server_host": "0.0.0.0"})
    for host, asked in ((None, open_to_all), ("0.0.0.0", recipe)):
        with pytest.raises(ValueError, match="set VLLM_API_KEY"):
            serve.address(asked, host)
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    assert serve.address(open_to_all, port=9)[1] == 9
    url = recipe_of(home, {"vllm_server_base_url": "http://localhost:7"})
    assert serve.address(url) == ("localhost", 7)


def test_the_rank_comes_from_the_stage_that_made_the_adapter():
    recipe = recipes.load("grpo", "tiny")
    assert "lora" not in recipe
    assert serve.rank(recipe) == recipes.load("sft", "tiny")["lora"]["r"]
    with pytest.raises(ValueError, match="needs a LoRA adapter"):
        serve.rank({"stage": "grpo", "profile": "tiny", "seed": 0, "model": "any"})


def test_all_weights_in_training_are_no_adapter(home):
    with pytest.raises(ValueError, match="no LoRA adapter to send"):
        built(recipe_of(home, quantization={}, lora={}))


def test_what_stands_after_two_dashes_is_vllm_s(home, monkeypatch):
    became = []
    monkeypatch.setattr(os, "execve", lambda *given: became.append(given))
    config = ["--config", str(home / "grpo.yaml"), "--port", "9"]
    serve.main(["grpo", *config, "--", "--dtype", "bfloat16"])
    [(program, line, environment)] = became
    assert program == sys.executable and line[-2:] == ["--dtype", "bfloat16"]  # the last one wins
    assert {"--port=9", "--host=127.0.0.1", "--max-lora-rank=16", "--enable-lora"} <= set(line)
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_a_recipe_that_samples_elsewhere_starts_no_server(capsys):
    with pytest.raises(SystemExit):
        serve.main(["grpo", "--config", str(Path(recipes.FOLDER) / "grpo_tiny.yaml")])
    assert "write vllm_mode: server in its args" in capsys.readouterr().err

"""Run GRPO that samples from a vLLM server: another process, which gets the adapter after each step.

    vllm_mode: server                                 among the args of a recipe for GRPO
    python -m lab.serve grpo --config RECIPE          one terminal: the server (`lab.serve`)
    python -m lab.train grpo --config RECIPE          another one: waits for it, and trains

TRL's server mode sends all weights by NCCL: it needs a GPU on each side, and has no way to serve a
4-bit base. Here the server holds the dequantised base, as vLLM's own server starts it, and each sync
writes B and A to a new folder and asks the server to load them in place of those before. What the
server then computes, Wx + (alpha/r) BAx, is what the trainer computes, and is shown to be: the gap of
each generation is measured and stops the run as it does with a colocated engine (`lab.engine.colocated`).

A server that goes away is waited for, up to vllm_server_timeout. Once it is back it has to serve the
same base, gets the adapter again, and is asked again for the completions that it did not give.

Proof     tests/lab/test_server_sync.py
"""

import functools
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import requests
import torch
from accelerate.utils import broadcast_object_list
from trl.generation.vllm_client import VLLMClient

from lab import sharded, vllm
from lab.engine import adapter_sync, colocated

START = "python -m lab.serve grpo --config RECIPE"
PROBE = "What is 12 + 34? 2 + 4 = 6 and 1 + 3 = 4, so 12 + 34 = 46."
PROBE_TOKENS = 32
TRIES = 3  # of one request, each after the server was found to be up


class Away(Exception):
    """Raised when the server does not answer, or has lost the adapter: a restart may mend it."""


class Generation(adapter_sync.Generation):
    """TRL's vLLM backend over a server that gets the adapter after each step, and nothing else.

    Raises ValueError for a model whose adapter vLLM cannot serve, ConnectionError where no server
    answers, and SamplerGap for one that serves another model.
    """

    def _init_vllm(self):
        model = self.accelerator.unwrap_model(self.model)
        if reason := adapter_sync.refusal(model):
            raise ValueError(f"vllm_mode: server: {reason}; take vllm_mode: colocate")
        if self.engine or self._dist.is_zero3:
            raise ValueError(
                "vllm_mode: server takes no engine options, which are lab.serve's, and no DeepSpeed "
                "ZeRO-3, which parts the adapter; FSDP2 may part it (recipes/accelerate/fsdp2.yaml)"
            )
        self.home = tempfile.TemporaryDirectory(prefix="lab-adapter-")  # goes when this goes
        self.folder = Path(self.home.name)
        found = [None]
        if self.accelerator.is_main_process:
            url = self.server_base_url or f"http://{self.server_host}:{self.server_port}"
            self.vllm_client = Client(url, self.server_timeout, model, self.processing_class)
            found = [self.vllm_client.connect()]
        dtype = broadcast_object_list(found)[0]
        # What lab.vllm asks an engine for: its dtype, and to stop.
        config, core = SimpleNamespace(dtype=dtype), SimpleNamespace(shutdown=self._leave)
        self.llm = SimpleNamespace(
            llm_engine=SimpleNamespace(model_config=config, engine_core=core)
        )
        # A colocated engine leaves a process group behind, which lab.vllm.release asks for.
        if not torch.distributed.is_initialized():
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)

    def sync_weights(self):
        """Make the server serve the trainer's present adapter."""
        began, chief = time.perf_counter(), self.accelerator.is_main_process
        model = self.accelerator.unwrap_model(self.model)
        if chief or sharded.is_sharded(
            model
        ):  # whose weights and forward passes take every process
            path = self.write()
            own = trainers(model, probe(self.processing_class))
        if chief:
            self.vllm_client.bring(path, self.syncs, own)
        self.syncs += 1
        self.sync_s += time.perf_counter() - began

    def write(self):
        """Write the adapter in PEFT's own format; returns the folder.

        A new one each time: vLLM's prefix cache tells adapters apart by their path.
        """
        model, path = self.accelerator.unwrap_model(self.model), self.folder / f"{self.syncs:06d}"
        weights = sharded.whole(model) if sharded.is_sharded(model) else None
        if self.accelerator.is_main_process:
            model.save_pretrained(path, state_dict=weights, selected_adapters=[adapter_sync.NAME])
        return path

    def _leave(self):
        if self.accelerator.is_main_process:
            self.vllm_client.leave()


class Client(VLLMClient):
    """TRL's client of a vLLM server, for one that serves a base and the adapter in training.

    url           where it listens
    patience_s    how long to wait for a server that is not there, and for an answer
    model         the PeftModel in training
    """

    say = staticmethod(functools.partial(print, flush=True))  # at once, into a file too

    def __init__(self, url, patience_s, model, tokenizer):
        self.base_url = url.rstrip("/").replace("//0.0.0.0:", "//127.0.0.1:")
        self.patience_s = patience_s
        self.policy, self.name = model, f"policy-{secrets.token_hex(4)}"
        self.ids = probe(tokenizer)
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy stands between two processes of one run
        if key := os.environ.get("VLLM_API_KEY"):
            self.session.headers["Authorization"] = f"Bearer {key}"
        self.path, self.dtype, self.known = None, None, {}
        self.rounding = None  # of the base in 16 bits, where the server computes in those

    # --- what the trainer asks ----------------------------------------------------------------

    def connect(self):
        """Wait for the server and compare its base with the trainer's; returns its dtype."""
        self._wait(f"GRPO waits for a vLLM server at {self.base_url}. Start one: {START}")
        gap = self._steadily(self._same_base)
        name = str(self.dtype).removeprefix("torch.")
        apart = f"{gap:.2g} nats per token apart on a probe"
        self.say(f"The vLLM server at {self.base_url} serves this run's base in {name}: {apart}")
        return self.dtype

    def bring(self, path, number, own):
        """Make the server serve the adapter in the folder, the one of sync `number`.

        own    (T-1,) the trainer's log-probs of the probe with it
        """
        before, self.path = self.path, path
        self.known[f"the adapter of sync {number}"] = own
        self._steadily(self._load)
        if before and before != path:
            shutil.rmtree(before)

    def generate(self, *args, **kwargs):
        """Generate as TRL does; a server that goes away meanwhile is waited for and asked again."""

        def ask():
            self.model = self.name
            return VLLMClient.generate(self, *args, **kwargs)

        return self._steadily(ask)

    def get_server_info(self):
        """Answer what TRL asks a development endpoint, which would open more than that: here it is closed.

        The gap of the first generation shows a server whose log-probs are not processed ones.
        """
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def leave(self):
        """Take the adapter out of the server, if it still has it."""
        try:
            self._post(f"{self.base_url}/v1/unload_lora_adapter", json={"lora_name": self.name})
        except (Away, OSError, RuntimeError):
            pass  # it has gone first

    # --- how ----------------------------------------------------------------------------------

    def _steadily(self, ask):
        """What `ask` returns, asked again of a server that was away and has the adapter again."""
        away = None
        for _ in range(TRIES):
            try:
                if away:
                    began = time.perf_counter()
                    self.say(f"The vLLM server at {self.base_url} {away}")
                    self._wait("GRPO waits until it is back")
                    self._same_base()
                    if self.path:
                        self._load()
                    waited = time.perf_counter() - began
                    self.say(f"The server has the base and the adapter again, {waited:.0f} s later")
                return ask()
            except Away as error:
                away = error
        raise ConnectionError(
            f"the vLLM server at {self.base_url} {away}, {TRIES} times in a row: see what it prints"
        )

    def _wait(self, line):
        """Return once the server is up; the line is said where that is not at once."""
        began = time.perf_counter()
        while not self._up():
            if line:
                self.say(f"{line} (for at most {self.patience_s:.0f} s)")
                line = None
            if time.perf_counter() - began > self.patience_s:
                raise ConnectionError(
                    f"no vLLM server answers at {self.base_url} after {self.patience_s:.0f} s: "
                    f"start it with {START}, or raise vllm_server_timeout"
                )
            time.sleep(min(1.0, self.patience_s / 10))

    def _up(self):
        try:
            return self.session.get(f"{self.base_url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def _same_base(self):
        """The gap between the server's base and the trainer's, in nats per token.

        Raises SamplerGap if the two are not the same model.
        """
        cards = self._get(f"{self.base_url}/v1/models")["data"]
        base = next(card["id"] for card in cards if not card["parent"])
        if "the base alone" not in self.known:
            with self.policy.disable_adapter():
                self.known["the base alone"] = trainers(self.policy, self.ids)
        own = self.known["the base alone"]
        try:
            gap = (self._servers(base) - own).abs().mean().item()
        except RuntimeError as error:  # other tokens, no room: it is told as it is
            raise colocated.SamplerGap(f"{error} (a probe of its base, {base})") from error
        limit, dtype = colocated.ROUNDING_GAP[torch.float32], torch.float32
        if not gap <= limit:
            dtype = vllm.sixteen_bits() if torch.cuda.is_available() else torch.bfloat16
            if self.rounding is None:  # at the first look, before FSDP parts the model
                with self.policy.disable_adapter():
                    plain = vllm.served(self.policy, dtype=dtype)
                self.rounding = (per_token_logps(plain, self.ids) - own).abs().mean().item()
            limit = max(colocated.ROOM * self.rounding, limit)
        if not gap <= limit:
            raise colocated.SamplerGap(
                f"the vLLM server at {self.base_url} serves another model than this run's base: "
                f"{base} is {gap:.2g} nats per token from it on a probe, and rounding explains at most "
                f"{limit:.2g}; start it from this run's recipe: {START}"
            )
        if dtype != (self.dtype or dtype):
            raise colocated.SamplerGap(
                f"the vLLM server at {self.base_url} came back in {dtype}, and was in {self.dtype}"
            )
        self.limit, self.dtype = limit, dtype
        return gap

    def _load(self):
        """Load the adapter at the server, in place of the one before, and look whether it has."""
        asked = {"lora_name": self.name, "lora_path": str(self.path), "load_inplace": True}
        try:
            self._post(f"{self.base_url}/v1/load_lora_adapter", json=asked)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error}. A server for GRPO loads adapters while it runs (start it with {START}) "
                "and sees the trainer's folder (on two machines: set TMPDIR to one that both see)"
            ) from error
        served, present = self._servers(self.name), next(reversed(self.known))
        far = {what: (served - own).abs().mean().item() for what, own in self.known.items()}
        nearest = min(far, key=lambda what: (far[what], what != present))
        # Whatever else the gap of the next generation shows, as it does with a colocated engine.
        if far[present] > self.limit and nearest != present:
            raise colocated.SamplerGap(
                f"the vLLM server at {self.base_url} does not serve {present}: on a probe it is "
                f"{far[present]:.2g} nats per token from it, and {far[nearest]:.2g} from {nearest}"
            )

    def _servers(self, name):
        """(T-1,) the server's log-probs of the probe's tokens after the first."""
        self.model = name
        found = self.get_sequence_logprobs([self.ids], [1], top_logprobs=1)
        return torch.tensor(found["actual_logprobs"][0])[:, 0]

    def _get(self, url, **kwargs):
        return self._ask("GET", url, **kwargs)

    def _post(self, url, **kwargs):
        return self._ask("POST", url, **kwargs)

    def _ask(self, method, url, **kwargs):
        try:
            response = self.session.request(method, url, timeout=(5, self.patience_s), **kwargs)
        except requests.Timeout as error:
            raise Away(f"gave no answer in {self.patience_s:.0f} s, vllm_server_timeout") from error
        except requests.RequestException as error:
            raise Away("has gone away") from error
        said = " ".join(response.text.split())[:300]
        if response.status_code == 401:
            raise PermissionError(
                f"the vLLM server at {self.base_url} wants a key: set VLLM_API_KEY as it is set there"
            )
        if response.status_code == 404 and "does not exist" in said:
            raise Away("has lost the adapter (a restart)")
        if response.status_code >= 500:
            raise Away(f"failed ({response.status_code}: {said})")
        if not response.ok:
            raise RuntimeError(
                f"the vLLM server at {self.base_url} refused {url.removeprefix(self.base_url)}: "
                f"{response.status_code} {said}"
            )
        return response.json() if "json" in response.headers.get("content-type", "") else said


def probe(tokenizer):
    """The tokens that both sides score at each sync."""
    return tokenizer(PROBE)["input_ids"][:PROBE_TOKENS]


def trainers(model, ids):
    """(T-1,) the trainer's log-probs; in training mode, since a 4-bit model must not run in eval mode."""
    mode = model.training
    found = per_token_logps(model.train(), ids)
    model.train(mode)
    return found


@torch.no_grad()
def per_token_logps(model, ids):
    """Compute log p of every token after the first, (T-1,), in the mode that the model is in."""
    row = torch.tensor([ids], device=next(model.parameters()).device)
    logits = model(input_ids=row).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(-1, row[0, 1:, None])[:, 0].cpu()

"""Fetch a model of the hub at one commit, as a folder on this machine.

transformers, PEFT and vLLM each take a commit in their own way, and TRL's engine takes none. A folder is the
same for all of them.

Proof     tests/lab/test_hub.py
"""

from contextlib import suppress

from huggingface_hub import snapshot_download

# Weights in safetensors alone: a repository may hold them in three more formats.
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
CONFIG = ("config.json",)


def snapshot(model, revision, files=FILES):
    """Return the folder of a model's files at a commit: from the cache, else downloaded, with a progress bar.

    model       hub id
    revision    commit, tag or branch
    files       patterns of the files that are wanted

    Raises ConnectionError, with the ways on, where neither the cache nor the hub has it.
    """
    wanted = {"repo_id": model, "revision": revision, "allow_patterns": list(files)}
    try:
        return snapshot_download(**wanted)
    except Exception as error:  # offline is told in a dozen ways, from socket to cache
        # Without a network huggingface_hub asks for the list of a commit's files, which a cache filled by
        # from_pretrained does not have.
        with suppress(Exception):
            return snapshot_download(**wanted, local_files_only=True)
        raise ConnectionError(
            f"{model} at revision {revision} is neither on the hub as seen from here nor in the cache "
            f"({type(error).__name__}). Way out: a network; `model:` with the path of a copy on this "
            "machine, and no `revision:`; or LAB_PROFILE=tiny, which needs no hub."
        ) from error


def name_base(policy, model, revision):
    """Let the configuration of a PEFT model's adapters name the hub's model and commit, not a folder here."""
    for config in policy.peft_config.values():
        config.base_model_name_or_path, config.revision = model, revision

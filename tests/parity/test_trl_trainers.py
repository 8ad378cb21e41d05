"""Every trainer and every loss type of the installed TRL is in the catalogue, or named here as lacking."""

import ast
import importlib.util
from pathlib import Path

import pytest

from reference_math import catalogue, cpo_trainer, dpo_trainer, grpo_trainer, online_dpo, tpo

pytest.importorskip("trl")
TRL = Path(importlib.util.find_spec("trl").origin).parent

IN_THE_CATALOGUE = {
    "A2POTrainer": "A*-PO", "AsyncDistillationTrainer": "async distillation", "AsyncGRPOTrainer": "async GRPO",
    "CPOTrainer": "CPO", "DistillationTrainer": "chunked distillation", "DPOTrainer": "DPO", "GKDTrainer": "GKD",
    "GMPOTrainer": "GMPO", "GOLDTrainer": "ULD", "GRPOTrainer": "TRL's GRPO loss", "IWOPDTrainer": "IW-OPD",
    "KTOTrainer": "KTO", "OnlineDPOTrainer": "online DPO", "ORPOTrainer": "ORPO", "RewardTrainer": "reward model",
    "RLOOTrainer": "RLOO", "SDFTTrainer": "SDFT", "SDPOTrainer": "SDPO",
    "ServerDistillationTrainer": "server distillation", "SFTTrainer": "SFT", "TPOTrainer": "TPO",
}  # fmt: skip
LACKING = set()  # a trainer that a new release adds may stand here until it is in the catalogue


def trees():
    """{file: syntax tree} of TRL's trainers, nothing imported."""
    paths = TRL.rglob("*_trainer.py")
    return {path.relative_to(TRL).as_posix(): ast.parse(path.read_text()) for path in paths}


def loss_types(tree):
    """The names that a trainer's code compares a `loss_type` with."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith("loss_type"):
            constants = ast.walk(ast.Tuple(node.comparators))
            found |= {c.value for c in constants if isinstance(c, ast.Constant)}
    return found


def test_every_trainer_is_in_the_catalogue_or_named_as_lacking():
    there = {
        node.name
        for tree in trees().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Trainer")
    } - {"_BaseTrainer"}
    assert there == set(IN_THE_CATALOGUE) | LACKING


def test_the_entries_exist():
    for trainer, name in IN_THE_CATALOGUE.items():
        assert catalogue.find(trainer).names[0] == name, trainer


@pytest.mark.parametrize(
    "file, ours",
    [
        ("trainer/grpo_trainer.py", grpo_trainer.LOSS_TYPES),
        ("trainer/dpo_trainer.py", dpo_trainer.LOSS_TYPES),
        (
            "experimental/cpo/cpo_trainer.py",
            (*cpo_trainer.LOSS_TYPES, "kto_pair"),
        ),  # the last: TRL refuses it
        ("experimental/tpo/tpo_trainer.py", tpo.LOSS_TYPES),
        ("experimental/online_dpo/online_dpo_trainer.py", online_dpo.LOSS_TYPES),
        ("trainer/kto_trainer.py", ("kto", "apo_zero_unpaired")),
    ],
)
def test_a_trainers_loss_types_are_ours(file, ours):
    assert loss_types(trees()[file]) == set(ours)


def test_a_loss_type_that_is_compared_in_any_way_is_read():
    code = "if self.loss_type == 'a': 0\nelif loss_type in ['b', 'c']: 0\nelif other == 'd': 0"
    assert loss_types(ast.parse(code)) == {"a", "b", "c"}

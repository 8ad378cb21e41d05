"""axolotl 0.21.0: DFT and EAFT; its other losses are TRL's."""

NEEDS = ("axolotl==0.21.0",)
DEPENDENCIES = False


def vectors():
    from types import SimpleNamespace

    import torch
    from rosetta_batch import Vectors
    from stand_ins import files, load_file

    folder = files("axolotl") / "axolotl" / "monkeypatch" / "loss"
    losses = {"dft": load_file(folder / "dft.py", "axolotl_dft").dft_loss,
              "eaft": load_file(folder / "eaft.py", "axolotl_eaft").eaft_loss}  # fmt: skip
    out = Vectors()
    labels = torch.tensor(out.batch["ids"]).masked_fill(
        torch.arange(6) < torch.tensor([[3], [1]]), -100
    )
    for case, loss in losses.items():
        x = out.tensor("z", grad=True, dtype=torch.float32)
        value = loss(SimpleNamespace(logits=x), labels, 11.0)
        value.backward()
        out.keep(case, value, grad=x)
    return out.arrays

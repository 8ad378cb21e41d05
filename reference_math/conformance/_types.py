"""Names for the types of arguments and results. torch is not imported for them."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch import device as Device
    from torch import dtype as DType
else:
    Tensor = Device = DType = Any

__all__ = [
    "Arrays",
    "Convention",
    "DType",
    "Device",
    "Loss",
    "Options",
    "Place",
    "Record",
    "Result",
    "Run",
    "Tensor",
    "Variant",
]

Arrays = dict[str, Any]  # arrays by their names
Options = dict[str, Any]  # keywords of a loss
Convention = dict[str, Any]  # a row of reference_math.conventions
Record = dict[str, Any]  # what the report writes of a row at a place
Place = SimpleNamespace  # what `report.place` makes
Run = Callable[[Place], dict[str, tuple[Any, Any]]]  # of a row: {"value": (theirs, ours)}
Result = tuple[Any, Any]  # (value, gradient)
Loss = Callable[[Arrays, Options], Result]
Variant = Callable[[Loss], Loss]

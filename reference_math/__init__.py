"""References of every post-training objective, in numpy alone.

    import reference_math
    reference_math.<TAB>              every module, loaded when it is first used
    reference_math.find("GSPO")       which function, which arguments, paper, proof and lesson

README.md beside this file lists every method by all its names.
"""

import importlib
import pkgutil

from reference_math import _renamed

_MODULES = sorted(
    module.name
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_") and module.name not in _renamed.MODULES
)


def __dir__():
    return [*_MODULES, "find"]


def __getattr__(name):
    if name == "find":
        from reference_math.catalogue import find

        return find
    if name in _MODULES or name in _renamed.MODULES:
        return importlib.import_module(f"reference_math.{name}")
    raise AttributeError(f"module 'reference_math' has no attribute {name!r}")

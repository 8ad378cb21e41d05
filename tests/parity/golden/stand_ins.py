"""Load the loss functions of a library without what they never call.

    stub_roots("ray", "vllm")           every import under these names gives a stand-in
    stub_prefixes("verl.workers")       the same for packages inside the library
    bare(folder, "verl", "verl.utils")  packages whose own __init__ does not run: only their files are found
    load_file(path, name, "trl")        one file by its path; the names are stand-ins while it loads
    files("verl")                       the folder in which an installed library's files stand

A trainer's module imports engines, clusters and kernels; its loss uses none of them. A stand-in has every name,
can be called, subclassed, used as a decorator and in annotations, and is false. It computes nothing: a loss that
does call one gives no array, so that a driver cannot keep a number that a stand-in made.
"""

import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path


class Anything:
    """Whatever a library takes from a module that is not there."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        decorates = len(args) == 1 and not kwargs and callable(args[0])
        return args[0] if decorates else Anything()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __delattr__(self, name):
        pass

    def __mro_entries__(self, bases):
        return ()

    def __getitem__(self, key):
        return Anything()

    def __or__(self, other):
        return Anything()

    __ror__ = __or__

    def __iter__(self):
        return iter(())

    def __bool__(self):
        return False


class StandIn(types.ModuleType):
    """A module that has every name."""

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        self.__version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


class Finder:
    """Answers each import under some dotted names with a stand-in."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if any(name == own or name.startswith(own + ".") for own in self.names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


def stub_roots(*names):
    sys.meta_path.insert(0, Finder(names))


stub_prefixes = stub_roots


def bare(folder, *packages):
    for name in packages:
        module = types.ModuleType(name)
        module.__path__ = [str(Path(folder, *name.split(".")))]
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)


def load_file(path, name, *stubbed):
    finder = Finder(stubbed)
    sys.meta_path.insert(0, finder)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.meta_path.remove(finder)
        for other in [k for k, m in sys.modules.items() if isinstance(m, StandIn)]:
            if other.split(".")[0] in stubbed:
                del sys.modules[other]
    return module


def files(distribution):
    """The folder that holds an installed library's packages."""
    return Path(str(importlib.metadata.distribution(distribution).locate_file("")))

"""Runs a function when a library has been imported, now if it is there already; nothing is imported for it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from . import fault

Patch = Callable[[ModuleType], None]


class _Loader(importlib.abc.Loader):
    """The loader of a library, and our patch behind it. The library never sees this one again."""

    def __init__(self, inner: importlib.abc.Loader, patch: Patch) -> None:
        self._inner = inner
        self._patch = patch

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Make the module as its own loader does."""
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module as its own loader does, then the patch."""
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        self._inner.exec_module(module)
        _apply(module, self._patch)


class Finder(importlib.abc.MetaPathFinder):
    """Stands before the other finders, and only for the modules that have a patch."""

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self._patches = patches

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return what another finder finds, with our loader around its own."""
        patch = self._patches.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, patch)
                return spec
        return None


def install(patches: Mapping[str, Patch]) -> None:
    """Patch what is imported, and the rest when it will be. Once a process."""
    if any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, Finder(patches))
    for name, patch in patches.items():
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            _apply(module, patch)


def _apply(module: ModuleType, patch: Patch) -> None:
    try:
        patch(module)
    except Exception as error:  # noqa: BLE001 - another version of the library: it is told, and trains on
        fault(f"patch {module.__name__}", error)

"""The order in which samples were drawn: one digest a loader, over the indices as they were asked of the dataset.

PyTorch's loaders ask `_next_index` for each batch, in the main process, whatever the number of workers. A dataset that
is only a stream has no indices: then the order is told as unknown. Workers are given batches ahead of time, so a loop
that is broken off has drawn more than it used.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from . import active, at_finish, fault, tell


@dataclass(eq=False)
class _Drawn:
    number: int
    size: int | None
    count: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    known: bool = True

    def add(self, index: Any) -> None:
        for item in index if isinstance(index, list | tuple) else (index,):
            if not hasattr(item, "__index__"):
                self.known = False
                return
            self.digest.update(int(item).to_bytes(8, "little", signed=True))
            self.count += 1


_loaders: WeakKeyDictionary[Any, _Drawn] = WeakKeyDictionary()
_drawn: list[_Drawn] = []


def patch(module: ModuleType) -> None:
    """Watch `torch.utils.data.dataloader`."""
    base: Any = module._BaseDataLoaderIter
    inner, construct = base._next_index, base.__init__

    def __init__(self: Any, loader: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        self._genealog_loader = loader
        construct(self, loader, *args, **kwargs)

    def _next_index(self: Any) -> Any:
        index = inner(self)
        if active():
            try:
                _of(self._genealog_loader).add(index)
            except Exception as error:  # noqa: BLE001
                fault("order", error)
        return index

    base.__init__, base._next_index = __init__, _next_index
    at_finish(told)


def _of(loader: Any) -> _Drawn:
    if loader not in _loaders:
        try:
            size = len(loader.dataset)
        except (TypeError, AttributeError, NotImplementedError):
            size = None
        _loaders[loader] = _Drawn(len(_drawn) + 1, size)
        _drawn.append(_loaders[loader])
    return _loaders[loader]


def told() -> None:
    """Tell the digest of every loader that was used, and begin anew."""
    for item in _drawn[:64]:
        digest = item.digest.hexdigest() if item.known else None
        tell("order", loader=item.number, size=item.size, drawn=item.count, sha256=digest)
    _drawn.clear()
    _loaders.clear()

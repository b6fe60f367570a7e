"""Hooks inside a process that trains: what it loads, saves, seeds and draws, told to whoever asked.

Only the standard library, and only relative imports: `genealog run` loads this package by its path into a program
whose Python may not have Genealog. A hook never breaks the training: what fails in it is counted and told as a fault.
Nothing is told while no sink listens; then every wrapper is one test of a list. No content, no message of an error and
no value of an environment variable that is not named in `switches` leaves through here.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Sink = Callable[[dict[str, Any]], None]

_sinks: list[Sink] = []
_here = threading.local()
_finishers: list[Callable[[], None]] = []
MARK = "__genealog_watch__"


def active() -> bool:
    """Say whether somebody listens."""
    return bool(_sinks)


def tell(kind: str, **fields: Any) -> None:
    """Hand a report to every sink. Raises: nothing; a sink that fails has to say so itself."""
    if not _sinks or getattr(_here, "telling", False):
        return
    _here.telling = True  # what the sink itself opens is no news
    report = {"t": kind, "at": time.time_ns(), **fields}
    try:
        for sink in _sinks:  # a run inside a program that is on record itself: both hear it
            try:
                sink(report)
            except Exception:  # noqa: BLE001, S112 - the training goes on; a sink counts its own losses
                continue
    finally:
        _here.telling = False


def fault(where: str, error: BaseException) -> None:
    """Tell that a hook of ours failed: where, and the type of the error."""
    tell("fault", where=where[:80], error=type(error).__name__)


def nested() -> bool:
    """Say whether this thread is inside a call that will be told as a whole, or inside a sink."""
    return bool(getattr(_here, "depth", 0)) or getattr(_here, "telling", False)


@contextmanager
def nesting() -> Iterator[None]:
    """Keep what is called inside from being told one by one."""
    _here.depth = getattr(_here, "depth", 0) + 1
    try:
        yield
    finally:
        _here.depth -= 1


@contextmanager
def listening(sink: Sink) -> Iterator[None]:
    """Give reports to `sink` inside, and before the end what is only known then."""
    _sinks.append(sink)
    try:
        yield
    finally:
        finish()
        _sinks.remove(sink)


def listen(sink: Sink) -> None:
    """Give reports to `sink` for as long as the process lives."""
    _sinks.append(sink)


def at_finish(what: Callable[[], None]) -> None:
    """Have `what` called when a sink stops listening: it tells what was counted."""
    _finishers.append(what)


def finish() -> None:
    """Tell what is only known at the end: counts, orders, switches."""
    for what in _finishers:
        try:
            what()
        except Exception as error:  # noqa: BLE001
            fault("finish", error)


def place(path: Any) -> str | None:
    """Return a path as absolute text; None for what is no path (an open file, a buffer)."""
    try:
        text = os.fspath(path)
    except TypeError:
        return None
    return os.path.abspath(os.fsdecode(text))


def wrap(
    owner: Any,
    name: str,
    *,
    after: Callable[..., None] | None = None,
    before: Callable[..., Any] | None = None,
    always: bool = False,
) -> None:
    """Replace `owner.name` by a wrapper, once; other modules that hold the same function get it too.

    `before(args, kwargs)` may change `kwargs`; `after(result, args, kwargs)` tells. Both are guarded, and neither is
    called inside another wrapped call, unless `always`: a seed counts wherever it is set.
    """
    raw = inspect.getattr_static(owner, name)
    function = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
    if hasattr(function, MARK):
        return

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not _sinks or (nested() and not always):
            return function(*args, **kwargs)
        if before is not None:
            try:
                before(args, kwargs)
            except Exception as error:  # noqa: BLE001
                fault(name, error)
        with nesting():
            result = function(*args, **kwargs)
        if after is not None:
            try:
                after(result, args, kwargs)
            except Exception as error:  # noqa: BLE001
                fault(name, error)
        return result

    try:
        functools.update_wrapper(wrapper, function)
    except (AttributeError, TypeError):
        wrapper.__name__ = name
    setattr(wrapper, MARK, True)
    setattr(owner, name, type(raw)(wrapper) if isinstance(raw, classmethod | staticmethod) else wrapper)
    if inspect.ismodule(owner):
        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get(name) is raw:
                setattr(module, name, wrapper)


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, name: str) -> Any:
    """Return an argument that may have come by position or by name; None if it did not."""
    return args[index] if len(args) > index else kwargs.get(name)

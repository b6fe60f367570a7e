"""Which files a program opens, by an audit hook: the net under everything that loads and saves in Python.

An audit hook sees `open` and `os.open`, not what C and Rust open by themselves: those loads are seen where their
library is called (`watch.libraries`). Told once a file and direction: files below the working folder or a data root,
and not what belongs to the software: packages, caches, sources of Python, hidden folders, our own store. A hook cannot
be taken away again, so only programs under `genealog run` have it. Source: PEP 578.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import Any

from . import active, tell

LIMIT = 200_000  # files told of one process
_SOFTWARE = (".py", ".pyc", ".pyi", ".pyd", ".so", ".pth", ".dll", ".dylib", ".egg-link", ".lock", ".tmp")
_FOLDERS = frozenset(("site-packages", "dist-packages", "__pycache__", "node_modules", ".genealog", ".git"))


class _Opens:
    """What was told already, and where to look."""

    def __init__(self, roots: list[str], hubs: list[str]) -> None:
        self.roots = tuple(os.path.join(root, "") for root in roots)
        self.hubs = tuple(os.path.join(hub, "") for hub in hubs)
        ours = {os.path.abspath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
        self.software = tuple(os.path.join(path, "") for path in ours if path != "/")
        self.told: set[tuple[str, bool]] = set()
        self.full = False

    def hear(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        text = os.path.abspath(os.fsdecode(path))
        if not text.startswith(self.roots) or not self.counts(text):
            return
        writes = _writes(mode, flags)
        if (text, writes) in self.told:
            return
        if len(self.told) >= LIMIT:
            if not self.full:
                self.full = True
                tell("fault", where="opens", error="TooManyFiles")
            return
        try:
            info = os.stat(text)
        except OSError:
            if writes:
                self.told.add((text, writes))
                tell("open", path=text, mode="w")
            return  # nothing is read that is not there
        if stat.S_ISREG(info.st_mode):
            self.told.add((text, writes))
            key = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
            tell("open", path=text, mode="w" if writes else "r", key=key)

    def counts(self, path: str) -> bool:
        """Say whether a file below a root may be data or a result."""
        if path.startswith((*self.software, *self.hubs)) or path.endswith(_SOFTWARE):
            return False
        root = next(root for root in self.roots if path.startswith(root))
        parts = path[len(root) :].split("/")
        return not any(part in _FOLDERS or part.startswith(".") for part in parts)


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def install(roots: list[str], hubs: list[str]) -> None:
    """Begin to listen; for as long as the process lives. `hubs` are caches of model hubs, told by their libraries."""
    opens = _Opens([os.path.abspath(root) for root in roots], [os.path.abspath(hub) for hub in hubs])

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and active():
            try:
                opens.hear(*args)
            except Exception as error:  # noqa: BLE001
                tell("fault", where="open", error=type(error).__name__)

    sys.addaudithook(hook)

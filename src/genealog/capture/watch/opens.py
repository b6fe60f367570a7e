"""Which files a program opens, by an audit hook: the net under everything that loads and saves in Python.

An audit hook sees `open` and `os.open`, not what C and Rust open by themselves: those loads are seen where their
library is called (`watch.libraries`). Told once a file and direction: files below the working folder or a data root,
and not what belongs to the software: packages, caches, sources of Python, hidden folders, our own store. Files anywhere
else are told as `outside`: what the system and Python have there is left out, and in hidden folders (settings, caches)
all but what is named as data is. A hook cannot be taken away again, so only programs under `genealog run` have it.
Source: PEP 578.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from typing import Any

from . import active, tell

LIMIT = 200_000  # files told of one process
_SOFTWARE = (".py", ".pyc", ".pyi", ".pyd", ".so", ".pth", ".dll", ".dylib", ".egg-link", ".lock", ".tmp")
_FOLDERS = frozenset(("site-packages", "dist-packages", "__pycache__", "node_modules", ".genealog", ".git"))
_SYSTEM = ("/proc", "/sys", "/dev", "/etc", "/run", "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/nix/store")
_SHARED = "/dev/shm/"  # noqa: S108 - the one place below /dev where data is put
_DATA = (
    ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather", ".tfrecord", ".npy", ".npz", ".h5", ".hdf5",
    ".safetensors", ".gguf", ".onnx", ".keras", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".gz", ".zst", ".zip",
)  # fmt: skip


class _Opens:
    """What was told already, and where to look."""

    def __init__(self, roots: list[str], hubs: list[str], others: list[str]) -> None:
        self.roots = tuple(os.path.join(root, "") for root in roots)
        self.hubs = tuple(os.path.join(hub, "") for hub in hubs)
        ours = {os.path.abspath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
        self.software = tuple(os.path.join(path, "") for path in ours if path != "/")
        compiled = os.path.join(tempfile.gettempdir(), "torchinductor_")  # PyTorch's cache of what it compiled
        self.system = (*(os.path.join(path, "") for path in (*_SYSTEM, *others)), compiled)
        self.told: set[tuple[str, bool]] = set()
        self.full = False

    def hear(self, path: Any, mode: Any, flags: Any) -> None:
        if isinstance(path, int) or path is None:
            return
        text = os.path.abspath(os.fsdecode(path))
        kind = "open" if text.startswith(self.roots) else "outside"
        if not (self.counts(text) if kind == "open" else self.counts_outside(text)):
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
                tell(kind, path=text, mode="w")
            return  # nothing is read that is not there
        if stat.S_ISREG(info.st_mode):
            self.told.add((text, writes))
            key = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
            tell(kind, path=text, mode="w" if writes else "r", key=key)

    def moved(self, source: Any, target: Any) -> None:
        """Note that a file got another name: what the program wrote under the old one, it wrote under the new one."""
        if (os.path.abspath(os.fsdecode(source)), True) in self.told:
            path = os.path.abspath(os.fsdecode(target))
            if not path.startswith(self.roots):
                self.hear(path, "w", None)

    def counts_outside(self, path: str) -> bool:
        """Say whether a file below no root may be data."""
        if path.startswith((*self.software, *self.hubs)) or path.endswith(_SOFTWARE):
            return False
        if path.startswith(self.system) and not path.startswith(_SHARED):
            return False
        parts = path.split("/")
        if any(part in _FOLDERS for part in parts):
            return False
        return path.lower().endswith(_DATA) or not any(part.startswith(".") for part in parts)

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


def install(roots: list[str], hubs: list[str], others: list[str]) -> None:
    """Begin to listen; for as long as the process lives. `hubs` are caches of model hubs, told by their libraries.

    `others` are folders of software that count as data only if a root is among them or below.
    """
    opens = _Opens(*([os.path.abspath(place) for place in places] for places in (roots, hubs, others)))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename") and active():
            try:
                if event == "open":
                    opens.hear(*args)
                else:
                    opens.moved(args[0], args[1])
            except Exception as error:  # noqa: BLE001
                tell("fault", where="open", error=type(error).__name__)

    sys.addaudithook(hook)

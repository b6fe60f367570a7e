"""A power cut at every step: what a disk may hold if only what was synced is sure to be there.

`record` runs something and writes down every call that changes the disk. `Disk` plays the first n of them on a model
in which a write is sure after fsync or fdatasync of its file, and a name (of a new file, of a renamed one) after fsync
of its folder. `Disk.cuts` yields what may be found after a cut: for bytes that are not sure, that none, all, or the
first eighths of them are there, or that all, the first or the last sector of them is as it was, zeros where the file
grew; for names that are not sure, that the first 0, 1, 2… of them are there.

This is harder than file systems are: ext4 makes more durable, and in order. It knows the calls of the log, no others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Step = tuple[str, tuple[Any, ...]]
DATA = ("none", "all", "zeros", "hole", "tail", *(f"{eighths}/8" for eighths in range(1, 8)))
_SECTOR = 512


def record(work: Callable[[], None], root: Path) -> list[Step]:
    """Run `work`, and return its changes below `root` in order. What it calls `say` for comes in between."""
    steps: list[Step] = []
    open_files: dict[int, Path] = {}
    real = {name: getattr(os, name) for name in _CALLS}

    def noted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            before = len(steps)
            result = real[name](*arguments, **more)
            if name == "open":
                path = Path(arguments[0])
                open_files[result] = path
                if arguments[1] & (os.O_CREAT | os.O_TRUNC) and path.is_relative_to(root):
                    steps.insert(before, ("create", (path, bool(arguments[1] & os.O_TRUNC))))
            elif name in {"mkdir", "unlink"}:
                steps.append((name, (Path(arguments[0]),)))
            elif name in {"replace", "link"}:
                steps.append((name, (Path(arguments[0]), Path(arguments[1]))))
            else:
                path = open_files[arguments[0]]
                if path.is_relative_to(root) or path == root.parent:
                    data = (bytes(arguments[1]), *arguments[2:]) if "write" in name else arguments[1:]
                    steps.append((name, (path, *data)))
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, noted(name))
        work_with(work, steps)
    return steps


_CALLS = ("open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "replace", "link", "mkdir", "unlink")
_said: list[list[Step]] = []


def work_with(work: Callable[[], None], steps: list[Step]) -> None:
    _said.append(steps)
    try:
        work()
    finally:
        _said.pop()


def say(what: str, value: Any) -> None:
    """Put a word between the steps that are being recorded."""
    _said[-1].append(("say", (what, value)))


@dataclass(slots=True)
class _File:
    """A file: the bytes that are sure, and the changes that are not."""

    sure: bytes = b""
    unsure: list[tuple[str, Any]] = field(default_factory=list)

    def content(self, mode: str) -> bytes:
        data = bytearray(self.sure)
        for number, (what, value) in enumerate(self.unsure):
            last = number == len(self.unsure) - 1
            if mode == "none":
                break
            if what == "truncate":
                if "/" not in mode:
                    del data[value:]
                    data.extend(bytes(value - len(data)))
                continue
            place, piece = value
            if place is None:
                place = len(data)
            if "/" in mode and last:
                piece = piece[: len(piece) * int(mode[0]) // 8]
            data.extend(bytes(max(0, place + len(piece) - len(data))))
            old = data[place : place + len(piece)]  # zeros where the file grew; sectors are written whole or not at all
            if mode == "zeros":
                piece = old
            elif mode == "hole":
                hole = _SECTOR - place % _SECTOR
                piece = old[:hole] + piece[hole:]
            elif mode == "tail":
                tail = max(0, len(piece) - 1 - (place + len(piece) - 1) % _SECTOR)
                piece = piece[:tail] + old[tail:]
            data[place : place + len(piece)] = piece
        return bytes(data)


class Disk:
    """The model, beginning with the files below `root` as they are, all of them sure."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[Path, _File | None] = {}  # None: a folder
        for path in [root, *root.rglob("*")] if root.exists() else []:
            self._names[path] = None if path.is_dir() else _File(path.read_bytes())
        self._now = dict(self._names)
        self._changes: list[tuple[Path | None, _File | None, Path | None]] = []  # name, what it is now, name that goes

    def play(self, step: Step) -> None:
        """Do one step."""
        name, (path, *rest) = step
        file = self._now.get(path)
        if name == "create":
            if file is None:
                self._change(path, file := _File())
            if rest[0]:
                file.unsure.append(("truncate", 0))
        elif name == "mkdir":
            self._change(path, None)
        elif name == "link":
            self._change(rest[0], file)
        elif name == "replace":
            self._change(rest[0], self._now.pop(path), path)
        elif name == "unlink":
            del self._now[path]
            self._changes.append((None, None, path))
        elif file is None:
            self._sync_folder(path)
        elif name in {"fsync", "fdatasync"}:
            file.sure, file.unsure = file.content("all"), []
        elif name == "ftruncate":
            file.unsure.append(("truncate", rest[0]))
        else:  # the log writes to the end of a segment, to the start of a new file, and by pwrite
            file.unsure.append(("write", (rest[1] if name == "pwrite" else None, rest[0])))

    def cuts(self) -> Iterator[dict[Path, bytes | None]]:
        """Yield what may be there after a cut now, each once: content by path, None for a folder."""
        seen = set()
        for kept in range(len(self._changes) + 1):
            names = dict(self._names)
            for change in self._changes[:kept]:
                _apply(change, names)
            for mode in DATA:
                found: dict[Path, bytes | None] = {}
                for path, file in sorted(names.items(), key=lambda item: item[0]):
                    if path == self.root or path.parent in found:
                        found[path] = None if file is None else file.content(mode)
                key = frozenset(found.items())
                if key not in seen:
                    seen.add(key)
                    yield found

    def _change(self, path: Path, file: _File | None, gone: Path | None = None) -> None:
        self._now[path] = file
        self._changes.append((path, file, gone))

    def _sync_folder(self, folder: Path) -> None:
        left = []
        for change in self._changes:
            path = change[0] or change[2]
            assert path is not None
            if path.parent == folder:
                _apply(change, self._names)
            else:
                left.append(change)
        self._changes = left


def _apply(change: tuple[Path | None, _File | None, Path | None], names: dict[Path, _File | None]) -> None:
    path, file, gone = change
    if path is not None:
        names[path] = file
    if gone is not None:
        names.pop(gone, None)


def lay_out(found: dict[Path, bytes | None], root: Path, place: Path) -> None:
    """Write what a cut left of `root` to the folder `place`."""
    for path, data in sorted(found.items()):
        target = place / path.relative_to(root)
        if data is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.write_bytes(data)
            target.chmod(0o600)  # modes are not modelled; keys want this one

"""A power cut at every step: what a disk may hold if only what was synced is sure to be there.

`record` runs something and writes down every call that changes the disk. `Disk` plays the first n of them on a model
in which a write is sure after fsync or fdatasync of its file, and a name (of a new file, of a renamed one) after fsync
of its folder. `Disk.cuts` yields what may be found after a cut: for bytes that are not sure, that none, all or half of
them are there, or zeros in their place; for names that are not sure, that the first 0, 1, 2… of them are there.

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
DATA = ("none", "all", "half", "zeros")


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
            elif name == "replace":
                steps.append((name, (Path(arguments[0]), Path(arguments[1]))))
            else:
                path = open_files[arguments[0]]
                if path.is_relative_to(root):
                    data = (bytes(arguments[1]), *arguments[2:]) if "write" in name else arguments[1:]
                    steps.append((name, (path, *data)))
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(os, name, noted(name))
        work_with(work, steps)
    return steps


_CALLS = ("open", "write", "pwrite", "ftruncate", "fsync", "fdatasync", "replace", "mkdir", "unlink")
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
                if mode != "half":
                    del data[value:]
                    data.extend(bytes(value - len(data)))
                continue
            place, piece = value
            if place is None:
                place = len(data)
            if mode == "half" and last:
                piece = piece[: (len(piece) + 1) // 2]
            data.extend(bytes(max(0, place + len(piece) - len(data))))
            if mode == "zeros":
                piece = bytes(len(piece)) if place >= len(self.sure) else data[place : place + len(piece)]
            data[place : place + len(piece)] = piece
        return bytes(data)


class Disk:
    """The model, beginning with the files below `root` as they are, all of them sure."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: dict[Path, _File | None] = {}  # None: a folder
        for path in [root, *root.rglob("*")]:
            self._names[path] = None if path.is_dir() else _File(path.read_bytes())
        self._now = dict(self._names)
        self._changes: list[tuple[Path, _File | None, Path | None]] = []  # name, what it becomes, name that goes

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
        elif name == "replace":
            self._change(rest[0], self._now.pop(path), path)
        elif name in {"fsync", "fdatasync"}:
            if file is None:
                self._sync_folder(path)
            else:
                file.sure, file.unsure = file.content("all"), []
        elif name != "say":
            assert file is not None
            if name == "ftruncate":
                file.unsure.append(("truncate", rest[0]))
            else:  # the log writes to the end of a segment, to the start of a new file, and by pwrite
                file.unsure.append(("write", (rest[1] if name == "pwrite" else None, rest[0])))

    def cuts(self) -> Iterator[dict[Path, bytes | None]]:
        """Yield what may be there after a cut now, each once: content by path, None for a folder."""
        seen = set()
        for kept in range(len(self._changes) + 1):
            names = dict(self._names)
            for path, file, gone in self._changes[:kept]:
                names[path] = file
                if gone is not None:
                    names.pop(gone, None)
            for mode in DATA:
                found = {path: None if file is None else file.content(mode) for path, file in names.items()}
                found = {path: data for path, data in found.items() if path == self.root or path.parent in found}
                key = frozenset(found.items())
                if key not in seen:
                    seen.add(key)
                    yield found

    def _change(self, path: Path, file: _File | None, gone: Path | None = None) -> None:
        self._now[path] = file
        self._changes.append((path, file, gone))

    def _sync_folder(self, folder: Path) -> None:
        left = []
        for path, file, gone in self._changes:
            if path.parent == folder:
                self._names[path] = file
                if gone is not None:
                    self._names.pop(gone, None)
            else:
                left.append((path, file, gone))
        self._changes = left


def lay_out(found: dict[Path, bytes | None], root: Path, place: Path) -> None:
    """Write what a cut left of `root` to the folder `place`."""
    for path, data in sorted(found.items()):
        target = place / path.relative_to(root)
        if data is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.write_bytes(data)

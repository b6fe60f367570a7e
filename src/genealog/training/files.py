"""Single files that a program read or wrote: hashed in the state they were seen in, and put together into trees."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from genealog.capture.files import Tree
from genealog.capture.reading import FileKey, OneRead, read_once
from genealog.capture.safetensors import TensorHasher
from genealog.core.manifest import FileEntry
from genealog.errors import GenealogError

MANY = 16  # files of one folder that are registered one by one; more are one artifact


@dataclass
class Opened:
    """A file that was opened: its state then as told (None: not told), and its digest, once it was taken.

    `changed` says that the bytes hashed may be others than those that were read, or that nothing could be hashed.
    """

    key: tuple[int, ...] | None
    at: int = 0  # ns
    entry: FileEntry | None = None
    changed: bool = False


def hash_file(path: str, opened: Opened) -> None:
    """Hash a file once. Raises: nothing; a file that is gone has no entry."""
    if opened.entry is not None:
        return
    try:
        key = FileKey.of(Path(path).stat())
        one: OneRead[TensorHasher] = read_once(path, expected=key)
    except (OSError, GenealogError):
        opened.changed = True
        return
    opened.entry = FileEntry(path=os.path.basename(path), sha256=one.sha256, size=key.size)
    opened.changed = opened.key is not None and opened.key != tuple(key)


def tree_at(folder: str, files: Iterable[tuple[str, Opened]]) -> Tree:
    """Return files that were hashed one by one as a tree below `folder`."""
    entries = [
        FileEntry(path=os.path.relpath(path, folder), sha256=opened.entry.sha256, size=opened.entry.size)
        for path, opened in files
        if opened.entry is not None
    ]
    return Tree(
        entries=tuple(sorted(entries, key=lambda e: e.path)), excludes=(), weights=None, format="files", warnings=()
    )


def grouped(paths: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Return (folder, paths) to register together: by folder, or all in one if they lie in many."""
    folders: dict[str, list[str]] = {}
    for path in sorted(paths):
        folders.setdefault(os.path.dirname(path), []).append(path)
    if len(folders) > MANY:
        return [(os.path.commonpath(folders), sorted(path for group in folders.values() for path in group))]
    return list(folders.items())


def inside(path: str, places: Mapping[str, object], *, itself: bool = False) -> bool:
    """Say whether a path lies in one of `places`, or with `itself` is one."""
    if itself and path in places:
        return True
    parent = os.path.dirname(path)
    while parent not in ("/", ""):
        if parent in places:
            return True
        parent = os.path.dirname(parent)
    return False

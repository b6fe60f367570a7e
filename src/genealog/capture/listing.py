"""The files of a directory tree, before any of them is read: what belongs to its identity and what is refused.

Identity covers what a loader would see: links inside the tree are followed, a link that leaves it is refused, as are
pipes, sockets and devices. File names are bytes: they must be UTF-8 and are not normalised. Left out, at the top
level only, and reported: `.git`, signature bundles, and what the caller names. No file is opened here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from genealog.capture.reading import FileKey, unreadable
from genealog.core.manifest import check_path
from genealog.errors import MalformedError, MissingError

MAX_PATHS = 1_000_000  # files and directories: links between a few directories can make endless paths
SIGNATURES = (".sig", ".sigstore", ".sigstore.json")


@dataclass(frozen=True, slots=True)
class Found:
    """One file of a tree before it is read: its path in the manifest, where it lies, and the state it was seen in."""

    path: str
    real: str
    key: FileKey


def list_tree(
    path: str | os.PathLike[str], *, exclude: Collection[str] = ()
) -> tuple[tuple[Found, ...], tuple[str, ...]]:
    """Return the files that `scan_tree` would hash, and the top-level names left out. Both are sorted.

    Raises: MalformedError `empty-tree`, `symlink-leaves-root`, `symlink-broken`, `symlink-loop`, `not-a-regular-file`,
    `path-not-utf8`, `bad-path`, `too-many-files`; MissingError `no-such-path`; StoreError `file-unreadable`.
    """
    try:
        root = os.path.realpath(path, strict=True)
        info = Path(root).stat()
    except FileNotFoundError:
        raise MissingError("no-such-path", "there is no such file or directory", got=repr(str(path))) from None
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISDIR(info.st_mode):
        name = utf8(Path(path).absolute().name)
        _require_regular(name, info)
        return (Found(name, root, FileKey.of(info)),), ()
    excludes: list[str] = []
    files = sorted(_walk(root, info, exclude, excludes), key=lambda file: file.path)
    if not files:
        raise MalformedError(
            "empty-tree",
            "there is no file to identify",
            got=repr(str(path)),
            hint="name the directory that holds the files",
        )
    return tuple(files), tuple(sorted(excludes))


def _walk(root: str, info: os.stat_result, exclude: Collection[str], excludes: list[str]) -> Iterator[Found]:
    """Yield the regular files below `root`, whose own path has no links; append what is left out to `excludes`."""
    # directory, its path in the manifest, and the directories above it: a link back to one of those never ends
    open_: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(root, "", ((info.st_dev, info.st_ino),))]
    paths = 0
    while open_:
        directory, prefix, above = open_.pop()
        try:
            with os.scandir(directory) as listing:
                items = list(listing)
        except OSError as error:
            raise unreadable(directory, error) from None
        paths += len(items)
        if paths > MAX_PATHS:
            raise MalformedError(
                "too-many-files", "the tree is too big", expected=f"≤ {MAX_PATHS} files and directories"
            )
        for item in items:
            name = utf8(item.name)
            if not prefix and (name in exclude or _left_out(item)):
                excludes.append(name)
                continue
            path = prefix + name
            check_path(path)
            real, state = _resolve(item, path, root)
            if stat.S_ISDIR(state.st_mode):
                here = (state.st_dev, state.st_ino)
                if here in above:
                    raise MalformedError("symlink-loop", "a link leads to a directory above itself", got=repr(path))
                open_.append((real, path + "/", (*above, here)))
            else:
                _require_regular(path, state)
                yield Found(path, real, FileKey.of(state))


def _resolve(item: os.DirEntry[str], path: str, root: str) -> tuple[str, os.stat_result]:
    """Return where `item` really lies, which is inside `root`, and its state."""
    try:
        if not item.is_symlink():
            return item.path, item.stat(follow_symlinks=False)
        real = os.path.realpath(item.path, strict=True)
        if os.path.commonpath((root, real)) != root:
            raise MalformedError(
                "symlink-leaves-root",
                "a link points outside the tree",
                got=f"{path!r} -> {real!r}",
                hint="copy the tree with its links resolved (cp -rL), or register the directory that holds both ends",
            )
        return real, Path(real).stat()
    except FileNotFoundError:
        raise MalformedError("symlink-broken", "a link points at nothing", got=repr(path)) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise MalformedError("symlink-loop", "a link leads to itself", got=repr(path)) from None
        raise unreadable(path, error) from None


def _left_out(item: os.DirEntry[str]) -> bool:
    return item.name == ".git" or (item.name.endswith(SIGNATURES) and not item.is_dir(follow_symlinks=False))


def _require_regular(path: str, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise MalformedError(
            "not-a-regular-file",
            "only files, directories and links have an identity",
            got=f"{path!r}: {stat.filemode(info.st_mode)}",
        )


def utf8(name: str) -> str:
    """Return `name` if it is UTF-8 on the disk. Undecodable bytes come from the system as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise MalformedError(
            "path-not-utf8", "a file name is not UTF-8", got=repr(os.fsencode(name)), hint="rename the file"
        ) from None
    return name

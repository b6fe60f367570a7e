"""The files below a folder as a signature of others covers them: every file, but for what its signer left out.

Unlike `capture.listing` nothing is left out by this house's rules: a bundle that somebody adds beside the model is an
added file. What the signer left out is listed, never read. Links are followed only where the signer followed them;
otherwise they are told. Each file is read once, by as many threads as there are cores.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from genealog.capture.listing import MAX_PATHS, utf8
from genealog.capture.reading import read_once, unreadable
from genealog.errors import MalformedError, MissingError, not_installed

Progress = Callable[[int, int], None]


class Hash(Protocol):
    """What `hashlib` gives."""

    def update(self, data: memoryview, /) -> object:
        """Take the next bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What lies below a folder: paths to be hashed with where they lie, and those that are not hashed, sorted."""

    files: tuple[tuple[str, str, int], ...]  # path, where it lies, size
    ignored: tuple[str, ...]
    links: tuple[str, ...]  # links that the signer did not follow
    special: tuple[str, ...]  # pipes, sockets, devices


def list_signed(root: Path, *, ignored: Callable[[str], bool], follow: bool) -> Listed:
    """List what lies below `root`, or `root` itself as "." where it is a file. A folder left out is not entered.

    Raises: MissingError `no-such-path`; MalformedError `too-many-files`, `path-not-utf8`; StoreError `file-unreadable`.
    """
    try:
        info = root.stat()
    except FileNotFoundError:
        raise MissingError("no-such-path", "there is no such file or directory", got=repr(str(root))) from None
    except OSError as error:
        raise unreadable(root, error) from None
    if not stat.S_ISDIR(info.st_mode):
        return Listed(((".", str(root), info.st_size),), (), (), ())
    files, out, links, special = list[tuple[str, str, int]](), list[str](), list[str](), list[str]()
    walked = _walk(str(root), follow=follow, ignored=ignored, out=out)
    for count, (path, where, link, state) in enumerate(walked):
        if count >= MAX_PATHS:
            raise MalformedError("too-many-files", "the tree is too big", expected=f"≤ {MAX_PATHS} files")
        if link and not follow:
            links.append(path)
        elif state is not None and stat.S_ISREG(state.st_mode):
            files.append((path, where, state.st_size))
        else:
            special.append(path)
    return Listed(tuple(sorted(files)), tuple(sorted(out)), tuple(sorted(links)), tuple(sorted(special)))


def _walk(
    root: str, *, follow: bool, ignored: Callable[[str], bool], out: list[str]
) -> Iterator[tuple[str, str, bool, os.stat_result | None]]:
    """Yield (path, where, is a link, state) of all that is no folder; None as state for a link to nothing."""
    here = Path(root).stat()
    open_: list[tuple[str, str, tuple[tuple[int, int], ...]]] = [(root, "", ((here.st_dev, here.st_ino),))]
    while open_:
        directory, prefix, above = open_.pop()
        try:
            with os.scandir(directory) as listing:
                items = sorted(listing, key=lambda item: item.name)
        except OSError as error:
            raise unreadable(directory, error) from None
        for item in items:
            path = prefix + utf8(item.name)
            if ignored(path):
                out.append(path)
                continue
            link = item.is_symlink()
            try:
                state = item.stat(follow_symlinks=True)
            except OSError:
                state = None
            if state is None or not stat.S_ISDIR(state.st_mode) or (link and not follow):
                yield path, item.path, link, state
            elif (state.st_dev, state.st_ino) in above:
                raise MalformedError("symlink-loop", "a link leads to a directory above itself", got=repr(path))
            else:
                open_.append((item.path, path + "/", (*above, (state.st_dev, state.st_ino))))


def hash_signed(
    files: tuple[tuple[str, str, int], ...],
    *,
    algorithm: str,
    shard: int | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Return hex digests by the name that OMS gives them: a path, or `path:start:end` for each shard of `shard` bytes.

    Raises: as `read_once`; MissingError `extra-not-installed` for blake3 without its library.
    """
    new = _new(algorithm)
    total, done = sum(size for _, _, size in files), 0

    def one(file: tuple[str, str, int]) -> list[tuple[str, str]]:
        path, where, _ = file
        if shard is None and algorithm == "sha256":
            return [(path, read_once(where).sha256)]
        read = read_once(where, also=lambda size: _Shards(path, size, shard, new))
        assert read.consumer is not None  # noqa: S101 - it was asked for
        return read.consumer.digests()

    found: dict[str, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "genealog-hash") as workers:
        order = sorted(files, key=lambda file: -file[2])
        try:
            for file, digests in zip(order, workers.map(one, order), strict=True):
                found.update(digests)
                done += file[2]
                if progress is not None:
                    progress(done, total)
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return found


class _Shards:
    """Hashes the bytes of one file in pieces of `shard` bytes, or as a whole."""

    def __init__(self, path: str, size: int, shard: int | None, new: Callable[[], Hash]) -> None:
        self.path, self.size, self.shard, self.new = path, size, shard, new
        self.done, self.now = 0, new()
        self.found: list[tuple[str, str]] = []

    def update(self, data: memoryview) -> None:
        """Take the next bytes."""
        while len(data):
            room = len(data) if self.shard is None else self.shard - self.done % self.shard
            self.now.update(data[:room])
            self.done += len(data[:room])
            data = data[room:]
            if self.shard is not None and self.done % self.shard == 0:
                self._close()

    def digests(self) -> list[tuple[str, str]]:
        """Return names and digests of all pieces; a file without bytes has no shard."""
        if self.shard is None:
            return [(self.path, self.now.hexdigest())]
        if self.done % self.shard:
            self._close()
        return self.found

    def _close(self) -> None:
        assert self.shard is not None  # noqa: S101 - only shards are closed
        start = (self.done - 1) // self.shard * self.shard
        self.found.append((f"{self.path}:{start}:{self.done}", self.now.hexdigest()))
        self.now = self.new()


def has_links(root: Path) -> bool:
    """Say whether there is any link below `root`."""
    return any(Path(folder, name).is_symlink() for folder, dirs, files in os.walk(root) for name in (*dirs, *files))


def _new(algorithm: str) -> Callable[[], Hash]:
    if algorithm == "blake3":
        try:
            from blake3 import blake3
        except ImportError:
            raise not_installed("a signature over blake3 digests", "blake3", "signing") from None
        return blake3
    return hashlib.blake2b if algorithm == "blake2b" else hashlib.sha256

"""A directory (or one file) as the entries of a manifest and the tensors of its weights, from one read of each file.

`capture.listing` says which files count; here they are read, on all cores, and only safetensors give tensors. A
pickle is never opened as a pickle: it is hashed as a file, with a warning. The cache may answer for files that did
not change; then the tree says that it was not re-hashed, and `rescan`, which verifies, has no cache at all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from genealog.capture.hash_cache import Digests, HashCache
from genealog.capture.listing import Found, list_tree
from genealog.capture.reading import read_once
from genealog.capture.safetensors import TensorHasher
from genealog.core.manifest import Difference, FileEntry, diff_files, few
from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError, StoreError

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Tree:
    """What `scan_tree` saw.

    `entries` are sorted by path, `weights` by tensor name (None: no tensors could be read). `warnings` are lines
    `code: what`, one per code: `pickle-not-read`, `gguf-not-read`, `not-safetensors`. `rehashed` is False when a digest
    came from the cache.
    """

    entries: tuple[FileEntry, ...]
    excludes: tuple[str, ...]
    weights: tuple[TensorEntry, ...] | None
    format: str
    warnings: tuple[str, ...]
    rehashed: bool


def scan_tree(
    path: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    cache: HashCache | None = None,
    exclude: Collection[str] = (),
) -> Tree:
    """Hash every file below `path`; a single file is a tree of one entry named by its base name.

    `progress(bytes_done, bytes_total)` is called from worker threads, one at a time. `exclude` names more top-level
    entries to leave out.
    Raises: as `listing.list_tree` and `reading.read_once`; MalformedError `duplicate-tensor`, and those of
    `core.safetensors` for a file that is cut or inconsistent.
    """
    found, excludes = list_tree(path, exclude=exclude)
    digests, rehashed = hash_files(found, progress=progress, cache=cache)
    format_, warnings = _describe(found, digests)
    return Tree(
        entries=file_entries(found, digests),
        excludes=excludes,
        weights=_merge(found, digests),
        format=format_,
        warnings=warnings,
        rehashed=rehashed,
    )


def rescan(
    path: str | os.PathLike[str],
    entries: Iterable[FileEntry],
    *,
    progress: Progress | None = None,
    exclude: Collection[str] = (),
) -> Difference:
    """Hash the files below `path` again and return how they differ from `entries`: added, removed, changed paths.

    Every byte is read; tensors are not looked at. Raises: as `scan_tree`, except for tensors.
    """
    found, _ = list_tree(path, exclude=exclude)
    digests, _ = hash_files(found, tensors=False, progress=progress)
    return diff_files(entries, file_entries(found, digests))


def hash_files(
    found: Sequence[Found], *, tensors: bool = True, progress: Progress | None = None, cache: HashCache | None = None
) -> tuple[list[Digests], bool]:
    """Return the digests of `found` in its order, and whether every byte was read now. Threads work across files."""
    total = sum(file.key.size for file in found)
    done = 0
    stop = threading.Event()
    lock = threading.Lock()

    def tick(count: int) -> None:
        nonlocal done
        if stop.is_set():
            raise StoreError("cancelled", "hashing was cancelled")
        if progress is not None:
            with lock:
                done += count
                progress(done, total)

    def digest(file: Found) -> tuple[Digests, bool]:
        as_tensors = tensors and _suffix(file) == ".safetensors"
        if cache is not None and (known := cache.get(file.key, safetensors=as_tensors)):
            tick(file.key.size)
            return known, False
        read = read_once(file.real, expected=file.key, also=TensorHasher if as_tensors else None, tick=tick)
        hasher = read.consumer
        result = Digests(read.sha256, None if hasher is None or hasher.foreign else hasher.tensors())
        if cache is not None:
            cache.put(file.key, result, safetensors=as_tensors)
        return result, True

    # The biggest first: a big file that starts last would be read alone.
    order = sorted(range(len(found)), key=lambda index: -found[index].key.size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "genealog-hash") as workers:
        try:
            results = dict(zip(order, workers.map(digest, (found[index] for index in order)), strict=True))
        except BaseException:
            stop.set()
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index][0] for index in range(len(found))], all(read for _, read in results.values())


def file_entries(found: Sequence[Found], digests: Sequence[Digests]) -> tuple[FileEntry, ...]:
    """Return the entries of files that were hashed."""
    return tuple(
        FileEntry(path=file.path, sha256=digest.sha256, size=file.key.size)
        for file, digest in zip(found, digests, strict=True)
    )


def _merge(found: Sequence[Found], digests: Sequence[Digests]) -> tuple[TensorEntry, ...] | None:
    """Return the tensors of all files as one set of weights, sorted by name; None when there are none."""
    seen: dict[str, tuple[TensorEntry, str]] = {}
    for file, digest in zip(found, digests, strict=True):
        for tensor in digest.tensors or ():
            if tensor.name in seen:
                raise MalformedError(
                    "duplicate-tensor",
                    f"two files hold a tensor {tensor.name!r}",
                    got=f"{seen[tensor.name][1]!r} and {file.path!r}",
                    hint="these are not shards of one set of weights: register their directories one by one",
                )
            seen[tensor.name] = (tensor, file.path)
    return tuple(seen[name][0] for name in sorted(seen)) or None


def _describe(found: Sequence[Found], digests: Sequence[Digests]) -> tuple[str, tuple[str, ...]]:
    """Return the format of the weights, and a warning per kind of file whose weights were not read."""
    read = any(digest.tensors for digest in digests)
    pickles = [file.path for file in found if _suffix(file) in PICKLES]
    ggufs = [file.path for file in found if _suffix(file) == ".gguf"]
    foreign = [
        file.path
        for file, digest in zip(found, digests, strict=True)
        if _suffix(file) == ".safetensors" and digest.tensors is None
    ]
    warnings = {
        "gguf-not-read": ("hashed as files, their tensors are not in the weights ID", ggufs if read else []),
        "not-safetensors": ("named so, and they are not: hashed as files", foreign),
        "pickle-not-read": ("may run code when loaded: hashed as files and never opened", pickles),
    }
    format_ = "safetensors" if read else "gguf" if ggufs else "pickle" if pickles else "files"
    return format_, tuple(f"{code}: {what}: {few(paths)}" for code, (what, paths) in warnings.items() if paths)


def _suffix(file: Found) -> str:
    return PurePosixPath(file.path).suffix.lower()

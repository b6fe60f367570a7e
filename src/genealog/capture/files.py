"""A directory (or one file) as the entries of a manifest and the tensors of its weights, from one read of each file.

`capture.listing` says which files count; here they are read, on all cores. `capture.formats` says where tensors lie in
a file; nothing in a file is ever run. The weights of a tree are those of one format: safetensors before any other, for
what stands beside them (the state of an optimizer, the same weights once more) is not what a loader takes. Names that
a file leaves out because they are tied are added (`core.ties`), and it is told which. Nothing is taken from memory of
an earlier read: every digest is of bytes read now.
"""

from __future__ import annotations

import json
import os
import posixpath
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from genealog.capture.formats import HEAD_BYTES, Reader, named_for, reader_for
from genealog.capture.formats.siblings import siblings_in
from genealog.capture.listing import Found, list_tree
from genealog.capture.reading import OneRead, read_once
from genealog.capture.runs import RunHasher
from genealog.capture.safetensors import TensorHasher
from genealog.core.manifest import Difference, FileEntry, diff_files, few
from genealog.core.ties import tied_by_config, tied_by_metadata, unties, with_tied
from genealog.core.weights import TensorEntry
from genealog.errors import MalformedError, StoreError

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})
CONFIG = "config.json"
INDEX = {"safetensors": ".safetensors.index.json", "torch": ".bin.index.json"}  # which shards there are
MAX_CONFIG = 4 << 20  # bytes
MAX_LINES, MAX_LINE = 32, 500  # of warnings, and characters of one
# Which format gives the weights where a tree holds several.
ORDER = ("safetensors", "torch", "gguf", "keras", "hdf5", "tensorflow", "onnx", "npz", "npy")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Tree:
    """What `scan_tree` saw.

    `entries` are sorted by path, `weights` by tensor name (None: no tensors, or not all of them could be read); `tied`
    gives each name that was added to them, with the name it shares its bytes with. `warnings` are lines `code: what`.
    `rehashed` is False for a tree that was not made here and stands on digests of an earlier read.
    """

    entries: tuple[FileEntry, ...]
    excludes: tuple[str, ...]
    weights: tuple[TensorEntry, ...] | None
    format: str
    warnings: tuple[str, ...]
    tied: Mapping[str, str] = field(default_factory=dict)
    rehashed: bool = True


@dataclass(frozen=True, slots=True)
class Digests:
    """What one file hashed to. `tensors` is None when no reader knows the file; `named` is the format of its name."""

    sha256: str
    tensors: tuple[TensorEntry, ...] | None = None
    format: str | None = None
    named: str | None = None
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    copy: bytes | None = None  # of a configuration
    unread: bool = False  # it holds numbers besides that could not be read


def scan_tree(path: str | os.PathLike[str], *, progress: Progress | None = None, exclude: Collection[str] = ()) -> Tree:
    """Hash every file below `path`; a single file is a tree of one entry named by its base name.

    `progress(bytes_done, bytes_total)` is called from worker threads, one at a time. `exclude` names more top-level
    entries to leave out.
    Raises: as `listing.list_tree` and `reading.read_once`; MalformedError `duplicate-tensor`, and those of
    `core.safetensors` and `capture.formats` for a file that is cut or inconsistent.
    """
    found, excludes = list_tree(path, exclude=exclude)
    return tree_of(found, excludes, progress=progress)


def tree_of(found: Sequence[Found], excludes: Sequence[str] = (), *, progress: Progress | None = None) -> Tree:
    """Hash files that were listed before. Raises: as `scan_tree`."""
    digests = hash_files(found, progress=progress)
    format_, chosen, warnings = _choose(found, digests)
    weights = _merge(chosen)
    unread = [file.path for file, digest in chosen if digest.unread]
    if unread := [*unread, *(_absent(found, digests, INDEX[format_]) if chosen and format_ in INDEX else ())]:
        weights = None
        warnings.append(f"weights-not-read: numbers that could not be read, so there is no weights ID: {few(unread)}")
    elif weights is None and chosen and format_ != "safetensors":
        warnings.append("several-weights: files hold different tensors of one name, so there is no weights ID")
    tied, untied = ({}, []) if weights is None else _tied(found, digests, chosen)
    warnings += untied
    return Tree(
        entries=file_entries(found, digests),
        excludes=tuple(excludes),
        weights=with_tied(weights, tied) if weights else None,
        format=format_,
        warnings=_bounded(warnings),
        tied=tied,
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
    return diff_files(entries, file_entries(found, hash_files(found, tensors=False, progress=progress)))


def hash_files(found: Sequence[Found], *, tensors: bool = True, progress: Progress | None = None) -> list[Digests]:
    """Return the digests of `found` in its order; every byte is read now. Threads work across files."""
    total = sum(file.key.size for file in found)
    done = 0
    stop = threading.Event()
    lock = threading.Lock()

    def tick(count: int = 0) -> None:
        nonlocal done
        if stop.is_set():
            raise StoreError("cancelled", "hashing was cancelled")
        if progress is not None and count:
            with lock:
                done += count
                progress(done, total)

    def digest(file: Found) -> Digests:
        if not tensors:
            plain: OneRead[Any] = read_once(file.real, expected=file.key, tick=tick)
            return Digests(plain.sha256)
        if _suffix(file) == ".safetensors":
            return _safetensors(file, tick)
        if named_for(file.path):
            look = _Look(file, found, tick)
            read: OneRead[Any] = read_once(file.real, expected=file.key, look=look, tick=tick)
            return look.digests(read.sha256)
        named = PurePosixPath(file.path).name
        keep = (named == CONFIG or named.endswith(tuple(INDEX.values()))) and file.key.size <= MAX_CONFIG
        kept: OneRead[Any] = read_once(file.real, expected=file.key, keep=keep, tick=tick)
        return Digests(kept.sha256, copy=None if kept.copy is None else bytes(kept.copy))

    # The biggest first: a big file that starts last would be read alone.
    order = sorted(range(len(found)), key=lambda index: -found[index].key.size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "genealog-hash") as workers:
        try:
            results = dict(zip(order, workers.map(digest, (found[index] for index in order)), strict=True))
        except BaseException:
            stop.set()
            workers.shutdown(wait=False, cancel_futures=True)
            raise
    return [results[index] for index in range(len(found))]


def file_entries(found: Sequence[Found], digests: Sequence[Digests]) -> tuple[FileEntry, ...]:
    """Return the entries of files that were hashed."""
    return tuple(
        FileEntry(path=file.path, sha256=digest.sha256, size=file.key.size)
        for file, digest in zip(found, digests, strict=True)
    )


def _safetensors(file: Found, tick: Callable[[int], None]) -> Digests:
    read = read_once(file.real, expected=file.key, also=TensorHasher, tick=tick)
    hasher = read.consumer
    if hasher is None or hasher.foreign:
        return Digests(read.sha256, named="safetensors")
    metadata = {} if hasher.layout is None else hasher.layout.metadata
    return Digests(read.sha256, hasher.tensors(), "safetensors", "safetensors", metadata=metadata)


class _Look:
    """Asks the reader of a format where the tensors of a file lie, once it is open, and hashes them."""

    def __init__(self, file: Found, found: Sequence[Found], tick: Callable[[int], None]) -> None:
        self._file = file
        self._found = found
        self._tick = tick
        self._reader: Reader | None = None
        self._hasher: RunHasher | None = None
        self._warnings: tuple[str, ...] = ()
        self._format = ""
        self._unread = False

    def begin(self, file: BinaryIO, size: int, /) -> RunHasher | None:
        head = file.read(HEAD_BYTES)
        file.seek(0)
        self._reader = reader_for(self._file.path, head)
        if self._reader is None:
            return None
        siblings = siblings_in(self._found, self._file.path)
        layout = self._reader.layout_of(file, size, path=self._file.path, siblings=siblings)
        self._warnings, self._format, self._unread = layout.warnings, layout.format, layout.unread
        if layout.runs or layout.loose:
            self._hasher = RunHasher(layout, size)
        return self._hasher

    def finish(self, file: BinaryIO, /) -> None:
        if self._hasher is not None:
            self._hasher.finish(file, lambda: self._tick(0))

    def digests(self, sha256: str) -> Digests:
        named = named_for(self._file.path)[0].format
        if self._reader is None:
            return Digests(sha256, named=named)
        tensors = () if self._hasher is None else self._hasher.tensors()
        return Digests(sha256, tensors, self._format, named, self._warnings, unread=self._unread)


def _choose(found: Sequence[Found], digests: Sequence[Digests]) -> tuple[str, list[tuple[Found, Digests]], list[str]]:
    """Return the format of the weights, the files that hold them, and what is to be said of the other files."""
    pairs = list(zip(found, digests, strict=True))
    warnings = [line for digest in digests for line in digest.warnings]
    holding = [(file, digest) for file, digest in pairs if digest.tensors or digest.unread]
    formats = in_rank(str(digest.format) for _, digest in holding)
    chosen = [(file, digest) for file, digest in holding if digest.format == formats[0]]
    others = [file.path for file, digest in holding if digest.format != formats[0]]
    if others:
        warnings.append(f"other-weights: not {formats[0]}, so not in the weights ID: {few(others)}")
    for named in sorted({str(digest.named) for _, digest in pairs if digest.named and digest.tensors is None}):
        paths = [file.path for file, digest in pairs if digest.named == named and digest.tensors is None]
        warnings.append(f"not-{named}: named so, and they are not: hashed as files: {few(paths)}")
    known = in_rank(digest.format for digest in digests if digest.format)
    return formats[0] if formats else known[0] if known else "files", chosen, warnings


def _bounded(warnings: Sequence[str]) -> tuple[str, ...]:
    """Return lines that fit an entry of the log; the grave ones first, and how many are left out."""
    lines = [line if len(line) <= MAX_LINE else line[:MAX_LINE] + "…" for line in warnings]
    grave = {"pickle-unsafe": 0, "weights-not-read": 1}
    lines.sort(key=lambda line: grave.get(line.partition(":")[0], 2))
    left = len(lines) - MAX_LINES
    return tuple(lines) if left <= 0 else (*lines[:MAX_LINES], f"more-warnings: {left} more are not shown")


def in_rank(formats: Iterable[str]) -> list[str]:
    """Return formats, each once; the first of a folder's gives its weights."""
    return sorted(set(formats), key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def _merge(chosen: Sequence[tuple[Found, Digests]]) -> tuple[TensorEntry, ...] | None:
    """Return the tensors of all files as one set of weights, sorted by name; None when there are none, or no one set.

    Shards of safetensors never share a name: there it is an error. Other formats may say one tensor twice.
    """
    seen: dict[str, tuple[TensorEntry, str]] = {}
    for file, digest in chosen:
        for tensor in digest.tensors or ():
            before = seen.setdefault(tensor.name, (tensor, file.path))
            if before[1] != file.path and digest.format == "safetensors":
                raise MalformedError(
                    "duplicate-tensor",
                    f"two files hold a tensor {tensor.name!r}",
                    got=f"{before[1]!r} and {file.path!r}",
                    hint="these are not shards of one set of weights: register their directories one by one",
                )
            if before[0] != tensor:
                return None
    return tuple(seen[name][0] for name in sorted(seen)) or None


def _tied(
    found: Sequence[Found], digests: Sequence[Digests], chosen: Sequence[tuple[Found, Digests]]
) -> tuple[dict[str, str], list[str]]:
    """Return the names that the weights leave out: by the configuration beside them, by the metadata of a file.

    And a warning for each folder where the metadata of a file says what the configuration denies.
    """
    configs = {
        posixpath.dirname(file.path): digest.copy
        for file, digest in zip(found, digests, strict=True)
        if digest.copy is not None and posixpath.basename(file.path) == CONFIG
    }
    every = {tensor.name for _, digest in chosen for tensor in digest.tensors or ()}
    folders: dict[str, list[TensorEntry]] = {}
    hinted: dict[str, dict[str, str]] = {}
    for file, digest in chosen:
        folders.setdefault(posixpath.dirname(file.path), []).extend(digest.tensors or ())
        hinted.setdefault(posixpath.dirname(file.path), {}).update(
            tied_by_metadata(digest.metadata, digest.tensors or ())
        )
    tied: dict[str, str] = {}
    warnings = []
    for folder, tensors in folders.items():
        config = parse_config(configs.get(folder)) or {}
        by_config = tied_by_config(config, tensors)
        if not unties(config):
            tied.update(hinted[folder])
        elif denied := sorted(hinted[folder].keys() - every - by_config.keys()):
            where = posixpath.join(folder, CONFIG)
            warnings.append(f"tie-denied: the file says that they are tied, {where} that they are not: {few(denied)}")
        tied.update(by_config)
    return {name: source for name, source in sorted(tied.items()) if name not in every}, warnings


def _absent(found: Sequence[Found], digests: Sequence[Digests], index: str) -> list[str]:
    """Return the shards that an index of weights names and that are not there, by their path in the tree."""
    there = {file.path for file in found}
    absent = set()
    for file, digest in zip(found, digests, strict=True):
        if file.path.endswith(index) and isinstance(names := (parse_config(digest.copy) or {}).get("weight_map"), dict):
            folder = posixpath.dirname(file.path)
            absent |= {posixpath.join(folder, name) for name in names.values() if isinstance(name, str)} - there
    return sorted(absent)


def parse_config(data: bytes | None) -> Mapping[str, Any] | None:
    """Return a `config.json` as values, None where it is none."""
    try:
        value = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _suffix(file: Found) -> str:
    return PurePosixPath(file.path).suffix.lower()

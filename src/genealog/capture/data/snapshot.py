"""The records of a dataset on disk: which of its files hold records, and that they are the bytes that were hashed.

Every file of the tree must be of a known format or a known companion that holds none (a card, a licence, what
`datasets` notes beside its tables); one that is neither, or one malformed line, and the dataset has no records root:
what is skipped silently would later be proven absent. Files are read in order of their paths.
"""

from __future__ import annotations

import fnmatch
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from genealog.capture.data import lines, tables
from genealog.capture.data.collecting import RUN, Collector, Taken
from genealog.capture.listing import Found, list_tree
from genealog.capture.reading import FileKey, unreadable
from genealog.core.manifest import FileEntry
from genealog.errors import GenealogError, MalformedError, StoreError

Progress = Callable[[int, int], None]
_READERS = lines.READERS | tables.READERS
_PACKED = (".csv", ".json", ".jsonl", ".ndjson", ".tsv", ".txt")  # also as .gz
_COMPANIONS = (
    ".gitattributes", ".gitignore", "citation*", "copying*", "croissant.json", "dataset_dict.json",
    "dataset_info.json", "dataset_infos.json", "license*", "notice*", "readme*", "state.json",
)  # fmt: skip


def take(
    path: str | os.PathLike[str],
    out: BinaryIO,
    *,
    entries: Iterable[FileEntry] = (),
    exclude: tuple[str, ...] = (),
    progress: Progress | None = None,
    run: int = RUN,
) -> Taken:
    """Read the records below `path` and write their list to `out`.

    `entries` are the files as they were hashed before: other bytes raise. `progress(bytes_done, bytes_total)`.
    Raises: MalformedError `records-not-read`, saying which file and why; StoreError `file-changed`,
    `file-unreadable`; as `listing.list_tree`.
    """
    found, _ = list_tree(path, exclude=exclude)
    readers = [(file, reader_of(file.path)) for file in found if not _is_companion(file.path)]
    unknown = [file.path for file, reader in readers if reader is None]
    if unknown or not readers:
        raise MalformedError(
            "records-not-read", "a file of unknown format" if unknown else "no file that holds records",
            got=unknown[0] if unknown else None, expected=" ".join(sorted(_READERS)),
        )  # fmt: skip
    hashed = {entry.path: entry for entry in entries}
    total, done = sum(file.key.size for file, _ in readers), 0
    nested = list[str]()
    with Collector(run) as collector:
        for file, reader in readers:
            assert reader is not None  # noqa: S101 - those without were refused
            count, first = 0, b""
            for reading, data in _records(file, reader, hashed):
                collector.add(reading, data)
                count, first = count + 1, b"" if count else data
            if count == 1 and b"[" in first and _is_object(file) and _holds_lists(json.loads(first)):
                nested.append(file.path)
            done += file.key.size
            if progress is not None:
                progress(done, total)
        return replace(collector.finish(out), nested=tuple(nested))


def take_dataset(dataset: Any, out: BinaryIO, *, run: int = RUN) -> Taken:
    """Take the rows of a `datasets.Dataset`, or of all splits of a `DatasetDict` by name, as they are selected now.

    Raises: MalformedError `records-not-read`.
    """
    splits = [dataset[name] for name in sorted(dataset)] if isinstance(dataset, Mapping) else [dataset]
    with Collector(run) as collector:
        for split in splits:
            if not hasattr(split, "with_format") or not hasattr(split, "features"):
                raise MalformedError("records-not-read", "neither a path nor a dataset", got=type(split).__name__)
            batches = split.with_format("arrow").iter(batch_size=4_096)
            try:
                for reading, data in tables.table_rows(batches):
                    collector.add(reading, data)
            except MalformedError as error:
                raise MalformedError("records-not-read", error.message, got=error.got) from None
        return collector.finish(out)


def reader_of(path: str) -> Callable[[BinaryIO], lines.Records] | None:
    """Return what reads the records of a file of this name, None where nothing does."""
    name = PurePosixPath(path.lower())
    if name.suffix == ".gz" and (inner := PurePosixPath(name.stem).suffix) in _PACKED:
        return lambda stream: _READERS[inner](cast("BinaryIO", gzip.GzipFile(fileobj=stream)))
    return _READERS.get(name.suffix)


def _is_object(file: Found) -> bool:
    """Say whether a file of JSON is no array, in which everybody knows what a record is."""
    name = file.path.lower()
    if not name.removesuffix(".gz").endswith(".json"):
        return False
    try:
        with gzip.open(file.real) if name.endswith(".gz") else open(file.real, "rb") as stream:  # noqa: PTH123
            return stream.read(1) != b"["
    except OSError as error:
        raise unreadable(file.path, error) from None


def _holds_lists(value: Any) -> bool:
    """Say whether an object has a list in it, at any depth, that is not empty."""
    parts = list(value.values()) if isinstance(value, dict) else []
    return any((isinstance(part, list) and part) or _holds_lists(part) for part in parts)


def _is_companion(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _COMPANIONS)


def _records(
    file: Found, reader: Callable[[BinaryIO], lines.Records], hashed: Mapping[str, FileEntry]
) -> Iterator[tuple[Any, bytes]]:
    try:
        with open(file.real, "rb", buffering=0) as raw:  # noqa: PTH123
            if FileKey.of(os.fstat(raw.fileno())) != file.key:
                raise _changed(file)
            whole = _Hashed(raw)
            # What seeks is hashed first, and no byte may change until it is read; what streams is hashed as it goes.
            seeks = reader in tables.READERS.values()
            if seeks:
                whole.rest()
                raw.seek(0)
            yield from reader(raw if seeks else io.BufferedReader(whole, 1 << 20))
            if not seeks:
                whole.rest()
            if FileKey.of(os.stat(file.real)) != file.key:  # noqa: PTH116
                raise _changed(file)
            entry = hashed.get(file.path)
            if hashed and (entry is None or entry.sha256 != whole.sha256.hexdigest()):
                raise _changed(file)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise MalformedError("records-not-read", f"{file.path}: not a whole gzip file") from None
    except OSError as error:
        raise unreadable(file.path, error) from None
    except GenealogError as error:
        if isinstance(error, StoreError):
            raise
        what = f"{file.path}: {error.message}"
        raise MalformedError("records-not-read", what, got=error.got, expected=error.expected) from None


def _changed(file: Found) -> StoreError:
    return StoreError("file-changed", "the file changed while it was read", got=repr(file.path), hint="try again")


class _Hashed(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.sha256 = sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer) or 0
        self.sha256.update(memoryview(buffer)[:count])
        return count

    def rest(self) -> None:
        """Read on to the end."""
        while data := self._raw.read(1 << 20):
            self.sha256.update(data)

"""Remembers the digests of files that have not changed since they were hashed.

A file is taken for unchanged when device, inode, size, mtime and ctime are all the same. That is convenience, not
proof: results that came from here say so (`Tree.rehashed` is False), and verification never asks this cache.
A file changed within the last two seconds is not remembered: the next edit could carry the same time stamp.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from genealog.capture.reading import FileKey
from genealog.core.weights import TensorEntry, decode_tensors, encode_tensors
from genealog.errors import GenealogError, StoreError

_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Digests:
    """What one file hashed to. `tensors` is None when it was not read as safetensors, or is none."""

    sha256: str
    tensors: tuple[TensorEntry, ...] | None


class HashCache:
    """A SQLite file of digests by `FileKey`; threads and processes may share it. Deleting it loses only time."""

    def __init__(self, path: Path) -> None:
        """Raises: StoreError `cache-unusable`."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._rows = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute(
                "CREATE TABLE IF NOT EXISTS digest (key TEXT PRIMARY KEY, sha256 TEXT NOT NULL, tensors BLOB)"
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def get(self, key: FileKey, *, safetensors: bool) -> Digests | None:
        """Return what the file hashed to, or None. Raises: StoreError `cache-unusable`."""
        try:
            with self._lock:
                row = self._rows.execute(
                    "SELECT sha256, tensors FROM digest WHERE key = ?", [_spell(key, safetensors)]
                ).fetchone()
            if row is None:
                return None
            return Digests(row[0], decode_tensors(row[1]) if row[1] else () if row[1] == b"" else None)
        except (sqlite3.Error, GenealogError) as error:
            raise self._unusable(error) from None

    def put(self, key: FileKey, digests: Digests, *, safetensors: bool) -> None:
        """Remember `digests` if the file has settled. Raises: StoreError `cache-unusable`."""
        if time.time_ns() - max(key.mtime_ns, key.ctime_ns) < _SETTLED_NS:
            return
        tensors = encode_tensors(digests.tensors) if digests.tensors else b"" if digests.tensors == () else None
        try:
            with self._lock:
                self._rows.execute(
                    "INSERT OR REPLACE INTO digest VALUES (?, ?, ?)",
                    [_spell(key, safetensors), digests.sha256, tensors],
                )
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        """Close the file."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _unusable(self, error: Exception) -> StoreError:
        return StoreError(
            "cache-unusable",
            f"the hash cache cannot be used: {error}",
            got=self._path,
            hint="delete it: it only saves time",
        )


def _spell(key: FileKey, safetensors: bool) -> str:
    """The same bytes have tensors under one file name and none under another, so how they were read is in the key."""
    return ":".join(map(str, key)) + (":safetensors" if safetensors else "")

"""What every log can do, wherever it keeps its bytes. Services are written against this and know no driver.

`store.log.LocalLog` keeps a log in a folder of this machine; `store.scale` keeps one in PostgreSQL and object storage.
One suite of tests runs against both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from genealog.core.proof import TlogProof
from genealog.core.tile import TILE
from genealog.store.journal import Mark


class Log(Protocol):
    """One append-only log. Every method raises StoreError when the store behind it fails or is damaged."""

    origin: str

    @property
    def size(self) -> int:
        """The number of entries that this object knows of; `refresh` looks for more."""

    def append(self, entries: Sequence[bytes], marks: Mapping[str, Mark] = ...) -> range:
        """Append entries of ≤ 65,535 bytes and set marks, all or nothing, durable on return. Return the indexes."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other `exclusive` block out, wherever it runs, while several steps are done; refreshes first."""

    def refresh(self) -> int:
        """Take in what others appended; return the size."""

    def marks(self) -> Mapping[str, Mark]:
        """Return the newest mark of every emitter."""

    def entry(self, index: int) -> bytes:
        """Return an entry, checked against its leaf hash. Raises: MissingError `no-such-entry`."""

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield entries start ≤ index < stop, each checked. Raises: MissingError `no-such-entry`."""

    def leaf_hash(self, index: int) -> bytes:
        """Return the leaf hash of an entry. Raises: MissingError `no-such-entry`."""

    def root(self) -> bytes:
        """Return the root over all entries that this object knows of."""

    def checkpoint(self) -> bytes:
        """Return a signed note over every durable entry, persisted before it is returned; read-only: the newest."""

    def tile(self, level: int, number: int, width: int = TILE) -> bytes:
        """Return the first `width` hashes of a hash tile. Raises: MissingError `no-such-tile`."""

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that entry `index` is among the first `size`. Raises: MalformedError `size-out-of-range`."""

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first `new` entries begin with the first `old`. Raises: as `inclusion`."""

    def prove(self, index: int) -> TlogProof:
        """Return the proof that entry `index` is in the log, under a checkpoint that covers it."""

    def close(self) -> None:
        """Let go of files and connections. Closing twice is fine."""

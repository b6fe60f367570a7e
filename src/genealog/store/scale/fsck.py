"""Prove a scale log again from its bytes: every bundle, every tile, the root, the head, the checkpoint, the queue.

It believes nothing that is derived: entries are read from the bundles (and behind the head from the batches in the
database), and the tree over them must have the tiles in the bucket and at their sizes the roots that head and
checkpoint have signed. Appends and integration may go on meanwhile: what is checked is the log as it was at the start.

Errors mean that something acknowledged or published is gone, altered or contradictory; warnings, that something derived
is missing. `repair` puts missing tiles and a missing or damaged checkpoint again if the bundles agree with the head.
What is in the bucket and differs is never overwritten: it is evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from genealog.core.checkpoint import Checkpoint
from genealog.core.merkle import HASH_SIZE, leaf_hash
from genealog.core.note import Verifier
from genealog.core.tile import TILE, RightEdge, entries_path, tile_path
from genealog.errors import StoreError
from genealog.store.journal import split_body
from genealog.store.log_fsck import Finding
from genealog.store.scale.coordinator import LogRows
from genealog.store.scale.integrator import CHECKPOINT, encode_bundle, read_checkpoint
from genealog.store.scale.ports import Head, Objects
from genealog.store.scale.postgres import Session
from genealog.store.scale.tiles import Tiles, first_entries

_PAGE = 4096
_TOLD = 20  # findings of one kind, before the rest is only counted


def fsck(
    name: str, *, verifiers: Sequence[Verifier], session: Session, objects: Objects, repair: bool = False
) -> tuple[Finding, ...]:
    """Check the log `name`. Nothing found means sound; what was repaired comes back as a warning.

    Raises: MissingError `no-log`; StoreError `database-error`, `objects-error`.
    """
    check = _Check(name, tuple(verifiers), session, objects, repair=repair)
    check.run()
    return tuple(check.findings)


class _Check:
    def __init__(
        self, name: str, verifiers: tuple[Verifier, ...], session: Session, objects: Objects, *, repair: bool
    ) -> None:
        self._name = name
        self._verifiers = verifiers
        self._session = session
        self._rows = LogRows(session, name)
        self._objects = objects
        self._tiles = Tiles(objects)
        self._repair = repair
        self._edge = RightEdge()
        self._counts: dict[str, int] = {}
        self._missing: list[tuple[str, bytes]] = []
        self.findings: list[Finding] = []

    def run(self) -> None:
        published = self._published()
        head = self._rows.head()
        size = self._session.next(self._name)
        self._check_note(head)
        for entries in self._bundles(head):
            cut = published.size - self._edge.size if published is not None else 0
            self._grow(entries[: max(cut, 0)])
            self._compare_published(published)
            self._grow(entries[max(cut, 0) :])
        if self._edge.size < head.size:
            return
        self._compare_head(head)
        if published is not None and published.size > head.size:
            message = f"has signed {published.size} entries, the database knows {head.size}"
            self._error("log-rolled-back", CHECKPOINT, message)
        self._mend(head)
        self._check_queue(head, size)
        for code, count in self._counts.items():
            if count > _TOLD:
                self.findings.append(Finding("error", code, "tile/", f"{count} findings like this in all"))

    def _published(self) -> Checkpoint | None:
        stored = self._objects.get(CHECKPOINT)
        if stored is None:
            self._warn("checkpoint-missing", CHECKPOINT, "nothing is published")
            return None
        try:
            return read_checkpoint(stored.data, self._verifiers)
        except StoreError as error:
            self._error(error.code, CHECKPOINT, error.message)
            return None

    def _check_note(self, head: Head) -> None:
        try:
            found = read_checkpoint(head.note, self._verifiers)
        except StoreError as error:
            self._error("state-damaged", "head", error.message)
            return
        if (found.size, found.root) != (head.size, head.root):
            self._error("log-altered", "head", f"its note says {found.size} entries, root {found.root.hex()}")

    def _bundles(self, head: Head) -> Iterator[tuple[bytes, ...]]:
        """Yield the entries of every bundle up to the head, as they are in the bucket."""
        for number in range(-(-head.size // TILE)):
            width = min(TILE, head.size - number * TILE)
            path = entries_path(number, width)
            data = self._tiles.find(path, entries_path(number))
            if data is None:
                what = f"entries {number * TILE} to {number * TILE + width - 1} are gone; nothing behind was checked"
                self._error("bundle-missing", path, what)
                return
            try:
                yield first_entries(path, data, width)
            except StoreError as error:
                self._error(error.code, path, f"{error.message}; nothing behind it was checked")
                return

    def _grow(self, entries: tuple[bytes, ...]) -> None:
        for tile in self._edge.extend([leaf_hash(entry) for entry in entries]):
            self._compare_tile(tile.level, tile.number, tile.data)

    def _compare_tile(self, level: int, number: int, data: bytes) -> None:
        path = tile_path(level, number, len(data) // HASH_SIZE)
        found = self._tiles.find(path, tile_path(level, number))
        if found is None:
            self._missing.append((path, data))
            return
        if found[: len(data)] == data:
            return
        place = next((i for i in range(0, len(data), HASH_SIZE) if found[i : i + 32] != data[i : i + 32]), 0)
        first = number * TILE + place // HASH_SIZE << 8 * level
        what = f"entry {first}" if level == 0 else f"entries {first} to {first + (1 << 8 * level) - 1}"
        self._error("tile-differs", path, f"the hash of {what} is not the one that the bundles give")

    def _compare_published(self, published: Checkpoint | None) -> None:
        if published is not None and published.size == self._edge.size and published.root != self._edge.root():
            message = f"has signed another root for {published.size} entries: {published.root.hex()}"
            self._error("log-altered", CHECKPOINT, message)

    def _compare_head(self, head: Head) -> None:
        for level, tail in enumerate(self._edge.tails()):
            if tail:
                self._compare_tile(level, (head.size >> 8 * level) // TILE, tail)
        if (found := self._edge.root()) != head.root:
            message = f"has signed root {head.root.hex()} for {head.size} entries, the bundles give {found.hex()}"
            self._error("log-altered", "head", message)

    def _check_queue(self, head: Head, size: int) -> None:
        """The batches that are not integrated: without holes from the head to the end; older ones as in the bundles."""
        if size < head.size:
            self._error("log-rolled-back", "coord", f"has assigned {size} entries, the head has signed {head.size}")
            return
        at = head.size
        try:
            for first, count, data in self._batches():
                if first + count <= head.size:
                    self._compare_batch(first, split_body(data, count), head)
                elif first != at:
                    break
                else:
                    at = first + count
                    if at >= size:
                        break
        except StoreError as error:
            self._error(error.code, "seq", error.message)
            return
        if at < size:
            self._error("seq-damaged", "seq", f"entries {at} to {size - 1} were acknowledged and are not there")

    def _batches(self) -> Iterator[tuple[int, int, bytes]]:
        found = self._session.run("SELECT min(first) FROM seq WHERE log = %s", (self._name,))
        at = found[0][0]
        while at is not None:
            rows = self._rows.rows(at, _PAGE)
            for row in rows:
                yield row.first, row.count, row.data
            at = rows[-1].stop if rows else None

    def _compare_batch(self, first: int, entries: tuple[bytes, ...], head: Head) -> None:
        for number in range(first // TILE, (first + len(entries) - 1) // TILE + 1):
            width = min(TILE, head.size - number * TILE)
            data = self._tiles.find(entries_path(number, width), entries_path(number)) or b""
            start, stop = max(first, number * TILE), min(first + len(entries), number * TILE + width)
            bundled = first_entries("", data, width)[start - number * TILE : stop - number * TILE]
            if encode_bundle(bundled) != encode_bundle(entries[start - first : stop - first]):
                self._error(
                    "bundle-differs", entries_path(number, width), f"the batch at entry {first} has other bytes"
                )

    def _mend(self, head: Head) -> None:
        errors = {finding.code for finding in self.findings if finding.severity == "error"}
        mend = self._repair and errors <= {"checkpoint-damaged"}
        for path, data in self._missing:
            if mend:
                self._objects.put_new(path, data)
            self._warn("tile-missing", path, "derived from the bundles" + ("; repaired" if mend else ""))
        doubtful = [f for f in self.findings if f.code in ("checkpoint-missing", "checkpoint-damaged")]
        if mend and doubtful:
            stored = self._objects.get(CHECKPOINT)
            self._objects.replace(CHECKPOINT, head.note, None if stored is None else stored.tag)
            self.findings = [
                Finding("warning", f.code, f.where, f"{f.message}; repaired") if f in doubtful else f
                for f in self.findings
            ]

    def _error(self, code: str, where: str, message: str) -> None:
        self._tell("error", code, where, message)

    def _warn(self, code: str, where: str, message: str) -> None:
        self._tell("warning", code, where, message)

    def _tell(self, severity: Literal["error", "warning"], code: str, where: str, message: str) -> None:
        self._counts[code] = self._counts.get(code, 0) + 1
        if self._counts[code] <= _TOLD:
            self.findings.append(Finding(severity, code, where, message))

"""Moving a log from one store to another, local or shared, so that never two of them take entries.

    1. the source is closed, durably: whoever appends gets `log-moved`                (`closed`, or the database)
    2. the destination is made closed, and takes the entries in order, batch by batch, and at the end the marks
    3. its root must be the source's, and the source's signed head, with every signature on it, becomes its head
    4. the destination is opened for writing; the source stays closed for ever

Killed anywhere, the same command goes on: a closed destination whose tree is the beginning of the source's is
continued. Between 1 and 4 nobody can append anywhere: a gap in time, never a fork. Epochs are not carried: they tell
writers of one place apart, and the places never have writers at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.merkle import verify_consistency
from genealog.core.note import open_note
from genealog.errors import GenealogError, StoreError
from genealog.store.journal import Mark
from genealog.store.log_keys import LogKeys
from genealog.store.port import Log

BATCH = 4096  # entries that are copied by one append
_BYTES = 4 * 1024 * 1024
INCOMING, MOVED = "incoming from ", "moved to "

Told = Callable[[int, int], None]


class Movable(Log, Protocol):
    """A log that can be closed and opened again, and take over a head that others have signed too."""

    def closed_for(self) -> str | None:
        """Return why nobody may append, None if everybody may."""

    def close_for(self, why: str | None) -> None:
        """Keep everybody from appending from now on; None lets them again. Durable on return."""

    def filling(self) -> AbstractContextManager[None]:
        """Let this object append although the log is closed."""

    def adopt(self, note: bytes) -> None:
        """Make a note of exactly this size and root the published head. Raises: StoreError `log-altered`."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a move has done: the log's size and root, and how many entries this run had still to copy."""

    size: int
    root: bytes
    copied: int


def move_log(
    source: Movable, target: Movable, *, keys: LogKeys, names: tuple[str, str], told: Told | None = None
) -> Copied:
    """Move the entries, marks and head of `source` to `target`; both have the same origin. Safe to run again.

    `names` are the two stores as they are shown. Raises: StoreError `log-not-empty` if the target takes entries itself,
    `copy-differs` if it holds something else, `copy-underway` if another process copies there at the same time,
    `log-moved` if the source has moved to a third place.
    """
    here, there = names
    _close_source(source, there)
    arrived = target.closed_for() is None and target.size == source.size and target.root() == source.root()
    if not arrived:
        _open_target(target, here)
    source.refresh()
    total, before = source.size, target.size
    _compare(source, target)
    note = source.checkpoint()
    if parse_checkpoint_text(open_note(note, keys.verifiers).text).size != total:
        raise StoreError(
            "no-log-key", f"{source.origin} cannot be signed up to its end here", got="no key of this log in keys/",
            hint="move it from the machine that has the log's key",
        )  # fmt: skip
    if not arrived:
        with target.filling():
            _fill(source, target, source.marks(), INCOMING + here, told)
        _compare(source, target)
        target.adopt(note)
        target.close_for(None)
    return Copied(total, target.root(), total - before)


def _close_source(source: Movable, there: str) -> None:
    why = source.closed_for()
    if why is None:
        with source.exclusive():
            source.checkpoint()
            source.close_for(MOVED + there)
    elif why != MOVED + there:
        raise StoreError(
            "log-moved", f"{source.origin} takes no entries here, and is not on its way to {there}", got=why,
            hint="run the command that was begun with, or use the store that it was moved to",
        )  # fmt: skip


def _open_target(target: Movable, here: str) -> None:
    why = target.closed_for()
    if why is None:
        raise StoreError(
            "log-not-empty", f"{target.origin} takes entries at the destination: two copies would fork it",
            got=f"{target.size} entries", hint="choose a place where this log is not",
        )  # fmt: skip
    if why != INCOMING + here:
        target.close_for(INCOMING + here)


def _compare(source: Movable, target: Movable) -> None:
    """Refuse a target whose tree is not the beginning of the source's."""
    target.refresh()
    size = target.size
    same = size <= source.size
    if same and size:
        try:
            root = source.root()
            verify_consistency(size, target.root(), source.size, root, source.consistency(size, source.size))
        except GenealogError:
            same = False
    if not same:
        raise StoreError(
            "copy-differs", f"the destination holds other entries of {source.origin} than the source",
            got=f"{size} entries, root {target.root().hex()}", expected=f"the first of {source.size}",
            hint="keep both: one of them was forked or altered; copy to an empty place",
        )  # fmt: skip


def _fill(source: Movable, target: Movable, marks: Mapping[str, Mark], why: str, told: Told | None) -> None:
    batch: list[bytes] = []
    size, done = 0, target.size
    for entry in source.entries(done, source.size):
        batch.append(entry)
        size += len(entry)
        if len(batch) >= BATCH or size >= _BYTES:
            done = _add(target, batch, {}, done, why)
            batch, size = [], 0
            if told is not None:
                told(done, source.size)
    _add(target, batch, marks, done, why)
    if told is not None:
        told(source.size, source.size)


def _add(target: Movable, batch: list[bytes], marks: Mapping[str, Mark], size: int, why: str) -> int:
    """Append to a target that is still as this copy left it, and return its size: another may copy there too."""
    with target.exclusive():
        if target.size != size or target.closed_for() != why:
            raise StoreError(
                "copy-underway", f"another process copies {target.origin} to the same place", got=target.size,
                expected=size, hint="let it finish, then run the command again: it goes on, or says that all is there",
            )  # fmt: skip
        return target.append(batch, marks).stop

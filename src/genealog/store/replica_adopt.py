"""Bring into the call log what a dead node left in its replica: each call once, also if that node comes back.

The marks in the log say how far each emitter was sequenced, by whomever. So what the first node had in the log already
is skipped here, and what is adopted here is skipped there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from genealog.errors import MissingError
from genealog.store.call_logs import CallLogs, emitter_marks
from genealog.store.log import Mark
from genealog.store.replica_spool import adopted
from genealog.store.spool_reader import SpoolReader


class Copies:
    """The call logs of a store, as a sequencer over the copies in `folder` must see them: with the marks of those
    emitters, whichever machine they are of, and of no others.
    """

    def __init__(self, calls: CallLogs, folder: Path) -> None:
        self._calls = calls
        self._emitters = frozenset(SpoolReader(folder).emitters())

    def exclusive(self) -> AbstractContextManager[None]:
        """As of the call logs."""
        return self._calls.exclusive()

    def marks(self) -> Mapping[str, Mark]:
        """Return the newest mark of every emitter of the folder."""
        marks = emitter_marks(self._calls.current())
        return {name: mark for name, mark in marks.items() if name in self._emitters}

    def append(self, entries: Sequence[bytes], marks: Mapping[str, Mark]) -> range:
        """As of the call logs."""
        return self._calls.append(entries, marks)


@dataclass(frozen=True, slots=True)
class Left:
    """An emitter whose copy still holds frames: calls without an end, or a boot behind one that is not over."""

    emitter: str
    boots: tuple[str, ...]


def copies_of(directory: Path, node: str) -> Path:
    """Return the folder with the copies of a node's spools. Raises: MissingError `no-replica`."""
    if not (directory / node).is_dir():
        nodes = sorted(entry.name for entry in directory.iterdir() if entry.is_dir()) if directory.is_dir() else []
        raise MissingError(
            "no-replica", "no frames of this store are there", got=str(directory), expected=node,
            hint=f"it has frames of {', '.join(nodes)}" if nodes else "is this the folder of genealog replica serve?",
        )  # fmt: skip
    return directory / node


def fence(folder: Path) -> None:
    """Let nothing more into the boots that are here: they are about to be closed. Durable on return."""
    reader = SpoolReader(folder)
    for emitter in reader.emitters():
        if boots := reader.boots(emitter):
            adopted(folder / emitter, boots[-1])


def left(folder: Path) -> tuple[Left, ...]:
    """Return what still lies there."""
    reader = SpoolReader(folder)
    found = ((emitter, tuple(reader.boots(emitter))) for emitter in reader.emitters())
    return tuple(Left(emitter, boots) for emitter, boots in found if boots)

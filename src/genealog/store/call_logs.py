"""The call logs of a store, as one log that goes on: which there are, which takes the next call, and how it changes.

A call log is closed by a frame with the mark `>`, which names its successor; the successor began with a frame that has
the mark `<`, which names the log before, and the marks of every emitter, so that numbers and chains go on. No emitter
can be called so. A rotation is, under the lock of the old log:

    key → line in trust.policy → the new log, built beside its place with its first frame → rename → the mark `>`

The last of these is the one that counts: before it the old log is current, whatever else is there, and the next
rotation uses what it finds; after it the new one is, for every process, because nobody appends to a log without having
read its journal to the end. A log that was closed is never opened again: a name that is taken gets `_2`, and so on.

This module signs no statement; `anchoring` tells the registry log what happened here.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

from genealog.core.call import is_call_log
from genealog.core.note import NoteSigner, format_vkey
from genealog.errors import GenealogError, MissingError, StoreError
from genealog.store.config import Calls
from genealog.store.disk import disk, sync_folder
from genealog.store.journal import Mark
from genealog.store.log import LocalLog
from genealog.store.log_keyring import edit_policy
from genealog.store.log_keys import LogKeys
from genealog.store.port import Log

if TYPE_CHECKING:
    from genealog.store.home import Home

_tell = logging.getLogger("genealog.call_logs").info
NEXT, PREVIOUS = ">", "<"
CALLS = "calls"
_MONTH = re.compile(r"calls-[0-9]{4}-[0-9]{2}")
_PART = ".part"  # a log that is being built: no name of a log has a dot


def _now() -> datetime:
    return datetime.now(UTC)


class CallLogs:
    """The call logs of `home`. What the sequencer appends to: `exclusive`, `marks` and `append` mean the current one.

    Every method raises StoreError as `LocalLog`, and `log-missing`, `log-rolled-back` where no log can be current.
    """

    def __init__(self, home: Home, clock: Callable[[], datetime] = _now) -> None:
        self.clock = clock
        self._home = home
        self._current: str | None = None
        self._failed: GenealogError | None = None

    def names(self) -> tuple[str, ...]:
        """Return the call logs that are here, oldest first. One that was prepared and never used may be among them."""
        before = {name: previous_of(self._home.log(name)) for name in self._home.call_log_names()}
        return tuple(sorted(before, key=lambda name: _age(name, before)))

    def current(self) -> Log:
        """Return the log that takes the next call, as far as this process knows; `exclusive` finds out."""
        if self._current is None:
            self._current = self._resolve()
        return self._home.log(self._current)

    def refresh(self) -> Log:
        """Return the log that takes the next call now. Raises: StoreError `log-missing` if it is gone."""
        while True:
            log = self.current()
            log.refresh()
            if (successor := next_of(log)) is None:
                return log
            self._go_on(successor)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep everybody else from appending calls; begins by going on to the newest log, or to one that is due."""
        while True:
            log = self.current()
            with log.exclusive():
                successor = next_of(log)
                if successor is None:
                    wanted = self._due(log)
                    if wanted is None:
                        yield
                        return
                    successor = self._rotate(log, wanted)
            self._go_on(successor)

    def marks(self) -> Mapping[str, Mark]:
        """Return the newest mark of every emitter of this machine."""
        marks, shared = emitter_marks(self.current()), self._home.shared
        return marks if shared is None else {name: mark for name, mark in marks.items() if shared.owns(name)}

    def append(self, entries: Sequence[bytes], marks: Mapping[str, Mark]) -> range:
        """Append to the current log, inside `exclusive`."""
        return self.current().append(entries, marks)

    def _go_on(self, name: str) -> None:
        if name not in self._home.call_log_names():
            raise StoreError(
                "log-missing", f"the call log goes on in {name}, which is not here", got=name,
                hint="restore its folder from a backup: calls appended elsewhere would fork the chain",
            )  # fmt: skip
        self._current = name
        self._home.forget_trust()

    def _resolve(self) -> str:
        """Find the current log among all; look again while others go on, for logs are not read in one instant."""
        before = None
        while (found := self._look()) != before:
            if (current := found.current()) is not None:
                return current
            before = found
        raise found.problem()

    def _look(self) -> _Found:
        logs: dict[str, tuple[str | None, str | None, int]] = {}
        failed: dict[str, str] = {}
        for name in sorted(self._home.call_log_names()):
            try:
                log = self._home.log(name)
                log.refresh()
                logs[name] = previous_of(log), next_of(log), log.size
            except (StoreError, MissingError) as error:  # a damaged old log shall not keep calls from being recorded
                failed[name] = error.code
                self._failed = error
        return _Found(logs, failed, self._failed)

    # Rotation

    def _due(self, log: Log) -> str | None:
        """Return the name under which the next call belongs, None if that is where it goes already."""
        base = name_of(log).partition("_")[0]
        if _wanted(self._home.config.calls, base, self.clock()) is None:
            return None
        self._home.reload()  # somebody else may have changed the settings, and rotated by them
        return _wanted(self._home.config.calls, base, self.clock())

    def _rotate(self, old: Log, wanted: str) -> str:
        """Close `old` and go on under a name that is free. The caller holds its lock. Returns the name."""
        marks = {**emitter_marks(old), PREVIOUS: Mark(name_of(old), old.size, old.root())}
        names = self._home.call_log_names()
        for number in count(1):
            name = wanted if number == 1 else f"{wanted}_{number}"
            if name in names:
                if not self._prepared(name, name_of(old)):
                    continue
                self._home.log(name).append([], marks)  # calls may have come since it was prepared
                break
            if self._build(name, marks):
                break
        old.append([], {NEXT: Mark(name, old.size, old.root())})
        old.checkpoint()
        return name

    def _prepared(self, name: str, old: str) -> bool:
        """Say whether a rotation from `old` made this log and did not come to its end."""
        try:
            log = self._home.log(name)
            log.refresh()
        except StoreError:  # an old log that is damaged shall not keep calls from being recorded
            return False
        return previous_of(log) == old and log.size == 0 and next_of(log) is None

    def _build(self, name: str, marks: Mapping[str, Mark]) -> bool:
        """Make a log with its key, and its first frame. False if a log of that name was here and is gone.

        The folder that is being built comes first and goes last, so that a key without it belongs to a lost log.
        """
        home, part = self._home, self._home.path / "logs" / f"{name}{_PART}"
        key, origin = f"log-{name}", f"{home.config.origin}/{name}"
        if home.shared is not None:
            return self._build_shared(name, marks)
        with disk(f"making the log {name}"):
            began = part.is_dir()
            if not began and (home.keys.has(key) or home.names_origin(origin)):
                return False
            if began:
                for item in part.iterdir():
                    shutil.rmtree(item) if item.is_dir() else item.unlink()
            part.mkdir(exist_ok=True)
            sync_folder(part.parent)
        signer = self._key_for(name)
        log = LocalLog.create(part, signer=signer)
        log.append([], marks)
        log.close()
        with disk(f"making the log {name}"):
            part.rename(part.with_suffix(""))
            sync_folder(part.parent)
        return True

    def _build_shared(self, name: str, marks: Mapping[str, Mark]) -> bool:
        """As `_build`, in a shared store: one transaction makes log and marks. False if another machine has its key."""
        home = self._home
        mine = home.keys.has(f"log-{name}")
        if home.shared is None or (home.names_origin(f"{home.config.origin}/{name}") and not mine):
            return False
        signer = self._key_for(name)
        home.shared.create_log(name, LogKeys((signer.verifier,), (signer,)), marks=marks).close()
        return True

    def _key_for(self, name: str) -> NoteSigner:
        """Return the key of a log, made and put into trust.policy if need be."""
        home, key, origin = self._home, f"log-{name}", f"{self._home.config.origin}/{name}"
        if not home.keys.has(key):
            home.keys.create(key, "ed25519")
        signer = home.keys.note_signer(key, origin)
        if not home.names_origin(origin):
            line = f"log {format_vkey(signer.verifier)}\n"
            edit_policy(home.path, lambda text: text + line)
            _tell("trust.policy has a line for the new log %s: hand it out again", origin)
        return signer


@dataclass(frozen=True, slots=True)
class _Found:
    """The call logs at a moment: of each the log before it, the log behind it, and its size; and which do not open."""

    logs: Mapping[str, tuple[str | None, str | None, int]]
    failed: Mapping[str, str]
    error: GenealogError | None = field(compare=False)

    def ends(self) -> list[str]:
        """Return the logs that are in use and have no successor."""
        named = {successor for _, successor, _ in self.logs.values()}
        return [
            name
            for name, (previous, successor, size) in self.logs.items()
            if successor is None and (previous is None or size or name in named)
        ]

    def current(self) -> str | None:
        """Return the one log that takes calls, None where that cannot be told."""
        match self.ends():
            case [name] if not self.failed or self.logs[name][0] is None or self.logs[name][2]:
                return name
        return None

    def problem(self) -> GenealogError:
        """Return what keeps calls from being put into any log."""
        if len(ends := self.ends()) > 1:
            return StoreError(
                "log-rolled-back", "two call logs take calls", got=" and ".join(ends), expected="one",
                hint="an older copy of one was put back: restore the newer one; genealog fsck shows which",
            )  # fmt: skip
        if self.failed and self.error is not None:
            return self.error
        if not self.logs:
            return MissingError("no-log", "this store has no call log", hint="restore logs/ from a backup")
        lost = sorted({name for _, name, _ in self.logs.values() if name and name not in self.logs})
        return StoreError(
            "log-missing", f"the call log goes on in {' and '.join(lost) or 'another one'}, which is not here",
            hint="restore its folder from a backup: calls appended elsewhere would fork the chain",
        )  # fmt: skip


def next_of(log: Log) -> str | None:
    """Return the name of the log that goes on where this one is closed, None while it is open."""
    mark = log.marks().get(NEXT)
    return mark.boot if mark else None


def previous_of(log: Log) -> str | None:
    """Return the name of the log that this one goes on from, None for the first."""
    mark = log.marks().get(PREVIOUS)
    return mark.boot if mark else None


def emitter_marks(log: Log) -> dict[str, Mark]:
    """Return the marks of emitters, without the two that join logs."""
    return {name: mark for name, mark in log.marks().items() if name not in (NEXT, PREVIOUS)}


def name_of(log: Log) -> str:
    """Return the name of a log in its store: the last part of its origin."""
    return log.origin.rpartition("/")[2]


def _wanted(config: Calls, base: str, now: datetime) -> str | None:
    """Return the name, without number, of the log in which calls belong now, None if it is `base`.

    A clock that went back does not count: months only go on.
    """
    wanted = CALLS
    if config.split == "month":
        wanted = f"{CALLS}-{now.astimezone(UTC):%Y-%m}"
        if _MONTH.fullmatch(base) and wanted < base:
            return None
    elif config.split == "node":
        wanted = f"{CALLS}-{config.node}"
    return None if wanted == base else wanted


def _age(name: str, before: Mapping[str, str | None]) -> tuple[bool, int, str]:
    """Sort key of a log: those that go on from a log that is not here come last, in the order of their names."""
    depth, at, seen = 0, name, {name}
    while (previous := before.get(at)) is not None and previous in before and previous not in seen:
        depth, at = depth + 1, previous
        seen.add(at)
    return before.get(at) is not None, depth, name


__all__ = ["CALLS", "NEXT", "PREVIOUS", "CallLogs", "emitter_marks", "is_call_log", "next_of", "previous_of"]

"""What the registry log is told of the call logs: where they stand, when one opens and closes, and who is alive.

One log to witness instead of many: a head of each call log stands in the registry log (`checkpoint/v1`), so that
whoever keeps the registry's checkpoint can show that a call log was cut back, changed or deleted. Heartbeats
(`heartbeat/v1`) say how far each emitter was, also one that has nothing to say.

Everything is found out again from what is on disk and in the index, under the registry's lock: a crash in between
leaves nothing out, and two processes state nothing twice. `Keeper` does it on its own clock for a process that stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from sqlalchemy import func, select, tuple_

from genealog.core import records
from genealog.core.call import CallLeaf
from genealog.core.canonical import decode, parse_timestamp, timestamp
from genealog.core.note import format_vkey, parse_note
from genealog.core.tile import TILE
from genealog.errors import GenealogError, StoreError
from genealog.kept_heads import root_of
from genealog.ledger import Ledger, Position
from genealog.sequencer import NO_LEAF
from genealog.store import schema
from genealog.store.call_logs import emitter_marks, name_of, next_of, previous_of
from genealog.store.copying import MOVED, Movable
from genealog.store.home import REGISTRY, Home
from genealog.store.log_state import verify_note
from genealog.store.port import Log
from genealog.store.spool_reader import SpoolReader

_BEATS = 100  # emitters in one statement: an entry has at most 65,535 bytes

log = logging.getLogger("genealog.anchoring")


def anchor(ledger: Ledger, *, now: datetime) -> tuple[Position, ...]:
    """State in the registry log where each call log stands that has opened, grown or closed since it was told.

    Raises: StoreError `log-rolled-back`, `anchor-contradicted` for a log that is not what it was; MissingError
    `no-signer`.
    """
    home = ledger.home
    with home.registry_log().exclusive():
        known = _heads(ledger)
        bodies = [
            body
            for name in home.calls.names()
            if (body := _head(home, name, known.get(name), timestamp(now))) is not None
        ]
        return ledger.declare([(body, f"{body.log}:{body.size}") for body in bodies])


def heartbeat(ledger: Ledger, *, now: datetime) -> tuple[Position, ...]:
    """State how far each live emitter is, and once more those that were live the last time.

    Nothing where nobody lives. Raises: MissingError `no-signer`.
    """
    home = ledger.home
    reader = SpoolReader(home.spool_dir)
    live = {emitter for emitter in reader.emitters() if reader.is_live(emitter)}
    current = home.calls.refresh()
    with home.registry_log().exclusive():
        last = _last_beats(ledger)
        told = sorted(live | {emitter for emitter, row in last.items() if row["live"]})
        found = (_beat(home, reader, emitter, live, last.get(emitter)) for emitter in told)
        beats = [beat for beat in found if beat is not None]
        name = name_of(current)
        bodies = [
            records.Heartbeat(log=name, size=current.size, at=timestamp(now), emitters=tuple(beats[at : at + _BEATS]))
            for at in range(0, len(beats), _BEATS)
        ]
        return ledger.declare([(body, f"{body.log}:{body.size}") for body in bodies])


@dataclass(frozen=True, slots=True)
class LogRow:
    """One log of a store as `genealog log ls` shows it. Ages in whole seconds; None: there is none.

    `state`: `closed` has a successor, `prepared` waits for its first call, `moved` and `arriving` take no entries here.
    `behind`: entries that no anchor covers. `cosigned`: the biggest size that somebody else has cosigned.
    """

    log: str
    state: Literal["open", "closed", "prepared", "moved", "arriving"]
    size: int
    checkpoint: int | None
    checkpoint_age: int | None
    anchored: int | None
    anchor_age: int | None
    behind: int | None
    cosigned: int | None
    keys: tuple[str, ...]


def overview(ledger: Ledger, *, now: datetime) -> tuple[LogRow, ...]:
    """Return every log of the store: the registry log, then call logs, oldest first."""
    known = _heads(ledger)
    return tuple(_row(ledger.home, name, known.get(name), now) for name in ledger.names())


class Keeper:
    """Anchors and heartbeats of a process that stays, such as the gateway. It never stops that process: what goes wrong
    is logged, and tried again when it is next due.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._ticks = ticks
        self._beat_due = self._anchor_due = 0.0
        self._log: str | None = None
        self._beaten = False
        self._try(self._plan)

    def step(self) -> None:
        """Do what is due. Cheap when nothing is."""
        now = self._ticks()
        current = self._ledger.home.call_log().origin
        if now >= self._anchor_due or current != self._log:
            self._log = current
            self._anchor_due = now + self._ledger.home.config.calls.anchor_every
            self._try(lambda: anchor(self._ledger, now=self._clock()))
        if now >= self._beat_due:
            self._beat_due = now + self._ledger.home.config.calls.heartbeat_every
            self._try(self._beat)
            self.losses()

    def losses(self) -> None:
        """State what the sequencer just met, and what workers let pass that they could not record."""
        self._try(self._ledger.state_losses)

    def finish(self) -> None:
        """Say what was lost, and that those who were alive by the last heartbeat are not any more."""
        self.losses()
        if self._beaten:
            self._try(self._beat)

    def _beat(self) -> None:
        self._beaten = bool(heartbeat(self._ledger, now=self._clock())) or self._beaten

    def _plan(self) -> None:
        """Set the clocks by what the registry log says, so that a process that is often started again is in time."""
        ledger, calls, now = self._ledger, self._ledger.home.config.calls, self._clock()
        current = ledger.home.call_log()
        head = _heads(ledger).get(name_of(current))
        since = head["at"] if head else None
        if head is None and current.size:
            since = decode(current.entry(0), CallLeaf).called_at
        ticks = self._ticks()
        self._anchor_due = ticks + _left(since, calls.anchor_every, now)
        beaten = max((row["at"] for row in _last_beats(ledger).values()), default=None)
        self._beat_due = ticks + _left(beaten, calls.heartbeat_every, now)
        self._log = current.origin if previous_of(current) is None or head is not None else None

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except GenealogError as error:
            log.warning("the registry log was not told: %s [%s]", error.message, error.code)


def find_leaf(home: Home, digest: bytes) -> tuple[str, int] | None:
    """Return log and index of the newest call whose leaf hash is `digest`: hash tiles are searched from the end."""
    for name in reversed(home.calls.names()):
        found = home.log(name)
        for number in reversed(range(-(-found.size // TILE))):
            tile = found.tile(0, number, min(TILE, found.size - number * TILE))
            at = tile.find(digest)
            while at > 0 and at % 32:
                at = tile.find(digest, at + 1)
            if at >= 0:
                return name, number * TILE + at // 32
    return None


def _heads(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the newest head of every log that the registry log anchors."""
    table = schema.head
    newest = select(func.max(table.c.id)).group_by(table.c.log)
    return {row["log"]: row for row in ledger.index(REGISTRY).rows(select(table).where(table.c.id.in_(newest)))}


def _head(home: Home, name: str, last: dict[str, Any] | None, at: str) -> records.LogHead | None:
    """Return what is to be said of a call log, None if all is said."""
    call_log = home.log(name)
    size = call_log.refresh()
    previous, closed = previous_of(call_log), next_of(call_log) is not None
    if last is None and size == 0 and not closed and (previous is None or name != name_of(home.calls.refresh())):
        return None  # an empty store, or a log that was prepared and is not in use
    if last is not None:
        if last["closed"] or (size == last["size"] and not closed):
            return None
        _check_grown(call_log, name, last)
    note = call_log.checkpoint()
    verifiers = home.log_keys(name).verifiers
    signed = verify_note(note, verifiers)
    return records.LogHead(
        log=name, origin=call_log.origin, size=signed.size, root=signed.root.hex(), note=note.decode(),
        keys=tuple(format_vkey(verifier) for verifier in verifiers), at=at,
        continues=previous if last is None else None, closed=closed,
    )  # fmt: skip


def _check_grown(call_log: Log, name: str, last: dict[str, Any]) -> None:
    where = f"registry:{last['id']} anchors"
    hint = "run genealog fsck; restore the log from a backup"
    if call_log.size < last["size"]:
        raise StoreError(
            "log-rolled-back", f"{name} is shorter than it was", got=call_log.size, expected=f"{where} {last['size']}",
            hint=hint,
        )  # fmt: skip
    if (found := root_of(call_log, last["size"]).hex()) != last["root"]:
        raise StoreError(
            "anchor-contradicted", f"{name} is not the log that was anchored", got=f"{found} at size {last['size']}",
            expected=f"{where} {last['root']}", hint=hint,
        )  # fmt: skip


def _last_beats(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the newest beat of every emitter of this machine: for others, their machine speaks."""
    table = schema.beat
    newest = select(table.c.emitter, func.max(table.c.id)).group_by(table.c.emitter)
    rows = ledger.index(REGISTRY).rows(select(table).where(tuple_(table.c.emitter, table.c.id).in_(newest)))
    return {row["emitter"]: row for row in rows if ledger.home.owns(row["emitter"])}


def _beat(
    home: Home, reader: SpoolReader, emitter: str, live: set[str], last: dict[str, Any] | None
) -> records.Beat | None:
    mark = emitter_marks(home.call_log()).get(emitter)
    if emitter in live:
        boot = next(reversed(reader.boots(emitter)), mark.boot if mark else None)
    else:
        boot = last["boot"] if last else None
    if boot is None:
        return None
    seq = leaf = None
    if mark is not None and mark.leaf != NO_LEAF:
        if last is not None and last["leaf"] == mark.leaf.hex():
            seq, leaf = (last["seq"], last["leaf"]) if last["boot"] == boot else (None, None)
        elif (found := find_leaf(home, mark.leaf)) is not None:
            call = decode(home.log(found[0]).entry(found[1]), CallLeaf)
            if call.boot == boot:
                seq, leaf = call.seq, mark.leaf.hex()
    if emitter not in live and leaf is None and last is not None:
        seq, leaf = last["seq"], last["leaf"]
    return records.Beat(emitter=emitter, boot=boot, live=emitter in live, seq=seq, leaf=leaf)


def _row(home: Home, name: str, head: dict[str, Any] | None, now: datetime) -> LogRow:
    shown = home.log(name)
    size = shown.refresh()
    closed = name != REGISTRY and next_of(shown) is not None
    prepared = name != REGISTRY and not closed and name != name_of(home.calls.refresh())
    keys = home.log_keys(name).verifiers
    published, age = _published(home, name, now)
    why = cast("Movable", shown).closed_for()
    state: Literal["open", "closed", "prepared", "moved", "arriving"]
    state = "closed" if closed else "prepared" if prepared else "open"
    if why is not None:
        state = "moved" if why.startswith(MOVED) else "arriving"
    return LogRow(
        log=name, state=state, size=size,
        checkpoint=published, checkpoint_age=age,
        anchored=head["size"] if head else None,
        anchor_age=_age(parse_timestamp(head["at"]), now) if head else None,
        behind=None if name == REGISTRY else size - (head["size"] if head else 0),
        cosigned=next(_cosigned(home, name, shown.origin), None),
        keys=tuple(key.key_id.hex() for key in keys),
    )  # fmt: skip


def _published(home: Home, name: str, now: datetime) -> tuple[int | None, int | None]:
    path = home.path / "logs" / name / "checkpoint"
    try:
        if home.shared is not None:
            return verify_note(home.shared.published(name) or b"", home.log_keys(name).verifiers).size, None
        size = verify_note(path.read_bytes(), home.log_keys(name).verifiers).size
        return size, _age(datetime.fromtimestamp(path.stat().st_mtime, UTC), now)
    except (OSError, GenealogError):
        return None, None


def _cosigned(home: Home, name: str, origin: str) -> Iterator[int]:
    heads = home.heads
    for size in heads.sizes(name):
        note = heads.note(name, size)
        if note is not None and any(signature.name != origin for signature in parse_note(note).signatures):
            yield size


def _left(since: str | None, every: int, now: datetime) -> float:
    """Return how many seconds of `every` are left after `since`; all of them if the clock went back."""
    passed = (now - parse_timestamp(since)).total_seconds() if since else 0.0
    return max(0.0, every - max(0.0, passed))


def _age(then: datetime, now: datetime) -> int:
    return max(0, int((now - then).total_seconds()))

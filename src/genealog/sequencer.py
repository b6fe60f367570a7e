"""The sequencer: moves calls from the spools into the call log, each exactly once, whatever is killed when.

    read frames → parse, seal → vault (durable) → entries and mark in one journal frame (durable) → delete segments

The mark of an emitter says how far it is sequenced: boot, highest frame number taken, leaf hash of its last entry. It
is written with the entries, so that after a crash anywhere the next run knows exactly what is in the log: what was only
in the vault is put there again, and what was only not deleted is skipped. Nothing else is remembered; reading a spool
again gives the same bytes.

A call whose boot is over and whose outcome never came is closed as `unknown`; these closings are numbered on from the
boot's last frame. A boot that is done has the mark `BOOT_CLOSED`, and its segments are gone before the next boot's
first entry. Whoever runs this holds the log's lock, for one batch at a time. Where calls are spread over logs, the next
log begins with the marks of the one before (`store.call_logs`), and nothing here is different.

Long because how a boot is read, closed and deleted has to be seen in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from genealog.core.call import CallLeaf, Pricing
from genealog.core.canonical import decode
from genealog.core.frames import Frame, Intent, Outcome, Piece, decode_frame
from genealog.core.ids import seal
from genealog.core.merkle import leaf_hash
from genealog.errors import MalformedError, MissingError, StoreError, VerificationError
from genealog.sealing import Gathered, Redact, Reported, gather, reported, seal_gathered
from genealog.store.log import Mark
from genealog.store.log_fsck import Finding
from genealog.store.spool_reader import End, Found, Gap, SpoolReader, Torn
from genealog.store.vault import Vault, VaultCall

BOOT_CLOSED = 2**64 - 1
NO_LEAF = bytes(32)
_BATCH_CALLS = 1024
_BATCH_BYTES = 32 * 1024 * 1024  # of bodies; one call more may pass it
_F = TypeVar("_F", Intent, Piece)
_HELD = 8 * 1024 * 1024  # of intents of open calls that one boot keeps in memory; others are read again


@dataclass(frozen=True, slots=True)
class Sequenced:
    """What one run did: calls put into the log, how many of them as `unknown`, and losses not noted before.

    `reported` has what vendors' models said that they are, each version of a target once, with its first call.
    """

    appended: int
    unknown: int
    gaps: tuple[Gap, ...]
    reported: tuple[Reported, ...] = ()


class Target(Protocol):
    """Where calls go: one log, or the call logs of a store (`store.call_logs`)."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep everybody else from appending."""

    def marks(self) -> Mapping[str, Mark]:
        """Return the newest mark of every emitter."""

    def append(self, entries: Sequence[bytes], marks: Mapping[str, Mark]) -> range:
        """Append entries and set marks, all or nothing, durable on return."""


class Sequencer:
    """Drains the spools in `spool_dir` into `log` and `vault`. Cheap to make; kept, it reads on where it was.

    With `closes` False no boot is over, whoever lives: calls without an end wait, and nobody's numbers are used up.
    """

    def __init__(
        self,
        spool_dir: Path,
        log: Target,
        vault: Vault,
        prices: Callable[[], Pricing] | None = None,
        *,
        redact: Redact | None = None,
        charge: Callable[[Sequence[VaultCall]], None] | None = None,
        closes: bool = True,
    ) -> None:
        self._closes = closes
        self._reader = SpoolReader(spool_dir)
        self._redact = redact
        self._charge = charge
        self._prices = prices
        self._price: Pricing | None = None
        self._log = log
        self._vault = vault
        self._boots: dict[str, _Boot] = {}

    def run_once(self) -> Sequenced:
        """Put everything into the log that the spools hold at this moment; durable on return.

        Raises: StoreError from spool, vault or log; `spool-boot-order`, `spool-frame-order` and `spool-frame-unknown`
        where a spool is not what its writer leaves. Nothing that is not in the log is deleted then.
        """
        appended = unknown = 0
        gaps: list[Gap] = []
        said: dict[object, Reported] = {}
        try:
            ends = self._ends()
            self._price = self._prices() if self._prices and ends else None  # all tables that a call up to there saw
            more = bool(ends)
            while more:
                batch, more = self._step(ends)
                appended += len(batch.entries)
                unknown += batch.unknown
                gaps += batch.gaps
                said = batch.reported | said
        except BaseException:
            self._boots.clear()  # they may stand where the log does not
            raise
        return Sequenced(appended, unknown, tuple(gaps), tuple(said.values()))

    def gaps(self) -> tuple[Gap, ...]:
        """Return every loss that was ever noted in these spools."""
        return self._reader.gaps()

    def _ends(self) -> dict[str, End | None]:
        """Return where the spools end now, for each emitter that has something, or should have."""
        marks = self._log.marks()
        awaited = {emitter for emitter, mark in marks.items() if mark.high_water != BOOT_CLOSED}
        ends = {emitter: self._reader.end(emitter) for emitter in sorted({*self._reader.emitters(), *awaited})}
        return {emitter: end for emitter, end in ends.items() if end is not None or emitter in awaited}

    def _step(self, ends: Mapping[str, End | None]) -> tuple[_Batch, bool]:
        """Sequence one batch. Says whether there is more."""
        batch = _Batch()
        with self._log.exclusive():
            marks = self._log.marks()
            for emitter, end in ends.items():
                if not batch.full:
                    self._gather(emitter, marks.get(emitter), end, batch)
            if batch.kept:
                self._vault.put_calls(batch.kept)
            self._log.append(batch.entries, batch.marks)
            if self._charge is not None and batch.kept:
                self._charge(batch.kept)
            ended = [emitter for emitter, boot in self._boots.items() if boot.done]
            for emitter, boot in self._boots.items():
                boot.committed(batch.marks.get(emitter))
        for emitter in ended:
            del self._boots[emitter]
        return batch, batch.full or bool(ended)

    def _gather(self, emitter: str, mark: Mark | None, end: End | None, batch: _Batch) -> None:
        """Read the first boot of `emitter` that is not done, up to `end`."""
        names = self._reader.boots(emitter)
        live = not self._closes or self._reader.is_live(emitter)  # asked after listing: listed and not held is over
        if mark is not None and mark.high_water == BOOT_CLOSED and mark.boot in names:
            self._check_left(emitter, mark, batch)
            self._reader.delete(emitter, mark.boot)
            names.remove(mark.boot)
        if mark is not None and mark.boot not in names[:1]:
            if not self._closes and mark.high_water != BOOT_CLOSED:
                return  # an earlier boot is not over, and what it holds is somewhere else
            self._check_successor(emitter, mark, names, batch, live=live)
        if not names or end is None:
            return
        boot = self._boots.get(emitter)
        if boot is None or boot.name != names[0] or boot.mark != mark:  # new, or another process was here meanwhile
            boot = self._boots[emitter] = _Boot(self._reader, emitter, names[0], mark)
        boot.price, boot.redact = self._price, self._redact
        boot.read(end, batch, over=self._closes and (not live or len(names) > 1))

    def _check_left(self, emitter: str, mark: Mark, batch: _Batch) -> None:
        """Note calls that ended in a boot which somebody closed without knowing of them (`store.replica_adopt`)."""
        calls = [
            frame.call
            for item in self._reader.scan(emitter, mark.boot, 0, 0, over=True)
            if isinstance(item, Found) and isinstance(frame := decode_frame(item.payload), Outcome)
        ]
        if lost := len(set(calls) - self._vault.known(calls)):
            gap = Gap(emitter=emitter, boot=mark.boot, segment=0, offset=0, after=0, reason="missing", frames=lost)
            batch.note(self._reader, gap)

    def _check_successor(self, emitter: str, mark: Mark, names: list[str], batch: _Batch, *, live: bool) -> None:
        if names and names[0][:8] <= mark.boot[:8]:
            raise StoreError(
                "spool-boot-order",
                f"the spool of {emitter} holds a boot that is not newer than the one that the log knows",
                got=names[0],
                expected=f"after {mark.boot}",
                hint=f"{emitter}.lock was lost: while nothing runs, rename the folder to an unused emitter",
            )
        if mark.high_water != BOOT_CLOSED and (names or not live):
            gap = Gap(emitter=emitter, boot=mark.boot, segment=0, offset=0, after=mark.high_water, reason="missing")
            batch.note(self._reader, gap)


@dataclass(slots=True)
class _Batch:
    """What goes into vault and log together."""

    entries: list[bytes] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)
    kept: list[VaultCall] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    reported: dict[object, Reported] = field(default_factory=dict)
    unknown: int = 0
    size: int = 0

    @property
    def full(self) -> bool:
        return len(self.entries) >= _BATCH_CALLS or self.size >= _BATCH_BYTES

    def note(self, reader: SpoolReader, gap: Gap) -> None:
        if reader.note(gap):
            self.gaps.append(gap)


class _Open:
    """A call without outcome: where its intent and its pieces are, and the intent itself while there is room."""

    __slots__ = ("intent", "pieces", "place", "size")

    def __init__(self, place: tuple[int, int], intent: Intent | None, size: int) -> None:
        self.place = place
        self.intent = intent
        self.size = size
        self.pieces: list[tuple[int, int]] = []


class _Boot:
    """One boot of one emitter while it is read. `mark` is the emitter's mark in the log; `open` has the calls without
    outcome, in order: bodies that are many or big are read again when they are needed.
    """

    def __init__(self, reader: SpoolReader, emitter: str, name: str, mark: Mark | None) -> None:
        self.name = name
        self.mark = mark
        self.done = False
        self.price: Pricing | None = None
        self.redact: Redact | None = None
        self._reader = reader
        self._emitter = emitter
        self._high_water = mark.high_water if mark is not None and mark.boot == name else 0
        self._leaf = mark.leaf if mark is not None else NO_LEAF
        self._segment = 0
        self._offset = 0
        self._last: int | None = None  # the number of the last frame read
        self._open: dict[str, _Open] = {}
        self._held = 0  # bytes of intents in memory
        self._deleted_before = 0
        self._closing = False

    def read(self, end: End, batch: _Batch, *, over: bool) -> None:
        """Read on until `end` or until the batch is full. A boot that is `over` and read to its end is then closed."""
        for item in self._reader.scan(self._emitter, self.name, self._segment, self._offset, over=over):
            if batch.full or (self.name, item.segment, item.offset) >= end:
                return
            if isinstance(item, Torn):
                self._note(batch, item, "torn", size=item.size, sha256=item.sha256)
            else:
                self._take(item, batch)
            self._segment, self._offset = item.segment, item.end
        boot, newest, _ = end
        if boot == self.name and newest > self._segment:  # an idle writer left a segment and wrote nothing since
            self._segment, self._offset = newest, 0
        if over:
            self._close(batch)

    def committed(self, mark: Mark | None) -> None:
        """The batch is in the log: delete what is not needed any more."""
        self.mark = mark or self.mark
        if self.done:
            self._reader.delete(self._emitter, self.name)
            return
        if self._closing:
            return  # calls without an end are numbered over all that are there, so those closed already stay until then
        needed = min([self._segment, *(call.place[0] for call in self._open.values())])
        if needed > self._deleted_before:
            self._reader.delete(self._emitter, self.name, before=needed)
            self._deleted_before = needed

    def _take(self, item: Found, batch: _Batch) -> None:
        frame = self._decoded(item.payload, item.segment, item.offset)
        self._check_number(frame.n, item, batch)
        place = (item.segment, item.offset)
        if isinstance(frame, Intent):
            size = len(item.payload) if self._held + len(item.payload) <= _HELD else 0
            self._held += size
            self._open[frame.call] = _Open(place, frame if size else None, size)
            return
        if isinstance(frame, Piece):
            if (owner := self._open.get(frame.call)) is not None:
                owner.pieces.append(place)
            return
        call = self._open.pop(frame.call, None)
        if call is not None:
            self._held -= call.size
        if frame.n <= self._high_water:
            return
        if call is None:
            self._note(batch, item, "no-intent", call=frame.call)
            return
        self._append(call, frame, frame.n, batch)

    def _close(self, batch: _Batch) -> None:
        self._closing = True
        number = self._last or 0
        for name, call in list(self._open.items()):
            if batch.full:
                return
            number += 1
            if number > self._high_water:
                self._append(call, None, number, batch)
                batch.unknown += 1
            self._last = number
            del self._open[name]
        batch.marks[self._emitter] = Mark(self.name, BOOT_CLOSED, self._leaf)
        self.done = True

    def _append(self, call: _Open, outcome: Outcome | None, number: int, batch: _Batch) -> None:
        gathered = self._gathered(call, outcome)
        entry, kept = seal_gathered(
            gathered,
            emitter=self._emitter,
            boot=self.name,
            prev=self._leaf if self._leaf != NO_LEAF else None,
            price=self.price,
            redact=self.redact,
        )
        self._leaf = leaf_hash(entry)
        batch.entries.append(entry)
        batch.kept.append(kept)
        if (said := reported(gathered, kept)) is not None:
            batch.reported.setdefault((said.deployment, said.spec, said.target, said.body), said)
        batch.marks[self._emitter] = Mark(self.name, number, self._leaf)
        batch.size += gathered.size

    def _gathered(self, call: _Open, outcome: Outcome | None) -> Gathered:
        intent = call.intent or self._again(call.place, Intent)
        if not call.pieces and not intent.more and (outcome is None or outcome.whole is None):
            return Gathered(intent, outcome)
        return gather(intent, outcome, (self._again(place, Piece) for place in call.pieces))

    def _again(self, place: tuple[int, int], kind: type[_F]) -> _F:
        frame = self._decoded(self._reader.payload(self._emitter, self.name, *place), *place)
        if not isinstance(frame, kind):
            raise StoreError("spool-changed", f"a frame of {self._emitter} is not the one that was there before")
        return frame

    def _decoded(self, payload: bytes, segment: int, offset: int) -> Frame:
        try:
            return decode_frame(payload)
        except MalformedError as error:
            raise StoreError(
                "spool-frame-unknown",
                f"{self._emitter}/{self.name}.{segment:06d} holds a frame at byte {offset} that is not understood",
                got=error.message,
                hint="another version wrote it: drain the spool with that version",
            ) from None

    def _check_number(self, number: int, item: Found, batch: _Batch) -> None:
        """Frames are numbered without holes; only the first one read may follow others that were deleted."""
        last = self._last if self._last is not None else min(self._high_water, number - 1)
        if number <= last:
            raise StoreError(
                "spool-frame-order",
                f"the frames of {self._emitter}/{self.name} go back",
                got=number,
                expected=f"> {last}",
                hint="the segment was put together by hand",
            )
        if number > last + 1:
            self._note(batch, item, "missing", frames=number - last - 1)
        self._last = number

    def _note(
        self,
        batch: _Batch,
        item: Found | Torn,
        reason: Literal["torn", "missing", "no-intent"],
        *,
        frames: int | None = None,
        size: int | None = None,
        sha256: str | None = None,
        call: str | None = None,
    ) -> None:
        gap = Gap(
            emitter=self._emitter,
            boot=self.name,
            segment=item.segment,
            offset=item.offset,
            after=self._last if self._last is not None else self._high_water,
            reason=reason,
            frames=frames,
            size=size,
            sha256=sha256,
            call=call,
        )
        batch.note(self._reader, gap)


def check_sealed(
    entries: Iterable[bytes], vault: Vault, log: str = "calls", explained: Callable[[str], bool] = lambda _: False
) -> Iterator[Finding]:
    """Yield what is wrong between the call log `log` and the vault: a group that its leaf does not commit to, a leaf
    that cannot be read; and as a warning a call that the vault does not have, unless its absence is `explained`.
    """
    for index, entry in enumerate(entries):
        where = f"{log}:{index}"
        try:
            leaf = decode(entry, CallLeaf)
            groups = vault.get_groups(leaf.call)
        except MissingError as error:
            if not explained(leaf.call):
                yield Finding("warning", error.code, where, error.message)
            continue
        except (MalformedError, VerificationError) as error:
            yield Finding("error", error.code, where, error.message)
            continue
        for name, (salt, body) in groups.items():
            if seal(salt, body) != getattr(leaf.seals, name):
                yield Finding(
                    "error", "seal-mismatch", where, f"group {name!r} of call {leaf.call} is not what was sealed"
                )

"""Completeness: what is missing in the call logs, as far as anything shows it.

Three things speak. The leaves: numbers and chains of each emitter (`core.emitters`). The registry log: heads of call
logs and heartbeats, which say how far a log and an emitter were at a time, so that a tail that was cut off is missed.
The spools: losses that the sequencer met, and calls that are still running, which are no gaps.

Nothing here writes. What all of this can show and what it cannot: docs/explanation/completeness.md.

Long because each of the three sources is judged twice: for `genealog log gaps` and for `genealog fsck`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy import select

from genealog.core.call import CallLeaf
from genealog.core.canonical import decode, parse_timestamp, timestamp
from genealog.core.emitters import ChainReport, Line, Missing, Seen, check_emitter_chain
from genealog.core.frames import Intent, decode_frame
from genealog.errors import GenealogError
from genealog.sequencer import BOOT_CLOSED
from genealog.store import schema
from genealog.store.call_logs import emitter_marks, next_of, previous_of
from genealog.store.home import Home
from genealog.store.index import Index
from genealog.store.log_fsck import Finding
from genealog.store.lost_page import Lost, lost_frames
from genealog.store.spool_reader import Found, Gap, SpoolReader

State = Literal["gap", "open", "unclear"]
Kind = Literal[
    "call-missing", "chain-broken", "call-misplaced", "call-repeated", "beginning-missing", "tail-missing",
    "loss", "silent", "log-missing",
]  # fmt: skip
TARDY = 1.5  # a heartbeat may come this many intervals after the last before the time between them counts as silent


@dataclass(frozen=True, slots=True)
class Hole:
    """One thing that is missing, out of place, or not known.

    `state`: a `gap`; `open`, a call that still runs; `unclear`, where this store cannot tell. Between `since` and
    `until` (RFC 3339, None: no end is known); for calls `first` to `last` these are the times of the calls `after` and
    `before` which they lie. `stated`: the registry entry in which the loss was explained.
    """

    kind: Kind
    state: State
    emitter: str
    boot: str
    message: str
    first: int | None = None
    last: int | None = None
    after: Seen | None = None
    before: Seen | None = None
    since: str | None = None
    until: str | None = None
    stated: str | None = None


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of an emitter: `live` while its process runs, `closed` once all of it is sequenced, else `over`, or
    `elsewhere` where another machine of this store has its spool.
    """

    line: Line
    state: Literal["live", "closed", "over", "elsewhere"]


@dataclass(frozen=True, slots=True)
class Completeness:
    """What was found, and over what: boots, logs, and when the first and last heartbeat was."""

    holes: tuple[Hole, ...]
    boots: tuple[Boot, ...]
    logs: tuple[str, ...]
    first_heartbeat: str | None
    last_heartbeat: str | None

    @property
    def exit_status(self) -> int:
        """0 nothing is missing, 1 something is, 3 this store cannot tell."""
        states = {hole.state for hole in self.holes}
        return 1 if "gap" in states else 3 if "unclear" in states else 0


def find_holes(
    home: Home, index: Index, *, now: datetime, emitter: str | None = None, since: str | None = None,
    until: str | None = None,
) -> Completeness:  # fmt: skip
    """Look for everything that is missing. `index` is up to date with the registry log, and the spools are drained.

    `emitter`, `since` and `until` (RFC 3339 UTC with milliseconds) leave out what certainly lies elsewhere.
    """
    reader = SpoolReader(home.spool_dir)
    running = _running(reader)
    beats = index.rows(select(schema.beat).order_by(schema.beat.c.id, schema.beat.c.emitter))
    leaves = _Leaves(home)
    report = leaves.chains({row["leaf"] for row in beats if row["leaf"]})
    running |= _running(reader) | leaves.later()  # what ended while we read is running here, or on record by now
    losses = _losses(reader, index, lost_frames(home.spool_dir))
    whole = not leaves.missing
    holes = [
        *(Hole("log-missing", "unclear", "", "", f"the call log {name} is not here") for name in leaves.missing),
        *_numbers(report, running, losses, _elsewhere(home)),
        *_links(report, whole=whole),
        *_tails(report, beats, whole=whole),
        *(hole for hole, _ in losses),
        *_silent(beats, home.config.calls.heartbeat_every, now),
    ]
    kept = [
        hole
        for hole in holes
        if (emitter is None or hole.emitter in (emitter, ""))
        and (since is None or hole.until is None or hole.until >= since)
        and (until is None or hole.since is None or hole.since <= until)
    ]
    times = sorted({row["at"] for row in beats}) or [None]
    boots = _boots(home, reader, report)
    return Completeness(
        tuple(sorted(kept, key=lambda hole: (hole.emitter, hole.boot, hole.since or "", hole.first or 0))),
        tuple(boot for boot in boots if emitter in (None, boot.line.emitter)),
        leaves.names, times[0], times[-1],
    )  # fmt: skip


class _Leaves:
    """The leaves of all call logs in order, as they were when this was made. Can be read again."""

    def __init__(self, home: Home) -> None:
        self.names = home.calls.names()
        self._logs = [home.log(name) for name in self.names]
        self._sizes = [log.refresh() for log in self._logs]
        links = [link for log in self._logs for link in (previous_of(log), next_of(log)) if link is not None]
        here = home.call_log_names()  # listed last: a log that came meanwhile is not missing
        self.missing = tuple(dict.fromkeys(link for link in links if link not in here))

    def __iter__(self) -> Iterator[CallLeaf]:
        for log, size in zip(self._logs, self._sizes, strict=True):
            for entry in log.entries(0, size):
                yield decode(entry, CallLeaf)

    def chains(self, look_for: Collection[str] = ()) -> ChainReport:
        """Check the chains of all emitters, and that no call ID has two numbers."""
        again: dict[str, CallLeaf] = {}
        report = check_emitter_chain(_Once(self, again), look_for=look_for)
        more = tuple(call for call in again if call not in report.repeated)
        return replace(report, repeated=report.repeated + more, calls=again | report.calls)

    def later(self) -> set[tuple[str, str, int]]:
        """Return emitter, boot and number of what was appended since."""
        found = set()
        for log, size in zip(self._logs, self._sizes, strict=True):
            for entry in log.entries(size, log.refresh()):
                leaf = decode(entry, CallLeaf)
                found.add((leaf.emitter, leaf.boot, leaf.seq))
        return found


class _Once:
    """Leaves as they pass by; whose call ID was there is put into `again`. IDs are kept on disk, not in memory."""

    def __init__(self, leaves: Iterable[CallLeaf], again: dict[str, CallLeaf]) -> None:
        self._leaves = leaves
        self._again = again

    def __iter__(self) -> Iterator[CallLeaf]:
        with closing(sqlite3.connect("", isolation_level=None)) as seen:  # a file that has no name, and goes away
            seen.execute("CREATE TABLE seen (call TEXT PRIMARY KEY) WITHOUT ROWID")
            seen.execute("BEGIN")
            for leaf in self._leaves:
                if not seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (leaf.call,)).rowcount:
                    self._again[leaf.call] = leaf
                yield leaf


def _running(reader: SpoolReader) -> set[tuple[str, str, int]]:
    """Return emitter, boot and number of the calls whose intent waits in a spool."""
    found: set[tuple[str, str, int]] = set()
    for emitter in reader.emitters():
        for boot in reader.boots(emitter):
            try:
                for item in reader.scan(emitter, boot, 0, 0, over=False):
                    if isinstance(item, Found) and isinstance(frame := decode_frame(item.payload), Intent):
                        found.add((emitter, boot, frame.seq))
            except GenealogError:  # a segment that went away meanwhile, or a frame of another version
                continue
    return found


def _elsewhere(home: Home) -> set[tuple[str, str]]:
    """Return emitter and boot of what is not over on other machines of this store: their spools are not here."""
    marks = emitter_marks(home.call_log()).items()
    return {(name, m.boot) for name, m in marks if m.high_water != BOOT_CLOSED and not home.owns(name)}


def _numbers(
    report: ChainReport, running: set[tuple[str, str, int]], losses: Sequence[tuple[Hole, str]],
    elsewhere: set[tuple[str, str]],
) -> Iterator[Hole]:  # fmt: skip
    for item in report.missing:
        stated = next(
            (hole.stated for hole, _ in losses if (hole.emitter, hole.boot) == (item.emitter, item.boot)), None
        )
        for first, last, is_open in _parts(item, running):
            count = "call" if first == last else "calls"
            numbers = str(first) if first == last else f"{first} to {last}"
            state: State = "open" if is_open else "unclear" if (item.emitter, item.boot) in elsewhere else "gap"
            what = {"open": "still running", "unclear": "not on record; may run on another machine"}
            yield Hole(
                "call-missing", state, item.emitter, item.boot,
                f"{count} {numbers} {what.get(state, 'not on record')}",
                first, last, item.after, item.before, _time(item.after), _time(item.before),
                None if is_open else stated,
            )  # fmt: skip


def _parts(item: Missing, running: set[tuple[str, str, int]]) -> Iterator[tuple[int, int, bool]]:
    """Cut a range into parts that run and parts that do not, without counting through it."""
    inside = sorted(n for emitter, boot, n in running if (emitter, boot) == (item.emitter, item.boot))
    at = item.first
    for number in (n for n in inside if item.first <= n <= item.last):
        if number > at:
            yield at, number - 1, False
        yield number, number, True
        at = number + 1
    if at <= item.last:
        yield at, item.last, False


def _links(report: ChainReport, *, whole: bool) -> Iterator[Hole]:
    lines = {line.emitter: line for line in reversed(report.lines)}
    for emitter in report.unanchored:
        what = "the first call on record names one before it, which is not here"
        yield Hole("beginning-missing", "gap" if whole else "unclear", emitter, lines[emitter].boot, what)
    kinds: tuple[tuple[Kind, tuple[str, ...], str], ...] = (
        ("chain-broken", report.broken, "names a call before it that is not on record"),
        ("call-misplaced", report.misplaced, "does not stand behind the call that it names"),
        ("call-repeated", report.repeated, "a call of this ID or number is on record already"),
    )
    for kind, calls, what in kinds:
        for call in calls:
            leaf = report.calls[call]
            seen = Seen(leaf.call, leaf.seq, leaf.called_at, leaf.ended_at)
            yield Hole(
                kind, "gap", leaf.emitter, leaf.boot, f"call {call}: {what}", leaf.seq, leaf.seq,
                before=seen, since=leaf.called_at, until=_time(seen),
            )  # fmt: skip


def _tails(report: ChainReport, beats: Iterable[Mapping[str, Any]], *, whole: bool) -> Iterator[Hole]:
    """Yield what emitters had on record by a heartbeat, and have not now."""
    lines = {(line.emitter, line.boot): line for line in report.lines}
    holes = {(item.emitter, item.boot): item for item in report.missing}
    worst: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in beats:
        if row["leaf"] and row["leaf"] not in report.found:
            name = (row["emitter"], row["boot"])
            if name not in worst or row["seq"] >= worst[name]["seq"]:
                worst[name] = row
    for name, row in worst.items():
        line = lines.get(name)
        highest = line.highest.seq if line else 0
        if name in holes and row["seq"] <= highest:
            continue  # its number is missing, and was told
        stood = f"at {row['at']} a heartbeat (registry:{row['id']}) found call {row['seq']} on record"
        state: State = "gap" if whole else "unclear"
        if row["seq"] <= highest:
            yield Hole(
                "chain-broken", state, *name, f"{stood}, and it was another one", row["seq"], row["seq"],
                until=row["at"],
            )  # fmt: skip
            continue
        seen = line.highest if line else None
        yield Hole(
            "tail-missing", state, *name, f"{stood}; the log ends with {highest or 'none'}", highest + 1, row["seq"],
            after=seen, since=_time(seen), until=row["at"],
        )  # fmt: skip


def _silent(beats: Iterable[Mapping[str, Any]], every: int, now: datetime) -> Iterator[Hole]:
    """Yield the times in which an emitter was open and no heartbeat told of it."""
    told: dict[str, list[Mapping[str, Any]]] = {}
    for row in beats:
        told.setdefault(row["emitter"], []).append(row)
    allowed = timedelta(seconds=TARDY * every)
    for emitter, rows in told.items():
        for row, then in pairwise([*rows, {"at": timestamp(now)}]):
            length = parse_timestamp(then["at"]) - parse_timestamp(row["at"])
            if row["live"] and length > allowed:
                what = f"no heartbeat for {int(length.total_seconds())} s while it was open"
                yield Hole("silent", "unclear", emitter, row["boot"], what, since=row["at"], until=then["at"])


def _losses(reader: SpoolReader, index: Index, refused: Iterable[Lost] = ()) -> list[tuple[Hole, str]]:
    """Return every loss that a spool or the registry log tells of, each once, and its code."""
    rows = index.rows(select(schema.gap).order_by(schema.gap.c.id))
    found = [(_loss(row, f"registry:{row['id']}"), str(row["reason"])) for row in rows]
    for gap in losses_not_stated(index, reader.gaps()):
        row = {name: getattr(gap, name) for name in ("emitter", "boot", "after", "reason", "frames", "size", "call")}
        found.append((_loss(row, None), gap.reason))
    for lost in refused_not_stated(index, refused):
        known = {"emitter": lost.emitter, "boot": lost.boot, "reason": "store-refused", "frames": lost.frames}
        row = dict.fromkeys(("after", "size", "call")) | known
        found.append((_loss(row, None), "store-refused"))
    return found


def _loss(row: Mapping[str, Any], stated: str | None) -> Hole:
    what = {
        "torn": f"{row['size']} bytes after frame {row['after']} are no frame",
        "missing": f"{row['frames'] or 'the'} frames after frame {row['after']} are gone",
        "no-intent": f"call {row['call']} has an outcome and no intent",
        "store-refused": f"{row['frames']} frames could not be written, and their calls passed",
    }.get(row["reason"], f"after frame {row['after']}: {row['reason']}")
    return Hole("loss", "gap", row["emitter"], row["boot"], f"{what} ({row['reason']})", stated=stated)


def losses_not_stated(index: Index, gaps: Iterable[Gap]) -> list[Gap]:
    """Return the losses beside the spools that no gap statement tells of; two that look alike need two statements."""
    names = ("emitter", "boot", "after", "reason", "frames", "size", "sha256", "call")
    stated = Counter(tuple(row[name] for name in names) for row in index.rows(select(schema.gap)))
    left = []
    for gap in gaps:
        told = tuple(str(gap.after) if name == "after" else getattr(gap, name) for name in names)
        if stated[told]:
            stated[told] -= 1
        else:
            left.append(gap)
    return left


def refused_not_stated(index: Index, lost: Iterable[Lost]) -> list[Lost]:
    """Return what workers let pass that no gap statement counts yet; only so many frames as are not counted."""
    stated: Counter[tuple[str, str]] = Counter()
    for row in index.rows(select(schema.gap).where(schema.gap.c.reason == "store-refused")):
        stated[row["emitter"], row["boot"]] += row["frames"] or 0
    left = [replace(each, frames=each.frames - stated[each.emitter, each.boot]) for each in lost]
    return [each for each in left if each.frames > 0]


def _boots(home: Home, reader: SpoolReader, report: ChainReport) -> Iterator[Boot]:
    marks = emitter_marks(home.call_log())
    for line in report.lines:
        mark = marks.get(line.emitter)
        if mark is None or mark.boot != line.boot or mark.high_water == BOOT_CLOSED:
            yield Boot(line, "closed")
        elif not home.owns(line.emitter):
            yield Boot(line, "elsewhere")
        else:
            yield Boot(line, "live" if reader.is_live(line.emitter) else "over")


def _time(seen: Seen | None) -> str | None:
    return None if seen is None else seen.ended_at or seen.called_at


# What fsck says of the same


def check_chains(home: Home) -> Iterator[Finding]:
    """Follow each emitter's chain through all call logs. A number that is not there may belong to a running call."""
    report = _Leaves(home).chains()
    for emitter in report.unanchored:
        yield Finding("error", "chain-broken", emitter, "its first call names one before it that is not on record")
    for call in report.broken:
        yield Finding("error", "chain-broken", call, "not chained to the call before")
    for call in report.misplaced:
        yield Finding("error", "call-misplaced", call, "does not stand behind the call that it names")
    for call in report.repeated:
        yield Finding("error", "call-repeated", call, "on record more than once")
    running = _running(SpoolReader(home.spool_dir))
    for item in report.missing:
        for first, last, is_open in _parts(item, running):
            if not is_open:
                what = f"calls {first} to {last} are not on record"
                yield Finding("warning", "call-missing", f"{item.emitter} {item.boot}", what)


def check_losses(home: Home, index: Index) -> Iterator[Finding]:
    """Tell what the spools lost: not an error of the store, and never silent. Stated in the registry log or not."""
    for hole, reason in _losses(SpoolReader(home.spool_dir), index, lost_frames(home.spool_dir)):
        why = f"explained in {hole.stated}" if hole.stated else "not stated in the registry log yet"
        where = f"spool/{hole.emitter}/{hole.boot}"
        yield Finding("warning", f"gap-{reason}", where, f"calls may be missing: {hole.message}; {why}")

"""Decisions that an Open Policy Agent sends: kept as they came, in the registry log, and read back.

What an agent says of itself is its word: whoever has the token could have sent it. One thing about it can be checked:
the state of the registry that a decision names must be one that this log had. A revision `<tree size>:<root>` whose
root is not the root of the first entries of the log never was a state of it.

An agent that heard no answer sends its events again. What is known to the byte is not kept again; an event with a known
`decision_id` and other content is kept, and shown as such: an agent's word does not unsay another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

import msgspec
from sqlalchemy import select

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.merkle import root_at
from genealog.errors import MalformedError
from genealog.ledger import Position
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home
from genealog.store.port import Log
from genealog.store.static_export import log_reader

Standing = Literal["known", "never", "foreign", "none"]  # of the revision that a decision names
MOST_EVENTS = 10_000  # in one upload
REMEMBERED = 200_000  # events that are known when they come again: the newest
_REVISIONS = 32  # that a statement names, and the most characters of each
_LONGEST = 256
_AGENTS = 32  # in one upload that are told apart
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_REVISION = re.compile(r"(\d{1,15}):([0-9a-f]{64})", re.ASCII)


class _Bundle(msgspec.Struct):
    revision: str = ""


class Event(msgspec.Struct):
    """What is read of a decision event of Open Policy Agent (v1); whatever else it holds is kept with it."""

    decision_id: str
    timestamp: str
    labels: dict[str, Any] | None = None
    path: str = ""
    revision: str = ""  # of agents before bundles had names
    bundles: dict[str, _Bundle] | None = None
    result: Any = None
    input: Any = None
    error: Any = None

    @property
    def allowed(self) -> bool:
        """Whether its result says yes: `true`, or `{"allow": true, …}`."""
        return self.result is True or (isinstance(self.result, dict) and self.result.get("allow") is True)

    @property
    def revisions(self) -> tuple[str, ...]:
        """The revisions of the bundles that it names."""
        named = [bundle.revision for bundle in (self.bundles or {}).values()]
        return tuple(dict.fromkeys(each for each in (*named, self.revision) if each))

    @property
    def source(self) -> str | None:
        """The agent's label `id`."""
        said = (self.labels or {}).get("id")
        return said[:_LONGEST] if isinstance(said, str) and said else None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of an upload: how many events it had, how many of them were new, and where those are."""

    events: int
    new: int
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class Stated:
    """A decision of an agent, as it stands in the log. `standing` is that of the revision that it names."""

    event: Event
    entry: int
    standing: Standing
    again: bool  # the same `decision_id` came before, with other content


class DecisionLogs:
    """Takes the uploads of agents into one store. Not safe for two threads at once."""

    def __init__(self, registry: Registry, signer: Signer | None = None) -> None:
        self.registry = registry
        self._signer = signer
        self._known: dict[bytes, None] = {}
        self._next = -1

    def take(self, data: bytes) -> Taken:
        """Keep what is new of an upload (JSON, not compressed); durable on return, all of it or nothing.

        Raises: MalformedError `decision-log-malformed`; StoreError as the log and the objects.
        """
        read = read_events(data)
        with self.registry.home.registry_log().exclusive():  # nobody keeps the same meanwhile
            self._remember()
            fresh = {sha256(raw).digest(): (event, raw) for event, raw in read}
            new = [(digest, *each) for digest, each in fresh.items() if digest not in self._known]
            bodies = list(self._bodies((event, raw) for _, event, raw in new))
            placed: tuple[Position, ...] = ()
            if bodies:
                placed = self.registry.append_all(bodies, signer=self._signer or self.registry.signer())
            self._remember()
        return Taken(len(read), len(new), placed)

    def _bodies(self, new: Iterable[tuple[Event, bytes]]) -> Iterator[tuple[records.DecisionLog, str, str | None]]:
        at = timestamp(datetime.now(UTC))
        by_source: dict[str | None, list[tuple[Event, bytes]]] = {}
        for event, raw in new:
            by_source.setdefault(event.source, []).append((event, raw))
        if len(by_source) > _AGENTS:  # each is an entry of the log, which others wait for
            by_source = {None: [each for events in by_source.values() for each in events]}
        for source, events in by_source.items():
            body = b"[" + b",".join(raw for _, raw in events) + b"]"
            times = sorted((event.timestamp for event, _ in events), key=_moment)
            revisions = dict.fromkeys(each for event, _ in events for each in event.revisions if len(each) <= _LONGEST)
            kept = records.Blob(sha256=self.registry.home.objects.put(body), size=len(body))
            told = records.DecisionLog(
                events=len(events), denied=sum(not event.allowed for event, _ in events), body=kept, first=times[0],
                last=times[-1], revisions=tuple(sorted(revisions)[:_REVISIONS]), at=at, source=source,
            )  # fmt: skip
            yield told, source or "decision log", None

    def _remember(self) -> None:
        """Learn which events are in the log, also of others that take them."""
        table = schema.decision_log
        query = select(table.c.id, table.c.body).where(table.c.id > self._next).order_by(table.c.id.desc())
        newest: list[dict[bytes, None]] = []
        last, count = self._next, 0
        for row in self.registry.ledger.index(REGISTRY).rows(query):
            last = max(last, row["id"])
            newest.append({sha256(raw).digest(): None for raw in _split(self.registry.home.objects.get(row["body"]))})
            count += len(newest[-1])
            if count >= REMEMBERED:
                break
        for each in reversed(newest):
            self._known |= each
        self._next = last
        for digest in list(self._known)[: max(0, len(self._known) - REMEMBERED)]:
            del self._known[digest]


def read_events(data: bytes) -> list[tuple[Event, bytes]]:
    """Read the events of an upload, each with its bytes. Raises: MalformedError `decision-log-malformed`."""
    try:
        found = _split(data)
        if len(found) > MOST_EVENTS:
            raise _malformed(f"{len(found)} events", f"at most {MOST_EVENTS} in one upload")
        events = [(msgspec.json.decode(raw, type=Event), raw) for raw in found]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(str(error)[:200], "a JSON list of decision events") from None
    for event, _ in events:
        if not event.decision_id or len(event.decision_id) > _LONGEST or not _TIME.fullmatch(event.timestamp):
            raise _malformed(
                f"{event.decision_id[:40]!r} at {event.timestamp[:40]!r}", "a decision_id and an RFC 3339 timestamp"
            )
        try:
            _moment(event.timestamp)
        except (ValueError, OverflowError) as error:
            raise _malformed(f"{event.timestamp}: {error}", "a time that there is") from None
    return events


def stated(home: Home, registry: Registry, *, limit: int | None = None, source: str | None = None) -> list[Stated]:
    """Return the decisions that agents sent, newest upload first, at most `limit` of them.

    Raises: MissingError `no-such-object`, StoreError `object-damaged` where what was kept is not there any more.
    """
    table = schema.decision_log
    query = select(table.c.id, table.c.body).order_by(table.c.id.desc())
    if source is not None:
        query = query.where(table.c.source == source)
    index = registry.ledger.index(REGISTRY)
    roots = Revisions(home.registry_log())
    found: list[tuple[int, Event]] = []
    for row in index.rows(query):
        events = read_events(home.objects.get(row["body"]))
        found += [(row["id"], event) for event, _ in reversed(events)]
        if limit is not None and len(found) >= limit:
            break
    told, seen = [], set[str]()
    for entry, event in reversed(found):
        told.append(Stated(event, entry, roots.standing(event.revisions), event.decision_id in seen))
        seen.add(event.decision_id)
    told.reverse()
    return told[:limit]


class Revisions:
    """Says of revisions whether a log ever stood there. Each is looked up once."""

    def __init__(self, log: Log) -> None:
        self._size = log.refresh()
        self._read = log_reader(log, self._size)
        self._roots: dict[int, str] = {}

    def standing(self, revisions: Sequence[str]) -> Standing:
        """Judge what one decision names: `never` if any is of our form and was no state of this log."""
        ours = [match for match in map(_REVISION.fullmatch, revisions) if match]
        if not ours:
            return "foreign" if revisions else "none"
        return "known" if all(self._had(int(match[1]), match[2]) for match in ours) else "never"

    def _had(self, size: int, root: str) -> bool:
        if not 0 < size <= self._size:
            return False
        if size not in self._roots:
            self._roots[size] = root_at(size, self._read).hex()
        return self._roots[size] == root


def _split(data: bytes) -> list[bytes]:
    return [bytes(raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw])]


def _moment(text: str) -> tuple[datetime, str]:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("no RFC 3339 time")
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(match[1] + zone).astimezone(UTC), (match[2] or "").ljust(9, "0")


def _malformed(got: str, expected: str) -> MalformedError:
    return MalformedError("decision-log-malformed", "these are no decision events", got=got, expected=expected)

"""Incidents: something went wrong with what a deployment served. First keep the evidence, then go back.

Opening an incident places a hold of the same name over every call of the store from its beginning on, because which
deployment a call went to is sealed: too much is held, and nothing is missed. Hold, incident and the move back go into
the log in one durable batch, the hold first: there is no rollback under an incident's name without its hold.

Closing an incident lifts nothing: that is another decision, `genealog hold lift`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from genealog.core import records
from genealog.core.canonical import Record, parse_timestamp, timestamp
from genealog.core.dsse import Signer
from genealog.deploy import Deployments, Live, Move
from genealog.erasure import Erasure, Held, check_reason
from genealog.errors import MalformedError, MissingError, PolicyDenied, StoreError, UsageError
from genealog.ledger import Position
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

OPEN_END = "9999-12-31T23:59:59.999Z"  # a hold has an end; this one's is its lifting
SKEW = timedelta(minutes=10)  # by so much the clocks of gateways and of whoever moved a deployment may differ


@dataclass(frozen=True, slots=True)
class Case:
    """An incident as the log tells it. `hold` is its hold, while it stands; `moves` are (deployment, entry, spec)."""

    name: str
    deployment: str | None
    reason: str
    at: str
    since: str | None
    specs: tuple[str, ...]
    artifacts: tuple[str, ...]
    position: Position
    closed_at: str | None = None
    closing: str | None = None
    hold: Held | None = None
    moves: tuple[tuple[str, int, str], ...] = ()


class Incidents:
    """The incidents of one store. `clock` tells the time."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.home = home
        self.deployments = Deployments(home, clock=clock)
        self.registry = Registry(home)
        self.erasure = Erasure(home, clock=clock)
        self.clock = clock

    def open(
        self, name: str, *, deployment: str, reason: str, since: datetime | None = None, signer: Signer | None = None
    ) -> Case:
        """Open an incident and place its hold, in one batch.

        `since` is when it began; default: when the deployment got what it serves now, and some minutes more for clocks.
        Raises: MissingError `unknown-deployment`; StoreError `incident-exists`, `hold-exists`; UsageError `bad-option`.
        """
        with self.home.registry_log().exclusive():
            moves = self.deployments.history(deployment)
            batch = self._opening(name, deployment, reason, since, moves)
            self.registry.append_all(
                [(body, name, None) for body in batch], signer=signer or self.registry.signer()
            )  # fmt: skip
        return self.find(name)

    def rollback(
        self, deployment: str, *, incident: str, to: str | None = None, to_time: datetime | None = None,
        reason: str | None = None, since: datetime | None = None, expect: str | None = None,
        signer: Signer | None = None,
    ) -> tuple[Live, Position, Case]:  # fmt: skip
        """Go back under the name of an incident, which is opened if there is none; without its hold nothing moves.

        Raises: as `open`, `Deployments.rollback`; PolicyDenied `incident-closed`, `incident-elsewhere`.
        """

        def ahead(moves: Sequence[Move]) -> Sequence[tuple[Record, str]]:
            case = next((case for case in self.all() if case.name == incident), None)
            if case is None:
                why = reason or f"rollback of {deployment}"
                return [(body, incident) for body in self._opening(incident, deployment, why, since, moves)]
            if case.closed_at is not None:
                raise PolicyDenied(
                    "incident-closed", f"the incident {incident} is closed", got=case.closed_at,
                    hint="use another name for a new one",
                )  # fmt: skip
            if case.deployment not in (None, deployment):
                raise PolicyDenied(
                    "incident-elsewhere", f"the incident {incident} is about another deployment", got=deployment,
                    expected=case.deployment, hint="open one for this deployment, or roll back without --incident",
                )  # fmt: skip
            return [] if case.hold is not None else [(self._hold(incident, case.reason, case.since), incident)]

        live, position = self.deployments.rollback(
            deployment, to=to, to_time=to_time, reason=reason, incident=incident, ahead=ahead, expect=expect,
            signer=signer,
        )  # fmt: skip
        return live, position, self.find(incident)

    def close(self, name: str, *, reason: str, signer: Signer | None = None) -> Case:
        """Close an incident. Its hold stands until somebody lifts it.

        Raises: MissingError `unknown-incident`; PolicyDenied `incident-closed`.
        """
        check_reason(reason)
        with self.home.registry_log().exclusive():
            case = self.find(name)
            if case.closed_at is not None:
                raise PolicyDenied("incident-closed", f"the incident {name} is closed", got=case.closed_at)
            at = timestamp(self.clock())
            body = records.Incident(
                name=name, action="close", at=at, reason=reason, deployment=case.deployment, specs=case.specs,
                artifacts=case.artifacts, since=case.since, until=at,
            )  # fmt: skip
            self.registry.append(body, signer=signer or self.registry.signer(), name=name)
        return self.find(name)

    def find(self, name: str) -> Case:
        """Return an incident. Raises: MissingError `unknown-incident`."""
        for case in self.all():
            if case.name == name:
                return case
        raise MissingError("unknown-incident", "no incident has this name", got=name, hint="genealog incident ls")

    def all(self) -> tuple[Case, ...]:
        """Return every incident, in the order in which they were opened."""
        table, entry, ref = schema.incident, schema.entry, schema.ref
        index = self.registry.ledger.index(REGISTRY)
        holds = {hold.name: hold for hold in self.erasure.holds() if hold.since is not None}
        moved: dict[str, list[tuple[str, int, str]]] = {}
        for row in index.rows(select(ref).where(ref.c.incident.is_not(None)).order_by(ref.c.id)):
            moved.setdefault(row["incident"], []).append((row["name"], row["id"], row["to"]))
        query = select(table, entry.c.leaf).join(entry, entry.c.id == table.c.id).order_by(table.c.id)
        opened: dict[str, dict[str, object]] = {}
        for row in index.rows(query):
            if row["action"] == "open":
                opened.setdefault(row["name"], {
                    "name": row["name"], "deployment": row["deployment"], "reason": row["reason"], "at": row["at"],
                    "since": row["since"], "specs": tuple(row["specs"].split()),
                    "artifacts": tuple(row["artifacts"].split()),
                    "position": Position(REGISTRY, row["id"], row["leaf"]), "hold": holds.get(row["name"]),
                    "moves": tuple(moved.get(row["name"], ())),
                })  # fmt: skip
            elif row["name"] in opened:
                opened[row["name"]].setdefault("closed_at", row["at"])
                opened[row["name"]].setdefault("closing", row["reason"])
        return tuple(Case(**facts) for facts in opened.values())  # type: ignore[arg-type]

    def _opening(
        self, name: str, deployment: str, reason: str, since: datetime | None, moves: Sequence[Move]
    ) -> list[Record]:
        """Return the hold and the incident. The caller is the only one who may append."""
        check_reason(reason)
        if not name or len(name) > 128 or not name.isprintable():
            raise UsageError("bad-option", "an incident has a printable name of 1 to 128 characters", got=ascii(name))
        if any(case.name == name for case in self.all()):
            raise StoreError(
                "incident-exists", f"there is an incident called {name!r} already", hint="use another name"
            )
        if any(hold.name == name for hold in self.erasure.holds()):
            raise StoreError(
                "hold-exists", f"a hold called {name!r} stands already", hint="an incident needs a hold of its own name"
            )
        now = self.clock()
        if since is not None and since > now:
            raise UsageError("bad-option", "an incident has begun already", got=timestamp(since), expected="--since")
        began = timestamp(since) if since is not None else _began(moves, now)
        held = began if since is not None else timestamp(parse_timestamp(began) - SKEW)
        concerned = [move.spec for move in moves if move.at >= began] or [moves[-1].spec]
        specs = tuple(dict.fromkeys([*_live_at(moves, began), *concerned, moves[-1].spec]))
        artifacts = tuple(dict.fromkeys(model for spec in specs for model in self.deployments.spec(spec).models))
        incident = records.Incident(
            name=name, action="open", at=timestamp(now), reason=reason, deployment=deployment, specs=specs,
            artifacts=artifacts, since=held,
        )  # fmt: skip
        return [self._hold(name, reason, held), incident]

    def _hold(self, name: str, reason: str, since: str | None) -> records.Hold:
        at = timestamp(self.clock())
        return records.Hold(action="place", name=name, at=at, reason=reason, since=since or at, until=OPEN_END)


def _began(moves: Sequence[Move], now: datetime) -> str:
    """Return when the spec that is live now went live: no later than now, whatever a clock said."""
    begun = len(moves) - 1
    while begun and moves[begun - 1].spec == moves[-1].spec:
        begun -= 1
    known = [timestamp(now)]
    for move in moves[begun:]:
        try:
            parse_timestamp(move.at)
        except MalformedError:  # a time that somebody made up
            continue
        known.append(move.at)
    return min(known)


def _live_at(moves: Sequence[Move], at: str) -> list[str]:
    return [move.spec for move in moves if move.at <= at][-1:]

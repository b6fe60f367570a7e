"""Erasure: destroy what the vault holds of a subject, a tenant or a call, and say so in the log. And holds against it.

A hold is a statement in the registry log: what it selects may not be erased, by nobody and no rule, until another
statement lifts it. Holds are read from the log each time. Between the look at the holds and the decision nobody can
place one: both happen while this process alone may append to the registry log.

What stays is told plainly: entries, proofs and receipts; what was handed out; and copies of the vault, as long as
somebody has the vault key of their time (`genealog vault rotate-key`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal

from sqlalchemy import func, select

from genealog.core import records
from genealog.core.call_groups import RequestGroup
from genealog.core.canonical import decode, parse_timestamp, timestamp
from genealog.core.dsse import Signer
from genealog.core.merkle import leaf_hash
from genealog.core.statement import make_statement
from genealog.errors import (
    GenealogError,
    MalformedError,
    MissingError,
    PolicyDenied,
    StoreError,
    UsageError,
    VerificationError,
)
from genealog.ledger import Ledger, Position
from genealog.store import schema
from genealog.store.config import Retention
from genealog.store.home import REGISTRY, Home
from genealog.store.vault.erase import WHOLE, CallRow, Chosen, Eraser, digest_of
from genealog.store.vault.patterns import fits
from genealog.store.vault.schema import milliseconds_of

Scope = Literal["subject", "tenant", "call", "retention"]
_MANY = 500
_LONGEST = 500  # characters of a reason
_SKEW = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Held:
    """A hold that stands. A time has both its ends in it."""

    name: str
    reason: str
    at: str
    position: Position
    calls: frozenset[str]
    tenants: frozenset[str]
    subjects: frozenset[str]
    since: str | None = None
    until: str | None = None

    def takes(self, row: CallRow) -> bool:
        """Say whether it holds this call. When a call was made stands in its ID."""
        if row.call in self.calls or row.tenant in self.tenants or (row.subject and row.subject in self.subjects):
            return True
        if self.since is None or self.until is None:
            return False
        return self.since <= timestamp(_time(milliseconds_of(row.call))) <= self.until


@dataclass(frozen=True, slots=True)
class Part:
    """What shall be erased of one tenant, or one call."""

    scope: Scope
    chosen: Chosen
    title: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What an erasure would destroy. `held` and `young` count the calls that forbid it, by hold and by minimum."""

    parts: tuple[Part, ...]
    calls: tuple[CallRow, ...]
    held: Mapping[str, int]
    young: int
    free: str | None  # when the youngest of them has reached its minimum

    @property
    def size(self) -> int:
        """Bytes of bodies."""
        return sum(row.size for row in self.calls)


@dataclass(frozen=True, slots=True)
class Erased:
    """What was destroyed, and where the log says so."""

    calls: int
    size: int
    positions: tuple[Position, ...]


class Erasure:
    """Erases in one store. `clock` tells the time."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.home = home
        self.ledger = Ledger(home)
        self.clock = clock

    @cached_property
    def eraser(self) -> Eraser:
        """What erases in the vault. Whoever looks at holds needs no vault."""
        return Eraser(self.home.vault)

    def parts(
        self, *, subject: str | None = None, tenant: str | None = None, call: str | None = None
    ) -> tuple[Part, ...]:
        """Say what is meant: a call; a subject, of one tenant or of all; a tenant. Drains the spools first.

        Raises: MalformedError `bad-option`; MissingError `nothing-to-erase`.
        """
        if (call is not None) == (subject is not None or tenant is not None) or subject == "":
            raise UsageError(
                "bad-option", "say whom or what to erase", expected="--call, or --subject, or --tenant, or the last two"
            )
        _check_names(subject, tenant, call)
        self.ledger.drain()
        if call is not None:
            return (Part("call", Chosen(calls=(call,)), f"call {call}"),)
        if subject is None:
            return (Part("tenant", Chosen(tenant), f"tenant {tenant!r}"),)
        tenants = [tenant] if tenant is not None else self.eraser.tenants()
        found = [name for name in tenants if self.eraser.knows(name, subject)]
        return tuple(Part("subject", Chosen(name, subject), f"the subject, of tenant {name!r}") for name in found)

    def plan(self, parts: tuple[Part, ...]) -> Plan:
        """Look at everything that would go, and at what forbids it. Changes nothing."""
        rows = [row for part in parts for row in self.eraser.select(part.chosen)]
        if not rows and not any(part.chosen.subject is not None for part in parts):
            raise self.eraser.nothing(parts[0].chosen if parts else Chosen())
        holds, now = self.holds(), self.clock()
        held = Counter(hold.name for row in rows for hold in holds if hold.takes(row))
        young = [free for free in self.free_from(rows).values() if free > now]
        return Plan(parts, tuple(rows), held, len(young), timestamp(max(young)) if young else None)

    def erase(self, parts: tuple[Part, ...], *, reason: str, signer: Signer, override: str | None = None) -> Erased:
        """Destroy it, and state so in the registry log: one tombstone for each tenant. All of it or, of each, nothing.

        Raises: MissingError `nothing-to-erase`; PolicyDenied `held`, `retention-minimum` (unless `override` says why
        not); VerificationError `signer-unknown`; StoreError `vault-busy`, and then the next command goes on with it.
        """
        check_reason(reason)
        check_signer(self.ledger, signer)
        if override is not None:
            check_reason(override)
        if not parts:
            raise self.eraser.nothing(Chosen())
        if override is None and any(rule.minimum for rule in self.home.config.retention):
            self.check_clock()
        self.ledger.index()
        calls = size = 0
        placed: tuple[Position, ...] = ()
        for part in parts:

            def judge(rows: Sequence[CallRow], part: Part = part) -> tuple[bytes, str, str, str]:
                nonlocal calls, size
                self._check(rows, override, whole=part.chosen.tenant if part.scope == "tenant" else None)
                calls, size = calls + len(rows), size + sum(row.size for row in rows)
                return self.tombstone(
                    rows, scope=part.scope, reason=reason, signer=signer, tenant=part.chosen.tenant,
                    subject=part.chosen.subject, override=override,
                )  # fmt: skip

            with self.home.registry_log().exclusive():
                self.eraser.decide(part.chosen, judge)
            placed += self.ledger.finish_erasures()
        return Erased(calls, size, placed)

    def tombstone(
        self, rows: Sequence[CallRow], *, scope: Scope, reason: str, signer: Signer, tenant: str | None = None,
        subject: str | None = None, before: str | None = None, what: tuple[str, ...] = WHOLE,
        override: str | None = None,
    ) -> tuple[bytes, str, str, str]:  # fmt: skip
        """Return a signed tombstone over these calls, its leaf hash, time and reason."""
        count, digest = digest_of(row.call for row in rows)
        at = timestamp(self.clock())
        named = self.home.vault.digest_in(tenant or "", subject) if subject is not None else None
        body = records.Tombstone(
            scope=scope, at=at, reason=reason, calls=count, digest=digest, subject=named, tenant=tenant, before=before,
            what=what, override=override,
        )  # fmt: skip
        entry = make_statement(body, signer, name=scope)
        return entry, leaf_hash(entry).hex(), at, reason

    # Holds

    def place(
        self, name: str, *, reason: str, signer: Signer, calls: Sequence[str] = (), tenant: str | None = None,
        subject: str | None = None, since: datetime | None = None, until: datetime | None = None,
    ) -> Position:  # fmt: skip
        """Hold calls, a tenant, a subject, or a time.

        A subject is one of `tenant`, else of every tenant that knows it now, as `erase` takes it; where none does, of
        the tenant without a name.

        Raises: MalformedError `bad-option`; MissingError `unknown-call`; StoreError `hold-exists`; VerificationError
        `signer-unknown`.
        """
        check_reason(reason)
        check_signer(self.ledger, signer)
        if not name or len(name) > 128 or not name.isprintable():
            raise UsageError("bad-option", "a hold has a printable name of 1 to 128 characters", got=ascii(name))
        if not (calls or tenant is not None or subject or since or until):
            raise UsageError("bad-option", "say what is held", expected="--call, --tenant, --subject, or --since")
        if (since is None) != (until is None) or (since and until and since > until):
            raise UsageError("bad-option", "a time has a beginning and an end", expected="--since and --until")
        if subject and self.home.shared is not None and self.home.config.vault.database is None:
            raise MalformedError(
                "bad-option", "each machine of this store has a vault of its own, with other digests of subjects",
                hint="hold the tenant, the calls or a time; or put the vault into PostgreSQL: [vault] database",
            )  # fmt: skip
        _check_names(subject, tenant, *calls)
        for call in calls:  # a misspelt ID would hold nothing, and nobody would notice
            self.ledger.call(call)
        self.ledger.drain()
        named = self._digests(subject, tenant) if subject else ()
        body = records.Hold(
            action="place", name=name, at=timestamp(self.clock()), reason=reason, calls=tuple(sorted(set(calls))),
            tenants=(tenant,) if tenant is not None and not subject else (), subjects=named,
            since=timestamp(since) if since else None, until=timestamp(until) if until else None,
        )  # fmt: skip
        with self.home.registry_log().exclusive():
            if name in {hold.name for hold in self.holds()}:
                raise StoreError(
                    "hold-exists", f"a hold called {name!r} stands already", hint="lift it first, or use another name"
                )
            return self.ledger.append([make_statement(body, signer, name=name)])[0]

    def _digests(self, subject: str, tenant: str | None) -> tuple[str, ...]:
        known = [name for name in self.eraser.tenants() if self.eraser.knows(name, subject)]
        tenants = [tenant] if tenant is not None else known or [""]
        return tuple(sorted(self.home.vault.subject_digest(name, subject) for name in tenants))

    def lift(self, name: str, *, reason: str, signer: Signer) -> Position:
        """Lift a hold. Raises: MissingError `unknown-hold`."""
        check_reason(reason)
        check_signer(self.ledger, signer)
        with self.home.registry_log().exclusive():
            if name not in (known := {hold.name for hold in self.holds()}):
                raise MissingError(
                    "unknown-hold", "no hold of this name stands", got=name, expected=", ".join(sorted(known)) or None
                )
            body = records.Hold(action="lift", name=name, at=timestamp(self.clock()), reason=reason)
            return self.ledger.append([make_statement(body, signer, name=name)])[0]

    def holds(self) -> tuple[Held, ...]:
        """Return the holds that stand now, from the registry log."""
        table, entry = schema.hold, schema.entry
        query = select(table, entry.c.leaf).join(entry, entry.c.id == table.c.id).order_by(table.c.id)
        standing: dict[str, Held] = {}
        for row in self.ledger.index(REGISTRY).rows(query):
            standing.pop(row["name"], None)
            if row["action"] == "place":
                standing[row["name"]] = Held(
                    row["name"], row["reason"], row["at"], Position(REGISTRY, row["id"], row["leaf"]),
                    frozenset(row["calls"].split()), frozenset(json.loads(row["tenants"])),
                    frozenset(row["subjects"].split()), row["since"], row["until"],
                )  # fmt: skip
        return tuple(standing.values())

    # What forbids

    def ended(self, rows: Iterable[CallRow]) -> dict[str, datetime]:
        """Return when each call ended, or began if nobody saw its end: as the log says, or else as the vault says.

        The index is taken as it is: who holds the vault must not wait for a log.
        """
        found = {row.call: _time(row.at) for row in rows}
        table, calls = schema.call, list(found)
        for start in range(0, len(calls), _MANY):
            query = select(table.c.call, table.c.called_at, table.c.ended_at)
            for item in self.home.index.rows(query.where(table.c.call.in_(calls[start : start + _MANY]))):
                found[item["call"]] = parse_timestamp(item["ended_at"] or item["called_at"])
        return found

    def rules(self, row: CallRow) -> list[Retention]:
        """Return the retention rules that fit a call. One whose deployment nobody can read any more fits them all."""
        rules = [rule for rule in self.home.config.retention if fits(row.tenant, rule.tenant)]
        if all(rule.deployment == "*" for rule in rules):
            return rules
        try:
            deployment = decode(self.home.vault.get_groups(row.call)["request"][1], RequestGroup).deployment
        except (GenealogError, KeyError):
            return rules
        return [rule for rule in rules if fits(deployment, rule.deployment)]

    def free_from(self, rows: Sequence[CallRow]) -> dict[str, datetime]:
        """Return from when on each call may be erased, for those that a rule with a minimum fits."""
        if not any(rule.minimum for rule in self.home.config.retention):
            return {}
        ended = self.ended(rows)
        least = {row.call: max((rule.minimum or 0 for rule in self.rules(row)), default=0) for row in rows}
        return {call: ended[call] + timedelta(seconds=seconds) for call, seconds in least.items() if seconds}

    def check_clock(self) -> None:
        """Refuse to judge ages by a clock that is behind the log. Raises: StoreError `clock-behind`."""
        index, table = self.ledger.index(), schema.call
        newest = index.first(
            select(func.max(table.c.ended_at).label("ended"), func.max(table.c.called_at).label("called"))
        )
        last = max(filter(None, newest.values()), default=None) if newest else None
        if last is not None and self.clock() < parse_timestamp(last) - _SKEW:
            raise StoreError(
                "clock-behind", "this machine's clock is more than a day behind the newest call",
                got=timestamp(self.clock()), expected=f"after {last}", hint="set the clock, then try again",
            )  # fmt: skip

    def _check(self, rows: Sequence[CallRow], override: str | None, whole: str | None = None) -> None:
        """Refuse what a hold or a minimum keeps. `whole` is a tenant of which nothing shall stay, its key neither."""
        for hold in self.holds():
            why = None
            if any(hold.takes(row) for row in rows):
                why = "keeps this from being erased"
            elif whole is not None and not all(self.eraser.knows_elsewhere(each, whole) for each in hold.subjects):
                # Under the tenant's next key that subject would have another digest, which the hold does not know.
                why = "names a subject without calls, who may be of this tenant: it would not hold his next ones"
            if why is not None:
                raise PolicyDenied(
                    "held", f"the hold {hold.name!r} ({hold.reason}) {why}", got=hold.position,
                    hint=f"when it is over: genealog hold lift {hold.name}",
                )  # fmt: skip
        if override is not None:
            return
        last = max(self.free_from(rows).values(), default=None)
        if last is not None and last > self.clock():
            raise PolicyDenied(
                "retention-minimum", "a retention rule keeps some of these calls for a while yet",
                expected=f"not before {timestamp(last)}",
                hint="wait until then; or, where the law asks for it, --override-minimum with the reason",
            )  # fmt: skip


def check_signer(ledger: Ledger, signer: Signer) -> None:
    """Refuse a signer for whom nobody would vouch: a tombstone must not stand in the log as nobody's word.

    Raises: VerificationError `signer-unknown`.
    """
    if not ledger.knows(signer):
        raise VerificationError(
            "signer-unknown", "the key that would sign is not registered as a signer", hint="genealog signer add"
        )


def _check_names(*names: str | None) -> None:
    for name in names:
        try:
            (name or "").encode()
        except UnicodeEncodeError:
            raise MalformedError("text-not-unicode", "a name is not UTF-8", got=ascii(name)[:80]) from None


def check_reason(reason: str) -> None:
    """Refuse a reason that nobody can read in the log. Raises: MalformedError `bad-option`."""
    if not reason.strip() or len(reason) > _LONGEST or not reason.isprintable():
        raise UsageError("bad-option", f"a reason is one line of 1 to {_LONGEST} characters", got=ascii(reason)[:80])


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)

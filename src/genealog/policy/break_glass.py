"""Break-glass: policies put aside for a while, where two people say so and the log remembers it.

Somebody asks for it: for the deployments that fit a pattern, for some policies, until a time. It is open once another
identity agreed to that very request, named by its leaf hash; two keys of one identity are one person. It is over at its
time, when anybody who signs here ends it, and when the key of either of the two is revoked.

The clock is that of whoever decides. It is not believed to run backwards: once an entry that came after the request
says a time at or past the end, the break-glass is over, whatever a clock says. Nor are the times in a request believed:
it is never open longer than `[policy.break_glass] longest` from now. What a policy's card does not call breakable is
never put aside: that is said again where it is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import select

from genealog.core import records
from genealog.core.canonical import parse_timestamp, timestamp
from genealog.core.dsse import Signer
from genealog.errors import MalformedError, MissingError, PolicyDenied, UsageError
from genealog.ledger import Position
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home
from genealog.store.vault.patterns import fits

State = Literal["asked", "open", "over", "ended", "revoked", "refused"]
SKEW = timedelta(minutes=10)  # by so much the clocks of two machines may differ


@dataclass(frozen=True, slots=True)
class Glass:
    """One request, and what became of it. `state` is as of now; `why` says more where it is not open."""

    name: str
    deployment: str  # a pattern
    policies: tuple[str, ...]
    until: str
    reason: str
    at: str
    asked_by: str
    index: int
    leaf: str
    agreed_by: str | None = None
    agreed: int | None = None  # the entry that opened it
    closed: int | None = None  # the first entry that ended it, or revoked a key of the two
    state: State = "asked"
    why: str | None = None

    def __str__(self) -> str:
        who = f"{self.asked_by} and {self.agreed_by}" if self.agreed_by else self.asked_by
        return f"{self.name}: {', '.join(self.policies)} on {self.deployment} until {self.until}, by {who}"


class BreakGlasses:
    """The break-glasses of one store. `clock` tells the time of whoever decides."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.home = home
        self.registry = Registry(home)
        self.clock = clock
        self._told: tuple[int, tuple[Glass, ...]] = (-1, ())  # at which size of the registry log; times not looked at

    def ask(
        self, name: str, *, deployment: str, policies: Sequence[str], breakable: Collection[str], until: datetime,
        reason: str, signer: Signer,
    ) -> Position:  # fmt: skip
        """Ask that `policies` be put aside. `breakable` are those of the policy set that may be.

        Raises: PolicyDenied `not-breakable`, `break-glass-too-long`; UsageError `bad-option`, `break-glass-exists`.
        """
        now = self.clock()
        longest = timedelta(seconds=float(self.home.config.policy.break_glass.longest))
        if not _nameable(name) or not reason.strip() or not deployment:
            raise UsageError(
                "bad-option", "a break-glass has a name of 1 to 128 printable characters, a pattern and a reason",
                got=ascii(name)[:80],
            )  # fmt: skip
        if not policies or (wrong := sorted(set(policies) - set(breakable))):
            raise PolicyDenied(
                "not-breakable", "these policies are never put aside", got=", ".join(wrong) if policies else "none",
                expected=", ".join(sorted(breakable)),
                hint="genealog policy show NAME says whether a policy is breakable",
            )  # fmt: skip
        if not now < until <= now + longest:
            raise PolicyDenied(
                "break-glass-too-long", "policies are put aside for a while that has an end soon",
                got=timestamp(until), expected=f"at most {timestamp(now + longest)}",
                hint="ask again when it is over; `longest` in [policy.break_glass] says how long at most",
            )  # fmt: skip
        body = records.BreakGlass(
            name=name, action="request", at=timestamp(now), reason=reason, deployment=deployment,
            policies=tuple(dict.fromkeys(policies)), until=timestamp(until),
        )  # fmt: skip
        with self.home.registry_log().exclusive():
            if any(glass.name == name and glass.state in ("asked", "open") for glass in self.all()):
                raise UsageError("break-glass-exists", "one of this name is asked for or open", got=name)
            return self.registry.append(body, signer=signer, name=name)

    def agree(self, name: str, *, reason: str, signer: Signer) -> Glass:
        """Agree to what was asked under a name, by its leaf hash: to nothing else.

        Raises: MissingError `unknown-break-glass`; PolicyDenied `break-glass-over`, `same-identity`.
        """
        with self.home.registry_log().exclusive():
            glass = self.find(name)
            if glass.state not in ("asked", "open"):
                raise PolicyDenied(
                    "break-glass-over", f"{name} cannot be opened any more", got=glass.why or glass.state,
                    hint="ask for another",
                )  # fmt: skip
            key = self.registry.keys().get(signer.keyid)
            if key is not None and key.identity == glass.asked_by:
                raise PolicyDenied(
                    "same-identity", "somebody else has to agree", got=key.identity, expected="another identity",
                    hint="another key of the same identity is the same person",
                )  # fmt: skip
            body = records.BreakGlass(
                name=name, action="agree", at=timestamp(self.clock()), reason=reason, request=glass.leaf
            )
            self.registry.append(body, signer=signer, name=name)
        return self.find(name)

    def end(self, name: str, *, reason: str, signer: Signer) -> Glass:
        """End it now. Anybody who signs here may. Raises: MissingError `unknown-break-glass`; PolicyDenied
        `break-glass-over`.
        """
        with self.home.registry_log().exclusive():
            if (glass := self.find(name)).state not in ("asked", "open"):
                raise PolicyDenied("break-glass-over", f"{name} is over already", got=glass.why or glass.state)
            body = records.BreakGlass(name=name, action="end", at=timestamp(self.clock()), reason=reason)
            self.registry.append(body, signer=signer, name=name)
        return self.find(name)

    def find(self, name: str) -> Glass:
        """Return the newest of a name. Raises: MissingError `unknown-break-glass`."""
        for glass in reversed(self.all()):
            if glass.name == name:
                return glass
        raise MissingError("unknown-break-glass", "none has this name", got=name, hint="genealog break-glass ls")

    def all(self) -> tuple[Glass, ...]:
        """Return every one that was asked for, in log order, judged now."""
        self.registry.ledger.index(REGISTRY)
        size = self.home.registry_log().size
        if self._told[0] != size:
            self._told = (size, tuple(self._read()))
        return tuple(self._timed(glass) for glass in self._told[1])

    def open_now(self, deployment: str) -> tuple[Glass, ...]:
        """Return those that are open now for a deployment. Cheap while nothing was asked for."""
        return tuple(glass for glass in self.all() if glass.state == "open" and fits(deployment, glass.deployment))

    def _read(self) -> list[Glass]:
        table, entry, key = schema.break_glass, schema.entry, schema.key
        query = (
            select(table, entry.c.leaf, entry.c.signer, key.c.revoked)
            .join(entry, entry.c.id == table.c.id)
            .join(key, key.c.keyid == entry.c.keyid)
            .order_by(table.c.id)
        )
        rows = self.registry.ledger.index(REGISTRY).rows(query)
        return [_told(row, rows) for row in rows if row["action"] == "request"]

    def _timed(self, glass: Glass) -> Glass:
        """Judge what only a time decides."""
        if glass.state not in ("asked", "open"):
            return glass
        now = self.clock()
        longest = timedelta(seconds=float(self.home.config.policy.break_glass.longest))
        try:
            until, asked = parse_timestamp(glass.until), parse_timestamp(glass.at)
        except MalformedError:
            return replace(glass, state="refused", why="its times are none")
        if not _nameable(glass.name):  # it goes into headers and logs; whoever appends by code may write anything
            return replace(glass, state="refused", why="its name is none")
        if now >= until or self._seen(glass):
            return replace(glass, state="over", why=f"it ended at {glass.until}")
        if until - now > longest or until - asked > longest or asked - now > SKEW:
            return replace(glass, state="refused", why="it asks for longer than [policy.break_glass] allows")
        return glass

    def _seen(self, glass: Glass) -> bool:
        """Say whether the log has seen its end, whatever a clock says now: some later entry names that time."""
        entry = schema.entry
        query = select(entry.c.at).where(
            entry.c.id > glass.index, entry.c.at >= glass.until, entry.c.problem.is_(None), entry.c.at < "9"
        )
        return self.registry.ledger.index(REGISTRY).first(query) is not None


def _nameable(name: str) -> bool:
    return 0 < len(name) <= 128 and name.isprintable()


def _told(asked: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Glass:
    """Return a request with what later entries make of it. The first of another identity that agreed is the second."""
    later = [row for row in rows if row["id"] > asked["id"]]
    agreed = next(
        (
            row
            for row in later
            if row["action"] == "agree" and row["request"] == asked["leaf"] and row["signer"] != asked["signer"]
        ),
        None,
    )
    ended = next((row for row in later if row["action"] == "end" and row["name"] == asked["name"]), None)
    over: list[tuple[int, State, str]] = []
    if ended is not None:
        over.append((ended["id"], "ended", f"ended by {ended['signer']}: {ended['reason']}"))
    over += [
        (row["revoked"], "revoked", f"the key of {row['signer']} was revoked")
        for row in (asked, agreed)
        if row is not None and row["revoked"] is not None
    ]
    glass = Glass(
        asked["name"], asked["deployment"] or "", tuple(asked["policies"].split()), asked["until"] or "",
        asked["reason"], asked["at"], asked["signer"], asked["id"], asked["leaf"],
    )  # fmt: skip
    if agreed is not None:
        glass = replace(glass, agreed_by=agreed["signer"], agreed=agreed["id"], state="open")
    if over:
        closed, state, why = min(over)
        glass = replace(glass, closed=closed, state=state, why=why)
    return glass

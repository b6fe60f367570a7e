"""Deployments: point a name at a serving spec, move one on, go back; what serves now.

Every verb appends moves to the registry log; nothing is overwritten. A verb looks at the deployment when it begins, and
moves it only if nobody has moved it since: what is judged (revocations, approvals, taint) and the append happen while
this process alone may append. `Deployments.poll` is what a gateway asks many times a second: it reads nothing unless
the log has grown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import func, select

from genealog.core import records
from genealog.core.canonical import Record, timestamp
from genealog.core.dsse import Signer
from genealog.core.ids import record_id
from genealog.deploy.approvals import Approvals, choose_spec
from genealog.deploy.gate import Gate, log_broken
from genealog.deploy.moves import Move, counting, judged, stack
from genealog.deploy.options import check_name, check_options
from genealog.deploy.taint import Taint, taints_of
from genealog.deploy.targets import Wanted, pin
from genealog.errors import MissingError, PolicyDenied, UsageError
from genealog.ledger import Position
from genealog.policy.break_glass import Glass
from genealog.policy.model_facts import revocations
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

Clock = Callable[[], datetime]
Ahead = Callable[[Sequence[Move]], Sequence[tuple[Record, str]]]
Action = Literal["set", "rollback", "promote"]


@dataclass(frozen=True, slots=True)
class Live:
    """What a deployment serves now. `revoked` says why nothing may be served; `tainted` what should be known of it.

    `unapproved` says why its last move does not rest on the approvals that are asked for: nothing may be served then.
    """

    name: str
    spec: str
    body: records.ServingSpec
    revoked: str | None = None
    tainted: str | None = None
    unapproved: str | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """What a verb did: what serves now, where the log says so, and the approvals that it rests on."""

    live: Live
    position: Position
    approvals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every deployment at one size (`epoch`) of the registry log, and which artifacts were revoked, and why."""

    epoch: int
    live: Mapping[str, Live] = field(default_factory=dict)
    revoked: Mapping[str, str] = field(default_factory=dict)


class Deployments:
    """The deployments of one store. `clock` tells the time that a move says it was made.

    `tell` is called with each break-glass that a move needed.
    """

    def __init__(
        self, home: Home, *, clock: Clock = lambda: datetime.now(UTC), tell: Callable[[Glass], None] = log_broken
    ) -> None:
        self.home = home
        self.registry = Registry(home)
        self.approvals = Approvals(home, clock=clock)
        self.clock = clock
        self._snapshot = Snapshot(epoch=-1)
        self._heads: dict[str, Move] = {}  # the last move of each deployment that counts
        self._seen = -1  # the last registry entry that `_heads` knows of
        self._bodies: dict[str, records.ServingSpec] = {}
        self._tainted: tuple[object, dict[str, str | None]] = (None, {})  # at which state of lineage; by spec
        self._gate = Gate(home, self.approvals, clock, tell)

    def deploy(
        self,
        name: str,
        *,
        model: str,
        upstream: str,
        adapters: Sequence[str] = (),
        minimum_assurance: str = "A0",
        durability: str = "D1",
        body_capture: Any = "encrypted",
        weight: int = 1,
        served_as: str | None = None,
        seller: str | None = None,
        endpoint: Sequence[str] = (),
        credentials: str | None = None,
        others: Sequence[Wanted] = (),
        attempts: int = 1,
        reason: str | None = None,
        allow_tainted: str | None = None,
        expect: str | None = None,
        signer: Signer | None = None,
    ) -> Live:
        """Point `name` at a new serving spec.

        `model` and `adapters` are registry refs; `upstream` is the base URL of the engine, without `/v1`. `others` are
        further targets, `attempts` how many of them one call may be tried on. `expect` is the start of the spec that it
        must serve now; `allow_tainted` says why a descendant of a revoked version may be served all the same.
        Raises: as `targets.pin`; PolicyDenied `model-tainted`, `approvals-missing` or `deployment-moved`; UsageError
        `bad-option`.
        """
        check_options(name, minimum_assurance, durability, body_capture, attempts)
        wanted = Wanted(
            model=model, upstream=upstream, adapters=adapters, weight=weight, served_as=served_as, seller=seller,
            endpoint=endpoint, credentials=credentials,
        )  # fmt: skip
        first, *rest = (pin(self.registry, each) for each in (wanted, *others))
        if not any(target.weight for target in (first, *rest)):
            raise UsageError("bad-option", "no target takes calls", got="weight 0 everywhere", expected="one above 0")
        spec = records.ServingSpec(
            **{field: getattr(first, field) for field in first.__struct_fields__}, others=tuple(rest),
            attempts=attempts, minimum_assurance=minimum_assurance, durability=durability, body_capture=body_capture,
        )  # fmt: skip
        signer = signer or self.registry.signer()
        return self._forward(name, spec, "set", reason, allow_tainted, signer, self._seen_by(name, expect)).live

    def promote(
        self, source: str, to: str, *, reason: str | None = None, allow_tainted: str | None = None,
        expect: str | None = None, signer: Signer | None = None,
    ) -> Moved:  # fmt: skip
        """Point `to` at exactly the serving spec that the deployment `source` serves.

        Raises: MissingError `unknown-deployment`; PolicyDenied `approvals-missing`, `model-revoked`, `model-tainted`,
        `deployment-moved` or `nothing-to-promote`.
        """
        check_name(to)
        head = self._seen_by(to, expect)
        origin = self.history(source)[-1]
        if head is not None and head.spec == origin.spec:
            raise PolicyDenied("nothing-to-promote", f"{to} serves this spec already", got=origin.spec)
        reason = reason or f"as {source} serves it ({origin.position})"
        signer = signer or self.registry.signer()
        return self._forward(to, self.spec(origin.spec), "promote", reason, allow_tainted, signer, head)

    def rollback(
        self, name: str, *, to: str | None = None, to_time: datetime | None = None, reason: str | None = None,
        incident: str | None = None, ahead: Ahead = lambda _: (), expect: str | None = None,
        signer: Signer | None = None,
    ) -> tuple[Live, Position]:  # fmt: skip
        """Point `name` back at the spec before this one, at `to` (the start of a spec ID it had), or at the one that
        was live at `to_time`.

        A rollback takes its target off the history, so that the next one goes further back. It needs no approvals: its
        target was live here. `ahead` gives statements that go into the log with it, before it, or nothing does.
        Raises: MissingError `unknown-deployment`, `nothing-to-roll-back`; PolicyDenied `model-revoked`,
        `deployment-moved`.
        """
        signer = signer or self.registry.signer()
        self.history(name)
        head = self._seen_by(name, expect)
        with self._moving(name, head) as moves:
            earlier = [spec for spec in stack(moves) if spec != moves[-1].spec]
            if to is not None:
                earlier = [spec for spec in earlier if spec.startswith(to) or spec.partition(":")[2].startswith(to)]
            if to_time is not None:
                then = next((m.spec for m in reversed(moves) if m.at <= timestamp(to_time)), None)
                earlier = [spec for spec in earlier if spec == then]
            if not earlier:
                wanted = to or (timestamp(to_time) if to_time else None)
                such = "such " if wanted else ""
                raise MissingError(
                    "nothing-to-roll-back", f"{name} has no {such}earlier spec to go back to", got=wanted,
                    hint=f"genealog show {name}; what was rolled back from comes back by genealog deploy or promote",
                )  # fmt: skip
            body = self.spec(earlier[-1])
            if revoked := self._revoked(body, revocations(self._index())):
                raise PolicyDenied("model-revoked", f"the spec before this one serves a revoked model: {revoked}")
            batch: list[tuple[Record, str, str | None]] = [(each, title, None) for each, title in ahead(moves)]
            batch.append((self._ref(name, earlier[-1], "rollback", reason, moves, incident=incident), name, None))
            position = self.registry.append_all(batch, signer=signer, settle=False)[-1]
        self.registry.ledger.settle()  # gateways follow meanwhile
        taint = self.taint(body)
        return Live(name, earlier[-1], body, tainted=str(taint) if taint else None), position

    def moves(self, name: str) -> list[Move]:
        """Return every move of `name`, oldest first, those without effect too; none for a name that nobody used."""
        return judged(self._rows(name=name))

    def history(self, name: str) -> list[Move]:
        """Return the moves of `name` that count, oldest first. Raises: MissingError `unknown-deployment`."""
        found = counting(self.moves(name))
        if not found:
            raise MissingError(
                "unknown-deployment", "no deployment has this name", got=name, hint="genealog ls deployments"
            )
        return found

    def all_moves(self) -> dict[str, list[Move]]:
        """Return the moves that count of every deployment, by its name."""
        found: dict[str, list[Move]] = {}
        for name, move in self._named_rows():
            found.setdefault(name, []).append(move)
        return {name: counting(judged(moves)) for name, moves in sorted(found.items())}

    def spec(self, identifier: str) -> records.ServingSpec:
        """Return a serving spec by its ID. Raises: MissingError `unknown-spec`."""
        if identifier not in self._bodies:
            table = schema.spec
            row = self._index().first(
                select(schema.entry.c.leaf)
                .join(table, table.c.id == schema.entry.c.id)
                .where(table.c.digest == identifier)
            )
            body = self.registry.statement(row["leaf"]).body if row else None
            if not isinstance(body, records.ServingSpec):
                raise MissingError("unknown-spec", "no serving spec has this ID", got=identifier)
            self._bodies[identifier] = body
        return self._bodies[identifier]

    def find_spec(self, text: str) -> str:
        """Return the ID of the registered spec that begins with `text`. Raises: as `choose_spec`."""
        rows = self._index().rows(select(schema.spec.c.digest).distinct())
        return choose_spec([row["digest"] for row in rows], text)

    def taint(self, body: records.ServingSpec) -> Taint | None:
        """Return from which revoked version something in a spec descends, if any does."""
        index = self._index()
        revoked = revocations(index)
        return next((taint for model in body.models for taint in taints_of(index, model, revoked)), None)

    def unapproved(self, name: str, head: Move | None = None) -> str | None:
        """Say why the live move of a deployment does not rest on the approvals that are asked for; None if it does.

        `head` is the last move that counts, if it is known. Cheap where none are asked for, and while none changes.
        """
        return self._gate.unapproved(name, head, lambda: counting(self.moves(name)))

    def snapshot(self) -> Snapshot:
        """Return every deployment as the registry log has it now."""
        epoch = self.home.registry_log().refresh()
        for name, move in self._named_rows(after=self._seen):
            (known,) = judged([move], self._heads.get(name))
            self._seen = move.index
            if not known.stale:
                self._heads[name] = known
        index = self._index()
        revoked = revocations(index)
        live = {}
        for name, head in sorted(self._heads.items()):
            body = self.spec(head.spec)
            tainted = self._known_taint(head.spec, body, revoked) if revoked else None
            live[name] = Live(name, head.spec, body, self._revoked(body, revoked), tainted, self.unapproved(name, head))
        self._snapshot = Snapshot(epoch, live, revoked)
        return self._snapshot

    def poll(self) -> Snapshot:
        """Return the newest snapshot, made again only if the registry log has grown."""
        if self.home.registry_log().refresh() != self._snapshot.epoch:
            self.snapshot()
        return self._snapshot

    # How a deployment is moved

    def _forward(
        self, name: str, spec: records.ServingSpec, action: Action, reason: str | None, allow_tainted: str | None,
        signer: Signer, head: Move | None,
    ) -> Moved:  # fmt: skip
        identifier = record_id(spec)
        with self._moving(name, head) as moves:
            index = self._index()
            if revoked := self._revoked(spec, revocations(index)):
                raise PolicyDenied("model-revoked", f"this spec serves a revoked model: {revoked}", got=identifier)
            taint = self.taint(spec)
            if taint is not None and not allow_tainted:
                raise PolicyDenied(
                    "model-tainted", f"{taint.artifact} {taint}", got=identifier,
                    hint='look at it, and if it may be served all the same: --allow-tainted "REASON"',
                )  # fmt: skip
            known = index.first(select(schema.spec.c.id).where(schema.spec.c.digest == identifier))
            rests = self.approvals.check(name, identifier, moves, signer.keyid, known=known is not None)
            point: Literal["deploy", "promote"] = "promote" if action == "promote" else "deploy"
            said = self.approvals.said(name, identifier, moves)
            allowed = spec.models if taint is not None else ()
            batch = self._gate.ask(point, name, spec, signer=signer, said=said, allowed=allowed)
            batch += [] if known else [(spec, name, None)]
            if taint is not None:
                batch.append((self._allowed(name, taint, allow_tainted or "", action), name, None))
            batch.append((self._ref(name, identifier, action, reason, moves, approvals=rests), name, None))
            position = self.registry.append_all(batch, signer=signer, settle=False)[-1]
        self.registry.ledger.settle()  # gateways follow meanwhile
        return Moved(Live(name, identifier, spec, tainted=str(taint) if taint else None), position, rests)

    def _seen_by(self, name: str, expect: str | None) -> Move | None:
        """Return the move that a verb sees as it begins. Raises: PolicyDenied `deployment-moved`."""
        head = next(reversed(counting(self.moves(name))), None)
        if expect is not None:
            live = head.spec if head is not None else ""
            named = len(expect.rpartition(":")[2]) >= 8  # less may fit by chance
            if not named or not (live.startswith(expect) or live.partition(":")[2].startswith(expect)):
                raise _moved_on(name, head, expect)
        return head

    @contextmanager
    def _moving(self, name: str, head: Move | None) -> Iterator[list[Move]]:
        """Let nobody else append, and give the moves that count, if the last of them is still `head`."""
        with self.home.registry_log().exclusive():
            moves = counting(self.moves(name))
            last = moves[-1] if moves else None
            if (last and last.leaf) != (head and head.leaf):
                raise _moved_on(name, last, head.spec if head else None)
            yield moves

    def _ref(
        self, name: str, spec: str, action: Action, reason: str | None, moves: Sequence[Move], *,
        incident: str | None = None, approvals: tuple[str, ...] = (),
    ) -> records.Ref:  # fmt: skip
        return records.Ref(
            kind="deployment", name=name, to=spec, at=timestamp(self.clock()), action=action, reason=reason,
            previous=moves[-1].leaf if moves else None, incident=incident, approvals=approvals,
        )  # fmt: skip

    def _allowed(self, name: str, taint: Taint, why: str, action: Action) -> records.Decision:
        return records.Decision(
            point="promote" if action == "promote" else "deploy", outcome="allow", code="model-tainted", subject=name,
            message=f"{taint.artifact} {taint}; allowed: {why}", at=timestamp(self.clock()),
        )  # fmt: skip

    # What is asked

    def _index(self) -> Any:
        return self.registry.ledger.index(REGISTRY)

    def _rows(self, *, name: str) -> list[Move]:
        return [move for _, move in self._named_rows(name=name)]

    def _named_rows(self, *, name: str | None = None, after: int = -1) -> list[tuple[str, Move]]:
        table, entry = schema.ref, schema.entry
        query = (
            select(table, entry.c.leaf, entry.c.signer)
            .join(entry, entry.c.id == table.c.id)
            .where(table.c.kind == "deployment", table.c.id > after)
            .order_by(table.c.id)
        )
        if name is not None:
            query = query.where(table.c.name == name)
        return [(row["name"], _move(row)) for row in self._index().rows(query)]

    @staticmethod
    def _revoked(body: records.ServingSpec, revoked: Mapping[str, str]) -> str | None:
        return next((revoked[artifact] for artifact in body.models if artifact in revoked), None)

    def _known_taint(self, spec: str, body: records.ServingSpec, revoked: Mapping[str, str]) -> str | None:
        """Return the taint of a spec, walking its lineage only when lineage or revocations have changed."""
        newest = self._index().first(select(func.max(schema.event.c.id).label("id")))
        state = (newest and newest["id"], tuple(revoked))
        if self._tainted[0] != state:
            self._tainted = (state, {})
        known = self._tainted[1]
        if spec not in known:
            taint = self.taint(body)
            known[spec] = str(taint) if taint else None
        return known[spec]


def _moved_on(name: str, head: Move | None, expected: str | None) -> PolicyDenied:
    got = f"{head.spec} since {head.position}, by {head.signer}" if head is not None else "nothing"
    return PolicyDenied(
        "deployment-moved", f"{name} does not serve what this move was decided on", got=got, expected=expected,
        hint=f"look what happened: genealog show {name}; then decide again",
    )  # fmt: skip


def _move(row: Mapping[str, Any]) -> Move:
    return Move(
        row["id"], row["leaf"], row["to"], row["action"], row["at"], row["reason"], row["previous"], row["incident"],
        tuple((row["approvals"] or "").split()), row["signer"],
    )  # fmt: skip

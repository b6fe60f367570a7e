"""Deployments: a name that serves, the immutable spec that it points at, and every move that it made.

Deploying and rolling back append a ref move to the registry log; nothing is overwritten. `Deployments.poll` is what a
gateway asks several times a second: it reads nothing unless the log has grown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select

from genealog.core import records
from genealog.core.dsse import Signer
from genealog.core.ids import record_id
from genealog.errors import MalformedError, MissingError, PolicyDenied, UsageError
from genealog.ledger import Position
from genealog.registry import Registry, Version
from genealog.store import schema
from genealog.store.home import REGISTRY, Home

ASSURANCE = ("A0", "A1", "A2", "A3", "A4")
DURABILITY = ("D1", "D2")


@dataclass(frozen=True, slots=True)
class Live:
    """What a deployment serves now. `revoked` says why nothing may be served, where that is so."""

    name: str
    spec: str
    body: records.ServingSpec
    revoked: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every deployment at one size (`epoch`) of the registry log."""

    epoch: int
    live: Mapping[str, Live] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Move:
    """One move of a deployment."""

    index: int
    spec: str
    action: str
    at: str
    reason: str | None


class Deployments:
    """The deployments of one store."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.registry = Registry(home)
        self._snapshot = Snapshot(epoch=-1)

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
        reason: str | None = None,
        signer: Signer | None = None,
    ) -> Live:
        """Point `name` at a new serving spec.

        `model` and `adapters` are registry refs; `upstream` is the base URL of the engine, without `/v1`.
        Raises: MissingError `unknown-artifact`; PolicyDenied `model-revoked`, `wrong-base` or `base-unknown`;
        MalformedError `bad-upstream` or `bad-option`.
        """
        _check_options(name, upstream, minimum_assurance, durability, body_capture)
        served = [self._servable(ref) for ref in (model, *adapters)]
        for adapter in served[1:]:
            base = self.registry.base_of(adapter.id)
            if base is None:
                raise PolicyDenied("base-unknown", f"no registered run says what {adapter.name} was trained on")
            if base.artifact != served[0].id:
                raise PolicyDenied(
                    "wrong-base",
                    f"{adapter.name} was trained on another base",
                    got=served[0].id,
                    expected=base.artifact,
                )
        pinned = [records.Pinned(artifact=v.id, lineage=v.lineage, weights=v.weights) for v in served]
        spec = records.ServingSpec(
            model=pinned[0], adapters=tuple(pinned[1:]), upstream=upstream.rstrip("/"),
            minimum_assurance=minimum_assurance, durability=durability, body_capture=body_capture,
        )  # fmt: skip
        move = self.registry.move("deployment", name, record_id(spec), reason=reason)
        self.registry.append_all([(spec, name, None), (move, name, None)], signer=signer or self.registry.signer())
        return Live(name, record_id(spec), spec)

    def rollback(
        self, name: str, *, to: str | None = None, reason: str | None = None, signer: Signer | None = None
    ) -> tuple[Live, Position]:
        """Point `name` back at the spec before this one, or at `to` (the start of a spec ID it had).

        A rollback takes its target off the history, so that the next one goes further back.
        Raises: MissingError `unknown-deployment` or `nothing-to-roll-back`; PolicyDenied `model-revoked`.
        """
        stack = _stack(self.history(name))
        earlier = [
            spec for spec in stack[:-1] if to is None or spec.startswith(to) or spec.partition(":")[2].startswith(to)
        ]
        if not earlier:
            raise MissingError(
                "nothing-to-roll-back",
                f"{name} has no earlier spec to go back to",
                got=to,
                hint=f"genealog show {name}",
            )
        body = self.spec(earlier[-1])
        if revoked := self._revoked(body):
            raise PolicyDenied("model-revoked", f"the spec before this one serves a revoked model: {revoked}")
        move = self.registry.move("deployment", name, earlier[-1], reason=reason, action="rollback")
        position = self.registry.append(move, signer=signer or self.registry.signer(), name=name)
        return Live(name, earlier[-1], body), position

    def history(self, name: str) -> list[Move]:
        """Return every move of `name`, oldest first. Raises: MissingError `unknown-deployment`."""
        table = schema.ref
        rows = self.registry.ledger.index(REGISTRY).rows(
            select(table).where(table.c.kind == "deployment", table.c.name == name).order_by(table.c.id)
        )
        if not rows:
            raise MissingError(
                "unknown-deployment", "no deployment has this name", got=name, hint="genealog ls deployments"
            )
        return [Move(row["id"], row["to"], row["action"], row["at"], row["reason"]) for row in rows]

    def spec(self, identifier: str) -> records.ServingSpec:
        """Return a serving spec by its ID. Raises: MissingError `unknown-spec`."""
        table = schema.spec
        row = self.registry.ledger.index(REGISTRY).first(
            select(schema.entry.c.leaf).join(table, table.c.id == schema.entry.c.id).where(table.c.digest == identifier)
        )
        body = self.registry.statement(row["leaf"]).body if row else None
        if not isinstance(body, records.ServingSpec):
            raise MissingError("unknown-spec", "no serving spec has this ID", got=identifier)
        return body

    def snapshot(self) -> Snapshot:
        """Return every deployment as the registry log has it now."""
        epoch = self.home.registry_log().refresh()
        table = schema.ref
        names = self.registry.ledger.index(REGISTRY).rows(
            select(table.c.name).where(table.c.kind == "deployment").distinct().order_by(table.c.name)
        )
        live = {}
        for name in (row["name"] for row in names):
            spec = self.history(name)[-1].spec
            body = self.spec(spec)
            live[name] = Live(name, spec, body, self._revoked(body))
        self._snapshot = Snapshot(epoch, live)
        return self._snapshot

    def poll(self) -> Snapshot:
        """Return the newest snapshot, made again only if the registry log has grown."""
        if self.home.registry_log().refresh() != self._snapshot.epoch:
            self.snapshot()
        return self._snapshot

    def _servable(self, ref: str) -> Version:
        version = self.registry.resolve(ref)
        if version.revoked is not None:
            raise PolicyDenied("model-revoked", f"{version.name} was revoked: {version.revoked}", got=version.id)
        return version

    def _revoked(self, body: records.ServingSpec) -> str | None:
        for artifact in body.models:
            if (reason := self.registry.revocation(artifact)) is not None:
                return reason
        return None


def _stack(moves: Sequence[Move]) -> list[str]:
    stack: list[str] = []
    for move in moves:
        if move.action == "rollback" and move.spec in stack:
            del stack[len(stack) - stack[::-1].index(move.spec) :]
        elif stack[-1:] != [move.spec]:  # deployed again as it was: nothing to go back to
            stack.append(move.spec)
    return stack


def _check_options(name: str, upstream: str, assurance: str, durability: str, capture: str) -> None:
    if not name or any(c.isspace() or not c.isprintable() for c in name):
        raise UsageError("bad-option", "a deployment's name has no spaces", got=repr(name))
    if "@" in upstream:  # first of all: the errors below quote the URL
        raise MalformedError("bad-upstream", "an upstream URL is public: leave user and password out of it")
    try:
        parts = urlsplit(upstream)
        fine = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        fine = fine and parts.port != 0 and upstream.isascii() and upstream.isprintable() and " " not in upstream
    except ValueError:
        fine = None
    if not fine:
        raise MalformedError("bad-upstream", "not the base URL of an engine", got=upstream, expected="http://HOST:PORT")
    if parts.path.rstrip("/").endswith("/v1"):
        raise MalformedError(
            "bad-upstream",
            "the base URL of an engine ends before /v1",
            got=upstream,
            expected=upstream.rstrip("/").removesuffix("/v1"),
        )
    for value, known, what in (
        (assurance, ASSURANCE, "assurance level"),
        (durability, DURABILITY, "durability class"),
        (capture, ("encrypted", "hashes", "none"), "body capture"),
    ):
        if value not in known:
            raise UsageError("bad-option", f"no such {what} here", got=value, expected=", ".join(known))

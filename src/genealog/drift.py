"""Drift: a vendor's model that is not what it was, by what its answers report.

Nothing is known of a hosted model but what it says of itself, so that is its version: vendor, model and fingerprint,
under one ID. Each version that a target of a deployment shows for the first time is a statement in the registry log,
with the call that showed it. The first one follows nothing if it fits what was registered, else it follows that. Of a
target that shows more than `MOST` the last that is noted says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import select

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.ids import record_id
from genealog.core.records import Drift, ExternalModel, ServingSpec
from genealog.core.statement import read_statement
from genealog.errors import GenealogError
from genealog.ledger import Ledger, Position
from genealog.sealing import Reported
from genealog.store import schema
from genealog.store.home import REGISTRY

MOST = 256  # versions of one target that are noted: some vendors sign each answer with another fingerprint

log = logging.getLogger("genealog.drift")


@dataclass(frozen=True, slots=True)
class Seen:
    """A version that a target showed: a drift statement, read. `previous` None: it is what was registered."""

    deployment: str
    spec: str
    target: int
    version: str
    body: ExternalModel
    previous: str | None
    call: str
    at: str
    entry: int


class Watch:
    """Notes versions that nobody has seen. Remembers what the log says of those that somebody has."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: dict[tuple[str, str, int], list[str]] = {}
        self._size = -1

    def take(self, reported: Iterable[Reported], *, now: datetime) -> tuple[Position, ...]:
        """State each version that is new for its target, once.

        Raises: MissingError `no-signer`; StoreError of the registry log. Nothing is stated then, and nothing forgotten:
        the next answer of that version says it again.
        """
        fresh = [each for each in reported if not self._is_known(each)]
        if not fresh:
            return ()
        with self._ledger.home.registry_log().exclusive():
            self._read()
            bodies: list[Drift] = []
            for each in fresh:
                versions = self._versions(each)
                version = record_id(each.body)
                if version in versions or len(versions) >= MOST:
                    continue
                bodies.append(
                    Drift(
                        version=version,
                        body=each.body,
                        deployment=each.deployment,
                        spec=each.spec,
                        call=each.call,
                        at=timestamp(now),
                        target=each.target,
                        previous=versions[-1] if versions else None,
                        last=len(versions) == MOST - 1,
                    )
                )
                versions.append(version)
            try:
                positions = self._ledger.declare([(body, body.deployment) for body in bodies])
            except GenealogError:
                self._known.clear()
                self._size = -1
                raise
        for body in bodies:
            what = "is" if body.previous is None else "has become"
            name = f"{body.body.vendor}/{body.body.model} {body.body.fingerprint or ''}".rstrip()
            log.warning("%s target %d %s %s", body.deployment, body.target, what, name)
        return positions

    def _is_known(self, each: Reported) -> bool:
        known = self._known.get((each.deployment, each.spec, each.target), ())
        return len(known) >= MOST or record_id(each.body) in known

    def _versions(self, each: Reported) -> list[str]:
        """Return the versions that a target showed, oldest first; before any, the one that this one is not."""
        key = each.deployment, each.spec, each.target
        if key not in self._known:
            expected = self._expected(each)
            fits = expected is None or _fits(each.body, expected)
            self._known[key] = [] if fits or expected is None else [record_id(expected)]
        return self._known[key]

    def _read(self) -> None:
        index = self._ledger.index(REGISTRY)
        size = index.size(REGISTRY)
        if size == self._size:
            return
        self._size = size
        self._known.clear()
        table = schema.drift
        for row in index.rows(select(table).order_by(table.c.id)):
            self._known.setdefault((row["deployment"], row["spec"], row["target"]), []).append(row["version"])

    def _expected(self, each: Reported) -> ExternalModel | None:
        """Return the external model that a target is registered to serve."""
        ledger, spec, artifact, entry = self._ledger, schema.spec, schema.artifact, schema.entry
        index = ledger.index(REGISTRY)
        try:
            row = index.first(
                select(entry.c.leaf).join(spec, spec.c.id == entry.c.id).where(spec.c.digest == each.spec)
            )
            body = read_statement(ledger.entry(ledger.at(row["leaf"]))).body if row else None
            targets = body.targets if isinstance(body, ServingSpec) else ()
            if each.target >= len(targets):
                return None
            wanted = targets[each.target].model.artifact
            row = index.first(select(entry.c.leaf).join(artifact, artifact.c.entry == entry.c.id).where(
                artifact.c.digest == wanted))  # fmt: skip
            said = read_statement(ledger.entry(ledger.at(row["leaf"]))).body if row else None
            return msgspec.convert(said.body, ExternalModel) if isinstance(said, records.Artifact) else None
        except (GenealogError, msgspec.ValidationError):
            return None


def seen(ledger: Ledger, deployment: str | None = None) -> list[Seen]:
    """Return every version that targets showed, oldest first, or only those of one deployment."""
    table = schema.drift
    query = select(table).order_by(table.c.id)
    if deployment is not None:
        query = query.where(table.c.deployment == deployment)
    return [
        Seen(
            row["deployment"], row["spec"], row["target"], row["version"],
            ExternalModel(**{name: row[name] for name in ("vendor", "model", "fingerprint", "region")}),
            row["previous"], row["call"], row["at"], row["id"],
        )
        for row in ledger.index(REGISTRY).rows(query)
    ]  # fmt: skip


def _fits(reported: ExternalModel, expected: ExternalModel) -> bool:
    """Say whether an answer reports nothing else than what was registered. Snapshot and region are no part of what it
    reports: that one of them stands in the registry is no drift.
    """
    same = expected.fingerprint is None or expected.fingerprint == reported.fingerprint
    return same and (expected.vendor, expected.model) == (reported.vendor, reported.model)

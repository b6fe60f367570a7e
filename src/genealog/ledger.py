"""The ledger: append statements, sequence calls, hand out receipts, prove the whole.

Both logs of a store behind one door. Whoever needs the call log first drains the spools; whoever asks the index first
brings it up to date with the logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from genealog.core.merkle import leaf_hash
from genealog.core.receipt import Receipt, make_receipt
from genealog.errors import GenealogError, MissingError
from genealog.sequencer import Sequenced, Sequencer, check_sealed
from genealog.store import log_fsck, schema
from genealog.store.home import CALLS, REGISTRY, Home
from genealog.store.index import Index
from genealog.store.log_fsck import Finding


@dataclass(frozen=True, slots=True)
class Position:
    """Where an entry stands: log, index and hex leaf hash."""

    log: str
    index: int
    leaf: str

    def __str__(self) -> str:
        return f"{self.log}:{self.index}"


class Ledger:
    """The two logs of a store, and their index."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def append(self, statements: Sequence[bytes]) -> tuple[Position, ...]:
        """Append signed statements to the registry log in one durable batch, and index them."""
        log = self.home.registry_log()
        placed = log.append(statements)
        log.checkpoint()  # few and precious: signed at once, so that a log that is cut back is noticed
        self.index(REGISTRY)
        return tuple(
            Position(REGISTRY, index, leaf_hash(entry).hex()) for index, entry in zip(placed, statements, strict=True)
        )

    def drain(self) -> Sequenced:
        """Move what waits in the spools into the call log."""
        done = self._sequencer().run_once()
        if done.appended:
            self.home.call_log().checkpoint()
        return done

    def index(self, *logs: str) -> Index:
        """Return the index, up to date with `logs` as they are on disk; without any, with both.

        Who asks about models does not wait for calls: a busy gateway leaves many to be indexed.
        """
        for name in logs or (REGISTRY, CALLS):
            log = self.home.log(name)
            self.home.index.catch_up(name, log.refresh(), log.entries)
        return self.home.index

    def rebuild(self) -> int:
        """Forget the index and read both logs again. Returns the number of entries."""
        self.home.index.clear()
        self.index()
        return sum(self.home.log(name).size for name in (REGISTRY, CALLS))

    def entry(self, position: Position) -> bytes:
        """Return the bytes of an entry."""
        return self.home.log(position.log).entry(position.index)

    def at(self, leaf: str) -> Position:
        """Return the place of the registry entry with this hex leaf hash. Raises: MissingError `unknown-entry`."""
        row = self.index(REGISTRY).first(select(schema.entry.c.id).where(schema.entry.c.leaf == leaf))
        if row is None:
            raise MissingError("unknown-entry", "no registry entry has this leaf hash", got=leaf)
        return Position(REGISTRY, row["id"], leaf)

    def call(self, call: str) -> Position:
        """Return the place of a call by its ID, draining the spools first. Raises: MissingError `unknown-call`."""
        self.drain()
        row = self.index().first(
            select(schema.call.c.id, schema.call.c.leaf).where(schema.call.c.call == call).order_by(schema.call.c.id)
        )
        if row is None:
            raise MissingError("unknown-call", "no such call in the log", got=call, hint="genealog ls calls")
        return Position(CALLS, row["id"], row["leaf"])

    def receipt(self, position: Position) -> Receipt:
        """Return the receipt of an entry under the newest checkpoint."""
        log = self.home.log(position.log)
        proof = log.prove(position.index)
        return make_receipt(log.entry(position.index), log.origin, proof)

    def fsck(self, *, repair: bool = False) -> tuple[Finding, ...]:
        """Prove everything again from the bytes on disk: logs, signatures of statements, objects, sealed groups."""
        findings: list[Finding] = []
        for name in (REGISTRY, CALLS):
            log = self.home.path / "logs" / name
            verifier = self.home.verifier(name)
            findings += log_fsck.fsck(log, verifier=verifier, repair=repair)
        if any(finding.severity == "error" for finding in findings):
            return tuple(findings)
        return (*findings, *self._statements(), *self._groups(), *self._gaps())

    def _statements(self) -> list[Finding]:
        index = self.index()
        doubtful = index.rows(select(schema.entry).where(schema.entry.c.problem.is_not(None)))
        found = [
            Finding("error", row["problem"], f"{REGISTRY}:{row['id']}", "a statement that nobody vouches for")
            for row in doubtful
        ]
        for row in index.rows(select(schema.artifact.c.digest, schema.artifact.c.manifest)):
            if row["manifest"] is None:
                continue
            try:
                self.home.objects.get(row["manifest"])
            except GenealogError as error:
                found.append(
                    Finding("error", error.code, f"objects/{row['manifest']}", f"the manifest of {row['digest']}")
                )
        return found

    def _gaps(self) -> list[Finding]:
        """What the spools lost and said so: not an error of the store, and never silent."""
        gaps = self._sequencer().gaps()
        lost = "calls may be missing after frame"
        return [
            Finding("warning", f"gap-{gap.reason}", f"spool/{gap.emitter}/{gap.boot}", f"{lost} {gap.after}")
            for gap in gaps
        ]

    def _sequencer(self) -> Sequencer:
        return Sequencer(self.home.spool_dir, self.home.call_log(), self.home.vault)

    def _groups(self) -> list[Finding]:
        log = self.home.call_log()
        return list(check_sealed(log.entries(0, log.size), self.home.vault))

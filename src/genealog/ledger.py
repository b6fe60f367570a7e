"""The ledger: append statements, sequence calls, hand out receipts, prove the whole.

Both logs of a store behind one door. Whoever needs the call log first drains the spools; whoever asks the index first
brings it up to date with the logs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import select

from genealog.core.call import CallLeaf, check_emitter_chain
from genealog.core.canonical import decode
from genealog.core.merkle import leaf_hash
from genealog.core.receipt import Receipt, make_receipt
from genealog.errors import GenealogError, MissingError
from genealog.sequencer import Sequenced, Sequencer, check_sealed
from genealog.store import log_fsck, schema
from genealog.store.home import CALLS, REGISTRY, Home
from genealog.store.index import Index
from genealog.store.log_fsck import Finding

REGISTRY_TABLES = tuple(name for name in schema.metadata.tables if name not in ("call", "progress"))


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
            verifiers = self.home.log_keys(name).verifiers
            findings += log_fsck.fsck(log, verifiers=verifiers, repair=repair)
        for prove in (self._statements, self._groups, self._chains, self._gaps):
            if any(finding.severity == "error" for finding in findings):
                break  # what comes next reads what was just found damaged
            findings += prove()
        return tuple(findings)

    def _statements(self) -> list[Finding]:
        """Read the registry log into an index of its own: the one on disk is what is checked, not what is believed."""
        log = self.home.registry_log()
        with TemporaryDirectory() as folder:
            fresh = Index(Path(folder) / "index.sqlite")
            fresh.catch_up(REGISTRY, log.refresh(), log.entries)
            found = self._vouched(fresh)
            if fresh.dump(REGISTRY_TABLES) != self.index().dump(REGISTRY_TABLES):
                what = "it says something else than the registry log: genealog index rebuild"
                found.append(Finding("error", "index-differs", "index.sqlite", what))
            fresh.close()
        return found

    def _vouched(self, index: Index) -> list[Finding]:
        doubtful = index.rows(select(schema.entry).where(schema.entry.c.problem.is_not(None)))
        found = [
            Finding("error", row["problem"], f"{REGISTRY}:{row['id']}", "a statement that nobody vouches for")
            for row in doubtful
        ]
        kept = select(schema.artifact.c.digest, schema.artifact.c.manifest)
        for row in index.rows(kept.where(schema.artifact.c.manifest.is_not(None))):
            try:
                self.home.objects.get(row["manifest"])
            except GenealogError as error:
                found.append(
                    Finding("error", error.code, f"objects/{row['manifest']}", f"the manifest of {row['digest']}")
                )
        return found

    def _chains(self) -> list[Finding]:
        """Follow each emitter's chain. A number that is not there yet may belong to a call that still runs."""
        log = self.home.call_log()
        report = check_emitter_chain(decode(entry, CallLeaf) for entry in log.entries(0, log.size))
        found = [Finding("error", "chain-broken", call, "not chained to the call before") for call in report.broken]
        found += [Finding("error", "call-repeated", call, "on record more than once") for call in report.repeated]
        for gap in report.missing:
            where, what = f"{gap.emitter} {gap.boot}", f"calls {gap.first} to {gap.last} are not on record"
            found.append(Finding("warning", "call-missing", where, what))
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

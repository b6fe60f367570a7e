"""The ledger: append statements, sequence calls, hand out receipts, prove the whole.

All logs of a store behind one door: the registry log and any number of call logs. Whoever needs calls first drains the
spools; whoever asks the index first brings it up to date with the logs. What the sequencer lost and noticed is stated
in the registry log at once, where somebody can sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import select

from genealog.completeness import check_chains, check_losses, losses_not_stated, refused_not_stated
from genealog.core import records
from genealog.core.canonical import Record, timestamp
from genealog.core.dsse import Signer
from genealog.core.merkle import leaf_hash
from genealog.core.receipt import Receipt, make_receipt
from genealog.core.standing import COMPROMISED
from genealog.core.statement import make_statement
from genealog.errors import GenealogError, MissingError, StoreError
from genealog.kept_heads import check_anchors, check_cosigned
from genealog.price_list import PriceList
from genealog.redaction import Redactor, redactor
from genealog.sequencer import Sequenced, Sequencer, Target, check_sealed
from genealog.store import schema
from genealog.store.call_logs import name_of
from genealog.store.charges import Charges, charges_of
from genealog.store.home import REGISTRY, Home
from genealog.store.index import Index
from genealog.store.log_fsck import Finding
from genealog.store.lost_page import lost_frames
from genealog.store.replica_adopt import Copies
from genealog.store.spool_reader import SpoolReader
from genealog.store.vault.erase import Eraser
from genealog.tombstones import check_tombstones

REGISTRY_TABLES = tuple(name for name in schema.metadata.tables if name not in schema.OF_CALLS)


@dataclass(frozen=True, slots=True)
class Position:
    """Where an entry stands: log, index and hex leaf hash."""

    log: str
    index: int
    leaf: str

    def __str__(self) -> str:
        return f"{self.log}:{self.index}"


class Ledger:
    """The logs of a store, and their index."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def append(self, statements: Sequence[bytes]) -> tuple[Position, ...]:
        """Append signed statements to the registry log in one durable batch, and index them."""
        placed = self.place(statements)
        self.settle()
        return placed

    def place(self, statements: Sequence[bytes]) -> tuple[Position, ...]:
        """Append in one durable batch, and no more: for who keeps others waiting. `settle` has to follow."""
        placed = self.home.registry_log().append(statements)
        return tuple(
            Position(REGISTRY, index, leaf_hash(entry).hex()) for index, entry in zip(placed, statements, strict=True)
        )

    def settle(self) -> None:
        """Sign the registry log's head, and index what is new."""
        self.home.registry_log().checkpoint()  # few and precious: signed at once, so that a cut is noticed
        self.index(REGISTRY)

    def drain(self) -> Sequenced:
        """Move what waits in the spools into the call log."""
        done = self.sequencer().run_once()
        if done.appended:
            self.home.call_log().checkpoint()
        self.state_losses()
        with suppress(StoreError):  # the vault is busy, or its objects are out of reach: the next one goes on
            self.finish_erasures()
        return done

    def finish_erasures(self) -> tuple[Position, ...]:
        """Go on with every erasure that was decided: destroy what is left, then put its tombstone into the log.

        An erasure that was killed is completed here by whoever comes next, and told once. Raises: StoreError
        `vault-busy`, and then the next one goes on; `read-only` where this machine cannot append.
        """
        eraser = Eraser(self.home.vault)
        placed: list[Position] = []
        for erasure in eraser.unfinished():
            eraser.destroy(erasure)
            with self.home.registry_log().exclusive():  # nobody tells the same meanwhile
                known = select(schema.entry.c.id).where(schema.entry.c.leaf == erasure.leaf)
                if self.index(REGISTRY).first(known) is None:
                    placed += self.append([erasure.body])
                eraser.told(erasure)
        return tuple(placed)

    def sequencer(self) -> Sequencer:
        """Return a sequencer over the spools and call logs of this store."""
        return self._sequencer(self.home.spool_dir, self.home.calls)

    def adopter(self, folder: Path, *, final: bool) -> Sequencer:
        """Return a sequencer over the copies of spools that a replica has; `final` closes what has no end."""
        self.home.calls.refresh()
        return self._sequencer(folder, Copies(self.home.calls, folder), closes=final)

    def _sequencer(self, folder: Path, target: Target, *, closes: bool = True) -> Sequencer:
        tables = PriceList(self.home, lambda: self.index(REGISTRY))
        return Sequencer(
            folder, target, self.home.vault, tables.now, redact=self.redactor, charge=self.charges, closes=closes
        )

    @cached_property
    def redactor(self) -> Redactor | None:
        """What masks personal data in bodies before they are kept, where the settings ask for it."""
        return redactor(self.home.config.redaction)

    @cached_property
    def charges(self) -> Charges | None:
        """What charges calls to their principals, where the settings limit any."""
        return charges_of(self.home.config, self.home.path)

    def state_losses(self) -> int:
        """State in the registry log what the spools lost and it does not say yet; return how many there were.

        The files beside the spools are read again each time, so that a crash in between leaves nothing out and states
        nothing twice. Does nothing where nobody can sign.
        """
        gaps, refused = SpoolReader(self.home.spool_dir).gaps(), lost_frames(self.home.spool_dir)
        if not gaps and not refused:
            return 0
        index = self.index(REGISTRY)
        untold = losses_not_stated(index, gaps) or refused_not_stated(index, refused)
        if not untold or self.signer() is None:
            return 0
        with self.home.registry_log().exclusive():  # nobody states the same meanwhile
            at = timestamp(datetime.now(UTC))
            name = name_of(self.home.call_log())
            index = self.index(REGISTRY)
            bodies = [
                records.GapNote(
                    log=name, emitter=gap.emitter, boot=gap.boot, after=str(gap.after), reason=gap.reason, at=at,
                    frames=gap.frames, size=gap.size, sha256=gap.sha256, call=gap.call,
                )
                for gap in losses_not_stated(index, gaps)
            ]  # fmt: skip
            bodies += [
                records.GapNote(
                    log=name, emitter=lost.emitter, boot=lost.boot, after="0", reason="store-refused", at=at,
                    frames=lost.frames, since=_moment(lost.since), until=_moment(lost.until),
                )
                for lost in refused_not_stated(index, refused)
            ]  # fmt: skip
            return len(self.declare([(body, f"{body.emitter}/{body.boot}") for body in bodies]))

    def signer(self) -> Signer | None:
        """Return the store's configured signer, None if its key is not here or may not state anything any more."""
        who = self.home.config.identities[self.home.config.signer]
        try:
            signer = self.home.keys.signer(who.key)
        except GenealogError:
            return None
        return signer if self.knows(signer) else None

    def knows(self, signer: Signer) -> bool:
        """Say whether the registry log vouches for a signer: its key is registered to sign, and not revoked."""
        table = schema.key
        known = select(table.c.id).where(
            table.c.keyid == signer.keyid, table.c.revoked.is_(None), table.c.role.in_(("owner", "signer"))
        )
        return self.index(REGISTRY).first(known) is not None

    def declare(self, bodies: Sequence[tuple[Record, str]]) -> tuple[Position, ...]:
        """State (body, name) with the store's configured signer: what the ledger says of itself.

        Raises: MissingError `no-signer`.
        """
        signer = self.signer()
        if signer is None:
            raise MissingError(
                "no-signer", "the configured signer has no key here that the registry knows",
                got=self.home.config.signer, hint="genealog signer ls; see [identities] in genealog.toml",
            )  # fmt: skip
        return self.append([make_statement(body, signer, name=name) for body, name in bodies]) if bodies else ()

    def index(self, *logs: str) -> Index:
        """Return the index, up to date with `logs` as they are on disk; without any, with all.

        Who asks about models does not wait for calls: a busy gateway leaves many to be indexed.
        """
        self._own_index()
        for name in logs or self.names():
            log = self.home.log(name)
            self.home.index.catch_up(name, log.refresh(), log.entries)
        return self.home.index

    def _own_index(self) -> None:
        """Make sure that the index is not another store's of the same origin, before a row of it is read or dropped."""
        if not self.home.index.owner_known and self.home.registry_log().refresh():
            self.home.index.belongs(leaf_hash(self.home.registry_log().entry(0)).hex())

    def names(self) -> tuple[str, ...]:
        """Return the logs that are here: the registry log, then call logs, oldest first."""
        return (REGISTRY, *self.home.calls.names())

    def rebuild(self) -> int:
        """Forget the index and read all logs again. Returns the number of entries."""
        self._own_index()
        self.home.index.clear()
        self.index()
        return sum(self.home.log(name).size for name in self.names())

    def entry(self, position: Position) -> bytes:
        """Return the bytes of an entry."""
        return self.home.log(position.log).entry(position.index)

    def at(self, leaf: str) -> Position:
        """Return the place of the registry entry with this hex leaf hash. Raises: MissingError `unknown-entry`."""
        row = self.index(REGISTRY).first(
            select(schema.entry.c.id).where(schema.entry.c.leaf == leaf).order_by(schema.entry.c.id)
        )
        if row is None:
            raise MissingError("unknown-entry", "no registry entry has this leaf hash", got=leaf)
        return Position(REGISTRY, row["id"], leaf)

    def call(self, call: str) -> Position:
        """Return the place of a call by its ID, draining the spools first. Raises: MissingError `unknown-call`."""
        self.drain()
        row = self.index().first(
            select(schema.call.c.log, schema.call.c.id, schema.call.c.leaf)
            .where(schema.call.c.call == call)
            .order_by(schema.call.c.called_at, schema.call.c.id)
        )
        if row is None:
            raise MissingError("unknown-call", "no such call in the log", got=call, hint="genealog ls calls")
        return Position(row["log"], row["id"], row["leaf"])

    def receipt(self, position: Position) -> Receipt:
        """Return the receipt of an entry under the newest checkpoint."""
        log = self.home.log(position.log)
        proof = log.prove(position.index)
        return make_receipt(log.entry(position.index), log.origin, proof)

    def fsck(self, *, repair: bool = False) -> tuple[Finding, ...]:
        """Prove everything again from the bytes on disk: logs, signatures of statements, objects, kept heads, sealed
        groups, chains of emitters.
        """
        findings: list[Finding] = []
        for name in self.home.log_names():
            found = self.home.fsck_log(name, repair=repair)
            findings += [replace(item, where=f"logs/{name}/{item.where}") for item in found]
        for prove in (self._statements, self._kept_heads, self._groups, self._chains, self._gaps):
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
            if fresh.dump(REGISTRY_TABLES) != self.index(REGISTRY).dump(REGISTRY_TABLES):
                what = "it says something else than the registry log: genealog index rebuild"
                found.append(Finding("error", "index-differs", "index.sqlite", what))
            fresh.close()
        return found

    def _vouched(self, index: Index) -> list[Finding]:
        doubtful = index.rows(select(schema.entry).where(schema.entry.c.problem.is_not(None)))
        found = []
        for row in doubtful:
            where, code = f"{REGISTRY}:{row['id']}", row["problem"]
            if code in COMPROMISED:
                what = "its key was revoked since a time, and it counts no longer"
                found.append(Finding("warning", code, where, what))
            else:
                found.append(Finding("error", code, where, "a statement that nobody vouches for"))
        kept = select(schema.artifact.c.digest, schema.artifact.c.manifest)
        for row in index.rows(kept.where(schema.artifact.c.manifest.is_not(None))):
            try:
                self.home.objects.get(row["manifest"])
            except GenealogError as error:
                found.append(
                    Finding("error", error.code, f"objects/{row['manifest']}", f"the manifest of {row['digest']}")
                )
        return found

    def _kept_heads(self) -> list[Finding]:
        return [*check_anchors(self.home, self.index(REGISTRY)), *check_cosigned(self.home)]

    def _chains(self) -> list[Finding]:
        return list(check_chains(self.home))

    def _gaps(self) -> list[Finding]:
        return list(check_losses(self.home, self.index(REGISTRY)))

    def _groups(self) -> list[Finding]:
        alone = self.home.shared is None or self.home.config.vault.database is not None
        explained, found = check_tombstones(self.home.vault, self.index(REGISTRY), alone=alone)
        for name in self.home.calls.names():
            log = self.home.log(name)
            found += check_sealed(log.entries(0, log.size), self.home.vault, name, explained)
        return found


def _moment(milliseconds: int) -> str:
    return timestamp(datetime.fromtimestamp(milliseconds / 1000, UTC))

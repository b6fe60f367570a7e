"""Erasing in the vault: decided, done, told. Whatever is killed when, the next run goes on where this one stopped.

    DECIDED    one transaction: who is erased is fixed, their subject or tenant is retired, so that nothing new comes
               under its key; the tombstone, signed already, is kept with it
    DELETED    objects outside are deleted, then in one transaction texts, rows and keys (zeroed first)
    SCRUBBED   what was deleted cannot be read from the files any more
    TOLD       the tombstone is in the log (the ledger appends it)

Only one step back is possible: not to decide. What may be erased is the caller's judgement (`genealog.erasure`): he
sees every call while the decision is taken, and refuses by raising.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from genealog.errors import MissingError
from genealog.store.vault import Vault
from genealog.store.vault.call import note_words, outside_names
from genealog.store.vault.keys import KEY

DECIDED, DELETED, SCRUBBED, TOLD = range(4)
WHOLE = ("bodies", "groups", "texts")
_MANY = 500
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call as the vault knows it without opening it. `subject` is the hex digest, empty for none; `at` in ms."""

    call: str
    tenant: str
    subject: str
    at: int
    size: int
    notes: str


@dataclass(frozen=True, slots=True)
class Erasure:
    """A deletion that was decided. `body` is the signed tombstone, `leaf` its hex leaf hash in the log."""

    id: int
    body: bytes
    what: tuple[str, ...]
    at: str
    reason: str
    state: int
    leaf: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """What shall be erased: a tenant, a subject of a tenant (its name, in clear), or calls by ID."""

    tenant: str | None = None
    subject: str | None = None
    calls: tuple[str, ...] = ()


Judge = Callable[[Sequence[CallRow]], tuple[bytes, str, str, str]]
"""Sees every call, and returns tombstone, leaf hash, time and reason. It refuses by raising."""

_SELECT = (
    "SELECT call.call, tenant.name, subject.name, call.at, call.size, call.notes FROM call "
    "JOIN subject ON subject.id = call.subject JOIN tenant ON tenant.id = subject.tenant "
)


class Eraser:
    """Erases in one vault."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._db = vault.db

    def tenants(self) -> list[str]:
        """Return the names of all tenants that were not erased."""
        with self._vault.reading():
            return [name for (name,) in self._db.run("SELECT name FROM tenant WHERE retired = 0 ORDER BY name")]

    def knows(self, tenant: str, subject: str) -> bool:
        """Say whether a tenant has, or had since it was last erased, calls about this subject."""
        with self._vault.reading():
            return bool(self._subjects(Chosen(tenant, subject)))

    def knows_elsewhere(self, digest: str, tenant: str) -> bool:
        """Say whether a subject with this hex digest is here, and of another tenant."""
        if not _DIGEST.fullmatch(digest):  # a signer may have stated anything
            return False
        query = (
            "SELECT 1 FROM subject JOIN tenant ON tenant.id = subject.tenant "
            "WHERE subject.name = ? AND subject.retired = 0 AND tenant.name <> ?"
        )
        return bool(self._db.run(query, (self._vault.key.mask(bytes.fromhex(digest)), tenant)))

    def select(self, chosen: Chosen) -> list[CallRow]:
        """Return the calls that are chosen and have something left."""
        with self._vault.reading():
            return self._rows(chosen)

    def older(self, before: int) -> list[CallRow]:
        """Return the calls that ended before `before` (Unix milliseconds) and have something left, oldest first."""
        with self._vault.reading():
            return self._read(self._db.run(f"{_SELECT} WHERE call.at < ? ORDER BY call.at", (before,)))

    def decide(self, chosen: Chosen, judge: Judge, what: tuple[str, ...] = WHOLE) -> Erasure:
        """Fix what is erased, and keep the tombstone that `judge` returns for it. Nothing is deleted yet.

        Raises: MissingError `nothing-to-erase`; whatever `judge` raises.
        """
        with self._vault.mutex, self._vault.transaction():
            rows = self._rows(chosen)
            subjects = self._subjects(chosen) if not chosen.calls else []
            if not rows and not subjects:
                raise self.nothing(chosen)
            body, leaf, at, reason = judge(rows)
            query = "INSERT INTO erasure(body, what, at, reason, state, leaf) VALUES (?, ?, ?, ?, ?, ?) RETURNING id"
            ((number,),) = self._db.run(query, (body, " ".join(what), at, reason, DECIDED, leaf))
            self._db.many("INSERT INTO erased(call, erasure) VALUES (?, ?)", [(row.call, number) for row in rows])
            self._db.many("UPDATE subject SET retired = ? WHERE id = ?", [(number, subject) for subject in subjects])
            if chosen.subject is None and not chosen.calls:
                self._db.run("UPDATE tenant SET retired = ? WHERE name = ? AND retired = 0", (number, chosen.tenant))
            self._vault.grow_epoch()
            return Erasure(number, body, what, at, reason, DECIDED, leaf)

    def nothing(self, chosen: Chosen) -> MissingError:
        """Return the error that says that nothing of this is here."""
        if chosen.calls and (before := self.of_call(chosen.calls[0])):
            return MissingError("nothing-to-erase", f"erased already, at {before[0].at}", got=chosen.calls[0])
        return MissingError("nothing-to-erase", "the vault holds nothing of this", hint="genealog ls calls")

    def unfinished(self) -> list[Erasure]:
        """Return every erasure that is not told yet, in order."""
        return self._erasures("WHERE state < ?", (TOLD,))

    def all(self) -> list[Erasure]:
        """Return every erasure that ever was, in order."""
        return self._erasures("", ())

    def destroy(self, erasure: Erasure) -> None:
        """Delete what was decided, until no byte of it can be read. Doing it again does no harm.

        Raises: StoreError `vault-busy`, and then it has to be done again.
        """
        with self._vault.mutex:
            if self._state(erasure.id) == DECIDED:
                self._delete(erasure)
            if self._state(erasure.id) == DELETED:
                self._db.scrub()
                self._set(erasure.id, DELETED, SCRUBBED)

    def told(self, erasure: Erasure) -> None:
        """Note that the tombstone is in the log."""
        self._set(erasure.id, SCRUBBED, TOLD)

    def digest(self, erasure: Erasure) -> tuple[int, str]:
        """Return how many calls an erasure names, and the digest over them that its tombstone has to state."""
        return digest_of(call for (call,) in self._db.run("SELECT call FROM erased WHERE erasure = ?", (erasure.id,)))

    def of_call(self, call: str) -> list[Erasure]:
        """Return the erasures that name a call, newest first."""
        found = self._erasures("WHERE id IN (SELECT erasure FROM erased WHERE call = ?)", (call,))
        return found[::-1]

    def _delete(self, erasure: Erasure) -> None:
        mine = "(SELECT call FROM erased WHERE erasure = ?)"
        self._vault.remove(
            [
                name
                for (notes,) in self._db.run(f"SELECT notes FROM call WHERE call IN {mine}", (erasure.id,))  # noqa: S608
                for name in outside_names(notes)
            ]
        )
        with self._vault.transaction():
            if self._state(erasure.id) != DECIDED:  # another process was faster
                return
            ((size,),) = self._db.run(f"SELECT coalesce(sum(size), 0) FROM call WHERE call IN {mine}", (erasure.id,))  # noqa: S608
            if "texts" in erasure.what:
                self._db.run(f"DELETE FROM text WHERE call IN {mine}", (erasure.id,))  # noqa: S608
            subjects = self._db.run(f"SELECT DISTINCT subject FROM call WHERE call IN {mine}", (erasure.id,))  # noqa: S608
            if "groups" in erasure.what:
                self._db.run(f"DELETE FROM call WHERE call IN {mine}", (erasure.id,))  # noqa: S608
            else:
                self._delete_parts(erasure, mine)
            for table in ("subject", "tenant"):
                self._db.run(f"UPDATE {table} SET key = ? WHERE retired = ?", (bytes(KEY + 28), erasure.id))  # noqa: S608
            self._db.run("DELETE FROM subject WHERE retired = ?", (erasure.id,))
            self._db.run("DELETE FROM tenant WHERE retired = ?", (erasure.id,))
            left = "NOT EXISTS (SELECT 1 FROM call WHERE call.subject = subject.id)"  # forget who has no calls left
            self._db.many(f"DELETE FROM subject WHERE id = ? AND {left}", subjects)  # noqa: S608
            if "bodies" in erasure.what:
                self._vault.set_number("kept", self._vault.number("kept") - int(size))
            self._set(erasure.id, DECIDED, DELETED)
            self._vault.grow_epoch()

    def _delete_parts(self, erasure: Erasure, mine: str) -> None:
        rows = self._db.run(f"SELECT call, size, notes FROM call WHERE call IN {mine}", (erasure.id,))  # noqa: S608
        changed = []
        for call, size, notes in rows:
            words = [word for word in notes.split() if "bodies" not in erasure.what or "@" not in word]
            words += [f"{part}!{erasure.id}" for part in erasure.what]
            changed.append((0 if "bodies" in erasure.what else size, " ".join(words), call))
        self._db.many("UPDATE call SET size = ?, notes = ? WHERE call = ?", changed)
        if "bodies" in erasure.what:
            none = "body_request = NULL, body_response = NULL, body_report = NULL"
            self._db.run(f"UPDATE call SET {none} WHERE call IN {mine}", (erasure.id,))  # noqa: S608

    def _rows(self, chosen: Chosen) -> list[CallRow]:
        if chosen.calls:
            return [
                row for at in range(0, len(chosen.calls), _MANY) for row in self._by_id(chosen.calls[at : at + _MANY])
            ]
        subjects = self._subjects(chosen)
        found: list[CallRow] = []
        for subject in subjects:
            found += self._read(self._db.run(f"{_SELECT} WHERE call.subject = ?", (subject,)))
        return sorted(found, key=lambda row: row.call)

    def _by_id(self, calls: Sequence[str]) -> list[CallRow]:
        return self._read(self._db.run(f"{_SELECT} WHERE call.call IN ({', '.join('?' * len(calls))})", calls))

    def _subjects(self, chosen: Chosen) -> list[int]:
        rows = self._db.run("SELECT id, name, key FROM tenant WHERE name = ? AND retired = 0", (chosen.tenant,))
        if not rows:
            return []
        if chosen.subject is None:
            found = self._db.run("SELECT id FROM subject WHERE tenant = ? AND retired = 0", (rows[0][0],))
        else:
            digest = self._vault.open_tenant(rows[0][1], rows[0][2]).name(chosen.subject)
            query = "SELECT id FROM subject WHERE tenant = ? AND name = ? AND retired = 0"
            found = self._db.run(query, (rows[0][0], self._vault.key.mask(digest)))
        return [number for (number,) in found]

    def _read(self, rows: Iterable[tuple[object, ...]]) -> list[CallRow]:
        unmask = self._vault.key.unmask
        return [
            CallRow(str(call), str(tenant), unmask(bytes(name)).hex(), int(str(at)), int(str(size)), str(notes))  # type: ignore[call-overload]
            for call, tenant, name, at, size, notes in rows
        ]

    def _erasures(self, where: str, values: tuple[object, ...]) -> list[Erasure]:
        query = f"SELECT id, body, what, at, reason, state, leaf FROM erasure {where} ORDER BY id"  # noqa: S608
        return [
            Erasure(number, bytes(body), tuple(what.split()), at, reason, state, leaf)
            for number, body, what, at, reason, state, leaf in self._db.run(query, values)
        ]

    def _state(self, erasure: int) -> int:
        ((state,),) = self._db.run("SELECT state FROM erasure WHERE id = ?", (erasure,))
        return int(state)

    def _set(self, erasure: int, old: int, new: int) -> None:
        self._db.run("UPDATE erasure SET state = ? WHERE id = ? AND state = ?", (new, erasure, old))


def erased_parts(notes: str) -> frozenset[str]:
    """Return what was erased of a call that is still there."""
    return frozenset(word[:-1] for word in note_words(notes) if word in ("bodies!", "texts!"))


def digest_of(calls: Iterable[str]) -> tuple[int, str]:
    """Return the number of calls, and the hex SHA-256 over their IDs, sorted, each with a line feed."""
    ordered = sorted(calls)
    return len(ordered), hashlib.sha256("".join(f"{call}\n" for call in ordered).encode()).hexdigest()

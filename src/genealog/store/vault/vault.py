"""The vault: the erasable side of the call log. Salts, sealed groups, bodies, and an index to find a text again.

Everything in it that says something about a call is AES-256-GCM under a key of that call, which hangs from its
subject's, its tenant's, and the vault key (`store.vault.keys`); whoever destroys one of them has erased what hangs
from it (`store.vault.erase`). A *subject* is the person a call is about; its name stands nowhere, a keyed digest does.

Texts are found by HMAC-SHA256 under a key of the vault: exact first, then with white space normalised. Without the
key the index does not even tell whether two texts are equal to a guess.

Big bodies may lie outside, as objects with random names; a body over a limit is not kept, and the row says why.

Long because one lock and one set of keys stand behind every method.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag

from genealog.core.call import GROUPS
from genealog.core.canonical import parse_timestamp
from genealog.errors import MalformedError, MissingError, StoreError, VerificationError
from genealog.store.scale.ports import Objects
from genealog.store.vault.call import NO_LIMITS, NOT_KEPT, Limits, Match, VaultCall, note_words, outside_names
from genealog.store.vault.keys import (
    KEY,
    CallKey,
    Hmac,
    TenantKey,
    VaultKey,
    fresh,
    pack_number,
    unpack_number,
)
from genealog.store.vault.schema import BODIES, COLUMNS, fitting, milliseconds_of, prepare, text_key
from genealog.store.vault.sql import open_sql

Keys = Callable[[], Sequence[bytes]]

SALT = 32
_CACHED = 10_000  # subjects whose keys stay in memory between batches
_AT_ONCE = 16  # objects that are put outside at the same time
_MANY = 500  # values in one IN (…)
_FIELDS = ("call", "source", "subject", "at", "size", "share", "notes", *COLUMNS)
# The same call again (after a crash between vault and log) replaces itself; another call may not take its place.
_PUT = (
    f"INSERT INTO call({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))}) "  # noqa: S608 - our own names
    f"ON CONFLICT(call) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _FIELDS[2:])} "
    "WHERE call.source = excluded.source"
)
_PUT_TEXT = "INSERT INTO text(mac, call, which) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
KEY_OF = (
    "SELECT tenant.name, tenant.key, subject.name, subject.key FROM subject "
    "JOIN tenant ON tenant.id = subject.tenant WHERE subject.id = ?"
)


class Vault:
    """The vault at a path or a `postgresql://` URL, made on first use. Safe in several threads and processes.

    `key` has 32 bytes, or is a function that returns the keys that may fit, asked again when the vault was rotated.
    Raises: StoreError `vault-key-wrong`, `vault-format`, and `vault-unusable` from every method.
    """

    def __init__(
        self,
        place: Path | str,
        key: bytes | Keys,
        *,
        limits: Limits = NO_LIMITS,
        outside: Objects | None = None,
        schema: str = "genealog_vault",
    ) -> None:
        self._given: Keys = key if callable(key) else lambda: (key,)
        candidates = self._keys()
        self.mutex = threading.RLock()
        self.limits = limits
        self.outside = outside
        self._subjects: dict[tuple[str, str], tuple[int, Hmac]] = {}
        self._waiting: dict[str, bytes] = {}
        self._folder = ""
        self.db = open_sql(place, schema)
        try:
            self._learn(prepare(self.db, candidates))
        except BaseException:
            self.db.close()
            raise

    def put_calls(self, batch: Iterable[VaultCall]) -> None:
        """Keep all these calls or none; durable on return. A call that is there from the same source is replaced."""
        with self.mutex, self.transaction():
            calls = list(batch)
            before = self._before([item.call for item in calls])
            kept = self.number("kept")
            rows, texts, left = [], [], []
            self._waiting = {}
            for item in calls:
                source, size, notes = before.get(item.call, (item.source, 0, ""))
                if source == item.source:
                    left += outside_names(notes)
                    kept -= size
                    rows.append(self._row_of(item, kept))
                    kept += rows[-1][4]
                    before[item.call] = (source, rows[-1][4], rows[-1][6])
                    texts += [
                        (digest, item.call, which)
                        for which, text in item.texts
                        for digest in self._texts.digests(text).values()
                    ]
            self._put_outside()  # durable before the rows that name them
            self.db.many(_PUT, rows)
            self.db.many(_PUT_TEXT, self._masked(texts))
            self.set_number("kept", kept)
        self.remove(left)

    def known(self, calls: Sequence[str]) -> set[str]:
        """Return those of `calls` of which anything is kept."""
        with self.reading():
            return set(self._before(calls))

    def get_groups(self, call: str) -> dict[str, tuple[bytes, bytes]]:
        """Return group name → (salt, canonical bytes).

        Raises: MissingError `call-not-in-vault`, `call-erased`; VerificationError `vault-row-altered` that names call
        and group.
        """
        key, _, row = self._row(call, [f"group_{name}" for name in GROUPS])
        opened = {
            name: _opened(key, call, f"group_{name}", value) for name, value in zip(GROUPS, row, strict=True) if value
        }
        return {name: (value[:SALT], value[SALT:]) for name, value in opened.items()}

    def get_body(self, call: str, name: str) -> bytes:
        """Return a body, one of `BODIES`, as it came.

        Raises: MissingError `call-not-in-vault`, `call-erased`, `body-not-kept`, `body-redacted`; VerificationError
        `vault-row-altered`.
        """
        body, by = self.get_kept(call, name)
        if by is not None:
            what = f"the {name} of call {call} is kept without personal data: masked by {by}"
            raise MissingError("body-redacted", what, hint=f"genealog vault redacted {call} shows it")
        return body

    def get_kept(self, call: str, name: str) -> tuple[bytes, str | None]:
        """Return what is kept of a body, and which engine masked it (`redaction.rendering`); None: as it came.

        Raises: as `get_body`, but for `body-redacted`.
        """
        if name not in BODIES:
            raise MalformedError("no-such-body", "a call has no such body", got=name, expected=", ".join(BODIES))
        key, notes, (value,) = self._row(call, [f"body_{name}"])
        if number := self._decided(call, "bodies"):
            value, notes = None, f"bodies!{number}"
        words = note_words(notes)
        if value is None and f"{name}@" in words and self.outside is not None:
            found = self.outside.get(words[f"{name}@"])
            if found is None:
                raise VerificationError(
                    "vault-row-altered", f"the object with the {name} of call {call} is gone",
                    hint="restore the bodies of the vault from a backup; the log itself is not touched by this",
                )  # fmt: skip
            value = found.data
        if value is None:
            why = NOT_KEPT.get(words.get(f"{name}!", ""), "")
            if "bodies!" in words:
                why = self.told(int(words["bodies!"]))
            what = f"the {name} of call {call} is not in the vault"
            raise MissingError("body-not-kept", f"{what}: {why}" if why else what)
        return _opened(key, call, f"body_{name}", value), words.get(f"{name}~")

    def find_text(self, text: str) -> list[tuple[str, str, Match]]:
        """Return (call, which, how) for every call that said or was asked this: exact matches first, then those that
        differ in white space only. `which` is `response` (a text part, or the whole body) or `request` (a text part of
        its last message).
        """
        found: dict[tuple[str, str], Match] = {}
        with self.reading():
            for how, digest in self._texts.digests(text.encode("utf-8", "surrogatepass")).items():
                mac = self.key.mask(digest)
                query = "SELECT call, which FROM text WHERE mac = ? ORDER BY call, which"
                for call, which in self.db.run(query, (mac,)):
                    if not self._decided(call, "texts"):
                        found.setdefault((call, which), how)
        return [(call, which, how) for (call, which), how in found.items()]

    def subject_digest(self, tenant: str, subject: str) -> str:
        """Return the hex digest that stands for a subject of a tenant, whether it has calls or not."""
        with self.mutex, self.transaction():
            return self.digest_in(tenant, subject)

    def digest_in(self, tenant: str, subject: str) -> str:
        """Return what `subject_digest` does, in a transaction of the caller."""
        return self._tenant(tenant)[1].name(subject).hex()

    def told(self, erasure: int) -> str:
        """Say when and why an erasure was."""
        rows = self.db.run("SELECT at, reason FROM erasure WHERE id = ?", (erasure,))
        return f"erased at {rows[0][0]}: {rows[0][1]}" if rows else "erased"

    def close(self) -> None:
        """Close the file, or the connection."""
        with self.mutex:
            self.db.close()

    # What follows serves the modules beside this one.

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write alone, with keys that are not older than what is read."""
        with self.db.transaction():
            self._look()
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read with keys that are not older than what is read, but for the blink of an eye."""
        with self.mutex:
            self._look()
            yield

    def number(self, name: str) -> int:
        """Return a counter of `meta`."""
        return unpack_number(bytes(self.db.run("SELECT value FROM meta WHERE name = ?", (name,))[0][0]))

    def set_number(self, name: str, value: int) -> None:
        """Set a counter of `meta`, never below 0."""
        self.db.run("UPDATE meta SET value = ? WHERE name = ?", (pack_number(max(0, value)), name))

    def grow_epoch(self) -> None:
        """Tell every process that keys in its memory may be gone. In a transaction."""
        self.set_number("epoch", self.number("epoch") + 1)

    def remove(self, names: Sequence[str]) -> None:
        """Delete objects outside."""
        if names:
            if self.outside is None:
                raise StoreError(
                    "vault-outside-unknown", "bodies lie outside of the vault, and [vault] does not say where",
                    hint="put `bodies` back into [vault] of genealog.toml",
                )  # fmt: skip
            self.outside.delete(names)

    def open_text_key(self) -> bytes:
        """Return the key that texts are digested under, to be wrapped anew."""
        return self._texts.raw

    def open_tenant(self, name: str, wrapped: bytes) -> TenantKey:
        """Unwrap the key of a tenant. Raises: VerificationError `vault-row-altered`."""
        try:
            return self.key.open_tenant(name, bytes(wrapped))
        except InvalidTag:
            raise VerificationError("vault-row-altered", f"the key of tenant {name!r} was altered") from None

    def _keys(self) -> tuple[VaultKey, ...]:
        return tuple(VaultKey(key) for key in self._given())

    def _learn(self, key: VaultKey) -> None:
        self.key = key
        self.epoch = self.number("epoch")
        self._texts = text_key(self.db, key)
        self._subjects.clear()

    def _look(self) -> None:
        """Forget keys that may have been destroyed or wrapped anew since."""
        if self.number("epoch") != self.epoch:
            self._learn(fitting(self.db, (self.key, *self._keys())))

    def _row_of(self, item: VaultCall, kept: int) -> tuple[Any, ...]:
        subject, subject_key = self._subject(item.tenant, item.subject or "")
        share, nonces = fresh(len(COLUMNS))
        key = CallKey(subject_key, item.call, share)
        groups = [
            key.close(column, b"".join(item.groups[name]), nonce)
            for column, name, nonce in zip(COLUMNS, GROUPS, nonces, strict=False)
        ]
        bodies, words, size = [], [], 0
        limits = self.limits
        for name, nonce in zip(BODIES, nonces[len(GROUPS) :], strict=True):
            body = item.bodies.get(name)
            column = None
            mark = item.marks.get(name)
            if body is None:
                words += [mark] if mark is not None else []
            elif limits.max_body is not None and len(body) > limits.max_body:
                words.append(f"{name}!too-big")
            elif limits.max_total is not None and kept + size + len(body) > limits.max_total:
                words.append(f"{name}!vault-full")
            else:
                column = key.close(f"body_{name}", body, nonce)
                size += len(body)
                words += [mark] if mark is not None else []
                if self.outside is not None and limits.inline is not None and len(body) > limits.inline:
                    words.append(f"{name}@{self._later(column)}")
                    column = None
            bodies.append(column)
        at = int(parse_timestamp(item.ended_at).timestamp() * 1000) if item.ended_at else milliseconds_of(item.call)
        return (item.call, item.source, subject, at, size, share, " ".join(words), *groups, *bodies)

    def _later(self, value: bytes) -> str:
        """Name an object that is put outside with the others of this batch."""
        if not self._waiting:
            self._folder = f"bodies/{secrets.token_hex(8)}"
        name = f"{self._folder}/{secrets.token_hex(16)}"
        self._waiting[name] = value
        return name

    def _put_outside(self) -> None:
        """Put what waits, many at a time: one after the other, each would wait for the disk or the network alone."""
        if not self._waiting or self.outside is None:
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            created = list(pool.map(self.outside.put_new, self._waiting.keys(), self._waiting.values()))
        self._waiting = {}
        if not all(created):
            raise StoreError("vault-unusable", "an object outside has the name of a new one", got=self._folder)

    def _before(self, calls: Sequence[str]) -> dict[str, tuple[str, int, str]]:
        """Return source, size and notes of those of `calls` that are there already."""
        found: dict[str, tuple[str, int, str]] = {}
        for start in range(0, len(calls), _MANY):
            part = calls[start : start + _MANY]
            query = f"SELECT call, source, size, notes FROM call WHERE call IN ({', '.join('?' * len(part))})"  # noqa: S608
            found |= {call: (source, size, notes) for call, source, size, notes in self.db.run(query, part)}
        return found

    def _tenant(self, name: str) -> tuple[int, TenantKey]:
        query = "SELECT id, key FROM tenant WHERE name = ? AND retired = 0"
        if not (rows := self.db.run(query, (name,))):
            wrapped = self.key.seal_tenant(name, secrets.token_bytes(KEY))
            self.db.run("INSERT INTO tenant(name, key) VALUES (?, ?)", (name, wrapped))
            rows = self.db.run(query, (name,))
        return rows[0][0], self.open_tenant(name, rows[0][1])

    def _subject(self, tenant: str, name: str) -> tuple[int, Hmac]:
        """Return number and key of a subject, a new one if need be. In a transaction."""
        if found := self._subjects.get((tenant, name)):
            return found
        number, tenant_key = self._tenant(tenant)
        digest = tenant_key.name(name)
        query = "SELECT id, key FROM subject WHERE tenant = ? AND name = ? AND retired = 0"
        where = (number, self.key.mask(digest))
        if not (rows := self.db.run(query, where)):
            wrapped = tenant_key.seal_subject(digest, secrets.token_bytes(KEY))
            self.db.run("INSERT INTO subject(tenant, name, key) VALUES (?, ?, ?)", (*where, wrapped))
            rows = self.db.run(query, where)
        try:
            key = Hmac(tenant_key.open_subject(digest, bytes(rows[0][1])))
        except InvalidTag:
            raise VerificationError("vault-row-altered", f"the key of a subject of {tenant!r} was altered") from None
        if len(self._subjects) >= _CACHED:
            self._subjects.clear()
        self._subjects[tenant, name] = rows[0][0], key
        return rows[0][0], key

    def _row(self, call: str, columns: list[str]) -> tuple[CallKey, str, list[bytes | None]]:
        with self.reading():
            query = f"SELECT subject, share, notes, {', '.join(columns)} FROM call WHERE call = ?"  # noqa: S608
            rows = self.db.run(query, (call,))
            if not rows or self._decided(call, "groups"):
                raise self._gone(call)
            subject, share, notes, *values = rows[0]
            keys = self.db.run(KEY_OF, (subject,))
            if not keys:
                raise self._gone(call)
            tenant, tenant_wrapped, masked, wrapped = keys[0]
            try:
                digest = self.key.unmask(bytes(masked))
                subject_key = self.open_tenant(tenant, tenant_wrapped).open_subject(digest, bytes(wrapped))
            except InvalidTag:
                raise VerificationError("vault-row-altered", f"the key of call {call} was altered") from None
            return CallKey(Hmac(subject_key), call, bytes(share)), notes, [v if v is None else bytes(v) for v in values]

    def _decided(self, call: str, part: str) -> int:
        """Return the erasure that was decided to destroy this and has not done so yet, else 0: it is not shown."""
        query = "SELECT id, what FROM erasure JOIN erased ON erasure = id WHERE call = ? AND state = 0"
        return next((number for number, what in self.db.run(query, (call,)) if part in what.split()), 0)

    def _gone(self, call: str) -> MissingError:
        query = "SELECT erasure FROM erased WHERE call = ? ORDER BY erasure DESC LIMIT 1"
        if rows := self.db.run(query, (call,)):
            return MissingError("call-erased", f"the contents of call {call} are gone: {self.told(rows[0][0])}")
        return MissingError("call-not-in-vault", "the vault has no such call", got=call)

    def _masked(self, texts: Sequence[tuple[bytes, str, str]]) -> list[tuple[bytes, str, str]]:
        """Mask the digests of texts, all at once; neighbours in the index are written together."""
        masked = self.key.mask(b"".join(digest for digest, _, _ in texts))
        rows = [(masked[at * KEY : (at + 1) * KEY], call, which) for at, (_, call, which) in enumerate(texts)]
        rows.sort()
        return rows


def _opened(key: CallKey, call: str, column: str, value: bytes) -> bytes:
    try:
        return key.open(column, value)
    except InvalidTag:
        kind, _, name = column.partition("_")
        raise VerificationError(
            "vault-row-altered", f"{kind} {name!r} of call {call} was altered in the vault",
            hint="restore the vault from a backup; the log itself is not touched by this",
        ) from None  # fmt: skip

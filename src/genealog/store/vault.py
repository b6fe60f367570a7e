"""The vault: the erasable side of the call log. Salts, sealed groups, bodies, and an index to find a text again.

One SQLite file of mode 0600. Everything in it that says something about a call is AES-256-GCM under a key of that call,
derived from its tenant's data key, which lies here wrapped by the vault key: whoever destroys the tenant's row has
erased all its calls. Call ID and column are the additional data, so that no value can be moved to another place.

Texts are found by HMAC-SHA256 under a key from the vault key: exact first, then with white space normalised. Without
the key the index does not even tell whether two texts are equal to a guess.
"""

from __future__ import annotations

import hmac
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from genealog.core.call import GROUPS
from genealog.errors import MalformedError, MissingError, StoreError, VerificationError

Match = Literal["exact", "normalised"]
Which = Literal["response", "request"]

BODIES = ("request", "response", "report")

_FORMAT = 1
_SALT = 32
_NONCE = 12
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tenant(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS call(call TEXT PRIMARY KEY, source TEXT NOT NULL, tenant INTEGER NOT NULL REFERENCES tenant,
    {", ".join(f"group_{name} BLOB" for name in GROUPS)}, {", ".join(f"body_{name} BLOB" for name in BODIES)});
CREATE TABLE IF NOT EXISTS text(mac BLOB NOT NULL, call TEXT NOT NULL, which TEXT NOT NULL,
    PRIMARY KEY (mac, call, which)) WITHOUT ROWID;
PRAGMA user_version = {_FORMAT};
"""
_COLUMNS = ("call", "source", "tenant", *(f"group_{name}" for name in GROUPS), *(f"body_{name}" for name in BODIES))
# The same call again (after a crash between vault and log) replaces itself; another call may not take its place.
_PUT = (
    f"INSERT INTO call({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "  # noqa: S608 - our own names
    f"ON CONFLICT(call) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[2:])} "
    "WHERE call.source = excluded.source"
)


@dataclass(frozen=True, slots=True)
class VaultCall:
    """What the vault keeps of one call.

    `source` is emitter, boot and number; `groups` are (salt, canonical bytes) by name; `bodies` by name of `BODIES`,
    only those that are kept; `texts` are (which, text) to be found again.
    """

    call: str
    source: str
    tenant: str
    groups: Mapping[str, tuple[bytes, bytes]]
    bodies: Mapping[str, bytes] = field(default_factory=dict)
    texts: tuple[tuple[Which, bytes], ...] = ()


class Vault:
    """The vault at `path`, made on first use; `key` has 32 bytes. Safe to use from several threads and processes.

    Raises: StoreError `vault-key-wrong`, `vault-format`, and `vault-unusable` from every method.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        if len(key) != 32:
            raise MalformedError("bad-vault-key", "a vault key has 32 bytes", got=len(key))
        self._mutex = threading.Lock()
        self._wrap = AESGCM(_derive(key, b"genealog/vault/wrap/v1"))
        self._text_key = _derive(key, b"genealog/vault/text/v1")
        self._name = path.name
        with _store_errors(path.name):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise

    def put_calls(self, batch: Iterable[VaultCall]) -> None:
        """Keep all these calls or none; durable on return. A call that is there from the same source is replaced."""
        with self._mutex, _store_errors(self._name), self._transaction():
            for item in batch:
                tenant, data_key = self._tenant(item.tenant)
                seal = _Seal(data_key, item.call)
                groups = [seal.close(f"group_{name}", b"".join(item.groups[name])) for name in GROUPS]
                bodies = [seal.close(f"body_{name}", item.bodies.get(name)) for name in BODIES]
                self._db.execute(_PUT, (item.call, item.source, tenant, *groups, *bodies))
                self._db.executemany(
                    "INSERT OR IGNORE INTO text(mac, call, which) VALUES (?, ?, ?)",
                    [(mac, item.call, which) for which, text in item.texts for mac in self._macs(text).values()],
                )

    def get_groups(self, call: str) -> dict[str, tuple[bytes, bytes]]:
        """Return group name → (salt, canonical bytes) for the groups that were not erased.

        Raises: MissingError `call-not-in-vault`; VerificationError `vault-row-altered` that names call and group.
        """
        seal, row = self._row(call, [f"group_{name}" for name in GROUPS])
        opened = {name: seal.open(f"group_{name}", value) for name, value in zip(GROUPS, row, strict=True) if value}
        return {name: (value[:_SALT], value[_SALT:]) for name, value in opened.items()}

    def get_body(self, call: str, name: str) -> bytes:
        """Return a body, one of `BODIES`, as it came.

        Raises: MissingError `call-not-in-vault`, `body-not-kept`; VerificationError `vault-row-altered`.
        """
        if name not in BODIES:
            raise MalformedError("no-such-body", "a call has no such body", got=name, expected=", ".join(BODIES))
        seal, (value,) = self._row(call, [f"body_{name}"])
        if value is None:
            raise MissingError("body-not-kept", f"the {name} of call {call} is not in the vault")
        return seal.open(f"body_{name}", value)

    def find_text(self, text: str) -> list[tuple[str, str, Match]]:
        """Return (call, which, how) for every call that said or was asked this: exact matches first, then those that
        differ in white space only. `which` is `response` (a text part, or the whole body) or `request` (a text part of
        its last message).
        """
        found: dict[tuple[str, str], Match] = {}
        with self._mutex, _store_errors(self._name):
            for how, mac in self._macs(text.encode("utf-8", "surrogatepass")).items():
                query = "SELECT call, which FROM text WHERE mac = ? ORDER BY call, which"
                for call, which in self._db.execute(query, (mac,)):
                    found.setdefault((call, which), how)
        return [(call, which, how) for (call, which), how in found.items()]

    def close(self) -> None:
        """Close the file."""
        with self._mutex:
            self._db.close()

    def _prepare(self) -> None:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._db.execute(f"PRAGMA {pragma}")
        with self._transaction():
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in (0, _FORMAT):
                raise StoreError("vault-format", "a vault of another format", got=found, expected=_FORMAT)
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            row = self._db.execute("SELECT value FROM meta WHERE name = 'check'").fetchone()
            if row is None:
                self._db.execute("INSERT INTO meta VALUES ('check', ?)", (_encrypt(self._wrap, b"", b"check"),))
                return
        try:
            _decrypt(self._wrap, row[0], b"check")
        except InvalidTag:
            raise StoreError(
                "vault-key-wrong", "this key does not open the vault", hint="use the vault key of this store"
            ) from None

    def _tenant(self, name: str) -> tuple[int, bytes]:
        row = self._db.execute("SELECT id FROM tenant WHERE name = ?", (name,)).fetchone()
        if row is not None:
            return row[0], self._data_key(row[0])
        wrapped = _encrypt(self._wrap, os.urandom(32), b"tenant\0" + name.encode())
        made = self._db.execute("INSERT INTO tenant(name, key) VALUES (?, ?)", (name, wrapped)).lastrowid or 0
        return made, self._data_key(made)

    def _data_key(self, tenant: int) -> bytes:
        row = self._db.execute("SELECT name, key FROM tenant WHERE id = ?", (tenant,)).fetchone()
        if row is None:
            raise MissingError("tenant-erased", "the key of this call's tenant is gone, and its contents with it")
        try:
            return _decrypt(self._wrap, row[1], b"tenant\0" + row[0].encode())
        except InvalidTag:
            raise VerificationError("vault-row-altered", f"the key of tenant {row[0]!r} was altered") from None

    def _row(self, call: str, columns: list[str]) -> tuple[_Seal, list[bytes | None]]:
        with self._mutex, _store_errors(self._name):
            query = f"SELECT tenant, {', '.join(columns)} FROM call WHERE call = ?"  # noqa: S608 - our own names
            row = self._db.execute(query, (call,)).fetchone()
            if row is None:
                raise MissingError("call-not-in-vault", "the vault has no such call", got=call)
            return _Seal(self._data_key(row[0]), call), list(row[1:])

    def _macs(self, text: bytes) -> dict[Match, bytes]:
        macs: dict[Match, bytes] = {"exact": hmac.digest(self._text_key, b"exact\0" + text, "sha256")}
        if words := " ".join(text.decode("utf-8", "replace").split()):
            macs["normalised"] = hmac.digest(self._text_key, b"normalised\0" + words.encode(), "sha256")
        return macs

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._db.rollback()
            raise


class _Seal:
    """Closes and opens the columns of one call, under a key of its own."""

    def __init__(self, data_key: bytes, call: str) -> None:
        self._call = call
        self._cipher = AESGCM(_derive(data_key, b"genealog/vault/call/v1\0" + call.encode()))

    def close(self, column: str, value: bytes | None) -> bytes | None:
        return None if value is None else _encrypt(self._cipher, value, self._place(column))

    def open(self, column: str, value: bytes) -> bytes:
        try:
            return _decrypt(self._cipher, value, self._place(column))
        except InvalidTag:
            kind, _, name = column.partition("_")
            raise VerificationError(
                "vault-row-altered",
                f"{kind} {name!r} of call {self._call} was altered in the vault",
                hint="restore the vault from a backup; the log itself is not touched by this",
            ) from None

    def _place(self, column: str) -> bytes:
        return f"{self._call}\0{column}".encode()


def _derive(key: bytes, label: bytes) -> bytes:
    """Return a 32-byte key for one purpose. Source: SP 800-108 (HMAC as the function, one block)."""
    return hmac.digest(key, label, "sha256")


def _encrypt(cipher: AESGCM, value: bytes, place: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + cipher.encrypt(nonce, value, place)


def _decrypt(cipher: AESGCM, value: bytes, place: bytes) -> bytes:
    """Raises: InvalidTag, also for a value that is too short to be one."""
    if len(value) < _NONCE + 16:
        raise InvalidTag
    return cipher.decrypt(value[:_NONCE], value[_NONCE:], place)


@contextmanager
def _store_errors(name: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError("vault-unusable", f"the vault {name} cannot be used", got=error) from None
    except OSError as error:
        raise StoreError("vault-unusable", f"the vault {name} cannot be used", got=error.strerror) from None

"""The tables of the vault, how a new one is made, and how one of format 1 becomes one of format 2.

    meta      epoch (grows when keys were destroyed or wrapped anew), kept (bytes of bodies), check, text key, format
    tenant    name, and its key, wrapped by the vault key
    subject   keyed digest of the name, masked; and its key, wrapped by its tenant's
    call      what is kept of a call; `notes` says where its bodies are, or why not
    text      masked digest of a text → call
    erasure   a deletion that was decided: its signed tombstone, and how far it got (`store.vault.erase`)
    erased    the calls of each

A row of `tenant` or `subject` with `retired` ≠ 0 belongs to that erasure: nothing new comes under it.
Format 1 had neither subjects nor times: its calls have no subject here, and the time of their ID.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag

from genealog.core.call import GROUPS
from genealog.errors import StoreError
from genealog.store.vault.keys import KEY, TextKey, VaultKey, decrypt, encrypt, pack_number
from genealog.store.vault.sql import Sql, SqliteSql

FORMAT = 2
BODIES = ("request", "response", "report")
COLUMNS = (*(f"group_{name}" for name in GROUPS), *(f"body_{name}" for name in BODIES))
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_CALL = f"""(call TEXT PRIMARY KEY, source TEXT NOT NULL, subject BIGINT NOT NULL REFERENCES subject(id),
    at BIGINT NOT NULL, size BIGINT NOT NULL, share {{blob}} NOT NULL, notes TEXT NOT NULL,
    {", ".join(f"{name} {{blob}}" for name in COLUMNS)})"""
_TEXT = """(mac {blob} NOT NULL, call TEXT NOT NULL, which TEXT NOT NULL, PRIMARY KEY (mac, call, which)){tail}"""
_TENANT = """(id {serial}, name TEXT NOT NULL, retired BIGINT NOT NULL DEFAULT 0, key {blob} NOT NULL,
    UNIQUE (name, retired))"""
_TABLES = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value {blob} NOT NULL)",
    f"CREATE TABLE tenant{_TENANT}",
    """CREATE TABLE subject(id {serial}, tenant BIGINT NOT NULL REFERENCES tenant(id), name {blob} NOT NULL,
        retired BIGINT NOT NULL DEFAULT 0, key {blob} NOT NULL, UNIQUE (tenant, name, retired))""",
    f"CREATE TABLE call{_CALL}",
    f"CREATE TABLE text{_TEXT}",
    """CREATE TABLE erasure(id {serial}, body {blob} NOT NULL, what TEXT NOT NULL, at TEXT NOT NULL,
        reason TEXT NOT NULL, state BIGINT NOT NULL, leaf TEXT NOT NULL)""",
    "CREATE TABLE erased(call TEXT NOT NULL, erasure BIGINT NOT NULL, PRIMARY KEY (call, erasure))",
)
_INDEXES = (
    "CREATE INDEX call_subject ON call(subject)",
    "CREATE INDEX call_at ON call(at)",
    "CREATE INDEX text_call ON text(call)",
)


def milliseconds_of(call: str) -> int:
    """Return the time in a call's ID (a ULID): Unix milliseconds. Source: github.com/ulid/spec."""
    value = 0
    for digit in call[:10]:
        value = value * 32 + max(0, _CROCKFORD.find(digit))
    return value


def prepare(db: Sql, keys: tuple[VaultKey, ...]) -> VaultKey:
    """Make or migrate the tables; return the key that fits.

    Raises: StoreError `vault-format`, `vault-key-wrong`.
    """
    with db.transaction():
        found = _format(db)
        if found == 0:
            _make(db, keys[0])
        elif found == 1:
            _migrate(db, fitting(db, keys))
        elif found != FORMAT:
            raise StoreError("vault-format", "a vault of another format", got=found, expected=FORMAT)
        key = fitting(db, keys)
    if found == 1:
        db.scrub()
    return key


def fitting(db: Sql, keys: tuple[VaultKey, ...]) -> VaultKey:
    """Return the one of `keys` that opens the vault. Raises: StoreError `vault-key-wrong`."""
    ((check,),) = db.run("SELECT value FROM meta WHERE name = 'check'")
    for key in keys:
        try:
            decrypt(key.wrap, check, b"check")
        except InvalidTag:
            continue
        return key
    raise StoreError("vault-key-wrong", "this key does not open the vault", hint="use the vault key of this store")


def wrap_meta(key: VaultKey, text: bytes) -> dict[str, bytes]:
    """Return the rows of `meta` that depend on the vault key."""
    return {"check": encrypt(key.wrap, b"", b"check"), "text-key": encrypt(key.wrap, text, b"text-key")}


def text_key(db: Sql, key: VaultKey) -> TextKey:
    """Return the key that texts are digested under. Raises: StoreError `vault-key-wrong`."""
    ((wrapped,),) = db.run("SELECT value FROM meta WHERE name = 'text-key'")
    try:
        return TextKey(decrypt(key.wrap, wrapped, b"text-key"))
    except InvalidTag:
        raise StoreError("vault-key-wrong", "the key that finds texts was altered") from None


def create(db: Sql, statement: str) -> None:
    """Run a statement that makes something, spelled for this database."""
    db.run(statement.format(**db.words))


def remake_text(db: Sql, old: VaultKey | None, new: VaultKey) -> None:
    """Mask every row of `text` under `new`; `old` None means that it was not masked. In a transaction of the caller."""
    create(db, f"CREATE TABLE text_next{_TEXT}")
    last, insert = b"", "INSERT INTO text_next(mac, call, which) VALUES (?, ?, ?)"
    after = ("", "")
    while rows := db.run(
        "SELECT mac, call, which FROM text WHERE (mac, call, which) > (?, ?, ?) ORDER BY mac, call, which LIMIT 5000",
        (last, *after),
    ):
        plain = ((old.unmask(bytes(mac)) if old else bytes(mac), call, which) for mac, call, which in rows)
        db.many(insert, [(new.mask(mac), call, which) for mac, call, which in plain])
        last, after = rows[-1][0], rows[-1][1:]
    db.run("DROP TABLE text")
    db.run("ALTER TABLE text_next RENAME TO text")
    create(db, _INDEXES[2])


def _format(db: Sql) -> int:
    if not db.has("meta"):
        return 0
    if rows := db.run("SELECT value FROM meta WHERE name = 'format'"):
        return int(bytes(rows[0][0]))
    return int(db.run("PRAGMA user_version")[0][0]) if isinstance(db, SqliteSql) else -1


def _make(db: Sql, key: VaultKey) -> None:
    for statement in (*_TABLES, *_INDEXES):
        create(db, statement)
    _write_meta(db, {**wrap_meta(key, os.urandom(KEY)), "kept": pack_number(0)})


def _write_meta(db: Sql, rows: dict[str, bytes]) -> None:
    rows = {"format": str(FORMAT).encode(), "epoch": pack_number(1), **rows}
    db.many("INSERT INTO meta(name, value) VALUES (?, ?)", list(rows.items()))


def _migrate(db: Sql, key: VaultKey) -> None:
    """Give every tenant a new key, and its old one to the subject that has no name; the columns stay as they are."""
    tenants = db.run("SELECT id, name, key FROM tenant ORDER BY id")
    db.run("ALTER TABLE call RENAME TO call_1")
    db.run("ALTER TABLE tenant RENAME TO tenant_1")
    db.run("DELETE FROM meta")
    for statement in (_TABLES[1], _TABLES[2], _TABLES[3], _TABLES[5], _TABLES[6]):
        create(db, statement)
    for number, name, wrapped in tenants:
        try:
            data_key = decrypt(key.wrap, wrapped, b"tenant\0" + name.encode())
        except InvalidTag:
            raise StoreError("vault-row-altered", f"the key of tenant {name!r} was altered") from None
        own = key.open_tenant(name, key.seal_tenant(name, os.urandom(KEY)))
        db.run("INSERT INTO tenant(id, name, key) VALUES (?, ?, ?)", (number, name, key.seal_tenant(name, own.raw)))
        values = (number, number, b"", own.seal_subject(b"", data_key))
        db.run("INSERT INTO subject(id, tenant, name, key) VALUES (?, ?, ?, ?)", values)
    size = " + ".join(f"coalesce(length(body_{name}) - 28, 0)" for name in BODIES)
    db.connection.create_function("ulid_ms", 1, milliseconds_of, deterministic=True)  # type: ignore[attr-defined]
    columns = ", ".join(COLUMNS)
    db.run(
        f"INSERT INTO call(call, source, subject, at, size, share, notes, {columns}) "  # noqa: S608 - our own names
        f"SELECT call, source, tenant, ulid_ms(call), {size}, x'', '', {columns} FROM call_1"
    )
    db.run("DROP TABLE call_1")
    db.run("DROP TABLE tenant_1")
    db.run(_INDEXES[0])
    db.run(_INDEXES[1])
    remake_text(db, None, key)
    ((kept,),) = db.run("SELECT coalesce(sum(size), 0) FROM call")
    _write_meta(db, {**wrap_meta(key, key.text_v1), "kept": pack_number(kept)})
    db.run(f"PRAGMA user_version = {FORMAT}")

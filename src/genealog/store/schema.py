"""The tables of the index: integer keys inside, digests outside.

A projection of the logs and nothing else: no row holds anything that an entry does not say, so that deleting the file
and reading the logs again gives the same rows.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData()


def _table(name: str, *columns: Column[int] | Column[str] | UniqueConstraint) -> Table:
    return Table(name, metadata, *columns)


def _text(name: str, *, nullable: bool = True, unique: bool = False, index: bool = False) -> Column[str]:
    return Column(name, Text, nullable=nullable, unique=unique or None, index=index or None)


progress = _table("progress", Column("log", String(16), primary_key=True), Column("size", Integer, nullable=False))

entry = _table(
    "entry",
    Column("id", Integer, primary_key=True, autoincrement=False),  # the index in the registry log
    _text("leaf", nullable=False, unique=True),
    _text("predicate"),
    _text("name"),
    _text("keyid"),
    _text("signer"),  # the identity whose key verifies, else NULL
    _text("problem"),  # the code of what is wrong with it, else NULL
)

artifact = _table(
    "artifact",
    Column("id", Integer, primary_key=True),
    _text("digest", nullable=False, unique=True),
    Column("entry", Integer, ForeignKey("entry.id")),  # its first statement; NULL while only an event names it
    _text("kind"),
    _text("name"),
    _text("weights", index=True),
    _text("format"),
    _text("source"),
    Column("files", Integer),
    Column("size", Integer),
    _text("manifest"),
    _text("registered_at"),
)

execution = _table(
    "execution",
    Column("id", Integer, primary_key=True),
    _text("digest", nullable=False, unique=True),
    Column("start", Integer, ForeignKey("entry.id")),
    Column("end", Integer, ForeignKey("entry.id")),  # NULL: it is running, or it crashed
    _text("kind"),
    _text("name"),
    _text("exit"),
    _text("started_at"),
    _text("ended_at"),
)

event = _table(
    "event",
    Column("id", Integer, primary_key=True),
    Column("execution", Integer, ForeignKey("execution.id"), nullable=False, index=True),
    Column("artifact", Integer, ForeignKey("artifact.id"), nullable=False, index=True),
    _text("direction", nullable=False),
    _text("role", nullable=False),
    _text("state", nullable=False),
    _text("weights"),
    UniqueConstraint("execution", "artifact", "direction", "role"),
)

ref = _table(
    "ref",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("kind", nullable=False),
    _text("name", nullable=False, index=True),
    _text("to", nullable=False, index=True),
    _text("action", nullable=False),
    _text("previous"),
    _text("reason"),
    _text("at"),
)

key = _table(
    "key",
    Column("id", Integer, primary_key=True),
    _text("keyid", nullable=False, unique=True),
    _text("identity", nullable=False),
    _text("role", nullable=False),
    _text("public", nullable=False),
    Column("added", Integer, ForeignKey("entry.id"), nullable=False),
    Column("revoked", Integer, ForeignKey("entry.id")),
    _text("reason"),
)

spec = _table(
    "spec",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("digest", nullable=False, index=True),
)

load = _table(
    "load",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("engine"),
    _text("keyid"),
    _text("models"),
    _text("loaded_at"),
)

decision = _table(
    "decision",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("point"),
    _text("outcome"),
    _text("code"),
    _text("subject"),
    _text("message"),
    _text("at"),
)

call = _table(
    "call",
    Column("id", Integer, primary_key=True, autoincrement=False),  # the index in the call log
    _text("call", nullable=False, index=True),
    _text("leaf", nullable=False),
    _text("emitter", nullable=False),
    _text("boot", nullable=False),
    Column("seq", Integer, nullable=False),
    _text("spec"),
    _text("models"),
    _text("assurance"),
    _text("finish"),
    _text("called_at"),
    _text("ended_at"),
)

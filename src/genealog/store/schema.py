"""The tables of the index: integer keys inside, digests outside. The same in SQLite and in PostgreSQL.

A projection of the logs and nothing else: no row holds anything that an entry does not say, so that deleting it and
reading the logs again gives the same rows, in either database. No key is given by the database: `store.projection`
counts artifacts and executions in the order in which the log names them, and an event's key is made of its place.

Lineage is walked over one column pair: `event.src` → `event.dst`, where an artifact is its key and an execution its key
with a minus sign. Two indexes hold both ends, one for each way: columns that the database computes would not be read
from an index alone.

Long because what an index holds is one list, to be read in one place.
"""

from __future__ import annotations

import zlib
from functools import cache

from sqlalchemy import BigInteger, Column, ForeignKey, Index, MetaData, Table, Text, UniqueConstraint
from sqlalchemy import Integer as PlainInteger
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

PROJECTION = 3  # grows when `store.projection` writes other rows into the same tables
EVENT_BITS = 16  # an event's key is its entry's index and its place in it: an entry of 64 KiB has fewer events

metadata = MetaData()
Integer = BigInteger().with_variant(PlainInteger, "sqlite")  # SQLite's own key of a row is called INTEGER
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")  # compared as bytes, as SQLite does


def _table(name: str, *columns: Column[int] | Column[str] | UniqueConstraint | Index) -> Table:
    return Table(name, metadata, *columns)


def _text(
    name: str, *, nullable: bool = True, unique: bool = False, index: bool = False, primary_key: bool = False
) -> Column[str]:
    return Column(
        name, _TEXT, nullable=nullable and not primary_key, unique=unique or None, index=index or None,
        primary_key=primary_key,
    )  # fmt: skip


about = _table(  # what this index is: `version` of the code that made it, `origin` and `first` entry of the store
    "about",
    _text("name", primary_key=True),
    _text("value", nullable=False),
)

progress = _table("progress", _text("log", primary_key=True), Column("size", Integer, nullable=False))

entry = _table(
    "entry",
    Column("id", Integer, primary_key=True, autoincrement=False),  # the index in the registry log
    _text("leaf", nullable=False, index=True),  # an entry may be there twice: then the first one counts
    _text("predicate"),
    _text("name"),
    _text("keyid"),
    _text("signer"),  # the identity whose key verifies, else NULL
    _text("problem"),  # the code of what is wrong with it, else NULL
    _text("at"),  # the time that it gives itself
)

artifact = _table(
    "artifact",
    Column("id", Integer, primary_key=True, autoincrement=False),
    _text("digest", nullable=False, unique=True),
    Column("entry", Integer, ForeignKey("entry.id"), index=True),  # its first statement, if any
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
    Column("id", Integer, primary_key=True, autoincrement=False),
    _text("digest", nullable=False, unique=True),
    Column("start", Integer, ForeignKey("entry.id")),
    Column("end", Integer, ForeignKey("entry.id")),  # NULL: it is running, or it crashed
    _text("kind"),
    _text("name"),
    _text("exit"),
    _text("started_at"),
    _text("ended_at"),
    _text("unseen"),  # the first code that says that the run was not seen whole, or NULL
)

event = _table(
    "event",
    Column("id", Integer, primary_key=True, autoincrement=False),  # entry << EVENT_BITS | its place in the entry
    Column("execution", Integer, ForeignKey("execution.id"), nullable=False),
    Column("artifact", Integer, ForeignKey("artifact.id"), nullable=False, index=True),
    _text("direction", nullable=False),
    _text("role", nullable=False),
    _text("state", nullable=False),
    _text("weights"),
    _text("path"),
    _text("facts"),  # a JSON object of texts, or NULL
    _text("code"),
    Column("src", Integer, nullable=False),  # what a walk goes along: `ends` says how
    Column("dst", Integer, nullable=False),
    UniqueConstraint("execution", "artifact", "direction", "role"),
    Index("event_down", "src", "dst"),
    Index("event_up", "dst", "src"),
)


def for_postgresql() -> None:
    """Have the indexes that walks read hold the key of a row too, which SQLite's do by themselves.

    Not said where they are made: SQLAlchemy would load PostgreSQL's dialect, and half of asyncio, for every command.
    """
    for index in event.indexes:
        if index.name in ("event_down", "event_up"):
            index.dialect_options["postgresql"]["include"] = ["id"]


finding = _table(  # an edge that somebody checked against bytes
    "finding",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    Column("execution", Integer, ForeignKey("execution.id"), nullable=False, index=True),
    Column("artifact", Integer, ForeignKey("artifact.id"), nullable=False, index=True),
    _text("direction", nullable=False),
    _text("role", nullable=False),
    _text("state", nullable=False),
    _text("method", nullable=False),
    _text("code"),
    _text("detail"),
    _text("at", nullable=False),
)

signature = _table(  # a foreign signature over an artifact
    "signature",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    Column("artifact", Integer, ForeignKey("artifact.id"), nullable=False, index=True),
    _text("format", nullable=False),
    _text("method", nullable=False),
    _text("bundle", nullable=False),
    _text("signer", nullable=False),
    _text("at", nullable=False),
)

approval = _table(
    "approval",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("deployment", nullable=False, index=True),
    _text("spec", nullable=False, index=True),
    _text("action", nullable=False),
    _text("reason"),
    _text("at", nullable=False),
)

incident = _table(
    "incident",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("name", nullable=False, index=True),
    _text("action", nullable=False),
    _text("deployment"),
    _text("reason", nullable=False),
    _text("specs", nullable=False),  # IDs, one a line
    _text("artifacts", nullable=False),
    _text("since"),
    _text("until"),
    _text("at", nullable=False),
)

drift = _table(  # a target of a deployment that reported another version than before
    "drift",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("deployment", nullable=False, index=True),
    _text("spec", nullable=False, index=True),
    Column("target", Integer, nullable=False),
    _text("version", nullable=False),
    _text("vendor", nullable=False),
    _text("model", nullable=False),
    _text("fingerprint"),
    _text("region"),
    _text("previous"),
    _text("call", nullable=False),
    _text("at", nullable=False),
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
    _text("incident"),
    _text("approvals"),  # leaf hashes, one a line, or NULL
    _text("at"),
)

key = _table(
    "key",
    Column("id", Integer, primary_key=True, autoincrement=False),  # the entry that added it
    _text("keyid", nullable=False, unique=True),
    _text("identity", nullable=False),
    _text("role", nullable=False),
    _text("public", nullable=False),
    Column("added", Integer, ForeignKey("entry.id"), nullable=False),
    Column("revoked", Integer, ForeignKey("entry.id")),
    _text("reason"),
    _text("since"),
    Column("before", Integer),  # the log had so many entries by then
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
    _text("policy"),
)

assessment = _table(  # what somebody says that an artifact is and may be used for; lists as JSON
    "assessment",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("artifact", nullable=False, index=True),
    _text("licence"),
    _text("tier"),
    _text("purposes", nullable=False),
    _text("data_classes", nullable=False),
    _text("reason"),
    _text("at", nullable=False),
)

break_glass = _table(  # policies put aside for a while: who asked, who agreed, who ended it
    "break_glass",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("name", nullable=False, index=True),
    _text("action", nullable=False),
    _text("deployment"),
    _text("policies", nullable=False),  # as lines
    _text("until"),
    _text("request"),
    _text("reason", nullable=False),
    _text("at", nullable=False),
)

review = _table(  # answers that were held back, and what a person said of them
    "review",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("call", nullable=False, index=True),
    _text("verdict", nullable=False),
    _text("reason", nullable=False),
    _text("at", nullable=False),
)

decision_log = _table(  # decisions of an Open Policy Agent, as it sent them
    "decision_log",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    Column("events", Integer, nullable=False),
    Column("denied", Integer, nullable=False),
    _text("body", nullable=False),  # sha256 of the kept list
    _text("revisions", nullable=False),  # as lines
    _text("source"),
    _text("first", nullable=False),
    _text("last", nullable=False),
    _text("at", nullable=False),
)

head = _table(  # where another log of this store stood
    "head",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("log", nullable=False, index=True),
    _text("origin", nullable=False),
    Column("size", Integer, nullable=False),
    _text("root", nullable=False),
    _text("note", nullable=False),
    _text("continues"),
    Column("closed", Integer, nullable=False),
    _text("at", nullable=False),
)

beat = _table(  # how far one emitter was at that time
    "beat",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("emitter", primary_key=True),
    _text("log", nullable=False),
    Column("size", Integer, nullable=False),
    _text("at", nullable=False),
    _text("boot", nullable=False),
    Column("live", Integer, nullable=False),
    Column("seq", Integer),
    _text("leaf"),
)

gap = _table(  # a loss that was noticed
    "gap",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("log", nullable=False),
    _text("emitter", nullable=False, index=True),
    _text("boot", nullable=False),
    _text("after", nullable=False),
    _text("reason", nullable=False),
    _text("at", nullable=False),
    Column("frames", Integer),
    Column("size", Integer),
    _text("sha256"),
    _text("call"),
)

hold = _table(  # what may not be erased, from here on or no more; selectors as lines
    "hold",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("name", nullable=False, index=True),
    _text("action", nullable=False),
    _text("reason", nullable=False),
    _text("at", nullable=False),
    _text("calls", nullable=False),
    _text("tenants"),  # as a JSON list: a tenant may be called anything, even nothing
    _text("subjects", nullable=False),
    _text("since"),
    _text("until"),
)

tombstone = _table(  # what was destroyed in the vault
    "tombstone",
    Column("id", Integer, ForeignKey("entry.id"), primary_key=True, autoincrement=False),
    _text("scope", nullable=False),
    _text("at", nullable=False),
    _text("reason", nullable=False),
    Column("calls", Integer, nullable=False),
    _text("digest", nullable=False),
    _text("what", nullable=False),
)

call = _table(
    "call",
    _text("log", primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),  # the index in that log
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
Index("call_served", call.c.spec, call.c.called_at)  # what a spec answered, and when


account = _table(  # what calls have in common that somebody pays for: `genealog.cost.projection` says what a state is
    "account",
    Column("id", Integer, primary_key=True, autoincrement=False),  # made of the texts, so that no order matters
    *(
        _text(name)
        for name in (
            "department", "project", "principal", "tenant", "deployment", "model", "seller", "tier", "currency",
            "price", "state", "reason",
        )
    ),
)  # fmt: skip

COUNTS = (
    "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "reasoning_tokens", "audio_prompt_tokens", "audio_completion_tokens", "image_prompt_tokens",
    "image_completion_tokens", "images", "audio_ms", "characters", "searches",
)  # fmt: skip
SUMS = ("calls", "cost", "prompt_tokens", "completion_tokens", "cached_tokens")

cost = _table(  # what a call used, and what it cost, in millionths; NULL: not known
    "cost",
    _text("log", primary_key=True),
    Column("id", Integer, primary_key=True, autoincrement=False),  # the index in that log
    Column("account", Integer, nullable=False),
    Column("at", Integer, nullable=False),  # when it began, ms of Unix time
    Column("hour", Integer, nullable=False, index=True),
    Column("ms", Integer),  # how long it took
    Column("cost", Integer),
    *(Column(name, Integer) for name in COUNTS),
)

spend = _table(  # the sums of an account in an hour of Unix time: what is asked for all day is added up once
    "spend",
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("account", Integer, primary_key=True, autoincrement=False),
    *(Column(name, Integer, nullable=False) for name in SUMS),
)

OF_CALLS = frozenset(("call", "progress", "account", "cost", "spend"))  # what no entry of the registry log gives


reached = Table(  # what a walk has come to; each connection has one of its own, and it is empty between answers
    "reached", MetaData(), Column("node", Integer, primary_key=True, autoincrement=False),
    Column("steps", Integer),
)  # fmt: skip


def ends(execution: int, artifact: int, direction: str) -> tuple[int, int]:
    """Return `src` and `dst` of an event: where lineage comes from and where it goes."""
    return (artifact, -execution) if direction == "in" else (-execution, artifact)


def version() -> int:
    """Return a number that is another one when a table, an index or `PROJECTION` changes: what an index file carries.

    31 bits, because SQLite's `user_version` has no more; never 0, which is what a file without one says.
    """
    return _version(PROJECTION, sum(1 + len(table.columns) + len(table.indexes) for table in metadata.tables.values()))


@cache  # spelling every table takes milliseconds, and each look at the index asks
def _version(projection: int, _size: int) -> int:
    dialect = sqlite.dialect()
    ddl = [str(CreateTable(table).compile(dialect=dialect)) for table in metadata.sorted_tables]
    ddl += sorted(str(CreateIndex(i).compile(dialect=dialect)) for t in metadata.sorted_tables for i in t.indexes)
    return zlib.crc32("\n".join([str(projection), *ddl]).encode()) & 0x7FFFFFFF or 1

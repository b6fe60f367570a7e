"""The database side of scale logs: the schema, one session, what an append is, and the integrator's lock.

One `Session` is one connection, and everything that a lock protects is done on the connection that holds the lock: if
it breaks, the lock is gone and so is the way to write. A broken session raises `database-error` from then on; its
owner opens another one and looks at what is there. After an error while appending nobody knows whether the commit
happened: the marks tell.

Passwords come from the URL, PGPASSWORD, .pgpass or PGSERVICE and never reach an error: foreign messages are dropped,
the five-letter SQLSTATE is kept. Source: postgresql.org/docs/current: explicit-locking, wal-async-commit.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, LiteralString

from genealog.errors import MissingError, StoreError, not_installed
from genealog.store.journal import Mark
from genealog.store.scale.ports import Head, Row

if TYPE_CHECKING:
    from psycopg import Connection

MAX_ROUND_BYTES = 64 * 1024 * 1024
_TABLES: LiteralString = """
CREATE TABLE IF NOT EXISTS store (name text PRIMARY KEY, value text NOT NULL);
CREATE TABLE IF NOT EXISTS coord (
    log text PRIMARY KEY, next bigint NOT NULL, epoch bigint NOT NULL, closed text);
CREATE TABLE IF NOT EXISTS batch (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, data bytea NOT NULL);
ALTER TABLE batch ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS seq (
    log text NOT NULL, first bigint NOT NULL, n integer NOT NULL, batch bigint NOT NULL, digest bytea NOT NULL,
    PRIMARY KEY (log, first));
CREATE TABLE IF NOT EXISTS mark (
    log text NOT NULL, emitter text NOT NULL, boot text NOT NULL, high_water numeric(20) NOT NULL, leaf bytea NOT NULL,
    PRIMARY KEY (log, emitter));
CREATE TABLE IF NOT EXISTS head (
    log text PRIMARY KEY, size bigint NOT NULL, root bytea NOT NULL, note bytea NOT NULL, epoch bigint NOT NULL);
"""
# One statement is one transaction and one round trip. The row of `coord` is locked until the commit is durable, so
# ranges are assigned in the order in which they become durable, and there are no holes. The bytes are written before
# that lock is taken, which is why they have a table of their own: four writers would wait for each other's bytes.
_APPEND: LiteralString = """
WITH written AS (
    INSERT INTO batch (data) SELECT %(data)b WHERE %(n)s > 0 RETURNING id
), range AS (
    UPDATE coord SET next = next + %(n)s FROM (SELECT max(id) AS id FROM written) AS bytes
    WHERE log = %(log)s AND (closed IS NULL OR %(fill)s) RETURNING next - %(n)s AS first, bytes.id
), placed AS (
    INSERT INTO seq (log, first, n, batch, digest) SELECT %(log)s, first, %(n)s, id, %(digest)b FROM range
    WHERE %(n)s > 0
)"""
_MARKS: LiteralString = """, marks AS (
    INSERT INTO mark (log, emitter, boot, high_water, leaf)
    SELECT %(log)s, m.* FROM range, unnest(%(emitters)s::text[], %(boots)s::text[], %(waters)s::numeric[],
        %(leaves)b::bytea[]) AS m
    ON CONFLICT (log, emitter)
    DO UPDATE SET boot = excluded.boot, high_water = excluded.high_water, leaf = excluded.leaf
)"""
_FIRST: LiteralString = " SELECT (SELECT first FROM range), (SELECT max(id) FROM written)"
# A node that is paused or cut off must lose its locks in a minute and not in the two hours of TCP.
_SETTINGS: dict[str, str] = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "lock_timeout": "0",
    "statement_timeout": "0",
}
# What a failed connection may say of its cause. Foreign messages are not passed on whole.
_REASONS = (
    "password authentication failed", "no password supplied", "Connection refused", "connection refused",
    "could not translate host name", "failed to resolve host", "timeout expired", "does not exist",
    "no pg_hba.conf entry", "too many", "No route to host", "Network is unreachable", "No such file or directory",
)  # fmt: skip


class Session:
    """One connection to the database. Not thread-safe; not to be used after a fork."""

    def __init__(self, conninfo: str, schema: str, *, password: str | None = None) -> None:
        try:
            import psycopg
        except ImportError:
            raise not_installed("a shared store", "psycopg", "scale") from None
        self.schema = schema
        secret: dict[str, Any] = {} if password is None else {"password": password}
        with database("connecting"):
            self._connection: Connection[Any] = psycopg.connect(
                conninfo, autocommit=True, application_name="genealog", connect_timeout=10, **secret
            )
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise

    def _set_up(self) -> None:
        settings = {"search_path": '"' + self.schema.replace('"', '""') + '"', **_SETTINGS}
        for name, value in settings.items():
            self.run("SELECT set_config(%s, %s, false)", (name, value))
        row = self.one("SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        if row[1] in ("off", "local"):  # a stronger setting stays
            self.run("SELECT set_config('synchronous_commit', 'on', false)")
        if row[0] != "on":
            raise StoreError(
                "database-not-durable", "this PostgreSQL does not wait for its disk", got="fsync = off",
                hint="set fsync = on: without it an acknowledged entry can be lost",
            )  # fmt: skip

    def run(
        self, query: LiteralString, arguments: Sequence[object] | Mapping[str, object] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own; return its rows. Raises: StoreError `database-error`."""
        with database("asking"):
            cursor = self._connection.execute(query, arguments)
            return cursor.fetchall() if cursor.description is not None else []

    def one(self, query: LiteralString, arguments: Sequence[object] | Mapping[str, object] = ()) -> tuple[Any, ...]:
        """Return the only row of a statement. Raises: MissingError `no-log` if there is none."""
        rows = self.run(query, arguments)
        if not rows:
            raise MissingError("no-log", "the database has no such log", got=self.schema)
        return rows[0]

    def create_tables(self) -> None:
        """Make the schema and its tables where they are missing. Raises: StoreError `database-error`."""
        from psycopg import sql

        with database("making the tables"), self._connection.transaction():
            self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_key(self.schema, "", "tables"),))
            self._connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.schema)))
            self._connection.execute(_TABLES)

    def has_tables(self) -> bool:
        """Tell whether there is a store in this schema."""
        return bool(self.run("SELECT 1 WHERE to_regclass('coord') IS NOT NULL"))

    def create_log(self, log: str, head: Head, marks: Mapping[str, Mark], closed: str | None) -> bool:
        """Insert an empty log, all or nothing; False if there is one of that name."""
        with database("making a log"), self._connection.transaction():
            made = self.run(
                "INSERT INTO coord (log, next, epoch) VALUES (%s, 0, 0) ON CONFLICT DO NOTHING RETURNING log", (log,)
            )
            if made:
                self.run("INSERT INTO head VALUES (%s, %s, %b, %b, 0)", (log, head.size, head.root, head.note))
                self.append(log, 0, b"", marks)
                self.run("UPDATE coord SET closed = %s WHERE log = %s", (closed, log))
        return bool(made)

    def append(self, log: str, count: int, data: bytes, marks: Mapping[str, Mark], *, fill: bool = False) -> int | None:
        """Append a batch; return its first index once it is durable, None if the log is not there or closed.

        `fill` appends to a closed log too: for whoever moves it here.
        """
        digest = sha256(data).digest()
        arguments: dict[str, object] = {"log": log, "n": count, "data": data, "digest": digest, "fill": fill}
        query = _APPEND
        if marks:
            query += _MARKS
            arguments["emitters"] = list(marks)
            arguments["boots"] = [mark.boot for mark in marks.values()]
            arguments["waters"] = [str(mark.high_water) for mark in marks.values()]
            arguments["leaves"] = [mark.leaf for mark in marks.values()]
        first, batch = self.run(query + _FIRST, arguments)[0]
        if first is None:
            self.run("DELETE FROM batch WHERE id = %s", (batch,))
            return None
        return int(first)

    def next(self, log: str) -> int:
        """Return the number of entries. Raises: MissingError `no-log`."""
        return int(self.one("SELECT next FROM coord WHERE log = %s", (log,))[0])

    def closed(self, log: str) -> str | None:
        """Return why nobody may append, None if everybody may. Raises: MissingError `no-log`."""
        why: str | None = self.one("SELECT closed FROM coord WHERE log = %s", (log,))[0]
        return why

    def set_closed(self, log: str, why: str | None) -> None:
        """Keep everybody from appending from now on, or let them again."""
        self.one("UPDATE coord SET closed = %s, epoch = epoch + 1 WHERE log = %s RETURNING log", (why, log))

    def marks(self, log: str) -> dict[str, Mark]:
        """Return the newest mark of every emitter."""
        rows = self.run("SELECT emitter, boot, high_water, leaf FROM mark WHERE log = %s", (log,))
        return {emitter: Mark(boot, int(water), bytes(leaf)) for emitter, boot, water, leaf in rows}

    def head(self, log: str) -> Head:
        """Return the committed head. Raises: MissingError `no-log`."""
        size, root, note, epoch = self.one("SELECT size, root, note, epoch FROM head WHERE log = %s", (log,))
        return Head(size, bytes(root), bytes(note), epoch)

    def rows(self, log: str, first: int, limit: int) -> list[Row]:
        """Return batches from the one that holds `first` on, without holes, until `limit` entries or 64 MiB are full.

        Raises: StoreError `seq-damaged` if a batch does not have its digest.
        """
        found: list[Row] = []
        query: LiteralString = (
            "SELECT first, n, data, digest FROM seq JOIN batch ON batch.id = seq.batch WHERE log = %s AND first >="
            " coalesce((SELECT max(first) FROM seq WHERE log = %s AND first <= %s), %s) AND first < %s"
            " ORDER BY first LIMIT 64"
        )
        start, size = first, 0
        while True:
            page = self.run(query, (log, log, start, start, first + limit))
            for at, count, data, digest in page:
                row = Row(at, count, bytes(data), bytes(digest))
                if row.stop <= start:
                    continue
                if (found and row.first != start) or (not found and row.first > start):
                    return found
                if sha256(row.data).digest() != row.digest:
                    raise StoreError(
                        "seq-damaged", f"the batch at entry {row.first} of {log} is not the one that was acknowledged",
                        hint="restore the database from a backup of now: this entry is not in the bucket yet",
                    )  # fmt: skip
                found.append(row)
                start, size = row.stop, size + len(row.data)
                if size >= MAX_ROUND_BYTES:
                    return found
            if len(page) < 64:
                return found

    def lock(self, log: str, what: str, *, wait: bool) -> bool:
        """Take a lock that this session holds until `unlock` or its end."""
        key = (lock_key(self.schema, log, what),)
        if wait:
            self.run("SELECT pg_advisory_lock(%s)", key)
            return True
        return bool(self.one("SELECT pg_try_advisory_lock(%s)", key)[0])

    def unlock(self, log: str, what: str) -> None:
        """Give a lock back. Raises: StoreError `lock-lost` if it was not held any more."""
        if not self.one("SELECT pg_advisory_unlock(%s)", (lock_key(self.schema, log, what),))[0]:
            raise StoreError("lock-lost", f"the lock of {log} was not held any more")

    def evict(self, log: str, what: str) -> None:
        """End the sessions that hold a lock. Only those of the same database user can be ended."""
        self.run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND ((classid::bigint << 32) | objid::bigint) = %s AND pid <> pg_backend_pid()",
            (lock_key(self.schema, log, what),),
        )

    def expect_silence(self, seconds: int | None) -> None:
        """Let the server end this session when it says nothing for so long; None: never."""
        self.run("SELECT set_config('idle_session_timeout', %s, false)", (f"{seconds or 0}s",))

    def notify(self, log: str) -> None:
        """Wake whoever waits in `wait`."""
        self.run("SELECT pg_notify(%s, '')", (channel(self.schema, log),))

    def listen(self, log: str) -> None:
        """Hear `notify` from now on."""
        from psycopg import sql

        with database("listening"):
            self._connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel(self.schema, log))))

    def wait(self, seconds: float) -> bool:
        """Wait for a `notify`, so long at most; tell whether there was one."""
        with database("waiting"):
            return any(True for _ in self._connection.notifies(timeout=seconds, stop_after=1))

    def revive(self) -> bool:
        """Tell whether an idle session is still there. Costs a system call unless the server has said something."""
        if self.broken:
            return False
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        if not poll.poll(0):
            return True
        try:
            self.run("SELECT 1")
        except StoreError:
            self.close()
            return False
        return True

    @property
    def broken(self) -> bool:
        """Whether the connection is known to be of no more use."""
        return self._connection.closed

    def close(self) -> None:
        """Hang up. Closing twice is fine."""
        self._connection.close()


def lock_key(schema: str, log: str, what: str) -> int:
    """Return the number of an advisory lock: locks of PostgreSQL have no names."""
    digest = sha256(f"genealog/lock/v1\0{schema}\0{log}\0{what}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def channel(schema: str, log: str) -> str:
    """Return the name under which a log's integrator is woken."""
    return f"genealog_{lock_key(schema, log, 'wake') & (1 << 64) - 1:016x}"


def class_of(error: BaseException) -> str:
    """Return what is said of an error of psycopg: its class, its SQLSTATE and a cause that is known, never its text."""
    state, text = getattr(error, "sqlstate", None), str(error)
    reason = next((words for words in _REASONS if words in text), None)
    told = "unknown host" if reason in ("failed to resolve host", "could not translate host name") else reason
    return ", ".join(filter(None, (type(error).__name__, state and f"SQLSTATE {state}", told)))


@contextmanager
def database(doing: str) -> Iterator[None]:
    """Turn what psycopg raises into a StoreError without its text, which may quote a connection string."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        code = "database-error" if doing != "connecting" else "database-unreachable"
        raise StoreError(
            code,
            f"PostgreSQL failed while {doing}",
            got=class_of(error),
            hint="check host, port, database, user and password (PGPASSWORD, .pgpass) and the server's log; whether a"
            " last append was committed shows when the log is opened again",
        ) from None

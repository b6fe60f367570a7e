"""A store in PostgreSQL and object storage, as one machine sees it: what is shared, and the node folder beside it.

    PostgreSQL   genealog.toml and trust.policy (table `store`), logs                      shared, the truth
    bucket       <log>/tile/…, <log>/checkpoint, objects/ab/cdef… (bodies by SHA-256)      shared, the truth
    node folder  keys/, spool/, vault/, index.sqlite, locations.json, heads/               this machine's own
                 remote.json (where the store is, without any password; this node's name)
                 genealog.toml, trust.policy                                               copies, to be read

A node folder is a store folder to everything else; `home` asks here where they differ. The copies are pulled when the
store is opened and whenever it is asked for its trust or settings again; a change goes to the database first, by
compare-and-swap. Node names stand in the names of emitters: numbers and chains of two machines never mix.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genealog.core.canonical import Record, decode, encode
from genealog.errors import GenealogError, MissingError, StoreError
from genealog.store.disk import disk, read_file, replace_file, sync_folder, write_whole
from genealog.store.journal import Mark
from genealog.store.log_fsck import Finding
from genealog.store.log_keys import KeySource, LogKeys
from genealog.store.scale.bodies import SharedBodies
from genealog.store.scale.objects import Below, open_objects, probe
from genealog.store.scale.url import StoreUrl

if TYPE_CHECKING:
    from genealog.store.scale.log import ScaleLog
    from genealog.store.scale.ports import Objects
    from genealog.store.scale.postgres import Session

FILE = "remote.json"
__all__ = ["SHARED", "Shared", "SharedBodies", "write_shared"]

SHARED = ("genealog.toml", "trust.policy")
_passwords: dict[str, str] = {}  # by URL without password; in memory only, and in what forks from here


class NodeFile(Record):
    """The content of `remote.json`."""

    t: Literal["genealog/remote/v1"]
    database: str
    objects: str
    schema: str
    node: str


class Shared:
    """The shared side of a store. Connections are made when needed; threads may share it."""

    def __init__(self, folder: Path, url: StoreUrl, node: str) -> None:
        self.folder = folder
        self.url = url
        self.node = node
        self._objects: Objects | None = None
        if url.password is not None:
            _passwords[url.shown] = url.password

    @classmethod
    def load(cls, folder: Path) -> Shared | None:
        """Return the shared side of the store whose node folder this is, None if it is a store of its own.

        Raises: StoreError `remote-malformed`, `disk-error`.
        """
        data = read_file(folder / FILE)
        if data is None:
            return None
        try:
            found = decode(data, NodeFile)
        except GenealogError as error:
            raise StoreError("remote-malformed", f"{folder / FILE} cannot be used", got=error.message) from None
        url = StoreUrl(found.database, found.objects, found.schema)
        return cls(folder, StoreUrl(url.database, url.objects, url.schema, _passwords.get(url.shown)), found.node)

    @classmethod
    def join(cls, url: StoreUrl) -> Path:
        """Make this machine a node of the store at `url`, if it is none yet; return its folder.

        Raises: MissingError `no-store`; StoreError `node-of-another-store`, `database-unreachable`, `objects-…`.
        """
        folder = url.node_folder
        shared = cls.load(folder)
        if shared is not None:
            if shared.url.shown != url.shown:
                raise StoreError(
                    "node-of-another-store", f"{folder} belongs to another store", got=shared.url.shown,
                    expected=url.shown, hint="set GENEALOG_NODE to another folder",
                )  # fmt: skip
            if url.password is not None:
                _passwords[url.shown] = url.password
            return folder
        shared = cls(folder, url, secrets.token_hex(4))
        if not shared.exists():
            raise MissingError("no-store", f"there is no store at {url.shown}", hint="genealog init URL")
        probe(shared.objects)
        shared.pull()
        shared.save()
        return folder

    @classmethod
    def prepare(cls, url: StoreUrl) -> Shared:
        """Make the tables of a new store, and check that its place is empty and its bucket usable.

        Raises: StoreError `store-exists`, `objects-not-conditional`, `database-unreachable`, `objects-error`.
        """
        shared = cls(url.node_folder, url, secrets.token_hex(4))
        probe(shared.objects)
        session = shared.connect()
        try:
            session.create_tables()
            taken = session.run("SELECT name FROM store") or session.run("SELECT log FROM coord")
        finally:
            session.close()
        if taken:
            raise StoreError(
                "store-exists", f"there is a store at {url.shown} already",
                hint="use it as it is, or choose another schema= and another prefix",
            )  # fmt: skip
        return shared

    @property
    def objects(self) -> Objects:
        """The bucket, below its prefix."""
        if self._objects is None:
            self._objects = open_objects(self.url.objects)
        return self._objects

    @property
    def bodies(self) -> SharedBodies:
        """Content-addressed bodies."""
        return SharedBodies(Below(self.objects, "objects/"))

    def connect(self) -> Session:
        """Open a session. Raises: StoreError `database-unreachable`, `database-not-durable`."""
        from genealog.store.scale.postgres import Session

        return Session(self.url.database, self.url.schema, password=_passwords.get(self.url.shown))

    def save(self) -> None:
        """Write `remote.json`: from now on the folder is this store's."""
        file = NodeFile(
            t="genealog/remote/v1", database=self.url.database, objects=self.url.objects, schema=self.url.schema,
            node=self.node,
        )  # fmt: skip
        self._keep(FILE, encode(file))

    def exists(self) -> bool:
        """Tell whether there is a store."""
        session = self.connect()
        try:
            return session.has_tables() and bool(session.run("SELECT 1 FROM store WHERE name = 'genealog.toml'"))
        finally:
            session.close()

    def pull(self) -> None:
        """Bring the copies in the node folder up to date. Raises: MissingError `no-store`."""
        session = self.connect()
        try:
            found = dict(session.run("SELECT name, value FROM store"))
        finally:
            session.close()
        for name in SHARED:
            if name not in found:
                raise MissingError("no-store", f"there is no store at {self.url.shown}", hint="genealog init URL")
            self._keep(name, found[name].encode())

    def push(self, name: str, old: bytes | None, new: bytes) -> None:
        """Replace a shared file, which was `old` a moment ago (None: not there), and its copy here.

        Raises: StoreError `config-conflict` if somebody else has changed it.
        """
        session = self.connect()
        try:
            if old is None:
                done = session.run(
                    "INSERT INTO store VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING 1", (name, new.decode())
                )
            else:
                done = session.run(
                    "UPDATE store SET value = %s WHERE name = %s AND value = %s RETURNING 1",
                    (new.decode(), name, old.decode()),
                )
        finally:
            session.close()
        if not done:
            raise StoreError("config-conflict", f"{name} was changed on another machine", hint="run the command again")
        self._keep(name, new)

    def owns(self, emitter: str) -> bool:
        """Tell whether an emitter is of this machine."""
        return f"-{self.node}-" in emitter

    def log_names(self) -> frozenset[str]:
        """Return the names of the logs of the store."""
        session = self.connect()
        try:
            return frozenset(row[0] for row in session.run("SELECT log FROM coord"))
        finally:
            session.close()

    def create_log(
        self, name: str, keys: LogKeys, *, marks: Mapping[str, Mark] | None = None, closed: str | None = None
    ) -> ScaleLog:
        """Make a log with these marks and no entry, and open it. Raises: StoreError `log-exists`."""
        from genealog.store.scale.log import ScaleLog

        place = self._of(name)
        return ScaleLog.create(name, keys=keys, connect=self.connect, objects=place, marks=marks or {}, closed=closed)

    def open_log(self, name: str, keys: LogKeys, renew: KeySource | None = None) -> ScaleLog:
        """Open a log. Raises: as `ScaleLog.open`."""
        from genealog.store.scale.log import ScaleLog

        return ScaleLog.open(name, keys=keys, connect=self.connect, objects=self._of(name), renew=renew)

    def fsck(self, name: str, keys: LogKeys, *, repair: bool = False) -> tuple[Finding, ...]:
        """Prove a log again from its bytes."""
        from genealog.store.scale.fsck import fsck

        session = self.connect()
        try:
            return fsck(name, verifiers=keys.verifiers, session=session, objects=self._of(name), repair=repair)
        finally:
            session.close()

    def published(self, name: str) -> bytes | None:
        """Return the bytes of a log's public checkpoint."""
        stored = self._of(name).get("checkpoint")
        return None if stored is None else stored.data

    @contextmanager
    def taken_back(self, logs: Iterable[str]) -> Iterator[None]:
        """Make a store in the body; what it left there is removed again if it fails."""
        try:
            yield
        except BaseException:
            self._abandon(logs)
            raise

    def _abandon(self, logs: Iterable[str]) -> None:
        with suppress(GenealogError):
            for name in logs:
                self.objects.delete(list(self.objects.names(f"{name}/")))
            session = self.connect()
            try:
                for query in _ABANDON:
                    session.run(query)
            finally:
                session.close()

    def _of(self, name: str) -> Below:
        return Below(self.objects, f"{name}/")

    def _keep(self, name: str, data: bytes) -> None:
        with disk(f"writing {name}"):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if read_file(self.folder / name) != data:  # several processes of this machine may find that at once
                temporary = self.folder / f".{name}.{secrets.token_hex(4)}"
                write_whole(temporary, data)
                temporary.replace(self.folder / name)
                sync_folder(self.folder)


def write_shared(folder: Path, name: Literal["genealog.toml", "trust.policy"], data: bytes) -> None:
    """Replace a file of a store; where the store is shared, for all its machines.

    Raises: StoreError `config-conflict`, `disk-error`, `database-unreachable`.
    """
    shared = Shared.load(folder)
    if shared is not None:
        shared.push(name, read_file(folder / name), data)
        return
    with disk(f"writing {name}"):
        replace_file(folder / name, data)


_ABANDON = (
    "DELETE FROM store",
    "DELETE FROM seq",
    "DELETE FROM batch",
    "DELETE FROM mark",
    "DELETE FROM head",
    "DELETE FROM coord",
)

"""One log in PostgreSQL and object storage, as services see it: the `store.port.Log` of a scale store.

Appending needs no key and waits for nobody but the database. What is signed is read from the bucket and checked
against the signed head; what is not signed yet, from the database. Signing needs the log's key and the integrator's
lock: `checkpoint` integrates on the spot if nobody does, and otherwise waits for whoever does.

Everything in an `exclusive` block runs on the connection that holds the lock; if that breaks, the block fails.

Long because what a broken connection means has to be read beside every use of it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from genealog.core.checkpoint import Checkpoint
from genealog.core.merkle import EMPTY_ROOT, consistency_path, inclusion_path
from genealog.core.proof import TlogProof
from genealog.core.tile import TILE, RightEdge
from genealog.errors import MalformedError, MissingError, StoreError
from genealog.store.journal import MAX_BODY, MAX_COUNT, MAX_ENTRY, NO_DIGEST, Mark, encode_frame
from genealog.store.log_keys import KeySource, LogKeys, renewed
from genealog.store.scale.coordinator import LogRows, PostgresCoordinator
from genealog.store.scale.integrator import (
    CHECKPOINT,
    Integrator,
    check_published,
    encode_bundle,
    publish,
    read_checkpoint,
)
from genealog.store.scale.ports import Head, Objects
from genealog.store.scale.postgres import Session
from genealog.store.scale.view import ScaleView

_NO_MARKS: Mapping[str, Mark] = {}
_PATIENCE_S = 60.0  # how long `checkpoint` waits for another machine's integrator
_LOOK_EVERY_S = 0.02


class ScaleLog:
    """One log. Made by `create` or `open`. Thread-safe; not to be used after a fork.

    Every method raises StoreError: `forked`, `log-closed`, `database-error`, `database-unreachable`, `objects-error`,
    and on damage `log-…`, `tile-…`, `bundle-…`, `seq-damaged`. After an error of the database the next call connects
    again and looks at what is there.
    """

    def __init__(
        self, name: str, keys: LogKeys, connect: Callable[[], Session], objects: Objects, renew: KeySource | None
    ) -> None:
        self.name = name
        self.origin = keys.origin
        self.objects = objects
        self._keys = keys
        self._renew = renew
        self._connect = connect
        self._pid = os.getpid()
        self._mutex = threading.RLock()
        self._depth = 0
        self._filling = False
        self._closed = False
        self._session: Session | None = None
        self._integrator: Integrator | None = None
        self._size = 0
        self._published = b""
        self._view = ScaleView(objects, self._check_note)

    @classmethod
    def create(
        cls,
        name: str,
        *,
        keys: LogKeys,
        connect: Callable[[], Session],
        objects: Objects,
        marks: Mapping[str, Mark] = _NO_MARKS,
        closed: str | None = None,
    ) -> ScaleLog:
        """Make a log without entries, signed as such, and open it; with `closed`, so that nobody may append to it yet.

        Raises: StoreError `log-exists`, `read-only` without a key.
        """
        if not keys.signers:
            raise StoreError("read-only", "a log is made with its key", hint="see keys/")
        session = connect()
        try:
            if objects.get(CHECKPOINT) is not None:
                raise StoreError("log-exists", f"the bucket holds a log {name} already", hint="use another prefix")
            note = keys.sign(Checkpoint(keys.origin, 0, EMPTY_ROOT))
            if not session.create_log(name, Head(0, EMPTY_ROOT, note, 0), marks, closed):
                raise StoreError("log-exists", f"there is a log {name} already", hint="open it")
        finally:
            session.close()
        log = cls.open(name, keys=keys, connect=connect, objects=objects)
        objects.replace(CHECKPOINT, note, None)
        return log

    @classmethod
    def open(
        cls,
        name: str,
        *,
        keys: LogKeys,
        connect: Callable[[], Session],
        objects: Objects,
        renew: KeySource | None = None,
    ) -> ScaleLog:
        """Open a log, and hold the database's head against the bucket's checkpoint.

        `connect` opens a session; `objects` is the log's own folder of the bucket.
        Raises: MissingError `no-log`; StoreError `log-rolled-back`, `log-altered`, and as the class says.
        """
        log = cls(name, keys, connect, objects, renew)
        try:
            with log._using():
                pass
        except BaseException:
            log.close()
            raise
        return log

    @property
    def size(self) -> int:
        """The number of entries that this object knows of; `refresh` looks for more."""
        return self._size

    def append(self, entries: Sequence[bytes], marks: Mapping[str, Mark] = _NO_MARKS) -> range:
        """Append entries of ≤ 65,535 bytes and set marks, all or nothing, durable on return. Return the indexes.

        Nothing at all is a no-op; marks alone are written. Raises: StoreError `log-moved` if the log is closed;
        MalformedError `entry-too-big`, `batch-too-big` (> 65,536 entries or 64 MiB), `bad-mark`.
        """
        data = _checked_batch(entries, marks)
        with self._using() as session:
            if not entries and not marks:
                return range(self._size, self._size)
            first = session.append(self.name, len(entries), data, marks, fill=self._filling)
            if first is None:
                raise moved(self.origin, session.closed(self.name))
            self._size = max(self._size, first + len(entries))
            return range(first, first + len(entries))

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other `exclusive` blocks out, on any machine, while several steps are done; begins with a refresh."""
        with self._mutex:
            if self._depth:
                with self._using():
                    yield
                return
            with self._using() as session:
                session.lock(self.name, "sequence", wait=True)
            self._depth = 1
            try:
                self._size = self._grown(session.next(self.name))
                yield
                session.unlock(self.name, "sequence")
            except BaseException:
                session.close()  # the lock goes with it
                raise
            finally:
                self._depth = 0

    def refresh(self) -> int:
        """Take in what others appended; return the size."""
        with self._using() as session:
            self._size = self._grown(session.next(self.name))
            return self._size

    def marks(self) -> Mapping[str, Mark]:
        """Return the newest mark of every emitter."""
        with self._using() as session:
            return session.marks(self.name)

    def entry(self, index: int) -> bytes:
        """Return entry `index`, checked. Raises: MissingError `no-such-entry`."""
        return next(self.entries(index, index + 1))

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield entries start ≤ index < stop (default: the size now), each checked. Holds one batch in memory.

        Raises: MissingError `no-such-entry`.
        """
        stop = self._size if stop is None else stop
        if start < stop:
            self._check_index(start)
            self._check_index(stop - 1)
        while start < stop:
            with self._using() as session:  # not across the yield: the consumer may be slow
                batch = self._view.entries(self._source(session), start, stop)
            yield from batch
            start += len(batch)

    def leaf_hash(self, index: int) -> bytes:
        """Return the leaf hash of entry `index`. Raises: MissingError `no-such-entry`."""
        with self._using() as session:
            self._check_index(index)
            return self._view.reader(self._source(session), self._size)(0, index)

    def root(self) -> bytes:
        """Return the root over all entries that this object knows of."""
        with self._using() as session:
            return self._caught_up(session).root()

    def checkpoint(self) -> bytes:
        """Return a signed note over every durable entry; it is committed and published before it is returned.

        Without the log's key: the newest one. Raises: StoreError `integrator-behind` if another machine integrates
        and does not get there within a minute.
        """
        with self._using() as session:
            self._size = size = self._grown(session.next(self.name))
            self._keys = renewed(self._keys, self._renew)
            head = self._view.look(self._source(session))
            deadline = time.monotonic() + _PATIENCE_S
            while self._keys.signers and (head.size < size or not self._keys.all_signed(head.note)):
                if self._integrate(size) is None:
                    session.notify(self.name)
                    if time.monotonic() > deadline:
                        raise StoreError(
                            "integrator-behind", f"whoever integrates {self.origin} does not sign what is there",
                            got=head.size, expected=size,
                            hint="if that process hangs: genealog log integrate --take-over",
                        )  # fmt: skip
                    time.sleep(_LOOK_EVERY_S)
                head = self._view.look(self._source(session))
            self._make_public(head)
            return head.note

    def tile(self, level: int, number: int, width: int = TILE) -> bytes:
        """Return the first `width` hashes (1..256) of a hash tile. Raises: MissingError `no-such-tile`."""
        with self._using() as session:
            edge = self._caught_up(session)
            hashes = edge.size >> 8 * level if 0 <= level < 8 else 0
            if number < 0 or not 1 <= width <= TILE or number * TILE + width > hashes:
                raise MissingError("no-such-tile", f"the log has no tile ({level}, {number}) of width {width}")
            whole = self._view.full(level, number) if number < hashes // TILE else edge.tail(level)
            return whole[: width * 32]

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that entry `index` is among the first `size`. Raises: MalformedError `size-out-of-range`."""
        with self._using() as session:
            return inclusion_path(index, size, self._view.reader(self._source(session), self._size))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first `new` entries begin with the first `old`. Raises: as `inclusion`."""
        with self._using() as session:
            return consistency_path(old, new, self._view.reader(self._source(session), self._size))

    def prove(self, index: int) -> TlogProof:
        """Return the proof that entry `index` is in the log, with a checkpoint that covers it (signed if need be).

        Raises: MissingError `no-such-entry`, and without the log's key `no-checkpoint` if none covers it yet.
        """
        self._check_index(index)
        with self._using() as session:
            head = self._view.head
            if head is None or head.size <= index:
                self.checkpoint()
                head = self._view.look(self._source(session))
            if head.size <= index:
                raise MissingError(
                    "no-checkpoint", f"no published checkpoint covers entry {index} yet",
                    hint="the integrator signs within seconds where one runs: genealog log integrate",
                )  # fmt: skip
            self._make_public(head)
            path = inclusion_path(index, head.size, self._view.reader(self._source(session), head.size))
            return TlogProof(index, path, head.note)

    def integrator(self) -> Integrator:
        """Return an integrator with a session of its own; the caller closes it. Raises: StoreError `read-only`."""
        if not self._keys.signers:
            raise StoreError("read-only", "this machine does not have the key of the log", hint="see keys/")
        coordinator = PostgresCoordinator(self._connect(), self.name)
        coordinator.session.listen(self.name)
        return Integrator(self._keys_now, coordinator, self.objects)

    def close_for(self, why: str | None) -> None:
        """Keep everybody from appending from now on and say `why`; None lets them again."""
        with self._using() as session:
            session.set_closed(self.name, why)

    def closed_for(self) -> str | None:
        """Return why nobody may append, None if everybody may."""
        with self._using() as session:
            return session.closed(self.name)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Let this object append although the log is closed: for whoever moves it here."""
        self._filling = True
        try:
            yield
        finally:
            self._filling = False

    def adopt(self, note: bytes) -> None:
        """Make `note` the head and publish it. It is of exactly this size and root, and may bear more signatures.

        Raises: StoreError `log-altered` if it is of another tree, `integrator-behind` if another machine integrates.
        """
        with self._using() as session:
            size = self._grown(session.next(self.name))
            integrator = self._taken_over()
            if integrator is None:
                raise StoreError("integrator-behind", f"another process integrates {self.origin}", hint="stop it first")
            try:
                integrator.run_to(size)
                integrator.adopt(note)
            finally:
                integrator.let_go()
            self._view.look(self._source(session))

    def close(self) -> None:
        """Hang up. Closing twice is fine. What is not signed yet is signed by the next integrator."""
        self._closed = True
        if self._pid == os.getpid():
            self._drop_integrator()
            if self._session is not None:
                self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _integrate(self, size: int) -> Head | None:
        """Integrate up to `size` if nobody else does."""
        try:
            integrator = self._taken_over()
            if integrator is None:
                return None
            head = integrator.run_to(size)
            if not self._keys.all_signed(head.note):
                head = integrator.sign_again()
            integrator.let_go()
        except BaseException:
            self._drop_integrator()
            raise
        return head

    def _taken_over(self) -> Integrator | None:
        if self._integrator is not None:
            try:
                return self._integrator if self._integrator.take_over() else None
            except StoreError as error:
                if error.code != "database-error":
                    raise
                self._drop_integrator()  # its session did not outlive the pause; nothing is done yet
        self._integrator = self.integrator()
        return self._integrator if self._integrator.take_over() else None

    def _make_public(self, head: Head) -> None:
        """Publish before anybody gets the note: who committed it may have died in between."""
        if head.note != self._published:
            publish(self.objects, head, self._keys.verifiers)
            self._published = head.note

    def _drop_integrator(self) -> None:
        if self._integrator is not None:
            self._integrator.close()
            self._integrator = None

    @contextmanager
    def _using(self) -> Iterator[Session]:
        """Give the session, connecting if there is none; one that fails is dropped."""
        if self._pid != os.getpid():
            raise StoreError("forked", "the log was opened before the fork", hint="open it again in the child process")
        with self._mutex:
            if self._closed:
                raise StoreError("log-closed", "the log is closed")
            session = self._session
            if session is None or (session.broken if self._depth else not session.revive()):
                if self._depth:
                    raise StoreError(
                        "lock-lost", f"the connection that held the lock of {self.origin} is gone",
                        hint="nothing of this block is written from here on; begin it again",
                    )  # fmt: skip
                session = self._session = self._open_session()
            try:
                yield session
            except StoreError as error:
                if error.code == "database-error" and session.broken:
                    session.close()
                raise

    def _open_session(self) -> Session:
        """Connect, and make sure that this is still the log that was published and that this object knew."""
        stored = self.objects.get(CHECKPOINT)  # before the head: a head read later is never behind it
        published = None if stored is None else read_checkpoint(stored.data, self._keys_now().verifiers)
        session = self._connect()
        try:
            size = self._grown(session.next(self.name))
            source = self._source(session)
            head = self._view.look(source)
            check_published(published, head, lambda at: self._view.root_at(source, at))
        except BaseException:
            session.close()
            raise
        self._size = size
        self._published = head.note if stored is not None and stored.data == head.note else b""
        return session

    def _grown(self, size: int) -> int:
        if size < self._size:
            raise StoreError(
                "log-rolled-back", f"{self.origin}: the database has fewer entries than it had", got=size,
                expected=f"≥ {self._size}", hint="an older database was put back: find the newer one",
            )  # fmt: skip
        return size

    def _source(self, session: Session) -> LogRows:
        return LogRows(session, self.name)

    def _caught_up(self, session: Session) -> RightEdge:
        edge = self._view.catch_up(self._source(session), self._size)
        self._size = max(self._size, edge.size)
        return edge

    def _keys_now(self) -> LogKeys:
        self._keys = renewed(self._keys, self._renew)
        return self._keys

    def _check_note(self, head: Head) -> None:
        found = read_checkpoint(head.note, self._keys_now().verifiers)
        if (found.origin, found.size, found.root) != (self.origin, head.size, head.root):
            raise StoreError(
                "log-altered", f"{self.origin}: the head in the database is not what its note says",
                got=f"{head.size} entries, root {head.root.hex()}", expected=f"{found.size}, {found.root.hex()}",
                hint="the row was edited: restore it, the bucket's checkpoint says what it was",
            )  # fmt: skip

    def _check_index(self, index: int) -> None:
        if not 0 <= index < self._size:
            raise MissingError("no-such-entry", f"{self.origin} has no entry {index}", expected=f"< {self._size}")


def moved(origin: str, why: str | None) -> StoreError:
    """Return the error for an append to a log that is closed."""
    return StoreError(
        "log-moved", f"{origin} takes no entries here", got=why or "closed", hint="use the store that it was moved to"
    )


def _checked_batch(entries: Sequence[bytes], marks: Mapping[str, Mark]) -> bytes:
    """Return the batch as it is kept. The limits are those of a local log, so that every log can be copied to any."""
    if marks:
        encode_frame((), marks, epoch=0, first=0, prev=NO_DIGEST)
    if (largest := max(map(len, entries), default=0)) > MAX_ENTRY:
        raise MalformedError(
            "entry-too-big", "an entry does not fit the log", got=f"{largest} bytes", expected=f"≤ {MAX_ENTRY} bytes"
        )
    data = encode_bundle(entries) if len(entries) <= MAX_COUNT else b""
    if len(entries) > MAX_COUNT or len(data) > MAX_BODY:
        raise MalformedError(
            "batch-too-big", "one append is one transaction, and this one is too large", got=f"{len(entries)} entries",
            expected=f"≤ {MAX_COUNT} entries, ≤ {MAX_BODY} bytes", hint="append it in several calls",
        )  # fmt: skip
    return data

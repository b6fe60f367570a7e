"""The local log: several processes append to one tamper-evident log on one machine.

    journal/00000000000000065536.seg   frames, the truth (`journal`, `segments`)
    tile/0/… tile/1/…                  the hashes of the tree, derived (`log_tree`)
    state                              how far everything got, signed (`log_state`)
    checkpoint                         the published signed note, a copy
    lock                               whoever holds its flock may append (`log_lock`)
    closed                             why nobody may append any more: it moved (`copying`)
    torn/                              what interrupted appends left, kept as evidence

An append is: take the lock, read what others appended, one write(2), one fdatasync(2), return. From then on the
entries survive a power loss. Hashes, state and checkpoint follow lazily, at most every 250 ms, always in this order:
each is durable before anything that relies on it. An error on the way to the disk leaves the object unusable,
because nobody knows what the disk holds; opening the log again finds out.

Opening reads `state`, the open tiles and the frames behind `state`; it sets aside the remains of an append that never
returned, and refuses to start when something that was acknowledged is gone or altered.
It does not check old segments: `log_fsck` does. NFS is not supported, because its locks lie.

Long because the order of an append, a save and their failures has to be read in one place.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from genealog.core.merkle import consistency_path, inclusion_path
from genealog.core.note import NoteSigner, Verifier
from genealog.core.proof import TlogProof
from genealog.core.tile import TILE
from genealog.errors import MissingError, StoreError
from genealog.store.disk import (
    close_quietly,
    disk,
    is_folder,
    read_file,
    replace_file,
    sync_folder,
    write_once,
)
from genealog.store.journal import Mark, encode_frame
from genealog.store.log_keys import KeySource, LogKeys, renewed
from genealog.store.log_lock import LogLock
from genealog.store.log_state import make_state, save_state, verify_note
from genealog.store.log_sync import BackgroundSync
from genealog.store.log_view import LogView
from genealog.store.segments import set_aside

__all__ = ["LocalLog", "Mark"]

SAVE_EVERY = 0.25  # seconds, at least, between two savings of the state under load
SAVE_SHARE = 20  # and at least so many times as long as a saving took
_WORTH_A_THREAD = 64  # entries; fewer are hashed sooner than another thread wakes up
_NO_MARKS: Mapping[str, Mark] = {}


class LocalLog:
    """One log on this machine. Made by `create` or `open`. Thread-safe; not to be used after a fork.

    Every method raises StoreError: `forked`, `log-closed`, `log-broken` (after an error of the disk), `disk-error`,
    `log-…`, `journal-…` and `tile-…` (damage, with file, byte and entry index).
    """

    def __init__(self, path: Path, keys: LogKeys, renew: KeySource | None = None) -> None:
        self.path = path
        self.origin = keys.origin
        self._keys = keys
        self._renew = renew
        self._writes = bool(keys.signers)
        self._writer = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._broken: str | None = None
        self._lock = LogLock(path / "lock", exclusive=self._writes)
        self._view = LogView(path, keys.verifiers)
        self._output: tuple[int, int] | None = None  # segment, descriptor
        self._background = BackgroundSync()
        self._wrote_last = False
        self._filling = False
        self._save_due = 0.0

    @classmethod
    def create(cls, path: Path, *, signer: NoteSigner) -> LocalLog:
        """Make an empty log whose origin is the name of `signer`, and open it.

        Raises: StoreError `log-exists`, `disk-error`.
        """
        with disk(f"creating a log in {path}"):
            for name in ("journal", "tile", "torn"):
                (path / name).mkdir(parents=True, exist_ok=True)
            os.close(os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
            sync_folder(path)
            sync_folder(path.parent)
        log = cls(path, LogKeys((signer.verifier,), (signer,)))
        with log._or_release(), log._lock.held():
            with disk(f"creating a log in {path}"):
                named = any((path / name).exists() for name in ("state", "checkpoint"))
            if named or log._view.segments.length(0):
                raise StoreError("log-exists", f"there is a log in {path} already", hint="open it")
            log._save()
        return log

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        verifiers: Sequence[Verifier],
        signers: Sequence[NoteSigner] = (),
        renew: KeySource | None = None,
    ) -> LocalLog:
        """Open a log, to append if `signers` are given, and check it against its state and its checkpoint.

        Each of `signers` signs every checkpoint. `renew` is asked before each signing whether the keys have changed.
        Raises: MissingError `no-log`; StoreError `wrong-key`, `state-damaged`, `log-rolled-back`, `log-altered` and as
        the class says.
        """
        if not is_folder(path / "journal"):
            raise MissingError("no-log", f"there is no log in {path}")
        log = cls(path, LogKeys(tuple(verifiers), tuple(signers)), renew)
        with log._or_release(), log._lock.held():
            log._view.load()
            log._take_in()
            if not log._view.check_published():
                log._save(again=True)
        log._save_due = time.monotonic() + SAVE_EVERY
        return log

    @property
    def size(self) -> int:
        """The number of entries that this object knows of; `refresh` looks for more."""
        return self._view.tip.size

    @property
    def growing(self) -> Path:
        """The file that the next append makes longer, as far as this object knows: a cheap thing to look at."""
        return self._view.segments.path(self._view.tip.segment)

    def append(self, entries: Sequence[bytes], marks: Mapping[str, Mark] = _NO_MARKS) -> range:
        """Append entries of ≤ 65,535 bytes and set marks, all or nothing, durable on return. Return the indexes.

        Nothing at all is a no-op; marks alone are written. Raises: StoreError `read-only`; MalformedError
        `entry-too-big`, `batch-too-big` (> 65,536 entries or 64 MiB), `bad-mark`.
        """
        with self.exclusive():
            if (entries or marks) and not self._filling and (why := self._closed_now()) is not None:
                raise StoreError(
                    "log-moved", f"{self.origin} takes no entries here", got=why,
                    hint="use the store that it was moved to",
                )  # fmt: skip
            view, tip = self._view, self._view.tip
            stop = tip.size + len(entries)
            if entries or marks:
                epoch = tip.epoch + (not self._wrote_last)
                frame = encode_frame(entries, marks, epoch=epoch, first=tip.size, prev=tip.prev)
                with self._fatal("appending to the journal"):
                    self._write(frame, entries)
                    view.tip = tip.after(stop=stop, epoch=epoch, length=len(frame), digest=frame[-32:])
                    view.marks.update(marks)
                    self._wrote_last = True
                if time.monotonic() >= self._save_due or view.tree.full:
                    with suppress(StoreError):  # the entries are durable: say so now, and fail the next call
                        self._save()
            return range(tip.size, stop)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes and threads from appending while several steps are done; begins with a refresh.

        Raises: StoreError `read-only`.
        """
        if not self._writes:
            raise StoreError("read-only", "this log was opened without its key", hint="open it with the signer")
        with self._lock.held() as outermost:
            self._check()
            if outermost:
                self._take_in()
            yield

    def refresh(self) -> int:
        """Take in what other processes appended; return the size."""
        if self._writes:
            with self.exclusive():
                return self._view.tip.size
        with self._lock.held():
            self._check()
            self._take_in()
            if self._view.tree.full:
                self._take_saved()
            return self._view.tip.size

    def marks(self) -> Mapping[str, Mark]:
        """Return the newest mark of every emitter."""
        with self._reading():
            return dict(self._view.marks)

    def entry(self, index: int) -> bytes:
        """Return entry `index`, checked against its leaf hash. Raises: MissingError `no-such-entry`."""
        with self._reading():
            return self._view.entry(index)

    def entries(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield entries start ≤ index < stop (default: the size now), each checked against its leaf hash.

        Holds one frame in memory. Raises: MissingError `no-such-entry`.
        """
        stop = self._view.tip.size if stop is None else stop
        if start < stop:
            self._view.check_index(start)
            self._view.check_index(stop - 1)
        while start < stop:
            with self._reading():  # not across the yield: the consumer may be slow
                batch = list(self._view.entries(start, min(stop, start + TILE)))
            yield from batch
            start += len(batch)

    def leaf_hash(self, index: int) -> bytes:
        """Return the leaf hash of entry `index`. Raises: MissingError `no-such-entry`."""
        with self._reading():
            self._view.check_index(index)
            return self._view.tree.read(0, index)

    def root(self) -> bytes:
        """Return the root over all entries that this object knows of."""
        with self._reading():
            return self._view.tree.root()

    def checkpoint(self) -> bytes:
        """Return a signed note over every durable entry; it is persisted and published before it is returned.

        Opened read-only: the newest published one, at or below `size`. Raises: MissingError `no-checkpoint`.
        """
        if self._writes:
            with self.exclusive():
                self._save()
        else:
            with self._lock.held():
                self._check()
                self._take_in()
                self._take_saved()
        if self._view.saved is None:
            raise MissingError("no-checkpoint", "nobody has signed this log yet", hint="open it once with its key")
        return self._view.saved.note.encode()

    def tile(self, level: int, number: int, width: int = TILE) -> bytes:
        """Return the first `width` hashes (1..256) of a hash tile, for whoever serves the log as C2SP tlog-tiles.

        Raises: MissingError `no-such-tile`.
        """
        with self._reading():
            return self._view.tree.tile(level, number, width)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that entry `index` is among the first `size`. Raises: MalformedError `size-out-of-range`."""
        with self._reading():
            return inclusion_path(index, size, self._view.tree.read)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the first `new` entries begin with the first `old`. Raises: as `inclusion`."""
        with self._reading():
            return consistency_path(old, new, self._view.tree.read)

    def prove(self, index: int) -> TlogProof:
        """Return the proof that entry `index` is in the log, with a checkpoint that covers it (signed if need be).

        Raises: MissingError `no-such-entry`, and read-only `no-checkpoint` if no published one covers it.
        """
        self._view.check_index(index)
        with self._reading():
            if self._view.saved is None or self._view.saved.size <= index:
                self.checkpoint()
            saved = self._view.saved
            if saved is None or saved.size <= index:
                raise MissingError("no-checkpoint", f"no published checkpoint covers entry {index} yet")
            return TlogProof(index, inclusion_path(index, saved.size, self._view.tree.read), saved.note.encode())

    def closed_for(self) -> str | None:
        """Return why nobody may append (it moved, or comes from elsewhere), None if everybody may."""
        with self._reading():
            return self._closed_now()

    def close_for(self, why: str | None) -> None:
        """Keep everybody from appending from now on, in every process; None lets them again. Durable on return."""
        with self.exclusive(), disk("closing the log"):
            if why is not None:
                replace_file(self.path / "closed", why.encode())
            else:
                (self.path / "closed").unlink(missing_ok=True)
                sync_folder(self.path)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Let this object append although the log is closed: for whoever moves it here."""
        self._filling = True
        try:
            yield
        finally:
            self._filling = False

    def adopt(self, note: bytes) -> None:
        """Make `note` the published head. It is of exactly this size and root, and may bear more signatures.

        Raises: StoreError `log-altered` if it is of another tree; VerificationError if our keys have not signed it.
        """
        with self.exclusive():
            self._save()
            view, found = self._view, verify_note(note, self._keys.verifiers)
            if found != view.checkpoint():
                raise StoreError("log-altered", "the note is of another tree", got=found.size, expected=view.tip.size)
            with self._fatal("saving the state of the log"):
                state = make_state(view.tip, found.root, view.marks, note, writer=self._writer)
                save_state(self.path, state)
            view.saved = state

    def _closed_now(self) -> str | None:
        data = read_file(self.path / "closed")
        return None if data is None else data.decode("utf-8", "replace")

    def close(self) -> None:
        """Save the state if there is something new, and let go of the files. Closing twice is fine."""
        if not self._lock.mine:
            return
        try:
            if self._writes and self._broken is None:
                with self.exclusive():
                    self._save()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Writing

    def _take_in(self) -> None:
        with self._fatal("reading the journal"):
            before = self._view.tip
            torn = self._view.take_in(self._save)
            if self._view.tip != before:
                self._wrote_last = False
            if torn is not None and self._writes:
                set_aside(torn, self.path / "torn")

    def _write(self, frame: bytes, entries: Sequence[bytes]) -> None:
        """Make `frame` durable at the tip, or leave nothing of it: after a failed fdatasync the page cache lies.

        The tree grows by `entries` while the disk works.
        """
        segment, offset = self._view.tip.place
        handle, fresh = self._open_output(segment)
        try:
            write_once(handle, frame)
            if len(entries) < _WORTH_A_THREAD:
                os.fdatasync(handle)
                self._view.tree.grow(entries)
            else:
                with self._background.syncing(handle):
                    self._view.tree.grow(entries)
            if fresh:
                sync_folder(self._view.segments.folder)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(handle, offset)
            raise
        self._view.foreign.clear()

    def _open_output(self, segment: int) -> tuple[int, bool]:
        """Return a descriptor to append to a segment, and whether this object opened it just now."""
        if self._output is not None and self._output[0] == segment:
            return self._output[1], False
        self._sync_foreign(but=segment)
        self._close_output()
        handle = os.open(
            self._view.segments.path(segment), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode=0o644
        )
        self._output = segment, handle
        return handle, True

    def _sync_foreign(self, but: int | None = None) -> None:
        """Make frames durable that a writer may have left whole, but not durable, when it died."""
        for segment in self._view.foreign - {but}:
            with disk("syncing the journal"):
                handle = os.open(self._view.segments.path(segment), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fdatasync(handle)
                finally:
                    os.close(handle)
                sync_folder(self._view.segments.folder)
            self._view.foreign.discard(segment)

    def _save(self, *, again: bool = False) -> None:
        """Persist hashes, then state, then publish, unless that is done for this tip. The caller holds the lock."""
        if not self._writes:
            return
        self._renew_keys()
        view, saved = self._view, self._view.saved
        done = saved is not None and saved.tip == view.tip and self._keys.all_signed(saved.note.encode())
        if done and not again:
            return
        started = time.monotonic()
        with self._fatal("saving the state of the log"):
            self._sync_foreign()
            view.tree.save()
            checkpoint = view.checkpoint()
            note = self._keys.sign(checkpoint)
            state = make_state(view.tip, checkpoint.root, view.marks, note, writer=self._writer)
            save_state(self.path, state)
        view.saved = state
        now = time.monotonic()
        self._save_due = now + max(SAVE_EVERY, SAVE_SHARE * (now - started))

    def _take_saved(self) -> None:
        self._renew_keys()
        self._view.take_saved()

    def _renew_keys(self) -> None:
        """An error here breaks nothing: the entries are durable, and the next saving asks again."""
        self._keys = renewed(self._keys, self._renew)
        self._view.verifiers = self._keys.verifiers

    # Who may do what, when

    @contextmanager
    def _reading(self) -> Iterator[None]:
        self._lock.check()
        with self._lock.mutex:
            self._check()
            yield

    @contextmanager
    def _fatal(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong in here leaves memory and disk apart: refuse everything afterwards."""
        try:
            with disk(doing):
                yield
        except BaseException as error:
            self._broken = f"the log failed while {doing}: {error}"
            raise

    @contextmanager
    def _or_release(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._release()
            raise

    def _check(self) -> None:
        self._lock.check()
        if self._broken is not None:
            raise StoreError("log-broken", self._broken, hint="open it again: that checks what is on disk")

    def _close_output(self) -> None:
        if self._output is not None:
            close_quietly(self._output[1])
            self._output = None

    def _release(self) -> None:
        self._background.close()
        self._close_output()
        self._view.close()
        self._lock.release()

"""Mirror a log: follow its published tree, believe nothing, keep everything, never go back.

    DIR/
      checkpoint    the newest head that is mirrored whole, as its log signed it: written last
      tile/…        the tree below it: a static tile tree, for any web server
      forks/        evidence that the log showed another history

A head counts if a key of the trust file signed it. Every hash is then checked against the head's root before it is
written, every entry against its hash, and the tree as a whole against the head that was mirrored before. A mirror that
is killed has whole files only and its old head; it goes on where it stopped. Memory does not grow with the log.

A quorum of witnesses is not asked for: the mirror keeps what the log signed, and whoever reads it judges. A mirror may
be a witness too: then it cosigns a head once everything below it is on the disk (C2SP tlog-mirror's order).

Source: c2sp.org/tlog-tiles.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from genealog.core.fork import forked
from genealog.core.merkle import HashReader, consistency_path, leaf_hash
from genealog.core.note import encode_note, parse_note, signature_line
from genealog.core.proof import claimed_checkpoint
from genealog.core.tile import TILE, entries_path, tile_path
from genealog.core.trust import Trust, TrustedCheckpoint
from genealog.core.witness import AddCheckpoint, KnownLog, Refusal, admit, merge_cosignatures
from genealog.errors import GenealogError, StoreError, UpstreamError, VerificationError
from genealog.remote import AT_ONCE, RemoteFiles, open_tree
from genealog.store.continuity import compare_heads
from genealog.store.disk import disk, read_file, replace_file, sync_folder, write_whole
from genealog.store.forks import keep_fork
from genealog.store.static_tree import MAX_BUNDLE, Files, FolderFiles, StaticTree, StaticView, split_bundle
from genealog.store.witness_state import Cosigned, WitnessState

LONGEST = 3600.0  # seconds between two tries with a log that cannot be read
_BATCH = 64  # files that are made durable together

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What one look at a log brought. `before` is the size that was mirrored until then; `files` were written."""

    origin: str
    before: int
    size: int
    files: int
    cosigned: bool


class Mirror:
    """The mirror of one log in a folder. `place` is a URL or a folder, `cosign` a witness that is this mirror."""

    def __init__(self, place: str, folder: Path, trust: Trust, *, cosign: WitnessState | None = None) -> None:
        self.place = place
        self.folder = folder
        self.trust = trust
        self._cosign = cosign

    def follow(self, told: Told | None = None, *, clock: Callable[[], float] = time.time) -> Mirrored:
        """Take in what the log has published since; `told` hears (entries done, entries in all).

        Raises: VerificationError `unknown-log`, `checkpoint-signature-invalid`, `tree-altered`, `origin-mismatch`,
        `log-forked` (the evidence is kept); UpstreamError `log-behind` (it shows an older head: nothing is changed),
        `remote-failed`, `remote-too-big`; MissingError `no-such-tree`, `no-checkpoint`, `tree-incomplete`; StoreError
        `mirror-busy`, `mirror-damaged`, `disk-error`.
        """
        with self._alone(), open_tree(self.place) as tree:
            note = tree.note()
            opened = self.trust.open_head(note)
            held = self._held()
            if held is not None and not self._continues(held, note, opened, tree):
                before = held[1].checkpoint.size
                return Mirrored(opened.checkpoint.origin, before, before, 0, cosigned=False)
            before = held[1].checkpoint.size if held else 0
            view = tree.at(opened.checkpoint)
            with disk(f"mirroring into {self.folder}"):
                written = self._take(tree.files, view, before, told)
                lines = self._cosigned(note, view.read, clock)
                known = self._known_lines(held[0], note) if held and held[1].checkpoint == opened.checkpoint else b""
                replace_file(self.folder / "checkpoint", merge_cosignatures(note, [known, lines]))
                self._tidy(before, opened.checkpoint.size)
            return Mirrored(opened.checkpoint.origin, before, opened.checkpoint.size, written, bool(lines))

    def run(
        self,
        stop: threading.Event,
        done: Callable[[Mirrored], None],
        failed: Callable[[GenealogError], None],
        *,
        every: float,
    ) -> None:
        """Follow every so many seconds until `stop` is set, and less and less often while it fails.

        Raises: VerificationError `log-forked`: what forked is followed no further; StoreError.
        """
        failures = 0
        while not stop.is_set():
            try:
                done(self.follow())
                failures = 0
            except StoreError:
                raise
            except GenealogError as error:
                if error.code == "log-forked":
                    raise
                failed(error)
                failures += 1
            stop.wait(min(LONGEST, every * 2 ** min(failures, 12)) if failures else every)

    def _held(self) -> tuple[bytes, TrustedCheckpoint] | None:
        note = read_file(self.folder / "checkpoint")
        if note is None:
            return None
        try:
            return note, self.trust.open_head(note)
        except GenealogError as error:
            raise StoreError(
                "mirror-damaged", "the trust file does not know the log that is mirrored here", got=error.message,
                hint="use the trust file of before, or another folder",
            ) from None  # fmt: skip

    def _continues(
        self, held: tuple[bytes, TrustedCheckpoint], note: bytes, opened: TrustedCheckpoint, tree: StaticTree
    ) -> bool:
        """Hold the new head to the mirrored one; tell whether there is anything to do."""
        old, new = held[1].checkpoint, opened.checkpoint
        if old.origin != new.origin:
            raise VerificationError(
                "origin-mismatch", "another log is mirrored here", got=new.origin, expected=old.origin
            )
        mine = StaticView(FolderFiles(self.folder), old)
        read = tree.at(new).read if new.size > old.size else mine.read
        found = compare_heads(held[0], note, read, read_old=mine.read, seen=(str(self.folder), self.place))
        if found.fork is not None:
            keep_fork(self.folder / "forks", found.fork)
            raise forked(found.fork)
        if new.size < old.size:
            raise UpstreamError(
                "log-behind", "the log shows an older head than the mirrored one: the mirror stays as it is",
                got=f"size {new.size}", expected=f"≥ {old.size}",
            )  # fmt: skip
        same = new.size == old.size and opened.cosigned_at.items() <= held[1].cosigned_at.items()
        return not same or (self._cosign is not None and not self._has_mine(held[0]))

    def _take(self, files: Files, view: StaticView, before: int, told: Told | None) -> int:
        """Write every file of the new tree that the old one has not, entries first."""
        size = view.head.size
        out = _Writer(self.folder)
        last = -(-size // TILE)
        mine = FolderFiles(self.folder)
        for number in range(before // TILE, last):
            width = min(TILE, size - number * TILE)
            path = entries_path(number, width)
            if not _sound(mine, view, number, width):
                if isinstance(files, RemoteFiles):
                    coming = range(number, min(number + AT_ONCE, last))
                    files.ahead((entries_path(each, min(TILE, size - each * TILE)) for each in coming), MAX_BUNDLE)
                out.put(path, b"".join([len(entry).to_bytes(2, "big") + entry for entry in view.bundle(number)]))
            if told is not None:
                told(min(size, (number + 1) * TILE), size)
        level, old, new = 0, before, size
        while new:
            for number in range(old // TILE, -(-new // TILE)):
                width = min(TILE, new - number * TILE)
                out.put(tile_path(level, number, width), view.tile(level, number, width))
            level, old, new = level + 1, old // TILE, new // TILE
        out.flush()
        return out.count

    def _cosigned(self, note: bytes, read: HashReader, clock: Callable[[], float]) -> bytes:
        """Return the mirror's own cosignature lines, now that everything below the head is durable."""
        if self._cosign is None:
            return b""
        head = claimed_checkpoint(note)
        origin, size = head.origin, head.size
        last = self._cosign.head(origin)
        old = last.size if last else 0
        proof = consistency_path(old, size, read) if old < size else ()
        request = AddCheckpoint(old, proof, note).encode()
        admitted = admit(request, {origin: KnownLog(origin, self.trust.logs[origin])})
        answer = admitted if isinstance(admitted, Refusal) else self._cosign.add(admitted, int(clock()))
        if isinstance(answer, Cosigned):
            return answer.lines
        if answer.fork is not None:
            keep_fork(self.folder / "forks", answer.fork)
            raise forked(answer.fork)
        raise StoreError(
            "mirror-cannot-cosign", "the mirror's witness has cosigned another head before",
            got=f"status {answer.status}", expected=f"a head that continues size {old}",
            hint="one witness folder belongs to one mirror folder",
        )  # fmt: skip

    def _has_mine(self, note: bytes) -> bool:
        mine = {(each.name, each.verifier.key_id) for each in self._cosign.cosigners} if self._cosign else set()
        return mine <= {(each.name, each.key_id) for each in parse_note(note).signatures}

    def _known_lines(self, note: bytes, newer: bytes) -> bytes:
        """Return the cosignatures in a mirrored note, by known witnesses and this mirror, that a newer one has not."""
        keys = [
            *self.trust.witnesses.values(),
            *(each.verifier for each in (self._cosign.cosigners if self._cosign else ())),
        ]
        there = {(each.name, each.key_id) for each in parse_note(newer).signatures}
        known = {who: key for key in keys if (who := (key.name, key.key_id)) not in there}
        parsed = parse_note(note)
        lines = [
            signature_line(known[each.name, each.key_id], each.blob)
            for each in parsed.signatures
            if (each.name, each.key_id) in known
        ]
        return encode_note(parsed.text, lines)[len(parsed.text) + 1 :] if lines else b""

    def _tidy(self, before: int, size: int) -> None:
        """Delete the partial tiles whose full tile is there: readers of older heads take a part of the full one."""
        level = 0
        while before >> 8 * level:
            number, count = (before >> 8 * level) // TILE, size >> 8 * level
            if number < count // TILE:
                for path in (tile_path(level, number), *((entries_path(number),) if level == 0 else ())):
                    shutil.rmtree(self.folder / f"{path}.p", ignore_errors=True)
            level += 1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with disk(f"opening the mirror in {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError("mirror-busy", f"another process mirrors into {self.folder}") from None
            yield
        finally:
            os.close(handle)


class _Writer:
    """Writes files under a folder, each whole or not at all; durable after `flush`, which happens by itself too."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._new: list[Path] = []
        self.count = 0

    def put(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        write_whole(temporary, data)
        temporary.replace(path)
        self._new.append(path)
        self.count += 1
        if len(self._new) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        folders: set[Path] = set()
        for path in self._new:
            folders.update(parent for parent in path.parents if parent.is_relative_to(self._folder))
        for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
            sync_folder(folder)
        self._new.clear()


def _sound(mine: FolderFiles, view: StaticView, number: int, width: int) -> bool:
    """Tell whether an interrupted run has left this bundle here, and left it right."""
    path = entries_path(number, width)
    data = mine.get(path, MAX_BUNDLE)
    if data is None:
        return False
    try:
        entries = split_bundle(data, path)
    except GenealogError:
        return False
    return b"".join(leaf_hash(entry) for entry in entries) == view.tile(0, number, width)

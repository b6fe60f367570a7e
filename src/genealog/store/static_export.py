"""Publish a log as a C2SP tile tree that any web server can serve.

    checkpoint        the signed head, written last          log.vkey        the log's keys, one a line
    tile/…            see `static_tree`                      trust.policy    the same as a trust file, with witnesses

The rules: a file is written to the disk under another name, made durable and then renamed, so a reader never sees half
of one; every tile is there before the head that covers it; the head never goes back; and a file that differs from what
the log gives is never written over, because two files for one tile mean two histories. An export that was interrupted
goes on where it stopped. Only files that a newer head needs are written, so publishing often is cheap.

Nothing is served here, and the log is only read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from genealog.core.checkpoint import Checkpoint
from genealog.core.fork import Fork
from genealog.core.merkle import HashReader
from genealog.core.note import Verifier, format_vkey, parse_note
from genealog.core.proof import claimed_checkpoint
from genealog.core.states import State
from genealog.core.tile import TILE, RightEdge, TileReader, entries_path, tile_path
from genealog.core.witness import merge_cosignatures
from genealog.errors import GenealogError, StoreError
from genealog.store.continuity import compare_heads
from genealog.store.disk import disk, locked, read_file, replace_file, sync_folder, write_whole
from genealog.store.log_state import verify_note
from genealog.store.port import Log
from genealog.store.static_tree import FolderFiles, StaticView

_STAGING = ".staging"  # a dot file: web servers are told not to serve it, and it is empty but during an export
_SEEN = ("published", "the log itself")
_AT_ONCE = 512  # files that are made durable together


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export did. `before` is the size that was published until now, None at first; counts are of files."""

    origin: str
    size: int
    root: str
    before: int | None
    written: int
    kept: int
    pruned: int


def export_tree(
    log: Log,
    folder: Path,
    *,
    verifiers: Sequence[Verifier],
    former: Sequence[Verifier] = (),
    policy: str = "",
    url: str | None = None,
    whole: bool = False,
    prune: bool = False,
    told: Callable[[int, int], None] | None = None,
    evidence: Callable[[Fork], object] | None = None,
    cosigned: Callable[[int], bytes | None] | None = None,
) -> Exported:
    """Bring the tree in `folder` up to the log's signed head.

    `former` are keys that may have signed what is published and are not believed any more: what they signed is held
    against the log all the same. `policy` holds the lines of the trust file besides the log's own; `whole` looks at
    files below the published head too; `prune` deletes partial tiles whose full tile is there; `told` hears (entries
    done, entries to do); `evidence` gets the fork when the published head and the log do not chain; `cosigned` gives
    the note of a size that witnesses have signed too, so that their cosignatures are published.
    Raises: StoreError `export-ahead`, `export-forked`, `export-differs`, `export-foreign`, `disk-error`; what the log
    raises; and as `StaticView` where the published tree is read.
    """
    with disk(f"publishing in {folder}"), _alone(folder):
        note = log.checkpoint()  # not before we are alone: another export could publish a newer one meanwhile
        head = verify_note(note, verifiers)
        published = read_file(folder / "checkpoint")
        old = _published(published, (*verifiers, *former))
        if old is not None and published is not None:
            _check_continues(log, folder, published, note, evidence)
        writer = _Writer(folder)
        start = 0 if whole or old is None else old.size
        for path, data, done in _files(log, start, head.size):
            writer.put(path, data)
            if told is not None and done is not None:
                told(done - start, head.size - start)
        writer.flush()
        _beside(folder, verifiers, policy, url)
        note = _joined(note, cosigned(head.size) if cosigned is not None else None, published)
        if note != published:
            replace_file(folder / "checkpoint", note)
        pruned = _prune(folder) if prune else 0
        before = None if old is None else old.size
        return Exported(head.origin, head.size, head.root.hex(), before, writer.written, writer.kept, pruned)


def log_reader(log: Log, size: int) -> HashReader:
    """Return a `HashReader` over the first `size` entries of any log."""
    tails: list[bytes] = []
    while count := size >> 8 * len(tails):
        level = len(tails)
        tails.append(log.tile(level, count // TILE, count % TILE) if count % TILE else b"")
    return TileReader(log.tile, RightEdge(size, tails))


def policy_lines(policy: bytes) -> str:
    """Return the lines of a trust file that name no log: witnesses, groups, quorum."""
    lines = policy.decode("utf-8", "replace").splitlines()
    return "".join(f"{line}\n" for line in lines if line.split()[:1] in (["witness"], ["group"], ["quorum"]))


def _files(log: Log, start: int, size: int) -> Iterator[tuple[str, bytes, int | None]]:
    """Yield the path and bytes of every file of a tree of `size` that a tree of `start` does not have."""
    for number in range(start // TILE, -(-size // TILE)):
        stop = min((number + 1) * TILE, size)
        entries = log.entries(number * TILE, stop)
        bundle = b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])
        yield entries_path(number, stop - number * TILE), bundle, stop
    level = 0
    while hashes := size >> 8 * level:
        for number in range((start >> 8 * level) // TILE, -(-hashes // TILE)):
            width = min(TILE, hashes - number * TILE)
            yield tile_path(level, number, width), log.tile(level, number, width), None
        level += 1


@dataclass(slots=True)
class _Writer:
    """Writes new files in groups: all durable under other names first, then renamed."""

    folder: Path
    written: int = 0
    kept: int = 0
    waiting: list[tuple[Path, Path]] = field(default_factory=list)
    known: set[Path] = field(default_factory=set)

    def put(self, path: str, data: bytes) -> None:
        target = self.folder / path
        there = read_file(target)
        if there is not None:
            if there != data:
                raise StoreError(
                    "export-differs", f"{path} is published with other bytes than the log gives",
                    got=f"{len(there)} bytes", expected=f"{len(data)} bytes",
                    hint="one of the two is not the log: prove it with `genealog fsck`, keep both, export elsewhere",
                )  # fmt: skip
            self.kept += 1
            return
        temporary = self.folder / _STAGING / str(len(self.waiting))
        write_whole(temporary, data, sync=False)
        self.waiting.append((temporary, target))
        if len(self.waiting) >= _AT_ONCE:
            self.flush()

    def flush(self) -> None:
        for temporary, _ in self.waiting:
            handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        for temporary, target in self.waiting:
            self._make(target.parent)
            os.replace(temporary, target)  # noqa: PTH105 - every system call that tests make fail goes through `os`
        for folder in {target.parent for _, target in self.waiting}:
            sync_folder(folder)
        self.written += len(self.waiting)
        self.waiting.clear()

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, each name durable."""
        if folder in self.known or folder == self.folder:
            return
        self._make(folder.parent)
        if not folder.is_dir():
            folder.mkdir(mode=0o755, exist_ok=True)
            sync_folder(folder.parent)
        self.known.add(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other exports out of `folder`, which is made if need be, and leave no temporary file in it."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    staging = folder / _STAGING
    with locked(folder):
        try:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(mode=0o700)
            yield
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _published(note: bytes | None, verifiers: Sequence[Verifier]) -> Checkpoint | None:
    if note is None:
        return None
    try:
        return verify_note(note, verifiers)
    except GenealogError as error:
        raise StoreError(
            "export-foreign", "the folder holds a checkpoint that no key of this log has signed", got=error.message,
            expected=verifiers[0].name, hint="publish each log in a folder of its own",
        ) from None  # fmt: skip


def _check_continues(
    log: Log, folder: Path, published: bytes, note: bytes, evidence: Callable[[Fork], object] | None
) -> None:
    """Refuse to publish a head that does not continue the one that was published."""
    old, head = (claimed_checkpoint(data) for data in (published, note))
    if old.size > head.size:
        view = StaticView(FolderFiles(folder), old)
        found = compare_heads(published, note, view.read, read_old=view.read, seen=_SEEN)
    else:
        found = compare_heads(published, note, log_reader(log, head.size), seen=_SEEN)
    if found.fork is not None:
        if evidence is not None:
            evidence(found.fork)
        raise StoreError(
            "export-forked", f"the published head of {old.size} entries and the log do not chain",
            got=f"size {head.size}, root {head.root.hex()}", expected=f"what begins or ends with {old.root.hex()}",
            hint="two histories were signed: keep both, and the evidence; find out which machine wrote the other",
        )  # fmt: skip
    if found.state is not State.PROVEN:
        raise StoreError(
            "export-ahead", "the published log is ahead of this one: this one was cut back or restored from a backup",
            got=f"{head.size} entries", expected=f"≥ {old.size} entries",
            hint="the published files hold the entries that this one lost; appending here would fork the log",
        )  # fmt: skip


def _joined(note: bytes, *others: bytes | None) -> bytes:
    """Return `note` with the signatures that others of the same text carry."""
    text = parse_note(note).text
    same = [other for other in others if other is not None and parse_note(other).text == text]
    return merge_cosignatures(note, [other[len(text) + 1 :] for other in same])


def _beside(folder: Path, verifiers: Sequence[Verifier], policy: str, url: str | None) -> None:
    """Write `log.vkey` and `trust.policy` where they are not there as they should be."""
    vkeys = [format_vkey(verifier) for verifier in verifiers]
    lines = ["# Served with the log itself: compare the keys with what its owner told you by another way.\n"]
    lines += [f"log {vkey}{f' {url}' if url else ''}\n" for vkey in vkeys]
    trust = "".join(lines) + (policy or "quorum none\n")
    for name, text in (("log.vkey", "".join(f"{vkey}\n" for vkey in vkeys)), ("trust.policy", trust)):
        if read_file(folder / name) != text.encode():
            replace_file(folder / name, text.encode())


def _prune(folder: Path) -> int:
    """Delete partial tiles and bundles whose full one is there. Return how many."""
    count = 0
    for place, folders, _ in os.walk(folder / "tile"):
        for name in [name for name in folders if name.endswith(".p")]:
            folders.remove(name)
            if (Path(place) / name.removesuffix(".p")).is_file():
                count += len(os.listdir(Path(place) / name))  # noqa: PTH208
                shutil.rmtree(Path(place) / name)
    return count

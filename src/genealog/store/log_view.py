"""A log as one process knows it: how far it has read the journal, the tree over that, and the newest marks.

Everything that is read from a log is read here, and every read is checked: frames against their digest, order and
chain, entries against their leaf hash, and the whole against what `state` and `checkpoint` have signed. It neither
writes nor locks (`log` does); it is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from genealog.core.checkpoint import Checkpoint
from genealog.core.merkle import leaf_hash, root_at
from genealog.core.note import Verifier
from genealog.errors import MissingError, StoreError
from genealog.store.journal import Mark
from genealog.store.log_state import State, load_published, load_state
from genealog.store.log_tree import LogTree
from genealog.store.segments import Segments, Tip, Torn


class LogView:
    """The log in `path`, whose keys are `verifiers`, at least one. Empty until `load`."""

    def __init__(self, path: Path, verifiers: Sequence[Verifier]) -> None:
        self.path = path
        self.origin = verifiers[0].name
        self.verifiers = tuple(verifiers)
        self.segments = Segments(path / "journal")
        self.tree = LogTree(path)
        self.tip = Tip()
        self.marks: dict[str, Mark] = {}
        self.saved: State | None = None
        self.foreign: set[int] = set()  # segments with frames that were taken in: their writer may not have synced them

    def load(self) -> None:
        """Stand where `state` stands, without reading the journal before it.

        Raises: StoreError `state-damaged`, `log-rolled-back`, `log-altered`, `tile-missing`.
        """
        self.saved = state = load_state(self.path, self.verifiers)
        if state is None:
            return
        self.tip = tip = state.tip
        self.marks = state.emitter_marks()
        if (length := self.segments.length(tip.segment)) < tip.offset:
            raise self._rolled_back("state", f"{length} bytes in {self.segments.path(tip.segment).name}", tip.offset)
        if tip.offset and (digest := self.segments.digest_before(tip.segment, tip.offset)) != tip.prev:
            raise self._rolled_back("state", f"{digest.hex()} before byte {tip.offset}", f"frame {tip.prev.hex()}")
        self.tree.restore(tip.size)
        self._check_head("state", state.size, bytes.fromhex(state.root))

    def take_in(self, when_full: Callable[[], None]) -> Torn | None:
        """Take in the frames behind the tip; call `when_full` where the tree should be saved. Return what is torn.

        The caller holds the lock, so an unfinished frame has lost its writer. Raises: as `Segments.next_frame`.
        """
        while (found := self.segments.next_frame(self.tip)) is not None:
            if isinstance(found, Torn):
                return found
            frame, self.tip = found
            self.foreign.add(self.tip.segment)
            self.marks.update(frame.marks)
            self.tree.grow(frame.entries)
            if self.tree.full:
                when_full()
        return None

    def take_saved(self) -> None:
        """See what the writers have signed and saved meanwhile. Raises: as `load`."""
        state = load_state(self.path, self.verifiers)
        if state is not None:
            self._check_head("state", state.size, bytes.fromhex(state.root))
            self.tree.forget(state.size)
        self.saved = state

    def check_published(self) -> bool:
        """Hold `checkpoint` against the tree; tell whether it is the one that `state` holds.

        Raises: StoreError `log-rolled-back`, `log-altered`.
        """
        note, published = load_published(self.path, self.verifiers)
        if published is not None:
            self._check_head("checkpoint", published.size, published.root)
        return self.saved is not None and self.saved.note.encode() == note

    def checkpoint(self) -> Checkpoint:
        """Return the checkpoint of everything read so far, to be signed."""
        return Checkpoint(self.origin, self.tip.size, self.tree.root())

    def entry(self, index: int) -> bytes:
        """Return an entry. Raises: MissingError `no-such-entry`; StoreError `journal-damaged`, `log-altered`."""
        self.check_index(index)
        entry = self.segments.entry(index)
        self._check_leaf(index, entry)
        return entry

    def entries(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield entries, one frame in memory at a time. Raises: as `entry`."""
        for index, entry in enumerate(self.segments.entries(start, stop), start):
            self._check_leaf(index, entry)
            yield entry

    def check_index(self, index: int) -> None:
        """Raise MissingError `no-such-entry` unless there is such an entry."""
        if not 0 <= index < self.tip.size:
            raise MissingError("no-such-entry", f"{self.origin} has no entry {index}", expected=f"< {self.tip.size}")

    def close(self) -> None:
        """Let go of files."""
        self.segments.close()

    def _check_leaf(self, index: int, entry: bytes) -> None:
        if (found := leaf_hash(entry)) != (expected := self.tree.read(0, index)):
            raise StoreError(
                "log-altered",
                f"entry {index} of {self.origin} is not the one in the tree",
                got=found.hex(),
                expected=expected.hex(),
                hint="run `genealog fsck`; restore the segment from a backup",
            )

    def _check_head(self, name: str, size: int, root: bytes) -> None:
        if size > self.tip.size:
            signed = f"{size} entries, root {root.hex()}"
            raise self._rolled_back(name, f"{self.tip.size} entries in the journal", signed)
        if (found := root_at(size, self.tree.read)) != root:
            raise StoreError(
                "log-altered",
                f"the first {size} entries of {self.origin} are not the ones that {name} signed",
                got=found.hex(),
                expected=root.hex(),
                hint="run `genealog fsck`, which names the entry; compare with a witness or a backup",
            )

    def _rolled_back(self, name: str, got: object, expected: object) -> StoreError:
        return StoreError(
            "log-rolled-back",
            f"{self.origin}: {name} has signed more than the journal holds",
            got=got,
            expected=expected,
            hint="an older journal was put back: find the newer one; appending here would fork the log",
        )

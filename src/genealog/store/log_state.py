"""What a log remembers between two openings, so that an opening reads only the end of the journal.

`state` is canonical JSON: where the verified journal ends (entries, segment, byte, digest, epoch), the root at that
size, the mark of every emitter, and the signed checkpoint of exactly that size and root. It is written lazily, so the
journal may be ahead of it and is then replayed. The journal may never be behind it: that is a rollback.
`checkpoint` is a copy of the signed note for whoever serves files; it is written after `state` is durable.

Losing `state` loses nothing: the journal is read from its beginning, slowly. Its size and root are signed, and
`log_fsck` compares the rest with the journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from genealog.core.canonical import Record, decode, encode
from genealog.core.checkpoint import Checkpoint, parse_checkpoint_text
from genealog.core.note import Verifier, open_note
from genealog.errors import GenealogError, StoreError
from genealog.store.disk import disk, read_file, replace_file
from genealog.store.journal import Mark
from genealog.store.segments import Tip


class EmitterMark(Record):
    """A `Mark` as JSON: the high water is a decimal string because it may pass 2^53."""

    emitter: str
    boot: str
    high_water: str
    leaf: str


class State(Record):
    """The content of `state`. `writer` tells which opening of the log wrote it, for whoever reads the evidence."""

    t: Literal["genealog/log-state/v1"]
    size: int
    root: str
    epoch: int
    writer: str
    segment: int
    offset: int
    prev: str
    marks: tuple[EmitterMark, ...]
    note: str

    @property
    def tip(self) -> Tip:
        """Where the journal ended."""
        return Tip(self.size, self.epoch, self.segment, self.offset, bytes.fromhex(self.prev))

    def emitter_marks(self) -> dict[str, Mark]:
        """Return the marks as `LocalLog.marks` gives them."""
        return {m.emitter: Mark(m.boot, int(m.high_water), bytes.fromhex(m.leaf)) for m in self.marks}


def make_state(tip: Tip, root: bytes, marks: Mapping[str, Mark], note: bytes, *, writer: str) -> State:
    """Return the state of a log that ends at `tip`."""
    return State(
        t="genealog/log-state/v1",
        size=tip.size,
        root=root.hex(),
        epoch=tip.epoch,
        writer=writer,
        segment=tip.segment,
        offset=tip.offset,
        prev=tip.prev.hex(),
        marks=tuple(
            EmitterMark(emitter=name, boot=mark.boot, high_water=str(mark.high_water), leaf=mark.leaf.hex())
            for name, mark in sorted(marks.items())
        ),
        note=note.decode(),
    )


def save_state(folder: Path, state: State) -> None:
    """Make `state` durable, then publish its checkpoint. Raises: StoreError `disk-error`."""
    with disk("saving the state of the log"):
        replace_file(folder / "state", encode(state))
        replace_file(folder / "checkpoint", state.note.encode(), sync=False)


def load_state(folder: Path, verifiers: Sequence[Verifier]) -> State | None:
    """Read and check `state`, None where there is none.

    Raises: StoreError `state-damaged` if it is not ours or not signed by one of `verifiers`.
    """
    data = read_file(folder / "state")
    if data is None:
        return None
    try:
        state = decode(data, State)
        checkpoint = verify_note(state.note.encode(), verifiers)
        if (checkpoint.size, checkpoint.root) != (state.size, bytes.fromhex(state.root)):
            raise ValueError("its checkpoint is of another size or root")
        state.emitter_marks()
        if min(state.tip.epoch, state.tip.segment, state.tip.offset) < 0:
            raise ValueError("a place before the beginning")
    except (GenealogError, ValueError) as error:
        raise StoreError(
            "state-damaged",
            f"{folder / 'state'} cannot be trusted: {error}",
            hint="run `genealog fsck`; if the journal is sound, remove `state` and it is built again from the journal",
        ) from None
    return state


def load_published(folder: Path, verifiers: Sequence[Verifier]) -> tuple[bytes, Checkpoint | None]:
    """Return the bytes of `checkpoint` (none: empty) and what it says (None unless a key of the log signed it)."""
    data = read_file(folder / "checkpoint") or b""
    try:
        return data, verify_note(data, verifiers)
    except GenealogError:
        return data, None


def verify_note(note: bytes, verifiers: Sequence[Verifier]) -> Checkpoint:
    """Return the checkpoint in a note that one of the log's keys signed, and that none of them refuses.

    Raises: MalformedError, VerificationError.
    """
    return parse_checkpoint_text(open_note(note, verifiers).text)

"""Prove a log again from its bytes: every frame, every hash, the root, and what was signed.

It believes nothing that is derived. The journal is read from its beginning, one frame in memory at a time; the tree
over it must have the hashes in `tile/`, and at their sizes the roots that `state` and `checkpoint` have signed. Appends
may go on meanwhile: what is checked is the log as it was at the start.

Errors mean that something acknowledged or published is gone, altered or contradictory; warnings, that something derived
is missing or that an interrupted append left a trace. `repair` makes derived data again, but only if the journal agrees
with everything that was signed: a hash that disagrees with an altered journal is evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genealog.core.merkle import leaf_hash
from genealog.core.note import Verifier
from genealog.core.tile import TILE, RightEdge
from genealog.errors import MalformedError, MissingError, StoreError
from genealog.store.disk import is_folder
from genealog.store.journal import HEADER, Frame, Mark, decode_header, split_body
from genealog.store.log_lock import LogLock
from genealog.store.log_state import State, load_published, load_state, save_state
from genealog.store.log_tree import LogTree, load_tile, tile_place
from genealog.store.segments import Segments, Tip, Torn

_SEGMENT_NAME = re.compile(r"[0-9]{20}\.seg")
_DERIVED = {"tile-missing", "tile-differs", "checkpoint-missing", "checkpoint-damaged", "checkpoint-stale"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `where` is a file of the log, with the byte if that is known."""

    severity: Literal["error", "warning"]
    code: str
    where: str
    message: str


def fsck(path: Path, *, verifiers: Sequence[Verifier], repair: bool = False) -> tuple[Finding, ...]:
    """Check the log in `path`; with `repair`, make missing or wrong hashes and a missing checkpoint again.

    Nothing found means sound. What was repaired comes back as a warning. Raises: MissingError `no-log`; StoreError
    `disk-error`.
    """
    if not is_folder(path / "journal"):
        raise MissingError("no-log", f"there is no log in {path}")
    lock = LogLock(path / "lock", exclusive=repair)
    check = _Check(path, verifiers)
    try:
        with lock.held():
            check.look()
        check.walk()
        if repair:
            with lock.held():
                check.repair()
    finally:
        lock.release()
        check.segments.close()
    return tuple(check.findings)


class _Check:
    def __init__(self, path: Path, verifiers: Sequence[Verifier]) -> None:
        self.path = path
        self.verifiers = verifiers
        self.findings: list[Finding] = []
        self.segments = Segments(path / "journal")
        self.end = (0, 0)
        self.state: State | None = None
        self.heads: dict[str, tuple[int, bytes]] = {}  # what has signed which root at which size, not compared yet
        self.edge = RightEdge()
        self.marks: dict[str, Mark] = {}
        self.met_state = False
        self.told: set[tuple[str, Path]] = set()

    def look(self) -> None:
        """Under the lock: see what is signed, and where the journal ends."""
        self._look_at_heads()
        names = sorted(file.name for file in (self.path / "journal").iterdir())
        segments = [name for name in names if _SEGMENT_NAME.fullmatch(name)]
        for name in sorted({*names} - {*segments}):
            self._warn("journal-stray", f"journal/{name}", "not a segment")
        if segments:
            last = int(segments[-1].removesuffix(".seg"))
            self.end = (last, self.segments.length(last))
        for file in sorted((self.path / "torn").glob("*")):
            self._warn("torn-kept", f"torn/{file.name}", "what an append left that never returned")

    def walk(self) -> None:
        """Read the journal up to `end`; compare hashes, roots and state on the way."""
        tip = Tip()
        try:
            self._compare_heads(tip)
            for frame, tip in self._frames():
                for tile in self.edge.extend([leaf_hash(entry) for entry in frame.entries]):
                    self._compare_hashes(tile.level, tile.number, tile.data)
                self.marks.update(frame.marks)
                self._compare_heads(tip)
        except StoreError as error:
            segment, offset = tip.place
            where = f"journal/{self.segments.path(segment).name}:{offset}"
            self._error(error.code, where, f"{error.message}{self._culprit(tip)}; nothing behind it was checked")
            return
        for name, (size, _) in self.heads.items():
            self._error("log-rolled-back", name, f"has signed {size} entries, the journal has {tip.size}")
        if self.state is not None and self.state.size <= tip.size and not self.met_state:
            self._error("state-damaged", "state", f"no frame ends at byte {self.state.offset} of its segment")

    def repair(self) -> None:
        """Under the lock: make hashes and checkpoint again, unless what is wrong is not derived."""
        wrong = {finding.code for finding in self.findings if finding.severity == "error"}
        if self.state is None or not wrong <= _DERIVED or not any(f.code in _DERIVED for f in self.findings):
            return
        tree = LogTree(self.path)
        for frame, _ in self._frames():
            tree.grow(frame.entries)
            if tree.full or tree.size == self.state.size:
                tree.save()
            if tree.size >= self.state.size:
                break
        save_state(self.path, self.state)
        self.findings = [
            Finding("warning", f.code, f.where, f"{f.message}; repaired") if f.code in _DERIVED else f
            for f in self.findings
        ]

    def _look_at_heads(self) -> None:
        try:
            self.state = load_state(self.path, self.verifiers)
        except StoreError as error:
            self._error(error.code, "state", error.message)
        else:
            if self.state is None:
                self._warn("state-missing", "state", "made again from the journal when the log is opened with its key")
            else:
                self.heads["state"] = (self.state.size, bytes.fromhex(self.state.root))
        note, published = load_published(self.path, self.verifiers)
        if published is not None:
            self.heads["checkpoint"] = (published.size, published.root)
            if self.state is not None and self.state.note.encode() != note:
                self._warn("checkpoint-stale", "checkpoint", "not the note that `state` holds")
        elif note:
            self._error("checkpoint-damaged", "checkpoint", "not a checkpoint that a key of the log has signed")
        else:
            self._warn("checkpoint-missing", "checkpoint", "nothing is published")

    def _frames(self) -> Iterator[tuple[Frame, Tip]]:
        """Yield every frame that was there at the start."""
        tip = Tip()
        while tip.place < self.end:
            found = self.segments.next_frame(tip)
            if isinstance(found, Torn):
                if any(size > tip.size for size, _ in self.heads.values()):
                    raise self.segments.damage("journal-damaged", tip, "a frame that was acknowledged is cut off")
                where = f"journal/{found.path.name}:{found.offset}"
                self._warn("torn-tail", where, f"an append from entry {found.index} on was not finished")
                return
            if found is None:
                raise self.segments.damage("journal-gap", tip, "later segments exist, but this one ends too early")
            yield found
            tip = found[1]

    def _compare_heads(self, tip: Tip) -> None:
        for name, (size, root) in list(self.heads.items()):
            if size == tip.size:
                del self.heads[name]
                if (found := self.edge.root()) != root:
                    message = f"has signed root {root.hex()} for {size} entries, the journal gives {found.hex()}"
                    self._error("log-altered", name, message)
            elif size < tip.size:
                del self.heads[name]
                self._error("log-altered", name, f"has signed {size} entries, but no frame of the journal ends there")
        state = self.state
        if state is None or tip.place != state.tip.place or tip.size != state.size:
            return
        self.met_state = True
        if tip != state.tip or self.marks != state.emitter_marks():
            self._error(
                "state-damaged", "state", f"its epoch, digest or marks at {tip.size} entries are not the journal's"
            )
        for level in range(8):
            if tail := self.edge.tail(level):
                self._compare_hashes(level, (tip.size >> 8 * level) // TILE, tail)

    def _compare_hashes(self, level: int, number: int, data: bytes) -> None:
        """Hold a tile, or the open part of one, against its file, if it was saved when the check began."""
        width = len(data) // 32
        if self.state is None or (number * TILE + width) << 8 * level > self.state.size:
            return
        try:
            found = load_tile(self.path / "tile", level, number, width)
        except StoreError as error:
            if error.code != "tile-missing":
                raise
            self._tell_tile("warning", error.code, level, number, f"{error.message}; more may follow")
            return
        for place in range(0, len(data), 32):
            if found[place : place + 32] != data[place : place + 32]:
                first = number * TILE + place // 32 << 8 * level
                what = f"entry {first}" if level == 0 else f"entries {first} to {first + (1 << 8 * level) - 1}"
                message = f"the saved hash of {what} is not the one that the journal gives; more may follow"
                self._tell_tile("error", "tile-differs", level, number, message)
                return

    def _tell_tile(self, severity: Literal["error", "warning"], code: str, level: int, number: int, what: str) -> None:
        """Report the first of its kind in a file: a lost file would give 256 findings."""
        path, offset = tile_place(self.path / "tile", level, number)
        if (code, path) not in self.told:
            self.told.add((code, path))
            self.findings.append(Finding(severity, code, f"{path.relative_to(self.path)}:{offset}", what))

    def _culprit(self, tip: Tip) -> str:
        """Name the entry of the damaged frame behind `tip` that does not have the hash it had when it was saved."""
        segment, offset = tip.place
        try:
            header = decode_header(self.segments.read(segment, HEADER.size, offset))
            body = self.segments.read(segment, header.body_length, offset + header.body_offset)
            for index, entry in enumerate(split_body(body, header.count), tip.size):
                saved = load_tile(self.path / "tile", 0, index // TILE, index % TILE + 1)[-32:]
                if leaf_hash(entry) != saved:
                    return f" (entry {index} is not the one that was saved)"
        except (MalformedError, StoreError):
            pass
        return ""

    def _error(self, code: str, where: str, message: str) -> None:
        self.findings.append(Finding("error", code, where, message))

    def _warn(self, code: str, where: str, message: str) -> None:
        self.findings.append(Finding("warning", code, where, message))

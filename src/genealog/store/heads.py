"""Cosigned heads: what witnesses and timestamp authorities have signed about the logs of a store.

    heads/
      witnesses.json                   what was last heard of each witness: hints, may be deleted
      exchanges/*.json                 what a witness refused, word for word
      <log>/00000000000000000021.note  the checkpoint of size 21 with every cosignature so far
      <log>/00000000000000000021.tsr   an RFC 3161 token over the text of that checkpoint

A note only gains signatures. Two notes of one size with two roots are a fork, never a replacement. Old notes go when
newer ones say all that they say: the newest `KEEP` stay, every one with a timestamp, and the newest that satisfies.
Signatures are checked by whoever adds them and by whoever verifies; nothing here talks to anyone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genealog.core.canonical import Record, encode
from genealog.core.fork import Fork, forked, make_fork
from genealog.core.note import parse_note
from genealog.core.proof import claimed_checkpoint
from genealog.core.trust import Trust
from genealog.core.witness import merge_cosignatures
from genealog.errors import GenealogError
from genealog.store.disk import disk, locked, read_file, replace_file
from genealog.store.forks import forks_in, keep_fork

KEEP = 16  # notes of one log
KEEP_EXCHANGES = 1000
_NAME = re.compile(r"([0-9]{20})\.note")


class Exchange(Record):
    """What was sent to a witness and what it replied, where that may prove something."""

    at: str
    witness: str
    url: str
    status: int
    request: str
    reply: str


class Heads:
    """The folder `heads` of a store, and `forks` beside it, for evidence. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forks = folder.parent / "forks"

    def sizes(self, log: str) -> list[int]:
        """Return the sizes that there are notes of, biggest first."""
        with disk("listing cosigned heads"):
            if not (self.folder / log).is_dir():
                return []
            found = (_NAME.fullmatch(path.name) for path in (self.folder / log).iterdir())
            return sorted((int(match[1]) for match in found if match), reverse=True)

    def note(self, log: str, size: int) -> bytes | None:
        """Return the note of one size."""
        return read_file(self._path(log, size, "note"))

    def notes(self, log: str) -> Iterator[bytes]:
        """Yield the notes of all sizes, biggest first."""
        for size in self.sizes(log):
            if (note := self.note(log, size)) is not None:
                yield note

    def add(self, log: str, note: bytes, lines: Iterable[bytes] = (), *, where: str = "") -> bytes:
        """Keep a log's signed note with checked cosignature lines, durably; return it with all that are known.

        `where` says where it came from, should it contradict what is here.
        Raises: VerificationError `log-forked` with the evidence kept; StoreError `disk-error`.
        """
        size = claimed_checkpoint(note).size
        with self._locked():
            before = self.note(log, size)
            if before is not None and parse_note(before).text != parse_note(note).text:
                fork = make_fork(before, note, seen=(f"heads/{log}", where))
                self.keep_fork(fork)
                raise forked(fork)
            added = parse_note(note).text
            merged = merge_cosignatures(before or note, [note[len(added) + 1 :], *lines])
            if merged != before:
                with disk("keeping a cosigned head"):
                    (self.folder / log).mkdir(exist_ok=True)
                    replace_file(self._path(log, size, "note"), merged)
        return merged

    def prune(self, log: str, satisfies: Callable[[bytes], bool]) -> None:
        """Delete notes that newer ones make superfluous; `satisfies` tells which have all the cosignatures wanted."""
        with self._locked(), disk("deleting old cosigned heads"):
            found = False
            for rank, size in enumerate(self.sizes(log)):
                note = self.note(log, size) or b""
                first = not found and satisfies(note)
                found = found or first
                if rank >= KEEP and not first and not self._path(log, size, "tsr").exists():
                    self._path(log, size, "note").unlink(missing_ok=True)

    def token(self, log: str, size: int) -> bytes | None:
        """Return the RFC 3161 reply over the checkpoint of this size."""
        return read_file(self._path(log, size, "tsr"))

    def keep_token(self, log: str, note: bytes, token: bytes) -> None:
        """Keep a token over a note's text, and the note. Raises: as `add`."""
        self.add(log, note)
        size = claimed_checkpoint(note).size
        with self._locked(), disk("keeping a timestamp"):
            replace_file(self._path(log, size, "tsr"), token)

    def keep_fork(self, fork: Fork) -> Path:
        """Keep fork evidence; return its file."""
        return keep_fork(self._forks, fork)

    def forks(self) -> list[Path]:
        """Return the fork evidence that is kept here."""
        return forks_in(self._forks)

    def keep_exchange(self, exchange: Exchange) -> Path | None:
        """Keep an exchange with a witness; None if there are too many already."""
        folder, data = self.folder / "exchanges", encode(exchange)
        path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.json"
        with self._locked(), disk("keeping an exchange"):
            folder.mkdir(exist_ok=True)
            if sum(1 for _ in folder.iterdir()) >= KEEP_EXCHANGES:
                return None
            replace_file(path, data)
        return path

    def heard(self) -> dict[str, dict[str, Any]]:
        """Return what is noted of each witness. A file that cannot be read is as good as none."""
        try:
            told = json.loads(read_file(self.folder / "witnesses.json") or b"{}")
        except (GenealogError, ValueError, RecursionError):
            return {}
        return (
            {name: dict(each) for name, each in told.items() if isinstance(each, dict)}
            if isinstance(told, dict)
            else {}
        )

    def hear(self, witness: str, news: Mapping[str, Any]) -> None:
        """Note something of one witness, beside what is noted already."""
        with self._locked(), disk("noting what a witness said"):
            told = self.heard()
            told[witness] = {**told.get(witness, {}), **news}
            data = json.dumps(told, indent=1, sort_keys=True).encode()
            replace_file(self.folder / "witnesses.json", data, sync=False)

    def _path(self, log: str, size: int, suffix: str) -> Path:
        return self.folder / log / f"{size:020d}.{suffix}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with disk("locking the cosigned heads"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            yield


def satisfies(trust: Trust, note: bytes) -> bool:
    """Tell whether a note has all the cosignatures that a trust policy wants, and at least one."""
    try:
        return bool(trust.open_checkpoint(note).cosigned_at)
    except GenealogError:
        return False


def newest_cosigned(heads: Heads, trust: Trust, logs: Iterable[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return, by (log, witness), the biggest size that is kept with its cosignature, and when it cosigned."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for log in logs:
        for note in heads.notes(log):
            try:
                opened = trust.open_head(note)
            except GenealogError:
                continue
            for witness, at in opened.cosigned_at.items():
                found.setdefault((log, witness), (opened.checkpoint.size, at))
    return found

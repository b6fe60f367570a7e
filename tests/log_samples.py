"""Logs to test with: a fixed key, entries that say their number, and the check that nothing is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from genealog.core.merkle import leaf_hash, tree_root
from genealog.core.note import NoteSigner
from genealog.store.journal import HEADER, SEGMENT, decode_header
from genealog.store.log import LocalLog
from genealog.store.log_fsck import fsck

SIGNER = NoteSigner("log.example/test", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
VERIFIER = SIGNER.verifier


def entry(number: int) -> bytes:
    """Entry `number`, of a length of its own."""
    return b'{"n":%d}' % number + b" " * (number % 7)


def batch(start: int, stop: int) -> list[bytes]:
    return [entry(number) for number in range(start, stop)]


def make_log(path: Path, sizes: Iterable[int] = ()) -> LocalLog:
    """A new log with one frame of so many entries for each of `sizes`."""
    log = LocalLog.create(path, signer=SIGNER)
    for size in sizes:
        log.append(batch(log.size, log.size + size))
    return log


def reopen(path: Path, *, write: bool = True) -> LocalLog:
    return LocalLog.open(path, verifiers=[VERIFIER], signers=[SIGNER] if write else [])


def root_of(entries: Iterable[bytes]) -> bytes:
    return tree_root([leaf_hash(each) for each in entries])


def codes(path: Path, *, repair: bool = False) -> list[str]:
    """The codes that fsck finds, errors first."""
    return [f.code for f in sorted(fsck(path, verifiers=[VERIFIER], repair=repair), key=lambda f: f.severity)]


def errors(path: Path) -> list[str]:
    return [f"{f.code} {f.where} {f.message}" for f in fsck(path, verifiers=[VERIFIER]) if f.severity == "error"]


def segment(path: Path, number: int = 0) -> Path:
    return path / "journal" / f"{number * SEGMENT:020d}.seg"


def frame_offsets(file: Path) -> list[int]:
    """Where the frames of a segment begin, and where the last one ends."""
    data = file.read_bytes()
    offsets = [0]
    while offsets[-1] < len(data):
        offsets.append(offsets[-1] + decode_header(data[offsets[-1] : offsets[-1] + HEADER.size]).length)
    return offsets

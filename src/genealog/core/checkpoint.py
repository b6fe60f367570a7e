"""Checkpoints: what a log says of itself at one size. The text is signed as a note.

    log.example/genealog                             origin: the log's name
    8                                                tree size
    XcnaeacGWamtVZy3Ad7ZoqudgjqtL0lgz+Nw7/RgQyg=     base64 of the 32-byte root
    …                                                extension lines, not empty; we write none

    — log.example/genealog KJOKonH38D…               signatures: see `note`

A log must never sign two checkpoints that do not chain: whoever calls `sign_checkpoint` keeps that promise.
Reading a checkpoint here proves nothing; `trust.Trust.verify_checkpoint` does.

Source: c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from genealog.core.merkle import EMPTY_ROOT, HASH_SIZE
from genealog.core.spelling import MAX_SIZE, decode_base64, encode_base64, parse_decimal
from genealog.errors import MalformedError

MAX_TEXT = 65_536  # bytes of a checkpoint text; ours have about 100
_LINE = re.compile(r"[^\x00-\x1f]+")


class LineSigner(Protocol):
    """What `note.NoteSigner` is."""

    name: str

    def sign(self, text: bytes) -> bytes:
        """Return a signature line with its LF."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Origin, tree size, 32-byte root. Making one checks it. Raises: MalformedError `checkpoint-malformed`."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not _LINE.fullmatch(line):
                raise _malformed("a line is empty or has a control character", got=repr(line))
        if not 0 <= self.size <= MAX_SIZE:
            raise _malformed("not a tree size", got=self.size)
        if len(self.root) != HASH_SIZE:
            raise _malformed("a root has 32 bytes", got=len(self.root))
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise _malformed("the root of an empty tree is SHA-256 of nothing", got=self.root.hex())

    def encode(self) -> bytes:
        """Return the text to sign: lines ending in LF."""
        try:
            lines = [line.encode() for line in (self.origin, *self.extensions)]
        except UnicodeEncodeError:
            raise _malformed("a line holds a lone surrogate") from None
        return b"\n".join([lines[0], b"%d" % self.size, encode_base64(self.root), *lines[1:], b""])


def parse_checkpoint_text(text: bytes) -> Checkpoint:
    """Read the text of a checkpoint (no signatures). Raises: MalformedError `checkpoint-malformed`."""
    if len(text) > MAX_TEXT or not text.endswith(b"\n"):
        raise _malformed("a checkpoint text is short and ends in a line feed", got=f"{len(text)} bytes")
    lines = text[:-1].split(b"\n")
    if len(lines) < 3:
        raise _malformed("a checkpoint has origin, size and root", got=f"{len(lines)} lines")
    try:
        origin, *extensions = (line.decode() for line in (lines[0], *lines[3:]))
    except UnicodeDecodeError:
        raise _malformed("a checkpoint is UTF-8") from None
    return Checkpoint(
        origin,
        parse_decimal(lines[1], code="checkpoint-malformed"),
        decode_base64(lines[2], code="checkpoint-malformed", length=HASH_SIZE),
        tuple(extensions),
    )


def sign_checkpoint(checkpoint: Checkpoint, signer: LineSigner, *more: LineSigner) -> bytes:
    """Return the checkpoint as a note signed by the log's key, and in a key rotation by `more` of its keys.

    Raises: MalformedError `checkpoint-malformed` if a key's name is not the origin.   Source: c2sp.org/tlog-checkpoint.
    """
    text = checkpoint.encode()
    for each in (signer, *more):
        if each.name != checkpoint.origin:
            raise _malformed("the key of a log has the log's name", got=each.name, expected=checkpoint.origin)
    return text + b"\n" + b"".join(each.sign(text) for each in (signer, *more))


def _malformed(message: str, got: object = None, expected: object = None) -> MalformedError:
    return MalformedError("checkpoint-malformed", message, got=got, expected=expected)

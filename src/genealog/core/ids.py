"""IDs that are computed from content, so that nobody can assign them. They carry their algorithm.

glf1:<hex>  artifact: Merkle root over (path, size, sha256) of its files
glw1:<hex>  weights: Merkle root over (name, dtype, shape, sha256) of its tensors
glr1:<hex>  record: hash of a canonical body
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NewType

from genealog.core.canonical import encode
from genealog.errors import MalformedError

ArtifactId = NewType("ArtifactId", str)  # glf1:… or glr1:… — an artifact is bytes, or a canonical body
WeightsId = NewType("WeightsId", str)
RecordId = NewType("RecordId", str)
DataId = NewType("DataId", str)  # gld1:… — the records of a dataset

_ID = re.compile(r"(glf1|glw1|glr1|gld1):([0-9a-f]{64})")


def parse_id(text: str) -> tuple[str, str]:
    """Split an ID into algorithm and lower-case hex. Raises: MalformedError `bad-id`."""
    match = _ID.fullmatch(text)
    if match is None:
        raise MalformedError(
            "bad-id", "not a Genealog ID", got=text[:80], expected="glf1:, glw1:, glr1: or gld1: and 64 hex digits"
        )
    return match[1], match[2]


def digest_set(identifier: str) -> dict[str, str]:
    """Return an ID as an in-toto digest set: `glf1:ab…` becomes `{"glf1": "ab…"}`."""
    algorithm, value = parse_id(identifier)
    return {algorithm: value}


def record_id(body: Any) -> RecordId:
    """Return the ID of a canonical body (a Record or JSON values)."""
    return RecordId("glr1:" + hashlib.sha256(b"genealog/record/v1\x00" + encode(body)).hexdigest())


def seal(salt: bytes, group: bytes) -> str:
    """Return the commitment to a sealed group: hex SHA-256 over tag, 32-byte salt and canonical group bytes."""
    if len(salt) != 32:
        raise MalformedError("bad-salt", "a salt has 32 bytes", got=len(salt))
    return hashlib.sha256(b"genealog/seal/v1\x00" + salt + group).hexdigest()


def sha256_hex(data: bytes) -> str:
    """Return the lower-case hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()

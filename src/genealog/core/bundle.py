"""An evidence bundle (`*.genealog`): the receipts of a whole chain, and the sealed groups that its holder opened.

    {"call": hex leaf hash of the call, "groups": {name: {"body": base64, "salt": hex}},
     "receipts": [receipt, ...], "request"?: base64, "response"?: base64, "t": "genealog/evidence/v1"}

`request` and `response` are the bodies as they crossed the wire. A receipt proves one entry; a bundle tells a story,
and `core.chain` judges it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from genealog.core.canonical import Record, decode, encode
from genealog.core.receipt import Receipt, parse_receipt
from genealog.errors import MalformedError


class Opened(Record):
    """A sealed group, opened: its canonical bytes and its salt."""

    body: str
    salt: str


class Evidence(Record):
    """The wire form."""

    call: str
    receipts: tuple[Receipt, ...]
    groups: dict[str, Opened] = {}  # noqa: RUF012 - msgspec copies an empty default
    request: str | None = None
    response: str | None = None
    t: Literal["genealog/evidence/v1"] = "genealog/evidence/v1"


def encode_evidence(evidence: Evidence) -> bytes:
    """Return the bytes of a `*.genealog` file."""
    return encode(evidence)


def parse_file(data: bytes) -> Evidence | Receipt:
    """Read a bundle or a receipt. Raises: MalformedError `not-evidence`, or those of `decode`."""
    try:
        kind = msgspec.json.decode(data, type=_Tagged).t
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        kind = ""
    if kind == "genealog/evidence/v1":
        return decode(data, Evidence)
    if kind == "genealog/receipt/v1":
        return parse_receipt(data)
    raise MalformedError("not-evidence", "neither a receipt nor an evidence bundle", got=kind or data[:20])


class _Tagged(msgspec.Struct):
    t: str

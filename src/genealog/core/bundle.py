"""An evidence bundle (`*.genealog`): the receipts of a whole chain, and the sealed groups that its holder opened.

    {"call": hex leaf hash of the call, "groups"?: {name: {"body": base64, "salt": hex}},
     "receipts": [receipt, ...], "request"?: base64, "response"?: base64, "t": "genealog/evidence/v1"}

`request` and `response` are the bodies as they crossed the wire. A receipt proves one entry; a bundle tells a story,
and `core.chain` judges it.

A disclosure (`*.disclosure.json`) opens a part of one call and claims nothing about what answered:

    {"groups": {…}, "receipt": receipt, "request"?: base64, "response"?: base64, "t": "genealog/disclosure/v1"}
"""

from __future__ import annotations

import re

import msgspec

from genealog.core.canonical import Record, decode, encode
from genealog.core.dsse import unb64
from genealog.core.fork import Fork, parse_fork
from genealog.core.receipt import Receipt, parse_receipt
from genealog.errors import MalformedError

_HEX = re.compile(r"[0-9a-f]{64}")


class Opened(Record):
    """A sealed group, opened: its canonical bytes and its salt. Making one checks how they are spelled."""

    body: str
    salt: str

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-base64`, `bad-hex`."""
        unb64(self.body)
        _check_hex(self.salt)


class Evidence(Record, tag_field="t", tag="genealog/evidence/v1"):
    """The wire form. Making one checks how its values are spelled."""

    call: str
    receipts: tuple[Receipt, ...]
    groups: dict[str, Opened] = {}  # noqa: RUF012 - msgspec copies an empty default
    request: str | None = None
    response: str | None = None

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-base64`, `bad-hex`."""
        _check_hex(self.call)
        for body in (self.request, self.response):
            if body is not None:
                unb64(body)


class Disclosure(Record, tag_field="t", tag="genealog/disclosure/v1"):
    """The wire form of a part of one call: its receipt, and the groups and bodies that somebody may see."""

    receipt: Receipt
    groups: dict[str, Opened] = {}  # noqa: RUF012
    request: str | None = None
    response: str | None = None

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-base64`."""
        for body in (self.request, self.response):
            if body is not None:
                unb64(body)


def encode_evidence(evidence: Evidence | Disclosure) -> bytes:
    """Return the bytes of a `*.genealog` file, or of a disclosure."""
    return encode(evidence)


def parse_file(data: bytes) -> Evidence | Disclosure | Receipt | Fork:
    """Read a bundle, a disclosure, a receipt or fork evidence.

    Raises: MalformedError `not-json`, `not-evidence`, or those of `decode`.
    """
    try:
        kind = msgspec.json.decode(data, type=_Tagged).t
    except msgspec.ValidationError:
        kind = ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(
            "not-json",
            f"not JSON: {error}",
            hint="the file was cut, or is no evidence; registered files: genealog verify PATH --as NAME",
        ) from None
    if kind == "genealog/evidence/v1":
        return decode(data, Evidence)
    if kind == "genealog/disclosure/v1":
        return decode(data, Disclosure)
    if kind == "genealog/receipt/v1":
        return parse_receipt(data)
    if kind == "genealog/fork/v1":
        return parse_fork(data)
    raise MalformedError(
        "not-evidence",
        "neither a receipt nor a disclosure nor an evidence bundle nor fork evidence",
        got=kind or data[:20],
        hint="registered files are compared with: genealog verify PATH --as NAME",
    )


def _check_hex(text: str) -> None:
    if not _HEX.fullmatch(text):
        raise MalformedError("bad-hex", "not 64 lower-case hex digits", got=text[:80])


class _Tagged(msgspec.Struct):
    t: str

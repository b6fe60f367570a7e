"""The one spelling of base64 and of decimal numbers that the text formats of the log allow.

A value has exactly one spelling, so that two different files can never say the same thing: what was read is
written again and compared. Callers give the error code of their own format. Nothing else is parsed here.
"""

from __future__ import annotations

import re
from binascii import Error as NotBase64
from binascii import a2b_base64, b2a_base64

from genealog.errors import MalformedError

MAX_SIZE = 2**63 - 1  # the largest tree size, index and POSIX time of the C2SP formats
_DECIMAL = re.compile(rb"0|[1-9][0-9]{0,18}")


def encode_base64(data: bytes) -> bytes:
    """Return padded base64 without line breaks. Source: RFC 4648 §4."""
    return b2a_base64(data, newline=False)


def decode_base64(text: bytes, *, code: str, length: int | None = None) -> bytes:
    """Read what `encode_base64` writes; with `length`, exactly so many bytes. Raises: MalformedError `code`."""
    try:
        data = a2b_base64(text, strict_mode=True)
    except NotBase64 as error:
        raise MalformedError(code, f"not base64: {error}", got=text[:80]) from None
    if b2a_base64(data, newline=False) != text:  # strict_mode still lets unused bits of the last digit differ
        raise MalformedError(code, "base64 that is not spelled canonically", got=text[:80])
    if length is not None and len(data) != length:
        raise MalformedError(code, "base64 of the wrong length", got=f"{len(data)} bytes", expected=f"{length} bytes")
    return data


def parse_decimal(text: bytes, *, code: str) -> int:
    """Read an ASCII decimal 0 ≤ n < 2**63 without sign or leading zeros. Raises: MalformedError `code`."""
    if not _DECIMAL.fullmatch(text) or (value := int(text)) > MAX_SIZE:
        raise MalformedError(code, "not a decimal number below 2**63 without leading zeros", got=text[:80])
    return value

"""When a signature was there: RFC 3161 replies over its bytes, by authorities whose roots the verifier gave.

`core.timestamp` judges stamps of checkpoints; these are of signatures. The library that reads ASN.1 is imported when
one is looked at.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from genealog.core.canonical import timestamp
from genealog.core.timestamp import read_certificates
from genealog.errors import not_installed

_SHA256 = "2.16.840.1.101.3.4.2.1"
_MAX = 65_536


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment that an authority vouches for."""

    at: datetime

    @property
    def said(self) -> str:
        """Return it for a reader."""
        return f"stamped at {timestamp(self.at)}"


def earliest_stamp(tokens: Sequence[bytes], signature: bytes, roots: bytes) -> Stamp | None:
    """Return the earliest moment at which an authority under one of `roots` (PEM) saw this signature, if any did.

    A token that does not verify is no evidence, and no fault of the signature. Raises: MissingError
    `extra-not-installed`; MalformedError `roots-malformed`.
    """
    if not tokens:
        return None
    try:
        from rfc3161_client import VerifierBuilder, decode_timestamp_response
    except ImportError:
        raise not_installed("a timestamp", "rfc3161_client", "witness") from None
    believed = list(read_certificates(roots))
    moments = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about a stranger's certificate is nothing for a terminal
        for token in tokens:
            try:
                if len(token) > _MAX:
                    continue
                response = decode_timestamp_response(token)
                imprint = response.tst_info.message_imprint
                if imprint.hash_algorithm.dotted_string != _SHA256:
                    continue
                if imprint.message != hashlib.sha256(signature).digest():
                    continue
                VerifierBuilder(roots=believed).build().verify_message(response, signature)
                moments.append(response.tst_info.gen_time)
            except Exception:  # noqa: BLE001, S112 - the fields are parsed when asked for, and fail in a dozen ways
                continue
    return Stamp(min(moments)) if moments else None

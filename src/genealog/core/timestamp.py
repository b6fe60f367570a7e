"""Timestamps by an outside authority (RFC 3161): that a checkpoint existed at a time, said by somebody else.

What is stamped is the SHA-256 of the checkpoint's text, the lines that the log signs, with their last line feed and
without any signature line. So the timestamp stays whole when cosignatures are added to the note, and it covers origin,
size and root: every entry below that size existed then.

The library that reads ASN.1 (`rfc3161-client`) is imported when a token is looked at. Whoever verifies gives the root
certificates that he believes; certificates count if they were valid at the time of the stamp.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from genealog.core.canonical import timestamp
from genealog.core.note import parse_note
from genealog.errors import MalformedError, VerificationError, not_installed

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

MAX_TOKEN = 65_536  # bytes
_SHA256 = "2.16.840.1.101.3.4.2.1"
_UNKNOWN = ("issuer certificate", "self-signed", "self signed")


@dataclass(frozen=True, slots=True)
class Stamp:
    """When, as RFC 3339 UTC, and by whom, as the signing certificate names its subject."""

    at: str
    authority: str


def stamped_bytes(note: bytes) -> bytes:
    """Return the bytes of a signed checkpoint that get stamped: its text. Raises: MalformedError `note-malformed`."""
    return parse_note(note).text


def read_timestamp(token: bytes, note: bytes) -> Stamp:
    """Return what a DER TimeStampResp says about a signed checkpoint; its signature is not looked at: a claim.

    Raises: MalformedError `timestamp-malformed`; VerificationError `timestamp-refused`, `timestamp-mismatch`;
    MissingError `extra-not-installed`.
    """
    response = _decode(token)
    if response.status not in (0, 1):
        said = "; ".join(response.status_string or ())
        raise VerificationError(
            "timestamp-refused", "the authority refused to stamp", got=f"status {response.status} {said[:80]}".strip()
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about a stranger's certificate is nothing for a terminal
            told = response.tst_info
            imprint, signed = told.message_imprint, response.signed_data
            algorithm, digest, at = imprint.hash_algorithm.dotted_string, imprint.message, timestamp(told.gen_time)
            names = {(info.issuer, info.serial_number) for info in signed.signer_infos}
            certificates = [x509.load_der_x509_certificate(each) for each in signed.certificates]
            mine = [each for each in certificates if (each.issuer, each.serial_number) in names]
            signers = [each.subject.rfc4514_string() for each in mine]
    except Exception as error:  # noqa: BLE001 - the fields are parsed when asked for, and fail in a dozen ways
        raise _malformed(f"{type(error).__name__}: {error}") from None
    if algorithm != _SHA256 or digest != hashlib.sha256(stamped_bytes(note)).digest():
        raise VerificationError(
            "timestamp-mismatch", "the timestamp is of something else than this checkpoint",
            got=digest.hex(), expected=hashlib.sha256(stamped_bytes(note)).hexdigest(),
        )  # fmt: skip
    return Stamp(at, signers[0] if signers else "an authority without a certificate")


def verify_timestamp(token: bytes, note: bytes, roots: bytes) -> Stamp:
    """Prove that an authority under one of `roots` (PEM certificates) stamped a signed checkpoint.

    Raises: as `read_timestamp`; VerificationError `timestamp-authority-unknown`, `timestamp-invalid`;
    MalformedError `roots-malformed`.
    """
    stamp = read_timestamp(token, note)
    from rfc3161_client import VerificationError as Refused
    from rfc3161_client import VerifierBuilder

    builder = VerifierBuilder(roots=list(read_certificates(roots)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            builder.build().verify_message(_decode(token), stamped_bytes(note))
    except (Refused, ValueError, TypeError, LookupError) as error:
        if any(word in str(error).lower() for word in _UNKNOWN):
            raise VerificationError(
                "timestamp-authority-unknown", "the authority stands under none of the roots that you believe",
                got=stamp.authority, hint="get its root certificate from its operator, by another way than this file",
            ) from None  # fmt: skip
        raise VerificationError("timestamp-invalid", "the timestamp does not verify", got=str(error)[:200]) from None
    return stamp


def read_certificates(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read PEM certificates. Raises: MalformedError `roots-malformed`."""
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise MalformedError(
            "roots-malformed", "not a file of PEM certificates", got=str(error)[:80],
            expected="-----BEGIN CERTIFICATE----- …",
        ) from None  # fmt: skip


def _decode(token: bytes) -> TimeStampResponse:
    try:
        from rfc3161_client import decode_timestamp_response
    except ImportError:
        raise not_installed("a timestamp", "rfc3161_client", "witness") from None
    if len(token) > MAX_TOKEN:
        raise _malformed(f"{len(token)} bytes")
    try:
        return decode_timestamp_response(token)
    except ValueError as error:
        raise _malformed(str(error)) from None


def _malformed(got: str) -> MalformedError:
    return MalformedError(
        "timestamp-malformed", "not an RFC 3161 reply in strict DER", got=got[:120],
        hint="ask the authority again, and for a reply without its certificate chain",
    )  # fmt: skip

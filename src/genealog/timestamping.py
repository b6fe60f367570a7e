"""Get a log's newest checkpoint stamped by a timestamp authority (RFC 3161), and keep the token.

The request holds a SHA-256 and a nonce, so the authority learns nothing of the log. Its reply is checked for what was
asked, and, where root certificates are given, for who signed it. It stays in `heads/` beside the note, whose text is
what was stamped: cosignatures may be added before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from genealog.core.proof import claimed_checkpoint
from genealog.core.timestamp import MAX_TOKEN, Stamp, read_timestamp, stamped_bytes, verify_timestamp
from genealog.errors import MissingError, UpstreamError, VerificationError, not_installed
from genealog.remote import Remote
from genealog.store.home import Home

_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"


@dataclass(frozen=True, slots=True)
class Stamped:
    """A checkpoint that was stamped. `checked` tells whether the authority's certificate chain was, too."""

    log: str
    size: int
    stamp: Stamp
    checked: bool


def stamp_log(
    home: Home, name: str, url: str, *, roots: bytes | None = None, connect: Callable[[str], Remote] = Remote
) -> Stamped:
    """Stamp the newest checkpoint of a log. One that has a token already gets a new one in its place.

    Raises: UpstreamError `remote-failed`, `remote-too-big`, `timestamp-failed`; VerificationError
    `timestamp-refused`, `timestamp-mismatch`, `timestamp-authority-unknown`, `timestamp-invalid`; MalformedError
    `timestamp-malformed`, `bad-url`, `roots-malformed`; MissingError `extra-not-installed`, `log-empty`.
    """
    note = home.log(name).checkpoint()
    size = claimed_checkpoint(note).size
    if size == 0:
        raise MissingError("log-empty", "there is no entry yet whose time could be stamped", got=name)
    token = _request(url, note, connect)
    stamp = read_timestamp(token, note) if roots is None else verify_timestamp(token, note, roots)
    home.heads.keep_token(name, note, token)
    return Stamped(name, size, stamp, roots is not None)


def _request(url: str, note: bytes, connect: Callable[[str], Remote]) -> bytes:
    try:
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder, decode_timestamp_response
    except ImportError:
        raise not_installed("a timestamp", "rfc3161_client", "witness") from None
    builder = TimestampRequestBuilder().data(stamped_bytes(note)).hash_algorithm(HashAlgorithm.SHA256)
    request = builder.nonce(nonce=True).cert_request(cert_request=True).build()
    with connect(url) as remote:
        reply = remote.send("POST", "", request.as_bytes(), limit=MAX_TOKEN, headers={"content-type": _QUERY})
    if reply.status != 200 or reply.content_type != _REPLY:
        got = f"{url}: HTTP {reply.status}, {reply.content_type[:40] or 'no content type'}"
        raise UpstreamError("timestamp-failed", "the server did not answer as a timestamp authority", got=got)
    read_timestamp(reply.body, note)
    if decode_timestamp_response(reply.body).tst_info.nonce != request.nonce:
        raise VerificationError("timestamp-mismatch", "the reply is to another request: its nonce differs")
    return reply.body

"""Which headers go where: to the upstream, to the client, on record.

Hop-by-hop headers end here in both directions (RFC 9110 §7.6.1), and so does everything called `Genealog-…`: a client
cannot choose the ID of its call, and an upstream cannot speak for the gateway. The client's `Authorization` goes on to
the upstream and is never on record. The rest passes as it came.
"""

from __future__ import annotations

from collections.abc import Iterable

from multidict import CIMultiDict

Headers = Iterable[tuple[bytes, bytes]]
Kept = tuple[tuple[bytes, bytes], ...]

_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
_NOT_UPSTREAM = _HOP | {b"host", b"content-length", b"expect"}  # ours to write
_RECORDED = frozenset(
    (b"content-type", b"openai-organization", b"openai-project", b"user-agent", b"x-stainless-retry-count")
)
_WHO = {
    b"genealog-principal": "principal",
    b"genealog-department": "department",
    b"genealog-project": "project",
    b"genealog-tenant": "tenant",
    b"genealog-subject": "subject",
}
_KEPT = _RECORDED | frozenset(_WHO)
_OURS = b"genealog-"
_VIA = b"genealog-via"
_LONGEST = 256


def via(headers: Headers) -> tuple[str, ...]:
    """Return the marks of the gateways that a request came through."""
    return tuple(
        mark for name, value in headers if name == _VIA for mark in value.decode("latin-1").replace(",", " ").split()
    )


def to_upstream(headers: Headers, call: str, mark: str, *, streaming: bool) -> CIMultiDict[str]:
    """Return the headers of the upstream request. `mark` is this gateway's: it knows by it what it sent itself.

    A stream is asked for without compression, so that its end can be seen in it.
    """
    named = _named_by_connection(headers)
    result: CIMultiDict[str] = CIMultiDict()
    for name, value in headers:
        if name in _NOT_UPSTREAM or name in named or name.startswith(_OURS):
            continue
        if streaming and name == b"accept-encoding":
            continue
        result.add(name.decode("latin-1"), _text(value))
    if streaming:
        result.add("Accept-Encoding", "identity")
    result.add("Genealog-Call", call)
    result.add("Genealog-Via", ", ".join((*via(headers), mark)))
    return result


def to_client(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Return the headers of the response, names in lower case."""
    lower = [(name.lower(), value) for name, value in headers]
    named = _named_by_connection(lower)
    return [pair for pair in lower if pair[0] not in _HOP and pair[0] not in named and not pair[0].startswith(_OURS)]


def kept(headers: Headers) -> Kept:
    """Return what `who` and `on_record` read, and nothing else: equal for calls of one client, so a key."""
    return tuple([pair for pair in headers if pair[0] in _KEPT])


def claims(headers: Headers) -> Kept:
    """Return what `who` reads, and nothing else: equal for calls of one client, so a key."""
    return tuple([pair for pair in headers if pair[0] in _WHO])


def on_record(headers: Kept) -> dict[str, str]:
    """Return the request headers that are recorded, cut to 256 characters."""
    return {name.decode(): _text(value[:_LONGEST]) for name, value in headers if name in _RECORDED}


def who(headers: Kept) -> dict[str, str]:
    """Return on whose account the client says that it calls.

    The headers are `Genealog-Principal`, `-Department`, `-Project`, `-Tenant` and `-Subject`: the client's own word.
    Whoever needs more lets only a proxy that authenticates reach the gateway. A subject is never cut: whoever is erased
    by name must be found by the whole of it.
    """
    return {
        _WHO[name]: _text(value if name == b"genealog-subject" else value[:_LONGEST])
        for name, value in headers
        if name in _WHO
    }


def _text(value: bytes) -> str:
    """Read a header value so that the client library writes the same bytes again wherever they are UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Return the names that a `Connection` header makes hop-by-hop; `headers` have lower-case names."""
    for name, value in headers:
        if name == b"connection" and (lower := value.lower()) not in (b"keep-alive", b"close"):
            return frozenset(item.strip() for item in lower.split(b","))
    return frozenset()

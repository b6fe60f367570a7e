"""Which headers go where: to the upstream, to the client, on record.

Hop-by-hop headers end here in both directions (RFC 9110 §7.6.1), and so does everything called `Genealog-…`: a client
cannot choose the ID of its call, and an upstream cannot speak for the gateway. The client's `Authorization` goes on to
the upstream, unless the gateway shows the upstream who it is itself, and is never on record. The rest passes as it
came. Names of requests are in lower case here, as `http1` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Headers = Iterable[tuple[bytes, bytes]]
Kept = tuple[tuple[bytes, bytes], ...]

_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade")
)  # fmt: skip
_NOT_UPSTREAM = _HOP | {b"host", b"content-length", b"expect"}  # ours to write
RECORDED = frozenset(
    (b"anthropic-beta", b"anthropic-version", b"content-type", b"genealog-data-class", b"genealog-purpose",
     b"inference-header-content-length",
     b"openai-organization", b"openai-project", b"user-agent", b"x-stainless-retry-count")
)  # fmt: skip
ANSWERED = frozenset(
    (b"inference-header-content-length", b"request-id", b"retry-after", b"x-amzn-bedrock-cache-read-input-token-count",
     b"x-amzn-bedrock-cache-write-input-token-count", b"x-amzn-bedrock-input-token-count",
     b"x-amzn-bedrock-output-token-count", b"x-amzn-errortype", b"x-amzn-requestid", b"x-request-id")
)  # fmt: skip
SECRET = frozenset(
    (b"api-key", b"authorization", b"cookie", b"ocp-apim-subscription-key", b"proxy-authorization", b"set-cookie",
     b"x-amz-security-token", b"x-api-key", b"x-goog-api-key")
)  # fmt: skip
CREDENTIALS = frozenset((b"api-key", b"authorization", b"x-api-key", b"x-goog-api-key", b"x-amz-security-token"))
_WHO = {
    b"genealog-principal": "principal",
    b"genealog-department": "department",
    b"genealog-project": "project",
    b"genealog-tenant": "tenant",
    b"genealog-subject": "subject",
}
PURPOSE, DATA_CLASS = b"genealog-purpose", b"genealog-data-class"
_CLAIMS = frozenset(_WHO) | {PURPOSE, DATA_CLASS}
_OURS = b"genealog-"
_NONE: frozenset[bytes] = frozenset()
_VIA = b"genealog-via"
_LONGEST = 256


def via(headers: Headers) -> tuple[str, ...]:
    """Return the marks of the gateways that a request came through."""
    values = [value for name, value in headers if name == _VIA]
    return tuple(b" ".join(values).decode("latin-1").replace(",", " ").split()) if values else ()


def to_upstream(
    headers: Sequence[tuple[bytes, bytes]], *, streaming: bool, without: frozenset[bytes] = frozenset()
) -> list[tuple[bytes, bytes]]:
    """Return the client's headers as the upstream gets them, but for those named in `without`.

    A stream is asked for without compression, so that its end can be seen in it.
    """
    named = _named_by_connection(headers)
    left = _NOT_UPSTREAM | without | named if without or named else _NOT_UPSTREAM
    result = [
        pair
        for pair in headers
        if pair[0] not in left and pair[0][:9] != _OURS and not (streaming and pair[0] == b"accept-encoding")
    ]
    if streaming:
        result.append((b"accept-encoding", b"identity"))
    return result


def via_of(headers: Headers, mark: str) -> tuple[bytes, bytes]:
    """Return the header by which a gateway knows what it sent itself. `mark` is its own."""
    return _VIA, ", ".join((*via(headers), mark)).encode("latin-1")


def marks(headers: Headers, call: str, mark: str) -> tuple[tuple[bytes, bytes], tuple[bytes, bytes]]:
    """Return what the gateway adds for every upstream: the call, and where it came through."""
    return (b"genealog-call", call.encode()), via_of(headers, mark)


def to_client(headers: Sequence[tuple[bytes, bytes]], names: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the headers of the response, as they came. `names` are theirs in lower case."""
    if b"connection" in names:
        named = _named_by_connection([(name, pair[1]) for name, pair in zip(names, headers, strict=True)])
    else:
        named = _NONE
    return [
        pair
        for name, pair in zip(names, headers, strict=True)
        if name not in _HOP and name not in named and name[:9] != _OURS
    ]


def kept(headers: Headers, names: frozenset[bytes] = RECORDED) -> Kept:
    """Return what `on_record` reads, and nothing else: equal for calls of one client, so a key."""
    return tuple([pair for pair in headers if pair[0] in names])


def claims(headers: Headers) -> Kept:
    """Return what `who` and `use` read, and nothing else: equal for calls of one client, so a key."""
    return tuple([pair for pair in headers if pair[0] in _CLAIMS])


def on_record(headers: Kept) -> dict[str, str]:
    """Return the headers that are recorded, cut to 256 characters. Of what is written twice, the last counts."""
    return {name.decode(): text(value[:_LONGEST]) for name, value in headers}


def recordable(names: Iterable[str]) -> frozenset[bytes]:
    """Return the names that somebody wants on record besides, without those that hold secrets."""
    wanted = {name.strip().lower().encode("ascii", "ignore") for name in names}
    return frozenset(wanted - SECRET - {b""})


def who(headers: Kept) -> dict[str, str]:
    """Return on whose account the client says that it calls.

    The headers are `Genealog-Principal`, `-Department`, `-Project`, `-Tenant` and `-Subject`: the client's own word.
    Whoever needs more lets only a proxy that authenticates reach the gateway. A subject is never cut: whoever is erased
    by name must be found by the whole of it.
    """
    return {
        _WHO[name]: text(value if name == b"genealog-subject" else value[:_LONGEST])
        for name, value in headers
        if name in _WHO
    }


def use(headers: Kept) -> tuple[str, str]:
    """Return what a call is for and which class of data is in it, as `Genealog-Purpose` and `-Data-Class` claim."""
    claimed = dict(headers)
    purpose, data_class = claimed.get(PURPOSE, b""), claimed.get(DATA_CLASS, b"")
    return text(purpose[:_LONGEST]).strip().lower(), text(data_class[:_LONGEST]).strip().lower()


def text(value: bytes) -> str:
    """Read a header value: UTF-8 where it is that, else Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Return the names that a `Connection` header makes hop-by-hop; `headers` have lower-case names."""
    for name, value in headers:
        if name == b"connection" and (lower := value.lower()) not in (b"keep-alive", b"close"):
            return frozenset(item.strip() for item in lower.split(b","))
    return _NONE

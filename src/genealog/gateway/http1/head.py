"""Heads of HTTP/1.1 messages (RFC 9112): the values they become, the rules they must keep, how they are written.

Pure: bytes in, values or a refusal out. A head is judged when it is whole: how it was cut on its way changes nothing.
Strict on purpose: where two readers of the same bytes could see two messages, there is no message. So a line ends
with CR LF and nothing else, a name is a token right before its colon, a message has one length or one `chunked`.
"""

from __future__ import annotations

import http
from collections.abc import Sequence
from dataclasses import dataclass, field

from genealog.errors import GenealogError, MalformedError

END = b"\r\n\r\n"
Headers = list[tuple[bytes, bytes]]

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"  # RFC 9110 §5.6.2, in lower case
_TEXT = bytes((9, *range(32, 127), *range(128, 256)))  # RFC 9110 §5.5: what a field's value may hold
_TARGET = bytes(byte for byte in range(33, 127) if byte != 35)  # visible, and no fragment
_HOST = b"-._~%!$&'()*+,;=:[]0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 3986 §3.2.2
_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}
_FRAMING = frozenset((b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"))
_NO_TRAILERS = _FRAMING | {b"keep-alive", b"proxy-connection", b"te", b"trailer"}
_OURS = frozenset((b"connection", b"content-length", b"transfer-encoding", b"keep-alive"))  # never of the caller
_OURS_LENGTHS = frozenset(map(len, _OURS))
_NAMES: dict[bytes, bytes] = {}  # names that were seen and are tokens → in lower case
_MAX_NAMES = 1024
_STATUS = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode())
    for status in http.HTTPStatus
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may ask of us. Sizes in bytes, times in seconds."""

    head: int = 64 * 1024  # of a head, its end not counted
    headers: int = 200  # lines of a head, or of trailers
    body: int | None = None  # of a request; more is answered with 413
    chunk_line: int = 1024  # of the line before a chunk, extensions included
    chunk_extensions: int = 16 * 1024  # of all extensions of a message
    trailers: int = 8 * 1024
    ahead: int = 64 * 1024  # of requests that came before the one before them was answered; then we stop reading
    interim: int = 16  # answers 1xx before the answer
    head_time: float = 30.0  # from a connection, or the first byte of a head, to its end; and for a TLS handshake
    idle_time: float = 75.0  # between requests
    body_time: float = 60.0  # in which a body must bring `body_floor` bytes or its end, unless we do not read
    body_floor: int = 1024
    stall_time: float = 300.0  # that a client may read nothing of what we have for it
    linger_time: float = 2.0  # to go on reading after a last word, so that the client gets to see it
    connections: int = 10_000


class RefusedError(MalformedError):
    """The bytes are no HTTP/1.1 that we take. `rule` names what they break, `status` is the answer to a request."""

    def __init__(self, rule: str, status: int = 400, *, expected: object = None) -> None:
        super().__init__("http-refused", "this is no HTTP/1.1 message that can be taken", got=rule, expected=expected)
        self.rule = rule
        self.status = status
        self.http_status = status


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """The certificate with which a client made itself known. Verified by TLS; names are as they stand in it."""

    common_name: str | None
    uris: tuple[str, ...]  # SPIFFE IDs and other URIs of the subject's alternative names
    spki: str  # SHA-256 of its public key (SubjectPublicKeyInfo, DER), in hex

    @property
    def spiffe(self) -> str | None:
        """Return its SPIFFE ID. An SVID has exactly one URI (X509-SVID §2); else there is none."""
        return self.uris[0] if len(self.uris) == 1 and self.uris[0].startswith("spiffe://") else None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream is and how it must prove that. Equal origins share connections."""

    scheme: str  # http or https
    host: str
    port: int
    ca: str | None = None  # file of the authorities to trust, PEM; None: those of the system
    certificate: str | None = None  # file of our certificate for it, PEM
    key: str | None = None  # file of its key, PEM
    pins: frozenset[str] = frozenset()  # SHA-256 of SPKIs in hex, one of which its leaf must have; empty: any
    label: str = field(init=False, compare=False, repr=False, default="")  # a hash that is made once

    def __post_init__(self) -> None:
        """Make the label, by which pools look connections up."""
        parts = (self.scheme, self.host, self.port, self.ca, self.certificate, self.key, sorted(self.pins))
        object.__setattr__(self, "label", repr(parts))


class Request:
    """The head of a request that keeps all rules."""

    __slots__ = (
        "certificate", "expects", "headers", "keep", "length", "method", "old", "path", "peer", "query", "target",
    )  # fmt: skip

    method: str
    target: bytes  # as sent
    path: str  # before the "?", as sent, in Latin-1
    query: bytes  # after the "?", as sent
    headers: Headers  # names in lower case, values without white space around
    length: int | None  # of the body; None: chunked; 0: there is none
    peer: str  # address of the client
    certificate: PeerCertificate | None  # of the client
    keep: bool  # the client wants to ask more on this connection
    old: bool  # HTTP/1.0
    expects: bool  # waits for 100 before it sends its body

    def first(self, name: bytes) -> bytes | None:
        """Return the value of the first header `name` (in lower case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Response:
    """The head of a final answer that keeps all rules."""

    __slots__ = ("declared", "headers", "keep", "length", "names", "reason", "status", "until_close")

    status: int
    reason: bytes
    headers: Headers  # names as they came, values without white space around
    names: list[bytes]  # of `headers`, in their order, in lower case
    length: int | None  # of the body; None: chunked, or until the connection is closed
    declared: int | None  # what Content-Length says, also where no body follows: HEAD, 304
    until_close: bool
    keep: bool  # the connection can be used again

    def first(self, name: bytes) -> bytes | None:
        """Return the value of the first header `name` (in lower case)."""
        names = self.names
        return self.headers[names.index(name)][1] if name in names else None


def read_request(  # noqa: PLR0912  a list of rules
    head: bytes, limits: Limits, peer: str = "", certificate: PeerCertificate | None = None
) -> Request:
    """Read a whole head, given without the empty line that ends it. Raises: RefusedError."""
    request = Request()
    lines = head.split(b"\r\n")
    if not lines[0] and len(lines) > 1:  # RFC 9112 §2.2: one empty line before it is nothing
        del lines[0]
        head = head[2:]
    _check_lines(head, lines, limits)
    words = lines[0].split(b" ")
    if len(words) != 3:
        raise RefusedError("request line")
    method, target, version = words
    if version == b"HTTP/1.1":
        request.old = False
    elif version == b"HTTP/1.0":
        request.old = True
    else:
        raise RefusedError("version", 505 if version[:5] == b"HTTP/" and len(version) == 8 else 400)
    known = _METHODS.get(method)
    if known is None:
        raise RefusedError("method", 501)
    if target[:1] != b"/":
        if target != b"*" or method != b"OPTIONS":
            raise RefusedError("target form")
    elif target.translate(None, _TARGET):
        raise RefusedError("target bytes")
    request.method = known
    request.target = target
    path, _, request.query = target.partition(b"?")
    request.path = path.decode("latin-1")
    request.peer = peer
    request.certificate = certificate
    headers: Headers = []
    framing: Headers = []
    del lines[0]
    for line in lines:
        name, colon, value = line.partition(b":")
        lower = _NAMES.get(name)
        if lower is None:
            lower = _new_name(name, colon)
        elif not colon:
            raise RefusedError("header without colon")
        headers.append((lower, value.strip(b" \t")))
        if lower in _FRAMING:
            framing.append((lower, value.lstrip(b" \t")))  # white space behind these is more than one reader's doubt
    request.headers = headers
    _frame_request(request, framing, limits)
    return request


def _frame_request(request: Request, framing: Headers, limits: Limits) -> None:  # noqa: PLR0912  a list of rules
    length: bytes | None = None
    coded = hosted = expects = False
    keep = not request.old
    for name, value in framing:
        if name == b"host":
            if hosted:
                raise RefusedError("two Host")
            if value.translate(None, _HOST):
                raise RefusedError("Host bytes")
            hosted = True
        elif name == b"content-length":
            if length is not None:
                raise RefusedError("two Content-Length")
            length = value
        elif name == b"connection":
            if value != b"keep-alive" and b"close" in _options(value):
                keep = False
        elif name == b"transfer-encoding":
            if coded or value.lower() != b"chunked":
                raise RefusedError("Transfer-Encoding")
            coded = True
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise RefusedError("Expect", 417)
            expects = True
        else:
            raise RefusedError("Upgrade")
    if not hosted and not request.old:
        raise RefusedError("no Host")
    request.keep = keep
    if coded:
        if length is not None:
            raise RefusedError("Transfer-Encoding and Content-Length")
        if request.old:
            raise RefusedError("Transfer-Encoding in HTTP/1.0")
        request.length = None
    else:
        request.length = 0 if length is None else _size(length)
        if limits.body is not None and request.length > limits.body:
            raise RefusedError("body size", 413, expected=f"at most {limits.body} bytes")
    request.expects = expects and not request.old and request.length != 0


def read_response(head: bytes, limits: Limits, *, to_head: bool = False) -> Response:  # noqa: PLR0912, PLR0915  as above
    """Read a whole head, given without the empty line that ends it, 1xx too; `to_head` is the answer to HEAD.

    Raises: RefusedError.
    """
    response = Response()
    lines = head.split(b"\r\n")
    _check_lines(head, lines, limits)
    version, _, rest = lines[0].partition(b" ")
    code, _, response.reason = rest.partition(b" ")
    if version == b"HTTP/1.1":
        keep = True
    elif version == b"HTTP/1.0":
        keep = False
    else:
        raise RefusedError("version")
    if len(code) != 3 or not code.isdigit():
        raise RefusedError("status line")
    response.status = int(code)
    if not 100 <= response.status <= 599:
        raise RefusedError("status")
    headers: Headers = []
    names: list[bytes] = []
    length: bytes | None = None
    coded = False
    del lines[0]
    for line in lines:
        name, colon, value = line.partition(b":")
        lower = _NAMES.get(name)
        if lower is None:
            lower = _new_name(name, colon)
        elif not colon:
            raise RefusedError("header without colon")
        headers.append((name, value.strip(b" \t")))
        names.append(lower)
        if lower in _FRAMING:
            value = value.lstrip(b" \t")
            if lower == b"content-length":
                if length is not None:
                    raise RefusedError("two Content-Length")
                length = value
            elif lower == b"transfer-encoding":
                if coded or value.lower() != b"chunked":
                    raise RefusedError("Transfer-Encoding")
                coded = True
            elif lower == b"connection" and value != b"keep-alive" and b"close" in _options(value):
                keep = False
    response.headers = headers
    response.names = names
    response.keep = keep
    response.until_close = False
    if coded and length is not None:
        raise RefusedError("Transfer-Encoding and Content-Length")
    if coded and version == b"HTTP/1.0":
        raise RefusedError("Transfer-Encoding in HTTP/1.0")
    response.declared = size = None if length is None else _size(length)
    if to_head or response.status < 200 or response.status in (204, 304):
        response.length = 0
    elif coded:
        response.length = None
    else:
        response.length = size
        if size is None:
            response.until_close = True
            response.keep = False
    return response


def check_trailers(section: bytes, limits: Limits) -> None:
    """Refuse what is no list of header lines, given with the CR LF after each. Raises: RefusedError."""
    lines = section.split(b"\r\n")  # the last one is empty
    _check_lines(section, lines, limits)
    for line in lines[:-1]:
        name, colon, _ = line.partition(b":")
        if _new_name(name, colon) in _NO_TRAILERS:
            raise RefusedError("trailer")


def write_request(method: str, target: bytes, headers: Sequence[tuple[bytes, bytes]], length: int | None) -> bytes:
    """Return the head of a request with a body of `length` bytes; None: chunked; 0: without a body.

    Content-Length, Transfer-Encoding and Connection among `headers` are left out: they are of this connection.
    Raises: GenealogError if it would be more than one head.
    """
    parts = [method.encode(), b" ", target, b" HTTP/1.1\r\n"]
    count = _write_fields(parts, headers)
    if length is None:
        parts.append(b"transfer-encoding: chunked\r\n\r\n")
        count += 1
    elif length or method in {"POST", "PUT", "PATCH"}:
        parts.append(b"content-length: %d\r\n\r\n" % length)
        count += 1
    else:
        parts.append(b"\r\n")
    return _one_head(b"".join(parts), count)


def write_response(status: int, headers: Sequence[tuple[bytes, bytes]], last: bytes) -> bytes:
    """Return the head of an answer; `last` are the framing lines, each with its CR LF. Else as above."""
    line = _STATUS.get(status)
    parts = [b"HTTP/1.1 %d \r\n" % status if line is None else line]
    count = _write_fields(parts, headers)
    parts.append(last)
    parts.append(b"\r\n")
    return _one_head(b"".join(parts), count + last.count(b"\n"))


def _write_fields(parts: list[bytes], headers: Sequence[tuple[bytes, bytes]]) -> int:
    count = 0
    for name, value in headers:
        if len(name) in _OURS_LENGTHS and name.lower() in _OURS:
            continue
        parts += (name, b": ", value, b"\r\n")
        count += 1
    return count


def _one_head(head: bytes, fields: int) -> bytes:
    """Return `head` unless a name or value smuggled in a line of its own, or a NUL."""
    if head.count(b"\n") != fields + 2 or head.count(b"\r") != fields + 2 or b"\0" in head:
        raise GenealogError("http-header", "a header to send holds a line break or NUL")
    return head


def _check_lines(head: bytes, lines: list[bytes], limits: Limits) -> None:
    if len(head) > limits.head:
        raise RefusedError("head size", 431, expected=f"at most {limits.head} bytes")
    if len(lines) - 1 > limits.headers:
        raise RefusedError("header count", 431, expected=f"at most {limits.headers}")
    if len(head.translate(None, _TEXT)) != 2 * (len(lines) - 1):
        raise RefusedError("control characters")


def _new_name(name: bytes, colon: bytes) -> bytes:
    """Return a name in lower case that was not seen before, and keep it. Raises: RefusedError."""
    lower = name.lower()
    if not colon or not name or lower.translate(None, _TOKEN):
        raise RefusedError("header name" if colon else "header without colon")
    if len(_NAMES) < _MAX_NAMES and len(name) <= 64:
        _NAMES[name] = lower
    return lower


def _options(value: bytes) -> list[bytes]:
    return [option.strip(b" \t") for option in value.lower().split(b",")]


def _size(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise RefusedError("Content-Length")
    return int(value)

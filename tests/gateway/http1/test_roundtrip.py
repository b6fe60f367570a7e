"""Whatever is accepted, written again by our client and read again, is the same message: by us, by h11, by llhttp."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.kit import Client, Got, Upstream, cut, parse_requests
from gateway.http1.oracles import h11_requests, h11_response, llhttp_requests
from genealog.gateway.http1 import write_request
from genealog.gateway.http1.head import Limits, read_request
from genealog.gateway.http1.link import Reply

OWN = {b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"host", b"expect", b"upgrade"}
TOKEN = st.text("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCXYZ", min_size=1, max_size=20).map(str.encode)
NAME = TOKEN.filter(lambda name: name.lower() not in OWN | {b"proxy-connection"})
TEXT = st.binary(max_size=30).map(
    lambda data: bytes(byte for byte in data if byte == 9 or (byte >= 32 and byte != 127))
)
HEADERS = st.lists(st.tuples(NAME, TEXT.map(lambda value: value.strip(b" \t"))), max_size=8)
VISIBLE = st.text([chr(byte) for byte in range(33, 127) if byte != 35], max_size=30)
TARGET = VISIBLE.map(lambda text: f"/{text}".encode())
METHOD = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
BODY = st.lists(st.binary(min_size=1, max_size=50), max_size=5)


def written(
    method: str, target: bytes, headers: list[tuple[bytes, bytes]], parts: list[bytes], *, chunked: bool
) -> bytes:
    """Return a request as our client sends it."""
    upstream = Upstream()
    size = sum(map(len, parts))
    head = write_request(method, target, [(b"host", b"u"), *headers], None if chunked else size)
    upstream.connection.ask(head, b"", Got(), more=True, chunked=chunked)
    for part in parts:
        upstream.connection.write(part)
    upstream.connection.end_body()
    return upstream.transport.bytes


@given(METHOD, TARGET, HEADERS, BODY, st.booleans(), st.data())
def test_a_request_stays_the_same(
    method: str,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
    parts: list[bytes],
    chunked: bool,
    data: st.DataObject,
) -> None:
    stream = written(method, target, headers, parts, chunked=chunked) * 2
    size = len(stream)
    places = data.draw(st.lists(st.integers(1, size - 1), max_size=6, unique=True).map(sorted))
    parsed = parse_requests(cut(stream, places))
    assert parsed.end == "open", parsed.rule
    assert len(parsed.messages) == 2
    body = b"".join(parts)
    for got_method, got_target, got_headers, got_body in parsed.messages:
        assert (got_method, got_target, got_body) == (method, target, body)
        assert [pair for pair in got_headers if pair[0] not in OWN] == [
            (name.lower(), value) for name, value in headers
        ]
    assert h11_requests(stream).messages == list(parsed.messages)
    assert llhttp_requests(stream).messages == list(parsed.messages)
    again = b"".join(
        written(
            each, where, [pair for pair in lines if pair[0] != b"host"], [content] if content else [], chunked=chunked
        )
        for each, where, lines, content in parsed.messages
    )
    assert [
        (*rest, sorted(lines), content) for *rest, lines, content in parse_requests([again]).messages
    ] == [(*rest, sorted(lines), content) for *rest, lines, content in parsed.messages]  # fmt: skip


@given(st.integers(200, 599), HEADERS, BODY, st.booleans(), METHOD)
def test_an_answer_stays_the_same(
    status: int, headers: list[tuple[bytes, bytes]], parts: list[bytes], chunked: bool, method: str
) -> None:
    client = Client(answers=False)
    client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    reply: Reply = client.seen[0].reply
    reply.start(status, headers, None if chunked else sum(map(len, parts)))
    for part in parts:
        reply.write(part)
    reply.end()
    stream = client.transport.bytes
    body = b"" if method == "HEAD" or status in (204, 304) else b"".join(parts)
    for pieces in ([stream], [bytes((byte,)) for byte in stream]):
        upstream = Upstream()
        got = upstream.ask(method)
        for piece in pieces:
            upstream.send(piece)
        assert (got.status, got.body, got.end_) == (status, body, "end")
        assert [pair for pair in got.headers if pair[0].lower() not in OWN] == headers
        assert upstream.given
    assert h11_response(stream, method, eof=False).messages == [(status, body)]


@given(st.binary(max_size=60), st.integers(0, 3))
def test_any_bytes_are_a_head_or_refused(data: bytes, where: int) -> None:
    lines = [b"GET / HTTP/1.1", b"Host: a", b"X: y", b""]
    lines[where] = data
    stream = b"\r\n".join(lines) + b"\r\n"
    whole = parse_requests(cut(stream, []))
    assert parse_requests(cut(stream, range(1, len(stream)))) == whole
    for method, target, headers, _ in whole.messages:
        again = write_request(method, target, headers, 0)
        ours = (b"content-length", b"connection", b"keep-alive")
        assert read_request(again[:-4], Limits()).headers == [pair for pair in headers if pair[0] not in ours]

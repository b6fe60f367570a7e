"""One connection to an upstream, in memory: what it sends, what comes back, and when it can be asked again."""

from __future__ import annotations

import pytest

from gateway.http1.kit import ORIGIN, Got, Upstream
from genealog.errors import GenealogError
from genealog.gateway.http1 import Limits, Response, UpstreamLostError, write_request

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_head_and_body_leave_in_one_piece() -> None:
    upstream = Upstream()
    head = write_request("POST", b"/x?y", [(b"Host", b"u"), (b"Content-Length", b"9")], 2)
    upstream.connection.ask(head, b"hi", Got())
    assert upstream.transport.sent == [b"POST /x?y HTTP/1.1\r\nHost: u\r\ncontent-length: 2\r\n\r\nhi"]


def test_a_large_body_leaves_at_once_too() -> None:
    upstream = Upstream()
    upstream.connection.ask(b"H\r\n\r\n", b"x" * 100_000, Got())
    assert upstream.transport.sent == [b"H\r\n\r\n" + b"x" * 100_000]


@pytest.mark.parametrize(("method", "length", "line"), [
    ("GET", 0, b""), ("POST", 0, b"content-length: 0\r\n"), ("POST", 7, b"content-length: 7\r\n"),
    ("DELETE", 7, b"content-length: 7\r\n"), ("POST", None, b"transfer-encoding: chunked\r\n"),
])  # fmt: skip
def test_a_request_says_how_long_its_body_is(method: str, length: int | None, line: bytes) -> None:
    assert write_request(method, b"/", [], length) == method.encode() + b" / HTTP/1.1\r\n" + line + b"\r\n"


@pytest.mark.parametrize("target", [b"/\r\nX: y", b"/ HTTP/1.1\r\n\r\nGET /", b"/\n"])
def test_a_request_is_not_split_by_its_target(target: bytes) -> None:
    with pytest.raises(GenealogError, match="http-header"):
        write_request("GET", target, [], 0)


def test_a_request_is_not_split_by_a_header() -> None:
    with pytest.raises(GenealogError, match="http-header"):
        write_request("GET", b"/", [(b"x", b"y\r\nz: 1")], 0)


def test_an_answer_is_passed_on_as_it_came() -> None:
    upstream = Upstream()
    got = upstream.ask()
    upstream.send(b"HTTP/1.1 200 Fine\r\nX-Cased:  a b \r\nx-cased: 2\r\nContent-Length: 2\r\n\r\no")
    assert (got.body, got.end_) == (b"o", "open")
    upstream.send(b"k")
    assert got.headers == ((b"X-Cased", b"a b"), (b"x-cased", b"2"), (b"Content-Length", b"2"))
    assert (got.status, got.body, got.end_) == (200, b"ok", "end")
    assert upstream.given == [upstream.connection]
    assert (upstream.connection.reused, upstream.connection.healthy) == (True, True)


def test_a_connection_answers_one_request_after_the_other() -> None:
    upstream = Upstream()
    for count in range(3):
        got = upstream.ask()
        upstream.send(OK)
        assert (got.body, len(upstream.given)) == (b"ok", count + 1)


def test_a_request_that_goes_out_in_pieces() -> None:
    upstream = Upstream()
    got = upstream.ask(body=b"ab", more=True)
    upstream.connection.write(b"cd")
    upstream.connection.write(b"")
    upstream.connection.end_body()
    assert upstream.transport.sent[1:] == [b"cd"]
    upstream.send(OK)
    assert got.end_ == "end"
    assert upstream.given


def test_a_request_that_goes_out_in_chunks() -> None:
    upstream = Upstream()
    upstream.ask(body=b"ab", more=True, chunked=True)
    upstream.connection.write(b"cde")
    upstream.connection.write(b"f" * 70_000)
    upstream.connection.end_body()
    assert upstream.transport.bytes.endswith(
        b"\r\n\r\n2\r\nab\r\n3\r\ncde\r\n11170\r\n" + b"f" * 70_000 + b"\r\n0\r\n\r\n"
    )  # fmt: skip
    upstream.send(OK)
    upstream.ask(body=b"", chunked=True)
    assert upstream.transport.sent[-1].endswith(b"\r\n\r\n0\r\n\r\n")
    upstream.send(OK)
    upstream.ask(body=b"x", chunked=True)
    assert upstream.transport.sent[-1].endswith(b"\r\n\r\n1\r\nx\r\n0\r\n\r\n")


def test_an_answer_before_the_request_is_sent_ends_the_connection() -> None:
    upstream = Upstream()
    got = upstream.ask(more=True)
    upstream.send(OK)
    assert got.end_ == "end"
    assert upstream.transport.closed
    assert not upstream.given
    sent = len(upstream.transport.sent)
    upstream.connection.write(b"more")
    upstream.connection.end_body()
    assert len(upstream.transport.sent) == sent


def test_an_answer_may_begin_before_the_request_is_sent() -> None:
    upstream = Upstream()
    got = upstream.ask(more=True)
    upstream.send(OK[:-1])
    upstream.connection.write(b"more")
    upstream.connection.end_body()
    upstream.send(OK[-1:])
    assert got.end_ == "end"
    assert upstream.given


def test_an_upstream_that_goes_before_a_word_says_whether_to_ask_again() -> None:
    upstream = Upstream()
    first = upstream.ask()
    upstream.send(OK)
    second = upstream.ask()
    upstream.connection.connection_lost(ConnectionResetError())
    assert first.end_ == "end"
    assert second.end_ == "upstream-unreachable"
    assert isinstance(second.error, UpstreamLostError)
    assert (second.error.reused, second.error.answered, second.error.retriable) == (True, False, True)
    assert second.error.got == "ConnectionResetError"
    assert upstream.gone == [upstream.connection]


def test_an_upstream_that_goes_on_a_new_connection_is_not_asked_again() -> None:
    upstream = Upstream()
    got = upstream.ask()
    upstream.connection.connection_lost(None)
    assert isinstance(got.error, UpstreamLostError)
    assert not got.error.retriable


def test_an_upstream_that_goes_after_a_byte_is_not_asked_again() -> None:
    upstream = Upstream()
    upstream.ask()
    upstream.send(OK)
    got = upstream.ask()
    upstream.send(b"H")
    upstream.connection.connection_lost(None)
    assert got.end_ == "upstream-died"
    assert isinstance(got.error, UpstreamLostError)
    assert not got.error.retriable


def test_without_a_length_a_broken_connection_is_no_end() -> None:
    upstream = Upstream()
    got = upstream.ask()
    upstream.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
    upstream.connection.connection_lost(ConnectionResetError())
    assert (got.body, got.end_) == (b"hello", "upstream-died")


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    upstream = Upstream()
    upstream.ask()
    upstream.send(OK)
    upstream.send(OK)
    assert upstream.transport.aborted
    assert not upstream.connection.healthy


def test_after_an_abort_nothing_is_told() -> None:
    upstream = Upstream()
    got = upstream.ask()
    upstream.send(OK[:-1])
    upstream.connection.abort()
    upstream.connection.connection_lost(None)
    assert got.end_ == "open"
    assert not upstream.given


@pytest.mark.parametrize("at", ["head", "data"])
def test_a_sink_may_abort_in_the_middle(at: str) -> None:
    upstream = Upstream()

    class Aborting(Got):
        def head(self, response: Response) -> None:
            if at == "head" and response.status == 200:
                upstream.connection.abort()

        def data(self, data: bytes) -> None:
            assert at == "data"
            assert data in (b"ok", b"a")
            upstream.connection.abort()

    for body in (b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", b"\r\nok"):
        upstream = Upstream()
        got = Aborting()
        upstream.connection.ask(b"GET / HTTP/1.1\r\n\r\n", b"", got)
        upstream.send(b"HTTP/1.1 200 OK\r\n" + body)
        assert got.end_ == "open"
        assert not upstream.given


def test_reading_stops_while_the_sink_is_slower() -> None:
    upstream = Upstream()
    upstream.connection.pause()
    assert upstream.transport.reading
    upstream.ask()
    upstream.connection.pause()
    assert not upstream.transport.reading
    upstream.connection.resume()
    assert upstream.transport.reading
    upstream.connection.pause()
    upstream.send(OK)
    assert upstream.transport.reading


def test_an_upload_pauses_while_the_upstream_is_slower() -> None:
    upstream = Upstream()
    got = upstream.ask(more=True)
    upstream.connection.pause_writing()
    upstream.connection.resume_writing()
    assert got.calls == ["pause", "resume"]


@pytest.mark.parametrize(("limits", "answer"), [
    (Limits(head=50), b"HTTP/1.1 200 OK\r\nX: " + b"x" * 50 + b"\r\n\r\n"),
    (Limits(head=50), b"HTTP/1.1 200 OK\r\nX: " + b"x" * 50),
    (Limits(headers=2), b"HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\nc: 3\r\n\r\n"),
    (Limits(interim=1), b"HTTP/1.1 100 Go\r\n\r\n" * 2),
    (Limits(trailers=20), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 20 + b"\r\n\r\n"),
])  # fmt: skip
def test_an_answer_has_limits(limits: Limits, answer: bytes) -> None:
    upstream = Upstream(limits)
    got = upstream.ask()
    upstream.send(answer)
    assert got.end_ == "upstream-malformed"
    assert upstream.transport.aborted


def test_the_length_of_an_answer_to_head_is_known() -> None:
    upstream = Upstream()
    lengths: list[tuple[int | None, int | None]] = []

    class Noting(Got):
        def head(self, response: Response) -> None:
            lengths.append((response.length, response.declared))

    upstream.connection.ask(b"HEAD / HTTP/1.1\r\n\r\n", b"", Noting())
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    assert lengths == [(0, 2)]
    assert upstream.connection.origin == ORIGIN

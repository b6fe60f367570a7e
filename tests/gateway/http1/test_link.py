"""One client's connection, in memory: order, limits, time, flow, and how it ends."""

from __future__ import annotations

import json

import pytest

from gateway.http1.kit import Client, Noting
from genealog.errors import GenealogError
from genealog.gateway.http1 import Limits

GET = b"GET /x?y=z HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def post(size: int, extra: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (size, extra)


def waiting(data: bytes = GET, limits: Limits | None = None, *, tls: bool = False) -> tuple[Client, Noting]:
    """Return a client whose request nobody has answered yet."""
    client = Client(limits, answers=False, tls=tls)
    client.send(data)
    return client, client.seen[0]


def test_a_request_is_what_was_sent() -> None:
    client = Client()
    client.send(b"POST /x%2Fy?a=%20b?c HTTP/1.1\r\nHost: a:80\r\nX-Y:  v w \r\nx-y: 2\r\nContent-Length: 2\r\n\r\nhi")
    request = client.messages[0].request
    assert (request.method, request.target, request.path, request.query) == (
        "POST", b"/x%2Fy?a=%20b?c", "/x%2Fy", b"a=%20b?c",
    )  # fmt: skip
    assert request.headers == [(b"host", b"a:80"), (b"x-y", b"v w"), (b"x-y", b"2"), (b"content-length", b"2")]
    assert (request.first(b"x-y"), request.first(b"z")) == (b"v w", None)
    assert (request.length, request.peer, request.certificate) == (2, "192.0.2.1", None)
    assert client.messages[0].body == b"hi"


def test_head_and_end_of_an_answer_leave_in_one_piece() -> None:
    client = Client()
    client.send(GET)
    assert client.transport.sent == [
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
    ]  # fmt: skip
    assert client.server.busy == 0


def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    client, handler = waiting()
    handler.reply.start(200, [], None)
    handler.reply.write(b"one")
    handler.reply.write(b"two")
    assert client.transport.sent == []
    client.turns.run()
    assert client.transport.sent == [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n"
    ]  # fmt: skip
    handler.reply.end(b"3")
    assert client.transport.sent[1:] == [b"1\r\n3\r\n0\r\n\r\n"]
    client.turns.run()
    assert len(client.transport.sent) == 2


def test_requests_that_come_together_are_answered_one_after_the_other() -> None:
    client, first = waiting(GET + post(3) + b"abc" + GET)
    assert len(client.seen) == 1
    first.reply.start(200, [], 1)
    first.reply.end(b"1")
    client.turns.run()
    assert [message.body for message in client.messages] == [b"", b"abc"]
    client.seen[1].reply.start(200, [], 1)
    client.seen[1].reply.end(b"2")
    client.turns.run()
    assert len(client.seen) == 3
    assert [sent[-1:] for sent in client.transport.sent] == [b"1", b"2"]


def test_what_comes_ahead_is_bounded_and_read_later() -> None:
    client, first = waiting(limits=Limits(ahead=1000))
    for _ in range(1000 // len(GET) + 1):
        assert client.transport.reading
        client.send(GET)
    assert not client.transport.reading
    for count in range(1000 // len(GET) + 2):
        assert len(client.seen) == count + 1
        client.seen[count].reply.start(204, [], 0)
        client.seen[count].reply.end()
        client.turns.run()
    assert client.transport.reading
    assert first.message.complete


def test_a_client_that_reads_nothing_gets_no_second_answer() -> None:
    client = Client()
    client.link.pause_writing()
    client.send(GET + GET)
    assert len(client.seen) == 1
    client.send(GET)
    assert len(client.seen) == 1
    client.link.resume_writing()
    client.turns.run()
    assert len(client.seen) == 3


def test_a_handler_is_told_to_pause_and_to_resume() -> None:
    client, handler = waiting()
    client.link.pause_writing()
    client.link.resume_writing()
    assert handler.calls == ["pause", "resume"]


def test_a_body_is_not_read_while_the_application_does_not_want_it() -> None:
    client, handler = waiting(post(4) + b"a")
    handler.reply.pause_body()
    assert not client.transport.reading
    client.pass_time(1000)  # slow is the application, not the client
    handler.reply.resume_body()
    assert client.transport.reading
    client.send(b"bcd")
    assert handler.message.complete
    handler.reply.pause_body()
    assert client.transport.reading


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_head_204_and_304_have_no_body(method: str, status: int) -> None:
    client, handler = waiting(GET.replace(b"GET", method.encode()))
    handler.reply.start(status, [], 5)
    handler.reply.end(b"hello")
    head, _, body = client.transport.bytes.partition(b"\r\n\r\n")
    assert (body == b"") == (method == "HEAD" or status != 200)
    assert (b"content-length: 5" in head) == (status == 200)
    assert not client.transport.closed
    client.send(GET)
    assert len(client.seen) == 2


def test_http_1_0_gets_bytes_until_the_close() -> None:
    client, handler = waiting(b"GET / HTTP/1.0\r\n\r\n")
    handler.reply.start(200, [], None)
    handler.reply.write(b"a")
    handler.reply.end(b"b")
    assert client.transport.bytes == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nab"
    assert client.transport.closed
    assert not client.transport.aborted


def test_http_1_0_sees_a_cut_as_a_broken_connection() -> None:
    client, handler = waiting(b"GET / HTTP/1.0\r\n\r\n")
    handler.reply.start(200, [], None)
    handler.reply.write(b"a")
    handler.reply.cut()
    assert client.transport.aborted


def test_connection_close_is_answered_and_kept() -> None:
    client = Client()
    client.send(GET[:-2] + b"Connection: close\r\n\r\n" + GET)
    assert b"connection: close\r\n" in client.transport.bytes
    assert client.transport.eof or client.transport.closed
    assert len(client.seen) == 1


def test_framing_headers_of_the_application_are_left_out() -> None:
    client, handler = waiting()
    headers = [
        (b"Content-Length", b"7"), (b"transfer-encoding", b"chunked"), (b"Connection", b"x"), (b"Keep-Alive", b"y"),
        (b"Content-Type", b"a/b"),
    ]  # fmt: skip
    handler.reply.start(200, headers, 1)
    handler.reply.end(b"x")
    assert client.transport.bytes == b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\ncontent-length: 1\r\n\r\nx"


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb: c", b"a\rb", b"a\0b", b"\r\n\r\n"])
def test_an_answer_is_not_split_by_a_header(value: bytes) -> None:
    client, handler = waiting()
    for pair in [(b"x", value), (value, b"x")]:
        with pytest.raises(GenealogError, match="http-header"):
            handler.reply.start(200, [pair], 1)
    client.turns.run()
    assert client.transport.bytes == b""


def test_an_answer_longer_than_its_length_is_cut() -> None:
    client, handler = waiting()
    handler.reply.start(200, [], 3)
    handler.reply.write(b"abcd")
    client.turns.run()
    assert b"abcd" not in client.transport.bytes
    assert client.transport.closed


def test_an_answer_shorter_than_its_length_is_cut() -> None:
    client, handler = waiting()
    handler.reply.start(200, [], 3)
    handler.reply.end(b"ab")
    assert client.transport.bytes.endswith(b"\r\n\r\nab")
    assert client.transport.closed


@pytest.mark.parametrize("call", ["write", "end"])
def test_a_body_without_a_head_is_cut(call: str) -> None:
    client, handler = waiting()
    getattr(handler.reply, call)(b"x")
    assert (client.transport.bytes, client.transport.closed) == (b"", True)


def test_after_a_cut_nothing_happens_any_more() -> None:
    client, handler = waiting()
    handler.reply.start(200, [], None)
    handler.reply.write(b"a")
    handler.reply.cut()
    handler.reply.write(b"b")
    handler.reply.end(b"c")
    handler.reply.pause_body()
    client.turns.run()
    client.link.connection_lost(None)
    assert client.transport.bytes.endswith(b"1\r\na\r\n")
    assert not handler.message.lost


def test_a_client_that_goes_is_told_once() -> None:
    client, handler = waiting()
    handler.reply.start(200, [], None)
    client.turns.run()
    client.transport.close()
    client.link.connection_lost(None)
    assert handler.message.lost
    assert handler.reply.ended
    handler.reply.write(b"x")
    handler.reply.end()
    client.turns.run()
    assert b"x" not in client.transport.bytes.partition(b"\r\n\r\n")[2]
    assert client.server.connections == 0


def test_a_client_that_goes_after_its_answer_is_told_to_nobody() -> None:
    client = Client()
    client.send(GET)
    client.link.connection_lost(None)
    assert not client.messages[0].lost


def test_100_continue_comes_when_the_handler_takes_the_body() -> None:
    client, handler = waiting(post(2, b"Expect: 100-continue\r\n"))
    assert client.transport.sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    client.send(b"hi")
    assert handler.message.complete


def test_100_continue_waits_for_an_application_that_pauses() -> None:
    client = Client(answers=False)

    def application(request, reply):  # type: ignore[no-untyped-def]
        reply.pause_body()
        return Noting(request, reply, client.seen, answers=False)

    client.server.application = application
    client.send(post(2, b"Expect: 100-continue\r\n"))
    assert client.transport.sent == []
    client.seen[0].reply.resume_body()
    client.turns.run()
    assert client.transport.sent == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    client.seen[0].reply.resume_body()
    client.turns.run()
    assert len(client.transport.sent) == 1


def test_an_answer_instead_of_100_continue() -> None:
    client = Client(answers=False)

    def application(request, reply):  # type: ignore[no-untyped-def]
        reply.start(401, [], 2)
        reply.end(b"no")
        return Noting(request, reply, client.seen, answers=False)

    client.server.application = application
    client.send(post(2, b"Expect: 100-continue\r\n"))
    assert client.transport.bytes == b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    assert client.transport.eof
    client.send(b"hi" + GET)
    assert len(client.seen) == 1
    assert not client.messages[0].body


def test_an_answer_before_the_end_of_the_body_closes_in_peace() -> None:
    client, handler = waiting(post(10) + b"12345")
    handler.reply.start(413, [], 2)
    handler.reply.end(b"no")
    assert b"connection: close" in client.transport.bytes
    assert client.transport.eof
    assert not client.transport.closed
    client.send(b"6789")
    client.pass_time(3)
    assert client.transport.closed
    assert not client.transport.aborted
    assert handler.message.body == b"12345"


def test_other_expectations_are_refused() -> None:
    client = Client()
    client.send(post(2, b"Expect: gold\r\n"))
    assert client.status == 417


def test_a_refusal_says_why() -> None:
    client = Client()
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    head, _, body = client.transport.bytes.partition(b"\r\n\r\n")
    assert client.status == 400
    assert b"connection: close" in head
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "http-refused"
    assert json.loads(body)["got"] == "no Host"


def test_a_refusal_in_the_middle_of_an_answer_is_a_cut() -> None:
    client, handler = waiting(CHUNKED)
    handler.reply.start(200, [], None)
    client.send(b"x\r\n")
    assert handler.message.lost
    assert client.transport.bytes.count(b"HTTP/1.1") == 1
    assert client.transport.closed

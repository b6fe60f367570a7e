"""One client's connection, in memory: sizes, times, and a server that closes."""

from __future__ import annotations

import pytest

from gateway.http1.kit import Client, Noting
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


@pytest.mark.parametrize("size", [10, 11])
def test_a_body_has_a_limit(size: int) -> None:
    fits = size == 10
    client, handler = waiting(CHUNKED, Limits(body=10))
    for _ in range(size):
        client.send(b"1\r\nx\r\n")
    assert (client.status is None, len(handler.message.body)) == (fits, 10)
    other = Client(Limits(body=10), answers=False)
    other.send(post(size))
    assert (other.status, len(other.seen)) == ((None, 1) if fits else (413, 0))


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 431)])
def test_a_head_has_a_limit(size: int, status: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    head += b"x" * (size - len(head))
    for pieces in ([head + b"\r\n\r\n"], [bytes((byte,)) for byte in head + b"\r\n\r\n"]):
        client = Client(Limits(head=100))
        for piece in pieces:
            if not client.transport.eof:
                client.send(piece)
        assert client.status == status


def test_an_idle_connection_is_closed_without_a_word() -> None:
    client = Client(Limits(idle_time=5))
    client.send(GET)
    client.pass_time(4)
    assert not client.transport.closed
    client.pass_time(2)
    assert client.transport.closed
    assert client.transport.bytes.count(b"HTTP/1.1") == 1


def test_a_head_has_its_time_whatever_trickles() -> None:
    client = Client(Limits(head_time=5, idle_time=50))
    client.send(GET)
    client.pass_time(20)
    for byte in GET[:4]:
        client.send(bytes((byte,)))
        client.pass_time(1)
    assert client.status == 200
    client.send(GET[4:5])
    client.pass_time(2)
    assert client.status == 408


def test_a_connection_that_says_nothing_is_closed() -> None:
    client = Client(Limits(head_time=5))
    client.pass_time(6)
    assert (client.transport.closed, client.transport.bytes) == (True, b"")


def test_a_body_has_its_time_whatever_trickles() -> None:
    client, handler = waiting(post(100), Limits(body_time=10, body_floor=8))
    for _ in range(4):
        client.send(b"12345678")
        client.pass_time(9)
    assert client.status is None
    client.send(b"1234")
    client.pass_time(2)
    assert client.status == 408
    assert handler.message.lost


def test_an_answer_may_take_its_time() -> None:
    client, handler = waiting()
    client.pass_time(10_000)
    assert not client.transport.closed
    handler.reply.start(200, [], 0)
    handler.reply.end()
    assert client.status == 200


def test_a_client_that_never_reads_is_broken_off() -> None:
    client, _ = waiting(limits=Limits(stall_time=5))
    client.link.pause_writing()
    client.pass_time(4)
    assert not client.transport.closed
    client.pass_time(2)
    assert client.transport.aborted


def test_closing_leaves_answers_under_way_alone() -> None:
    client, handler = waiting()
    client.server.close()
    assert not client.transport.closed
    handler.reply.start(200, [], 1)
    handler.reply.end(b"x")
    assert b"connection: close" in client.transport.bytes
    assert client.transport.closed


def test_closing_in_the_middle_of_an_answer_closes_behind_it() -> None:
    client, handler = waiting()
    handler.reply.start(200, [], 1)
    client.server.close()
    handler.reply.end(b"x")
    assert client.transport.closed


def test_closing_closes_idle_connections() -> None:
    client = Client()
    client.send(GET)
    client.server.close()
    assert client.transport.closed


def test_a_refusal_over_tls_does_not_end_one_side_only() -> None:
    client = Client(tls=True)
    client.send(b"nonsense\r\n\r\n")
    assert client.status == 400
    assert (client.transport.closed, client.transport.eof) == (True, False)

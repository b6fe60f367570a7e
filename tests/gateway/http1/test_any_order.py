"""Applications, clients, time and the kernel in any order: nothing is raised, and what leaves is what was said.

Random walks, seeded. Requests come in pieces while replies are begun, written, ended early, cut, paused; the transport
pauses; time passes; the client goes. After each walk the bytes that left are read by h11: complete answers, in order,
with exactly the bodies that the application wrote; at most the last one is broken off.
"""

from __future__ import annotations

import random

import h11
import pytest

from gateway.http1.kit import Client, Noting, Upstream
from genealog.gateway.http1 import Limits, Reply, Request

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\nhello, world",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 12\r\n\r\nhello, world",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
]
WEIGHTS = [8, 2, 8, 8, 4, 1, 1]


class Wild(Noting):
    """Notes what it is told, and what it said."""

    def __init__(self, request: Request, reply: Reply, seen: list[Noting], source: random.Random) -> None:
        super().__init__(request, reply, seen, answers=False)
        self.said = b""
        self.left = 0
        self.finished = False
        self.source = source
        self.act(source.random() < 0.1)

    def body(self, data: bytes) -> None:
        super().body(data)
        self.act(self.source.random() < 0.1)

    def body_end(self) -> None:
        super().body_end()
        self.act(self.source.random() < 0.5)

    def act(self, yes: bool = True) -> None:
        """Do one thing that an application may do."""
        reply, source = self.reply, self.source
        if not yes or reply.ended:
            return
        if not reply.started:
            if source.random() < 0.1:
                reply.pause_body()
            elif source.random() < 0.1:
                reply.resume_body()
            elif source.random() < 0.03:
                reply.cut()
            else:
                self.left = source.choice((0, 5, 20))
                reply.start(source.choice((200, 200, 404)), [], source.choice((None, self.left)))
                if reply._left < 0:
                    self.left = -1
            return
        data = b"x" * source.choice((1, 4))
        if self.left >= 0:
            data = data[: self.left]
            self.left -= len(data)
        way = source.random()
        if way < 0.04:
            reply.cut()
        elif way < 0.5 and self.left <= 0:
            self.said += data
            self.finished = True
            reply.end(data)
        else:
            self.said += data
            reply.write(data)


def walk(seed: int) -> Client:
    """Make one random walk and check what left."""
    source = random.Random(seed)
    client = Client(Limits(ahead=100))
    client.server.application = lambda *both: Wild(*both, client.seen, source)
    stream = b"".join(source.choices(REQUESTS, WEIGHTS, k=source.randint(1, 6)))
    paused = False
    gone = False
    for _ in range(200):
        if client.transport.closed:
            break
        way = source.random()
        wild = client.seen[-1] if client.seen else None
        if way < 0.4 and stream and client.transport.reading:
            size = source.choice((1, 5, 30, 200))
            client.link.data_received(stream[:size])
            stream = stream[size:]
        elif way < 0.8 and isinstance(wild, Wild):
            wild.act()
        elif way < 0.85:
            client.link.resume_writing() if paused else client.link.pause_writing()
            paused = not paused
        elif way < 0.98:
            client.turns.run()
        elif way < 0.99:
            client.pass_time(source.choice((1, 40)))
        elif source.random() < 0.2:
            gone = True
            client.transport.close()
            break
    client.link.connection_lost(None)
    client.turns.run()
    assert client.server.connections == 0
    if not gone:
        check(client)
    for noting in client.seen:
        assert noting.reply.ended
        assert not (noting.message.lost and isinstance(noting, Wild) and noting.finished)
    return client


def check(client: Client) -> None:
    """Read what left as a client would."""
    sent = client.transport.bytes
    for noting in client.seen:
        assert isinstance(noting, Wild)
        if not sent:
            assert not noting.finished
            return
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=noting.message.request.method, target="/", headers=[("host", "a")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(sent)
        body = b""
        complete = False
        while not complete:
            event = reader.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                break
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            complete = isinstance(event, h11.EndOfMessage)
        head_only = noting.message.request.method == "HEAD"
        if not noting.finished:  # then the client can tell, unless nothing was missing
            assert not (complete and noting.reply.started) or noting.left == 0 or head_only
            return
        assert complete
        assert body == (b"" if head_only else noting.said)
        sent = reader.trailing_data[0]


@pytest.mark.parametrize("group", range(8))
def test_any_order_of_events_is_survived(group: int) -> None:
    ends = [walk(group * 400 + number) for number in range(400)]
    assert sum(len(client.seen) for client in ends) > 400
    assert sum(isinstance(each, Wild) and each.finished for client in ends for each in client.seen) > 200


@pytest.mark.parametrize("group", range(4))
def test_any_order_of_answers_is_survived(group: int) -> None:
    for number in range(500):
        source = random.Random(f"answers {group} {number}")
        upstream = Upstream()
        answers = b"".join(
            source.choice((
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            ))
            for _ in range(4)
        )  # fmt: skip
        gots = []
        for _ in range(80):
            if upstream.transport.closed:
                break
            way = source.random()
            if len(upstream.given) == len(gots):
                gots.append(upstream.ask(more=source.random() < 0.5, chunked=source.random() < 0.3))
            elif way < 0.5 and upstream.transport.reading:
                size = source.choice((1, 3, 20))
                upstream.send(answers[:size])
                answers = answers[size:]
            elif way < 0.6:
                upstream.connection.write(b"more")
            elif way < 0.75:
                upstream.connection.end_body()
            elif way < 0.8:
                upstream.connection.pause()
            elif way < 0.9:
                upstream.connection.resume()
            elif way < 0.92:
                upstream.end()
        upstream.connection.connection_lost(None)
        assert gots
        assert all(got.end_ == "end" for got in gots[:-1])
        assert all(got.body in (b"", b"hello") for got in gots if got.end_ == "end")

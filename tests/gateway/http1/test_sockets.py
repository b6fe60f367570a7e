"""Server, client and pool over sockets, under both loops."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

import pytest

from gateway.http1.kit import Got, Noting, until
from gateway.http1.network import LOOPS, Echo, Proxy, Raw, Run, pooling, runner, scripted, serving
from genealog.errors import UpstreamError
from genealog.gateway.http1 import Limits, Origin, Reply, Request, UpstreamLostError

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return runner(request.param)


def here(port: int) -> Origin:
    return Origin("http", "127.0.0.1", port)


def post(size: int, extra: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (size, extra)


def test_requests_pass_through_and_connections_are_used_again(run: Run) -> None:
    async def main() -> None:
        async with serving(Echo) as (_, up), pooling() as pool, serving(Proxy(pool, here(up))) as (server, port):
            async with Raw.to(port) as client:
                for body in (b"", b"hello", b"x" * 3_000_000):
                    await client.send(post(len(body)) + body)
                    status, headers, got = await client.answer()
                    assert (status, headers[b"x-method"], got == body) == (200, b"POST", True)
                await client.send(
                    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                    b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nTrailer-X: y\r\n\r\n" + GET
                )
                assert (await client.answer())[2] == b"hello!"
                assert (await client.answer())[2] == b""
                assert (server.connections, server.requests, server.refused) == (1, 5, 0)
            assert (pool.opened, pool.reused, pool.connections, pool.idle) == (1, 4, 1, 1)

    run(main())


def test_a_slow_client_slows_the_upstream_down(run: Run) -> None:
    total = 60_000_000
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        piece = b"x" * 100_000
        while sent < total:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
        writer.close()

    async def main() -> None:
        async with scripted(flood) as up, pooling() as pool:
            proxy = Proxy(pool, here(up))
            async with serving(proxy) as (_, port), Raw.to(port) as client:
                await client.send(GET)
                await asyncio.sleep(0.5)
                assert proxy.slow_clients >= 1
                assert sent < total / 2  # what fits into the buffers of the kernel on the way, and some of ours
                _, _, body = await client.answer()
                assert len(body) == total

    run(main())


def test_a_slow_upstream_slows_the_client_down(run: Run) -> None:
    async def main() -> None:
        ready = asyncio.Event()
        size = 60_000_000

        async def lazy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await ready.wait()
            await reader.readexactly(size)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
            writer.close()

        async with scripted(lazy) as up, pooling() as pool:
            proxy = Proxy(pool, here(up))
            async with serving(proxy) as (_, port), Raw.to(port) as client:
                await client.send(post(size))
                sending = asyncio.ensure_future(client.send(b"x" * size))
                await asyncio.sleep(0.5)
                assert proxy.slow_upstreams >= 1
                assert not sending.done()
                ready.set()
                await sending
                assert (await client.answer())[2] == b"ok"

    run(main())


def test_a_client_that_goes_takes_the_upstream_with_it(run: Run) -> None:
    async def main() -> None:
        gone = asyncio.Event()

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            gone.set()
            writer.close()

        async with scripted(endless) as up, pooling() as pool:
            proxy = Proxy(pool, here(up))
            async with serving(proxy) as (server, port):
                async with Raw.to(port) as client:
                    await client.send(GET)
                    await client.reader.readuntil(b"hello")
                    assert server.busy == 1
                await gone.wait()
                assert proxy.lost == 1
                assert (server.connections, pool.connections) == (0, 0)

    run(main())


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nX\r\n",
])  # fmt: skip
def test_an_answer_that_breaks_off_breaks_off(run: Run, answer: bytes) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    async def main() -> None:
        async with scripted(broken) as up, pooling() as pool:
            proxy = Proxy(pool, here(up))
            async with serving(proxy) as (_, port), Raw.to(port) as client:
                await client.send(GET)
                with pytest.raises(asyncio.IncompleteReadError):
                    await client.answer()
                assert len(proxy.errors) == 1
                assert pool.connections == 0

    run(main())


def test_a_reset_is_no_end_of_an_answer_without_a_length(run: Run) -> None:
    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await writer.drain()
        await asyncio.sleep(0.05)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def main() -> None:
        async with scripted(resets) as up, pooling() as pool:
            got = Got()
            (await pool.open(here(up))).ask(GET, b"", got)
            await got.over()
            assert (got.body, got.end_) == (b"hello", "upstream-died")

    run(main())


def test_a_connection_that_the_upstream_closed_is_not_taken(run: Run) -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async def main() -> None:
        async with scripted(once) as up, pooling() as pool:
            got = Got()
            (await pool.open(here(up))).ask(GET, b"", got)
            await got.over()
            assert got.end_ == "end"
            await asyncio.sleep(0.05)
            assert pool.take(here(up)) is None

    run(main())


def test_an_end_that_the_loop_did_not_see_yet_is_seen_by_take(run: Run) -> None:
    async def main() -> None:
        writers: list[asyncio.StreamWriter] = []

        async def open_(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async with scripted(open_) as up, pooling() as pool:
            got = Got()
            (await pool.open(here(up))).ask(GET, b"", got)
            await got.over()
            assert pool.idle == 1
            sock = socket.socket(fileno=socket.dup(writers[0].get_extra_info("socket").fileno()))
            sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")  # no turn of the loop in between
            sock.close()
            assert pool.take(here(up)) is None
            writers[0].close()

    run(main())


def test_idle_connections_are_closed_after_their_time(run: Run) -> None:
    async def main() -> None:
        async with serving(Echo) as (server, up), pooling(idle_time=0.2) as pool:
            got = Got()
            (await pool.open(here(up))).ask(GET, b"", got)
            await got.over()
            assert pool.idle == 1
            await asyncio.sleep(0.4)
            assert (pool.idle, pool.connections, server.connections) == (0, 0, 0)

    run(main())


def test_no_more_than_so_many_connections_are_kept(run: Run) -> None:
    async def main() -> None:
        async with serving(Echo) as (_, up), pooling(idle_limit=2) as pool:
            gots = [Got() for _ in range(4)]
            for got in gots:
                (await pool.open(here(up))).ask(GET, b"", got)
            for got in gots:
                await got.over()
            assert pool.idle == 2

    run(main())


def test_nobody_there_is_said(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            async with pooling() as pool:
                for origin in (here(taken.getsockname()[1]), Origin("http", "no-such-host.invalid", 80)):
                    with pytest.raises(UpstreamError, match="upstream-unreachable"):
                        await pool.open(origin)
                assert pool.connections == 0

    run(main())


def test_a_name_that_resolves_is_connected_to(run: Run) -> None:
    async def main() -> None:
        async with serving(Echo) as (_, up), pooling() as pool:
            for _ in range(2):
                connection = await pool.open(Origin("http", "localhost", up))
                assert connection.spki is None
                connection.abort()

    run(main())


def test_a_closed_pool_fails_those_who_wait(run: Run) -> None:
    async def main() -> None:
        async with scripted(_silent) as up:
            async with pooling() as pool:
                got = Got()
                (await pool.open(here(up))).ask(GET, b"", got)
                await asyncio.sleep(0.05)
            assert got.end_ == "upstream-unreachable"
            assert isinstance(got.error, UpstreamLostError)

    run(main())


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionResetError):
        await reader.read()
    writer.close()


def test_a_client_gets_to_read_a_refusal_before_its_body_is_sent(run: Run) -> None:
    async def main() -> None:
        async with serving(Echo, limits=Limits(body=1000)) as (_, port), Raw.to(port) as client:
            await client.send(post(3_000_000))
            with contextlib.suppress(ConnectionError):
                await client.send(b"x" * 3_000_000)
            status, _, body = await client.answer()
            assert status == 413
            assert b"http-refused" in body
            assert await client.rest() == b""

    run(main())


def test_time_limits_are_kept(run: Run) -> None:
    limits = Limits(head_time=0.2, idle_time=0.2, body_time=0.2)

    async def main() -> None:
        async with serving(Echo, limits=limits) as (server, port):
            for data, status in ((b"", None), (GET[:-2], b"408"), (post(9), b"200"), (GET, b"200")):
                async with Raw.to(port) as client:
                    await client.send(data)
                    rest = await client.rest()
                    assert rest[9:12] == (status or b""), data
            assert server.connections == 0

    run(main())


def test_a_drain_waits_for_answers_and_breaks_off_the_last(run: Run) -> None:
    seen: list[Noting] = []

    def application(request: Request, reply: Reply) -> Noting:
        return Noting(request, reply, seen, answers=False)

    async def main() -> None:
        async with (
            serving(application) as (server, port), Raw.to(port) as idle, Raw.to(port) as quick, Raw.to(port) as stuck,
        ):  # fmt: skip
            await quick.send(GET)
            await stuck.send(GET)
            await until(lambda: len(seen) == 2)
            draining = asyncio.ensure_future(server.drain(0.4))
            assert await idle.rest() == b""
            seen[0].reply.start(200, [], 2)
            seen[0].reply.end(b"ok")
            assert (await quick.answer())[1][b"connection"] == b"close"
            assert await quick.rest() == b""
            assert not draining.done()
            await draining
            assert await stuck.rest() == b""
            await asyncio.sleep(0.02)
            assert seen[1].message.lost
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)

    run(main())


def test_a_drain_of_nothing_is_over_at_once(run: Run) -> None:
    async def main() -> None:
        async with serving(Echo) as (server, _):
            await asyncio.wait_for(server.drain(20), 1)

    run(main())


def test_there_are_no_more_connections_than_allowed(run: Run) -> None:
    async def main() -> None:
        async with serving(Echo, limits=Limits(connections=1)) as (_, port), Raw.to(port) as first:
            await first.send(GET)
            await first.answer()
            async with Raw.to(port) as second:
                assert await second.rest() == b""
            await first.send(GET)
            assert (await first.answer())[0] == 200

    run(main())


def test_clients_that_reset_in_the_middle_are_survived(run: Run) -> None:
    complaints: list[dict[str, object]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with serving(Echo) as (server, port):
            for count in range(60):
                async with Raw.to(port) as client:
                    sock = client.writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    await client.send(
                        (
                            GET * 50,
                            post(9) + b"x",
                            b"nonsense\r\n\r\n" + b"x" * 99_999,
                            post(9_999_999) + b"x" * 999_999,
                        )[count % 4]
                    )
                    if count % 3 == 0:
                        await asyncio.sleep(0.002)
                    client.writer.transport.abort()
            await until(lambda: server.connections == 0)

    run(main())
    assert complaints == []

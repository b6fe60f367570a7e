"""Upstreams, deployments and clients that do what none should: an error, on record, and nothing that grows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire
from gateway.kit import NAME, FakeSource, running, spec, until


def chat(model: str = NAME) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}]}).encode()


@pytest.mark.parametrize("line", [b"999 Odd", b"000 Odd", b"600 Odd", b"101 Switching Protocols"])
async def test_a_status_that_no_answer_ends_with_is_an_upstream_error(tmp_path: Path, line: bytes) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        wire.writer.write(b"HTTP/1.1 " + line + b"\r\nContent-Length: 2\r\n\r\nhi")
        await wire.writer.drain()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, _, body = await gateway.ask(chat())
        _, outcome = gateway.last()
    assert (status, json.loads(body)["code"]) == (502, outcome.error)
    assert (outcome.finish, outcome.error) == ("upstream_error", "upstream-malformed")


async def test_not_modified_has_no_body_whatever_length_it_states(tmp_path: Path) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(304, Content_Length="20", ETag="x")

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, headers, body = await gateway.ask(chat())
        _, outcome = gateway.last()
    assert (status, body, headers["ETag"], outcome.finish) == (304, b"", "x", "complete")


async def test_an_upstream_that_is_this_gateway_is_found_out_at_once(tmp_path: Path) -> None:
    source = FakeSource()
    async with running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(gateway.url))
        status, _, body = await gateway.ask(chat())
        finished = [outcome and (outcome.finish, outcome.error) for _, outcome in gateway.calls()]
    assert (status, json.loads(body)["code"]) == (502, "upstream-loop")
    assert finished == [("upstream_error", None), ("refused", "upstream-loop")]


async def test_the_name_of_no_deployment_is_not_told_back_in_full(tmp_path: Path) -> None:
    async with running(tmp_path, FakeSource()) as gateway:
        status, _, body = await gateway.ask(chat("m" * 100_000))
    assert (status, len(body) < 2_000) == (404, True)


async def test_a_head_without_end_is_cut(tmp_path: Path) -> None:
    async with running(tmp_path, FakeSource()) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        writer.write(b"GET /healthz HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                writer.write(b"a" * 2**16)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()
        big = b"a" * 2**20  # a body has another limit, and comes after as many heads as one likes
        assert [(await gateway.ask(big))[0] for _ in range(3)] == [400] * 3


async def test_a_connection_that_was_closed_while_it_was_idle_is_not_an_error(tmp_path: Path) -> None:
    """The upstream reads the second request on an old connection, and closes it: that race is nobody's fault."""
    asked: list[bytes] = []

    async def script(wire: Wire, call: Asked) -> None:
        asked.append(call.body)
        if len(asked) in (2, 4, 5):
            wire.die()
        else:
            await wire.head(Content_Type="application/json", Content_Length="2")
            await wire.raw(b"{}")

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        statuses = [(await gateway.ask(chat()))[0] for _ in range(3)]
        finishes = [outcome and (outcome.finish, outcome.error) for _, outcome in gateway.calls()]
    assert statuses == [200, 200, 502]  # the third died on a new connection as well
    assert len(asked) == 5
    assert finishes == [("complete", None), ("complete", None), ("upstream_error", "upstream-unreachable")]


async def test_a_client_that_leaves_while_a_connection_is_made_is_on_record(tmp_path: Path) -> None:
    source = FakeSource()
    waiting = socket.create_server(("127.0.0.1", 0), backlog=0)  # accepts nobody
    held = [socket.create_connection(waiting.getsockname()) for _ in range(1)]
    async with running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(f"http://127.0.0.1:{waiting.getsockname()[1]}"))
        asking = asyncio.create_task(gateway.ask(chat()))

        async def begun() -> bool:
            return bool(gateway.plane.live)

        async def recorded() -> bool:
            return bool(gateway.calls())

        await until(begun)
        asking.cancel()
        await until(recorded)
        _, outcome = gateway.last()
    for each in (*held, waiting):
        each.close()
    assert (outcome.finish, outcome.error, outcome.status) == ("client_abandoned", "client-gone", None)

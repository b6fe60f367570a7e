"""Several workers, settings that change while they run, and what happens when there is more than they can take."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, whole
from gateway.kit import NAME, FakeSource, chat, running, spec, until
from gateway.processes import Process, make_store, on_record
from genealog.gateway.counters import BUCKETS, Counters
from genealog.gateway.workers import listeners

CALL = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "x"}]}).encode()


async def ask(gateway: Process, **headers: str) -> tuple[int, str, str]:
    """Ask once, on a connection of its own; return status, error code and call."""
    url = gateway.url + "/v1/chat/completions"
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.post(url, data=CALL, headers=headers) as response,
    ):
        said = await response.json(content_type=None)
        return response.status, said.get("code", ""), response.headers.get("Genealog-Call", "")


def children(gateway: Process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children").read_text().split()]


async def test_workers_share_a_port_and_one_that_dies_is_followed_by_another(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = make_store(tmp_path, upstream.url)
        settings = store / "genealog.toml"
        settings.write_text(settings.read_text() + "\n[gateway]\nworkers = 3\n")
        async with Process(store) as gateway:
            before = children(gateway)
            assert len(before) == 3
            calls = {(await ask(gateway))[2] for _ in range(24)}
            os.kill(before[1], signal.SIGKILL)

            async def again() -> bool:
                return len(children(gateway)) == 3 and before[1] not in children(gateway)

            await until(again, 30)
            calls |= set(await asyncio.gather(*(_call(gateway) for _ in range(24))))
            assert await gateway.stop() == 0
        found = on_record(store)
    assert len(calls) == 48
    assert set(found) == calls
    emitters = {each.leaf.emitter for (each,) in found.values()}
    assert {"gateway-0", "gateway-1", "gateway-2"} >= emitters
    assert len(emitters) > 1
    assert {each.leaf.finish for (each,) in found.values()} == {"complete"}


async def _call(gateway: Process) -> str:
    status, _, call = await ask(gateway)
    assert status == 200
    return call


@pytest.mark.parametrize("noticed", [True, False])
async def test_settings_are_read_again_and_no_call_is_dropped(tmp_path: Path, noticed: bool) -> None:
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        asked.set()
        await go_on.wait()
        await whole(completion())(wire, _)

    async with FakeUpstream(script) as upstream:
        store = make_store(tmp_path, upstream.url)
        settings = store / "genealog.toml"
        plain = settings.read_text()
        async with Process(store) as gateway:
            slow = asyncio.create_task(ask(gateway))
            await asked.wait()

            async def turned_away() -> bool:
                return (await ask(gateway))[1] == "gateway-busy"

            async def taken() -> bool:
                return (await ask(gateway))[0] == 200

            async def complained() -> bool:
                return "cannot be used" in gateway.output.read_text()

            settings.write_text(plain + "\n[gateway]\nmax_calls = 1\n")
            if not noticed:
                os.kill(gateway.pid, signal.SIGHUP)
            await asyncio.sleep(1.5)  # whoever is asked before that is asked upstream, which waits
            await until(turned_away, 20)
            settings.write_text(plain + "\n[gateway]\nmax_calls = 'many'\n")
            if not noticed:
                os.kill(gateway.pid, signal.SIGHUP)
            await until(complained, 20)
            assert await turned_away()  # what was read before still counts
            go_on.set()
            assert (await slow)[0] == 200
            settings.write_text(plain)
            await until(taken, 20)
            assert await gateway.stop() == 0


async def test_there_is_room_for_so_many_calls_and_no_more(tmp_path: Path) -> None:
    go_on, source = asyncio.Event(), FakeSource()

    async def script(wire: Wire, _: Asked) -> None:
        await go_on.wait()
        await whole(completion())(wire, _)

    async with FakeUpstream(script) as upstream, running(tmp_path, source, max_calls=2) as gateway:
        source.deploy(NAME, spec(upstream.url))
        slow = [asyncio.create_task(gateway.ask(chat())) for _ in range(2)]

        async def asked() -> bool:
            return len(upstream.asked) == 2

        await until(asked)
        status, headers, body = await gateway.ask(chat())
        go_on.set()
        assert [status for status, _, _ in await asyncio.gather(*slow)] == [200, 200]
        assert (await gateway.ask(chat()))[0] == 200
        counted = gateway.plane.parts.counters.read()
    assert (status, json.loads(body)["code"], int(headers["Retry-After"]) > 0) == (503, "gateway-busy", True)
    assert len(gateway.calls()) == 3
    assert (counted.plain["busy"], counted.finishes["complete"]) == (1, 3)


async def test_a_spool_that_nobody_empties_is_not_filled_for_ever(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source, max_behind=10_000) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(chat(padding="x" * 20_000)))[0] == 200

        async def turned_away() -> bool:
            status, headers, body = await gateway.ask(chat())
            if status == 200:
                return False
            assert (status, json.loads(body)["code"]) == (503, "gateway-behind")
            assert int(headers["Retry-After"]) > 0
            return True

        await until(turned_away)


async def test_a_client_that_leaves_may_be_charged_for_what_the_upstream_says(tmp_path: Path) -> None:
    go_on, source = asyncio.Event(), FakeSource()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(b": one\n\n")
        await go_on.wait()
        await wire.chunk(b": two\n\n")
        await wire.end()

    async with FakeUpstream(script) as upstream, running(tmp_path, source, drains=True) as gateway:
        source.deploy(NAME, spec(upstream.url))
        async with gateway.client.post(gateway.url + "/v1/chat/completions", data=chat(stream=True)) as response:
            await response.content.readexactly(7)
            response.close()
        await asyncio.sleep(0.1)
        go_on.set()

        async def ended() -> bool:
            return gateway.calls()[-1][1] is not None

        await until(ended)
        _, outcome = gateway.last()
    assert (outcome.finish, outcome.error) == ("client_abandoned", "client-gone")
    assert (outcome.response, outcome.delivered) == (b": one\n\n: two\n\n", 7)


def test_counters_are_read_by_another_who_maps_the_file(tmp_path: Path) -> None:
    mine = Counters.create(tmp_path / "counters")
    theirs = Counters.open(tmp_path / "counters")
    mine.ended("complete", 200, 0.02)
    mine.ended("refused", None, 0.0)
    mine.ended("upstream_error", 502, 1_000.0)
    mine.add("retries")
    mine.put("in_flight", 7)
    counted = theirs.read()
    assert counted.finishes == {
        "complete": 1, "client_abandoned": 0, "upstream_error": 1, "refused": 1, "unknown": 0,
    }  # fmt: skip
    assert (counted.classes["2xx"], counted.classes["5xx"], counted.classes["none"]) == (1, 1, 1)
    assert (counted.plain["retries"], counted.plain["in_flight"]) == (1, 7)
    assert (sum(counted.seconds), counted.seconds[0], counted.seconds[-1]) == (3, 1, 1)
    assert counted.seconds[BUCKETS.index(0.025)] == 1
    mine.close()
    theirs.close()
    (tmp_path / "other").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="no file of counters"):
        Counters.open(tmp_path / "other")


def test_a_port_is_taken_by_all_or_by_nobody() -> None:
    taken = listeners("127.0.0.1", 0, 3)
    assert len({each.getsockname() for each in taken}) == 1
    for each in taken:
        each.close()

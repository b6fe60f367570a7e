"""A deployment moves while calls run: whoever began on a version ends on it and says so, and no call fails."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp

from gateway.fake_upstream import FakeUpstream, events, waiting, whole
from gateway.kit import FakeSource, spec, until
from gateway.processes import NAME, Process, make_store, on_record
from genealog.deploy import Deployments
from genealog.gateway import directory as watched
from genealog.gateway.directory import Directory, StoreSource
from genealog.registry import Registry
from genealog.store.home import Home

BODY = {"model": NAME, "messages": [{"role": "user", "content": "x"}]}


async def test_a_call_ends_on_the_version_that_it_began_on(tmp_path: Path) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    answer = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}]}).encode()
    async with FakeUpstream(whole(answer)) as old, FakeUpstream(waiting(events(("old", "old")), started, go_on)) as new:
        store = make_store(tmp_path, old.url)
        registry = Registry(Home.open(store))
        deployments = Deployments(registry.home)
        before = deployments.history(NAME)[-1].spec
        after = deployments.deploy(NAME, model="tiny", upstream=new.url).spec
        async with Process(store) as gateway, aiohttp.ClientSession() as session:
            url = gateway.url + "/v1/chat/completions"

            async def ask(*, stream: bool) -> tuple[int, str, bytes]:
                async with session.post(url, json=BODY | {"stream": stream}) as response:
                    return response.status, response.headers["Genealog-Call"], await response.read()

            running = asyncio.create_task(ask(stream=True))
            await started.wait()
            deployments.rollback(NAME)

            async def moved() -> bool:
                async with session.get(gateway.url + "/v1/models") as response:
                    (model,) = (await response.json())["data"]
                return str(model["genealog"]["spec"]) == before

            await until(moved)
            status, fresh, body = await ask(stream=False)
            assert (status, body) == (200, answer)
            assert not running.done()
            go_on.set()
            status, call, body = await running
            assert status == 200
            assert body.endswith(b"data: [DONE]\n\n")
        registry.home.close()
    calls = on_record(store)
    assert [each.leaf.spec for each in calls[call]] == [after]
    assert [each.leaf.finish for each in calls[call]] == ["complete"]
    assert [each.leaf.spec for each in calls[fresh]] == [before]


async def test_a_move_is_followed_without_waiting_for_the_clock(tmp_path: Path, monkeypatch: object) -> None:
    """The registry log grew: that alone makes a gateway look, though its own time for looking has not come."""
    store = make_store(tmp_path, "http://127.0.0.1:1")
    directory = Directory(lambda: StoreSource(Home.open(store)))
    every, watched.RENEW = watched.RENEW, 3600.0
    try:
        await directory.start()
        deployments = Deployments(Home.open(store))
        after = deployments.deploy(NAME, model="tiny", upstream="http://127.0.0.1:2").spec

        async def followed() -> bool:
            found = directory.look(NAME)
            return found is not None and found.live is not None and found.live.spec == after

        await until(followed, 30)
        await directory.stop()
        deployments.home.close()
    finally:
        watched.RENEW = every


async def test_what_did_not_change_is_not_looked_up_again() -> None:
    class Counting(FakeSource):
        asked = 0

        def registered(self, artifact: str) -> bool:
            self.asked += 1
            return super().registered(artifact)

    source = Counting()
    source.deploy(NAME, spec("http://127.0.0.1:1"))
    directory = Directory(lambda: source)
    await directory.start()
    before, asked = directory.look(NAME), source.asked
    source.deploy("other", spec("http://127.0.0.1:2"))
    await directory.renew()
    after = directory.look(NAME)
    assert before is not None
    assert after is not None
    assert after.contexts is before.contexts
    assert after is not before  # another epoch: whoever waited looks again
    assert source.asked == 2 * asked
    await directory.stop()


async def test_a_source_that_fails_is_not_asked_all_the_time() -> None:
    from genealog.errors import StoreError

    source = FakeSource()
    source.deploy(NAME, spec("http://127.0.0.1:1"))
    directory = Directory(lambda: source)
    await directory.start()
    source.broken = StoreError("log-altered", "somebody rewrote the registry")
    source.epoch += 1
    polls = source.polls
    await asyncio.sleep(3 * watched.WATCH)
    await until(lambda: _true(source.polls > polls))
    polls = source.polls
    await asyncio.sleep(3 * watched.WATCH)  # less than RENEW: the stamp has been seen
    assert source.polls <= polls + 1
    await directory.stop()


async def _true(value: bool) -> bool:
    return value

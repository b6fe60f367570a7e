"""Nothing is served by a revoked model once the revocation is acknowledged, whatever state the workers are in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, events, waiting, whole
from gateway.kit import NAME, FakeSource, chat, running, spec, until
from gateway.processes import Process, on_record
from gateway.test_many_workers import children
from genealog.core.canonical import timestamp
from genealog.deploy import Deployments, Snapshot
from genealog.gateway import directory as watched
from genealog.gateway.directory import Directory
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.leases import LEASE, Acknowledged, Lease, acknowledge, held

CALL = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "x"}]}).encode()


class Store:
    """A store with as many models as a test revokes, in front of one upstream."""

    def __init__(self, path: Path, upstream: str) -> None:
        self.path = path / ".genealog"
        self._files = path
        self._upstream = upstream
        self.registry = Registry.init(self.path)
        settings = self.path / "genealog.toml"
        settings.write_text(settings.read_text() + "\n[gateway]\nworkers = 2\n")
        self.registry.home.close()
        self.registry = Registry(Home.open(self.path))
        self.models: dict[str, str] = {}

    def deploy(self, name: str) -> None:
        """Register a model and serve it."""
        folder = self._files / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"name": name}))
        self.models[name] = self.registry.add(folder, kind="model", name=name).id
        Deployments(self.registry.home).deploy(NAME, model=name, upstream=self._upstream)

    def revoke(self, name: str) -> tuple[Acknowledged, str]:
        """Do what `genealog revoke` does; return what came of it, and when it was acknowledged."""
        self.registry.revoke(name, reason="poisoned")
        done = acknowledge(self.path / "leases", self.registry.home.registry_log().refresh())
        return done, timestamp(datetime.now(UTC))


class Clients:
    """Connections that are kept, each asking again as soon as it has its answer."""

    def __init__(self, gateway: Process, count: int) -> None:
        self._url = gateway.url + "/v1/chat/completions"
        self._count = count
        self.served = 0
        self.refused: set[str] = set()
        self._stop = False

    @contextlib.asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._ask()) for _ in range(self._count)]
        try:
            yield
        finally:
            self._stop = True
            await asyncio.gather(*tasks)

    async def _ask(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            while not self._stop:
                try:
                    async with session.post(self._url, data=CALL) as response:
                        said = await response.json(content_type=None)
                except aiohttp.ClientError:  # its worker was killed
                    await asyncio.sleep(0.05)
                    continue
                if response.status == 200:
                    self.served += 1
                else:
                    self.refused.add(said["code"])

    async def more(self) -> None:
        """Return once another call was served."""
        before = self.served
        await until(lambda: _true(self.served > before + 20), 60)


async def _true(value: bool) -> bool:
    return value


def served_after(store: Store, acknowledged: dict[str, str]) -> list[str]:
    """Return the calls on record that went to a revoked model after its revocation was acknowledged."""
    leaves = [each.leaf for calls in on_record(store.path).values() for each in calls]
    assert leaves
    ids = {store.models[name]: at for name, at in acknowledged.items()}
    return [
        leaf.call for leaf in leaves for model in leaf.models
        if leaf.finish != "refused" and model in ids and leaf.called_at > ids[model]
    ]  # fmt: skip


async def test_no_call_is_made_after_the_acknowledgement(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = Store(tmp_path, upstream.url)
        store.deploy("m0")
        acknowledged: dict[str, str] = {}
        async with Process(store.path) as gateway:
            clients = Clients(gateway, 12)
            async with clients.asking():
                for number in range(8):
                    await clients.more()
                    done, acknowledged[f"m{number}"] = await asyncio.to_thread(store.revoke, f"m{number}")
                    assert (done.workers, done.expired) == (2, 0)
                    assert done.took < LEASE
                    await asyncio.to_thread(store.deploy, f"m{number + 1}")
                await clients.more()
            assert clients.refused <= {"model-revoked", "revoked-while-serving"}
            assert await gateway.stop() == 0
        assert served_after(store, acknowledged) == []
        store.registry.home.close()


async def test_a_worker_that_was_stopped_serves_nothing_of_what_it_knew(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = Store(tmp_path, upstream.url)
        store.deploy("m0")
        async with Process(store.path) as gateway:
            clients = Clients(gateway, 12)
            async with clients.asking():
                await clients.more()
                stopped = children(gateway)[0]
                os.kill(stopped, signal.SIGSTOP)
                try:
                    done, at = await asyncio.to_thread(store.revoke, "m0")
                    assert (done.workers, done.expired) == (1, 1)
                    assert done.took >= LEASE
                finally:
                    os.kill(stopped, signal.SIGCONT)
                await until(lambda: _true(all(each.epoch >= done.epoch for each in held(store.path / "leases"))))
                served = clients.served  # answers that lay there when it was stopped have been given out
                await asyncio.sleep(0.3)
                assert clients.served == served
            assert clients.refused <= {"model-revoked", "revoked-while-serving"}
            assert await gateway.stop() == 0
        assert served_after(store, {"m0": at}) == []
        store.registry.home.close()


async def test_a_worker_that_was_killed_is_not_waited_for(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = Store(tmp_path, upstream.url)
        store.deploy("m0")
        async with Process(store.path) as gateway:
            clients = Clients(gateway, 12)
            async with clients.asking():
                await clients.more()
                os.kill(gateway.pid, signal.SIGSTOP)  # the parent starts no other one meanwhile
                killed = children(gateway)[0]
                os.kill(killed, signal.SIGKILL)
                await until(lambda: _true(killed not in [each.pid for each in held(store.path / "leases")]))
                done, at = await asyncio.to_thread(store.revoke, "m0")
                os.kill(gateway.pid, signal.SIGCONT)
                assert (done.workers, done.expired) == (1, 0)
                assert done.took < LEASE
            assert await gateway.stop() == 0
        assert served_after(store, {"m0": at}) == []
        store.registry.home.close()


async def test_a_registry_that_does_not_answer_ends_the_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "LEASE", 0.3)
    go_on = threading.Event()

    class Hanging(FakeSource):
        hangs = False

        def poll(self) -> Snapshot:
            if self.hangs:
                go_on.wait(30)
            return super().poll()

    source = Hanging()
    source.deploy(NAME, spec("http://127.0.0.1:1"))
    lease = Lease(tmp_path)
    directory = Directory(lambda: source, lease=lease)
    await directory.start()
    assert directory.look(NAME) is not None
    assert [each.epoch for each in held(tmp_path)] == [source.epoch]
    source.hangs = True
    source.deploy(NAME, spec("http://127.0.0.1:1"), revoked="poisoned")
    await asyncio.sleep(0.4)
    assert directory.look(NAME) is None
    refusal = (await directory.find(NAME)).refusal
    assert refusal is not None
    assert refusal.code == "registry-stale"
    assert [each.epoch for each in held(tmp_path)] == [source.epoch - 1]
    go_on.set()
    await directory.stop()
    lease.close()


async def test_a_snapshot_is_as_old_as_when_reading_it_began() -> None:
    now = [0.0]

    class Slow(FakeSource):
        def poll(self) -> Snapshot:
            found = super().poll()
            now[0] += 1.5
            return found

    source = Slow()
    source.deploy(NAME, spec("http://127.0.0.1:1"))
    directory = Directory(lambda: source, clock=lambda: now[0])
    source.broken = None
    await directory.start()
    assert directory.age >= 1.5
    await directory.stop()


async def test_everybody_is_told_before_the_lease_says_so(tmp_path: Path) -> None:
    source = FakeSource()
    source.deploy(NAME, spec("http://127.0.0.1:1"))
    lease = Lease(tmp_path)
    directory = Directory(lambda: source, lease=lease)
    await directory.start()
    seen: list[int] = []
    directory.watch(lambda: seen.append(next(held(tmp_path)).epoch))
    before = source.epoch
    source.deploy(NAME, spec("http://127.0.0.1:2"))
    await directory.renew()
    assert seen == [before]
    assert next(held(tmp_path)).epoch == source.epoch
    await directory.stop()
    lease.close()


class Finishing:
    """Policing that lets answers end."""

    cuts = False

    def known(self, *_: object) -> object:
        from genealog.gateway.policing import Ruling

        return Ruling(("", (), ()), None, float("inf"))

    def good(self, _: object) -> bool:
        return True


@pytest.mark.parametrize("on_revoke", ["cut", "finish"])
async def test_an_answer_that_streams_while_its_model_is_revoked(tmp_path: Path, on_revoke: str) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    source = FakeSource()
    async with FakeUpstream(waiting(events(("one", "two")), started, go_on)) as upstream:
        source.deploy(NAME, spec(upstream.url))
        policing = Finishing() if on_revoke == "finish" else None
        async with running(tmp_path, source, policing=policing) as gateway:  # type: ignore[arg-type]
            asking = asyncio.create_task(gateway.ask(chat(stream=True)))
            await started.wait()
            source.deploy(NAME, spec(upstream.url), revoked="poisoned")
            await gateway.directory.renew()
            if on_revoke == "cut":
                with pytest.raises(aiohttp.ClientPayloadError):
                    await asking
            go_on.set()
            if on_revoke == "finish":
                status, _, body = await asking
                assert status == 200
                assert body.endswith(b"data: [DONE]\n\n")
            status, _, _ = await gateway.ask(chat())
            assert status == 403
            outcomes = [outcome for _, outcome in gateway.calls()]
    first, second = outcomes
    assert first is not None
    assert second is not None
    assert (second.finish, second.error) == ("refused", "model-revoked")
    if on_revoke == "cut":
        assert (first.finish, first.error) == ("unknown", "revoked-while-serving")
        assert first.delivered > 0
    else:
        assert (first.finish, first.error) == ("complete", None)


async def test_an_answer_that_has_not_begun_is_told_as_a_refusal(tmp_path: Path) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        asked.set()
        await go_on.wait()

    source = FakeSource()
    async with FakeUpstream(script) as upstream:
        source.deploy(NAME, spec(upstream.url))
        async with running(tmp_path, source) as gateway:
            asking = asyncio.create_task(gateway.ask(chat()))
            await asked.wait()
            source.deploy(NAME, spec("http://127.0.0.1:1"))  # moved on first, and revoked then
            source.revoked = {spec(upstream.url).models[0]: "poisoned"}
            await gateway.directory.renew()
            status, _, body = await asking
            assert (status, json.loads(body)["code"]) == (403, "revoked-while-serving")
            _, outcome = gateway.last()
            assert (outcome.finish, outcome.error) == ("unknown", "revoked-while-serving")
            go_on.set()


async def test_what_waited_for_the_disk_is_not_sent_once_its_model_is_revoked(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream:
        source.deploy(NAME, spec(upstream.url, durability="D2"))
        async with running(tmp_path, source) as gateway:
            assert (await gateway.ask(chat()))[0] == 200
            waiting: list[Callable[[], None]] = []
            soon = gateway.recording._sync.soon
            gateway.recording._sync.soon = lambda done: waiting.append(lambda: soon(done))  # type: ignore[method-assign]
            before = len(upstream.asked)
            asking = asyncio.create_task(gateway.ask(chat()))
            await until(lambda: _true(bool(waiting)))
            source.deploy(NAME, spec(upstream.url, durability="D2"), revoked="poisoned")
            await gateway.directory.renew()
            del gateway.recording._sync.soon
            waiting[0]()
            status, _, body = await asking
            assert (status, json.loads(body)["code"]) == (403, "model-revoked")
            assert len(upstream.asked) == before
            assert gateway.last()[1].finish == "refused"


def test_the_clock_is_asked_when_a_call_passes() -> None:
    began = time.monotonic()
    directory = Directory(FakeSource)
    assert directory.look(NAME) is None
    assert directory.age == float("inf")
    assert time.monotonic() - began < LEASE

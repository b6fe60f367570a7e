"""The gateway as it runs: real processes, a real store, the real OpenAI client; and killed at any moment."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import openai
import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, events, stream, whole
from gateway.kit import until
from gateway.processes import NAME, OnRecord, Process, make_store, on_record
from genealog.deploy import Deployments
from genealog.ledger import Ledger
from genealog.registry import Registry
from genealog.store.home import Home

CALLS = 32
WORDS = 20


async def echo(wire: Wire, asked: Asked) -> None:
    """Answer as asked, slowly enough that calls overlap."""
    request = json.loads(asked.body)
    text = request["messages"][-1]["content"]
    if not request.get("stream"):
        return await whole(completion(text, model="tiny-2026"))(wire, asked)
    await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
    words = request.get("max_tokens", WORDS)
    for event in events([f"{text} {number} " for number in range(words)]):
        await wire.chunk(event)
        await asyncio.sleep(0.005)
    return await wire.end()


def client(gateway: Process) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="sk-hidden", max_retries=0, timeout=30)


async def test_openai_client_through_a_real_gateway(tmp_path: Path) -> None:
    async with FakeUpstream(echo) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, client(gateway) as ai:
            question = {"role": "user", "content": "Where is Paris?"}
            raw = await ai.chat.completions.with_raw_response.create(model=NAME, messages=[question])  # type: ignore[list-item]
            assert raw.parse().choices[0].message.content == "Where is Paris?"
            whole_call = raw.headers["Genealog-Call"]
            streamed = await ai.chat.completions.create(model=NAME, messages=[question], stream=True)  # type: ignore[list-item]
            stream_call = streamed.response.headers["Genealog-Call"]
            words = [chunk.choices[0].delta.content or "" async for chunk in streamed]
            assert len(words) == WORDS + 1
            listed = await ai.models.list()
            assert [model.id for model in listed.data] == [NAME]
            with pytest.raises(openai.NotFoundError) as refused:
                await ai.chat.completions.create(model="nobody", messages=[question])  # type: ignore[list-item]
            assert refused.value.code == "unknown-deployment"
            refused_call = refused.value.response.headers["Genealog-Call"]

            async def sequenced() -> bool:
                home = Home.open(store)
                try:
                    return home.call_log().size == 3
                finally:
                    home.close()

            await until(sequenced)  # by the parent, while it runs
            assert await gateway.stop() == 0
        calls = on_record(store)
    assert {call: found[0].leaf.finish for call, found in calls.items()} == {
        whole_call: "complete",
        stream_call: "complete",
        refused_call: "refused",
    }
    assert calls[whole_call][0].response == completion("Where is Paris?", model="tiny-2026")
    assert calls[whole_call][0].leaf.assurance == "A1"
    assert calls[whole_call][0].request == upstream.asked[0].body
    home = Home.open(store)
    receipt = Ledger(home).receipt(Ledger(home).call(whole_call))
    home.close()
    assert receipt is not None
    assert b"sk-hidden" not in _everything(tmp_path)
    assert list((store / "spool").glob("*/*.spool")) == []


def _everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_deploying_and_revoking_while_it_runs(tmp_path: Path) -> None:
    async with FakeUpstream(echo) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, client(gateway) as ai:

            async def ask(name: str) -> str:
                try:
                    await ai.chat.completions.create(model=name, messages=[{"role": "user", "content": "x"}])
                except openai.APIStatusError as error:
                    return str(error.code)  # type: ignore[attr-defined]
                return "ok"

            assert await ask("new") == "unknown-deployment"
            registry = Registry(Home.open(store))
            Deployments(registry.home).deploy("new", model="tiny", upstream=upstream.url)
            assert await ask("new") == "ok"  # at once: a name that is not known is looked up again
            registry.revoke("tiny", reason="poisoned")
            registry.home.close()

            async def revoked() -> bool:
                return await ask("new") == "model-revoked"

            await until(revoked)


async def test_a_full_disk_stops_calls_and_not_the_gateway(tmp_path: Path) -> None:
    async with FakeUpstream(echo) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, aiohttp.ClientSession() as session:
            body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "x"}]}).encode()

            async def ask() -> tuple[int, str]:
                async with session.post(gateway.url + "/v1/chat/completions", data=body) as response:
                    return response.status, (await response.json(content_type=None)).get("code", "")

            assert await ask() == (200, "")
            worker = gateway.worker()
            assert worker is not None
            before = resource.prlimit(worker, resource.RLIMIT_FSIZE)
            resource.prlimit(worker, resource.RLIMIT_FSIZE, (0, before[1]))
            assert await ask() == (503, "spool-unwritable")
            resource.prlimit(worker, resource.RLIMIT_FSIZE, before)
            assert await ask() == (200, "")
            assert gateway.worker() == worker
        finishes = [item.leaf.finish for found in on_record(store).values() for item in found]
    assert len(upstream.asked) == 2
    assert finishes == ["complete", "complete"]


async def test_a_log_that_cannot_be_written_ends_the_gateway_and_no_call(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(wire: Wire, asked: Asked) -> None:
        if b"slow" in asked.body:
            await go_on.wait()
        await stream(events())(wire, asked)

    async with FakeUpstream(script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, aiohttp.ClientSession() as session:
            slow = asyncio.create_task(_ask(session, gateway, "slow"))

            async def begun() -> bool:
                return bool(upstream.asked)

            async def noticed() -> bool:
                return "stopping after running calls" in gateway.output.read_text()

            await until(begun)
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (16384, resource.RLIM_INFINITY))
            quick = await _ask(session, gateway, "quick")
            await until(noticed)
            go_on.set()
            assert (await slow).ended
            assert await gateway.wait() == 2
        calls = on_record(store)
    assert {found[0].leaf.finish for found in calls.values()} == {"complete"}
    assert quick.ended
    assert len(calls) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stopping_finishes_what_runs(tmp_path: Path, number: signal.Signals) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire, call: Asked) -> None:
        asked.set()
        await go_on.wait()
        await stream(events())(wire, call)

    async with FakeUpstream(script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, aiohttp.ClientSession() as session:
            asking = asyncio.create_task(_ask(session, gateway, "Hi"))
            await asked.wait()
            stopping = asyncio.create_task(gateway.stop(number))

            async def closed() -> bool:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                except ConnectionRefusedError:
                    return True
                writer.close()
                return False

            await until(closed)
            go_on.set()
            seen = await asking
            assert await stopping == 0
        calls = on_record(store)
    assert (seen.ended, seen.body) == (True, b"".join(events()))
    assert calls[seen.call][0].leaf.finish == "complete"


async def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(b": one\n\n")
        await wire.gone.wait()

    async with FakeUpstream(script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store, drain=3600) as gateway, aiohttp.ClientSession() as session:
            asking = asyncio.create_task(_ask(session, gateway, "Hi"))

            async def begun() -> bool:
                return bool(upstream.asked)

            await until(begun)
            gateway._process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 0.5)
            assert await gateway.stop() == 0
            seen = await asking
        calls = on_record(store)
    assert not seen.ended
    assert calls[seen.call][0].leaf.finish == "unknown"


async def test_a_gateway_that_cannot_start_says_why(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    async with Process(store) as gateway:
        other = Process(store, port=gateway.port)
        with pytest.raises(AssertionError, match="cannot-listen"):
            await other.start()


@dataclass
class Seen:
    """What a client saw of one call."""

    asked: bytes
    call: str = ""
    body: bytes = b""
    ended: bool = False
    pieces: list[int] = field(default_factory=list)


async def _ask(
    session: aiohttp.ClientSession, gateway: Process, text: str, progress: Progress | None = None, words: int = WORDS
) -> Seen:
    message = {"role": "user", "content": text}
    asked = {"model": NAME, "stream": True, "max_tokens": words, "messages": [message]}
    seen = Seen(json.dumps(asked).encode())
    try:
        async with session.post(gateway.url + "/v1/chat/completions", data=seen.asked) as response:
            if response.status == 200:
                seen.call = response.headers["Genealog-Call"]
                while data := await response.content.readany():
                    seen.body += data
                    if progress is not None:
                        progress.step()
                seen.ended = True
    except aiohttp.ClientError:
        pass
    return seen


class Progress:
    """Counts what clients see, and does something at a chosen moment."""

    def __init__(self, moment: int) -> None:
        self.left = moment
        self.reached = asyncio.Event()

    def step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.reached.set()


def _check(seen: list[Seen], calls: dict[str, list[OnRecord]]) -> None:
    """The promise, for everybody who asked."""
    assert all(len(found) == 1 for found in calls.values()), "a call is on record twice"
    for one in seen:
        if one.call:
            (found,) = calls[one.call]  # whoever got any byte has a leaf
            assert found.request == one.asked
            if one.ended:
                assert found.leaf.finish == "complete"
                assert found.response == one.body
                assert b"[DONE]" in one.body
            elif found.leaf.finish == "complete":
                assert found.response is not None
                assert found.response.startswith(one.body)
            else:
                assert found.leaf.finish in ("unknown", "client_abandoned")
                assert b"[DONE]" not in one.body
    known = {one.call for one in seen}
    for call, (found,) in calls.items():
        if call not in known:
            assert found.leaf.finish in ("unknown", "client_abandoned", "complete")


@pytest.mark.parametrize("victim", ["worker", "parent", "both"])
async def test_kill_at_any_moment(tmp_path: Path, victim: str) -> None:
    dice = random.Random(f"{victim} 1")
    seen: list[Seen] = []
    async with FakeUpstream(echo) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with (
            Process(store) as gateway,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session,
        ):
            for number in range(5):
                progress = Progress(dice.randrange(1, CALLS * WORDS // 2))
                asking = [
                    asyncio.create_task(_ask(session, gateway, f"{number}.{index}", progress, words=index % WORDS))
                    for index in range(CALLS)
                ]
                done = asyncio.gather(*asking)
                reached = asyncio.create_task(progress.reached.wait())
                await asyncio.wait([done, reached], return_when=asyncio.FIRST_COMPLETED)
                if victim in ("worker", "both"):
                    gateway.kill_worker()
                if victim in ("parent", "both"):
                    await gateway.kill()
                    await gateway.start()
                seen += await done
                reached.cancel()
            seen.append(await _ask(session, gateway, "last"))
            assert seen[-1].ended
            assert await gateway.stop() == 0
        calls = on_record(store)
    assert any(not one.ended for one in seen) or victim == "parent"
    assert sum(one.ended for one in seen) > 1
    _check(seen, calls)

"""The data plane while it runs: IDs, secrets, a registry that changes, draining, answers too big, clients too slow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, events, stream, whole
from gateway.kit import ADAPTER, MODEL, NAME, FakeSource, chat, running, spec, spooled, until
from genealog.core.frames import Piece, Whole
from genealog.core.ids import sha256_hex
from genealog.errors import StoreError
from genealog.gateway.admission import Claimed
from genealog.gateway.http1 import Limits
from genealog.gateway.principals import NotAuthenticated

SECRET = "sk-hidden"


async def test_clients_choose_no_ids_and_upstreams_speak_for_nobody(tmp_path: Path) -> None:
    source = FakeSource()
    chosen = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    script = whole(completion(), Genealog_Call=chosen, Genealog_Assurance="A4")
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        _, headers, _ = await gateway.ask(chat(), Genealog_Call=chosen)
        intent, _ = gateway.last()
    assert intent.call != chosen
    assert upstream.asked[0].header("Genealog-Call") == intent.call
    assert headers.getall("Genealog-Call") == [intent.call]  # type: ignore[attr-defined]
    assert headers.getall("Genealog-Assurance") == ["A0"]  # type: ignore[attr-defined]


async def test_no_secret_is_on_record_or_in_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        secrets = {"Authorization": "Bearer sk-hidden", "Cookie": "sk-hidden", "X_Api_Key": "sk-hidden"}
        answers = [await gateway.ask(body, **secrets) for body in (chat(), chat(model="nobody"), b"{")]
    assert all(b"sk-hidden" not in body for _, _, body in answers)
    assert "sk-hidden" not in caplog.text
    assert b"sk-hidden" not in _everything(tmp_path)


def _everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_new_deployment_is_found_at_once_and_a_revocation_soon(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        assert (await gateway.ask(chat()))[0] == 404
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(chat()))[0] == 200
        source.deploy(NAME, spec(upstream.url), revoked="poisoned")

        async def refused() -> bool:
            return (await gateway.ask(chat()))[0] == 403

        await until(refused)
        assert gateway.last()[1].error in ("model-revoked", "revoked-while-serving")


async def test_a_registry_that_cannot_be_read_serves_nothing_for_long(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(chat()))[0] == 200
        source.broken = StoreError("log-altered", "somebody rewrote the registry")
        assert (await gateway.ask(chat()))[0] == 200
        gateway.directory._seen -= 60
        status, headers, body = await gateway.ask(chat())
        assert (status, json.loads(body)["error"]["code"]) == (503, "registry-stale")
        assert "Retry-After" in headers
        source.broken = None

        async def served() -> bool:
            return (await gateway.ask(chat()))[0] == 200

        await until(served)


async def test_models_health_and_unknown_routes(tmp_path: Path) -> None:
    source = FakeSource()
    async with running(tmp_path, source) as gateway:
        source.deploy(NAME, spec("http://127.0.0.1:1"))
        source.deploy("revoked", spec("http://127.0.0.1:1"), revoked="poisoned")
        await gateway.directory.renew()
        async with gateway.client.get(gateway.url + "/v1/models") as response:
            listing = await response.json()
        async with gateway.client.get(gateway.url + "/healthz") as response:
            assert (await response.json())["emitter"] == "gateway-0"
        async with gateway.client.get(gateway.url + "/v1/threads") as response:
            assert (response.status, response.content_type) == (404, "application/problem+json")
        async with gateway.client.get(gateway.url + "/v1/chat/completions") as response:
            assert response.status == 405
    assert [(item["id"], item["object"], item["genealog"]["models"]) for item in listing["data"]] == [
        (NAME, "model", [MODEL, ADAPTER])
    ]
    assert gateway.calls() == []


async def test_what_is_deployed_is_shown_to_those_who_may_call(tmp_path: Path) -> None:
    class Nobody(Claimed):
        def authenticate(self, _request: object) -> NotAuthenticated:
            return NotAuthenticated("principal-missing", "nobody is known here")

    source = FakeSource()
    async with running(tmp_path, source, admission=Nobody()) as gateway:
        source.deploy(NAME, spec("http://127.0.0.1:1"))
        await gateway.directory.renew()
        for path in ("/v1/models", f"/v1/models/{NAME}", "/api/tags", "/v1beta/models"):
            async with gateway.client.get(gateway.url + path) as response:
                assert response.status == 401
                assert NAME.encode() not in await response.read()
        async with gateway.client.get(gateway.url + "/healthz") as response:
            assert response.status == 200


@pytest.mark.parametrize("where", ["find", "open"])
async def test_a_mistake_of_ours_ends_the_call_on_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    async def broken(*_: object, **__: object) -> NoReturn:
        raise KeyError(SECRET)

    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        if where == "open":
            monkeypatch.setattr(gateway.plane.parts.pool, "open", broken)
        else:
            monkeypatch.setattr(gateway.directory, "find", broken)
        status, _, body = await gateway.ask(chat())
        assert (status, json.loads(body)["code"]) == (503, "gateway-failed")
        _, outcome = gateway.last()
    assert (outcome.finish, outcome.error) == ("unknown", "gateway-failed")
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text


async def test_drain_finishes_what_runs(tmp_path: Path) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire, call: Asked) -> None:
        asked.set()
        await go_on.wait()
        await stream(events())(wire, call)

    source = FakeSource()
    async with FakeUpstream(script) as upstream:
        async with running(tmp_path, source) as gateway:
            source.deploy(NAME, spec(upstream.url))
            reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
            body = chat(stream=True)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            await asked.wait()
            asyncio.get_running_loop().call_later(0.3, go_on.set)  # well after the gateway was told to stop
        answer = await reader.read()
        writer.close()
    assert b"[DONE]" in answer
    assert answer.endswith(b"0\r\n\r\n")
    assert gateway.last()[1].finish == "complete"


async def test_drain_cuts_what_takes_too_long(tmp_path: Path) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(b": one\n\n")
        await wire.gone.wait()

    source = FakeSource()
    async with FakeUpstream(script) as upstream:
        async with running(tmp_path, source, drain=0.2) as gateway:
            source.deploy(NAME, spec(upstream.url))
            reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
            body = chat(stream=True)
            writer.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            await reader.readuntil(b": one\n\n")
        assert not (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()
    _, outcome = gateway.last()
    assert (outcome.finish, outcome.error, outcome.delivered) == ("unknown", "gateway-stopped", 7)


async def test_an_answer_too_big_to_hold_passes_in_pieces(tmp_path: Path) -> None:
    source = FakeSource()
    chunks = [b": " + b"x" * 600 + b"\n\n"] * 3
    async with FakeUpstream(stream(chunks)) as upstream, running(tmp_path, source, hold=1_000) as gateway:
        source.deploy(NAME, spec(upstream.url))
        _, _, body = await gateway.ask(chat(stream=True))
        intent, outcome = gateway.last()
        kept = [frame for frame in spooled(tmp_path) if isinstance(frame, Piece)]
    assert body == b"".join(chunks)
    assert outcome.whole == Whole(size=len(body), sha256=sha256_hex(body), kept=True)
    assert b"".join(piece.data for piece in kept) + outcome.response == body
    assert (outcome.finish, outcome.delivered, {piece.call for piece in kept}) == (
        "complete", len(body), {intent.call}
    )  # fmt: skip


async def test_a_slow_client_slows_the_upstream(tmp_path: Path) -> None:
    chunk, count = b": " + b"x" * 65_000 + b"\n\n", 450
    stalled = asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        for _ in range(count):
            sending = asyncio.ensure_future(wire.chunk(chunk))
            if not (await asyncio.wait([sending], timeout=1))[0]:
                stalled.set()
            await sending
        await wire.end()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        async with gateway.client.post(gateway.url + "/v1/chat/completions", data=chat(stream=True)) as response:
            await asyncio.wait_for(stalled.wait(), 20)
            assert await response.read() == chunk * count
        assert gateway.last()[1].finish == "complete"


@pytest.mark.parametrize("begin", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nX"])
async def test_a_head_that_does_not_end_is_not_waited_for(tmp_path: Path, begin: bytes) -> None:
    source = FakeSource()
    limits = Limits(head_time=0.2)
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source, limits=limits) as gateway:
        source.deploy(NAME, spec(upstream.url))
        address = urlsplit(gateway.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(begin)
        said = await asyncio.wait_for(reader.read(), 20)
        assert said.startswith(b"HTTP/1.1 408 ") if begin else said == b""
        writer.close()
        await writer.wait_closed()
        assert (await gateway.ask(chat()))[0] == 200

"""Every dialect through the gateway: where the name of the deployment stands, what is held back, what is listed."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, whole
from gateway.kit import NAME, FakeSource, Running, chat, running, spec

JSON = "application/json"


async def send(
    gateway: Running, path: str, body: bytes = b"{}", method: str = "POST", **headers: str
) -> tuple[int, Any, bytes]:
    sent = {"Content-Type": JSON, **{name.replace("_", "-"): value for name, value in headers.items()}}
    data = io.BytesIO(body) if body else None
    async with gateway.client.request(method, gateway.url + path, data=data, headers=sent) as response:
        return response.status, response.headers, await response.read()


CALLS = [
    ("openai-chat", "/v1/chat/completions", {"model": NAME}),
    ("openai-chat", "/openai/v1/chat/completions", {"model": NAME}),
    ("openai-chat", "/openai/deployments/prod%2Fbot/chat/completions?api-version=1", {"stream": False}),
    ("openai-completions", "/v1/completions", {"model": NAME}),
    ("openai-responses", "/v1/responses", {"model": NAME}),
    ("openai-embeddings", "/v1/embeddings", {"model": NAME}),
    ("openai-images", "/v1/images/generations", {"model": NAME}),
    ("openai-audio", "/v1/audio/speech", {"model": NAME}),
    ("anthropic-messages", "/v1/messages", {"model": NAME}),
    ("google-generate", "/v1beta/models/prod/bot:generateContent", {}),
    ("google-generate", "/v1beta/models/prod%2Fbot:streamGenerateContent?alt=sse", {}),
    ("google-embed", "/v1beta/models/prod/bot:embedContent", {}),
    ("kserve-http", "/v2/models/prod%2Fbot/versions/1/infer", {}),
    ("triton-generate", "/v2/models/prod/bot/generate_stream", {}),
    ("ollama", "/api/chat", {"model": NAME}),
    ("bedrock", "/model/prod%2Fbot/converse", {}),
]


@pytest.mark.parametrize(("dialect", "path", "body"), CALLS)
async def test_a_call_of_every_dialect_finds_its_deployment(
    tmp_path: Path, dialect: str, path: str, body: dict[str, Any]
) -> None:
    source = FakeSource()
    asked = json.dumps(body).encode()
    async with FakeUpstream(whole(b"{}")) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, _, answer = await send(gateway, path, asked)
        intent, outcome = gateway.last()
    assert (status, answer, outcome.finish) == (200, b"{}", "complete")
    assert (intent.dialect, intent.deployment, intent.operation) == (dialect, NAME, path.partition("?")[0])
    assert (intent.request, intent.content_type) == (asked, JSON)
    assert upstream.asked[0].path == path


async def test_a_path_that_nobody_knows_is_a_call_where_somebody_says_where_to(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(b"{}")) as upstream:
        async with running(tmp_path / "a", source) as gateway:
            source.deploy(NAME, spec(upstream.url))
            assert (await send(gateway, "/v1/threads"))[0] == 404
            assert (await send(gateway, "/v1/threads", Genealog_Deployment=NAME))[0] == 200
            assert (await send(gateway, "/v1/chat/completions", b"x", Genealog_Deployment=NAME))[0] == 200
            assert [intent.dialect for intent, _ in gateway.calls()] == ["opaque", "openai-chat"]
        async with running(tmp_path / "b", source, default=NAME) as gateway:
            passed = await send(gateway, "/v1/threads?limit=1", b"", "GET")
            assert passed[0] == 404  # the upstream's own word
            assert "Genealog-Call" in passed[1]
            assert (await send(gateway, "/v1/chat/completions"))[0] == 200
            assert (await send(gateway, "/v1/chat/completions", b"", "GET"))[0] == 405
            head = await send(gateway, "/file", b"", "HEAD")
            intents = [intent for intent, _ in gateway.calls()]
    assert [intent.deployment for intent in intents] == [NAME, NAME, NAME]
    assert [intent.operation for intent in intents] == ["/v1/threads", "/v1/chat/completions", "/file"]
    assert head[2] == b""


STREAMS = [
    ("/v1/messages", {"model": NAME, "stream": True}, "text/event-stream",
     [b'event: ping\ndata: {"type":"ping"}\n\n', b'event: message_stop\ndata: {"type":"message_stop"}\n\n']),
    ("/v1/responses", {"model": NAME, "stream": True}, "text/event-stream",
     [b"event: response.created\ndata: {}\n\n", b"event: response.completed\ndata: {}\n\n"]),
    ("/v1beta/models/prod/bot:streamGenerateContent", {}, "text/event-stream",
     [b'data: {"candidates": [{}]}\r\n\r\n', b'data: {"candidates": [{"finishReason": "STOP"}]}\r\n\r\n']),
    ("/api/chat", {"model": NAME}, "application/x-ndjson", [b'{"done":false}\n', b'{"done":true}\n']),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "kind", "events"), STREAMS)
async def test_the_last_event_waits_and_no_other(
    tmp_path: Path, path: str, body: dict[str, Any], kind: str, events: list[bytes]
) -> None:
    last = asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type=kind, Transfer_Encoding="chunked")
        for event in events:
            await wire.chunk(event)
        await last.wait()
        await wire.end()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        async with gateway.client.post(gateway.url + path, data=json.dumps(body).encode()) as response:
            early = await response.content.readany()
            with pytest.raises(TimeoutError):
                early += await asyncio.wait_for(response.content.readany(), 0.1)
            assert events[0] in early + b"{}"
            assert len(early) < len(b"".join(events)) - 4
            assert gateway.calls()[-1][1] is None
            last.set()
            assert early + await response.read() == b"".join(events)
        assert gateway.last()[1].finish == "complete"
    assert upstream.asked[0].header("Accept-Encoding") == "identity"


async def test_what_is_deployed_is_listed_in_the_shape_of_each_client(tmp_path: Path) -> None:
    source = FakeSource()
    async with running(tmp_path, source) as gateway:
        source.deploy(NAME, spec("http://127.0.0.1:1"))
        await gateway.directory.renew()

        async def get(path: str, **headers: str) -> Any:
            status, _, body = await send(gateway, path, b"", "GET", **headers)
            assert status == 200
            return json.loads(body) if body else None

        assert (await get("/v1/models"))["data"][0]["id"] == NAME
        assert (await get("/v1/models/prod%2Fbot"))["object"] == "model"
        assert (await get("/v1/models", Anthropic_Version="2023-06-01"))["first_id"] == NAME
        assert (await get("/v1beta/models"))["models"][0]["name"] == "models/prod/bot"
        assert (await get("/api/tags"))["models"][0]["model"] == NAME
        assert await get("/v2/health/live") is None
        assert await get("/v2/health/ready") is None
        assert gateway.calls() == []


async def test_headers_on_record_are_those_that_somebody_asked_for(tmp_path: Path) -> None:
    source = FakeSource()
    wanted = {
        "record_headers": frozenset((b"x-team",)),
        "record_response_headers": frozenset((b"x-cost",)),
    }
    script = whole(completion(), X_Cost="7", X_Request_Id="r1", Set_Cookie="secret")
    async with FakeUpstream(script) as upstream, running(tmp_path, source, **wanted) as gateway:
        source.deploy(NAME, spec(upstream.url))
        await gateway.ask(chat(), X_Team="blue", X_Other="red")
        intent, outcome = gateway.last()
    assert intent.headers["x-team"] == "blue"
    assert "x-other" not in intent.headers
    assert outcome.headers == {"x-cost": "7", "x-request-id": "r1"}
    assert outcome.first_byte_at is not None
    assert intent.called_at <= outcome.first_byte_at <= outcome.ended_at

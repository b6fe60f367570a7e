"""The data plane against scripted upstreams: what goes through, what is refused, what is on record.

Long because each way a call can go wrong is one short test, and a reader looks for all of them in one place.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Script, Wire, completion, events, stream, whole
from gateway.kit import ADAPTER, MODEL, NAME, FakeSource, chat, running, spec
from genealog.errors import StoreError
from genealog.gateway.asking import Asking
from genealog.gateway.exchange import Exchange


async def test_whole_answer_passes_verbatim_and_is_on_record(tmp_path: Path) -> None:
    answer = completion()
    source = FakeSource()
    async with FakeUpstream(whole(answer, X_Request_Id="r1")) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        request = chat(temperature=0.20) + b"\n"
        status, headers, body = await gateway.ask(request, Authorization="Bearer sk-secret", Genealog_Tenant="acme")
        intent, outcome = gateway.last()
    assert (status, body) == (200, answer)
    assert headers["X-Request-Id"] == "r1"
    assert headers["Genealog-Call"] == intent.call
    assert headers["Genealog-Model"] == f"{MODEL},{ADAPTER}"
    assert headers["Genealog-Assurance"] == "A0"
    assert upstream.asked[0].body == intent.request == request
    assert upstream.asked[0].header("Authorization") == "Bearer sk-secret"
    assert upstream.asked[0].header("Genealog-Call") == intent.call
    assert upstream.asked[0].header("Genealog-Tenant") is None
    assert (intent.deployment, intent.models, intent.bound) == (NAME, (MODEL, ADAPTER), "A0")
    assert intent.who == {"tenant": "acme", "how": "claimed"}
    assert (outcome.finish, outcome.status, outcome.response) == ("complete", 200, answer)
    assert (outcome.delivered, outcome.assurance, outcome.error) == (len(answer), "A0", None)


@pytest.mark.parametrize("script", [whole(completion()), stream(events()), whole(b"{}", 500)])
async def test_what_a_call_leaves_dies_by_its_count(tmp_path: Path, script: Script) -> None:
    """Bodies do not wait for a search for cycles: that would be seldom, and slow."""
    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        await gateway.ask(chat())
        gc.collect()
        gc.disable()
        try:
            await gateway.ask(chat())
            left = [kind for each in gc.get_objects() if (kind := type(each)) in (Asking, Exchange)]  # asks no object
            assert not left
        finally:
            gc.enable()


async def test_stream_passes_verbatim_with_comments_and_white_space(tmp_path: Path) -> None:
    chunks = events(("Hel", "lo"))
    source = FakeSource()
    async with FakeUpstream(stream(chunks)) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, headers, body = await gateway.ask(chat(stream=True), Accept_Encoding="gzip")
        _, outcome = gateway.last()
    assert (status, body) == (200, b"".join(chunks))
    assert headers["Content-Type"] == "text/event-stream"
    assert (outcome.finish, outcome.response) == ("complete", body)
    assert upstream.asked[0].header("Accept-Encoding") == "identity"


async def test_compressed_answer_is_not_touched(tmp_path: Path) -> None:
    packed = gzip.compress(completion(model="m-2026-01-01"), mtime=0)
    source = FakeSource()
    async with FakeUpstream(whole(packed, Content_Encoding="gzip")) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        _, headers, body = await gateway.ask(chat(), Accept_Encoding="gzip")
        _, outcome = gateway.last()
    assert body == packed
    assert headers["Content-Encoding"] == "gzip"
    assert upstream.asked[0].header("Accept-Encoding") == "gzip"
    assert (outcome.response, outcome.content_encoding, outcome.assurance) == (packed, "gzip", "A1")


async def test_answer_of_unknown_length_passes(tmp_path: Path) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="application/json", Transfer_Encoding="chunked", Connection="X-Odd", X_Odd="1")
        for piece in (b'{"a"', b":1}", b"\n"):
            await wire.chunk(piece)
        await wire.end()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        _, headers, body = await gateway.ask(chat())
        _, outcome = gateway.last()
    assert body == outcome.response == b'{"a":1}\n'
    assert "X-Odd" not in headers


async def test_empty_answer_has_an_outcome_before_its_head(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(b"", 200)) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, _, body = await gateway.ask(chat())
        assert gateway.last()[1].finish == "complete"
    assert (status, body) == (200, b"")


@pytest.mark.parametrize("streaming", [True, False])
async def test_the_end_waits_for_the_outcome_and_nothing_else_does(tmp_path: Path, streaming: bool) -> None:
    """The client has every byte but the end while the upstream lingers, and the outcome is there when the end comes."""
    last = asyncio.Event()
    pieces = events(("Hel", "lo")) if streaming else [b'{"a":', b" 1}"]

    async def script(wire: Wire, _: Asked) -> None:
        if streaming:
            await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
            for piece in pieces[:-1]:
                await wire.chunk(piece)
            await wire.chunk(pieces[-1])  # [DONE] is out, the end of the body is not
            await last.wait()
            await wire.end()
        else:
            await wire.head(Content_Type="application/json", Content_Length=str(sum(map(len, pieces))))
            await wire.raw(pieces[0])
            await last.wait()
            await wire.raw(pieces[1])

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        address = gateway.url + "/v1/chat/completions"
        async with gateway.client.post(address, data=chat(stream=streaming)) as response:
            early = await response.content.readexactly(len(b"".join(pieces[:-1])))
            assert early == b"".join(pieces[:-1])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(response.content.readany(), 0.1)
            assert gateway.calls()[-1][1] is None
            last.set()
            assert await response.content.readany()
            assert gateway.last()[1].finish == "complete"


@pytest.mark.parametrize("streaming", [True, False])
async def test_upstream_that_dies_is_never_a_clean_end(tmp_path: Path, streaming: bool) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        if streaming:
            await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
            await wire.chunk(events()[1])
        else:
            await wire.head(Content_Type="application/json", Content_Length="1000")
            await wire.raw(b'{"a":')
        await arrived.wait()
        wire.die()

    arrived = asyncio.Event()
    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        address = gateway.url + "/v1/chat/completions"
        async with gateway.client.post(address, data=chat(stream=streaming)) as response:
            seen = await response.content.readany()
            arrived.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        _, outcome = gateway.last()
    assert (outcome.finish, outcome.error, outcome.status) == ("upstream_error", "upstream-died", 200)
    assert outcome.response == seen
    assert outcome.delivered == len(seen)


async def test_upstream_that_dies_before_a_byte_went_on_is_a_502(tmp_path: Path) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        wire.die()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, headers, body = await gateway.ask(chat())
        intent, outcome = gateway.last()
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-unreachable")
    assert headers["Genealog-Call"] == intent.call
    assert (outcome.finish, outcome.status) == ("upstream_error", None)


async def test_server_error_of_the_upstream_passes_verbatim(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(b"oh  no", 500, Retry_After="7")) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, headers, body = await gateway.ask(chat())
        _, outcome = gateway.last()
    assert (status, body, headers["Retry-After"]) == (500, b"oh  no", "7")
    assert (outcome.finish, outcome.status, outcome.response) == ("upstream_error", 500, b"oh  no")


async def test_redirect_is_passed_on_and_not_followed(tmp_path: Path) -> None:
    source = FakeSource()
    script = whole(b"", 307, Location="http://127.0.0.1:1/elsewhere")
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        address = gateway.url + "/v1/chat/completions"
        async with gateway.client.post(address, data=chat(), allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (307, "http://127.0.0.1:1/elsewhere")


async def test_client_that_hangs_up_stops_the_upstream(tmp_path: Path) -> None:
    stopped = asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(b": one\n\n")
        await wire.chunk(b": two\n\n")
        await wire.gone.wait()
        stopped.set()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        async with gateway.client.post(gateway.url + "/v1/chat/completions", data=chat(stream=True)) as response:
            await response.content.readexactly(len(b": one\n\n: two\n\n"))
            response.close()
        await asyncio.wait_for(stopped.wait(), 5)
        _, outcome = gateway.last()
    assert (outcome.finish, outcome.error) == ("client_abandoned", "client-gone")
    assert (outcome.response, outcome.delivered, outcome.status) == (b": one\n\n: two\n\n", 14, 200)


async def test_client_that_hangs_up_before_the_answer_stops_the_upstream(tmp_path: Path) -> None:
    asked, stopped = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        asked.set()
        await wire.gone.wait()
        stopped.set()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        asking = asyncio.create_task(gateway.ask(chat()))
        await asked.wait()
        asking.cancel()
        await asyncio.wait_for(stopped.wait(), 5)
        _, outcome = gateway.last()
    assert (outcome.finish, outcome.status, outcome.response) == ("client_abandoned", None, b"")


async def test_unreachable_upstream(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(b"")) as upstream:
        address = upstream.url
    async with running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(address))
        status, headers, body = await gateway.ask(chat())
        intent, outcome = gateway.last()
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream-unreachable")
    assert headers["Genealog-Call"] == intent.call
    assert (outcome.finish, outcome.error, outcome.response) == ("upstream_error", "upstream-unreachable", b"")


async def test_upstream_may_come_back(tmp_path: Path) -> None:
    source = FakeSource()
    upstream = FakeUpstream(whole(completion()))
    async with running(tmp_path, source) as gateway:
        await upstream.start()
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(chat()))[0] == 200
        await upstream.stop()
        assert (await gateway.ask(chat()))[0] == 502
        await upstream.start()
        assert (await gateway.ask(chat()))[0] == 200
        await upstream.stop()
    assert [outcome.finish for _, outcome in gateway.calls() if outcome] == ["complete", "upstream_error", "complete"]


REFUSALS: list[tuple[str, int, dict[str, Any]]] = [
    ("unknown-deployment", 404, {"model": "nobody"}),
    ("model-revoked", 403, {"model": "revoked"}),
    ("model-unregistered", 403, {"model": "foreign"}),
    ("assurance-too-low", 403, {"model": "strict"}),
]


@pytest.mark.parametrize(("code", "expected", "fields"), REFUSALS)
async def test_refusal_is_on_record_and_nothing_goes_upstream(
    tmp_path: Path, code: str, expected: int, fields: dict[str, Any]
) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy("revoked", spec(upstream.url), revoked="poisoned")
        foreign = spec(upstream.url)
        source.deploy("foreign", type(foreign)(**{**_fields(foreign), "model": _other(foreign.model), "adapters": ()}))
        source.deploy("strict", spec(upstream.url, minimum_assurance="A3"))
        status, headers, body = await gateway.ask(chat(**fields))
        intent, outcome = gateway.last()
    answer = json.loads(body)
    assert (status, answer["error"]["code"], answer["code"], answer["status"]) == (expected, code, code, expected)
    assert answer["error"]["message"]
    assert answer["error"]["hint"] == answer["hint"]
    assert answer["error"]["type"] in ("permission_error", "not_found_error")
    assert headers["Genealog-Call"] == intent.call
    assert upstream.asked == []
    assert (outcome.finish, outcome.error, outcome.response, outcome.delivered) == ("refused", code, b"", 0)
    assert intent.request == chat(**fields)
    assert (intent.spec is None) == (code == "unknown-deployment")


def _fields(body: Any) -> dict[str, Any]:
    return {name: getattr(body, name) for name in body.__struct_fields__}


def _other(pinned: Any) -> Any:
    return type(pinned)(artifact="glf1:" + "9" * 64, lineage=pinned.lineage)


PACKED = gzip.compress(b"{}", mtime=0)  # the time would stand in the name of the test


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages":[]}', b'{"model":3}', b"\xff", PACKED])
async def test_malformed_request(tmp_path: Path, body: bytes) -> None:
    async with running(tmp_path, FakeSource()) as gateway:
        status, _, answer = await gateway.ask(body)
        intent, outcome = gateway.last()
    assert (status, json.loads(answer)["error"]["code"]) == (400, "malformed-json")
    assert (intent.request, intent.deployment, outcome.finish) == (body, "", "refused")


@pytest.mark.parametrize("stated", [True, False])
async def test_too_large_a_body_is_refused_and_not_kept(tmp_path: Path, stated: bool) -> None:
    async with running(tmp_path, FakeSource(), max_body=1000) as gateway:
        body = chat(padding="x" * 5000)

        async def pieces() -> Any:
            for start in range(0, len(body), 500):
                yield body[start : start + 500]

        async with gateway.client.post(
            gateway.url + "/v1/chat/completions", data=body if stated else pieces()
        ) as response:
            assert response.status == 413
            assert (await response.json(content_type=None))["error"]["code"] == "body-too-large"
        intent, outcome = gateway.last()
    assert (intent.request, outcome.finish, outcome.error) == (b"", "refused", "body-too-large")


async def test_body_at_the_limit_passes(tmp_path: Path) -> None:
    source = FakeSource()
    body = chat(padding="x" * 3_000_000)
    async with (
        FakeUpstream(whole(completion())) as upstream,
        running(tmp_path, source, max_body=len(body)) as gateway,
    ):
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(body))[0] == 200
        assert upstream.asked[0].body == gateway.last()[0].request == body


async def test_nothing_goes_upstream_that_cannot_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))

        def full(_: bytes) -> None:
            raise StoreError("spool-full", "no room to record calls")

        with monkeypatch.context() as patch:
            patch.setattr(gateway.recording._recorder._line, "sink", full)
            status, headers, body = await gateway.ask(chat())
            refused = await gateway.ask(chat(model="nobody"))
        assert (status, json.loads(body)["error"]["code"]) == (503, "spool-unwritable")
        assert int(headers["Retry-After"]) >= 1
        assert refused[0] == 503
        assert upstream.asked == []
        assert (await gateway.ask(chat()))[0] == 200


async def test_an_answer_that_cannot_be_recorded_is_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, go_on = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire, asked: Asked) -> None:
        if json.loads(asked.body).get("stream"):
            await stream(events())(wire, asked)
        else:
            seen.set()
            await go_on.wait()
            await whole(completion())(wire, asked)

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        sink = gateway.recording._recorder._line.sink

        def intents_only(payload: bytes) -> None:
            if b"genealog/outcome/v1" in payload:
                raise StoreError("spool-broken", "the disk is gone")
            sink(payload)

        monkeypatch.setattr(gateway.recording._recorder._line, "sink", intents_only)
        go_on.set()
        status, _, body = await gateway.ask(chat())
        assert (status, json.loads(body)["error"]["code"]) == (503, "spool-unwritable")
        with pytest.raises(aiohttp.ClientPayloadError):
            await gateway.ask(chat(stream=True))
        assert [outcome for _, outcome in gateway.calls()] == [None, None]


async def test_a_spool_that_broke_is_followed_by_another_boot(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(chat()))[0] == 200
        gateway.recording._spool._broken = "the disk hiccuped"
        gateway.recording._tried -= 10
        gateway.recording._looked -= 10
        first = gateway.recording.boot
        assert (await gateway.ask(chat()))[0] == 200
        assert gateway.recording.boot > first
        assert gateway.recording.emitter == "gateway-0"
        gateway.recording._spool._broken = "and again, at once"
        gateway.recording._looked -= 10
        assert (await gateway.ask(chat()))[0] == 503
        async with gateway.client.get(gateway.url + "/healthz") as response:
            assert response.status == 503
    assert len(gateway.calls()) == 2


async def test_d2_is_on_the_disk_before_anything_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    script = whole(completion())

    async def noting(wire: Wire, asked: Asked) -> None:
        order.append("upstream")
        await script(wire, asked)

    source = FakeSource()
    async with FakeUpstream(noting) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url, durability="D2"))
        sync = gateway.recording._spool.sync

        def noted() -> None:
            sync()
            order.append(f"sync {len(gateway.calls())} {gateway.calls()[-1][1] is not None}")

        monkeypatch.setattr(gateway.recording._spool, "sync", noted)
        assert (await gateway.ask(chat()))[0] == 200
        assert gateway.last()[0].durability == "D2"
    assert order == ["sync 1 False", "upstream", "sync 1 True"]

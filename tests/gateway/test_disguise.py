"""Requests that the gateway could read in one way and the upstream in another: none of them gets through."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, whole
from gateway.kit import NAME, FakeSource, Running, chat, running, spec
from gateway.test_big_bodies import Chunky
from genealog.capture.dialects.multipart import Form
from genealog.gateway import rewrite
from genealog.store.gateway_settings import Upstream

CHAT = "/v1/chat/completions"
AUDIO = "/v1/audio/transcriptions"
FORM = "multipart/form-data; boundary=b"
GIVEN = {"Genealog-Deployment": NAME}


def part(head: str, value: str) -> str:
    return f"--b\r\nContent-Disposition: form-data;{head}\r\n\r\n{value}\r\n"


async def post(gateway: Running, path: str, body: str | bytes, **headers: str) -> tuple[int, str | None]:
    data = body.encode() if isinstance(body, str) else body
    async with gateway.client.post(gateway.url + path, data=data, headers=headers) as response:
        answer = await response.read()
        return response.status, json.loads(answer).get("code")


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "evil", "model": "prod/bot"}',
        '{"model": "prod/bot", "model": "prod/bot"}',
        '{"mod\\u0065l": "evil", "model": "prod/bot"}',
        '{"model": "prod/bot", "Model": "evil"}',
        '{"model": "prod/bot", "MODEL": ["evil"]}',
        '{"M\\u006fdel": "evil", "model": "prod/bot"}',
    ],
)
@pytest.mark.parametrize("given", [{}, GIVEN])
async def test_a_body_names_one_model(tmp_path: Path, body: str, given: dict[str, str]) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        refused = await post(gateway, CHAT, body, **given)
        assert gateway.last()[1].error == "malformed-json"
        inner = '{"model": "prod/bot", "metadata": {"Model": "x", "model": "y"}, "messages": [{"model": "z"}]}'
        passed = await post(gateway, CHAT, inner, **given)
    assert (refused, passed[0], len(upstream.asked)) == ((400, "malformed-json"), 200, 1)


@pytest.mark.parametrize(
    "body",
    [
        part(' name="model"', NAME) + part(' name="model"', "evil") + "--b--\r\n",
        part(' name="model"', NAME) + "--b\r\n",
        part(' name="model"', NAME) + "--b--\r\n" + part(' name="model"', "evil"),
    ],
)
async def test_a_form_names_one_model(tmp_path: Path, body: str) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert await post(gateway, AUDIO, body, **{"Content-Type": FORM}) == (400, "malformed-form")
        assert gateway.last()[1].error == "malformed-form"
    assert upstream.asked == []


async def test_a_form_that_streams_and_names_another_model_later_gets_no_end(tmp_path: Path) -> None:
    source = FakeSource()
    file = part(' name="file"; filename="a"', "x" * 300_000)
    body = part(' name="model"', NAME) + file + part(' name="model"', "evil") + "--b--\r\n"
    async with Chunky() as upstream, running(tmp_path, source, hold=100_000) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert await post(gateway, AUDIO, body, **{"Content-Type": FORM}) == (400, "malformed-form")
        assert gateway.last()[1].error == "malformed-form"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CHAT, '{"x": {"model": "a"}, "mo\\u0064el" : "evil"}', "application/json"),
        (CHAT, '{"model": "b"}', "application/json"),
        (AUDIO, part('\t name="model"', "evil") + "--b--\r\n", FORM),
        (AUDIO, part(' name="file"; filename="; name=model"', "c") + part(' name="model"', "evil") + "--b--\r\n", FORM),
        (AUDIO, part(' name="x"', part(' name="model"', "c").replace("--b", "--c")) + part(' name="model"', "a\r\nb")
         + "--b--\r\n", FORM),
        ("/v1beta/models/models:generateContent", "{}", "application/json"),
        ("/v1beta/models/p%72od/bot:generateContent", "{}", "application/json"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("served_as", ["gpt-x", NAME])
async def test_a_header_names_the_deployment_and_its_target_the_model(
    tmp_path: Path, path: str, body: str, kind: str, served_as: str
) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url, served_as=served_as))
        assert (await post(gateway, path, body, **GIVEN, **{"Content-Type": kind}))[0] == 200
    (asked,) = upstream.asked
    if kind == FORM:
        form = Form(FORM)
        form.feed(asked.body)
        assert form.model == served_as
        assert b"evil" not in asked.body
    elif path == CHAT:
        assert json.loads(asked.body)["model"] == served_as
    else:
        assert asked.path == f"/v1beta/models/{served_as}:generateContent"


@pytest.mark.parametrize(
    "body", ['{"model": "evil"}'.encode("utf-16"), b"\xef\xbb\xbf" + b'{"model": "evil"}', b"\x1f\x8b"]
)
async def test_a_model_that_cannot_be_found_cannot_be_replaced(tmp_path: Path, body: bytes) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url, served_as="gpt-x"))
        assert await post(gateway, CHAT, body, **GIVEN) == (400, "malformed-json")
    assert upstream.asked == []


def test_a_million_brackets_cost_no_seconds() -> None:
    body = b'{"model":"a","x":[' + b"[]," * 1_000_000 + b"1]}"
    began = time.process_time()
    assert rewrite.in_json(body, "b")[:12] == b'{"model":"b"'
    assert time.process_time() - began < 0.3


async def test_a_call_that_waits_is_not_made_once_its_model_is_revoked(tmp_path: Path) -> None:
    source = FakeSource()

    async def fails(wire: Wire, _: Asked) -> None:
        source.deploy(NAME, body, revoked="poisoned")
        await asyncio.sleep(0.2)
        await wire.head(503, Content_Length="0")

    async with FakeUpstream(fails) as upstream, running(tmp_path, source) as gateway:
        body = spec(upstream.url, attempts=3)
        source.deploy(NAME, body)
        status, _, answer = await gateway.ask(chat())
    assert (status, json.loads(answer)["code"], len(upstream.asked)) == (403, "revoked-while-serving", 1)


@pytest.mark.parametrize("path", ["/v1/../admin", "/genealog/v1/load", "/v1/chat/completion%73"])
async def test_a_path_with_two_meanings_is_refused(tmp_path: Path, path: str) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url + "/base"))
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nGenealog-Deployment: {NAME}\r\nContent-Length: 0\r\n\r\n".encode()
        )
        answer = await reader.readuntil(b"\r\n\r\n")
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert upstream.asked == []


async def test_the_gateways_key_stands_alone_in_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_KEY", "ours")
    source = FakeSource()
    section = Upstream(header="X-Vendor", secret="env:VENDOR_KEY")
    async with (
        FakeUpstream(whole(completion())) as upstream,
        running(tmp_path, source, upstreams={"vendor": section}) as gateway,
    ):
        source.deploy(NAME, spec(upstream.url, credentials="vendor"))
        await gateway.ask(chat(), X_Vendor="theirs")
    assert upstream.asked[0].header("X-Vendor") == "ours"

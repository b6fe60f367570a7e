"""The vendors' own clients through a real gateway: bytes pass unchanged, and what is on record is what they got.

Their clouds are fakes that speak their wire format; the gateway is a process; a tap sees every byte of an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import anthropic
import boto3
import httpx
import ollama
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from gateway import fake_anthropic, fake_bedrock, fake_google, fake_ollama
from gateway.fake_upstream import Asked, FakeUpstream, Script, Wire
from gateway.processes import NAME, Process, make_store, on_record
from gateway.tap import Got, Tap
from genealog.capture.dialects import reader
from genealog.core.call_groups import EngineGroup, RequestGroup, ResponseGroup, UsageGroup
from genealog.core.canonical import decode
from genealog.gateway.routes import route
from genealog.store.home import Home

ASK: Any = [{"role": "user", "content": "How many people live in Paris?"}]
CONVERSE: Any = [{"role": "user", "content": [{"text": "How many people live in Paris?"}]}]


@dataclass(frozen=True)
class Said:
    """What a client says that it got: texts, and tokens in and out. An error has neither."""

    texts: tuple[str, ...] = ()
    tokens: tuple[int | None, int | None] | None = None
    failed: bool = False


ERROR = Said(failed=True)


# What each client is asked to do, one call after the other


def _anthropic(client: Any) -> list[Said]:
    asked: dict[str, Any] = {"model": NAME, "max_tokens": 64, "messages": ASK}
    said = [_message(client.messages.create(**asked))]
    with client.messages.stream(**asked) as stream:
        said.append(_message(stream.get_final_message()))
    with pytest.raises(anthropic.APIStatusError):
        client.messages.create(**asked, system="fail")
    return [*said, ERROR]


def _message(message: Any) -> Said:
    usage = message.usage
    prompt = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    texts = tuple(block.text for block in message.content if block.type == "text")
    return Said(texts, (prompt, usage.output_tokens))


def ask_anthropic(url: str) -> list[Said]:
    with anthropic.Anthropic(api_key="sk-hidden", base_url=url, max_retries=0) as client:
        said = _anthropic(client)
        with pytest.raises(anthropic.APIStatusError):
            list(client.messages.create(model=NAME, max_tokens=64, messages=ASK, system="fail", stream=True))
        return [*said, ERROR]


def ask_anthropic_vertex(url: str) -> list[Said]:
    with anthropic.AnthropicVertex(
        region="eu", project_id="p", access_token="sk-hidden", base_url=url + "/v1", max_retries=0
    ) as client:
        return _anthropic(client)


def ask_anthropic_bedrock(url: str) -> list[Said]:
    with anthropic.AnthropicBedrock(
        aws_region="eu-central-1", aws_access_key="k", aws_secret_key="sk-hidden", base_url=url, max_retries=0
    ) as client:
        return _anthropic(client)


def _google(client: Any) -> list[Said]:
    said = [_generated([client.models.generate_content(model=NAME, contents="Hi")])]
    said.append(_generated(list(client.models.generate_content_stream(model=NAME, contents="Hi"))))
    vectors = client.models.embed_content(model=NAME, contents=["a", "b"])
    assert [one.values for one in vectors.embeddings] == fake_google.VALUES
    said.append(Said())
    fails = types.GenerateContentConfig(system_instruction="fail")
    with pytest.raises(errors.APIError):
        client.models.generate_content(model=NAME, contents="Hi", config=fails)
    with pytest.raises(errors.APIError):
        list(client.models.generate_content_stream(model=NAME, contents="Hi", config=fails))
    return [*said, ERROR, ERROR]


def _generated(pieces: list[Any]) -> Said:
    parts = [part for piece in pieces for part in piece.candidates[0].content.parts or ()]
    usage = pieces[-1].usage_metadata
    text = "".join(part.text or "" for part in parts if not part.thought)
    prompt = usage.prompt_token_count + usage.tool_use_prompt_token_count
    return Said((text,), (prompt, usage.candidates_token_count + usage.thoughts_token_count))


def ask_google(url: str) -> list[Said]:
    with genai.Client(api_key="sk-hidden", http_options=types.HttpOptions(base_url=url)) as client:
        return _google(client)


def ask_vertex(url: str) -> list[Said]:
    with genai.Client(
        vertexai=True, project="p", location="eu", credentials=Credentials("sk-hidden"),
        http_options=types.HttpOptions(base_url=url),
    ) as client:  # fmt: skip
        return _google(client)


def ask_google_for_an_array(url: str) -> list[Said]:
    """As curl does that follows Google's documentation, without `alt=sse`."""
    body = {"contents": [{"parts": [{"text": "Hi"}]}]}
    path = f"{url}/v1beta/models/{NAME}:streamGenerateContent?key=sk-hidden"
    pieces = [types.GenerateContentResponse.model_validate(piece) for piece in httpx.post(path, json=body).json()]
    return [_generated(pieces)]


def ask_boto3(url: str) -> list[Said]:
    client = boto3.client(
        "bedrock-runtime", region_name="eu-central-1", endpoint_url=url, aws_access_key_id="k",
        aws_secret_access_key="sk-hidden", config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip
    try:
        return list(_boto3(client))
    finally:
        client.close()


def _boto3(client: Any) -> Iterator[Said]:
    whole = client.converse(modelId=NAME, messages=CONVERSE)
    blocks = whole["output"]["message"]["content"]
    cited = [one["text"] for block in blocks for one in block.get("citationsContent", {}).get("content", ())]
    yield Said((*(block["text"] for block in blocks if "text" in block), *cited), _used(whole["usage"]))
    with closing(client.converse_stream(modelId=NAME, messages=CONVERSE)["stream"]) as stream:
        events = list(stream)
    texts: dict[int, str] = {}
    for event in events:
        delta = event.get("contentBlockDelta", {})
        if "text" in delta.get("delta", {}):
            texts[delta["contentBlockIndex"]] = texts.get(delta["contentBlockIndex"], "") + delta["delta"]["text"]
    yield Said(tuple(texts.values()), _used(events[-1]["metadata"]["usage"]))
    asked = json.dumps({"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": ASK})
    with closing(client.invoke_model(modelId=NAME, body=asked)["body"]) as whole_body:
        body = whole_body.read()
    yield _message(anthropic.types.Message.model_validate_json(body))
    with closing(client.invoke_model_with_response_stream(modelId=NAME, body=asked)["body"]) as stream:
        chunks = list(stream)
    assert len(chunks) == len(fake_bedrock.anthropic_chunks(fake_anthropic.rich()))
    yield Said((fake_anthropic.TEXT,), (23, 42))
    fails: Any = [{"role": "user", "content": [{"text": "fail"}]}]
    with pytest.raises(ClientError, match="ValidationException"):
        client.converse(modelId=NAME, messages=fails)
    yield ERROR
    with (
        closing(client.converse_stream(modelId=NAME, messages=fails)["stream"]) as stream,
        pytest.raises(EventStreamError),
    ):
        list(stream)
    yield ERROR


def _used(usage: dict[str, Any]) -> tuple[int, int]:
    prompt = usage["inputTokens"] + usage["cacheReadInputTokens"] + usage["cacheWriteInputTokens"]
    return prompt, usage["outputTokens"]


def ask_ollama(url: str) -> list[Said]:
    with ollama.Client(host=url) as client:
        return list(_ollama(client))


def _ollama(client: ollama.Client) -> Iterator[Said]:
    for ask in (client.chat, client.generate):
        what: dict[str, Any] = {"messages": ASK} if ask == client.chat else {"prompt": "Hi"}
        whole = ask(model=NAME, **what)
        pieces = list(ask(model=NAME, stream=True, **what))
        for parts in ([whole], pieces):
            text = "".join(part.message.content if "message" in part else part.response for part in parts)
            yield Said((text,), (parts[-1].prompt_eval_count, parts[-1].eval_count))
    vectors = client.embed(model=NAME, input=["a", "b"])
    assert vectors.embeddings == fake_ollama.VECTORS
    yield Said((), (vectors.prompt_eval_count, None))
    with pytest.raises(ollama.ResponseError):
        client.generate(model=NAME, prompt="fail")
    yield ERROR


VENDORS: dict[str, tuple[Script, Callable[[str], list[Said]]]] = {
    "anthropic": (fake_anthropic.script, ask_anthropic),
    "anthropic in vertex": (fake_anthropic.script, ask_anthropic_vertex),
    "anthropic in bedrock": (fake_bedrock.script, ask_anthropic_bedrock),
    "google": (fake_google.script, ask_google),
    "google vertex": (fake_google.script, ask_vertex),
    "google as an array": (fake_google.script, ask_google_for_an_array),
    "bedrock": (fake_bedrock.script, ask_boto3),
    "ollama": (fake_ollama.script, ask_ollama),
}


@pytest.mark.parametrize("vendor", VENDORS)
async def test_bytes_pass_and_the_record_is_what_the_client_got(tmp_path: Path, vendor: str) -> None:
    script, ask = VENDORS[vendor]
    async with FakeUpstream(script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            said = await asyncio.to_thread(ask, tap.url)
            assert await gateway.stop() == 0
    sent = {
        asked.header("Genealog-Call"): wire.body for asked, wire in zip(upstream.asked, upstream.wires, strict=True)
    }
    calls = on_record(store)
    assert len(said) == len(tap.got) == len(sent) == len(calls)
    home = Home.open(store)
    try:
        for got, one, asked in zip(tap.got, said, upstream.asked, strict=True):
            assert got.ended
            assert got.body == sent[got.call]
            (found,) = calls[got.call]
            assert found.request == asked.body
            assert found.response == got.body
            assert found.leaf.finish == ("complete" if got.status < 500 else "upstream_error")
            _check(home, got, one, asked)
    finally:
        home.close()
    assert b"sk-hidden" not in b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())


def _check(home: Home, got: Got, said: Said, asked: Asked) -> None:
    """Compute each commitment again, from what the client got and from what it says that it got."""
    groups = {name: body for name, (_, body) in home.vault.get_groups(got.call).items()}
    response, usage = decode(groups["response"], ResponseGroup), decode(groups["usage"], UsageGroup)
    found = route("POST", asked.path.partition("?")[0])
    read = reader(found.dialect)
    assert read is not None
    facts = read.read_response(
        got.body, operation=found.operation, status=got.status, content_type=got.headers["content-type"],
        content_encoding=None,
    )  # fmt: skip
    assert response.wire == sha256(got.body).hexdigest()
    assert response.content == (sha256(facts.content).hexdigest() if facts.content is not None else None)
    assert (response.status, response.malformed) == (got.status, None)
    assert decode(groups["request"], RequestGroup).wire == sha256(asked.body).hexdigest()
    assert decode(groups["request"], RequestGroup).malformed is None
    assert decode(groups["engine"], EngineGroup).model == facts.model
    assert (response.error is not None) == said.failed
    if not said.failed:
        assert sorted(response.text) == sorted(sha256(text.encode()).hexdigest() for text in said.texts)
        assert response.content is not None
        if said.tokens is not None:
            assert (usage.prompt_tokens, usage.completion_tokens) == said.tokens
            assert usage.source == "provider"


# A client that goes away in the middle


def _first(stream: Any, close: Callable[[], None]) -> None:
    next(iter(stream))
    close()


def leave_anthropic(url: str) -> None:
    with anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as client:
        stream = client.messages.create(model=NAME, max_tokens=64, messages=ASK, stream=True)
        _first(stream, stream.close)


def leave_google(url: str) -> None:
    with genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url)) as client:
        stream = client.models.generate_content_stream(model=NAME, contents="Hi")
        _first(stream, stream.close)  # type: ignore[attr-defined]


def leave_boto3(url: str) -> None:
    client = boto3.client(
        "bedrock-runtime", region_name="eu-central-1", endpoint_url=url, aws_access_key_id="k",
        aws_secret_access_key="s", config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip
    stream = client.converse_stream(modelId=NAME, messages=CONVERSE)["stream"]
    _first(stream, stream.close)
    client.close()


def leave_ollama(url: str) -> None:
    with ollama.Client(host=url) as client:
        stream = client.chat(model=NAME, messages=ASK, stream=True)
        _first(stream, stream.close)  # type: ignore[attr-defined]


LEAVING: dict[str, tuple[list[bytes], str, Callable[[str], None]]] = {
    "anthropic": (fake_anthropic.stream(), "text/event-stream", leave_anthropic),
    "google": (fake_google.as_events(fake_google.items(fake_google.rich())), "text/event-stream", leave_google),
    "bedrock": (fake_bedrock.stream(), fake_bedrock.FRAMES, leave_boto3),
    "ollama": (fake_ollama.lines(fake_ollama.chat_items()), "application/x-ndjson", leave_ollama),
}


@pytest.mark.parametrize("vendor", LEAVING)
async def test_a_client_that_leaves_in_the_middle_is_on_record(tmp_path: Path, vendor: str) -> None:
    pieces, kind, leave = LEAVING[vendor]

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type=kind, Transfer_Encoding="chunked")
        for piece in pieces[:6]:
            await wire.chunk(piece)
        await wire.gone.wait()

    async with FakeUpstream(script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            await asyncio.to_thread(leave, tap.url)
            async with asyncio.timeout(10):
                await upstream.wires[0].gone.wait()
            assert await gateway.stop() == 0
    (got,) = tap.got
    ((found,),) = on_record(store).values()
    assert not got.ended
    assert found.leaf.finish == "client_abandoned"
    assert found.response is not None
    assert b"".join(pieces[:6]).startswith(found.response)
    assert found.response.startswith(got.body)
    assert got.body

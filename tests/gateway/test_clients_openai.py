"""The real OpenAI client, and Azure's, through a real gateway: every operation, bytes untouched, its record true."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import openai_samples as samples
from gateway import fake_openai
from gateway.fake_upstream import FakeUpstream
from gateway.processes import NAME, Process, make_store, on_record
from genealog.capture.dialects import reader
from genealog.core.ids import seal
from genealog.ledger import Ledger
from genealog.store.home import Home

Client = openai.AsyncOpenAI
Use = Callable[[Client], Awaitable[str]]


@dataclass
class Heard:
    """One answer as it reached the client."""

    path: str
    status: int
    call: str
    content_type: str
    body: bytearray = field(default_factory=bytearray)


class Ears(httpx2.AsyncHTTPTransport):
    """The client's own transport, which keeps the bytes that came."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Heard] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, and listen."""
        response = await super().handle_async_request(request)
        heard = Heard(
            request.url.raw_path.decode(), response.status_code, response.headers.get("Genealog-Call", ""),
            response.headers.get("Content-Type", ""),
        )  # fmt: skip
        self.heard.append(heard)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Listening(response.stream, heard)
        return response


class _Listening(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, heard: Heard) -> None:
        self.stream = stream
        self.heard = heard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self.stream:
            self.heard.body += data
            yield data

    async def aclose(self) -> None:
        await self.stream.aclose()


ASK: list[Any] = [{"role": "user", "content": "Where is Paris?"}]
SOUND = ("speech.wav", samples.WAV, "audio/wav")


async def _chat(ai: Client) -> str:
    said = await ai.chat.completions.create(model=NAME, messages=ASK)
    return said.choices[0].message.content or ""


async def _chat_stream(ai: Client) -> str:
    stream = await ai.chat.completions.create(
        model=NAME, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])


async def _completions(ai: Client) -> str:
    said = await ai.completions.create(model=NAME, prompt=["Where is Paris?", "b"])
    return said.choices[0].text


async def _completions_stream(ai: Client) -> str:
    stream = await ai.completions.create(model=NAME, prompt="Where?", stream=True)
    return "".join([chunk.choices[0].text async for chunk in stream if chunk.choices and not chunk.choices[0].index])


async def _responses(ai: Client) -> str:
    return (await ai.responses.create(model=NAME, input="Where is Paris?")).output_text


async def _responses_stream(ai: Client) -> str:
    async with ai.responses.stream(model=NAME, input="Where is Paris?") as stream:
        return (await stream.get_final_response()).output_text


async def _embeddings(ai: Client) -> str:
    said = await ai.embeddings.create(model=NAME, input=["a", "b"])  # the client asks for base64 by itself
    assert [tuple(found.embedding) for found in said.data] != []
    return ""


async def _embeddings_float(ai: Client) -> str:
    said = await ai.embeddings.create(model=NAME, input="a", encoding_format="float")
    assert said.data[0].embedding == list(samples.VECTORS[0])
    return ""


async def _image(ai: Client) -> str:
    said = await ai.images.generate(model=NAME, prompt="A hat.")
    assert said.data is not None
    assert said.data[0].b64_json == samples.b64(samples.PNG)
    return ""


async def _image_stream(ai: Client) -> str:
    stream = await ai.images.generate(model=NAME, prompt="A hat.", stream=True, partial_images=1)
    assert [event.type async for event in stream] == ["image_generation.partial_image", "image_generation.completed"]
    return ""


async def _edit(ai: Client) -> str:
    files = [("a.png", samples.PNG, "image/png"), ("b.png", b"B", "image/png")]
    said = await ai.images.edit(model=NAME, image=files, mask=("m.png", b"M", "image/png"), prompt="A hat.")  # type: ignore[arg-type]
    assert said.usage is not None
    return ""


async def _edit_stream(ai: Client) -> str:
    stream = await ai.images.edit(model=NAME, image=("a.png", samples.PNG, "image/png"), prompt="A hat.", stream=True)
    assert [event.type async for event in stream][-1] == "image_edit.completed"
    return ""


async def _variation(ai: Client) -> str:
    with pytest.deprecated_call():
        await ai.images.create_variation(model=NAME, image=("a.png", samples.PNG, "image/png"))
    return ""


async def _speech(ai: Client) -> str:
    said = await ai.audio.speech.create(model=NAME, voice="alloy", input="Hello.")
    assert said.content == samples.WAV
    return ""


async def _speech_stream(ai: Client) -> str:
    async with ai.audio.speech.with_streaming_response.create(
        model=NAME, voice="alloy", input="Hello.", stream_format="sse"
    ) as said:
        assert b"speech.audio.delta" in await said.read()
    return ""


async def _transcribe(ai: Client) -> str:
    return (await ai.audio.transcriptions.create(model=NAME, file=SOUND)).text


async def _transcribe_verbose(ai: Client) -> str:
    said = await ai.audio.transcriptions.create(model=NAME, file=SOUND, response_format="verbose_json")
    return said.text


async def _transcribe_stream(ai: Client) -> str:
    stream = await ai.audio.transcriptions.create(model=NAME, file=SOUND, stream=True)
    return "".join([event.delta async for event in stream if event.type == "transcript.text.delta"])


async def _translate(ai: Client) -> str:
    with pytest.deprecated_call():
        return str(await ai.audio.translations.create(model=NAME, file=SOUND, response_format="srt"))


OPENAI: dict[str, Use] = {
    "chat": _chat, "chat, streamed": _chat_stream, "completions": _completions,
    "completions, streamed": _completions_stream, "responses": _responses, "responses, streamed": _responses_stream,
    "embeddings": _embeddings, "embeddings, as numbers": _embeddings_float, "image": _image,
    "image, streamed": _image_stream, "edit": _edit, "edit, streamed": _edit_stream, "variation": _variation,
    "speech": _speech, "speech, streamed": _speech_stream, "transcription": _transcribe,
    "transcription, verbose": _transcribe_verbose, "transcription, streamed": _transcribe_stream,
    "translation": _translate,
}  # fmt: skip
AZURE = {name: use for name, use in OPENAI.items() if use is not _variation}  # Azure has none


@asynccontextmanager
async def _azure(gateway: Process, ears: Ears) -> AsyncIterator[Client]:
    async with openai.AsyncAzureOpenAI(
        azure_endpoint=gateway.url, api_version="2025-04-01-preview", api_key="sk-hidden", max_retries=0, timeout=30,
        http_client=httpx2.AsyncClient(transport=ears),
    ) as ai:  # fmt: skip
        yield ai


@asynccontextmanager
async def _openai(gateway: Process, ears: Ears, path: str = "/v1") -> AsyncIterator[Client]:
    async with openai.AsyncOpenAI(
        base_url=gateway.url + path, api_key="sk-hidden", max_retries=0, timeout=30,
        http_client=httpx2.AsyncClient(transport=ears),
    ) as ai:  # fmt: skip
        yield ai


def _sha(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def _prove(store: Path, heard: list[Heard], texts: list[str]) -> None:
    """Check the record of each call against what the client got."""
    calls = on_record(store)
    home = Home.open(store)
    try:
        for answer, text in zip(heard, texts, strict=True):
            (kept,) = calls[answer.call]
            body = bytes(answer.body)
            assert kept.response == body, answer.path
            groups = home.vault.get_groups(answer.call)
            for name, (salt, group) in groups.items():
                assert seal(salt, group) == getattr(kept.leaf.seals, name), name
            asked, said, used = (json.loads(groups[name][1]) for name in ("request", "response", "usage"))
            assert said["wire"] == _sha(body)
            assert "malformed" not in asked, answer.path
            assert "malformed" not in said, answer.path
            assert asked["dialect"].startswith("openai-")
            dialect = reader(asked["dialect"])
            assert dialect is not None
            facts = dialect.read_response(
                body, operation=asked["operation"], status=answer.status, content_type=answer.content_type,
                content_encoding=None,
            )  # fmt: skip
            assert facts.content is not None
            assert said["content"] == _sha(facts.content)
            assert not text or _sha(text) in said["text"]
            counted = dict(facts.usage or {}) | ({"characters": 6} if "/audio/speech" in answer.path else {})
            assert {name: count for name, count in used.items() if name not in ("source", "tier")} == counted
            assert used.get("source") == ("provider" if facts.usage else "request" if counted else None)
            assert kept.leaf.finish == "complete"
    finally:
        home.close()


@pytest.mark.parametrize("kind", ["openai", "azure", "azure v1"])
async def test_every_operation_is_passed_untouched_and_on_record(tmp_path: Path, kind: str) -> None:
    ears, texts = Ears(), []
    uses = AZURE if kind == "azure" else OPENAI
    async with FakeUpstream(fake_openai.script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway:
            made = _azure(gateway, ears) if kind == "azure" else _openai(
                gateway, ears, "/v1" if kind == "openai" else "/openai/v1"
            )  # fmt: skip
            async with made as ai:
                for name, use in uses.items():
                    texts.append(await use(ai))
                    assert ears.heard[-1].status == 200, name
                if kind == "openai":
                    assert [model.id async for model in ai.models.list()] == [NAME]
                    ears.heard.pop()
        sent = [bytes(wire.body) for wire in upstream.wires]
        paths = [asked.path for asked in upstream.asked]
    assert [bytes(answer.body) for answer in ears.heard] == sent
    assert [answer.path for answer in ears.heard] == paths
    _prove(store, ears.heard, texts)


async def test_errors_reach_the_client_as_they_are(tmp_path: Path) -> None:
    ears = Ears()
    failing: list[Any] = [{"role": "user", "content": fake_openai.FAIL}]
    async with FakeUpstream(fake_openai.script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, _openai(gateway, ears) as ai:
            with pytest.raises(openai.RateLimitError) as whole:
                await ai.chat.completions.create(model=NAME, messages=failing)
            assert whole.value.code == "quota"
            with pytest.raises(openai.APIError) as streamed:
                [_ async for _ in await ai.chat.completions.create(model=NAME, messages=failing, stream=True)]
            assert streamed.value.code == "quota"
            with pytest.raises(openai.RateLimitError):
                await ai.audio.transcriptions.create(model=NAME, file=SOUND, prompt=fake_openai.FAIL)
            with pytest.raises(openai.NotFoundError):
                await ai.responses.create(model="nobody", input="x")
        sent = [bytes(wire.body) for wire in upstream.wires]
    heard = ears.heard[:3]
    assert all(body.startswith(answer.body) for answer, body in zip(heard, sent, strict=True))
    assert [bytes(heard[at].body) for at in (0, 2)] == [sent[0], sent[2]]  # the client stops reading at an error
    calls = on_record(store)
    home = Home.open(store)
    try:
        for answer in heard:
            assert json.loads(home.vault.get_groups(answer.call)["response"][1])["error"] == "quota"
            assert (calls[answer.call][0].response or b"").startswith(answer.body)
    finally:
        home.close()


@pytest.mark.parametrize("mebibytes", [3, 40])
async def test_a_long_upload_is_digested_as_it_streams_by(tmp_path: Path, mebibytes: int) -> None:
    ears = Ears()
    sound = samples.WAV + bytes(range(256)) * 4096 * mebibytes
    async with FakeUpstream(fake_openai.script) as upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, _openai(gateway, ears) as ai:
            said = await ai.audio.transcriptions.create(model=NAME, file=("s.wav", sound, "audio/wav"))
        (asked,) = upstream.asked
    assert said.text == samples.TEXT
    home = Home.open(store)
    try:
        Ledger(home).drain()
        request = json.loads(home.vault.get_groups(ears.heard[0].call)["request"][1])
    finally:
        home.close()
    assert (request["size"], request["wire"]) == (len(asked.body), _sha(asked.body))
    assert (_sha(sound), len(sound)) in [(part["sha256"], part.get("size")) for part in request["parts"]]

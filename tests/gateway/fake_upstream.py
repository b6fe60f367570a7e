"""An upstream for tests: speaks OpenAI's wire over a raw socket, byte for byte as scripted.

`FakeUpstream.script` answers a call: it gets what was asked and a `Wire` to write on. With an `Engine` it also shakes
hands and signs, as `genealog engine` does, with real keys.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, urlsplit

from genealog.core.canonical import encode
from genealog.core.dsse import Signer, sign_envelope
from genealog.core.ids import sha256_hex
from genealog.core.records import ENGINE_SIGNATURE, LOAD_CHALLENGE, EngineReport, EngineSignature, LoadChallenge

Script = Callable[["Wire", "Asked"], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the only value of a header."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


class Wire:
    """The way back. Remembers the body bytes, which an engine signs."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.body = b""
        self.gone = asyncio.Event()  # the gateway closed this connection

    async def head(self, status: int = 200, /, **headers: str) -> None:
        """Send status line and headers; an underscore in a name stands for a dash."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.writer.write(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode())
        await self.writer.drain()

    async def raw(self, data: bytes) -> None:
        """Send body bytes as they are."""
        self.body += data
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send body bytes as one chunk of a chunked body."""
        self.body += data
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        """End a chunked body."""
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def die(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()


@dataclass
class Engine:
    """Makes an upstream an engine: a signer, and the hex leaf hash of the load statement that it claims."""

    signer: Signer
    load: str
    signs: bool = True
    patient: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # unset: whoever asks for anything but an answer waits
    twist: Callable[[EngineSignature], EngineSignature] = lambda signature: signature
    nonce: str | None = None  # sign this one instead of the one that was asked for
    kept: dict[str, bytes] = field(default_factory=dict)
    handshakes: int = 0

    def __post_init__(self) -> None:
        self.patient.set()

    def challenge(self, nonce: str) -> bytes:
        """Answer a handshake."""
        self.handshakes += 1
        body = encode(LoadChallenge(load=self.load, nonce=self.nonce or nonce))
        signed = sign_envelope(body, self.signer, LOAD_CHALLENGE)
        return json.dumps({"load": self.load, "challenge": base64.b64encode(signed).decode()}).encode()

    def sign(self, call: str, request: bytes, response: bytes) -> None:
        """Sign what went in and came out, and keep it for whoever asks."""
        report = encode(
            EngineReport(
                call=call, sampler={"seed": "1", "seed_source": "derived"}, prompt_tokens=1, prompt_sha256="0" * 64,
                tokens=(1, 2), logprobs="AAAAAAAAAAA=", finish_reason="stop", numerics={"engine": "fake"},
            )
        )  # fmt: skip
        signature = self.twist(
            EngineSignature(
                call=call, load=self.load, request=sha256_hex(request), response=sha256_hex(response),
                report=sha256_hex(report),
            )
        )  # fmt: skip
        envelope = sign_envelope(encode(signature), self.signer, ENGINE_SIGNATURE)
        answer = {"signature": base64.b64encode(envelope).decode(), "report": base64.b64encode(report).decode()}
        self.kept[call] = json.dumps(answer).encode()


class FakeUpstream:
    """A server on a free port of the loopback. `asked` holds every call that came."""

    def __init__(self, script: Script, engine: Engine | None = None) -> None:
        self.script = script
        self.engine = engine
        self.asked: list[Asked] = []
        self.wires: list[Wire] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The base URL, as a deployment names it."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the port of last time if there was one."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while asked := await _read(reader):
                await self._answer(asked, reader, Wire(writer))
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, asked: Asked, reader: asyncio.StreamReader, wire: Wire) -> None:
        url = urlsplit(asked.path)
        if asked.method == "POST":
            self.asked.append(asked)
            self.wires.append(wire)
            watch = asyncio.create_task(_watch(reader, wire))
            try:
                await self.script(wire, asked)
            finally:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            if self.engine is not None and self.engine.signs:
                self.engine.sign(asked.header("Genealog-Call") or "", asked.body, wire.body)
        elif self.engine is not None and url.path == "/genealog/v1/load":
            await self.engine.patient.wait()
            await _json(wire, self.engine.challenge(parse_qs(url.query)["nonce"][0]))
        elif self.engine is not None and (kept := self.engine.kept.get(url.path.rpartition("/")[2])):
            await self.engine.patient.wait()
            await _json(wire, kept)
        else:
            await _json(wire, b'{"detail":"Not Found"}', 404)


async def _watch(reader: asyncio.StreamReader, wire: Wire) -> None:
    """Notice that the other side has closed; nothing else comes while an answer is on its way."""
    if not await reader.read(1):
        wire.gone.set()


async def _json(wire: Wire, body: bytes, status: int = 200) -> None:
    await wire.head(status, Content_Type="application/json", Content_Length=str(len(body)))
    await wire.raw(body)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, await reader.readexactly(length))


def completion(text: str = "Hello", *, model: str = "prod/bot", fingerprint: str | None = None) -> bytes:
    """Return the body of a chat completion, with the white space that only its author understands."""
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1790000000, "model": model,
        "system_fingerprint": fingerprint,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }  # fmt: skip
    return json.dumps(body, indent=3).replace('"usage"', '\t "usage"').encode() + b"\r\n \n"


def events(words: Sequence[str] = ("Hel", "lo"), *, model: str = "prod/bot", comments: bool = True) -> list[bytes]:
    """Return the events of a streamed chat completion, comments and odd white space among them."""
    result = [b": keep-alive\n\n"] if comments else []
    for word in words:
        delta = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1790000000, "model": model}
        result.append(b"data:  " + json.dumps({**chunk, "choices": [delta]}, indent=None).encode() + b"\n\n")
    last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1790000000, "model": model}
    last["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    return [*result, b"data: " + json.dumps(last).encode() + b"\r\n\r\n", b"data: [DONE]\n\n"]


def whole(body: bytes, status: int = 200, **headers: str) -> Script:
    """Answer with a Content-Length."""

    async def script(wire: Wire, _: Asked) -> None:
        sent = {"Content_Type": "application/json", "Content_Length": str(len(body)), **headers}
        await wire.head(status, **sent)
        await wire.raw(body)

    return script


def stream(chunks: Sequence[bytes], **headers: str) -> Script:
    """Answer with server-sent events, one HTTP chunk each."""

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked", **headers)
        for chunk in chunks:
            await wire.chunk(chunk)
        await wire.end()

    return script


def waiting(chunks: Sequence[bytes], started: asyncio.Event, go_on: asyncio.Event) -> Script:
    """Stream the first event, and the rest when told to."""

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        first, *rest = chunks
        await wire.chunk(first)
        started.set()
        await go_on.wait()
        for chunk in rest:
            await wire.chunk(chunk)
        await wire.end()

    return script

"""Bodies too big to hold: they stream through, on record as they come, and the worker's memory does not notice."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import aiohttp
import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire, completion, whole
from gateway.kit import NAME, FakeSource, Running, running, spec, spooled
from gateway.processes import Process, make_store
from genealog.core.frames import MAX_BODY, Intent, Piece, Whole
from genealog.core.ids import sha256_hex

FORM = "multipart/form-data; boundary=bb"
MIB = 2**20


def form(audio: bytes, model: str = NAME, *, last: bool = False) -> bytes:
    """Return a form with a field `model` before (or after) a file."""
    field = b'--bb\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n' % model.encode()
    head = b'--bb\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    file = head + audio + b"\r\n"
    return (file + field if last else field + file) + b"--bb--\r\n"


async def post(gateway: Running, path: str, data: object, **headers: str) -> tuple[int, bytes]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    data = io.BytesIO(data) if isinstance(data, bytes) else data
    async with gateway.client.post(gateway.url + path, data=data, headers=sent) as response:
        return response.status, await response.read()


def request_of(gateway: Running, intent: Intent) -> bytes:
    pieces = [frame for frame in spooled(gateway.spool) if isinstance(frame, Piece) and frame.call == intent.call]
    return intent.request + b"".join(piece.data for piece in pieces if piece.side == "request")


@pytest.mark.parametrize("stated", [True, False])
async def test_a_form_streams_through_and_its_parts_are_known(tmp_path: Path, stated: bool) -> None:
    audio = bytes(range(256)) * 12_000  # 3 MB
    body = form(audio)
    source = FakeSource()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    reads_chunks = Chunky()
    async with reads_chunks as upstream, running(tmp_path, source, hold=MIB) as gateway:
        source.deploy(NAME, spec(upstream.url))
        data = body if stated else pieces()
        status, _ = await post(gateway, "/v1/audio/transcriptions", data, Content_Type=FORM)
        intent, outcome = gateway.last()
        kept = request_of(gateway, intent)
    assert status == 200
    assert reads_chunks.body == kept == body
    assert len(intent.request) <= MIB + 2**18
    assert (intent.more, intent.dialect, intent.deployment) == (True, "openai-audio", NAME)
    assert outcome.request == Whole(size=len(body), sha256=sha256_hex(body), kept=True)
    assert [(part.name, part.size, part.sha256, part.media_type) for part in outcome.parts] == [
        ("model", len(NAME), sha256_hex(NAME.encode()), None),
        ("file", len(audio), sha256_hex(audio), "audio/wav"),
    ]
    assert ("transfer-encoding" in reads_chunks.head.lower()) is not stated


async def test_each_piece_is_on_record_before_it_goes_upstream(tmp_path: Path) -> None:
    body = form(bytes(2 * MIB))
    source = FakeSource()
    late: list[int] = []

    async with Chunky() as upstream, running(tmp_path, source, hold=2**16) as gateway:
        source.deploy(NAME, spec(upstream.url))

        def look() -> None:
            intent = next(frame for frame in spooled(gateway.spool) if isinstance(frame, Intent))
            late.append(len(request_of(gateway, intent)) - len(upstream.body))

        upstream.on_data = look
        await post(gateway, "/v1/audio/transcriptions", body, Content_Type=FORM)
    assert len(late) > 3
    assert min(late) >= 0


async def test_a_form_that_names_the_model_last_is_held(tmp_path: Path) -> None:
    body = form(bytes(2 * MIB), last=True)
    source = FakeSource()
    async with FakeUpstream(whole(completion())) as upstream, running(tmp_path, source, hold=MIB) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert (await post(gateway, "/v1/audio/transcriptions", body, Content_Type=FORM))[0] == 200
        intent, _ = gateway.last()
        small = await post(gateway, "/v1/audio/transcriptions", form(b"", "nobody"), Content_Type=FORM)
        nameless = await post(gateway, "/v1/audio/transcriptions", b"--bb--\r\n", Content_Type=FORM)
    assert (intent.more, intent.request) == (False, body)
    assert small[0] == 404
    assert (nameless[0], json.loads(nameless[1])["code"]) == (400, "malformed-form")


@pytest.mark.parametrize("stated", [True, False])
async def test_an_upload_has_a_limit_of_its_own(tmp_path: Path, stated: bool) -> None:
    body = form(bytes(MIB))
    source = FakeSource()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    async with Chunky() as upstream, running(tmp_path, source, hold=2**16, max_upload=MIB // 2) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, said = await post(gateway, "/v1/audio/transcriptions", body if stated else pieces(), Content_Type=FORM)
        _, outcome = gateway.last()
    assert (status, json.loads(said)["code"], outcome.error) == (413, "body-too-large", "body-too-large")


async def test_beyond_32_mib_bodies_are_digested_and_not_kept(tmp_path: Path) -> None:
    size = MAX_BODY + 3 * MIB
    source = FakeSource()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="application/octet-stream", Content_Length=str(size))
        for _ in range(size // MIB):
            wire.writer.write(bytes(MIB))
            await wire.writer.drain()

    async with FakeUpstream(script) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, answer = await post(gateway, "/anything", bytes(size), Genealog_Deployment=NAME)
        intent, outcome = gateway.last()
        pieces = [frame for frame in spooled(gateway.spool) if isinstance(frame, Piece)]
    digest = hashlib.sha256(bytes(size)).hexdigest()
    assert (status, len(answer), intent.dialect) == (200, size, "opaque")
    assert outcome.request == outcome.whole == Whole(size=size, sha256=digest, kept=False)
    assert (outcome.finish, outcome.delivered, outcome.response) == ("complete", size, b"")
    kept = {side: sum(len(piece.data) for piece in pieces if piece.side == side) for side in ("request", "response")}
    assert kept == {"request": MAX_BODY - len(intent.request), "response": MAX_BODY}


async def test_the_memory_of_a_worker_does_not_notice(tmp_path: Path) -> None:
    size = 300 * 10**6

    async def script(wire: Wire, asked: Asked) -> None:
        await wire.head(Content_Type="application/octet-stream", Content_Length=str(size))
        for _ in range(size // 10**5):
            wire.writer.write(bytes(10**5))
            await wire.writer.drain()

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(size // 10**5):
            yield bytes(10**5)

    upstream = Chunky(answer=script)
    async with upstream:
        store = make_store(tmp_path, upstream.url)
        async with Process(store) as gateway, aiohttp.ClientSession() as session:
            worker = gateway.worker()
            assert worker is not None

            async def ask(data: object) -> int:
                headers = {"Genealog-Deployment": NAME}
                got = 0
                async with session.post(gateway.url + "/x", data=data, headers=headers) as response:
                    while part := await response.content.readany():
                        got += len(part)
                return got

            upstream.script = None
            await ask(b"warm")
            before = memory(worker)
            upstream.script = script
            assert await ask(upload()) == size
            assert upstream.received > size
            after = memory(worker)
    assert after - before < 50 * 10**6


def memory(process: int) -> int:
    """Return the most memory that a process ever had, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


class Chunky:
    """An upstream that reads chunked bodies too, one connection for each request, and keeps what came."""

    def __init__(self, answer: object = None) -> None:
        self.body = b""
        self.received = 0
        self.head = ""
        self.on_data = lambda: None
        self.script = answer
        self._keeps = answer is None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if head.startswith("POST"):
                self.head = head
                await self._read(reader, head.lower())
            if self.script is not None and head.startswith("POST"):
                await self.script(Wire(writer), None)  # type: ignore[operator]
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, head: str) -> None:
        if "content-length:" in head:
            left = int(head.partition("content-length:")[2].split("\r\n")[0])
            while left:
                data = await reader.read(min(left, 65_536))
                if not data:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(data)
                self._take(data)
            return
        while size := int(await reader.readline(), 16):
            self._take((await reader.readexactly(size + 2))[:-2])
        await reader.readline()

    def _take(self, data: bytes) -> None:
        self.received += len(data)
        if self._keeps:
            self.body += data
        self.on_data()

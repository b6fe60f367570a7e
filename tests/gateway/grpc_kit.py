"""A gateway's gRPC in this process, and a KServe server that does what its model's name says: real sockets, real spool.

echo    one answer with what was asked
twice   every message of a stream gives two answers
fail    INVALID_ARGUMENT with a detail in the trailing metadata; `broken` INTERNAL
wait    no answer until it is cancelled
other   an answer that names another model
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from genealog.core.frames import Frame, Intent, Outcome, Piece, decode_frame
from genealog.core.ids import record_id
from genealog.core.records import Pinned, ServingSpec
from genealog.deploy import Live, Snapshot
from genealog.gateway.directory import Directory
from genealog.gateway.grpc import Grpc
from genealog.gateway.grpc_call import text_field
from genealog.gateway.http1 import Pool
from genealog.gateway.parts import Parts, Settings
from genealog.gateway.recording import Recording
from genealog.gateway.upstreams import Upstreams
from genealog.store.gateway_settings import Tls, Upstream
from genealog.store.spool_reader import Found, SpoolReader
from kserve_samples import field as proto
from kserve_samples import framed

MODEL = "glf1:" + "a" * 64
SERVICE = "/inference.GRPCInferenceService/"
NAMES = ("broken", "echo", "fail", "other", "twice", "wait")


class Registry:
    """A `directory.Source` that knows what it was given."""

    def __init__(self, deployed: Mapping[str, ServingSpec]) -> None:
        self.live = {name: Live(name, record_id(body), body) for name, body in deployed.items()}
        self.epoch = 1
        self.revoked: dict[str, str] = {}

    def revoke(self, artifact: str) -> None:
        """Revoke what some deployments serve."""
        self.revoked[artifact] = "poisoned"
        self.epoch += 1
        for name, live in self.live.items():
            if artifact in live.body.models:
                self.live[name] = replace(live, revoked="poisoned")

    def stamp(self) -> object:
        return self.epoch

    def poll(self) -> Snapshot:
        return Snapshot(self.epoch, dict(self.live), dict(self.revoked))

    def registered(self, _artifact: str) -> bool:
        return True

    def keys(self) -> Mapping[str, Any]:
        return {}

    def statement(self, leaf: str) -> Any:
        raise AssertionError(leaf)

    def close(self) -> None:
        pass


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The server behind the gateway. It keeps what reached it."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.metadata: list[dict[str, Any]] = []
        self.methods: list[str] = []
        self.cancelled = asyncio.Event()
        self.deadlines: list[float | None] = []

    def service(self, details: Any) -> Any:
        self.methods.append(details.method)
        if details.method.endswith("StreamInfer"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary)

    def _note(self, context: Any, message: bytes) -> str:
        self.messages.append(message)
        self.metadata.append(dict(context.invocation_metadata()))
        self.deadlines.append(context.time_remaining())
        return text_field(message, 1)

    async def _unary(self, message: bytes, context: Any) -> bytes:
        name = self._note(context, message)
        if name == "fail":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Alice is wrong", (("detail", "d"),))
        if name == "broken":
            await context.abort(grpc.StatusCode.INTERNAL, "it broke")
        if name == "wait":
            await self._wait()
        await context.send_initial_metadata((("from-upstream", "1"), ("genealog-call", "forged")))
        context.set_trailing_metadata((("at-end", "2"), ("raw-bin", b"\xff")))
        return proto(1, "another" if name == "other" else name) + proto(2, "1") + proto(3, "é")

    async def _wait(self) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _stream(self, _messages: Any, context: Any) -> None:
        while (message := await context.read()) is not aio.EOF:
            name = self._note(context, message)
            for _ in range(2 if name == "twice" else 1):
                await context.write(proto(2, proto(1, name) + proto(2, "1")))
            if name == "fail":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Alice is wrong")
            if name == "wait":
                await self._wait()


@dataclass
class Running:
    """Everything that a test needs."""

    channel: aio.Channel
    upstream: Server
    spool: Path
    parts: Parts
    port: int
    registry: Registry
    stream_seen: list[bytes] = field(default_factory=list)

    async def infer(self, message: bytes, *, method: str = "ModelInfer", **options: Any) -> tuple[bytes, Any]:
        """Ask once; return the answer and the call."""
        call = self.channel.unary_unary(SERVICE + method)(message, **options)
        return await call, call

    async def stream(self, *messages: bytes, **options: Any) -> list[bytes]:
        """Ask many times in one stream; return the answers. `stream_seen` has them where it does not end well."""
        call = self.channel.stream_stream(SERVICE + "ModelStreamInfer")(**options)
        self.stream_seen.clear()
        for message in messages:
            await call.write(message)
        await call.done_writing()
        while (answer := await call.read()) is not aio.EOF:
            self.stream_seen.append(answer)
        return list(self.stream_seen)

    def frames(self) -> list[Frame]:
        """Return what is in the spool."""
        reader = SpoolReader(self.spool)
        return [
            decode_frame(item.payload)
            for emitter in reader.emitters()
            for boot in reader.boots(emitter)
            for item in reader.scan(emitter, boot, 0, 0, over=False)
            if isinstance(item, Found)
        ]

    def last(self) -> tuple[Intent, Outcome]:
        """Return the newest call, with its request whole."""
        frames = self.frames()
        intent = [frame for frame in frames if isinstance(frame, Intent)][-1]
        (outcome,) = [frame for frame in frames if isinstance(frame, Outcome) and frame.call == intent.call]
        return intent, outcome

    def pieces(self, call: str) -> bytes:
        """Return what came of a request behind its first message."""
        frames = [frame for frame in self.frames() if isinstance(frame, Piece) and frame.call == call]
        return b"".join(frame.data for frame in frames if frame.side == "request")


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    settings: Settings | None = None,
    section: Upstream | None = None,
    tls: Tls | None = None,
    mark: str = "m" * 16,
    **changes: Any,
) -> AsyncIterator[Running]:
    """Serve every model of `NAMES`; `changes` are those of the serving specs."""
    upstream = Server()
    behind = aio.server()
    behind.add_generic_rpc_handlers((upstream,))
    port = behind.add_insecure_port("127.0.0.1:0")
    await behind.start()
    pinned = {"model": Pinned(artifact=MODEL, lineage="c" * 64), "upstream": f"http://127.0.0.1:{port}", **changes}
    registry = Registry({name: ServingSpec(**pinned) for name in NAMES})
    recording = Recording(folder / "spool")
    directory = Directory(lambda: registry)
    await directory.start()
    sections = {"vendor": section} if section is not None else {}
    parts = Parts(
        recording=recording, directory=directory, pool=Pool(), mark=mark, settings=settings,
        upstreams=Upstreams(sections, folder), root=folder,
    )  # fmt: skip
    gateway = Grpc(parts, tls)
    own = await gateway.start("127.0.0.1:0")
    try:
        async with aio.insecure_channel(f"127.0.0.1:{own}") as channel:
            yield Running(channel, upstream, folder / "spool", parts, own, registry)
    finally:
        await gateway.stop(1)
        await behind.stop(0)
        await parts.pool.close()
        await directory.stop()
        recording.close()


async def until(happened: Callable[[], bool]) -> None:
    """Wait for something that announces itself in no other way than by being so."""
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - tasks of the gateway set no event of ours
            await asyncio.sleep(0.005)


def body(*messages: bytes) -> bytes:
    """Return messages as they stand on record."""
    return framed(*messages)

"""A gateway in this process for tests: real sockets, real spool, a registry made of what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.frames import Frame, Intent, Outcome, decode_frame
from genealog.core.ids import record_id
from genealog.core.merkle import leaf_hash
from genealog.core.records import Load, Loaded, Pinned, ServingSpec
from genealog.core.statement import Read, make_statement, read_statement
from genealog.deploy import Live, Snapshot
from genealog.errors import GenealogError, MissingError
from genealog.gateway.admission import Admission
from genealog.gateway.directory import Directory
from genealog.gateway.handshake import Handshakes
from genealog.gateway.http1 import Limits, Pool
from genealog.gateway.parts import Parts, Settings
from genealog.gateway.plane import Plane
from genealog.gateway.policing import Policing
from genealog.gateway.record import utc_now
from genealog.gateway.recording import Recording
from genealog.gateway.releasing import Releasing
from genealog.gateway.upstreams import Upstreams
from genealog.gateway.worker import serve
from genealog.registry import KeyRow
from genealog.store.gateway_settings import Upstream
from genealog.store.spool_reader import Found, SpoolReader

MODEL, ADAPTER = "glf1:" + "a" * 64, "glf1:" + "b" * 64
WEIGHTS, ADAPTER_WEIGHTS = "glw1:" + "a" * 64, "glw1:" + "b" * 64
LINEAGE = "c" * 64
NAME = "prod/bot"


def chat(**fields: Any) -> bytes:
    """Return a request of the one deployment that tests know."""
    return json.dumps({"model": NAME, "messages": [{"role": "user", "content": "Hi"}], **fields}, indent=1).encode()


def spec(upstream: str, **changes: Any) -> ServingSpec:
    """Return a serving spec of a model with one adapter."""
    pinned = {
        "model": Pinned(artifact=MODEL, lineage=LINEAGE, weights=WEIGHTS),
        "adapters": (Pinned(artifact=ADAPTER, lineage=LINEAGE, weights=ADAPTER_WEIGHTS),),
    }
    return ServingSpec(**{**pinned, "upstream": upstream, **changes})


@dataclass
class FakeSource:
    """A registry in memory."""

    live: dict[str, Live] = field(default_factory=dict)
    registry: set[str] = field(default_factory=lambda: {MODEL, ADAPTER})
    rows: dict[str, KeyRow] = field(default_factory=dict)
    statements: dict[str, Read] = field(default_factory=dict)
    revoked: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    polls: int = 0
    broken: GenealogError | None = None

    def deploy(self, name: str, body: ServingSpec, *, revoked: str | None = None) -> None:
        """Put a deployment in the registry."""
        self.live[name] = Live(name, record_id(body), body, revoked)
        self.epoch += 1

    def load(self, signer: Signer, **changes: Any) -> str:
        """Register an engine key and a load statement of it; return the leaf hash."""
        self.rows[signer.keyid] = KeyRow(signer.keyid, "engine", "engine", signer.public_der, None)
        facts: dict[str, Any] = {
            "engine": "fake",
            "keyid": signer.keyid,
            "loaded": (
                Loaded(role="base", artifact=MODEL, weights=WEIGHTS),
                Loaded(role="adapter", artifact=ADAPTER, weights=ADAPTER_WEIGHTS),
            ),
            "files": {},
            "numerics": {},
            "loaded_at": timestamp(utc_now()),
            "nonce": "0" * 32,
        }
        entry = make_statement(Load(**{**facts, **changes}), signer, name="load")
        leaf = leaf_hash(entry).hex()
        self.statements[leaf] = read_statement(entry)
        self.epoch += 1
        return leaf

    def stamp(self) -> object:
        """Tell at once that something changed."""
        return self.epoch

    def poll(self) -> Snapshot:
        """Return what is deployed."""
        self.polls += 1
        if self.broken is not None:
            raise self.broken
        revoked = {model: live.revoked for live in self.live.values() if live.revoked for model in live.body.models}
        return Snapshot(self.epoch, dict(self.live), revoked | self.revoked)

    def registered(self, artifact: str) -> bool:
        """Say whether an artifact is there."""
        return artifact in self.registry

    def keys(self) -> Mapping[str, KeyRow]:
        """Return the keys."""
        return self.rows

    def statement(self, leaf: str) -> Read:
        """Return a statement."""
        if leaf not in self.statements:
            raise MissingError("unknown-entry", "no registry entry has this leaf hash", got=leaf)
        return self.statements[leaf]

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Running:
    """A gateway that serves."""

    url: str
    spool: Path
    source: FakeSource
    recording: Recording
    directory: Directory
    handshakes: Handshakes
    plane: Plane
    client: aiohttp.ClientSession

    async def ask(self, body: bytes, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """Post a chat request; return status, headers and body as they came."""
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        async with self.client.post(self.url + "/v1/chat/completions", data=io.BytesIO(body), headers=sent) as response:
            return response.status, response.headers, await response.read()

    def calls(self) -> list[tuple[Intent, Outcome | None]]:
        """Return every call in the spool with its outcome, in the order they began."""
        frames = spooled(self.spool)
        outcomes = {frame.call: frame for frame in frames if isinstance(frame, Outcome)}
        return [(frame, outcomes.get(frame.call)) for frame in frames if isinstance(frame, Intent)]

    def last(self) -> tuple[Intent, Outcome]:
        """Return the newest call, which must have ended."""
        intent, outcome = self.calls()[-1]
        assert outcome is not None
        return intent, outcome


async def until(happened: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    """Wait for something that announces itself in no other way than by being so."""
    async with asyncio.timeout(seconds):
        while not await happened():  # noqa: ASYNC110 - other processes and background tasks set no event of ours
            await asyncio.sleep(0.005)


def spooled(directory: Path) -> list[Frame]:
    """Return every frame in a spool."""
    reader = SpoolReader(directory)
    return [
        decode_frame(item.payload)
        for emitter in reader.emitters()
        for boot in reader.boots(emitter)
        for item in reader.scan(emitter, boot, 0, 0, over=False)
        if isinstance(item, Found)
    ]


@contextlib.asynccontextmanager
async def running(
    spool: Path,
    source: FakeSource,
    *,
    drain: float = 5.0,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    admission: Admission | None = None,
    upstreams: Mapping[str, Upstream] | None = None,
    releasing: Callable[[Directory], Releasing] | None = None,
    policing: Policing | None = None,
    root: Path = Path(),
    **settings: Any,
) -> AsyncIterator[Running]:
    """Serve on a free port, as a worker does."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    recording = Recording(spool)
    directory = Directory(lambda: source)
    await directory.start()
    pool = Pool()
    parts = Parts(
        recording=recording, directory=directory, pool=pool, mark=secrets.token_hex(8), settings=Settings(**settings),
        admission=admission, upstreams=Upstreams(upstreams or {}, root), root=root,
        releasing=releasing(directory) if releasing is not None else None, policing=policing,
    )  # fmt: skip
    plane = Plane(parts)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=30)) as client:
        serving = asyncio.create_task(serve(plane, listener, theirs, drain=drain, limits=limits, tls=tls))
        assert await asyncio.get_running_loop().sock_recv(ours, 1) == b"r"
        try:
            yield Running(url, spool, source, recording, directory, parts.handshakes, plane, client)
        finally:
            await client.close()
            ours.close()
            await serving
            theirs.close()
            await pool.close()
            await directory.stop()
            recording.close()

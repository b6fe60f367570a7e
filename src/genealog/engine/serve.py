"""The engine's process: hash, check, load, state it in the log, then open the port.

The port is bound first and opened last: no load statement for an engine that cannot listen, and no answer before the
statement is durable. Without its key an engine refuses to start, unless it is told to serve unsigned.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.records import Load
from genealog.engine.app import EngineApp, Serving
from genealog.engine.gate import REFUSALS, Admitted, Gate
from genealog.engine.signing import LoadKey
from genealog.engine.worker import Worker
from genealog.errors import MissingError, PolicyDenied, StoreError
from genealog.listening import url_of
from genealog.registry import Registry
from genealog.store.home import Home

if TYPE_CHECKING:
    from genealog.engine.loading import Runnable

KEY = "engine"


@dataclass(frozen=True, slots=True)
class Options:
    """What to serve, and where. `line` is how many requests may wait; `deployment` for which, if that is known."""

    model: str
    adapter: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    threads: int = 1
    dtype: str = "float32"
    unsigned: bool = False
    line: int = 32
    deployment: str = ""


def serve(home: Home, options: Options, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes. `announce` gets one line when the port is open.

    Raises: PolicyDenied, MalformedError, VerificationError for a model that is not loaded (it is in the log then);
    MissingError `no-key`; StoreError `port-unavailable`.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: a model is what its folder holds
    registry = Registry(home)
    signer = _signer(registry, options)
    with _bind(options.host, options.port) as listener:
        admitted, model = _load(registry, signer, options)
        from genealog.engine.generate import generate  # a refusal is out before torch is imported

        key = None if options.unsigned else _state(registry, _require(signer), admitted, model)
        home.close()
        models = tuple(item.loaded.artifact for item in admitted)
        numerics, created = model.numerics, int(datetime.now(UTC).timestamp())
        del admitted  # the model keeps the buffers that it needs
        worker = Worker(lambda job, cancelled: generate(model, job, cancelled), line=options.line)
        try:
            app = EngineApp(Serving(models, numerics, key, created), worker)
            _listen(app, listener, lambda: announce(_line(listener, models[-1], key)))
        finally:
            worker.close()


def _signer(registry: Registry, options: Options) -> Signer | None:
    try:
        signer = registry.home.keys.signer(KEY)
    except MissingError as error:
        if options.unsigned:
            return None
        error.hint = "make the key with genealog init, or serve --unsigned: then no call reaches A3"
        raise
    row = registry.keys().get(signer.keyid)
    if not options.unsigned and (row is None or row.revoked is not None or row.role != "engine"):
        raise PolicyDenied(
            "engine-key-not-registered", "the engine's key is not a registered, unrevoked key of role engine",
            got=f"key {signer.keyid[:16]}…", hint="genealog signer ls",
        )  # fmt: skip
    return signer


def _require(signer: Signer | None) -> Signer:
    if signer is None:
        raise MissingError("no-key", "the engine has no key")
    return signer


def _load(registry: Registry, signer: Signer | None, options: Options) -> tuple[tuple[Admitted, ...], Runnable]:
    gate = Gate(registry, signer)
    admitted = gate.admit(options.model, options.adapter, deployment=options.deployment)
    from genealog.engine.loading import build

    adapter = admitted[1].held if options.adapter else None
    try:
        model = build(admitted[0].held, adapter, dtype=options.dtype, threads=options.threads)
    except REFUSALS as error:
        gate.refuse(admitted[-1].version.id, error)
        raise
    gate.recheck(admitted)
    return admitted, model


def _state(registry: Registry, signer: Signer, admitted: tuple[Admitted, ...], model: Runnable) -> LoadKey:
    """Append the load statement, durably, and return the key that signs under it."""
    files: dict[str, str] = {}
    for item in admitted:
        files |= item.digests
    body = Load(
        engine=registry.keys()[signer.keyid].identity,
        keyid=signer.keyid,
        loaded=tuple(item.loaded for item in admitted),
        files=files,
        numerics=dict(model.numerics),
        loaded_at=timestamp(datetime.now(UTC)),
        nonce=secrets.token_hex(16),
    )
    return LoadKey(registry.append(body, signer=signer, name=admitted[-1].version.name).leaf, signer)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StoreError("port-unavailable", f"cannot listen on {host}", got=error.strerror) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        listener.close()
        raise StoreError(
            "port-unavailable", f"cannot listen on {host} port {port}", got=str(error), hint="choose another --port"
        ) from None
    return listener


def _listen(app: object, listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        loop="asyncio", http="httptools", ws="none", lifespan="off", log_level="warning", access_log=False,
        server_header=False, timeout_graceful_shutdown=3,
    )  # fmt: skip
    Server(config).run(sockets=[listener])


def _line(listener: socket.socket, model: str, key: LoadKey | None) -> str:
    return f"serving {model} on {url_of(listener)} " + (f"load {key.load}" if key else "unsigned: no call reaches A3")

"""The data plane as a process: `python -m genealog.gateway.worker`, started by `gateway.serve` and by nobody else.

It gets its listening socket and a lifeline (a socket pair) from its parent. It writes one byte to the lifeline when it
accepts calls. A byte that comes the other way asks it to read genealog.toml again; when the lifeline ends, its parent
is gone or wants it to stop: it takes no new calls, finishes those that run, and exits. SIGTERM does the same. It never
touches the call log.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from genealog.core.frames import MAX_BODY
from genealog.errors import GenealogError, not_installed
from genealog.gateway import principals
from genealog.gateway.admission import Admission
from genealog.gateway.counters import Counters
from genealog.gateway.directory import Directory, StoreSource
from genealog.gateway.http1 import Limits, Pool, Server
from genealog.gateway.http1.tls import server_context
from genealog.gateway.logs import set_up
from genealog.gateway.parts import Parts, Settings, report
from genealog.gateway.plane import Plane
from genealog.gateway.recording import Recording
from genealog.gateway.replicating import replicating
from genealog.gateway.upstreams import Upstreams
from genealog.store.config import Config, read_config
from genealog.store.gateway_settings import Tls
from genealog.store.home import Home
from genealog.store.replica_spool import node_label

CHORES = 1.0  # seconds between two looks at settings, spool and calls that wait too long

log = logging.getLogger("genealog.gateway")


class Reloading:
    """genealog.toml while the gateway runs: another file counts for every call that begins after it was read."""

    def __init__(self, path: Path, parts: Parts, max_body: int | None, tls: ssl.SSLContext | None) -> None:
        self._file = path / "genealog.toml"
        self._parts = parts
        self._max_body = max_body
        self._tls = tls
        self._stamp = _stamp(self._file)

    def look(self) -> None:
        """Read the file again if it has changed."""
        if _stamp(self._file) != self._stamp:
            self.read()

    def read(self) -> None:
        """Read the file again; one that cannot be used is said so, and what was read before still counts."""
        self._stamp = _stamp(self._file)
        try:
            config = read_config(self._file)
            tls = config.gateway.tls if self._tls is not None else None
            files = None if tls is None else _beside(self._file.parent, tls)
            if files is not None:
                server_context(*files)  # what does not fit together must not get into the one in use
            before = self._parts.admission
            settings, admission, upstreams = _configured(config, self._file.parent, self._max_body, before)
            if self._tls is not None and files is not None:
                self._tls.load_cert_chain(*files[:2])
        except (GenealogError, OSError) as error:
            what = error.facts.removeprefix("; ") if isinstance(error, GenealogError) else type(error).__name__
            log.error("genealog.toml cannot be used, so the gateway goes on with what it read before: %s", what)
            return
        self._parts.configure(settings, admission, upstreams)
        if admission is not before:
            before.close()
        log.info("genealog.toml was read again")


def _stamp(file: Path) -> object:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _configured(
    config: Config, path: Path, max_body: int | None, before: Admission | None = None
) -> tuple[Settings, Admission, Upstreams]:
    settings = Settings.of(config.gateway)
    if max_body is not None:
        settings = replace(settings, max_body=min(max_body, MAX_BODY))
    return settings, principals.admission(config, path, before), Upstreams(config.upstreams, path)


def _beside(path: Path, tls: Tls) -> tuple[str, str, str | None]:
    client_ca = None if tls.client_ca is None else str(path / tls.client_ca)
    return str(path / tls.certificate), str(path / tls.key), client_ca


@contextlib.asynccontextmanager
async def gateway(
    store: Path, *, max_body: int | None, mark: str, counters: Counters | None = None
) -> AsyncIterator[tuple[Plane, Config]]:
    """Open the plane over a store. Raises: what opening the store and the spool raises."""
    home = Home.open(store)
    replicate = replicating(home.config.replica, home.path, node_label(home.config.store.origin))
    recording = Recording(
        home.spool_dir, home.emitter_kind, replicate=replicate,
        fail_open=home.config.gateway.on_spool_error == "fail_open",
    )  # fmt: skip
    directory = Directory(lambda: StoreSource(Home.open(store)))
    settings, admission, upstreams = _configured(home.config, home.path, max_body)
    pool = Pool()
    try:
        await directory.start()
        parts = Parts(
            recording=recording, directory=directory, pool=pool, mark=mark, settings=settings, admission=admission,
            upstreams=upstreams, counters=counters, root=home.path,
        )  # fmt: skip
        chores = [asyncio.create_task(parts.handshakes.renew_forever()), asyncio.create_task(recording.tidy_forever())]
        yield Plane(parts), home.config
        for chore in chores:
            chore.cancel()
    finally:
        await pool.close()
        await directory.stop()
        recording.close()


async def serve(
    plane: Plane,
    listener: socket.socket,
    lifeline: socket.socket,
    *,
    drain: float,
    tls: ssl.SSLContext | None = None,
    limits: Limits | None = None,
    reload: Reloading | None = None,
) -> None:
    """Serve until the lifeline ends or SIGTERM comes, and then at most `drain` seconds longer."""
    loop = asyncio.get_running_loop()
    server = Server(plane, limits=limits, tls=tls)
    stopping = asyncio.Event()

    def told() -> None:
        try:
            said = lifeline.recv(64)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            loop.remove_reader(lifeline)
            stopping.set()
        elif reload is not None:
            reload.read()

    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.set_exception_handler(lambda _loop, context: report(context.get("exception")))
    await server.start(listener)
    with contextlib.suppress(OSError):  # no parent any more: the lifeline says so soon enough
        lifeline.send(b"r")
    loop.add_reader(lifeline, told)
    chores = asyncio.create_task(_chores(plane, server, reload))
    try:
        await stopping.wait()
        server.close()
        await plane.idle(drain)
    finally:
        chores.cancel()
        loop.remove_reader(lifeline)
        plane.stop()
        await server.drain(1.0)


async def _chores(plane: Plane, server: Server, reload: Reloading | None) -> None:
    parts = plane.parts
    counters = parts.counters
    while True:
        parts.behind = parts.recording.behind()
        counters.put("spool_bytes", parts.behind)
        counters.put("in_flight", len(plane.live))
        counters.put("connections", server.connections)
        counters.put("upstream_connections", parts.pool.connections)
        plane.look_at_silence()
        if reload is not None:
            reload.look()
        await asyncio.sleep(CHORES)


async def _main(options: argparse.Namespace) -> None:
    with socket.socket(fileno=options.lifeline) as lifeline, socket.socket(fileno=options.listener) as listener:
        lifeline.setblocking(False)
        gc.freeze()  # what is imported stays, and what a call leaves dies by its count: look for cycles seldom
        gc.set_threshold(20_000, 50, 100)
        counters = Counters.create(options.counters)
        async with gateway(options.store, max_body=options.max_body, mark=options.mark, counters=counters) as opened:
            plane, config = opened
            path = options.store.resolve()
            tls = server_context(*_beside(path, config.gateway.tls)) if config.gateway.tls is not None else None
            reload = Reloading(path, plane.parts, options.max_body, tls)
            limits = Limits(connections=max(10_000, 2 * config.gateway.max_calls))
            async with _grpc(plane, config, options.host, options.drain):
                await serve(plane, listener, lifeline, drain=options.drain, tls=tls, limits=limits, reload=reload)


@contextlib.asynccontextmanager
async def _grpc(plane: Plane, config: Config, given: str | None, drain: float) -> AsyncIterator[None]:
    """Serve KServe over gRPC beside, where `[gateway] grpc_port` says so."""
    section = config.gateway
    if section.grpc_port is None:
        yield
        return
    try:
        from genealog.gateway.grpc import Grpc
    except ModuleNotFoundError:
        raise not_installed("[gateway] grpc_port", "grpcio", "grpc") from None
    service = Grpc(plane.parts, section.tls)
    host = given or section.host
    host = f"[{host}]" if ":" in host else host
    await service.start(f"{host}:{section.grpc_port}")
    try:
        yield
    finally:
        await service.stop(drain)


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the event loop: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker; return its exit status."""
    parser = argparse.ArgumentParser(prog="genealog.gateway.worker")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--max-body", type=int)
    parser.add_argument("--host")
    parser.add_argument("--drain", type=float, required=True)
    parser.add_argument("--mark", default=secrets.token_hex(8))
    parser.add_argument("--counters", type=Path)
    parser.add_argument("--log", choices=("text", "json"), default="text")
    options = parser.parse_args(arguments)
    set_up(options.log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the parent decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with asyncio.Runner(loop_factory=event_loop()) as runner:
            runner.run(_main(options))
    except GenealogError as error:
        log.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

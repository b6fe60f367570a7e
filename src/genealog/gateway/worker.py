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
from pathlib import Path

from genealog.errors import GenealogError, not_installed
from genealog.gateway.counters import Counters
from genealog.gateway.directory import Directory, StoreSource
from genealog.gateway.http1 import Limits, Pool, Server
from genealog.gateway.http1.tls import server_context
from genealog.gateway.logs import set_up
from genealog.gateway.parts import Parts, report
from genealog.gateway.plane import Plane
from genealog.gateway.policing import Court, Policing
from genealog.gateway.recording import Recording
from genealog.gateway.releasing import releasing
from genealog.gateway.reloading import Reloading, beside, configured
from genealog.gateway.replicating import replicating
from genealog.store.config import Config
from genealog.store.home import Home
from genealog.store.leases import Lease
from genealog.store.replica_spool import node_label

CHORES = 1.0  # seconds between two looks at settings, spool and calls that wait too long

log = logging.getLogger("genealog.gateway")


@contextlib.asynccontextmanager
async def gateway(
    store: Path, *, max_body: int | None, mark: str, counters: Counters | None = None
) -> AsyncIterator[tuple[Plane, Config]]:
    """Open the plane over a store. Raises: what opening the store and the spool raises, and what loading its policies
    does: without them, nothing is served.
    """
    home = Home.open(store)
    replicate = replicating(home.config.replica, home.path, node_label(home.config.store.origin))
    recording = Recording(
        home.spool_dir, home.emitter_kind, replicate=replicate,
        fail_open=home.config.gateway.on_spool_error == "fail_open",
    )  # fmt: skip
    lease = Lease(home.leases)  # before the registry is read for the first time
    directory = Directory(lambda: StoreSource(Home.open(store)), lease=lease)
    policing = Policing(lambda: Court(Home.open(store)), counters=counters)
    settings, admission, upstreams = configured(home.config, home.path, max_body)
    pool = Pool()
    try:
        await policing.start()
        await directory.start()
        parts = Parts(
            recording=recording, directory=directory, pool=pool, mark=mark, settings=settings, admission=admission,
            upstreams=upstreams, counters=counters, policing=policing,
            releasing=releasing(directory, policing), root=home.path,
        )  # fmt: skip
        chores = [asyncio.create_task(parts.handshakes.renew_forever()), asyncio.create_task(recording.tidy_forever())]
        yield Plane(parts), home.config
        for chore in chores:
            chore.cancel()
    finally:
        await pool.close()
        await directory.stop()
        await policing.stop()
        lease.close()
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
        counters.put("break_glass", int(parts.policing is not None and parts.policing.broken))
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
            tls = server_context(*beside(path, config.gateway.tls)) if config.gateway.tls is not None else None
            reload = Reloading(path, plane.parts, options.max_body, tls, config)
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

"""The data plane as a process: `python -m genealog.gateway.worker`, started by `gateway.serve` and by nobody else.

It gets its listening socket and a lifeline (a socket pair) from its parent. It writes one byte to the lifeline when it
accepts calls; when the lifeline ends, its parent is gone or wants it to stop: it takes no new calls, finishes those
that run, and exits. SIGTERM does the same. It never touches the call log.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import uvicorn

from genealog.errors import GenealogError
from genealog.gateway.app import Gateway
from genealog.gateway.directory import Directory, StoreSource
from genealog.gateway.exchange import open_session
from genealog.gateway.handshake import Handshakes
from genealog.gateway.recording import Recording
from genealog.gateway.wire import Protocol
from genealog.store.home import Home

KEEP_ALIVE = 30  # seconds that an idle client connection stays open

log = logging.getLogger("genealog.gateway")


class _Server(uvicorn.Server):
    """uvicorn, but for signals: it would end the process by the signal again, before we have cleaned up."""

    def __init__(self, config: uvicorn.Config, lifeline: socket.socket) -> None:
        super().__init__(config)
        self._lifeline = lifeline

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell the parent."""
        await super().startup(sockets)
        with contextlib.suppress(OSError):  # no parent any more: the lifeline says so soon enough
            self._lifeline.send(b"r")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def drain(self) -> None:
        """Take no new connections from now on; finish what runs."""
        self.should_exit = True
        for server in getattr(self, "servers", ()):
            server.close()


@contextlib.asynccontextmanager
async def gateway(store: Path, *, max_body: int) -> AsyncIterator[Gateway]:
    """Open the application over a store. Raises: what opening the store and the spool raises."""
    home = Home.open(store)
    recording = Recording(home.spool_dir, home.emitter_kind)
    directory = Directory(lambda: StoreSource(Home.open(store)))
    try:
        await directory.start()
        async with open_session() as session:
            handshakes = Handshakes(session, directory)
            chores = [asyncio.create_task(chore) for chore in (handshakes.renew_forever(), recording.tidy_forever())]
            yield Gateway(
                recording=recording, directory=directory, handshakes=handshakes, session=session, max_body=max_body
            )
            for chore in chores:
                chore.cancel()
    finally:
        await directory.stop()
        recording.close()


async def serve(app: Gateway, listener: socket.socket, lifeline: socket.socket, *, drain: float) -> None:
    """Serve until the lifeline ends or SIGTERM comes, and then at most `drain` seconds longer."""
    config = uvicorn.Config(
        cast("Any", app),
        http=Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="critical",  # a cut connection is our way to say that an answer broke off, not an error to report
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=cast("int", drain),
        backlog=2048,
    )
    server = _Server(config, lifeline)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.drain)
    loop.add_reader(lifeline, server.drain)  # readable means: it has ended
    try:
        await server.serve(sockets=[listener])
    finally:
        loop.remove_reader(lifeline)


async def _main(options: argparse.Namespace) -> None:
    with socket.socket(fileno=options.lifeline) as lifeline, socket.socket(fileno=options.listener) as listener:
        lifeline.setblocking(False)
        gc.freeze()  # what is imported stays, and what a call leaves dies by its count: look for cycles seldom
        gc.set_threshold(20_000, 50, 100)
        async with gateway(options.store, max_body=options.max_body) as app:
            await serve(app, listener, lifeline, drain=options.drain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker; return its exit status."""
    parser = argparse.ArgumentParser(prog="genealog.gateway.worker")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--max-body", type=int, required=True)
    parser.add_argument("--drain", type=float, required=True)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the parent decides
    try:
        asyncio.run(_main(options))
    except GenealogError as error:
        log.error("%s", error)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

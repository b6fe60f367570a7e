"""The witness's process: bind, serve until a signal comes, close the state."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from genealog import listening
from genealog.store.witness_state import WitnessState
from genealog.witness.app import DAY, WitnessApp


def serve(
    state: WitnessState,
    *,
    listen: str,
    announce: Callable[[str], None],
    logs: Path | None = None,
    per_day: int = DAY,
) -> None:
    """Serve until SIGTERM or SIGINT; `announce` gets the URL once requests are taken. Port 0 is any free one.

    Raises: MalformedError `bad-listen`, and what a bad list of logs raises; StoreError `cannot-listen`.
    """
    import uvicorn

    from genealog.witness.protocol import ImpatientProtocol

    app = WitnessApp(state, logs, per_day=per_day)
    try:
        with listening.listen_at(listen, backlog=512) as listener:
            url = listening.url_of(listener)

            class Server(uvicorn.Server):
                async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                    await super().startup(sockets)
                    announce(url)

                @contextmanager
                def capture_signals(self) -> Iterator[None]:
                    """Take the signals, and do not raise them again at the end: the state is to be closed."""
                    taken = (signal.SIGTERM, signal.SIGINT)
                    before = {number: signal.signal(number, self.handle_exit) for number in taken}
                    try:
                        yield
                    finally:
                        for number, handler in before.items():
                            signal.signal(number, handler)

            config = uvicorn.Config(
                app,
                loop="asyncio", http=ImpatientProtocol, ws="none", lifespan="off", log_level="warning",
                access_log=False, server_header=False, timeout_graceful_shutdown=5, limit_concurrency=256,
                timeout_keep_alive=30,
            )  # fmt: skip
            Server(config).run(sockets=[listener])
    finally:
        app.close()

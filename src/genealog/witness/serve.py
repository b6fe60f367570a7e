"""The witness's process: bind, serve until a signal comes, close the state."""

from __future__ import annotations

from collections.abc import Callable
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
    from genealog.witness.protocol import ImpatientProtocol

    app = WitnessApp(state, logs, per_day=per_day)
    try:
        with listening.listen_at(listen, backlog=512) as listener:
            url = listening.url_of(listener)
            listening.serve_until_signal(
                listener, app, lambda: announce(url), http=ImpatientProtocol, limit_concurrency=256
            )
    finally:
        app.close()

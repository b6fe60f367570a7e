"""Where a server of ours listens: the socket that it takes connections at, and the URL under which it is reached."""

from __future__ import annotations

import socket

from genealog.errors import StoreError


def listen(host: str, port: int, *, backlog: int, hint: str) -> socket.socket:
    """Take a port of an address (0: any free one) and listen. Raises: StoreError `cannot-listen` with this hint."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        raise StoreError(
            "cannot-listen", f"cannot listen on {host} port {port}", got=error.strerror or str(error), hint=hint
        ) from None


def url_of(listener: socket.socket) -> str:
    """Return the URL of a server that listens here."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

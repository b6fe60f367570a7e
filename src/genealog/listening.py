"""Where a server of ours listens: the socket that it takes connections at, and the URL under which it is reached."""

from __future__ import annotations

import socket

from genealog.errors import MalformedError, StoreError


def listen(host: str, port: int, *, backlog: int, hint: str, shared: bool = False) -> socket.socket:
    """Take a port of an address (0: any free one) and listen; `shared` lets others of this user take it too.

    Raises: StoreError `cannot-listen` with this hint.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog, reuse_port=shared)
    except OSError as error:
        raise StoreError(
            "cannot-listen", f"cannot listen on {host} port {port}", got=error.strerror or str(error), hint=hint
        ) from None


def listen_at(place: str, *, backlog: int) -> socket.socket:
    """Listen at `HOST:PORT`. Raises: MalformedError `bad-listen`; StoreError `cannot-listen`."""
    host, colon, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise MalformedError("bad-listen", "not an address to listen on", got=place, expected="HOST:PORT")
    hint = "something else may be running there; choose another port"
    return listen(host, int(port), backlog=backlog, hint=hint)


def url_of(listener: socket.socket) -> str:
    """Return the URL of a server that listens here."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

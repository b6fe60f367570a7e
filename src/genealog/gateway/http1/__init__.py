"""HTTP/1.1 on bare asyncio protocols, both sides: for a gateway whose calls cost microseconds.

    client ── server.Server ── Application: (Request, Reply) → Handler
    Pool.take or Pool.open → Connection.ask(head, body, sink) ── upstream

`head` holds the values and the rules. Nothing here knows what Genealog is, but for its errors.
"""

from genealog.gateway.http1.client import Connection, Sink, UpstreamLostError
from genealog.gateway.http1.head import (
    Headers,
    Limits,
    Origin,
    PeerCertificate,
    RefusedError,
    Request,
    Response,
    write_request,
)
from genealog.gateway.http1.link import Application, Handler, Reply
from genealog.gateway.http1.pool import Pool
from genealog.gateway.http1.server import Server

__all__ = [
    "Application", "Connection", "Handler", "Headers", "Limits", "Origin", "PeerCertificate", "Pool", "RefusedError",
    "Reply", "Request", "Response", "Server", "Sink", "UpstreamLostError", "write_request",
]  # fmt: skip

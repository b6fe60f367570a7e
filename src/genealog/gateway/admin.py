"""Health, readiness and metrics of a gateway, on an address of their own: nothing that clients reach, no secrets.

    GET /healthz   200 while the process can answer: a reason to leave it alone
    GET /readyz    200 while calls can be taken and recorded; 503 with the reasons: send them elsewhere
    GET /metrics   for Prometheus

Served by threads of the parent, from the standard library: a few requests a minute, beside what does the work.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from genealog.errors import StoreError
from genealog.listening import address_of


class Status(Protocol):
    """What is asked. Called from other threads than the one that does the work."""

    def troubles(self) -> Iterable[str]:
        """Return why no call should come here now; nothing if they may."""

    def metrics(self) -> tuple[str, bytes]:
        """Return content type and page."""


class Admin:
    """Answers on an address until it is closed."""

    def __init__(self, address: str, status: Status) -> None:
        host, port = address_of(address)
        try:
            family = _Server6 if ":" in host else _Server
            self._server = family((host, port), _handler(status))
        except OSError as error:
            raise StoreError(
                "cannot-listen", f"nobody can ask for health and metrics on {address}", got=error.strerror,
                hint="choose another [gateway] admin",
            ) from None  # fmt: skip
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="admin", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


class _Server6(_Server):
    address_family = socket.AF_INET6


def _handler(status: Status) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/healthz":
                self._json(200, {"status": "ok"})
            elif path == "/readyz":
                troubles = list(status.troubles())
                self._json(
                    503 if troubles else 200, {"status": "not ready" if troubles else "ready", "because": troubles}
                )
            elif path == "/metrics":
                kind, page = status.metrics()
                self._answer(200, kind, page)
            else:
                self._json(404, {"status": "there are /healthz, /readyz and /metrics"})

        do_HEAD = do_GET  # noqa: N815 - the name that the library looks for

        def _json(self, code: int, value: object) -> None:
            self._answer(code, "application/json", json.dumps(value).encode())

        def _answer(self, code: int, kind: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def version_string(self) -> str:
            return "genealog"

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Say nothing: probes come every few seconds."""

    return Handler

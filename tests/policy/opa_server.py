"""Open Policy Agent's REST API in front of the real engine: the Go library of OPA 1.20, in this process.

No `opa` binary can be had as a package, so the HTTP side is written here, after OPA's page "REST API":
`GET /v1/policies`, `GET` and `POST /v1/data/PATH` with `provenance` and `strict-builtin-errors`. What decides is OPA
itself. `fault` is what the server does wrong.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from opa_bindings import OpaEngine, OpaError, OpaUndefinedError

from genealog.errors import PolicyDenied

Fault = Literal["", "slow", "dripping", "status", "undefined", "junk", "redirect", "truncated", "huge", "gone", "list"]


class GoOpa:
    """A policy set's files in real OPA, in process. It is an engine as `policy.port` says: the reference."""

    name = "opa, the Go library"

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._engine = OpaEngine()
        try:
            for path, data in files.items():
                if path.endswith(".rego"):
                    self._engine.add_policy(path, data.decode())
            self._engine.add_data(json.loads(files["data.json"]))
        except OpaError as error:
            self.close()
            raise PolicyDenied("policy-malformed", "OPA does not load this", got=error) from None

    def evaluate(self, document: bytes) -> object:
        return self.ask("genealog.decision", json.loads(document))

    def ask(self, path: str, document: object) -> object:
        try:
            found: object = self._engine.eval_document(path, document)
        except OpaUndefinedError:
            return None
        except OpaError as error:
            raise PolicyDenied("policy-error", "OPA gives an error", got=error) from None
        return found

    def close(self) -> None:
        self._engine.close()


@dataclass
class Agent:
    """One server: what is in it, what it does wrong, and what it was asked."""

    files: dict[str, bytes]
    fault: Fault = ""
    token: str | None = None
    bundle: str | None = "1"  # its bundle's revision
    asked: list[str] = field(default_factory=list)
    url: str = ""
    _engine: GoOpa | None = None

    def load(self, files: Mapping[str, bytes], bundle: str | None = "1") -> None:
        """Have other policies in it."""
        self.bundle = bundle
        if self.files != dict(files):
            self.files = dict(files)
            self.close()

    @property
    def engine(self) -> GoOpa:
        if self._engine is None:
            self._engine = GoOpa(self.files)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def answer(self, path: str, query: Mapping[str, list[str]], document: Any) -> tuple[int, Any]:
        if path == "/v1/policies":
            modules = [name for name in self.files if name.endswith(".rego")]
            return 200, {"result": [{"id": name, "raw": self.files[name].decode(), "ast": {}} for name in modules]}
        answer: dict[str, Any] = {}
        if path == "/v1/data/genealog/settings":
            found: object = json.loads(self.files["data.json"])["genealog"]["settings"]
        else:
            if query.get("strict-builtin-errors") != ["true"]:
                return 400, {"code": "invalid_parameter", "message": "not asked strictly"}
            answer["decision_id"] = "4ca636c1"
            try:
                found = self.engine.ask(path.removeprefix("/v1/data/").replace("/", "."), document["input"])
            except PolicyDenied as error:
                return 500, {"code": "internal_error", "message": str(error)}
        if query.get("provenance") == ["true"]:
            answer["provenance"] = {"version": "1.20.0", "build_commit": "", "build_timestamp": ""}
            if self.bundle is not None:
                answer["provenance"]["bundles"] = {"genealog": {"revision": self.bundle}}
        return 200, answer if found is None else answer | {"result": found}


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Agent]:
    """Serve until the block ends."""
    agent = Agent(dict(files))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            parts = urlsplit(self.path)
            agent.asked.append(parts.path)
            if agent.token is not None and self.headers.get("authorization") != f"Bearer {agent.token}":
                return self._send(401, b'{"code":"unauthorized","message":"not allowed"}')
            status, found = agent.answer(parts.path, parse_qs(parts.query), json.loads(body) if body else None)
            data = json.dumps(found, ensure_ascii=False).encode()
            if self.command == "POST" and agent.fault:
                return self._wrong(data)
            return self._send(status, data)

        def _wrong(self, data: bytes) -> None:
            fault = agent.fault
            if fault == "slow":
                time.sleep(1.5)
            elif fault == "status":
                return self._send(500, b'{"result": {"allow": true, "results": {}}}')
            elif fault == "undefined":
                return self._send(
                    200, b'{"decision_id": "4ca636c1", "provenance": {"bundles": {"genealog": {"revision": "1"}}}}'
                )
            elif fault == "junk":
                return self._send(200, b"<html>allow</html>")
            elif fault == "list":
                return self._send(200, b'["allow"]')
            elif fault == "huge":
                return self._send(200, b'{"result": "' + b"x" * (5 << 20) + b'"}')
            elif fault == "redirect":
                self.send_response(307)
                self.send_header("location", f"{agent.url}/v1/policies")
                self.send_header("content-length", "0")
                return self.end_headers()
            elif fault in ("truncated", "dripping"):
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                for at in range(len(data) // 2):
                    self.wfile.write(data[at : at + 1])
                    time.sleep(0.03 if fault == "dripping" and at < 60 else 0)
                self.close_connection = True
                return None
            elif fault == "gone":
                self.close_connection = True
                return None
            return self._send(200, data)

        def _send(self, status: int, data: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:  # a client that hung up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    agent.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield agent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        agent.close()

"""A closed-loop load: `python -m benchmarks._load '{"port": 8080, "connections": 16, "seconds": 2}'`.

Each connection asks again as soon as it has its answer, until the time is over. Prints one JSON object: `calls`,
`errors`, `calls_s`, and of calls that were answered with 200 `p50_us`, `p99_us` and `first_us` (median to the first
byte). Light to start: the standard library alone.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import Any

WORDS = ("lorem ipsum dolor " * 400)[:600]
PATH = "/v1/chat/completions"


@dataclass
class Load:
    """What to ask, where and for how long."""

    port: int
    connections: int = 1
    seconds: float = 2.0
    path: str = PATH
    model: str = "bench-model"
    stream: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    calls: int = 0  # stop after so many; 0: only by time

    @property
    def request(self) -> bytes:
        """The bytes of one request: 600 bytes of prompt."""
        messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": WORDS}]
        asked = {"model": self.model, "messages": messages, "temperature": 0.2, "max_tokens": 64}
        body = json.dumps({**asked, "stream": True} if self.stream else asked).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        head = f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{extra}"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class _Client(asyncio.Protocol):
    def __init__(self, load: Load, until: float, left: list[int], took: list[float], first: list[float]) -> None:
        self._request = load.request
        self._until = until
        self._left = left
        self._took = took
        self._first = first
        self._got = b""
        self.errors: list[str] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.done.done():
            self.errors.append("connection lost")
            self.done.set_result(None)

    def _ask(self) -> None:
        if time.perf_counter() >= self._until or not self._left[0]:
            self.done.set_result(None)
            self._transport.close()
            return
        self._left[0] -= 1
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._got:
            self._since = now - self._began
        self._got += data
        head, end, body = self._got.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
        if not end or ((len(body) < int(length)) if length else not body.endswith(b"0\r\n\r\n")):
            return
        if head.startswith(b"HTTP/1.1 200"):
            self._took.append(now - self._began)
            self._first.append(self._since)
        else:
            self.errors.append(self._got[:300].decode("latin-1"))
        self._got = b""
        self._ask()


def run(load: Load) -> dict[str, Any]:
    """Make the load; return what it saw."""
    took: list[float] = []
    first: list[float] = []
    errors: list[str] = []

    async def main() -> float:
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        left = [load.calls or sys.maxsize]
        made = [
            await loop.create_connection(
                lambda: _Client(load, began + load.seconds, left, took, first), "127.0.0.1", load.port
            )
            for _ in range(load.connections)
        ]
        await asyncio.gather(*(client.done for _, client in made))
        for _, client in made:
            errors.extend(client.errors)
        return time.perf_counter() - began

    wall = asyncio.run(main())
    found: dict[str, Any] = {"calls": len(took), "errors": len(errors), "calls_s": len(took) / wall}
    if errors:
        found["last"] = errors[-1]
    if took:
        took.sort()
        found |= {"p50_us": statistics.median(took) * 1e6, "p99_us": took[int(len(took) * 0.99)] * 1e6,
                  "first_us": statistics.median(first) * 1e6}  # fmt: skip
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Load(**json.loads(sys.argv[1])))))

"""A small answer of an upstream, for the gateway itself: handshakes and signatures, over the pool that calls use."""

from __future__ import annotations

import asyncio

from genealog.errors import UpstreamError
from genealog.gateway.http1 import Connection, Origin, Pool, Response, UpstreamLostError, write_request


class _Collecting:
    """Collects one answer of at most `most` bytes, of status 200; of others it has nothing. A `http1.Sink`."""

    def __init__(self, connection: Connection, most: int) -> None:
        self.done: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._most = most
        self._wanted = False
        self._body = bytearray()

    def head(self, response: Response) -> None:
        self._wanted = response.status == 200

    def data(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > self._most:
            self._connection.abort()
            self._tell(None)

    def end(self) -> None:
        self._tell(bytes(self._body) if self._wanted else None)

    def failed(self, error: UpstreamError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def _tell(self, body: bytes | None) -> None:
        if not self.done.done():
            self.done.set_result(body)


async def fetch(pool: Pool, origin: Origin, host: bytes, target: bytes, *, most: int, patience: float) -> bytes | None:
    """Return the body of a 200, None for any other status and for a body of more than `most` bytes.

    Raises: UpstreamError as `Pool.open` where nobody can be asked, `upstream-silent` where nobody answers in time.
    """
    head = write_request("GET", target, [(b"host", host), (b"accept", b"application/json")], 0)
    try:
        async with asyncio.timeout(patience):
            while True:
                connection = pool.take(origin) or await pool.open(origin)
                sink = _Collecting(connection, most)
                try:
                    connection.ask(head, b"", sink)
                    return await sink.done
                except UpstreamLostError as error:
                    if not error.retriable:
                        raise _silent(error.got) from None
                except asyncio.CancelledError:
                    connection.abort()
                    raise
    except TimeoutError:
        raise _silent("TimeoutError") from None


def _silent(got: str | None) -> UpstreamError:
    return UpstreamError("upstream-silent", "the engine did not answer", got=got)

"""Ask servers that nobody trusts: small requests with an end in time and in size.

A connection is kept for the next request to the same server. Each request has a limit for one wait, one for the whole,
and one for the size of the reply, before and after decompression. Redirects are not followed: who trusts a URL has not
said that he trusts where it points today. Nothing of a reply is believed here.

`Remote` is one server for one thread; `RemoteFiles` is a tree of files for `store.static_tree`, read ahead by threads;
`open_tree` opens a published tree wherever it is.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from genealog.errors import MalformedError, UpstreamError, UsageError
from genealog.store.static_tree import FolderFiles, StaticTree

WAIT = 10.0  # seconds for one answer of the network
WHOLE = 60.0  # seconds for one request, from its first byte to the reply's last
AT_ONCE = 4  # requests to one server
_FAULTS = (OSError, http.client.HTTPException, ValueError, zlib.error)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        """The media type without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class RemoteLateError(UpstreamError):
    """A request that had no end in time; its code is `remote-failed`."""


class RemoteGoneError(UpstreamError):
    """Nobody at the other end of the network; its code is `remote-failed`."""


class Remote:
    """One server under a base URL. Not thread-safe."""

    def __init__(self, url: str, *, wait: float = WAIT, whole: float = WHOLE) -> None:
        """Raises: MalformedError `bad-url`. Nothing is sent yet."""
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            raise _bad_url("not a URL") from None
        if parts.scheme not in ("http", "https") or not self._host or not url.isascii() or not url.isprintable():
            raise _bad_url("not an http:// or https:// URL")
        if parts.username is not None or parts.query or parts.fragment:
            raise _bad_url("a base URL has no user, query or fragment")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._secure = parts.scheme == "https"
        self._wait, self._whole = wait, whole
        self._connection: http.client.HTTPConnection | None = None

    def __str__(self) -> str:
        return self.url

    def get(self, path: str, *, limit: int) -> Reply:
        """GET a path below the base URL. Raises: UpstreamError as `send`."""
        return self.send("GET", path, limit=limit)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        asks: bool = False,
    ) -> Reply:
        """Send one request; the reply's body has at most `limit` bytes. `asks`: a POST that changes nothing there.

        Raises: UpstreamError `remote-failed` (network, time, broken HTTP), `remote-too-big`.
        """
        fresh = self._connection is None
        asks = asks or method == "GET"
        try:
            return self._exchange(method, path, body, limit, headers)
        except UpstreamError as error:
            self.close()
            if fresh or error.code != "remote-failed" or not asks or isinstance(error, RemoteLateError):
                raise
            return self._exchange(method, path, body, limit, headers)  # the kept connection may have been closed
        finally:
            if not asks:
                self.close()  # what changes something is not sent again, so it gets a connection that is surely alive

    def _exchange(
        self, method: str, path: str, body: bytes | None, limit: int, headers: Mapping[str, str] | None
    ) -> Reply:
        connection = self._connection or self._connect()
        self._connection = connection
        late = threading.Event()
        held: list[socket.socket] = []
        clock = threading.Timer(self._whole, _cut, (held, late))
        clock.daemon = True
        clock.start()
        try:
            if connection.sock is None:
                connection.connect()
            held.append(connection.sock)  # the connection forgets it at once if the reply says that it ends with it
            if late.is_set():
                raise TimeoutError
            connection.request(
                method,
                f"{self._prefix}/{path}" if path else self._prefix or "/",
                body,
                {"accept-encoding": "gzip", "user-agent": "genealog"} | dict(headers or {}),
            )
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            with answer:
                data = self._body(answer, fields, limit)
            if late.is_set():  # without a length, a reply that was cut looks whole
                raise TimeoutError
        except _FAULTS as error:
            self.close()
            why = f"no end after {self._whole:g} s" if late.is_set() else _reason(error)
            kind = UpstreamError
            if late.is_set() or isinstance(error, TimeoutError):
                kind = RemoteLateError
            elif isinstance(error, OSError):
                kind = RemoteGoneError
            raise kind("remote-failed", "a server did not answer as it should", got=f"{self.url}: {why}") from None
        finally:
            clock.cancel()
        if answer.will_close:
            self.close()
        return Reply(answer.status, fields, data)

    def _body(self, answer: http.client.HTTPResponse, fields: Mapping[str, str], limit: int) -> bytes:
        """Read the body, no further than the limit, packed and unpacked: a small reply may unpack to a huge one."""
        coding = fields.get("content-encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", ""):
            raise ValueError(f"an unknown content coding {coding[:20]!r}")
        data = answer.read(limit + 1)
        if len(data) > limit:
            raise self._too_big(limit)
        if answer.length:
            raise ValueError(f"{answer.length} bytes of the body are missing")
        if coding == "gzip":
            unpack = zlib.decompressobj(wbits=31)
            data = unpack.decompress(data, limit + 1)
            if len(data) > limit or unpack.unconsumed_tail:
                raise self._too_big(limit)
            if not unpack.eof or unpack.unused_data:
                raise ValueError("gzip that does not end where the body ends")
        return data

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._wait, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._wait)

    def _too_big(self, limit: int) -> UpstreamError:
        self.close()
        return UpstreamError(
            "remote-too-big",
            "a reply is bigger than anything that was asked for",
            got=self.url,
            expected=f"≤ {limit} bytes",
        )

    def close(self) -> None:
        """Let go of the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteFiles:
    """The files of a tile tree behind a URL (`store.static_tree.Files`). `ahead` says what will be asked for next."""

    def __init__(self, url: str, *, wait: float = WAIT, whole: float = WHOLE) -> None:
        """Raises: MalformedError `bad-url`."""
        self._limits = wait, whole
        self.url = Remote(url).url
        self._own = threading.local()
        self._remotes: list[Remote] = []
        self._work = ThreadPoolExecutor(AT_ONCE, "remote")
        self._coming: dict[str, Future[bytes | None]] = {}

    def __str__(self) -> str:
        return self.url

    def get(self, path: str, limit: int) -> bytes | None:
        """Return a file, None where there is none. Raises: UpstreamError `remote-failed`, `remote-too-big`."""
        coming = self._coming.pop(path, None)
        return self._fetch(path, limit) if coming is None else coming.result()

    def ahead(self, paths: Iterable[str], limit: int) -> None:
        """Begin to fetch these files; what was announced before and not asked for is forgotten."""
        wanted = list(paths)[:AT_ONCE]
        for path in [path for path in self._coming if path not in wanted]:
            self._coming.pop(path).cancel()
        for path in wanted:
            if path not in self._coming:
                self._coming[path] = self._work.submit(self._fetch, path, limit)

    def _fetch(self, path: str, limit: int) -> bytes | None:
        if not hasattr(self._own, "remote"):
            self._own.remote = Remote(self.url, wait=self._limits[0], whole=self._limits[1])
            self._remotes.append(self._own.remote)
        reply: Reply = self._own.remote.get(path, limit=limit)
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise UpstreamError(
                "remote-failed", "a server did not answer as it should", got=f"{self.url}/{path}: {reply.status}"
            )
        return reply.body

    def close(self) -> None:
        """Fetch nothing any more; waits for what is being fetched."""
        self._work.shutdown(cancel_futures=True)
        for remote in self._remotes:
            remote.close()


def _cut(held: Iterable[socket.socket], late: threading.Event) -> None:
    """End a request that takes too long, wherever it waits. One that connects yet has its wait for an end."""
    late.set()
    for each in held:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def open_tree(place: str) -> Iterator[StaticTree]:
    """Open a published tree at a URL or in a folder. Raises: MissingError `no-such-tree`; MalformedError `bad-url`."""
    if "://" not in place:
        yield StaticTree(FolderFiles.open(Path(place)))
        return
    files = RemoteFiles(place)
    try:
        yield StaticTree(files)
    finally:
        files.close()


def _reason(error: Exception) -> str:
    """Say what failed, in words that hold nothing of the reply's body."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    words = ascii(str(error)[:80])[1:-1]  # a status line is the server's own words
    return (error.strerror if isinstance(error, OSError) else None) or f"{type(error).__name__}: {words}"


def _bad_url(message: str) -> MalformedError:
    return UsageError("bad-url", message, expected="https://host[:port][/path]")

"""Strangers who keep a witness busy: idle connections, headers without end, chunks that make no sense."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from genealog.witness import protocol
from witness_samples import Tree, get, make_witness, post, running

TREE = Tree(16)
POST = b"POST /add-checkpoint HTTP/1.1\r\nhost: w\r\n"


def until_cut(port: int, *sent: bytes, again: bytes = b"", limit: float = 60.0) -> bytes:
    """Send bytes, then `again` and again, and return what came back until the witness closed the connection."""
    got, end = b"", time.monotonic() + limit
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(0.02)
        with contextlib.suppress(ConnectionError):
            for data in sent:
                connection.sendall(data)
            while time.monotonic() < end:
                if again:
                    with contextlib.suppress(TimeoutError):
                        connection.sendall(again)
                with contextlib.suppress(TimeoutError):
                    if not (data := connection.recv(65_536)):
                        return got
                    got += data
            raise AssertionError("the witness waits for ever")
    return got


@pytest.mark.parametrize(
    ("sent", "again"),
    [
        (b"", b""),
        (b"POST /add", b""),
        (POST + b"x-slow: ", b"a"),
        (b"GET /healthz HTTP/1.1\r\nhost: w\r\n\r\n", b"\r\n"),
        (b"POST /elsewhere HTTP/1.1\r\nhost: w\r\ncontent-length: 100000\r\n\r\n", b"x"),
    ],
    ids=["silent", "half a line", "half a header", "nothing after a reply", "a body that nobody reads"],
)
def test_a_connection_that_asks_nothing_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, again: bytes
) -> None:
    monkeypatch.setattr(protocol.ImpatientProtocol, "patience", 0.3)
    with running(make_witness(tmp_path / "w", TREE)) as port:
        until_cut(port, sent, again=again)
        assert post(port, TREE.body(0, 8))[0] == 200


@pytest.mark.parametrize("start", [POST + b"x-long: ", b"POST /" + b"a" * 100], ids=["a header", "a path"])
def test_a_request_without_end_is_cut_before_it_fills_the_memory(tmp_path: Path, start: bytes) -> None:
    with running(make_witness(tmp_path / "w", TREE)) as port:
        until_cut(port, start, again=b"a" * 65_536)
        assert get(port, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n5\r\nabcdefghij\r\n",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nold 0\r\n0\r\n\r\n",
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nold 0\n",
        POST + b"content-length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    ],
    ids=["huge chunk", "chunk below 0", "chunk too long", "two lengths", "two others", "length below 0", "TLS"],
)
def test_nonsense_is_refused(tmp_path: Path, request_bytes: bytes) -> None:
    with running(make_witness(tmp_path / "w", TREE)) as port:
        assert until_cut(port, request_bytes).startswith(b"HTTP/1.1 400")
        assert post(port, TREE.body(0, 8))[0] == 200

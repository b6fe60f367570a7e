"""Servers of ours before clients that say nothing, or say it slowly."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

SERVER = """
from genealog import listening

async def app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

with listening.listen_at("127.0.0.1:0", backlog=16) as listener:
    listening.serve_until_signal(
        listener, app, lambda: print(listener.getsockname()[1], flush=True), within=0.5, limit_concurrency=4
    )
"""
WHOLE = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na"


@pytest.fixture
def port() -> Iterator[int]:
    words = [sys.executable, "-c", SERVER]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout
            yield int(process.stdout.readline())
        finally:
            process.terminate()
            process.wait(20)


def opened(port: int, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(data)
    return connection


@pytest.mark.parametrize(
    "data", [b"", b"POST / HT", WHOLE[:-1], WHOLE + b"POST / HTTP/1.1\r\n"], ids=["silent", "head", "body", "next"]
)
def test_connections_without_a_whole_request_end(port: int, data: bytes) -> None:
    silent = [opened(port, data) for _ in range(3)]
    for each in silent:
        if data.startswith(WHOLE):  # of what comes behind an answer, the next byte counts
            answer = b""
            while not answer.endswith(b"ok"):
                answer += each.recv(1_000)
            each.sendall(b"h")
    for each in silent:
        with each, suppress(ConnectionResetError):
            assert each.recv(1_000) == b""
    with opened(port, WHOLE) as last:
        assert b"200 OK" in last.recv(1_000)


def test_a_client_in_time_keeps_its_connection(port: int) -> None:
    with opened(port, b"") as client:
        for _ in range(3):
            client.sendall(WHOLE[:20])
            client.sendall(WHOLE[20:])
            answer = client.recv(1_000)
            while not answer.endswith(b"ok"):
                answer += client.recv(1_000)
            assert b"200 OK" in answer

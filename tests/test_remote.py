"""Servers that nobody trusts: slow, long, short, packed and broken replies end in time, in size and in one error."""

from __future__ import annotations

import gzip
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from genealog.errors import GenealogError, MalformedError
from genealog.remote import Remote, RemoteFiles

Serve = Callable[[Any], None]


@contextmanager
def server(handle: Serve) -> Iterator[str]:
    """A server that answers every GET and POST with `handle(handler)`, with connections kept; yields its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            handle(self)

        def do_POST(self) -> None:
            handle(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def answer(handler: Any, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def refused(url: str, code: str, **limits: Any) -> None:
    with Remote(url, **limits) as remote, pytest.raises(GenealogError) as error:
        remote.get("x", limit=1000)
    assert error.value.code == code


def test_a_connection_is_kept_and_made_again_when_the_server_let_go() -> None:
    ports = []

    def handle(handler: Any) -> None:
        ports.append(handler.client_address[1])
        answer(handler, b"ok")
        handler.close_connection = len(ports) == 2  # without a word to the client

    with server(handle) as url, Remote(url + "/base/") as remote:
        assert [remote.get("x", limit=10).body for _ in range(3)] == [b"ok"] * 3
    assert len(set(ports)) == 2


def test_gzip_is_unpacked_and_a_bomb_is_not() -> None:
    with (
        server(lambda h: answer(h, gzip.compress(b"entry" * 100), content_encoding="gzip")) as url,
        Remote(url) as remote,
    ):
        assert remote.get("x", limit=1000).body == b"entry" * 100
    with server(lambda h: answer(h, gzip.compress(bytes(500_000)), content_encoding="gzip")) as url:
        refused(url, "remote-too-big")
    with server(lambda h: answer(h, gzip.compress(b"x") + b"more", content_encoding="gzip")) as url:
        refused(url, "remote-failed")
    with server(lambda h: answer(h, gzip.compress(b"x")[:-3], content_encoding="gzip")) as url:
        refused(url, "remote-failed")
    with server(lambda h: answer(h, b"x", content_encoding="br")) as url:
        refused(url, "remote-failed")


def test_a_reply_that_is_too_long_is_not_read_and_one_that_is_cut_is_not_believed() -> None:
    with server(lambda h: answer(h, b"x" * 1001)) as url:
        refused(url, "remote-too-big")

    def cut(handler: Any) -> None:
        answer(handler, b"half", length=8)
        handler.close_connection = True

    with server(cut) as url:
        refused(url, "remote-failed")


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_server_that_never_comes_to_an_end_is_left(connection: str) -> None:
    gone = threading.Event()

    def drip(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.send_header("connection", connection)
        handler.end_headers()
        while not gone.wait(0.02):
            try:
                handler.wfile.write(b".")
                handler.wfile.flush()
            except OSError:
                break
        handler.close_connection = True

    with server(drip) as url:
        refused(url, "remote-failed", wait=5.0, whole=0.3)
        gone.set()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        refused(f"http://127.0.0.1:{silent.getsockname()[1]}", "remote-failed", wait=0.2)
        port = silent.getsockname()[1]
    refused(f"http://127.0.0.1:{port}", "remote-failed")


def test_the_words_of_a_server_move_no_terminal() -> None:
    def shout(handler: Any) -> None:
        handler.wfile.write(b"\x1b[2J\x1b]0;proven\x07\r\n\r\n")
        handler.close_connection = True

    with server(shout) as url, Remote(url) as remote, pytest.raises(GenealogError) as error:
        remote.get("x", limit=10)
    assert str(error.value).isprintable()


def test_redirects_are_not_followed() -> None:
    with server(lambda h: answer(h, b"", 302, location="http://127.0.0.1:1/")) as url, Remote(url) as remote:
        assert remote.get("x", limit=10).status == 302


def test_a_post_is_sent_once() -> None:
    sent = []

    def handle(handler: Any) -> None:
        sent.append(handler.rfile.read(int(handler.headers["content-length"])))
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    with server(handle) as url, Remote(url) as remote, pytest.raises(GenealogError):
        remote.send("POST", "add", b"body", limit=10)
    assert sent == [b"body"]


BAD_URLS = ["", "x", "ftp://h/", "file:///etc/passwd", "http://", "http://u:p@h/", "http://h/?q", "http://h/#f"]


@pytest.mark.parametrize("url", [*BAD_URLS, "http://h:99999/", "http://h\n/"])
def test_what_is_no_base_url(url: str) -> None:
    with pytest.raises(MalformedError) as error:
        Remote(url)
    assert error.value.code == "bad-url"
    assert "u:p" not in str(error.value)


def test_files_are_fetched_ahead() -> None:
    asked = []

    def handle(handler: Any) -> None:
        asked.append(handler.path)
        answer(
            handler, handler.path.encode(), 404 if handler.path == "/none" else 500 if handler.path == "/bad" else 200
        )

    with server(handle) as url:
        files = RemoteFiles(url)
        files.ahead(["a", "b", "none"], 100)
        assert [files.get(path, 100) for path in ("a", "b", "none", "c")] == [b"/a", b"/b", None, b"/c"]
        with pytest.raises(GenealogError):
            files.get("bad", 100)
        files.close()
    assert sorted(asked) == ["/a", "/b", "/bad", "/c", "/none"]

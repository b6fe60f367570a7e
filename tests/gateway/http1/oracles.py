"""What h11 and llhttp (by httptools) make of the same bytes: the judges of ours.

Both are fed whole. A message that we accept, they must accept and read the same. Where they are stricter for a reason
that is ours to decide, `excused` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
import httptools

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass
class Verdict:
    """Complete messages (requests: method, target, headers, body; answers: status, body) and what stopped it."""

    messages: list[tuple[object, ...]] = field(default_factory=list)
    error: str | None = None


def h11_requests(stream: bytes) -> Verdict:
    """Read all requests, answering each."""
    verdict = Verdict()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(stream)
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                headers = tuple((name, bytes(value)) for name, value in head.headers.raw_items())
                verdict.messages.append((head.method.decode(), bytes(head.target), _lower(headers), body))
                if head.method == b"CONNECT":  # what follows is no HTTP
                    return verdict
                connection.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return verdict
                connection.start_next_cycle()
            else:
                return verdict
    except h11.RemoteProtocolError as error:
        verdict.error = str(error)
        return verdict


def _lower(headers: Headers) -> Headers:
    return tuple((name.lower(), value) for name, value in headers)


def h11_response(stream: bytes, method: str, *, eof: bool) -> Verdict:
    """Read one answer."""
    verdict = Verdict()
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "u")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(stream)
    if eof:
        connection.receive_data(b"")
    status, body = 0, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                verdict.messages.append((status, body))
                return verdict
            elif not isinstance(event, h11.InformationalResponse):
                return verdict
    except h11.RemoteProtocolError as error:
        verdict.error = str(error)
        return verdict


class _Notes:
    """What httptools calls back."""

    def __init__(self) -> None:
        self.messages: list[tuple[object, ...]] = []
        self.parser: httptools.HttpRequestParser | httptools.HttpResponseParser
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.in_body = False
        self.status = 0

    def on_message_begin(self) -> None:
        self.url, self.headers, self.body, self.in_body = b"", [], b"", False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.in_body:  # else it is a trailer
            self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.in_body = True
        if isinstance(self.parser, httptools.HttpResponseParser):
            self.status = self.parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        if isinstance(self.parser, httptools.HttpResponseParser):
            self.messages.append((self.status, self.body))
        else:
            self.messages.append((self.parser.get_method().decode(), self.url, tuple(self.headers), self.body))


def llhttp_requests(stream: bytes) -> Verdict:
    """Read all requests."""
    notes = _Notes()
    notes.parser = httptools.HttpRequestParser(notes)
    return _feed(notes, stream)


def llhttp_response(stream: bytes) -> Verdict:
    """Read answers, 1xx among them. It knows of no HEAD, and of no end of the connection."""
    notes = _Notes()
    notes.parser = httptools.HttpResponseParser(notes)
    return _feed(notes, stream)


def _feed(notes: _Notes, stream: bytes) -> Verdict:
    try:
        notes.parser.feed_data(stream)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        return Verdict(notes.messages, f"{type(error).__name__}: {error}")
    return Verdict(notes.messages)

"""Forms (`multipart/form-data`), read as they stream by in bounded memory: what each part is, never where it was kept.

One parser for the gateway, which needs the field `model` before the upload is over, and for the sequencer. It is
stricter than those of servers: nothing before the first delimiter or after the last, no white space behind one, CRLF
only, no transfer encoding, one `model`. Two readers of such a form cannot disagree about it. Whatever else it is, is
said in `malformed`; nothing here raises.

Sources: RFC 7578, RFC 2046 §5.1.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from genealog.capture.dialects.foreign import LONGEST, Unreadable
from genealog.core.frames import StreamedPart

MAX_PARTS = 1000
MAX_HEAD = 16 * 1024  # of the headers of one part
MAX_TEXT = 1024 * 1024  # of all fields together that are kept as text
SINGLE = frozenset(("model", "stream"))  # what the gateway decides by

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - RFC 9110 §5.6.2
_PARAMETER = re.compile(rf'\s*;\s*({_TOKEN})=(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;,"]+))')
_FIRST, _HEAD, _DATA, _AFTER, _END, _BROKEN = range(6)


@dataclass(frozen=True, slots=True)
class FormPart:
    """One part. `text` is its value where it is a short field, no file, and UTF-8. A file's name is not kept."""

    name: str
    size: int
    sha256: str
    media_type: str | None = None
    file: bool = False
    text: str | None = None

    def streamed(self) -> StreamedPart:
        """Return it as it stands in a frame."""
        return StreamedPart(name=self.name, size=self.size, sha256=self.sha256, media_type=self.media_type)


class Form:
    """A form that is fed piece by piece. `content_type` is the request's header, which names the delimiter.

    `parts` are the parts that have ended. `malformed` is a code as soon as the form can mean nothing any more:
    `multipart-no-boundary`, `multipart-broken`, `multipart-too-many-parts`, `repeated-key`; after `end` also
    `multipart-cut`. What is fed after that is thrown away.
    """

    def __init__(self, content_type: str | None) -> None:
        self.parts: list[FormPart] = []
        self.malformed: str | None = None
        self.model_at: tuple[int, int] | None = None  # where the value of `model` stands in what was fed
        self._room = MAX_TEXT
        self._kept = b""
        self._fed = 0  # bytes before those that are looked at
        self._state = _FIRST
        self._part = _Open("", None, file=False)
        try:
            self._delimiter = b"\r\n--" + boundary(content_type)
        except Unreadable as error:
            self._break(str(error))

    @property
    def model(self) -> str | None:
        """The field `model`, as soon as it has ended."""
        return self.value("model")

    def value(self, name: str) -> str | None:
        """Return the text of the first field of this name, if it has ended and is short."""
        return next((part.text for part in self.parts if part.name == name), None)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        if self._state == _BROKEN:
            return
        data, self._kept = self._kept + data if self._kept else data, b""
        at = 0
        try:
            while (step := self._step(data, at)) is not None:
                at = step
        except Unreadable as error:
            self._break(str(error))
        else:
            self._kept = data[at:]
            self._fed += at

    def end(self) -> None:
        """Say that the body is over."""
        if self._state == _END and self._kept in (b"", b"\r\n"):
            return
        self._break("multipart-cut" if self._state != _END or self._kept == b"\r" else "multipart-broken")

    def _break(self, code: str) -> None:
        self.malformed = self.malformed or code
        self._state, self._kept = _BROKEN, b""

    def _step(self, data: bytes, at: int) -> int | None:
        """Go on from `at`; return where the next step begins, None if it needs more than there is."""
        if self._state == _DATA:
            return self._data(data, at)
        if self._state == _HEAD:
            return self._head(data, at)
        if self._state == _AFTER:
            return self._after(data, at)
        if self._state == _END:
            if not b"\r\n".startswith(data[at : at + 3]):
                raise Unreadable("multipart-broken")
            return None
        opening = self._delimiter[2:]
        if not opening.startswith(data[at : at + len(opening)]):
            raise Unreadable("multipart-broken")
        if len(data) - at < len(opening):
            return None
        self._state = _AFTER
        return at + len(opening)

    def _after(self, data: bytes, at: int) -> int | None:
        mark = data[at : at + 2]
        if not (b"--".startswith(mark) or b"\r\n".startswith(mark)):
            raise Unreadable("multipart-broken")
        if len(mark) < 2:
            return None
        if mark == b"--":
            self._state = _END
        elif len(self.parts) == MAX_PARTS:
            raise Unreadable("multipart-too-many-parts")
        else:
            self._state = _HEAD
        return at + 2

    def _head(self, data: bytes, at: int) -> int | None:
        end = data.find(b"\r\n\r\n", at, at + MAX_HEAD)
        if end < 0:
            if len(data) - at >= MAX_HEAD or data.startswith(b"\r\n", at):
                raise Unreadable("multipart-broken")
            return None
        self._part = _opened(data[at:end])
        self._state = _DATA
        return end + 4

    def _data(self, data: bytes, at: int) -> int | None:
        found = data.find(self._delimiter, at)
        if found < 0:
            safe = max(at, len(data) - len(self._delimiter) + 1)
            if safe == at:
                return None
            self._take(data, at, safe)
            return safe
        self._take(data, at, found)
        self._state = _AFTER
        if self._part.name == "model" and self.model_at is None:
            self.model_at = (self._fed + found - self._part.size, self._fed + found)
        self._close()
        return found + len(self._delimiter)

    def _take(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        piece = memoryview(data)[start:end]
        part.digest.update(piece)
        part.size += len(piece)
        if part.text is None:
            return
        if self._room < len(piece):
            part.text = None
        else:
            self._room -= len(piece)
            part.text += piece

    def _close(self) -> None:
        part = self._part
        if part.name in SINGLE and any(known.name == part.name for known in self.parts):
            raise Unreadable("repeated-key")
        self.parts.append(
            FormPart(part.name, part.size, part.digest.hexdigest(), part.media_type, part.file, _text(part.text))
        )


class _Open:
    __slots__ = ("digest", "file", "media_type", "name", "size", "text")

    def __init__(self, name: str, media_type: str | None, *, file: bool) -> None:
        self.name = name
        self.media_type = media_type
        self.file = file
        self.size = 0
        self.digest = hashlib.sha256()
        self.text: bytearray | None = None if file else bytearray()


def read_form(body: bytes, content_type: str | None) -> tuple[FormPart, ...]:
    """Read a whole form. Raises: Unreadable, with the codes of `Form`."""
    form = Form(content_type)
    form.feed(body)
    form.end()
    if form.malformed:
        raise Unreadable(form.malformed)
    return tuple(form.parts)


def boundary(content_type: str | None) -> bytes:
    """Return what delimits the parts of a form. Raises: Unreadable `multipart-no-boundary`."""
    kind, parameters = _parameters(content_type or "")
    found = parameters.get("boundary", "")
    if kind != "multipart/form-data" or not re.fullmatch(r"[ -~]{0,69}[!-~]", found):
        raise Unreadable("multipart-no-boundary")
    return found.encode("ascii")


def _parameters(header: str) -> tuple[str, dict[str, str]]:
    """Split `kind; a=b; c="d"`; a header that is spelled otherwise, or says a name twice, is no kind at all."""
    kind = header.partition(";")[0]
    at, found = len(kind), {}
    while (parameter := _PARAMETER.match(header, at)) is not None:
        name = parameter[1].lower()
        if name in found:
            return "", {}
        found[name] = parameter[3] if parameter[2] is None else parameter[2]
        at = parameter.end()
    return ("", {}) if header[at:].strip(" \t;") else (kind.strip().lower(), found)


def _opened(head: bytes) -> _Open:
    headers: dict[str, str] = {}
    for line in head.split(b"\r\n"):
        try:
            field, colon, value = line.decode().partition(":")
        except UnicodeDecodeError:
            raise Unreadable("multipart-broken") from None
        if not colon or not re.fullmatch(_TOKEN, field) or field.lower() in headers or "\n" in value or "\r" in value:
            raise Unreadable("multipart-broken")
        headers[field.lower()] = value.strip(" \t")
    kind, parameters = _parameters(headers.get("content-disposition", ""))
    name = parameters.get("name")
    if kind != "form-data" or name is None or "\\" in name or len(name) > LONGEST:
        raise Unreadable("multipart-broken")
    if headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
        raise Unreadable("multipart-broken")
    file = "filename" in parameters or "filename*" in parameters
    return _Open(name, media_type(headers.get("content-type")), file=file)


def media_type(header: str | None) -> str | None:
    """Return the media type that a Content-Type names, in lower case; None if it names none."""
    found = (header or "").partition(";")[0].strip().lower()
    return found if re.fullmatch(rf"{_TOKEN}/{_TOKEN}", found) and len(found) <= 128 else None


def _text(value: bytearray | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None

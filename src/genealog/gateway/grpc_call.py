"""One call over gRPC between its two frames: ask the upstream, pass messages on as they come, then the status.

    intent on record → messages up, each on record first … messages down … outcome on record → status

However it ends, it ends on record. A status that says that the client asked wrongly is an answer like any other; one
that says that the server failed is `upstream_error`; a client that cancels, or is out of time, has abandoned the call.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, NoReturn

import grpc
from grpc import aio

from genealog.core.cursor import Cursor
from genealog.core.frames import Finish
from genealog.core.protobuf import BYTES, fields
from genealog.errors import GenealogError, MalformedError, PolicyDenied, StoreError
from genealog.gateway.recording import Entry
from genealog.policy.release import Released

Metadata = tuple[tuple[str, str | bytes], ...]
_SERVER_FAILED = frozenset(
    (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
     grpc.StatusCode.DEADLINE_EXCEEDED)
)  # fmt: skip
_OF_HTTP = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    402: grpc.StatusCode.RESOURCE_EXHAUSTED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
}

log = logging.getLogger("genealog.gateway")


def _finish_of(error: GenealogError) -> Finish:
    if isinstance(error, PolicyDenied):
        return "unknown"  # it was cut: nobody saw its end
    return "refused" if isinstance(error, MalformedError) else "upstream_error"


def framed(message: bytes) -> bytes:
    """Return a message as it stands on record: behind gRPC's prefix for one that is not compressed."""
    return struct.pack(">BI", 0, len(message)) + message


def text_field(message: bytes, number: int) -> str:
    """Return a text field of a protobuf message, the last one where there are several; empty where there is none.

    Raises: MalformedError `grpc-message-malformed`.
    """
    return bytes_field(message, number).decode("utf-8", "replace")


def bytes_field(message: bytes, number: int) -> bytes:
    """As `text_field`, the bytes."""
    cursor = Cursor(lambda at, count: message[at : at + count], 0, len(message), format_="protobuf")
    found = b""
    try:
        for field in fields(cursor):
            if field.number == number and field.wire == BYTES:
                found = message[field.start : field.stop]
    except MalformedError as error:
        raise MalformedError("grpc-message-malformed", f"not a KServe message: {error.message}") from None
    return found


def renamed(message: bytes, name: str) -> bytes:
    """Return a request for the model `name`: of a field that comes twice the last one counts, so it is put behind."""
    data = name.encode()
    size = len(data)
    length = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    return message + b"\x0a" + length + data


def status_of(error: GenealogError, http: int) -> grpc.StatusCode:
    """Return the status for a refusal whose HTTP status would be `http`."""
    if error.code == "rpc-not-passed":
        return grpc.StatusCode.UNIMPLEMENTED
    return _OF_HTTP.get(http, grpc.StatusCode.INTERNAL)


async def settled(entry: Entry) -> None:
    """Return when the frames so far are as durable as the call asks for. Raises: StoreError."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(error: StoreError | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    entry.settle(tell)
    await done


class Exchange:
    """Runs one call whose intent is on record. `ours` is what the gateway says of it in the metadata."""

    def __init__(
        self,
        entry: Entry,
        context: Any,
        *,
        method: str,
        asked: str,
        ours: Metadata,
        to_client: Callable[[Any], Metadata],
        rename: str | None,
        release: Callable[[], Awaitable[Released | None]],
    ) -> None:
        self.entry = entry
        self.status: int | None = None
        self.finish: Finish = "unknown"
        self._context = context
        self._streams = method.endswith("StreamInfer")
        self._asked = asked
        self._ours = ours
        self._to_client = to_client
        self._rename = rename
        self._delivered = 0
        self._reported = False
        self._first: datetime | None = None
        self._wrong: GenealogError | None = None
        self._asking: Any = None  # the call upstream
        self._release = release
        self._released: Released | None = None

    def cut(self, error: PolicyDenied) -> None:
        """Break it off: it must not go on."""
        if self._wrong is None and self._asking is not None:
            self._wrong = error
            self._asking.cancel()

    async def unary(self, ask: Callable[..., Any], message: bytes, metadata: Metadata) -> bytes:
        """Ask, and return the answer, whose outcome is on record. Any other end leaves by `context.abort`."""
        call = self._asking = ask(self._up(message), metadata=metadata, timeout=self._context.time_remaining())
        try:
            answer: bytes = await call
            self._came(answer)
            if await self._out():
                await self._begin(call)
        except asyncio.CancelledError:
            if self._wrong is not None:
                await self._refuse(self._wrong)
            call.cancel()
            self._abandoned()
            raise
        except aio.AioRpcError as error:
            await self._failed(error)
        except StoreError as error:
            await self._refuse(error)
        trailing = self._to_client(await call.trailing_metadata())
        if self._released is not None and not self._released.out:
            await self._keep_back(self._released)
        self._delivered = self.entry.call.received
        await self._end(grpc.StatusCode.OK, await call.details(), trailing, "complete", None)
        return answer

    async def stream(self, ask: Callable[..., Any], message: bytes, metadata: Metadata) -> None:
        """Ask, and pass messages both ways until the upstream ends the stream, or the client."""
        call = self._asking = ask(metadata=metadata, timeout=self._context.time_remaining())
        upload = asyncio.create_task(self._upload(call, message))
        try:
            out = await self._out()
            if out:
                await self._begin(call)
            while (answer := await call.read()) is not aio.EOF:
                self._came(answer)
                if out:
                    await self._context.write(answer)
                    self._delivered = self.entry.call.received
            code, details = await call.code(), await call.details()
            trailing = self._to_client(await call.trailing_metadata())
        except asyncio.CancelledError:
            call.cancel()
            if self._wrong is None:
                self._abandoned()
                raise
        except aio.AioRpcError as error:
            await self._failed(error)
        except StoreError as error:
            call.cancel()
            self._wrong = error
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
        if self._wrong is not None:
            await self._refuse(self._wrong)
        elif self._released is not None and not self._released.out and code is grpc.StatusCode.OK:
            await self._keep_back(self._released)
        else:
            await self._end(code, details, trailing, "complete", None)

    async def _out(self) -> bool:
        """Say whether the answer goes out, which is decided before its first message does."""
        self._released = await self._release()
        if self._released is not None:
            self._ours += tuple((name.lower(), value) for name, value in self._released.headers.items())
        return self._released is None or self._released.out

    async def _begin(self, call: Any) -> None:
        await self._context.send_initial_metadata(self._to_client(await call.initial_metadata()) + self._ours)

    async def _keep_back(self, released: Released) -> NoReturn:
        """Put on record that the answer came, and tell the client why it does not get it."""
        error = released.error(self.entry.call.id)
        await self._end(grpc.StatusCode.OK, "", (), "complete", error.code, instead=error)
        raise AssertionError

    async def _upload(self, call: Any, message: bytes) -> None:
        """Send the client's messages on. What goes wrong with the upstream is told by the other direction."""
        try:
            await call.write(self._up(message))
            while (more := await self._context.read()) is not aio.EOF:
                if text_field(more, 1) != self._asked:
                    raise MalformedError(
                        "stream-changes-model", "a stream is one call, of one deployment: this message names another",
                        got=text_field(more, 1)[:80], expected=self._asked, hint="begin another stream for it",
                    )  # fmt: skip
                self.entry.call.upload(framed(more))
                await call.write(self._up(more))
            await call.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return
        except GenealogError as error:
            self._wrong = error
            call.cancel()

    def _up(self, message: bytes) -> bytes:
        return message if self._rename is None else renamed(message, self._rename)

    def _came(self, answer: bytes) -> None:
        """Take a message of the upstream. Raises: StoreError."""
        call = self.entry.call
        if self._first is None:
            self._first = call.now()
        call.chunk(framed(answer))
        if not self._reported:
            try:
                named = text_field(bytes_field(answer, 2) if self._streams else answer, 1)
            except MalformedError:
                return
            self._reported = bool(named) and named != self._asked

    async def _failed(self, error: aio.AioRpcError) -> NoReturn:
        """Pass a status that is none of success."""
        code = error.code()
        late = code is grpc.StatusCode.DEADLINE_EXCEEDED and self._late()
        finish: Finish = "client_abandoned" if late else "upstream_error" if code in _SERVER_FAILED else "complete"
        trailing = self._to_client(error.trailing_metadata() or ())
        await self._end(code, error.details() or "", trailing, finish, code.name.lower().replace("_", "-"))
        raise AssertionError

    def _late(self) -> bool:
        left = self._context.time_remaining()
        return left is not None and left <= 0.05

    async def _end(
        self, code: grpc.StatusCode, details: str, trailing: Metadata, finish: Finish, error: str | None,
        *, instead: GenealogError | None = None,
    ) -> None:  # fmt: skip
        """Put the outcome on record, then say how it ended, or `instead` why the client does not get it; for anything
        but success this does not return.
        """
        try:
            self._close(finish, code.value[0], error)
            await settled(self.entry)
        except asyncio.CancelledError:
            self._abandoned()  # closed already, or it is now
            raise
        except StoreError as unwritable:
            log.error("call %s: its outcome could not be recorded: %s", self.entry.call.id, unwritable.code)
            await self._context.abort(
                grpc.StatusCode.UNAVAILABLE,
                "the answer came but could not be recorded, so it is withheld [spool-unwritable]",
                self._ours,
            )
        if instead is not None:
            await self._context.abort(status_of(instead, instead.http_status), str(instead), self._ours)
        elif code is grpc.StatusCode.OK:
            self._context.set_trailing_metadata(trailing)
            self._context.set_details(details)
        else:
            await self._context.abort(code, details, trailing + self._ours)

    async def _refuse(self, error: GenealogError) -> NoReturn:
        try:
            self._close(_finish_of(error), None, error.code)
            await settled(self.entry)
        except StoreError as unwritable:
            log.error("call %s: its outcome could not be recorded: %s", self.entry.call.id, unwritable.code)
        await self._context.abort(status_of(error, error.http_status), str(error), self._ours)
        raise AssertionError

    def _abandoned(self) -> None:
        code = "deadline-exceeded" if self._late() else "client-gone"
        try:
            self._close("client_abandoned", None, code)
        except StoreError as error:  # the sequencer will close the call as unknown
            log.error("call %s: its outcome could not be recorded: %s", self.entry.call.id, error.code)

    def _close(self, finish: Finish, status: int | None, error: str | None) -> None:
        self.status, self.finish = status, finish
        self.entry.call.close(
            finish=finish,
            status=status,
            content_type="application/grpc",
            delivered=self._delivered,
            assurance="A1" if self._reported else "A0",
            error=error,
            first_byte_at=self._first,
            release=self._released.action if self._released is not None else None,
            release_flags=self._released.flags if self._released is not None else (),
        )

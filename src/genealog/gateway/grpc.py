"""KServe v2 over gRPC, through the gateway: messages pass as they are, and every inference is a recorded call.

    ModelInfer        one message each way: one call
    ModelStreamInfer  any number each way, in any order (decoupled models): one stream is one call, of one deployment
    ModelReady, ModelMetadata, ModelConfig, ModelStatistics    pass to the deployment that they name, unrecorded
    ServerLive, ServerReady    the gateway's own answer: whether it could record a call
    ServerMetadata    passes to `[gateway] default`
    anything else     UNIMPLEMENTED: it would change what the server serves, or put tensors where no record sees them

No generated code: requests and answers are bytes, of which only the model's name is read. The body on record is every
message of one direction in order, each behind gRPC's own prefix: a zero (not compressed) and four bytes of length,
big-endian. As over HTTP the intent is on record before the first byte goes upstream, and the outcome before the client
sees the end, which is the status. `status` on record is gRPC's: 0 is success. Metadata are headers: what the rules of
`headers` let through goes on, deadlines and cancellation too. `genealog-call` is in the initial metadata of an answer,
and in the trailing metadata where there are no others.

Source: KServe `grpc_predict_v2.proto`; github.com/grpc, PROTOCOL-HTTP2.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, cast

import grpc
from grpc import aio

from genealog.core.frames import Durability
from genealog.deploy import Live
from genealog.errors import GenealogError, MalformedError, MissingError, PolicyDenied, StoreError, UpstreamError
from genealog.gateway import headers as rules
from genealog.gateway.admission import Who
from genealog.gateway.aims import Aim
from genealog.gateway.directory import Found
from genealog.gateway.grpc_call import Exchange, Metadata, framed, renamed, settled, status_of, text_field
from genealog.gateway.grpc_ways import OPTIONS, Ways, certificate, server_credentials, to_client
from genealog.gateway.http1 import PeerCertificate
from genealog.gateway.judged import overtaken, revocation
from genealog.gateway.parts import Parts
from genealog.gateway.policing import Ruling
from genealog.gateway.record import Context, Name
from genealog.gateway.recording import Entry
from genealog.gateway.refusal import status_of as http_status_of
from genealog.gateway.releasing import Question
from genealog.policy.release import Released
from genealog.store.gateway_settings import Tls

SERVICE = "/inference.GRPCInferenceService/"
DIALECT = "kserve-grpc"
INFER, STREAM = f"{SERVICE}ModelInfer", f"{SERVICE}ModelStreamInfer"
_READS = frozenset(f"{SERVICE}{name}" for name in ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"))
_OWN = frozenset((f"{SERVICE}ServerLive", f"{SERVICE}ServerReady"))
_OF_DEFAULT = f"{SERVICE}ServerMetadata"
_YES = b"\x08\x01"  # field 1, true
_SERVER = (*OPTIONS, ("grpc.so_reuseport", 1))  # workers share the port

log = logging.getLogger("genealog.gateway")


@dataclass(frozen=True, slots=True)
class _Head:
    """A call's metadata as `admission.Head`."""

    path: str
    headers: list[tuple[bytes, bytes]]
    peer: str
    certificate: PeerCertificate | None
    method: str = "POST"
    query: bytes = b""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks for what."""

    head: _Head
    who: Who
    name: str


class Grpc(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The service, over what the worker has anyway."""

    def __init__(self, parts: Parts, tls: Tls | None = None) -> None:
        self._parts = parts
        self._tls = tls
        self._ways = Ways(parts)
        self._server: aio.Server | None = None
        self._running: dict[Exchange, Aim] = {}
        parts.directory.watch(self._registry_changed)

    async def start(self, address: str) -> int:
        """Listen at HOST:PORT and return the port. Raises: StoreError `cannot-listen`."""
        server = aio.server(options=_SERVER, maximum_concurrent_rpcs=self._parts.settings.max_calls)
        server.add_generic_rpc_handlers((self,))
        try:
            port = (
                server.add_insecure_port(address)
                if self._tls is None
                else server.add_secure_port(address, server_credentials(self._tls, self._parts.root))
            )
        except (OSError, RuntimeError) as error:
            await server.stop(None)
            raise StoreError(
                "cannot-listen", "cannot listen for gRPC", got=f"{address}: {type(error).__name__}",
                hint="another server may be there already; choose another grpc_port, or look at [gateway.tls]",
            ) from None  # fmt: skip
        await server.start()
        self._server = server
        return int(port)

    async def stop(self, patience: float) -> None:
        """Take no new calls; give those that run so many seconds."""
        if self._server is not None:
            await self._server.stop(patience)
        await self._ways.close()

    def service(self, details: Any) -> Any:
        """As `grpc.GenericRpcHandler`: how one RPC is handled."""
        method: str = details.method
        if method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if method == INFER:
            return grpc.unary_unary_rpc_method_handler(self._infer)

        async def other(message: bytes, context: Any) -> bytes:
            return await self._other(method, message, context)

        return grpc.unary_unary_rpc_method_handler(other)

    async def _infer(self, message: bytes, context: Any) -> bytes:
        answer = await self._call(INFER, message, context)
        return cast("bytes", answer)

    async def _stream(self, _messages: Any, context: Any) -> None:
        message = await context.read()
        if message is not aio.EOF:  # a stream in which nothing was asked is no call
            await self._call(STREAM, message, context)

    async def _call(self, method: str, message: bytes, context: Any) -> bytes | None:
        """Make one recorded call."""
        head = _head(method, context)
        who = self._parts.admission.authenticate(head)
        if isinstance(who, GenealogError):
            await self._refuse(context, message, self._context(_Asked(head, Who({}), "")), who)
        try:
            asked = _Asked(head, who, text_field(message, 1) or self._unnamed(head))
        except MalformedError as error:
            await self._refuse(context, message, self._context(_Asked(head, who, "")), error)
        directory, admitted = self._parts.directory, False
        name = self._parts.recording.draw()
        while True:  # until a ruling is of the epoch that it is used in
            found = directory.look(asked.name) or await directory.find(asked.name)
            live = found.live
            if found.refusal is not None or live is None:
                refused = found.refusal or MissingError("unknown-deployment", "no deployment has this name")
                await self._refuse(context, message, self._context(asked, live), refused)
            try:
                self._check(head, live)
                aim = self._ways.aim(live, name)
            except GenealogError as error:
                await self._refuse(context, message, self._context(asked, live), error)
            if not admitted and (denied := self._parts.admission.admit(who, asked.name)) is not None:
                await self._refuse(context, message, self._context(asked, live), denied)
            admitted = True
            ruling = await self._ruling(found, aim, who)
            if directory.look(asked.name) is found:
                break
        if ruling is not None and ruling.denial is not None:
            self._parts.counters.add("denied")
            await self._refuse(context, message, self._context(asked, live, aim, ruling), ruling.denial)
        return await self._pass(method, message, context, asked, found, aim, name, ruling)

    async def _ruling(self, found: Found, aim: Aim, who: Who) -> Ruling | None:
        policing = self._parts.policing
        if policing is None:
            return None
        known = policing.known(found, aim, "A0", who)
        return known or await policing.rule(found, aim, "A0", who, self._parts.directory.age)

    async def _released(self, live: Live | None, aim: Aim, who: Who) -> Released | None:
        """Say what policy makes of an answer. Detectors read no tensors: where policy wants them, that is a no."""
        releasing = self._parts.releasing
        if releasing is None or live is None:
            return None
        question = Question(live, aim, "A0", who)
        return releasing.known(question) or await releasing.ask(question)

    def _registry_changed(self) -> None:
        """Cut what still runs on a model that is revoked, where that is wanted."""
        policing, revoked = self._parts.policing, self._parts.directory.revoked
        if policing is None or policing.cuts:
            for exchange, aim in list(self._running.items()):
                if (no := revocation(aim, revoked, code="revoked-while-serving")) is not None:
                    self._parts.counters.add("cut")
                    exchange.cut(no)

    async def _pass(
        self, method: str, message: bytes, context: Any, asked: _Asked, found: Found, aim: Aim, name: Name,
        ruling: Ruling | None,
    ) -> bytes | None:  # fmt: skip
        live = found.live
        rename = aim.target.served_as if aim.target.served_as not in (None, asked.name) else None
        streams = method == STREAM
        forwarded = None
        if rename is not None and not streams:
            forwarded = hashlib.sha256(framed(renamed(message, rename))).hexdigest()
        try:
            channel = self._ways.channel(aim)
            metadata = self._ways.metadata(asked.head.headers, asked.who.withheld, aim, name.call)
            entry = self._parts.recording.open(
                framed(message),
                self._context(asked, live, aim, ruling),
                hold=self._parts.settings.hold,
                name=name,
                more=streams,
                changed=("model",) if rename is not None else (),
                forwarded=forwarded,
            )
        except GenealogError as error:
            await _abort(context, error)
        await self._intended(entry, context)
        directory = self._parts.directory
        if (now := directory.look(asked.name)) is not found and (no := overtaken(now, aim, directory.revoked)):
            with contextlib.suppress(StoreError):  # the sequencer will close the call as unknown
                entry.call.close(finish="refused", assurance="A0", error=no.code)
            await _abort(context, no, (("genealog-call", name.call),))
        told = ruling.headers if ruling is not None else ()
        exchange = Exchange(
            entry,
            context,
            method=method,
            asked=asked.name,
            ours=(
                ("genealog-call", name.call),
                ("genealog-model", ",".join(aim.models)),
                *((header.decode(), rules.text(value)) for header, value in told),
            ),
            to_client=to_client,
            rename=rename,
            release=partial(self._released, live, aim, asked.who),
        )
        began = self._parts.now()
        self._running[exchange] = aim
        try:
            if streams:
                await exchange.stream(channel.stream_stream(STREAM), message, metadata)
                return None
            return await exchange.unary(channel.unary_unary(INFER), message, metadata)
        finally:
            del self._running[exchange]
            self._parts.counters.ended(exchange.finish, None, self._parts.now() - began)
            self._parts.counters.add("request_bytes", entry.call.sent)
            self._parts.counters.add("response_bytes", entry.call.received)

    async def _intended(self, entry: Entry, context: Any) -> None:
        """Return when the intent is as durable as it has to be. A call that ends here has an outcome as well: one that
        stays open keeps its part of the spool.
        """
        try:
            await settled(entry)
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):  # the sequencer will close the call as unknown
                entry.call.close(finish="client_abandoned", assurance="A0", error="client-gone")
            raise
        except StoreError as error:
            with contextlib.suppress(StoreError):
                entry.call.close(finish="refused", assurance="A0", error=error.code)
            await _abort(context, error)

    async def _other(self, method: str, message: bytes, context: Any) -> bytes:
        """Answer or pass what is no inference. Nothing of it is on record."""
        head = _head(method, context)
        who = self._parts.admission.authenticate(head)
        if isinstance(who, GenealogError):
            await _abort(context, who)
        try:
            if method in _OWN:
                self._parts.recording.check()
                return _YES
            if method not in _READS and method != _OF_DEFAULT:
                raise _not_passed(method)
            asked = _Asked(head, who, (text_field(message, 1) if method in _READS else "") or self._unnamed(head))
            found = self._parts.directory.look(asked.name) or await self._parts.directory.find(asked.name)
            if found.refusal is not None or found.live is None:
                raise found.refusal or MissingError("unknown-deployment", "no deployment has this name")
            aim = self._ways.aim(found.live, name := self._parts.recording.draw())
            if (denied := self._parts.admission.admit(who, asked.name)) is not None:
                raise denied
            rename = aim.target.served_as if method in _READS else None
            metadata = self._ways.metadata(asked.head.headers, who.withheld, aim, name.call)
            ask = self._ways.channel(aim).unary_unary(method)
        except GenealogError as error:
            await _abort(context, error)
        try:
            answer: bytes = await ask(
                message if rename is None else renamed(message, rename),
                metadata=metadata,
                timeout=context.time_remaining(),
            )
        except aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", to_client(error.trailing_metadata() or ()))
        return answer

    def _unnamed(self, head: _Head) -> str:
        """Return the deployment of a message that names none. Raises: MalformedError `grpc-message-malformed`."""
        stated = next((value for name, value in head.headers if name == b"genealog-deployment"), b"")
        name = rules.text(stated) or self._parts.settings.default
        if not name:
            raise MalformedError(
                "grpc-message-malformed", "the message names no model", expected="model_name",
                hint="or the metadata genealog-deployment, or `default` in [gateway]",
            )  # fmt: skip
        return name

    def _check(self, head: _Head, live: Live) -> None:
        """Refuse a call that must not be made. Raises: GenealogError."""
        if self._parts.mark in rules.via(head.headers):
            raise UpstreamError(
                "upstream-loop", f"the upstream of {live.name} leads back to this gateway", got=live.body.upstream,
                hint="deploy it again with the address of its engine",
            )  # fmt: skip
        if live.body.minimum_assurance > "A1":
            raise PolicyDenied(
                "assurance-too-low", f"{live.name} demands more than a call over gRPC can have",
                got="A0", expected=live.body.minimum_assurance, hint="engines sign calls over HTTP only",
            )  # fmt: skip
        if self._parts.behind > self._parts.settings.max_behind:
            raise StoreError("gateway-behind", "calls come faster than they get into the log", hint="try again")

    def _context(
        self, asked: _Asked, live: Live | None = None, aim: Aim | None = None, ruling: Ruling | None = None
    ) -> Context:
        known: dict[str, Any] = {}
        if live is not None:
            known = {
                "spec": live.spec,
                "models": aim.models if aim is not None else live.body.models,
                "durability": cast("Durability", live.body.durability),
                "capture": live.body.body_capture,
            }
        if aim is not None:
            known |= {"target": aim.index, "seller": aim.target.seller}
        if ruling is not None:
            policy, flags, waived = ruling.on_record
            known |= {"policy": policy or None, "flags": flags, "waived": waived}
        return Context(
            deployment=asked.name,
            operation=asked.head.path,
            dialect=DIALECT,
            who=asked.who.facts,
            headers=rules.on_record(rules.kept(asked.head.headers, self._parts.recorded)),
            content_type="application/grpc",
            **known,
        )

    async def _refuse(self, context: Any, message: bytes, about: Context, error: GenealogError) -> NoReturn:
        """Put a call that is not made on record, and say why."""
        try:
            entry = self._parts.recording.open(framed(message), about)
            entry.call.close(finish="refused", assurance="A0", error=error.code)
            self._parts.counters.ended("refused", None, 0.0)
            await settled(entry)
        except StoreError as unwritable:
            await _abort(context, unwritable)
        await _abort(context, error, (("genealog-call", entry.call.id),))


def _head(method: str, context: Any) -> _Head:
    headers = [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata() or ()
    ]
    return _Head(method, headers, context.peer(), certificate(context.auth_context()))


async def _abort(context: Any, error: GenealogError, more: Metadata = ()) -> NoReturn:
    """End an RPC with an error of ours."""
    details = str(error) if error.hint is None else f"{error}; {error.hint}"
    await context.abort(status_of(error, http_status_of(error)), details, (*more, ("genealog-error", error.code)))
    raise AssertionError


def _not_passed(method: str) -> GenealogError:
    return MissingError(
        "rpc-not-passed", "the gateway passes inference and reads only", got=method[:200],
        hint="load models and share memory at the server itself",
    )  # fmt: skip

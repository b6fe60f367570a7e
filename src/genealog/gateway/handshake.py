"""How strongly the gateway knows what answers behind an upstream: the handshake, and the signature of each call.

    before a call   GET <upstream>/genealog/v1/load?nonce=…          which load statement, and do you hold its key?
    after it        GET <upstream>/genealog/v1/signatures/<call>     sign exactly what went in and came out

A handshake that verifies binds the upstream at A3: its load statement stands in our registry, signed by a registered
engine key that signed our nonce just now, and it loaded exactly the models of the serving spec. It is made on first
use, again when the registry has changed, after a failure, and every 30 seconds. An upstream without the endpoint is an
ordinary server, not an error: it binds at A0, or at A2 where it showed a pinned key in TLS. What an answer reports of
itself can lift a call to A1. An engine that answers and does not verify is contradicted: nothing goes there, whatever
level the deployment demands.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from genealog.core.canonical import decode
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.frames import Assurance, EngineEvidence
from genealog.core.ids import sha256_hex
from genealog.core.records import (
    ENGINE_SIGNATURE,
    LOAD_CHALLENGE,
    EngineReport,
    EngineSignature,
    Load,
    LoadChallenge,
    ServingSpec,
    Target,
)
from genealog.core.statement import Read
from genealog.errors import GenealogError, MalformedError, MissingError, UpstreamError, VerificationError
from genealog.gateway.aims import Aim
from genealog.gateway.directory import Directory, Source
from genealog.gateway.fetch import fetch
from genealog.gateway.http1 import Pool
from genealog.gateway.record import Call
from genealog.registry import KeyRow

AGAIN = 30.0  # seconds between two handshakes with the same upstream
PATIENCE = 2.0  # seconds for one answer of an engine
_MOST = 16 * 1024 * 1024  # bytes of one answer of an engine

T = TypeVar("T")
log = logging.getLogger("genealog.gateway")


@dataclass(frozen=True, slots=True)
class Binding:
    """What a handshake found. At A3 it has the load statement's leaf hash and the key that signs calls.

    `contradicted`: an engine is there, and what it says of itself is not so.
    """

    level: Assurance
    load: str = ""
    keyid: str = ""
    public_der: bytes = b""
    reason: str | None = None  # the code of why it is not A3
    contradicted: bool = False


class _LoadAnswer(msgspec.Struct, frozen=True):
    load: str
    challenge: str


class _SignatureAnswer(msgspec.Struct, frozen=True):
    signature: str
    report: str


@dataclass(frozen=True, slots=True)
class _Known:
    binding: Binding
    epoch: int
    at: float


Serving = Callable[[], Iterable[Aim]]


class Handshakes:
    """The bindings of every target in use. `serving` returns those that may be asked now."""

    def __init__(self, pool: Pool, directory: Directory, serving: Serving) -> None:
        self._pool = pool
        self._directory = directory
        self._serving = serving
        self._known: dict[tuple[str, tuple[str, ...]], _Known] = {}
        self._locks: dict[tuple[str, tuple[str, ...]], asyncio.Lock] = {}

    def known(self, aim: Aim) -> Binding | None:
        """Return how a target is bound, if a handshake has told since the registry last changed."""
        known = self._known.get(aim.key)
        return known.binding if known is not None and known.epoch == self._directory.epoch else None

    async def bind(self, aim: Aim) -> Binding:
        """Return how a target is bound, asking it where nobody did.

        Raises: UpstreamError `upstream-unreachable`, `upstream-tls`, `upstream-key-mismatch`.
        """
        async with self._locks.setdefault(aim.key, asyncio.Lock()):
            return self.known(aim) or await self._shake(aim)

    def forget(self, aim: Aim) -> None:
        """Ask again before the next call: this one failed in a way that may mean another engine."""
        self._known.pop(aim.key, None)

    async def evidence(self, aim: Aim, binding: Binding, call: Call) -> EngineEvidence:
        """Fetch and verify what the engine signed for `call`.

        An engine that was restarted since the handshake signs under a new load statement: that one is verified too.
        Raises: VerificationError or UpstreamError; the call is then no longer at A3.
        """
        try:
            answer, why = await self._get(aim, f"/genealog/v1/signatures/{call.id}"), None
        except UpstreamError as error:
            answer, why = None, error.got
        if answer is None:
            raise UpstreamError("engine-signature-missing", "the engine gave no signature of this call", got=why)
        try:
            return check_signature(answer, binding, call.id, call.request_sha256, call.response_sha256)
        except VerificationError as error:
            self.forget(aim)
            if error.code not in ("another-load", "signer-unknown"):
                raise
        renewed = await self.bind(aim)
        return check_signature(answer, renewed, call.id, call.request_sha256, call.response_sha256)

    async def renew_forever(self) -> None:
        """Shake hands again with whoever is due, and drop what is no longer deployed."""
        while True:
            await asyncio.sleep(AGAIN / 10)
            due = time.monotonic() - AGAIN
            serving = {aim.key: aim for aim in self._serving()}
            for key in list(self._known):
                if key not in serving:
                    self._known.pop(key, None)
                    self._locks.pop(key, None)
                elif self._known[key].at < due:
                    try:
                        await self._shake(serving[key])
                    except GenealogError as error:
                        self._known.pop(key, None)
                        log.warning("%s: no handshake: %s", serving[key].target.upstream, error.code)

    async def _shake(self, aim: Aim) -> Binding:
        epoch, now = self._directory.epoch, time.monotonic()
        nonce = secrets.token_hex(32)
        try:
            answer = await self._get(aim, f"/genealog/v1/load?nonce={nonce}")
        except UpstreamError as error:
            if error.code not in ("upstream-silent", "upstream-malformed"):
                raise
            binding, now = _unbound(aim, reason=error.code), now - AGAIN  # it may just be busy: due again at once
        else:
            if answer is None:
                binding = _unbound(aim, reason="not-an-engine")
            else:
                found = answer
                binding = await self._directory.ask(lambda source: _judge(found, nonce, aim, source))
        if binding.reason is not None:
            say = log.warning if binding.contradicted else log.info
            say("%s is bound at %s: %s", aim.target.upstream, binding.level, binding.reason)
        self._known[aim.key] = _Known(binding, epoch, now)
        return binding

    async def _get(self, aim: Aim, path: str) -> bytes | None:
        """Return the body of a 200, None for any other status. Raises: UpstreamError as `fetch`."""
        return await fetch(self._pool, aim.origin, aim.host, aim.base + path.encode(), most=_MOST, patience=PATIENCE)


def _unbound(aim: Aim, *, reason: str, contradicted: bool = False) -> Binding:
    level: Assurance = "A2" if aim.origin.pins and not contradicted else "A0"
    return Binding(level, reason=reason, contradicted=contradicted)


def _judge(answer: bytes, nonce: str, aim: Aim, source: Source) -> Binding:
    try:
        leaf = _parse(answer, _LoadAnswer).load
    except MalformedError as error:  # something that answers whatever it is asked for
        return _unbound(aim, reason=error.code)
    try:
        return check_load(answer, nonce, aim.target, source.statement(leaf), leaf, source.keys())
    except (VerificationError, MissingError, MalformedError) as error:
        return _unbound(aim, reason=error.code, contradicted=True)
    except GenealogError as error:
        return _unbound(aim, reason=error.code)


def check_load(
    answer: bytes, nonce: str, spec: ServingSpec | Target, read: Read, leaf: str, keys: Mapping[str, KeyRow]
) -> Binding:
    """Judge the answer to a handshake. `read` is the registry statement with the hex leaf hash `leaf`.

    Raises: VerificationError `not-a-load`, `signer-unknown`, `signer-revoked`, `signature-invalid`,
    `challenge-mismatch`, `other-models` or `other-weights`; MalformedError.
    """
    load = read.body
    if not isinstance(load, Load):
        raise VerificationError("not-a-load", "the engine named a statement that is no load statement", got=leaf)
    key = keys.get(load.keyid)
    if key is None or key.role != "engine":
        raise VerificationError("signer-unknown", "the load key is not a registered engine key", got=load.keyid)
    if key.revoked is not None:
        raise VerificationError("signer-revoked", "the load key was revoked", got=load.keyid)
    trusted = {load.keyid: key.public_der}
    verify_envelope(read.envelope, trusted)
    challenge = unb64(_parse(answer, _LoadAnswer).challenge)
    signed = decode(verify_envelope(challenge, trusted, LOAD_CHALLENGE)[0], LoadChallenge)
    if (signed.load, signed.nonce) != (leaf, nonce):
        raise VerificationError("challenge-mismatch", "the engine signed another load or an old nonce")
    if load.models != spec.models:
        raise VerificationError("other-models", "the engine loaded other models than the serving spec names")
    for pinned, loaded in zip((spec.model, *spec.adapters), load.loaded, strict=True):
        if pinned.weights is not None and pinned.weights != loaded.weights:
            raise VerificationError("other-weights", "the engine loaded other weights", got=loaded.weights)
    return Binding("A3", leaf, load.keyid, key.public_der)


def check_signature(answer: bytes, binding: Binding, call: str, request: str, response: str) -> EngineEvidence:
    """Judge what an engine signed for one call. `request` and `response` are hex SHA-256 of the bodies.

    Raises: VerificationError `signer-unknown`, `signature-invalid`, `another-load`, `another-call`, `other-bytes` or
    `other-report`; MalformedError.
    """
    parsed = _parse(answer, _SignatureAnswer)
    envelope, report = unb64(parsed.signature), unb64(parsed.report)
    payload, _ = verify_envelope(envelope, {binding.keyid: binding.public_der}, ENGINE_SIGNATURE)
    signed = decode(payload, EngineSignature)
    if signed.load != binding.load:
        raise VerificationError("another-load", "the engine signed under another load", got=signed.load)
    if signed.call != call:
        raise VerificationError("another-call", "the engine signed another call", got=signed.call, expected=call)
    if (signed.request, signed.response) != (request, response):
        raise VerificationError("other-bytes", "the engine signed other bytes than went through here")
    if signed.report != sha256_hex(report) or decode(report, EngineReport).call != call:
        raise VerificationError("other-report", "the engine signed another report")
    return EngineEvidence(load=binding.load, signature=envelope, report=report)


def _parse(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedError("engine-answer-malformed", f"the engine's answer is not readable: {error}") from None

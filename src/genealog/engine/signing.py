"""What an engine signs: that it holds the load key now, and each answer for exactly the bytes it received and sent.

A signature says: under this load statement, this request body got this response body, and this report tells how the
tokens were drawn. Signatures wait in memory for the gateway to fetch them: the last 10,000, for ten minutes.
Seeds that no client chose are derived here, from the call ID and the load statement: never the engine's choice.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from genealog.core.canonical import encode
from genealog.core.dsse import Signer, sign_envelope
from genealog.core.ids import sha256_hex
from genealog.core.records import ENGINE_SIGNATURE, LOAD_CHALLENGE, EngineReport, EngineSignature, LoadChallenge

KEEP_CALLS = 10_000
KEEP_SECONDS = 600


@dataclass(frozen=True, slots=True)
class SignedCall:
    """The evidence of one call: the envelope of its EngineSignature, and the canonical report."""

    signature: bytes
    report: bytes


@dataclass(frozen=True, slots=True)
class LoadKey:
    """The key of one load statement. `load` is the hex leaf hash of that statement in the registry log."""

    load: str
    signer: Signer

    def challenge(self, nonce: str) -> bytes:
        """Return the envelope that answers `nonce`: proof that the key is here, now."""
        return sign_envelope(encode(LoadChallenge(load=self.load, nonce=nonce)), self.signer, LOAD_CHALLENGE)

    def sign_call(self, report: EngineReport, *, request: str, response: str) -> SignedCall:
        """Sign one answer. `request` and `response` are hex SHA-256 of the body bytes received and sent."""
        body = encode(report)
        statement = EngineSignature(
            call=report.call, load=self.load, request=request, response=response, report=sha256_hex(body)
        )
        return SignedCall(sign_envelope(encode(statement), self.signer, ENGINE_SIGNATURE), body)


class SignatureStore:
    """The latest signatures by call. A call that comes twice has the signature of its last answer.

    `clock` gives seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, tuple[float, SignedCall]] = OrderedDict()

    def put(self, call: str, signed: SignedCall) -> None:
        """Keep the evidence of `call`, and forget what is too old or too much."""
        with self._lock:
            self._calls.pop(call, None)
            self._calls[call] = (self._clock(), signed)
            self._forget()

    def get(self, call: str) -> SignedCall | None:
        """Return the evidence of `call`, if it is still here."""
        with self._lock:
            self._forget()
            kept = self._calls.get(call)
        return kept[1] if kept else None

    def _forget(self) -> None:
        oldest = self._clock() - KEEP_SECONDS
        while self._calls and (len(self._calls) > KEEP_CALLS or next(iter(self._calls.values()))[0] < oldest):
            self._calls.popitem(last=False)


def derive_seed(call: str, load: str) -> int:
    """Return the seed where no client gave one: 63 bits of SHA-256 over tag, call ID and load leaf hash (hex)."""
    digest = hashlib.sha256(b"genealog/seed/v1\x00" + call.encode() + b"\x00" + load.encode()).digest()
    return int.from_bytes(digest[:8]) & (2**63 - 1)

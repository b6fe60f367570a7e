"""Signatures verify for exactly what was signed, wait their time, and are forgotten."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from genealog.core.canonical import decode
from genealog.core.dsse import verify_envelope
from genealog.core.ids import sha256_hex
from genealog.core.records import ENGINE_SIGNATURE, LOAD_CHALLENGE, EngineReport, EngineSignature, LoadChallenge
from genealog.engine import signing
from genealog.engine.signing import LoadKey, SignatureStore, SignedCall, derive_seed
from genealog.errors import MalformedError
from genealog.store.keys import KeySigner

CALL, LOAD = "01J0000000000000000000000A", "ab" * 32


@pytest.fixture
def key() -> LoadKey:
    return LoadKey(LOAD, KeySigner(ec.generate_private_key(ec.SECP256R1())))


def report() -> EngineReport:
    return EngineReport(
        call=CALL, sampler={"name": "x"}, prompt_tokens=1, prompt_sha256="00" * 32, tokens=(1,), logprobs="",
        finish_reason="stop", numerics={},
    )  # fmt: skip


def test_a_call_is_signed_with_its_bodies_and_report(key: LoadKey) -> None:
    signed = key.sign_call(report(), request="11" * 32, response="22" * 32)
    trusted = {key.signer.keyid: key.signer.public_der}
    payload, _ = verify_envelope(signed.signature, trusted, ENGINE_SIGNATURE)
    assert decode(payload, EngineSignature) == EngineSignature(
        call=CALL, load=LOAD, request="11" * 32, response="22" * 32, report=sha256_hex(signed.report)
    )
    assert decode(signed.report, EngineReport) == report()


def test_a_challenge_is_not_a_call_signature(key: LoadKey) -> None:
    trusted = {key.signer.keyid: key.signer.public_der}
    envelope = key.challenge("cd" * 16)
    payload, _ = verify_envelope(envelope, trusted, LOAD_CHALLENGE)
    assert decode(payload, LoadChallenge) == LoadChallenge(load=LOAD, nonce="cd" * 16)
    with pytest.raises(MalformedError, match="wrong-payload-type"):
        verify_envelope(envelope, trusted, ENGINE_SIGNATURE)


def test_signatures_are_forgotten_by_age_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    store = SignatureStore(lambda: now[0])
    first = SignedCall(b"1", b"r")
    store.put("first", first)
    now[0] = signing.KEEP_SECONDS
    assert store.get("first") == first
    now[0] += 1
    assert store.get("first") is None
    monkeypatch.setattr(signing, "KEEP_CALLS", 2)
    for call in ("a", "b", "a", "c"):
        store.put(call, SignedCall(call.encode(), b""))
    assert [store.get(call) is not None for call in ("a", "b", "c")] == [True, False, True]


def test_a_derived_seed_depends_on_call_and_load_and_fits_63_bits() -> None:
    digest = hashlib.sha256(f"genealog/seed/v1\0{CALL}\0{LOAD}".encode()).hexdigest()
    assert derive_seed(CALL, LOAD) == int(digest[:16], 16) % 2**63
    assert derive_seed(CALL, LOAD) != derive_seed(CALL, "cd" * 32)

"""Envelopes: the published vector, one signature, one spelling."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from golden_world import Key
from hypothesis import given
from hypothesis import strategies as st

from genealog.core.canonical import encode
from genealog.core.dsse import (
    keyid_of,
    load_public_key,
    open_envelope,
    pae,
    sign_envelope,
    unb64,
    verify_envelope,
    verify_signature,
)
from genealog.errors import GenealogError, MalformedError, VerificationError

# secure-systems-lab/dsse, protocol.md: the signature there is raw r || s
X = 46950820868899156662930047687818585632848591499744589407958293238635476079160
Y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
RAW = "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
TYPE = "http://example.com/HelloWorld"

OWNER, ENGINE = Key("owner"), Key("engine")  # ECDSA P-256, Ed25519
ENVELOPE = sign_envelope(b"hello world", OWNER, TYPE)


def der(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def code_of(error: pytest.ExceptionInfo[GenealogError]) -> str:
    return error.value.code


def test_vector() -> None:
    message = pae(TYPE, b"hello world")
    assert message == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    raw = base64.b64decode(RAW)
    signature = encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))
    public = der(ec.EllipticCurvePublicNumbers(X, Y, ec.SECP256R1()).public_key())
    verify_signature(public, signature, message)
    with pytest.raises(VerificationError):
        verify_signature(public, raw, message)


def test_lengths_are_in_bytes() -> None:
    assert pae("é", b"\xff\x00") == b"DSSEv1 2 \xc3\xa9 2 \xff\x00"


@given(st.binary(max_size=40), st.text(st.characters(max_codepoint=127, min_codepoint=32), max_size=20))
def test_what_is_signed_is_what_is_read(payload: bytes, kind: str) -> None:
    for signer in (OWNER, ENGINE):
        envelope = sign_envelope(payload, signer, kind)
        assert verify_envelope(envelope, {signer.keyid: signer.public_der}, kind) == (payload, signer.keyid)
        ((keyid, _),) = open_envelope(envelope, kind)[1]
        assert keyid == keyid_of(signer.public_der)


@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_no_byte_of_an_envelope_can_change(place: int, flip: int) -> None:
    data = bytearray(ENVELOPE)
    data[place] ^= flip
    with pytest.raises(GenealogError):
        verify_envelope(bytes(data), {OWNER.keyid: OWNER.public_der}, TYPE)


def test_a_signature_is_for_one_type() -> None:
    value = json.loads(ENVELOPE)
    other = encode({**value, "payloadType": "text/plain"})
    with pytest.raises(MalformedError) as error:
        open_envelope(ENVELOPE, "text/plain")
    assert code_of(error) == "wrong-payload-type"
    with pytest.raises(VerificationError) as failure:
        verify_envelope(other, {OWNER.keyid: OWNER.public_der}, "text/plain")
    assert code_of(failure) == "signature-invalid"


def test_a_key_id_is_no_key() -> None:
    with pytest.raises(VerificationError) as error:
        verify_envelope(ENVELOPE, {ENGINE.keyid: ENGINE.public_der}, TYPE)
    assert code_of(error) == "signer-unknown"
    with pytest.raises(VerificationError) as failure:
        verify_envelope(ENVELOPE, {OWNER.keyid: ENGINE.public_der}, TYPE)
    assert code_of(failure) == "signature-invalid"


def test_one_signature_and_no_more() -> None:
    value = json.loads(ENVELOPE)
    second = json.loads(sign_envelope(b"hello world", ENGINE, TYPE))["signatures"]
    for signatures, code in (([], "unsigned"), (value["signatures"] + second, "many-signatures")):
        with pytest.raises(MalformedError) as error:
            verify_envelope(encode({**value, "signatures": signatures}), {OWNER.keyid: OWNER.public_der}, TYPE)
        assert code_of(error) == code


@pytest.mark.parametrize("field", ["payload", "sig"])
def test_base64_has_one_spelling(field: str) -> None:
    value = json.loads(sign_envelope(b"hello worl", OWNER, TYPE))
    holder = value if field == "payload" else value["signatures"][0]
    good = holder[field]
    for text in (good + "\n", good.rstrip("=") if good.endswith("=") else good + "=", "-" + good[1:], " " + good):
        holder[field] = text
        with pytest.raises(MalformedError) as error:
            open_envelope(encode(value), TYPE)
        assert code_of(error) == "bad-base64"


@pytest.mark.parametrize("text", ["QQ", "QR==", "QQ==\n", "Q Q==", "QQ=", "====", "é===", "_w=="])
def test_no_other_base64_is_read(text: str) -> None:
    with pytest.raises(MalformedError):
        unb64(text)


@given(st.binary(max_size=20))
def test_base64_goes_and_comes_back(data: bytes) -> None:
    assert unb64(base64.b64encode(data).decode()) == data


def test_two_kinds_of_key_are_read() -> None:
    assert load_public_key(OWNER.public_der)
    assert load_public_key(ENGINE.public_der)
    for public in (
        b"",
        b"\x30\x00",
        OWNER.public_der[:-1],
        der(ec.generate_private_key(ec.SECP384R1()).public_key()),
        der(rsa.generate_private_key(65537, 2048).public_key()),
    ):
        with pytest.raises(MalformedError) as error:
            load_public_key(public)
        assert code_of(error) == "bad-public-key"

"""OMS bundles and statements: published ones, ours read back, and everything that is none."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_sigstore import new_key, sign
from genealog.errors import GenealogError
from genealog.interop.oms.bundle import check_signature, key_hint, oms_key, read_bundle, signed_bytes, write_bundle
from genealog.interop.oms.payload import compare, read_payload, write_payload

VECTORS = Path(__file__).parent / "oms_vectors"
PATHS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8)
                 .filter(lambda part: part not in (".", "..")), min_size=1, max_size=3).map("/".join)  # fmt: skip
DIGEST = hashlib.sha256(b"").hexdigest()


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(GenealogError) as caught:
        call(*arguments)
    return caught.value.code


def test_a_published_key_signature_verifies() -> None:
    bundle, key = read_bundle(vector("v1.1.0-key.sig")), oms_key(vector("signing-key-pub.pem"))
    check_signature(bundle, key)
    assert bundle.hint == key_hint(key)
    signed = read_payload(bundle.payload)
    assert [piece.name for piece in signed.pieces] == ["signme-1", "signme-2"]
    assert signed.ignores("ignore-me")
    assert signed.ignores(".git/config")
    assert not signed.ignores("sub/.git")
    assert code_of(check_signature, bundle, new_key().public_key()) == "signature-invalid"


def test_a_legacy_bundle_with_the_key_inside_is_verified_by_the_key_that_is_believed() -> None:
    bundle = read_bundle(vector("v0.3.1-key.sig"))
    check_signature(bundle, oms_key(vector("signing-key-pub.pem")))
    assert code_of(check_signature, bundle, new_key().public_key()) == "signature-invalid"
    assert [piece.path for piece in read_payload(bundle.payload).pieces] == ["."]


def test_the_broken_encoding_of_an_old_release_is_unsupported_and_not_valid() -> None:
    bundle = read_bundle(vector("v0.2.0-certificate.sig"))
    assert code_of(check_signature, bundle, oms_key(vector("signing-key-pub.pem"))) == "oms-unsupported"
    assert code_of(read_payload, bundle.payload) == "oms-unsupported"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_ours_reads_back_for_every_curve(curve: ec.EllipticCurve) -> None:
    from genealog.store.signers.pem import KeySigner

    key = ec.generate_private_key(curve)
    payload = write_payload("m", [("b", DIGEST), ("a/é", "11" * 32)], ignore_paths=["model.sig"])
    bundle = read_bundle(write_bundle(payload, KeySigner(key).sign(signed_bytes(payload)), public=key.public_key()))
    check_signature(bundle, key.public_key())
    assert bundle.payload == payload
    assert read_payload(payload).ignore_paths == ("model.sig",)


def test_keys_that_oms_does_not_have() -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert code_of(oms_key, pem) == "bad-public-key"
    assert code_of(oms_key, b"") == "bad-public-key"


@given(st.dictionaries(PATHS, st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=6))
def test_every_statement_of_ours_reads_back(files: dict[str, str]) -> None:
    signed = read_payload(write_payload("m", files.items()))
    assert {piece.path: piece.digest for piece in signed.pieces} == files
    assert [piece.path for piece in signed.pieces] == sorted(files)
    differs = compare(signed, files)
    assert (differs.added, differs.changed, differs.missing) == ((), (), ())


@settings(max_examples=60)
@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_no_flipped_byte_of_a_bundle_verifies(at: int, flip: int) -> None:
    data = bytearray(vector("v1.1.0-key.sig"))
    data[at % len(data)] ^= flip
    try:
        bundle = read_bundle(bytes(data))
        check_signature(bundle, oms_key(vector("signing-key-pub.pem")))
    except GenealogError:
        return
    assert bundle.payload == read_bundle(vector("v1.1.0-key.sig")).payload  # what is signed is untouched


def changed(change: Any) -> bytes:
    value = json.loads(write_payload("m", [("a", DIGEST), ("b", DIGEST)]))
    predicate = value["predicate"]
    change(SimpleNamespace(v=value, r=predicate["resources"], s=predicate["serialization"]))
    return json.dumps(value).encode()


STATEMENTS: dict[str, tuple[str, Any]] = {
    "not json": ("oms-malformed", lambda d: d.v.clear()),
    "other type": ("oms-malformed", lambda d: d.v.update(_type="x")),
    "other predicate": ("oms-unsupported", lambda d: d.v.update(predicateType="https://slsa.dev/provenance/v1")),
    "two subjects": ("oms-malformed", lambda d: d.v["subject"].append(d.v["subject"][0])),
    "no files": ("oms-malformed", lambda d: d.r.clear()),
    "twice": ("oms-malformed", lambda d: d.r[1].update(name="a")),
    "climbs": ("bad-path", lambda d: d.r[0].update(name="../a")),
    "absolute": ("bad-path", lambda d: d.r[0].update(name="/etc/passwd")),
    "dotted": ("bad-path", lambda d: d.r[0].update(name="a/./b")),
    "slash behind": ("bad-path", lambda d: d.r[0].update(name="a/")),
    "nul": ("bad-path", lambda d: d.r[0].update(name="a\0b")),
    "short digest": ("oms-malformed", lambda d: d.r[0].update(digest="00")),
    "capitals": ("oms-malformed", lambda d: d.r[0].update(digest=DIGEST.upper())),
    "other algorithm": ("oms-malformed", lambda d: d.r[0].update(algorithm="md5")),
    "other digest": ("oms-root-mismatch", lambda d: d.r[0].update(digest="00" * 32)),
    "other order": ("oms-root-mismatch", lambda d: (d.r[0].update(digest="00" * 32), d.r.reverse())),
    "other hash": ("oms-unsupported", lambda d: d.s.update(hash_type="md5")),
    "other method": ("oms-unsupported", lambda d: d.s.update(method="tree")),
    "no shard size": ("oms-malformed", lambda d: d.s.update(method="shards")),
    "half a shard": ("oms-malformed", lambda d: d.s.update(method="shards", shard_size=1.5)),
    "endless shard": ("oms-malformed", lambda d: d.s.update(method="shards", shard_size=1e300)),
    "no shards": ("oms-malformed", lambda d: d.s.update(method="shards", shard_size=10)),
    "links": ("oms-malformed", lambda d: d.s.update(allow_symlinks="false")),
    "ignores": ("oms-malformed", lambda d: d.s.update(ignore_paths=[1])),
}  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_that_say_nothing(name: str) -> None:
    code, change = STATEMENTS[name]
    assert code_of(read_payload, changed(change)) == code


def test_two_readers_must_not_see_two_documents() -> None:
    text = write_payload("m", [("a", DIGEST)]).replace(b'"name": "a"', b'"name": "evil", "name": "a"')
    assert code_of(read_payload, text) == "oms-malformed"
    twice = vector("v1.1.0-key.sig").replace(b'{"hint":', b'{"hint":"x","hint":')
    assert code_of(read_bundle, twice) == "oms-malformed"


def test_bundles_that_are_none() -> None:
    good = json.loads(vector("v1.1.0-key.sig"))
    envelope, material = good["dsseEnvelope"], good["verificationMaterial"]
    cases = [
        (b"", "oms-malformed"), (b"[]", "oms-malformed"), (b"\xff", "oms-malformed"), (b'{"a":NaN}', "oms-malformed"),
        (b"[" * 100_000, "oms-malformed"), (b'{"a":' * 200 + b"1" + b"}" * 200, "oms-malformed"),
        (b'{"a":' + b"9" * 10_000 + b"}", "oms-malformed"),
    ]  # fmt: skip
    changes: list[tuple[dict[str, Any], str]] = [
        ({"mediaType": "x"}, "oms-malformed"),
        ({"dsseEnvelope": None}, "oms-malformed"),
        ({"dsseEnvelope": envelope | {"payloadType": "text/plain"}}, "oms-unsupported"),
        ({"dsseEnvelope": envelope | {"signatures": envelope["signatures"] * 2}}, "oms-malformed"),
        ({"dsseEnvelope": envelope | {"signatures": []}}, "oms-malformed"),
        ({"dsseEnvelope": envelope | {"payload": "%%%"}}, "oms-malformed"),
        ({"verificationMaterial": {}}, "oms-malformed"),
        ({"verificationMaterial": material | {"certificate": {"rawBytes": ""}}}, "oms-malformed"),
        ({"verificationMaterial": {"x509CertificateChain": {"certificates": []}}}, "oms-malformed"),
        ({"verificationMaterial": {"x509CertificateChain": {"certificates": [{}] * 17}}}, "oms-malformed"),
        ({"verificationMaterial": material | {"timestampVerificationData": [1]}}, "oms-malformed"),
        (
            {"verificationMaterial": material | {"timestampVerificationData": {"rfc3161Timestamps": "x"}}},
            "oms-malformed",
        ),
    ]
    cases += [(json.dumps(good | change).encode(), code) for change, code in changes]
    without = {key: value for key, value in good.items() if key != "dsseEnvelope"}
    cases.append((json.dumps(without | {"messageSignature": {}}).encode(), "oms-unsupported"))
    for data, code in cases:
        assert code_of(read_bundle, data) == code, data[:200]


def test_a_bundle_without_end_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genealog.interop.oms.bundle.MAX_BUNDLE", 1_000)
    assert code_of(read_bundle, vector("v1.1.0-key.sig")) == "oms-too-big"


def test_base64_of_either_alphabet() -> None:
    key, payload = new_key(), write_payload("m", [("a", DIGEST)])
    value = json.loads(write_bundle(payload, sign(key, signed_bytes(payload)), public=key.public_key()))
    signature = value["dsseEnvelope"]["signatures"][0]
    for keyid in ("", None, "absent"):
        signature["sig"] = (
            base64.urlsafe_b64encode(base64.b64decode(signature["sig"] + "==", "-_")).decode().rstrip("=")
        )
        signature["keyid"] = keyid
        check_signature(read_bundle(json.dumps(value).encode()), key.public_key())

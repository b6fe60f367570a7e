"""Certificate chains that may sign, and those that may not: the wrong root, use, time, order, extension."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from certificates import DAY, NOW, Party, authority, leaf
from fake_sigstore import sign
from genealog.core.states import State
from genealog.core.timestamp import read_certificates
from genealog.errors import GenealogError
from genealog.interop.oms.bundle import read_bundle, signed_bytes, write_bundle
from genealog.interop.oms.certificate import check_chain, read_chain
from genealog.interop.oms.payload import write_payload
from genealog.signing.believe import Believed, judge
from tsa import Authority

PAYLOAD = write_payload("model", [("a", "00" * 32)])
ROOT = authority("root")
MIDDLE = authority("middle", ROOT)


def code_of(*chain: Party, roots: tuple[Party, ...] = (ROOT,), at: object = NOW) -> str | None:
    _, certificates = read_chain([each.der for each in chain])
    try:
        check_chain(certificates, [each.certificate for each in roots], at=at)  # type: ignore[arg-type]
    except GenealogError as error:
        return error.code
    return None


def test_chains_that_hold() -> None:
    signer = leaf("signer", MIDDLE)
    assert code_of(signer, MIDDLE) is None
    assert code_of(signer, MIDDLE, ROOT) is None  # a root in the chain is no harm, and no help
    assert code_of(signer, roots=(MIDDLE,)) is None
    assert code_of(leaf("direct", ROOT)) is None
    assert code_of(leaf("any use", ROOT, purposes=())) is None
    assert code_of(leaf("no key usage", ROOT, key_usage=False)) is None
    assert code_of(leaf("nameless", ROOT, email=None)) is None
    for curve in (ec.SECP384R1(), ec.SECP521R1()):
        assert code_of(leaf("curve", ROOT, curve=curve)) is None


def test_chains_that_do_not() -> None:
    signer = leaf("signer", MIDDLE)
    assert code_of(signer) == "certificate-untrusted"  # nobody shows what is between
    assert code_of(signer, MIDDLE, roots=(authority("root"),)) == "certificate-untrusted"  # of the same name
    assert code_of(signer, authority("middle", ROOT)) == "certificate-untrusted"
    assert code_of(leaf("web", ROOT, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))) == "certificate-untrusted"
    assert code_of(leaf("no signing", ROOT, signs=False)) == "certificate-untrusted"
    assert code_of(leaf("says nothing", ROOT, purposes=(), key_usage=False)) == "certificate-untrusted"
    assert code_of(leaf("odd", ROOT, critical=True)) == "certificate-untrusted"
    assert code_of(leaf("by a leaf", signer), signer, MIDDLE) == "certificate-untrusted"
    no_authority = authority("no authority", ROOT, ca=False)
    assert code_of(leaf("x", no_authority), no_authority) == "certificate-untrusted"
    no_use = authority("no use", ROOT, certifies=False)
    assert code_of(leaf("x", no_use), no_use) == "certificate-untrusted"


def test_an_authority_issues_for_what_it_says_alone() -> None:
    web, code = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CODE_SIGNING
    for purposes, expected in (
        ((web,), "certificate-untrusted"), ((code,), None), ((web, code), None),
        ((ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,), None),
    ):  # fmt: skip
        between = authority("between", ROOT, purposes=purposes)
        assert code_of(leaf("x", between), between) == expected, purposes
        below = authority("below", between)
        assert code_of(leaf("x", below), below, between) == expected, purposes
    root = authority("web root", purposes=(web,))  # whoever believes it says so: nothing is above it
    assert code_of(leaf("x", root), roots=(root,)) is None


def test_time_is_told_apart() -> None:
    old = leaf("old", MIDDLE, begins=NOW - 20 * DAY, ends=NOW - 10 * DAY)
    assert code_of(old, MIDDLE) == "certificate-expired"
    assert code_of(old, MIDDLE, at=NOW - 15 * DAY) is None
    assert code_of(old, MIDDLE, roots=(authority("root"),)) == "certificate-untrusted"
    assert code_of(leaf("new", MIDDLE, begins=NOW + DAY, ends=NOW + 2 * DAY), MIDDLE) == "certificate-not-yet-valid"


def bundle(signer: Party, *chain: Party, stamps: tuple[bytes, ...] = ()) -> bytes:
    made = write_bundle(
        PAYLOAD, sign(signer.key, signed_bytes(PAYLOAD)), public=signer.key.public_key(),
        chain=[signer.certificate, *(each.certificate for each in chain)],
    )  # fmt: skip
    if not stamps:
        return made
    import base64
    import json

    value = json.loads(made)
    listed = [{"signedTimestamp": base64.b64encode(each).decode()} for each in stamps]
    value["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": listed}
    return json.dumps(value).encode()


def judged(data: bytes, *believed: Believed, tsa_roots: bytes | None = None) -> tuple[State, str | None]:
    found = judge(read_bundle(data), believed, at=NOW, tsa_roots=tsa_roots)
    return found.state, found.code


def test_who_is_believed_decides() -> None:
    signer = leaf("signer", MIDDLE)
    data = bundle(signer, MIDDLE)
    assert judged(data, Believed(roots=ROOT.pem)) == (State.PROVEN, None)
    assert judged(data, Believed(roots=ROOT.pem, subjects=("models@example.org",))) == (State.PROVEN, None)
    assert judged(data, Believed(roots=ROOT.pem, subjects=("CN=signer",))) == (State.PROVEN, None)
    assert judged(data, Believed(roots=ROOT.pem, subjects=("CN=sign",))) == (State.CONTRADICTED, "signer-mismatch")
    assert judged(data, Believed(roots=authority("root").pem)) == (State.CONTRADICTED, "certificate-untrusted")
    assert judged(data) == (State.UNCHECKED, "signer-unknown")
    assert judged(data, Believed("x", roots=authority("root").pem, subjects=("a",))) == (
        State.UNCHECKED,
        "signer-unknown",
    )
    assert judged(data, Believed("x", roots=ROOT.pem, subjects=("b",))) == (State.UNCHECKED, "signer-unknown")
    assert judged(data, Believed(key=b"")) == (State.CONTRADICTED, "signer-mismatch")


def test_a_swapped_certificate_of_the_same_authority_does_not_verify() -> None:
    signer, other = leaf("signer", MIDDLE), leaf("signer", MIDDLE)
    data = write_bundle(
        PAYLOAD, sign(signer.key, signed_bytes(PAYLOAD)), public=other.key.public_key(),
        chain=[other.certificate, MIDDLE.certificate],
    )  # fmt: skip
    assert judged(data, Believed(roots=ROOT.pem)) == (State.CONTRADICTED, "signature-invalid")


def test_an_expired_certificate_needs_evidence_of_time(tmp_path: Path) -> None:
    short = leaf("short", MIDDLE, begins=NOW - 10 * DAY, ends=NOW - timedelta(seconds=30))
    believed = Believed(roots=ROOT.pem)
    assert judged(bundle(short, MIDDLE), believed) == (State.UNCHECKED, "certificate-expired")
    tsa = Authority(tmp_path / "tsa")
    valid = leaf("valid", MIDDLE, begins=NOW - DAY, ends=NOW + DAY)
    data = bundle(valid, MIDDLE)
    token = tsa.stamp(
        TimestampRequestBuilder()
        .hash_algorithm(HashAlgorithm.SHA256)
        .data(read_bundle(data).signature)
        .build()
        .as_bytes()
    )
    import base64
    import json

    value = json.loads(data)
    signed = [{"signedTimestamp": base64.b64encode(token).decode()}]
    value["verificationMaterial"]["timestampVerificationData"] = {"rfc3161Timestamps": signed}
    stamped = json.dumps(value).encode()
    later = NOW + 5 * DAY
    read = read_bundle(stamped)
    assert judge(read, [believed], at=later).code == "certificate-expired"
    found = judge(read, [believed], at=later, tsa_roots=tsa.roots)
    assert (found.state, "stamped at" in str(found.detail)) == (State.PROVEN, True)
    foreign = Authority(tmp_path / "foreign", "Somebody else")
    assert judge(read, [believed], at=later, tsa_roots=foreign.roots).code == "certificate-expired"
    other = bundle(valid, MIDDLE, stamps=(token, b"\x30\x00", b"", b"x" * 70_000))  # a stamp of another signature
    assert judge(read_bundle(other), [believed], at=later, tsa_roots=tsa.roots).code == "certificate-expired"


def test_what_is_no_certificate() -> None:
    for chain in ([b""], [b"\x30\x00"], [ROOT.der[:100]]):
        with pytest.raises(GenealogError) as caught:
            read_chain(chain)
        assert caught.value.code == "certificate-malformed"
    for pem in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(GenealogError) as caught:
            read_certificates(pem)
        assert caught.value.code == "roots-malformed"


def test_a_hash_other_than_the_curves_does_not_verify() -> None:
    signer = leaf("signer", ROOT, curve=ec.SECP384R1())
    weak = signer.key.sign(signed_bytes(PAYLOAD), ec.ECDSA(hashes.SHA256()))
    data = write_bundle(PAYLOAD, weak, public=signer.key.public_key(), chain=[signer.certificate])
    assert judged(data, Believed(roots=ROOT.pem)) == (State.CONTRADICTED, "signature-invalid")

"""Keyless signatures: one that IBM made in the real sigstore, and those of a fake one that lies in every way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from fake_sigstore import ISSUER, FakeSigstore
from genealog.core.states import State
from genealog.errors import GenealogError
from genealog.interop.oms.bundle import read_bundle
from genealog.interop.oms.keyless import verify_keyless
from genealog.interop.oms.payload import write_payload
from genealog.signing.believe import Believed, judge
from tsa import Authority

VECTORS = Path(__file__).parent / "oms_vectors"
PAYLOAD = write_payload("model", [("a", "00" * 32)])
NOW = datetime.now(UTC)


def test_a_bundle_of_the_real_sigstore_verifies_offline() -> None:
    found = verify_keyless(
        read_bundle((VECTORS / "v1.1.0-sigstore.sig").read_bytes()), (VECTORS / "trusted_root.json").read_bytes()
    )
    assert (found.identity, found.issuer) == ("stefanb@us.ibm.com", "https://sigstore.verify.ibm.com/oauth2")


def test_a_bundle_of_the_real_sigstore_with_one_bit_more() -> None:
    text = (VECTORS / "v1.1.0-sigstore.sig").read_bytes()
    root = (VECTORS / "trusted_root.json").read_bytes()
    for member in ("rawBytes", "signedEntryTimestamp", "canonicalizedBody", "rootHash", 'payload"', 'sig"'):
        at = text.rindex(member.encode()) + len(member) + 20
        wrong = text[:at] + (b"A" if text[at : at + 1] != b"A" else b"B") + text[at + 1 :]
        with pytest.raises(GenealogError):
            verify_keyless(read_bundle(wrong), root)


def test_the_fake_is_believed_by_the_real_library_under_its_own_root_only() -> None:
    fake = FakeSigstore()
    bundle = read_bundle(fake.sign(PAYLOAD))
    assert verify_keyless(bundle, fake.trusted_root()).identity == "models@example.org"
    for root in (FakeSigstore().trusted_root(), (VECTORS / "trusted_root.json").read_bytes()):
        with pytest.raises(GenealogError) as caught:
            verify_keyless(bundle, root)
        assert caught.value.code == "sigstore-invalid"


@pytest.mark.parametrize("lie", ["sct", "set", "checkpoint", "proof", "body", "late"])
def test_no_part_may_lie(lie: str) -> None:
    fake = FakeSigstore(lies=frozenset({lie}))
    with pytest.raises(GenealogError) as caught:
        verify_keyless(read_bundle(fake.sign(PAYLOAD)), fake.trusted_root())
    assert caught.value.code == "sigstore-invalid"


def test_a_timestamp_of_an_authority_counts_and_a_foreign_one_does_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tsa")

    def stamp(signature: bytes) -> bytes:
        return authority.stamp(
            TimestampRequestBuilder().hash_algorithm(HashAlgorithm.SHA256).data(signature).build().as_bytes()
        )

    pem = [(authority.folder / file).read_bytes() for file in ("tsa.pem", "root.pem")]
    fake = FakeSigstore(tsa=tuple(load_pem_x509_certificate(each).public_bytes(Encoding.DER) for each in pem))
    timely = read_bundle(fake.sign(PAYLOAD, stamp=stamp, ago=0))
    assert verify_keyless(timely, fake.trusted_root()).identity == "models@example.org"
    bundle = read_bundle(fake.sign(PAYLOAD, stamp=stamp))
    with pytest.raises(GenealogError) as caught:  # it was stamped today, and the certificate ended a month ago
        verify_keyless(bundle, fake.trusted_root())
    assert caught.value.code == "sigstore-invalid"


def judged(bundle: bytes, *believed: Believed) -> tuple[State, str | None]:
    found = judge(read_bundle(bundle), believed, at=NOW)
    return found.state, found.code


def test_whose_it_is_decides() -> None:
    fake = FakeSigstore()
    data, root = fake.sign(PAYLOAD), fake.trusted_root()
    him = Believed(trusted_root=root, identity="models@example.org", issuer=ISSUER)
    assert judged(data, him) == (State.PROVEN, None)
    other = Believed(trusted_root=root, identity="other@example.org", issuer=ISSUER)
    assert judged(data, other) == (State.CONTRADICTED, "signer-mismatch")
    elsewhere = Believed(trusted_root=root, identity="models@example.org", issuer="https://evil.example.org")
    assert judged(data, elsewhere) == (State.CONTRADICTED, "signer-mismatch")
    assert judged(data, Believed(trusted_root=root)) == (State.UNCHECKED, "signer-unknown")
    assert judged(data) == (State.UNCHECKED, "signer-unknown")
    named = Believed(label="them", trusted_root=root, identity="other@example.org", issuer=ISSUER)
    assert judged(data, named) == (State.UNCHECKED, "signer-unknown")
    assert (
        judge(
            read_bundle(data), (named, Believed("us", None, None, (), root, "models@example.org", ISSUER)), at=NOW
        ).label
        == "us"
    )


def test_a_root_that_is_none() -> None:
    bundle = read_bundle(FakeSigstore().sign(PAYLOAD))
    for root in (b"", b"{}", b"[]", b"\xff", json.dumps({"mediaType": "x"}).encode()):
        with pytest.raises(GenealogError) as caught:
            verify_keyless(bundle, root)
        assert caught.value.code == "trusted-root-malformed"


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sigstore.models", None)
    with pytest.raises(GenealogError) as caught:
        verify_keyless(read_bundle(FakeSigstore().sign(PAYLOAD)), b"{}")
    assert caught.value.code == "extra-not-installed"

"""`model-signing` 1.1.1, the real package, both ways: it verifies ours, we verify its, and both see what was changed.

What its release gets wrong is held here as it is, so that a release that mends it is noticed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certificates import authority, leaf
from command_line import Cli, cli, store
from fake_sigstore import ISSUER, FakeSigstore
from genealog.capture.files import scan_tree
from genealog.core.chain import Report
from genealog.core.states import State
from genealog.interop.oms.bundle import read_bundle, signed_bytes, write_bundle
from genealog.interop.oms.payload import read_payload, write_payload
from genealog.signing.believe import Believed
from genealog.signing.examine import LEFT_OUT, examine_signed
from genealog.store.signers.pem import KeySigner

__all__ = ["cli", "store"]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its dependencies say of each other
    from model_signing import hashing, signing, verifying

pytestmark = pytest.mark.filterwarnings("ignore")


class Keys:
    """A key pair as files."""

    def __init__(self, folder: Path, curve: ec.EllipticCurve) -> None:
        self.key = ec.generate_private_key(curve)
        self.private, self.public = folder / "key.pem", folder / "pub.pem"
        self.private.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self.public.write_bytes(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )


@pytest.fixture(params=["secp256r1", "secp384r1", "secp521r1"])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> Keys:
    return Keys(tmp_path, getattr(ec, request.param.upper())())


@pytest.fixture
def key(tmp_path: Path) -> Keys:
    return Keys(tmp_path, ec.SECP256R1())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "w é.bin").write_bytes(bytes(range(256)) * 9)
    (folder / "empty").write_bytes(b"")
    return folder


def judged(model: Path, signature: Path, *believed: Believed) -> Report:
    return examine_signed(model, signature.read_bytes(), believed, at=datetime.now(UTC), signature=signature)


def wrong(report: Report) -> list[tuple[str, str | None]]:
    return [(hop.title, hop.code) for hop in report.hops if hop.state is not State.PROVEN]


def ours(model: Path, key: ec.EllipticCurvePrivateKey, out: Path, **options: Any) -> None:
    files = [(entry.path, entry.sha256) for entry in scan_tree(model).entries]
    payload = write_payload(model.name, files, **options)
    out.write_bytes(write_bundle(payload, KeySigner(key).sign(signed_bytes(payload)), public=key.public_key()))


TAMPERS = {
    "signed-file-changed": lambda model: (model / "config.json").write_text("[]"),
    "signed-file-missing": lambda model: (model / "config.json").unlink(),
    "file-not-signed": lambda model: (model / "evil.py").write_text("import os"),
    "renamed": lambda model: (model / "config.json").rename(model / "config.py"),
}


@pytest.mark.parametrize("tamper", TAMPERS)
def test_both_see_what_was_changed_under_both_signatures(model: Path, key: Keys, tmp_path: Path, tamper: str) -> None:
    mine, theirs = tmp_path / "mine.sig", tmp_path / "theirs.sig"
    ours(model, key.key, mine)
    signing.Config().use_elliptic_key_signer(private_key=key.private).sign(model, theirs)
    believed = Believed(key=key.public.read_bytes())
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=key.public)
    for signature in (mine, theirs):
        assert judged(model, signature, believed).state is State.PROVEN
        verifier.verify(model, signature)
    TAMPERS[tamper](model)
    for signature in (mine, theirs):
        report = judged(model, signature, believed)
        assert report.state is State.CONTRADICTED
        codes = {code for _, code in wrong(report)} - {"files-differ"}
        assert codes == ({tamper} if tamper != "renamed" else {"signed-file-missing", "file-not-signed"})
        with pytest.raises(ValueError, match="Signature mismatch"):
            verifier.verify(model, signature)


def test_every_curve_both_ways(model: Path, keys: Keys, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.sig", tmp_path / "theirs.sig"
    ours(model, keys.key, mine)
    verifying.Config().use_elliptic_key_verifier(public_key=keys.public).verify(model, mine)
    signing.Config().use_elliptic_key_signer(private_key=keys.private).sign(model, theirs)
    assert judged(model, theirs, Believed(key=keys.public.read_bytes())).state is State.PROVEN
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert wrong(judged(model, theirs, Believed(key=pem))) == [("OMS, by key", "signature-invalid")]


def test_certificates_both_ways(model: Path, tmp_path: Path) -> None:
    root = authority("root")
    middle = authority("middle", root)
    signer = leaf("signer", middle)
    for name, data in {"root": root.pem, "middle": middle.pem, "leaf": signer.pem, "key": signer.key_pem}.items():
        (tmp_path / f"{name}.pem").write_bytes(data)
    theirs, mine = tmp_path / "theirs.sig", tmp_path / "mine.sig"
    signing.Config().use_certificate_signer(
        private_key=tmp_path / "key.pem", signing_certificate=tmp_path / "leaf.pem",
        certificate_chain=[tmp_path / "middle.pem"],
    ).sign(model, theirs)  # fmt: skip
    assert judged(model, theirs, Believed(roots=root.pem)).state is State.PROVEN
    assert judged(model, theirs, Believed(roots=authority("root").pem)).state is State.CONTRADICTED
    files = [(entry.path, entry.sha256) for entry in scan_tree(model).entries]
    payload = write_payload(model.name, files)
    made = write_bundle(
        payload, KeySigner(signer.key).sign(signed_bytes(payload)), public=signer.key.public_key(),
        chain=[signer.certificate, middle.certificate],
    )  # fmt: skip
    mine.write_bytes(made)
    verifying.Config().use_certificate_verifier(certificate_chain=[tmp_path / "root.pem"]).verify(model, mine)


def test_a_keyless_signature_over_files(model: Path, tmp_path: Path) -> None:
    """Their verifier of these is the sigstore library, which ours asks too."""
    fake = FakeSigstore()
    files = [(entry.path, entry.sha256) for entry in scan_tree(model).entries]
    (tmp_path / "keyless.sig").write_bytes(fake.sign(write_payload("model", files)))
    believed = Believed(trusted_root=fake.trusted_root(), identity="models@example.org", issuer=ISSUER)
    assert judged(model, tmp_path / "keyless.sig", believed).state is State.PROVEN
    (model / "config.json").write_text("[]")
    assert judged(model, tmp_path / "keyless.sig", believed).state is State.CONTRADICTED


def test_what_their_signer_left_out_is_named_and_not_proven(model: Path, key: Keys) -> None:
    (model / ".gitattributes").write_text("*")
    (model / "notes.txt").write_text("secret")
    signature = model / "model.sig"
    config = hashing.Config().set_ignored_paths(paths=[model / "notes.txt", signature], ignore_git_paths=True)
    signing.Config().use_elliptic_key_signer(private_key=key.private).set_hashing_config(config).sign(model, signature)
    report = judged(model, signature, Believed(key=key.public.read_bytes()))
    assert wrong(report) == [(".gitattributes", LEFT_OUT), ("notes.txt", LEFT_OUT)]
    (model / "notes.txt").write_text("import os")
    verifying.Config().use_elliptic_key_verifier(public_key=key.public).verify(model, signature)  # it says yes
    assert report.state is State.UNCHECKED


def test_links(model: Path, key: Keys, tmp_path: Path) -> None:
    signature, believed = tmp_path / "model.sig", Believed(key=key.public.read_bytes())
    signing.Config().use_elliptic_key_signer(private_key=key.private).sign(model, signature)
    (tmp_path / "outside").write_text("x")
    (model / "link").symlink_to(tmp_path / "outside")
    assert wrong(judged(model, signature, believed))[1:] == [("link", "file-not-signed")]
    config = hashing.Config().set_allow_symlinks(True)
    signing.Config().use_elliptic_key_signer(private_key=key.private).set_hashing_config(config).sign(model, signature)
    assert judged(model, signature, believed).state is State.PROVEN
    (tmp_path / "outside").write_text("y")
    assert wrong(judged(model, signature, believed))[1:] == [("link", "signed-file-changed")]


def test_shards_and_other_hashes_of_theirs_that_their_release_cannot_verify(
    model: Path, key: Keys, tmp_path: Path
) -> None:
    believed = Believed(key=key.public.read_bytes())
    (model / "empty").unlink()
    configs = {
        "shards": hashing.Config().use_shard_serialization(hashing_algorithm="sha256", shard_size=1000),
        "blake2": hashing.Config().use_file_serialization(hashing_algorithm="blake2"),
        "blake3": hashing.Config().use_file_serialization(hashing_algorithm="blake3"),
    }
    for name, config in configs.items():
        signature = tmp_path / f"{name}.sig"
        signing.Config().use_elliptic_key_signer(private_key=key.private).set_hashing_config(config).sign(
            model, signature
        )
        assert judged(model, signature, believed).state is State.PROVEN, name
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key.public)
        if name == "blake3":
            verifier.verify(model, signature)
        else:  # a shard size comes back as a float; a hash is signed under a name that is not read back
            with pytest.raises((TypeError, ValueError)):
                verifier.verify(model, signature)
    assert read_payload(read_bundle((tmp_path / "shards.sig").read_bytes()).payload).shard_size == 1000
    (model / "sub" / "w é.bin").write_bytes(bytes(range(256)) * 8 + bytes(256))
    for name in configs:
        assert wrong(judged(model, tmp_path / f"{name}.sig", believed))[1:] == [("sub/w é.bin", "signed-file-changed")]
    (model / "more").write_bytes(b"")  # a file without bytes has no shard
    report = judged(model, tmp_path / "shards.sig", believed)
    assert ("more", LEFT_OUT) in wrong(report)


def test_their_command_line_and_ours(cli: Cli, store: Path) -> None:
    def theirs(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-m", "model_signing", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)

    Path("model/.gitattributes").write_text("*")
    assert cli("add", "model", "--kind", "model", "--name", "m2").status == 0
    assert cli("sign", "m2", "--oms", "model/model.sig").status == 0
    public = KeySigner(serialization.load_pem_private_key((store / "keys/owner.pem").read_bytes(), None)).private  # type: ignore[arg-type]
    pem = public.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    Path("pub.pem").write_bytes(pem)
    done = theirs("verify", "key", "model", "--signature", "model/model.sig", "--public_key", "pub.pem")
    assert done.returncode == 0, done.stderr
    key = str(store / "keys/owner.pem")
    assert theirs("sign", "key", "model", "--signature", "theirs.sig", "--private_key", key).returncode == 0
    Path("model/model.sig").unlink()
    assert (
        cli("verify", "model", "--signature", "theirs.sig", "--public-key", "pub.pem").status == 1
    )  # the bundle is gone
    assert theirs("sign", "key", "model", "--signature", "theirs.sig", "--private_key", key).returncode == 0
    ran = cli("verify", "model", "--signature", "theirs.sig", "--public-key", "pub.pem", "--json")
    assert ran.status == 3
    assert [hop["code"] for hop in ran.json["hops"] if "code" in hop] == [LEFT_OUT]
    assert cli("verify", "model", "--signature", "theirs.sig", "--public-key", "pub.pem", "--allow-ignored").status == 0

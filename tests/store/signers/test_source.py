"""Where keys come from: names, files, variables; what opens them; and that nothing of it is shown."""

from __future__ import annotations

import io
import sys
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from command_line import Cli, cli, store
from genealog.core.dsse import verify_signature
from genealog.errors import GenealogError
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.keys import KeyRing
from genealog.store.signers.secret import from_terminal, read_secret
from genealog.store.signers.source import check_source, open_signer

__all__ = ["cli", "store"]
PASSWORD = "hunter2-hunter2"


def pem(key: object, password: str | None = None) -> bytes:
    how = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)  # type: ignore[attr-defined]


def private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    made = KeyRing(tmp_path / "keys")
    made.create("ci")
    return made


def test_a_name_and_a_named_file_are_the_same_key(ring: KeyRing) -> None:
    assert open_signer("ci", ring).keyid == open_signer("file:ci", ring).keyid == ring.signer("ci").keyid


def test_a_file_elsewhere_with_a_password_from_a_variable(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = private(tmp_path / "key.pem", pem(ec.generate_private_key(ec.SECP256R1()), PASSWORD))
    monkeypatch.setenv("THE_PASSWORD", PASSWORD)
    signer = open_signer(f"file:{path}", ring, secret="env:THE_PASSWORD")
    verify_signature(signer.public_der, signer.sign(b"x"), b"x")
    assert PASSWORD not in repr(signer)


def test_a_key_in_a_variable(ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", pem(ed25519.Ed25519PrivateKey.generate()).decode())
    signer = open_signer("env:THE_KEY", ring)
    verify_signature(signer.public_der, signer.sign(b"x"), b"x")


def test_an_encrypted_key_of_the_store_asks_once(ring: KeyRing, tmp_path: Path) -> None:
    private(tmp_path / "keys/locked.pem", pem(ec.generate_private_key(ec.SECP256R1()), PASSWORD))
    asked: list[str] = []
    assert open_signer("locked", ring, ask=lambda what: asked.append(what) or PASSWORD).keyid
    assert asked == ["password of the key locked"]


def code_of(*arguments: object, **options: object) -> str:
    with pytest.raises(GenealogError) as caught:
        open_signer(*arguments, **options)  # type: ignore[arg-type]
    shown = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in shown
    assert "PRIVATE KEY" not in shown
    return caught.value.code


def test_every_refusal_has_its_code(ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = private(tmp_path / "locked.pem", pem(ec.generate_private_key(ec.SECP256R1()), PASSWORD))
    monkeypatch.setenv("WRONG", "not " + PASSWORD[:3])
    monkeypatch.setenv("NO_KEY", "text")
    monkeypatch.setenv("RSA", pem(rsa.generate_private_key(65537, 2048)).decode())
    monkeypatch.setenv("CURVE", pem(ec.generate_private_key(ec.SECP256K1())).decode())
    monkeypatch.delenv("NOTHING", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert code_of(f"file:{locked}", ring, secret="env:WRONG") == "key-password"
    assert code_of(f"file:{locked}", ring, secret="env:NOTHING") == "no-secret"
    assert code_of(f"file:{locked}", ring) == "no-secret"
    assert code_of(f"file:{locked}", ring, secret=PASSWORD) == "bad-secret-source"
    assert code_of(f"file:{locked}", ring, secret=f"file:{tmp_path}/none") == "no-secret"
    assert code_of(f"file:{tmp_path}/none.pem", ring) == "no-key"
    assert code_of("env:NOTHING", ring) == "no-key"
    assert code_of("env:NO_KEY", ring) == "key-unreadable"
    assert code_of("env:RSA", ring) == "key-unreadable"
    assert code_of("env:CURVE", ring) == "key-unreadable"
    assert code_of("nobody", ring) == "no-key"
    locked.chmod(0o644)
    assert code_of(f"file:{locked}", ring, secret="env:WRONG") == "key-readable"


@pytest.mark.parametrize(
    "source", ["", "../owner", "file:", "file:../x", "file:a/b", "env:", "env:A B", "http://x", "a b"]
)
def test_sources_that_say_nothing(source: str, ring: KeyRing) -> None:
    with pytest.raises(GenealogError) as caught:
        check_source(source)
    assert caught.value.code == "bad-key-source"


def test_an_empty_variable_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(GenealogError, match="the PIN is not given") as caught:
        read_secret("env:EMPTY", "PIN", from_terminal)
    assert caught.value.code == "no-secret"


def test_a_secret_file_is_private_and_one_line(tmp_path: Path) -> None:
    path = private(tmp_path / "pin", b"1234\r\nnot this\n")
    assert read_secret(f"file:{path}", "PIN", from_terminal) == "1234"
    path.chmod(0o640)
    with pytest.raises(GenealogError) as caught:
        read_secret(f"file:{path}", "PIN", from_terminal)
    assert caught.value.code == "key-readable"
    private(path, b"\xff\xff")
    with pytest.raises(GenealogError) as caught:
        read_secret(f"file:{path}", "PIN", from_terminal)
    assert caught.value.code == "key-unreadable"


def test_an_identity_signs_with_a_key_in_a_variable(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_KEY", pem(ec.generate_private_key(ec.SECP256R1())).decode())
    assert cli("signer", "add", "ci", "--identity", "CI", "--key", "env:CI_KEY").status == 0
    assert cli("sign", "model", "--as", "ci").status == 0
    monkeypatch.setenv("CI_KEY", pem(ec.generate_private_key(ec.SECP256R1())).decode())
    refused = cli("sign", "model", "--as", "ci")
    assert refused.status == 1
    assert "[signer-unknown]" in refused.err
    assert Registry(Home.open(store)).home.config.identities["ci"].key == "env:CI_KEY"

"""Keys in a token, by SoftHSM: signatures that verify, and every way in which a token can say no."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from command_line import Cli, cli, store
from genealog.core.dsse import verify_signature
from genealog.errors import GenealogError
from genealog.registry import Registry
from genealog.store.home import Home
from genealog.store.keys import KeyRing
from genealog.store.signers.source import open_signer
from genealog.store.signers.token import TokenSigner, parse_uri
from softhsm import PIN, Tokens

__all__ = ["cli", "store"]


def signer(tokens: Tokens, key: str, *, pin: str = PIN) -> TokenSigner:
    return TokenSigner(parse_uri(tokens.uri("tests", key)), lambda: pin)


def test_signs_with_p256_as_statements_need_it(tokens: Tokens) -> None:
    held = signer(tokens, "release")
    verify_signature(held.public_der, held.sign(b"hello"), b"hello")


def test_signs_with_p384_and_its_own_hash(tokens: Tokens) -> None:
    held = signer(tokens, "large")
    public = serialization.load_der_public_key(held.public_der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(held.sign(b"hello"), b"hello", ec.ECDSA(hashes.SHA384()))


def test_a_key_is_found_by_its_id_too(tokens: Tokens) -> None:
    uri = parse_uri(f"pkcs11:token=tests;id=%72%65lease?module-path={tokens.library}")
    assert TokenSigner(uri, lambda: PIN).keyid == signer(tokens, "release").keyid


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # python-pkcs11 closing what is lost
def test_a_lost_session_is_opened_again(tokens: Tokens) -> None:
    held = signer(tokens, "release")
    held.sign(b"one")
    held._session.close()
    verify_signature(held.public_der, held.sign(b"two"), b"two")


def problem(tokens: Tokens, uri: str, pin: str = PIN) -> GenealogError:
    with pytest.raises(GenealogError) as caught:
        TokenSigner(parse_uri(uri), lambda: pin).sign(b"hello")
    shown = "".join(traceback.format_exception(caught.value))
    assert PIN not in shown
    assert pin not in shown
    return caught.value


def test_every_refusal_has_its_code_and_shows_no_pin(tokens: Tokens, tmp_path: Path) -> None:
    good = tokens.uri("tests", "release")
    wrong = tmp_path / "no-library.so"
    wrong.write_bytes(b"\x7fELF")
    cases = {
        "token-absent": good.replace("token=tests", "token=elsewhere"),
        "token-key-missing": good.replace("object=release", "object=unknown"),
        "token-mechanism": good.replace("object=release", "object=rsa"),
        "token-module": good.replace(str(tokens.library), str(wrong)),
    }
    for code, uri in cases.items():
        assert problem(tokens, uri).code == code


def test_a_wrong_pin_is_told_without_it(tokens: Tokens) -> None:
    """In a process of its own: a process that is logged in already stays so."""
    code = (
        "from genealog.store.signers.token import TokenSigner, parse_uri\n"
        f"TokenSigner(parse_uri({tokens.uri('tests', 'release')!r}), lambda: 'wrong-' + '1234').sign(b'x')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "[token-pin]; got PinIncorrect" in done.stderr
    assert "wrong-1234" not in done.stderr + done.stdout


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # python-pkcs11 closing what is lost
def test_a_token_that_is_gone_is_told(tokens: Tokens) -> None:
    tokens.make("leaving", {"release": "secp256r1"})
    held = TokenSigner(parse_uri(tokens.uri("leaving", "release")), lambda: PIN)
    held.sign(b"one")
    tokens.run("--delete-token", "--token", "leaving")
    import pkcs11

    pkcs11.lib(str(tokens.library)).reinitialize()
    with pytest.raises(GenealogError) as caught:
        held.sign(b"two")
    assert caught.value.code in ("token-absent", "token-lost")


def test_no_library_named(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = parse_uri("pkcs11:token=tests;object=release")
    monkeypatch.delenv("GENEALOG_PKCS11_MODULE", raising=False)
    with pytest.raises(GenealogError) as caught:
        TokenSigner(bare, lambda: PIN).sign(b"x")
    assert caught.value.code == "token-module"
    monkeypatch.setenv("GENEALOG_PKCS11_MODULE", str(tokens.library))
    assert TokenSigner(bare, lambda: PIN).sign(b"x")


def test_statements_and_bundles_are_signed_by_a_token(
    cli: Cli, store: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSM_PIN", PIN)
    uri = tokens.uri("tests", "release")
    added = cli("signer", "add", "hsm", "--identity", "Release", "--key", uri, "--secret", "env:HSM_PIN")
    assert added.status == 0, added.err
    assert PIN not in (store / "genealog.toml").read_text()
    (store.parent / "other").mkdir()
    (store.parent / "other" / "w.bin").write_bytes(b"w")
    assert cli("add", "other", "--kind", "model", "--as", "hsm").status == 0
    assert cli("sign", "model", "--as", "hsm").status == 0
    done = cli("sign", "other", "--oms", "other.sig", "--as", "hsm", "--json")
    assert done.status == 0, done.err
    assert done.json["entry"]
    public = open_signer(uri, KeyRing(store / "keys"), secret="env:HSM_PIN").public_der
    key = serialization.load_der_public_key(public)
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    Path("hsm.pem").write_bytes(pem)
    assert cli("verify", "other", "--signature", "other.sig", "--public-key", "hsm.pem").status == 0
    shown = cli("show", "model", "--json").json["signatures"]
    assert [each["signer"].split(" (")[0] for each in shown] == ["Jane", "Release"]
    assert cli("fsck").status == 0


def test_a_curve_that_statements_do_not_have_is_refused(store: Path, tokens: Tokens) -> None:
    registry = Registry(Home.open(store))
    Path("pin").write_text(PIN + "\n")
    Path("pin").chmod(0o600)
    with pytest.raises(GenealogError) as caught:
        registry.adopt_signer(
            "large", "Release", source=tokens.uri("tests", "large"), secret=f"file:{Path('pin').resolve()}"
        )
    assert caught.value.code == "bad-public-key"


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:token=a;object=b?pin-value=1234",
        "pkcs11:token=a",
        "pkcs11:object=a",
        "pkcs11:token=a;token=b;object=c",
        "pkcs11:token=a;object=b;type=cert",
        "pkcs11:token=a;object=b;slot-id=0",
        "pkcs11:token=a;object=b?module-path",
        "pkcs11:token=%ff;object=b",
        "pkcs11:token=a;object=b?x=y",
    ],
)
def test_uris_that_cannot_be_used(uri: str) -> None:
    with pytest.raises(GenealogError) as caught:
        parse_uri(uri)
    assert caught.value.code == "bad-token-uri"
    assert not re.search("1234", "".join(traceback.format_exception(caught.value)))

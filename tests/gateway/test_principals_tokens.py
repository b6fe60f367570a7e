"""Tokens of issuers: what is believed, what is not, and why; keys that change; nothing of a token in an error."""

from __future__ import annotations

import io
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from genealog.errors import GenealogError, StoreError
from genealog.gateway import tokens
from genealog.gateway.admission import Who
from genealog.gateway.principals import Principals
from genealog.gateway.refusal import status_of
from genealog.store.config import parse_config
from genealog.store.counters import Counters

NOW = 1_800_000_000
RSA, EC = rsa.generate_private_key(65_537, 2048), ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(65_537, 2048)
SMALL = rsa.generate_private_key(65_537, 1024)
SETTINGS = """
[store]
format = 1
origin = "o"
[identities]
signer = "a"
[identities.a]
name = "A"
key = "a"
[gateway]
principals = "required"
[principals.billing]
department = "finance"
[[issuers]]
issuer = "https://login.example"
audience = "genealog"
jwks = "keys.json"
principal = "client_id"
department = "dept"
tenants = ["t-*"]
deployments = ["prod/*"]
limits = { requests_per_minute = 2 }
"""


def jwk(key: Any, **fields: Any) -> dict[str, Any]:
    maker = {rsa.RSAPublicKey: jwt.algorithms.RSAAlgorithm, ec.EllipticCurvePublicKey: jwt.algorithms.ECAlgorithm}
    kind = next((made for base, made in maker.items() if isinstance(key, base)), jwt.algorithms.OKPAlgorithm)
    return json.loads(kind.to_jwk(key)) | fields  # type: ignore[attr-defined,no-any-return]


KEYS = {
    "keys": [
        jwk(RSA.public_key(), kid="r"),
        jwk(EC.public_key(), kid="e"),
        jwk(EDWARDS.public_key(), kid="d", use="sig"),
        jwk(RSA.public_key(), kid="only-ps", alg="PS256"),
        jwk(RSA.public_key(), kid="for-encryption", use="enc"),
        jwk(SMALL.public_key(), kid="small"),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
    ]
}


@dataclass
class Request:
    headers: list[tuple[bytes, bytes]]
    query: bytes = b""
    certificate: Any = None
    method: str = "POST"
    path: str = "/"
    peer: str = ""
    more: list[Any] = field(default_factory=list)


def claims(**changes: Any) -> dict[str, Any]:
    known = {
        "iss": "https://login.example", "aud": "genealog", "exp": NOW + 600, "nbf": NOW - 5, "client_id": "robot",
        "dept": "research", "sub": "not me",
    }  # fmt: skip
    return {name: value for name, value in (known | changes).items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "r", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm, {"kid": kid} if kid is not None else None)


def shown(word: str) -> Request:
    return Request([(b"authorization", b"Bearer " + word.encode())])


class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> Principals:
    (tmp_path / "keys.json").write_text(json.dumps(KEYS))
    config = parse_config(SETTINGS.encode(), tmp_path / "genealog.toml")
    return Principals(config, Counters(tmp_path / "c"), clock=clock, folder=tmp_path)


@pytest.mark.parametrize(
    "word",
    [
        token(), token(RSA, "PS384"), token(RSA, "PS256", "only-ps"), token(EC, "ES256", "e"),
        token(EDWARDS, "EdDSA", "d"), token(aud=["others", "genealog"]), token(exp=NOW - 10),
    ],
)  # fmt: skip
def test_a_token_says_who_calls(made: Principals, word: str) -> None:
    found = made.authenticate(shown(word))
    assert isinstance(found, Who), found
    kid = jwt.get_unverified_header(word)["kid"]
    assert dict(found.facts) == {"principal": "robot", "department": "research", "how": "jwt", "key": kid}
    assert found.withheld == {b"authorization"}


def unsigned(algorithm: str) -> str:
    return jwt.encode(claims(), None, "none", {"alg": algorithm, "kid": "r"})


def shared_secret() -> str:
    """The attack: the public key, which everybody has, as the secret of an HMAC."""
    return jwt.encode(claims(), "c" * 64, "HS256", {"kid": "r"})


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (token(STRANGER), "signature"),
        (token(kid="nobody"), "does not have"),
        (token(kid=None), "does not have"),
        (token(kid="for-encryption"), "does not have"),
        (token(RSA, "PS256", "small"), "does not have"),
        (token(RSA, "RS256", "only-ps"), "does not have"),
        (token(EC, "ES256", "r"), "does not have"),
        (unsigned("none"), "algorithm"),
        (shared_secret(), "algorithm"),
        (token(aud="others"), "audience"),
        (token(exp=NOW - 31), "expired"),
        (token(nbf=NOW + 31), "not good yet"),
        (token(exp=None), "lacks"),
        (token(nbf=None), "lacks"),
        (token(aud=None), "lacks"),
        (token(client_id=None), "claim for the principal"),
        (token(client_id=7), "claim for the principal"),
        (token(client_id=""), "claim for the principal"),
        (token(dept="x" * 257), "claim for the department"),
        (token(client_id="billing"), "has keys of its own"),
        (token()[:-8] + "AAAAAAAA", "signature"),
    ],
)
def test_what_is_not_believed_is_said_without_the_token(made: Principals, word: str, why: str) -> None:
    refused = made.authenticate(shown(word))
    assert isinstance(refused, GenealogError)
    assert (refused.code, status_of(refused)) == ("token-invalid", 401)
    assert why in str(refused)
    assert word.split(".")[1][:20] not in str(refused.problem())


@pytest.mark.parametrize(
    "word", ["a.b.c", token(iss="https://other.example"), token(iss=None), "x" * 20_000 + "..", ".."]
)
def test_a_token_of_nobody_here_is_the_clients_own(made: Principals, word: str) -> None:
    refused = made.authenticate(shown(word))
    assert isinstance(refused, GenealogError)
    assert refused.code == "principal-missing"


def test_a_verified_token_is_remembered_until_it_expires(
    made: Principals, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    word = token()
    assert isinstance(made.authenticate(shown(word)), Who)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("verified again")

    monkeypatch.setattr(jwt, "decode", never)
    clock.now += 0.5
    assert isinstance(made.authenticate(shown(word)), Who)
    monkeypatch.undo()
    clock.now = NOW + 631
    refused = made.authenticate(shown(word))
    assert isinstance(refused, GenealogError)
    assert "expired" in str(refused)


def test_a_token_has_the_limits_of_its_issuer(made: Principals) -> None:
    found = made.authenticate(shown(token()))
    assert isinstance(found, Who)
    denied = made.admit(found, "test/bot")
    assert denied is not None
    assert denied.code == "deployment-not-allowed"
    assert made.admit(found, "prod/bot") is None
    assert made.admit(found, "prod/bot") is None
    limited = made.admit(found, "prod/bot")
    assert limited is not None
    assert limited.code == "rate-limited"


def test_a_key_that_is_new_in_the_file_is_found(made: Principals, tmp_path: Path) -> None:
    word = token(STRANGER, "RS256", "new")
    assert isinstance(made.authenticate(shown(word)), GenealogError)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk(STRANGER.public_key(), kid="new")]}))
    assert isinstance(made.authenticate(shown(word)), Who)
    assert isinstance(made.authenticate(shown(token())), GenealogError)  # the old key is gone
    (tmp_path / "keys.json").write_text("no JSON")
    assert isinstance(made.authenticate(shown(token(STRANGER, "RS256", "new", sub="x"))), Who)  # what was good stays


def test_a_key_that_left_the_file_is_believed_no_more(made: Principals, tmp_path: Path) -> None:
    assert isinstance(made.authenticate(shown(token())), Who)
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [jwk(STRANGER.public_key(), kid="new")]}))
    assert isinstance(made.authenticate(shown(token(sub="x"))), GenealogError)


def test_settings_that_change_ask_no_url_again(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def opened(url: str, timeout: float) -> Any:
        asked.append(url)
        return io.BytesIO(json.dumps(KEYS).encode())

    monkeypatch.setattr(tokens._opener, "open", opened)
    text = SETTINGS.replace("keys.json", "https://login.example/keys")
    settings = parse_config(text.encode(), tmp_path / "x")
    other = parse_config(text.replace("finance", "sales").replace('"t-*"', '"u-*"').encode(), tmp_path / "x")
    given = [None, other, other]
    made = Principals(settings, Counters(tmp_path / "c"), clock=clock, reread=lambda: given.pop(0))
    threads = threading.active_count()
    try:
        for _ in range(3):
            clock.now += 2
            assert isinstance(made.authenticate(shown(token())), Who)
        assert not given
        assert len(asked) == 1
        assert threading.active_count() == threads
        request = shown(token())
        request.headers.append((b"genealog-tenant", b"t-1"))
        refused = made.authenticate(request)
        assert isinstance(refused, GenealogError)
        assert refused.code == "tenant-not-allowed"  # the settings are the new ones
    finally:
        made.close()


def test_a_file_that_is_no_key_set_is_refused_at_the_start(tmp_path: Path) -> None:
    config = parse_config(SETTINGS.encode(), tmp_path / "genealog.toml")
    for text in (None, "no JSON", "[]", "{}", '{"keys": 7}'):
        if text is not None:
            (tmp_path / "keys.json").write_text(text)
        with pytest.raises(StoreError, match="jwks-unusable"):
            Principals(config, Counters(tmp_path / "c"), folder=tmp_path)


def test_keys_at_a_url_are_read_once_more_for_one_that_is_not_known(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = [json.dumps(KEYS), OSError("away"), json.dumps({"keys": [jwk(STRANGER.public_key(), kid="new")]})]
    reads: list[float] = []

    class Answer:
        def __init__(self, text: str) -> None:
            self._text = text

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, _most: int) -> bytes:
            return self._text.encode()

    def opened(_url: str, timeout: float) -> Self:
        reads.append(time.monotonic())
        given = served[min(len(reads), len(served)) - 1]
        if isinstance(given, OSError):
            raise given
        return Answer(given)

    monkeypatch.setattr(tokens._opener, "open", opened)
    monkeypatch.setattr(tokens, "_AGAIN", 0.2)
    text = SETTINGS.replace("keys.json", "https://login.example/keys")
    made = Principals(parse_config(text.encode(), tmp_path / "x"), Counters(tmp_path / "c"), clock=clock)
    word = token(STRANGER, "RS256", "new")
    try:
        begun = time.monotonic()
        for _ in range(50):
            assert isinstance(made.authenticate(shown(word)), GenealogError)
        assert time.monotonic() - begun < 0.15  # nobody waits for the network
        assert isinstance(made.authenticate(shown(token())), Who)
        deadline = time.monotonic() + 10
        while isinstance(made.authenticate(shown(word)), GenealogError) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert isinstance(made.authenticate(shown(word)), Who)
        assert len(reads) == 3  # the start, a failure, the key: not one for each token
        assert reads[2] - reads[1] > 0.15
    finally:
        made.close()


def test_keys_come_over_https_alone() -> None:
    handler = tokens._SecureOnly()
    with pytest.raises(ValueError, match="http://"):
        handler.redirect_request(None, None, 302, "", {}, "http://login.example/keys")
    with pytest.raises(StoreError, match="jwks-unusable"):  # a file of that name
        tokens._Keys("http://login.example/keys", Path("/nowhere"))

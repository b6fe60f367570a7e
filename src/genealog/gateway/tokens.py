"""Tokens (JWT, RFC 7519) of [[issuers]]: whose they are, and whether they are to be believed.

Only asymmetric signatures count, by a key of the issuer whose kind fits the algorithm; `iss`, `aud`, `exp` and `nbf`
must be there. Keys come from a file, or from an https:// URL that a thread of its own reads: at the start, every few
minutes, and once when a token names a key that is not known. Until it is, that token is refused; clients try again.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genealog.errors import StoreError, not_installed
from genealog.store.gateway_settings import Issuer

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LONGEST = 16 * 1024  # of a token
_LEEWAY = 30  # seconds that clocks may differ
_REFRESH = 600.0  # seconds between two readings of a URL
_AGAIN = 30.0  # seconds between two readings because of keys that are not known
_MOST = 256 * 1024  # bytes of keys
_WAIT = 5.0  # seconds for a URL
_LONGEST_NAME = 256

log = logging.getLogger("genealog.gateway")


@dataclass(frozen=True, slots=True)
class Named:
    """What a token that is believed says: facts for the record, until when (Unix time), by which issuer's word."""

    facts: Mapping[str, str]
    expires: float
    issuer: Issuer


class Issuers:
    """Verifies tokens. `taken` are names that no token may claim: principals with keys. Keys that were known `before`
    from the same URL are not asked for again. Raises: MissingError `extra-not-installed`; StoreError `jwks-unusable`
    for a file that cannot be read at the start.
    """

    def __init__(
        self,
        issuers: Sequence[Issuer],
        folder: Path,
        *,
        taken: frozenset[str] = frozenset(),
        clock: Callable[[], float] = time.time,
        before: Issuers | None = None,
    ) -> None:
        self._clock = clock
        self._taken = taken
        known = {} if before is None else {(each.issuer, each.jwks): keys for each, keys in before._keys.values()}
        known = {place: keys for place, keys in known.items() if keys.at_url}
        self._keys: dict[str, tuple[Issuer, _Keys]] = {
            each.issuer: (each, known.get((each.issuer, each.jwks)) or _Keys(each.jwks, folder)) for each in issuers
        }
        if issuers:
            try:
                import jwt  # noqa: F401
            except ImportError:
                raise not_installed("a gateway that reads tokens", "pyjwt", "oidc") from None

    def issued(self, token: bytes) -> bool:
        """Say whether a token says that it is of one of these issuers. Nothing is verified here."""
        if not self._keys:
            return False
        issuer = _unverified(token, 1).get("iss")
        return isinstance(issuer, str) and issuer in self._keys

    def verify(self, token: bytes) -> Named | str:
        """Return what a token says, or in a few words why it is not believed: never any of its bytes."""
        import jwt

        head, claims = _unverified(token, 0), _unverified(token, 1)
        issuer, keys = self._keys[claims["iss"]]
        algorithm, kid = head.get("alg"), head.get("kid")
        if algorithm not in ALGORITHMS or "crit" in head:
            return "an algorithm that is not taken"
        key = keys.get(kid if isinstance(kid, str) else None, algorithm)
        if key is None:
            return "a key that its issuer does not have, as far as is known now"
        try:
            claims = jwt.decode(
                token, key, algorithms=[algorithm], audience=issuer.audience, issuer=issuer.issuer, leeway=_LEEWAY,
                options={
                    "require": ["exp", "nbf", "iss", "aud"], "verify_exp": False, "verify_nbf": False,
                    "verify_iat": False,
                },
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            return _WHY.get(type(error).__name__, "a signature or claim that is wrong")
        return self._named(issuer, claims, kid if isinstance(kid, str) else None)

    def close(self, *, but: Issuers | None = None) -> None:
        """Stop reading URLs, but for keys that another has taken over."""
        kept = [] if but is None else [keys for _, keys in but._keys.values()]
        for _, keys in self._keys.values():
            if keys not in kept:
                keys.close()

    def _named(self, issuer: Issuer, claims: Mapping[str, Any], kid: str | None) -> Named | str:
        now, until, since = self._clock(), claims["exp"], claims["nbf"]
        if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in (until, since)):
            return "times that are no numbers"
        if now >= until + _LEEWAY:
            return "it has expired"
        if now < since - _LEEWAY:
            return "it is not good yet"
        facts = {"how": "jwt"}
        for field in ("principal", "department", "project", "tenant"):
            if (claim := getattr(issuer, field)) is None:
                continue
            value = claims.get(claim)
            if value is None and field != "principal":
                continue
            if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_NAME:
                return f"its claim for the {field} is no text of 1 to {_LONGEST_NAME} characters"
            facts[field] = value
        if facts["principal"] in self._taken:
            return "its principal is one of [principals], which has keys of its own"
        if kid is not None:
            facts["key"] = kid[:_LONGEST_NAME]
        return Named(facts, float(until), issuer)


_WHY = {
    "InvalidSignatureError": "its signature is wrong",
    "InvalidAudienceError": "it is for another audience",
    "InvalidIssuerError": "it is of another issuer",
    "MissingRequiredClaimError": "it lacks exp, nbf, iss or aud",
    "InvalidKeyError": "its key does not fit its algorithm",
    "InvalidAlgorithmError": "its key does not fit its algorithm",
}


class _Keys:
    """The keys of one issuer, by ID and algorithm. A file is read again when it is another; a URL by a thread."""

    def __init__(self, place: str, folder: Path) -> None:
        self._url = place if place.startswith("https://") else None
        self._file = None if self._url else folder / place
        self._stamp: tuple[int, ...] = ()
        self._known: dict[str | None, list[_Key]] = {}
        self._asked = threading.Event()
        self._over = False
        self._tried = float("-inf")
        if self._url is None:
            self._read_file()
        else:
            self._fetch()
            arguments = (weakref.ref(self), self._asked)
            threading.Thread(target=_refresh, args=arguments, name="genealog-jwks", daemon=True).start()

    @property
    def at_url(self) -> bool:
        """Whether they are read from the network."""
        return self._url is not None

    def get(self, kid: str | None, algorithm: str) -> Any:
        if self._url is None:
            try:
                self._read_file()
            except StoreError as error:
                log.error("%s", error)
        found = self._fitting(kid, algorithm)
        if found is None and self._url is not None:
            self._asked.set()
        return found

    def close(self) -> None:
        self._over = True
        self._asked.set()

    def _fitting(self, kid: str | None, algorithm: str) -> Any:
        if kid is not None:
            candidates = self._known.get(kid, [])
        else:
            candidates = [key for keys in self._known.values() for key in keys]
            candidates = candidates if len(candidates) == 1 else []  # it must be clear which
        return next((each.key for each in candidates if each.fits(algorithm)), None)

    def _read_file(self) -> None:
        assert self._file is not None  # noqa: S101 - only called where it is
        try:
            found = self._file.stat()
            stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
            if stamp != self._stamp:
                self._known = _parse(self._file.read_bytes())
                self._stamp = stamp
        except (OSError, ValueError) as error:
            raise StoreError(
                "jwks-unusable", f"the keys of an issuer cannot be read from {self._file.name}",
                got=type(error).__name__, hint="`jwks` in [[issuers]] names a file with a JWK set, or an https:// URL",
            ) from None  # fmt: skip

    def refresh(self, *, asked: bool) -> bool:
        """Read the URL again, not too soon after the last time. False: nobody wants the keys any more."""
        if asked and not self._over and (rest := self._tried + _AGAIN - time.monotonic()) > 0:
            time.sleep(rest)
        if not self._over:
            self._asked.clear()
            self._fetch()
        return not self._over

    def _fetch(self) -> None:
        """Read the URL. What is known stays where that fails."""
        self._tried = time.monotonic()
        try:
            with _opener.open(self._url or "", timeout=_WAIT) as answer:
                self._known = _parse(answer.read(_MOST))
        except (OSError, ValueError, http.client.HTTPException) as error:
            log.error("the keys of an issuer cannot be read: %s", type(error).__name__)


def _refresh(keys: weakref.ref[_Keys], asked: threading.Event) -> None:
    """Run as a thread for as long as the keys are there."""
    while True:
        woken = asked.wait(_REFRESH)
        if (found := keys()) is None or not found.refresh(asked=woken):
            return
        del found


class _SecureOnly(urllib.request.HTTPRedirectHandler):
    """Follows nobody away from https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Refuse what is not https."""
        if not newurl.startswith("https://"):
            raise ValueError(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_SecureOnly)


def _parse(data: bytes) -> dict[str | None, list[_Key]]:
    """Read a JWK set (RFC 7517): public keys for signatures, whatever else there is left out. Raises: ValueError."""
    import jwt

    try:
        listed = [each for each in json.loads(data)["keys"] if isinstance(each, dict)]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("not a JWK set") from None
    found: dict[str | None, list[_Key]] = {}
    for each in listed:
        if each.get("use", "sig") != "sig" or each.get("kty") not in ("RSA", "EC", "OKP") or "d" in each:
            continue
        try:
            key = jwt.PyJWK(each).key
        except jwt.PyJWTError:
            continue
        if each["kty"] != "RSA" or key.key_size >= 2048:
            found.setdefault(each.get("kid"), []).append(_Key(each, key))
    return found


@dataclass(frozen=True, slots=True)
class _Key:
    said: Mapping[str, Any]  # the JWK
    key: Any

    def fits(self, algorithm: str) -> bool:
        """Say whether an algorithm is one of this key (RFC 7518 §3.1, RFC 8037)."""
        if self.said.get("alg", algorithm) != algorithm:
            return False
        if self.said["kty"] == "RSA":
            return algorithm[:2] in ("RS", "PS")
        return algorithm == ("EdDSA" if self.said["kty"] == "OKP" else _CURVES.get(self.said.get("crv", "")))


_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


def is_token(name: bytes, value: bytes) -> bool:
    """Say whether a header holds what may be a JWT."""
    return (
        name == b"authorization"
        and value[:7].lower() == b"bearer "
        and value.count(b".") == 2
        and len(value) <= LONGEST
    )


def _unverified(token: bytes, part: int) -> dict[str, Any]:
    """Read the head (0) or the claims (1) of a token; nothing where it is none."""
    try:
        data = token.split(b".")[part]
        found = json.loads(base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4)))
    except (ValueError, IndexError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

"""Keys that never leave a token: hardware modules, smart cards, SoftHSM, through PKCS #11.

    pkcs11:token=models;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so

A key is named by a URI (RFC 7512): `token`, `serial`, `manufacturer`, `model` choose the token, `object` and `id` the
key, `module-path` the library (else `$GENEALOG_PKCS11_MODULE`), `pin-source` where the PIN comes from. A `pin-value` is
refused: a PIN has no place in a file that is shared. The token signs a hash made here (CKM_ECDSA), which all of them
can. A lost session is opened again once; a token that is gone is told.

The library is loaded into this process and runs code: whoever writes `genealog.toml` chooses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from genealog.core.dsse import keyid_of
from genealog.errors import GenealogError, MalformedError, MissingError, StoreError, not_installed
from genealog.store.signers.pem import CURVES

MODULE = "GENEALOG_PKCS11_MODULE"
_PATH = frozenset({"token", "serial", "manufacturer", "model", "object", "id", "type", "slot-id"})
_QUERY = frozenset({"module-path", "pin-source"})


@dataclass(frozen=True, slots=True)
class TokenUri:
    """What a PKCS #11 URI asks for."""

    token: str | None
    serial: str | None
    manufacturer: str | None
    model: str | None
    object: str | None
    id: bytes | None
    module: str | None
    pin_source: str | None

    @property
    def shown(self) -> str:
        """Return which token, for a reader."""
        return f"token {self.token or self.serial or self.model or ''!s}".strip()


def parse_uri(text: str) -> TokenUri:
    """Read a PKCS #11 URI. Raises: MalformedError `bad-token-uri`, which never shows the URI: it may hold a PIN."""
    path, _, query = text.removeprefix("pkcs11:").partition("?")
    found = _attributes(path, ";", _PATH) | _attributes(query, "&", _QUERY)
    words = {name: _text(name, value) for name, value in found.items() if name != "id"}
    if not words.keys() & {"token", "serial", "manufacturer", "model"} or not found.keys() & {"object", "id"}:
        raise _bad("it names no token or no key", "token=… and object=… or id=…")
    if words.get("type", "private") != "private":
        raise _bad("it names no private key", "type=private, or no type")
    if "slot-id" in words:
        raise _bad("slots have no lasting numbers", "token=… or serial=…")
    source = words.get("pin-source")
    if source is not None:
        source = source if source.startswith(("file:", "env:")) else f"file:{source}"
        source = source.replace("file://", "file:", 1)
    return TokenUri(
        token=words.get("token"), serial=words.get("serial"), manufacturer=words.get("manufacturer"),
        model=words.get("model"), object=words.get("object"), id=found.get("id"), module=words.get("module-path"),
        pin_source=source,
    )  # fmt: skip


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise _bad("it holds a PIN", 'secret = "env:VARIABLE" or pin-source=file:/PATH')
        if name not in known or not equals:
            raise _bad(f"an attribute that is not used here: {ascii(name)[1:-1][:40]}", ", ".join(sorted(known)))
        if name in found:
            raise _bad(f"{name} stands twice", "each attribute once")
        found[name] = unquote_to_bytes(value)
    return found


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise _bad(f"{name} is no UTF-8 text", "text, or %XX for each of its bytes") from None


def _bad(got: str, expected: str) -> MalformedError:
    return MalformedError("bad-token-uri", "a PKCS #11 URI that cannot be used", got=got, expected=expected)


@dataclass(slots=True)
class TokenSigner:
    """A DSSE signer whose private key stays in its token. The PIN is asked for once, when the token is first used."""

    uri: TokenUri
    pin: Callable[[], str] = field(repr=False)
    _pin: str | None = field(default=None, repr=False)
    _public: ec.EllipticCurvePublicKey | None = field(default=None, repr=False)
    _session: Any = field(default=None, repr=False)

    @property
    def public_der(self) -> bytes:
        """The DER SubjectPublicKeyInfo. Raises: as `sign`."""
        if self._public is None:
            self._public = self._do(self._read_public)
        return self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def keyid(self) -> str:
        """Hex SHA-256 of `public_der`. Raises: as `sign`."""
        return keyid_of(self.public_der)

    def sign(self, data: bytes) -> bytes:
        """Sign `data`: DER ECDSA over the hash of the curve.

        Raises: MissingError `token-absent`, `token-key-missing`, `token-module`, `extra-not-installed`, `no-secret`;
        StoreError `token-pin`, `token-mechanism`, `token-lost`, `token-failed`.
        """
        self.public_der  # noqa: B018 - it says which curve
        assert self._public is not None  # noqa: S101 - it was just read
        digest = hashes.Hash(CURVES[self._public.curve.name]())
        digest.update(data)
        value = digest.finalize()
        raw: bytes = self._do(lambda session: self._sign(session, value))
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def close(self) -> None:
        """End the session with the token."""
        session, self._session = self._session, None
        if session is not None:
            import pkcs11

            try:
                session.close()
            except pkcs11.PKCS11Error:  # it is gone already
                return

    def _do(self, work: Callable[[Any], Any]) -> Any:
        """Do something in a session, in a new one if the old one was lost."""
        try:
            import pkcs11
        except ImportError:
            raise not_installed("a key in a token", "python-pkcs11", "signing") from None
        lost = (
            pkcs11.exceptions.SessionHandleInvalid, pkcs11.exceptions.SessionClosed, pkcs11.exceptions.DeviceRemoved,
            pkcs11.exceptions.TokenNotPresent, pkcs11.exceptions.UserNotLoggedIn,
            pkcs11.exceptions.KeyHandleInvalid, pkcs11.exceptions.ObjectHandleInvalid,
        )  # fmt: skip
        for last in (False, True):
            fresh = self._session is None
            try:
                if fresh:
                    self._session = self._open(pkcs11)
                return work(self._session)
            except lost as error:
                self.close()
                if last or fresh:
                    raise StoreError(
                        "token-lost", f"the session with {self.uri.shown} was lost", got=type(error).__name__,
                        hint="is the token still there? Then run the command again",
                    ) from None  # fmt: skip
            except GenealogError:
                raise
            except (pkcs11.PKCS11Error, RuntimeError) as error:
                self.close()
                raise self._problem(pkcs11, error) from None
        raise AssertionError

    def _open(self, pkcs11: Any) -> Any:
        module = self.uri.module or os.environ.get(MODULE)
        if module is None:
            raise MissingError(
                "token-module", "no PKCS #11 library is named", hint=f"module-path=… in the URI, or ${MODULE}"
            )
        try:
            library = pkcs11.lib(module)
        except (RuntimeError, pkcs11.PKCS11Error):
            raise MissingError(
                "token-module", "this is no PKCS #11 library that can be loaded", got=module,
                hint="it comes with the token: /usr/lib/softhsm/libsofthsm2.so for SoftHSM",
            ) from None  # fmt: skip
        token = self._find(library)
        if self._pin is None:
            self._pin = self.pin()
        try:
            return token.open(user_pin=self._pin)
        except pkcs11.exceptions.UserAlreadyLoggedIn:  # by another signer of this process
            return token.open()
        except pkcs11.PKCS11Error:
            self._pin = None
            raise

    def _find(self, library: Any) -> Any:
        wanted = {"label": self.uri.token, "manufacturer_id": self.uri.manufacturer, "model": self.uri.model}
        found = []
        for slot in library.get_slots(token_present=True):
            token = slot.get_token()
            serial = token.serial.decode(errors="replace") if isinstance(token.serial, bytes) else str(token.serial)
            same = all(value is None or getattr(token, name) == value for name, value in wanted.items())
            if same and self.uri.serial in (None, serial.strip()):
                found.append(token)
        if len(found) != 1:
            what = "there is no such token" if not found else "more than one token fits"
            raise MissingError(
                "token-absent", what, got=self.uri.shown, hint="pkcs11-tool --list-token-slots shows them"
            )
        return found[0]

    def _key(self, session: Any, kind: Any) -> Any:
        from pkcs11 import Attribute

        wanted = {Attribute.CLASS: kind}
        if self.uri.object is not None:
            wanted[Attribute.LABEL] = self.uri.object
        if self.uri.id is not None:
            wanted[Attribute.ID] = self.uri.id
        found = list(session.get_objects(wanted))
        if len(found) != 1:
            what = "holds no such key" if not found else "holds more than one such key"
            raise MissingError(
                "token-key-missing", f"{self.uri.shown} {what}",
                got=f"{kind.name.lower()} {self.uri.object or 'by id'}",
                hint="name it by object=… and id=…; its public key has to be in the token too",
            )  # fmt: skip
        return found[0]

    def _read_public(self, session: Any) -> ec.EllipticCurvePublicKey:
        from pkcs11 import KeyType, ObjectClass
        from pkcs11.util.ec import encode_ec_public_key

        found = self._key(session, ObjectClass.PUBLIC_KEY)
        key = serialization.load_der_public_key(encode_ec_public_key(found)) if found.key_type == KeyType.EC else None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
            raise StoreError("token-mechanism", "a key of a kind not used here", expected="P-256, P-384 or P-521")
        return key

    def _sign(self, session: Any, digest: bytes) -> bytes:
        from pkcs11 import Mechanism, ObjectClass

        return bytes(self._key(session, ObjectClass.PRIVATE_KEY).sign(digest, mechanism=Mechanism.ECDSA))

    def _problem(self, pkcs11: Any, error: Exception) -> StoreError:
        """Return what a person can do about it. The library's own words may hold anything, so only their name stays."""
        name, errors = type(error).__name__, pkcs11.exceptions
        if isinstance(
            error, (errors.PinIncorrect, errors.PinInvalid, errors.PinLenRange, errors.PinLocked, errors.PinExpired)
        ):
            hint = "the token counts wrong PINs and locks itself: check where the PIN comes from before trying again"
            return StoreError("token-pin", f"{self.uri.shown} refused the PIN", got=name, hint=hint)
        if isinstance(error, (errors.MechanismInvalid, errors.FunctionNotSupported, errors.KeyTypeInconsistent)):
            return StoreError("token-mechanism", f"{self.uri.shown} cannot sign with ECDSA by this key", got=name)
        return StoreError("token-failed", f"{self.uri.shown} failed", got=name, hint="look at the token and its log")

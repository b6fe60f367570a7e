"""Keyless signatures: an identity provider vouched for somebody, for ten minutes, and two logs wrote it down.

The `sigstore` library verifies, offline, from the bundle and the trusted root that the caller gives (its file is never
fetched): the certificate's chain and its entry in the certificate log, the entry of the signature in Rekor with its
inclusion proof and signed time or RFC 3161 timestamp, the signature. Who it is, is compared by the caller's policy;
without one, it is told and not believed. The library is imported when a bundle is looked at.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from genealog.core.canonical import timestamp
from genealog.core.dsse import IN_TOTO
from genealog.errors import MalformedError, VerificationError, not_installed
from genealog.interop.oms.bundle import Bundle, unsupported
from genealog.interop.oms.certificate import read_chain

_ISSUERS = ("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1")  # Fulcio: as DER text, and as bare bytes before


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the certificate names, and which provider vouched for it; and when, for the span is minutes."""

    identity: str
    issuer: str
    span: str


def verify_keyless(bundle: Bundle, trusted_root: bytes) -> Identity:
    """Prove a keyless bundle under a trusted root (JSON), and return who signed. Believing him is another question.

    Raises: MissingError `extra-not-installed`, `oms-unsupported`; MalformedError `oms-malformed`,
    `trusted-root-malformed`; VerificationError `sigstore-invalid`.
    """
    try:
        from sigstore.errors import Error
        from sigstore.models import Bundle as TheirBundle
        from sigstore.models import TrustedRoot
        from sigstore.verify import Verifier
        from sigstore_models.trustroot.v1 import TrustedRoot as Inner
    except ImportError as error:
        raise not_installed("a keyless signature", error.name or "sigstore", "signing") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about a stranger's bundle is nothing for a terminal
        try:
            verifier = Verifier(trusted_root=TrustedRoot(Inner.from_json(trusted_root)))
        except Exception as error:  # noqa: BLE001 - pydantic, x509 and their own, for one wrong file
            raise MalformedError(
                "trusted-root-malformed", "not a trusted root of sigstore", got=_said(error),
                hint="take trusted_root.json from the operator of the sigstore that signed",
            ) from None  # fmt: skip
        try:
            theirs = TheirBundle.from_json(bundle.data)
        except Exception as error:  # noqa: BLE001
            raise unsupported(_said(error)) from None
        try:
            kind, payload = verifier.verify_dsse(theirs, _Anybody())
        except Error as error:
            raise _invalid(_said(error)) from None
        except Exception as error:  # noqa: BLE001 - a reader of foreign bytes fails in many ways, and none is a yes
            raise _invalid(f"{type(error).__name__}: {_said(error)}") from None
    if kind != IN_TOTO or payload != bundle.payload:
        raise _invalid("two readers see two payloads")
    return _identity(bundle)


class _Anybody:
    """A policy that asks for nobody: who it is, is compared where the answer is made."""

    def verify(self, cert: object) -> None:
        """Accept it."""


def _identity(bundle: Bundle) -> Identity:
    leaf, (certificate, *_) = read_chain(bundle.chain)
    issuer = ""
    for extension in certificate.extensions:
        if extension.oid.dotted_string in _ISSUERS and not issuer:
            raw = getattr(extension.value, "value", b"")
            if extension.oid.dotted_string == _ISSUERS[0] and raw[:1] == b"\x0c":
                raw = raw[2:] if raw[1] < 0x80 else raw[2 + (raw[1] & 0x7F) :]
            issuer = raw.decode("utf-8", "replace")
    return Identity(leaf.signer, issuer, f"{timestamp(leaf.begins)} to {timestamp(leaf.ends)}")


def _invalid(got: str) -> VerificationError:
    return VerificationError("sigstore-invalid", "the keyless signature does not hold", got=got)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

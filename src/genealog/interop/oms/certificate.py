"""Certificates that sign models: does the leaf stand under a root that somebody believes, at a moment, for this use?

Path building and the checks of RFC 5280 are those of `cryptography.x509.verification`, with a policy for signing
certificates: web-server rules (names, key identifiers) are not asked for. A leaf that says what it is for must say
signing: `digitalSignature` where it has a key usage, `codeSigning` where it has an extended one, and one of the two.
An authority below the root that has an extended key usage may issue for that alone: it must say code signing as well.

An expired chain is not a broken one. Whether a signature was made while it held is a question of evidence of time;
without any, the answer is that nobody can tell. Revocation lists are not asked: this works offline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store
from cryptography.x509.verification import VerificationError as PathError

from genealog.core.canonical import timestamp
from genealog.errors import MalformedError, VerificationError
from genealog.interop.oms.bundle import hash_for

MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Leaf:
    """A signing certificate: whom it names, its key, and when it holds."""

    subject: str  # RFC 4514
    names: tuple[str, ...]  # email addresses, URIs and host names
    public: ec.EllipticCurvePublicKey
    begins: datetime
    ends: datetime

    @property
    def signer(self) -> str:
        """Return whom it names, for a reader."""
        return self.names[0] if self.names else self.subject

    @property
    def span(self) -> str:
        """Return when it holds, for a reader."""
        return f"{timestamp(self.begins)} to {timestamp(self.ends)}"

    def is_for(self, subjects: Sequence[str]) -> bool:
        """Say whether it names one of `subjects`, letter for letter; none given allows all under the roots."""
        return not subjects or not {self.subject, *self.names}.isdisjoint(subjects)


def read_chain(chain: Sequence[bytes]) -> tuple[Leaf, tuple[x509.Certificate, ...]]:
    """Read DER certificates, leaf first. Raises: MalformedError `certificate-malformed`, `bad-public-key`."""
    try:
        certificates = tuple(x509.load_der_x509_certificate(each) for each in chain)
        first = certificates[0]
        public = first.public_key()
        begins, ends, subject = first.not_valid_before_utc, first.not_valid_after_utc, first.subject.rfc4514_string()
        names = _names(first)
    except (
        ValueError,
        UnsupportedAlgorithm,
        IndexError,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as e:
        raise MalformedError("certificate-malformed", "a certificate cannot be read", got=str(e)[:120]) from None
    if not isinstance(public, ec.EllipticCurvePublicKey):
        kind = type(public).__name__
        raise MalformedError(
            "bad-public-key", "OMS has no signatures by such a key", got=kind, expected="P-256, P-384 or P-521"
        )
    hash_for(public)
    return Leaf(subject, names, public, begins, ends), certificates


def check_chain(certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], *, at: datetime) -> None:
    """Check that the first certificate may sign and stands under one of `roots` at this moment.

    Raises: VerificationError `certificate-untrusted`; `certificate-expired` or `certificate-not-yet-valid` where the
    chain would hold, at another moment.
    """
    problem = _problem(certificates, roots, at)
    if problem is None:
        return
    begins = max(each.not_valid_before_utc for each in certificates)
    ends = min(each.not_valid_after_utc for each in certificates)
    leaf = certificates[0]
    for moment in (begins, leaf.not_valid_before_utc, ends):  # one at which all of them hold, if there is any
        if _problem(certificates, roots, moment) is None:
            early = at < moment
            raise VerificationError(
                "certificate-not-yet-valid" if early else "certificate-expired",
                "the certificate was not valid at the time that is asked for",
                got=timestamp(at), expected=f"{timestamp(begins)} to {timestamp(ends)}",
                hint=None if early else "only evidence of when the signature was made can save it: a timestamp",
            )  # fmt: skip
    raise VerificationError(
        "certificate-untrusted", "the certificate does not stand under the roots that you believe", got=problem
    )


def _problem(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], at: datetime) -> str | None:
    verifier = (
        PolicyBuilder()
        .store(Store(list(roots)))
        .time(at)
        .max_chain_depth(MAX_DEPTH)
        .extension_policies(ca_policy=_authorities(roots), ee_policy=_signers())
        .build_client_verifier()
    )
    try:
        path = verifier.verify(chain[0], list(chain[1:])).chain
    except (PathError, ValueError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension) as error:
        return str(error)[:200]
    for each in path:
        for extension in each.extensions:
            if extension.critical and isinstance(extension.value, x509.UnrecognizedExtension):
                return f"a critical extension that nobody here knows: {extension.oid.dotted_string}"
    return None


def _authorities(roots: Sequence[x509.Certificate]) -> ExtensionPolicy:
    def issues_for_signing(_policy: Policy, certificate: x509.Certificate, found: x509.ExtendedKeyUsage | None) -> None:
        purposes = (ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
        if found is not None and certificate not in roots and not any(purpose in found for purpose in purposes):
            raise ValueError(
                "an authority in the chain may not issue for code signing: its extended key usage is another"
            )

    policy = ExtensionPolicy.permit_all()
    policy = policy.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
    policy = policy.may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, issues_for_signing)
    return policy.may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)


def _signers() -> ExtensionPolicy:
    policy = ExtensionPolicy.permit_all().may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_data)
    return policy.may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _signs_code)


def _is_authority(_policy: Policy, _certificate: x509.Certificate, found: x509.BasicConstraints) -> None:
    if not found.ca:
        raise ValueError("a certificate in the chain is no authority")


def _signs_certificates(_policy: Policy, _certificate: x509.Certificate, found: x509.KeyUsage | None) -> None:
    if found is not None and not found.key_cert_sign:
        raise ValueError("a certificate in the chain may not sign certificates")


def _signs_data(_policy: Policy, certificate: x509.Certificate, found: x509.KeyUsage | None) -> None:
    if found is None:
        try:
            certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        except x509.ExtensionNotFound:
            raise ValueError("the certificate does not say that it is for signing") from None
    elif not found.digital_signature:
        raise ValueError("the certificate's key usage is not digital signature")


def _signs_code(_policy: Policy, _certificate: x509.Certificate, found: x509.ExtendedKeyUsage | None) -> None:
    if found is not None and ExtendedKeyUsageOID.CODE_SIGNING not in found:
        raise ValueError("the certificate's extended key usage is not code signing")


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
    return tuple(str(name.value) for name in found if isinstance(name, kinds))

"""Certificates for tests: authorities and signers, made here, valid or wrong in one way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
CODE = (ExtendedKeyUsageOID.CODE_SIGNING,)


@dataclass(frozen=True)
class Party:
    """A key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def usage(*, signs: bool = False, certifies: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs, key_cert_sign=certifies, crl_sign=certifies, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def authority(
    text: str, issuer: Party | None = None, *, ca: bool = True, certifies: bool = True,
    purposes: tuple[x509.ObjectIdentifier, ...] = (),
) -> Party:  # fmt: skip
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _builder(text, key, issuer, key, NOW - 365 * DAY, NOW + 3650 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    builder = builder.add_extension(usage(certifies=certifies), critical=True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return Party(key, builder.sign(issuer.key if issuer else key, hashes.SHA384()))


def leaf(
    text: str, issuer: Party, *, begins: datetime = NOW - DAY, ends: datetime = NOW + DAY,
    email: str | None = "models@example.org", purposes: tuple[x509.ObjectIdentifier, ...] = CODE, signs: bool = True,
    key_usage: bool = True, curve: ec.EllipticCurve | None = None, critical: bool = False,
    names: tuple[x509.GeneralName, ...] = (),
) -> Party:  # fmt: skip
    key = ec.generate_private_key(curve or ec.SECP256R1())
    builder = _builder(text, key, issuer, issuer.key, begins, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    if key_usage:
        builder = builder.add_extension(usage(signs=signs), critical=True)
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if email or names:
        alternative = [*([x509.RFC822Name(email)] if email else []), *names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    if critical:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")
        builder = builder.add_extension(unknown, critical=True)
    return Party(key, builder.sign(issuer.key, hashes.SHA384()))


def _builder(
    text: str, key: ec.EllipticCurvePrivateKey, issuer: Party | None, signer: ec.EllipticCurvePrivateKey,
    begins: datetime, ends: datetime,
) -> x509.CertificateBuilder:  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(name(text))
        .issuer_name(issuer.certificate.subject if issuer else name(text))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else signer).public_key()),
            critical=False,
        )
    )

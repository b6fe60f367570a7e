"""A timestamp authority for tests: `openssl ts` behind a small HTTP server, with certificates made here.

It is a real RFC 3161 implementation that nobody here wrote; only its certificate authority is made up. It sends its own
certificate alone: `openssl ts` does not sort several as DER wants it, and `rfc3161-client` then refuses the reply.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from test_remote import answer, server

_CONFIG = """
[tsa]
default_tsa = it
[it]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha256
"""


class Authority:
    """Keys and certificates in a folder: a root and one authority below it."""

    def __init__(self, folder: Path, name: str = "Test TSA") -> None:
        folder.mkdir()
        self.folder = folder
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = _certificate(f"{name} root", root_key, f"{name} root", root_key, authority=True)
        self.roots = root.public_bytes(serialization.Encoding.PEM)
        (folder / "root.pem").write_bytes(self.roots)
        certificate = _certificate(name, key, f"{name} root", root_key, authority=False)
        (folder / "tsa.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "tsa.key").write_bytes(pem)
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(_CONFIG.format(folder=folder))
        self.asked: list[bytes] = []

    def stamp(self, request: bytes) -> bytes:
        """Return the reply to a DER request."""
        self.asked.append(request)
        (self.folder / "query.tsq").write_bytes(request)
        command = ["openssl", "ts", "-reply", "-config", "tsa.cnf", "-section", "it", "-queryfile", "query.tsq"]
        subprocess.run([*command, "-out", "reply.tsr"], cwd=self.folder, check=True, capture_output=True)
        return (self.folder / "reply.tsr").read_bytes()

    @contextmanager
    def running(self, stamp: Any = None) -> Iterator[str]:
        """Serve over HTTP; yield the URL. `stamp` makes replies in another way."""

        def handle(handler: Any) -> None:
            request = handler.rfile.read(int(handler.headers["content-length"]))
            answer(handler, (stamp or self.stamp)(request), content_type="application/timestamp-reply")

        with server(handle) as url:
            yield f"{url}/tsr"


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *, authority: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    if not authority:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(signer, hashes.SHA256())

"""TLS for both sides: contexts, who a client is by its certificate, which key an upstream has."""

from __future__ import annotations

import hashlib
import ssl
from asyncio import BaseTransport

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from genealog.errors import UsageError
from genealog.gateway.http1.head import Origin, PeerCertificate


def server_context(certificate: str, key: str, client_ca: str | None = None) -> ssl.SSLContext:
    """Return the context of a server with the chain in `certificate`; with `client_ca` clients must show theirs (mTLS).

    All three are paths of PEM files. Raises: UsageError (tls-files).
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # an SSLError is one
        raise _unreadable(error, certificate, key, client_ca) from None
    return context


def client_context(origin: Origin) -> ssl.SSLContext:
    """Return the context with which to connect to an https origin. Raises: UsageError (tls-files)."""
    try:
        context = ssl.create_default_context(cafile=origin.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if origin.certificate is not None:
            context.load_cert_chain(origin.certificate, origin.key)
    except OSError as error:
        raise _unreadable(error, origin.ca, origin.certificate, origin.key) from None
    return context


def of_peer(transport: BaseTransport) -> PeerCertificate | None:
    """Return the client's certificate, which TLS has verified; None without TLS or without a certificate."""
    connection = transport.get_extra_info("ssl_object")
    der = None if connection is None else connection.getpeercert(binary_form=True)
    if not der:
        return None
    certificate = x509.load_der_x509_certificate(der)
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = tuple(alternative.get_values_for_type(x509.UniformResourceIdentifier))
    except x509.ExtensionNotFound:
        uris = ()
    return PeerCertificate(str(names[0].value) if len(names) == 1 else None, uris, _spki(certificate))


def spki_of(transport: BaseTransport) -> str | None:
    """Return the SHA-256 of the SPKI of the server's leaf in hex; None without TLS."""
    connection = transport.get_extra_info("ssl_object")
    der = None if connection is None else connection.getpeercert(binary_form=True)
    return _spki(x509.load_der_x509_certificate(der)) if der else None


def ended_cleanly(transport: BaseTransport) -> bool:
    """Say whether the end of what a peer sent is its own word: always over TCP; over TLS after its close_notify.

    Over TLS, asyncio calls a connection that somebody cut on the way the same as one that was closed. The TLS object
    knows better: read again, it says "the end" in the one case and "wait for more" in the other.
    """
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return True
    try:
        return not connection.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except (ssl.SSLError, OSError):
        return False


def _spki(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def _unreadable(error: OSError, *paths: str | None) -> UsageError:
    return UsageError(
        "tls-files",
        "a certificate or key of TLS cannot be used",
        got=f"{type(error).__name__}: {error.strerror or error.args[0]} in {', '.join(path for path in paths if path)}",
        expected="PEM files that belong together",
        hint="check that the files are there, can be read, and that the key is the certificate's",
    )

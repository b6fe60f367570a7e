"""The way from the gateway's gRPC to an upstream's: which target, over which channel, with which metadata.

A deployment that is asked over HTTP and over gRPC has two targets, because servers have a port for each: the upstream
of the one for gRPC begins with `grpc://`, or `grpcs://` for TLS. Where no target says so, any is asked over gRPC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from grpc import aio

from genealog.core.frames import MAX_BODY
from genealog.deploy import Live
from genealog.errors import PolicyDenied
from genealog.gateway import headers as rules
from genealog.gateway.aims import Aim, order
from genealog.gateway.grpc_call import Metadata
from genealog.gateway.http1 import PeerCertificate
from genealog.gateway.http1.tls import client_context
from genealog.gateway.parts import Parts
from genealog.gateway.record import Name
from genealog.store.gateway_settings import Tls

OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BODY),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 64 << 10),
)
_TLS = {"grpc": False, "http": False, "grpcs": True, "https": True}
Sent = list[tuple[bytes, bytes]]  # names in lower case
_OURS = ("genealog-", "grpc-", ":")  # what is not the client's business, or the library's own
_LIBRARY = frozenset((b"te", b"content-type", b"user-agent", b"accept-encoding"))


class Ways:
    """The channels to upstreams, opened when they are first needed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._channels: dict[Any, aio.Channel] = {}

    async def close(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            await channel.close()

    def aim(self, live: Live, name: Name) -> Aim:
        """Choose the target of a call. Raises: StoreError `credentials-missing`; PolicyDenied `pins-over-grpc`."""
        aim = order(self._parts.aims(live, over_grpc=True), name.lot, self._parts.health)[0]
        if aim.target.endpoint:
            raise PolicyDenied(
                "pins-over-grpc", "an upstream over gRPC cannot be held to its TLS key", got=aim.target.upstream,
                hint="deploy it without --endpoint, with a private CA in [upstreams]",
            )  # fmt: skip
        return aim

    def channel(self, aim: Aim) -> aio.Channel:
        """Return the channel to a target. Raises: UsageError `tls-files`."""
        files = aim.credentials.section if aim.credentials is not None else None
        known = (aim.host, aim.origin.scheme, files)
        channel = self._channels.get(known)
        if channel is None:
            address = f"{aim.origin.host}:{aim.origin.port}"
            if _TLS[aim.origin.scheme]:
                client_context(aim.origin)  # files that cannot be used are said so now
                read = (aim.origin.ca, aim.origin.key, aim.origin.certificate)
                secure = grpc.ssl_channel_credentials(*(Path(path).read_bytes() if path else None for path in read))
                channel = aio.secure_channel(address, secure, options=OPTIONS)
            else:
                channel = aio.insecure_channel(address, options=OPTIONS)
            self._channels[known] = channel
        return channel

    def metadata(self, headers: Sent, withheld: frozenset[bytes], aim: Aim, call: str) -> Metadata:
        """Return the metadata of a call upstream. Raises: StoreError `secret-missing`."""
        credentials = aim.credentials
        without = withheld | _LIBRARY | (credentials.replaces if credentials is not None else frozenset())
        sent = rules.to_upstream(headers, streaming=False, without=without)
        if credentials is not None:
            credentials.put(sent)
        sent += rules.marks(headers, call, self._parts.mark)
        return tuple(
            (name.decode(), value if name.endswith(b"-bin") else rules.text(value))
            for name, value in sent
            if not name.startswith((b"grpc-", b":"))
        )


def certificate(known: Mapping[str, Any]) -> PeerCertificate | None:
    """Return the client's certificate in mTLS."""
    pem = known.get("x509_pem_cert")
    if not pem:
        return None
    certificate = x509.load_pem_x509_certificate(pem[0])
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = tuple(others.get_values_for_type(x509.UniformResourceIdentifier))
    except x509.ExtensionNotFound:
        uris = ()
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    common = str(names[0].value) if len(names) == 1 else None
    return PeerCertificate(common, uris, hashlib.sha256(spki).hexdigest())


def server_credentials(tls: Tls, root: Path) -> Any:
    """Return what the listener shows its clients, and asks of them. Raises: OSError."""
    authority = (root / tls.client_ca).read_bytes() if tls.client_ca is not None else None
    chain = [((root / tls.key).read_bytes(), (root / tls.certificate).read_bytes())]
    return grpc.ssl_server_credentials(chain, authority, require_client_auth=authority is not None)


def to_client(metadata: Any) -> Metadata:
    """Return what an upstream's metadata say to the client."""
    return tuple(
        (name, value) for name, value in metadata if name == "grpc-status-details-bin" or not name.startswith(_OURS)
    )

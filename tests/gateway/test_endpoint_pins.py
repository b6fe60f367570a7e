"""A2: an upstream that shows a pinned key in TLS, and one that shows another."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.fake_upstream import FakeUpstream, completion, events, stream
from gateway.kit import NAME, FakeSource, chat, running, spec
from genealog.gateway.http1.tls import server_context
from genealog.store.gateway_settings import Upstream


def make_certificate(folder: Path) -> str:
    """Write a certificate of the loopback and its key; return the digest of its public key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "engine")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    return sha256(der).hexdigest()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a POST with a completion, anything else with 404."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            body = completion() if head.startswith(b"POST") else b""
            status = b"200 OK" if body else b"404 Not Found"
            writer.write(b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n" % status)
            writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@pytest.mark.parametrize("pinned", ["right", "wrong", "none"])
async def test_a_pinned_key_binds_at_a2_and_another_one_is_refused(tmp_path: Path, pinned: str) -> None:
    spki = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    pins = {"right": ("0" * 64, spki), "wrong": ("0" * 64,), "none": ()}[pinned]
    source = FakeSource()
    trust = {"engine": Upstream(ca="cert.pem")}
    async with running(tmp_path / "spool", source, upstreams=trust, root=tmp_path) as gateway:
        minimum = "A2" if pinned == "right" else "A0"
        source.deploy(NAME, spec(url, endpoint=pins, credentials="engine", minimum_assurance=minimum))
        status, headers, body = await gateway.ask(chat())
        intent, outcome = gateway.last()
    server.close()
    if pinned == "wrong":
        assert (status, json.loads(body)["code"]) == (502, "upstream-key-mismatch")
        assert (outcome.finish, outcome.error, outcome.assurance) == ("refused", "upstream-key-mismatch", "A0")
        return
    level = "A2" if pinned == "right" else "A0"
    assert (status, body, headers["Genealog-Assurance"]) == (200, completion(), level)
    assert (intent.bound, outcome.assurance, outcome.endpoint) == (level, level, spki)


async def test_clients_are_answered_over_tls(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    tls = server_context(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    source = FakeSource()
    async with (
        FakeUpstream(stream(events())) as upstream,
        running(tmp_path / "spool", source, tls=tls) as gateway,
    ):
        source.deploy(NAME, spec(upstream.url))
        url = gateway.url.replace("http:", "https:") + "/v1/chat/completions"
        async with gateway.client.post(url, data=chat(stream=True), ssl=trusting) as response:
            assert await response.read() == b"".join(events())
        assert gateway.last()[1].finish == "complete"


async def test_a_demand_for_a2_is_not_met_without_a_pin(tmp_path: Path) -> None:
    source = FakeSource()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running(tmp_path, source) as gateway:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        source.deploy(NAME, spec(url, minimum_assurance="A2", endpoint=("0" * 64,)))
        status, _, body = await gateway.ask(chat())
    server.close()
    assert (status, json.loads(body)["code"]) == (403, "assurance-too-low")

"""TLS on both sides: who a client is, which key an upstream has, and an end that nobody faked."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import socket
import ssl
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import DAY, NOW, Party, authority, leaf
from gateway.http1.kit import Got, Noting, until
from gateway.http1.network import LOOPS, Echo, Raw, Run, pooling, runner, scripted, serving
from genealog.errors import UpstreamError, UsageError
from genealog.gateway.http1 import Origin, PeerCertificate, Reply, Request
from genealog.gateway.http1.tls import client_context, server_context

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH,)
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
HERE = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    return runner(request.param)


class Files:
    """Authorities, servers and clients as PEM files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = authority("tests")
        self.ca = self._file("ca.pem", self.authority.pem)
        self.party = leaf("server", self.authority, email=None, purposes=SERVER, names=HERE)
        self.server = self.pair("server", self.party)

    def _file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def pair(self, name: str, party: Party) -> tuple[str, str]:
        return self._file(f"{name}.pem", party.pem), self._file(f"{name}.key", party.key_pem)

    def client(self, name: str, *uris: str) -> tuple[str, str]:
        names = tuple(map(x509.UniformResourceIdentifier, uris))
        return self.pair(name, leaf(name, self.authority, email=None, purposes=CLIENT, names=names))

    def origin(self, port: int, **options: object) -> Origin:
        return replace(Origin("https", "localhost", port, ca=self.ca), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


def spki(party: Party) -> str:
    key = party.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_an_exchange_over_tls(run: Run, files: Files, host: str) -> None:
    async def main() -> None:
        async with serving(Echo, tls=server_context(*files.server)) as (_, port), pooling() as pool:
            origin = files.origin(port, host=host)
            for count in range(2):
                connection = pool.take(origin) if count else await pool.open(origin)
                assert connection is not None
                assert connection.spki == spki(files.party)
                got = Got()
                connection.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n", b"x" * 200_000, got)
                await got.over()
                assert (got.status, got.body, got.end_) == (200, b"x" * 200_000, "end")

    run(main())


def test_the_right_pin_is_let_through(run: Run, files: Files) -> None:
    async def main() -> None:
        async with serving(Echo, tls=server_context(*files.server)) as (_, port), pooling() as pool:
            connection = await pool.open(files.origin(port, pins=frozenset((spki(files.party), "0" * 64))))
            assert connection.spki == spki(files.party)

    run(main())


def test_another_key_than_the_pinned_one_is_an_error(run: Run, files: Files) -> None:
    async def main() -> None:
        async with serving(Echo, tls=server_context(*files.server)) as (server, port), pooling() as pool:
            with pytest.raises(UpstreamError) as caught:
                await pool.open(files.origin(port, pins=frozenset(("0" * 64,))))
            assert caught.value.code == "upstream-key-mismatch"
            assert (caught.value.got, caught.value.expected) == (spki(files.party), "0" * 64)
            assert pool.connections == 0
            await until(lambda: server.connections == 0)
            assert server.requests == 0

    run(main())


@pytest.mark.parametrize(("case", "got"), [
    ("stranger", "self-signed certificate"), ("host", "Hostname mismatch"), ("over", "certificate has expired"),
    ("plain", "WRONG_VERSION_NUMBER"),
])  # fmt: skip
def test_a_certificate_that_proves_nothing_is_an_error(
    run: Run, files: Files, case: str, got: str, tmp_path: Path
) -> None:
    party = files.party
    if case == "host":
        party = leaf("s", files.authority, email=None, purposes=SERVER, names=(x509.DNSName("elsewhere.test"),))
    elif case == "over":
        party = leaf("s", files.authority, email=None, purposes=SERVER, names=HERE, ends=NOW - DAY / 2)
    elif case == "stranger":
        party = Files(tmp_path).party
    certificate, key = tmp_path / "case.pem", tmp_path / "case.key"
    certificate.write_bytes(party.pem if case != "stranger" else party.pem + Files(tmp_path).authority.pem)
    key.write_bytes(party.key_pem)
    context = None if case == "plain" else server_context(str(certificate), str(key))

    async def main() -> None:
        async with serving(Echo, tls=context) as (_, port), pooling() as pool:
            with pytest.raises(UpstreamError) as caught:
                await pool.open(files.origin(port))
            assert caught.value.code == "upstream-tls"
            assert got in str(caught.value.got) or (case == "stranger" and "certificate" in str(caught.value.got))

    run(main())


@pytest.mark.parametrize(("uris", "spiffe"), [
    (("spiffe://example.org/agent",), "spiffe://example.org/agent"), ((), None), (("https://example.org/",), None),
    (("spiffe://example.org/a", "spiffe://example.org/b"), None),
])  # fmt: skip
def test_a_client_is_known_by_its_certificate(
    run: Run, files: Files, uris: tuple[str, ...], spiffe: str | None
) -> None:
    seen: list[Noting] = []
    certificate, key = files.client("agent", *uris)

    async def main() -> None:
        context = server_context(*files.server, client_ca=files.ca)

        def application(request: Request, reply: Reply) -> Noting:
            return Noting(request, reply, seen, answers=True)

        async with serving(application, tls=context) as (_, port), pooling() as pool:
            got = Got()
            (await pool.open(files.origin(port, certificate=certificate, key=key))).ask(GET, b"", got)
            await got.over()
            assert got.body == b"ok"
            peer = seen[0].message.request.certificate
            assert isinstance(peer, PeerCertificate)
            assert (peer.common_name, peer.uris, peer.spiffe) == ("agent", uris, spiffe)
            assert len(peer.spki) == 64

    run(main())


def test_without_a_certificate_nothing_reaches_the_application(run: Run, files: Files, tmp_path: Path) -> None:
    stranger = Files(tmp_path)
    certificate, key = stranger.client("stranger")

    async def main() -> None:
        context = server_context(*files.server, client_ca=files.ca)
        async with serving(Echo, tls=context) as (server, port), pooling() as pool:
            for options in ({}, {"certificate": certificate, "key": key}):
                got = Got()  # TLS 1.3: the server says no after the client has finished
                (await pool.open(files.origin(port, **options))).ask(GET, b"", got)
                await got.over()
                assert got.end_ == "upstream-unreachable"
            assert server.requests == 0

    run(main())


def test_a_server_without_mtls_asks_for_no_certificate(run: Run, files: Files) -> None:
    seen: list[Noting] = []

    async def main() -> None:
        def application(request: Request, reply: Reply) -> Noting:
            return Noting(request, reply, seen, answers=True)

        async with serving(application, tls=server_context(*files.server)) as (_, port):
            async with Raw.to(port, ssl.create_default_context(cafile=files.ca)) as client:
                await client.send(GET)
                assert (await client.answer())[2] == b"ok"
            assert seen[0].message.request.certificate is None

    run(main())


def test_a_refusal_over_tls_is_read(run: Run, files: Files) -> None:
    async def main() -> None:
        trust = ssl.create_default_context(cafile=files.ca)
        async with serving(Echo, tls=server_context(*files.server)) as (_, port), Raw.to(port, trust) as client:
            await client.send(b"nonsense\r\n\r\n")
            assert (await client.answer())[0] == 400
            assert await client.rest() == b""

    run(main())


@pytest.mark.parametrize("clean", [True, False])
def test_an_end_without_a_length_counts_only_if_tls_says_so(run: Run, files: Files, clean: bool) -> None:
    async def main() -> None:
        async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
            await writer.drain()
            await asyncio.sleep(0.05)
            if clean:
                writer.close()
            else:  # somebody on the way ends the TCP connection, in order, in the middle of TLS
                own = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
                own.shutdown(socket.SHUT_WR)
                own.close()
                await asyncio.sleep(0.2)
                writer.transport.abort()

        async with scripted(upstream, server_context(*files.server)) as port, pooling() as pool:
            got = Got()
            (await pool.open(files.origin(port))).ask(GET, b"", got)
            await got.over()
            assert (got.body, got.end_) == (b"hello", "end" if clean else "upstream-died")

    run(main())


def test_a_reset_in_the_middle_of_tls_is_no_end(run: Run, files: Files) -> None:
    async def main() -> None:
        async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
            await writer.drain()
            await asyncio.sleep(0.05)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

        async with scripted(upstream, server_context(*files.server)) as port, pooling() as pool:
            got = Got()
            (await pool.open(files.origin(port))).ask(GET, b"", got)
            await got.over()
            assert got.end_ == "upstream-died"

    run(main())


def test_a_certificate_that_was_renewed_is_used(files: Files, tmp_path: Path) -> None:
    async def main() -> None:
        other = Files(tmp_path)
        ca = tmp_path / "both.pem"
        ca.write_bytes(other.authority.pem)
        async with serving(Echo, tls=server_context(*files.server)) as (_, port), pooling() as pool:
            origin = files.origin(port, ca=str(ca))
            with pytest.raises(UpstreamError, match="upstream-tls"):
                await pool.open(origin)
            ca.write_bytes(files.authority.pem)
            os.utime(ca, ns=(0, 0))
            await pool.open(origin)

    runner("asyncio")(main())


def test_files_that_cannot_be_used_are_named(files: Files, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    missing = str(tmp_path / "missing.pem")
    other = files.client("other")
    for certificate, key, ca in [
        (missing, files.server[1], None), (str(empty), files.server[1], None), (files.server[0], other[1], None),
        (*files.server, missing), (*files.server, str(empty)),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match="tls-files"):
            server_context(certificate, key, ca)
    with pytest.raises(UsageError, match="tls-files"):
        client_context(files.origin(1, ca=missing))
    with pytest.raises(UsageError, match="tls-files"):
        client_context(files.origin(1, certificate=files.server[0], key=other[1]))

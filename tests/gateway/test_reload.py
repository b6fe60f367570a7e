"""A worker's settings, read again: what cannot be used leaves all of what was good, TLS included."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import DNSName
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import Party, authority, leaf
from genealog.gateway.admission import Claimed
from genealog.gateway.http1.tls import server_context
from genealog.gateway.principals import Principals
from genealog.gateway.reloading import Reloading
from genealog.store.config import read_config

BASE = '[store]\nformat = 1\norigin = "o"\n[identities]\nsigner = "a"\n[identities.a]\nname = "A"\nkey = "a"\n'
TLS = '[gateway.tls]\ncertificate = "server.pem"\nkey = "server.key"\n'
OURS = authority("tests")


class Parts:
    """Takes settings as `parts.Parts` does, and counts."""

    def __init__(self) -> None:
        self.admission: Any = Claimed()
        self.policing = None
        self.times = 0

    def configure(self, _settings: Any, admission: Any, _upstreams: Any) -> None:
        self.admission = admission
        self.times += 1


def party() -> Party:
    return leaf("s", OURS, email=None, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,), names=(DNSName("s"),))


def put(folder: Path, certificate: Party, key: Party) -> None:
    (folder / "server.pem").write_bytes(certificate.pem)
    (folder / "server.key").write_bytes(key.key_pem)


def shown(server: ssl.SSLContext) -> bytes:
    """Shake hands in memory, and return the certificate that the server shows."""
    client = ssl.create_default_context(cadata=OURS.pem.decode())
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(down, up, server_hostname="s"), server.wrap_bio(up, down, server_side=True))
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = sides[0].getpeercert(binary_form=True)
    assert found is not None
    return found


def test_a_renewed_certificate_is_shown_and_a_wrong_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = party(), party()
    put(tmp_path, first, first)
    (tmp_path / "genealog.toml").write_text(BASE + TLS)
    context = server_context(str(tmp_path / "server.pem"), str(tmp_path / "server.key"))
    parts: Any = Parts()
    reload = Reloading(tmp_path, parts, None, context, read_config(tmp_path / "genealog.toml"))
    before = shown(context)
    put(tmp_path, second, first)
    reload.read()
    assert "cannot be used" in caplog.text
    assert parts.times == 0
    assert shown(context) == before
    put(tmp_path, second, second)
    reload.read()
    assert parts.times == 1
    assert shown(context) != before


def test_who_lets_calls_in_is_closed_when_another_takes_over(tmp_path: Path) -> None:
    file = tmp_path / "genealog.toml"
    file.write_text(BASE + '[gateway]\nprincipals = "required"\n')
    parts: Any = Parts()
    reload = Reloading(tmp_path, parts, None, None, read_config(file))
    reload.read()
    made = parts.admission
    assert isinstance(made, Principals)
    reload.read()
    assert parts.admission is made
    closed: list[bool] = []
    made.close = lambda: closed.append(True)  # type: ignore[method-assign]
    file.write_text(BASE)
    reload.look()
    assert isinstance(parts.admission, Claimed)
    assert closed == [True]

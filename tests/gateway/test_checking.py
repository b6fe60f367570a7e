"""`genealog gateway check`: what would go wrong is said before it does."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from certificates import DAY, NOW, authority, leaf
from gateway.processes import make_store
from genealog.deploy import Deployments
from genealog.errors import StoreError
from genealog.gateway.checking import Look, check
from genealog.gateway.http1.tls import server_context
from genealog.redaction.engine import Engine
from genealog.registry import Registry
from genealog.store.gateway_settings import Redaction
from genealog.store.home import Home

HERE = (x509.IPAddress(ipaddress.ip_address("127.0.0.1")),)


def with_settings(store: Path, text: str) -> Path:
    with (store / "genealog.toml").open("a") as file:
        file.write("\n" + text)
    return store


async def looked(store: Path) -> dict[str, Look]:
    home = Home.open(store)
    try:
        return {each.what: each for each in await check(home)}
    finally:
        home.close()


@asynccontextmanager
async def listening(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def leave(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(leave, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def files(folder: Path, *, days: int = 300) -> dict[str, str]:
    """Write an authority, and the chain and key of a server at 127.0.0.1; return their names."""
    root = authority("root")
    ends = NOW + days * DAY
    server = leaf("server", root, email=None, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,), names=HERE, ends=ends)
    for name, content in (("ca.pem", root.pem), ("chain.pem", server.pem), ("key.pem", server.key_pem)):
        (folder / name).write_bytes(content)
    return {"certificate": str(folder / "chain.pem"), "key": str(folder / "key.pem"), "ca": str(folder / "ca.pem")}


async def test_a_store_that_is_ready(tmp_path: Path) -> None:
    async with listening() as port:
        store = make_store(tmp_path, f"http://127.0.0.1:{port}")
        with_settings(store, "[gateway]\nport = 0\n")
        found = await looked(store)
    assert {each.grade for each in found.values()} <= {"ok", "note"}
    assert found["gateway"].grade == "ok"
    assert found[f"prod/bot → http://127.0.0.1:{port}"].found == "it listens"
    assert found["principals"].found == "calls without a key pass as claimed"


async def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    found = await looked(make_store(tmp_path, f"http://127.0.0.1:{port}"))
    checked = found[f"prod/bot → http://127.0.0.1:{port}"]
    assert checked.grade == "error"
    assert "upstream-unreachable" in checked.found


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        store = with_settings(make_store(tmp_path, "http://127.0.0.1:1"), f"[gateway]\nport = {port}\n")
        found = await looked(store)
    assert found["gateway"].grade == "warning"
    assert "running" in (found["gateway"].hint or "")


async def test_the_key_of_an_endpoint_is_shown_to_be_pinned(tmp_path: Path) -> None:
    paths = files(tmp_path)
    async with listening(server_context(paths["certificate"], paths["key"])) as port:
        url = f"https://127.0.0.1:{port}"
        store = make_store(tmp_path, url, credentials="near")
        with_settings(store, f'[upstreams.near]\nca = "{paths["ca"]}"\n')
        checked = (await looked(store))[f"prod/bot → {url}"]
        assert checked.grade == "note"
        key = checked.found.partition("--endpoint ")[2].split()[0]
        home = Home.open(store)
        Deployments(home).deploy("prod/bot", model="tiny", upstream=url, credentials="near", endpoint=[key])
        home.close()
        assert (await looked(store))[f"prod/bot → {url}"].found == "its key in TLS is as pinned"
        home = Home.open(store)
        Deployments(home).deploy("prod/bot", model="tiny", upstream=url, credentials="near", endpoint=["0" * 64])
        home.close()
        wrong = (await looked(store))[f"prod/bot → {url}"]
    assert wrong.grade == "error"
    assert "upstream-key-mismatch" in wrong.found


@pytest.mark.parametrize(("days", "grade"), [(300, "ok"), (3, "warning")])
async def test_a_certificate_that_ends(tmp_path: Path, days: int, grade: str) -> None:
    paths = files(tmp_path, days=days)
    store = make_store(tmp_path, "http://127.0.0.1:1")
    with_settings(store, f'[gateway.tls]\ncertificate = "{paths["certificate"]}"\nkey = "{paths["key"]}"\n')
    assert (await looked(store))["[gateway.tls]"].grade == grade


async def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    paths = files(tmp_path)
    (tmp_path / "key.pem").write_bytes(authority("other").key_pem)
    store = make_store(tmp_path, "http://127.0.0.1:1")
    with_settings(store, f'[gateway.tls]\ncertificate = "{paths["certificate"]}"\nkey = "{paths["key"]}"\n')
    assert (await looked(store))["[gateway.tls]"].grade == "error"


async def test_what_settings_name_and_is_not_there(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1", durability="D3", credentials="gone")
    with_settings(
        store,
        '[gateway]\nprincipals = "required"\ndefault = "nobody"\n'
        '[upstreams.vendor]\nheader = "Authorization"\nsecret = "env:GENEALOG_TEST_NO_SUCH"\nca = "no.pem"\n',
    )
    home = Home.open(store)
    try:
        found = await check(home)
    finally:
        home.close()
    errors = {each.what: each for each in found if each.grade == "error"}
    assert {"principals", "[gateway] default", "[upstreams.vendor]", "prod/bot"} <= errors.keys()
    told = " ".join(f"{each.what} {each.found} {each.hint}" for each in found)
    assert "no.pem" in told
    assert "GENEALOG_TEST_NO_SUCH" in told
    assert "[replica]" in told
    assert "[upstreams.gone]" in told


async def test_credentials_that_anybody_may_spend(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1", credentials="vendor")
    section = '[upstreams.vendor]\nheader = "Authorization"\nsecret = "file:key"\n'
    checked = (await looked(with_settings(store, section)))["credentials"]
    assert checked.grade == "warning"
    assert "prod/bot" in checked.found
    required = with_settings(store, '[gateway]\nprincipals = "required"\n')
    assert "credentials" not in await looked(required)


async def test_a_model_that_was_revoked(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    home = Home.open(store)
    Registry(home).revoke("tiny", reason="leaked")
    home.close()
    checked = (await looked(store))["prod/bot"]
    assert checked.grade == "error"
    assert checked.hint == "genealog rollback prod/bot"


async def test_what_masks_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_rule: Redaction) -> Engine:
        raise StoreError("redaction-unusable", "the engine does not know such entities", got="NAMES")

    store = with_settings(make_store(tmp_path, "http://127.0.0.1:1"), "[[redaction]]\nentities = ['email']\n")
    assert (await looked(store))["[[redaction]]"].grade == "ok"
    monkeypatch.setattr("genealog.redaction._load", refuse)
    checked = (await looked(store))["[[redaction]]"]
    assert (checked.grade, checked.found) == ("error", "the engine does not know such entities: NAMES")


async def test_a_baseline_that_is_taken_off_is_said(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    with_settings(
        store,
        '[policy.environments.lab]\noff = ["registered", "not_revoked", "four_eyes"]\n'
        '[policy.environments.notes]\noff = ["traceable"]\n'
        '[policy.environments.prod]\ndeny = ["four_eyes"]\n',
    )
    found = await looked(store)
    lab, notes = found["[policy.environments.lab]"], found["[policy.environments.notes]"]
    assert (lab.grade, lab.hint) == ("warning", "genealog policy ls")
    assert lab.found.endswith(": registered, not_revoked")
    assert (notes.grade, notes.found.rpartition(": ")[2]) == ("note", "traceable")
    assert "[policy.environments.prod]" not in found

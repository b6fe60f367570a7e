from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config

from gateway.fake_bedrock import converse
from gateway.fake_upstream import Asked, FakeUpstream, whole
from gateway.processes import NAME, Process, make_store
from genealog.deploy import Deployments
from genealog.errors import StoreError
from genealog.gateway import sigv4
from genealog.gateway.sigv4 import sign
from genealog.store.home import Home

KEY, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session/token=="
HOST = "bedrock-runtime.eu-central-1.amazonaws.com"
TARGET = b"/model/arn%3Aaws%3Abedrock%3Aeu-central-1%3A1%3Ainference-profile%2Fanthropic.claude-x%3A0/converse?b=2&a=1"
BODY = b'{ "messages": [] }\r\n'


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    sigv4._keys.forget()
    yield
    sigv4._keys.forget()


def is_signed(method: str, target: str, headers: dict[str, str], body: bytes, secret: str) -> bool:
    """Check a signature as the service does, by the words of AWS's documentation and without botocore."""
    scheme, _, rest = headers["authorization"].partition(" ")
    given = dict(part.strip().split("=", 1) for part in rest.split(","))
    key, date, region, service, end = given["Credential"].split("/")
    path, _, query = target.partition("?")
    names = given["SignedHeaders"].split(";")
    if scheme != "AWS4-HMAC-SHA256" or end != "aws4_request" or "host" not in names or not key:
        return False
    if any(name.startswith("x-amz-") and name not in names for name in headers):
        return False
    canonical = "\n".join(
        [
            method,
            quote(path, safe="/-_.~"),
            "&".join(sorted(query.split("&"))),
            *(f"{name}:{' '.join(headers[name].split())}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join([scheme, headers["x-amz-date"], f"{date}/{region}/{service}/{end}", digest])
    derived = b"AWS4" + secret.encode()
    for step in (date, region, service, end, text):
        derived = hmac.new(derived, step.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(derived.hex(), given["Signature"])


def signed(headers: list[tuple[bytes, bytes]] | None = None, body: bytes = BODY) -> dict[str, str]:
    found = [(b"content-type", b"application/json")] if headers is None else headers
    sign("POST", HOST, TARGET, found, body, region="eu-central-1")
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    return {"host": HOST, **{name.decode(): value.decode() for name, value in found}}


def test_what_is_signed_is_accepted() -> None:
    headers = signed()
    assert is_signed("POST", TARGET.decode(), headers, BODY, SECRET)
    assert f"Credential={KEY}/" in headers["authorization"]
    assert "/eu-central-1/bedrock/aws4_request" in headers["authorization"]
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("change", ["method", "target", "body", "host", "content-type", "x-amz-date", "secret"])
def test_whatever_is_changed_is_refused(change: str) -> None:
    headers = signed()
    method = "PUT" if change == "method" else "POST"
    target = TARGET.decode().replace("claude", "clouds") if change == "target" else TARGET.decode()
    if change in headers:
        headers[change] = headers[change] + "1"
    body = BODY.strip() if change == "body" else BODY
    assert not is_signed(method, target, headers, body, "other" if change == "secret" else SECRET)


async def test_the_check_accepts_what_boto3_sends() -> None:
    async with FakeUpstream(whole(converse())) as upstream:
        client = boto3.client(
            "bedrock-runtime", region_name="eu-central-1", endpoint_url=upstream.url,
            config=Config(retries={"total_max_attempts": 1}),
        )  # fmt: skip
        said = {"modelId": "anthropic.claude-x:0", "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
        await asyncio.to_thread(client.converse, **said)
        client.close()
    (asked,) = upstream.asked
    assert is_signed(asked.method, asked.path, by_name(asked), asked.body, SECRET)


def by_name(asked: Asked) -> dict[str, str]:
    return {name.lower(): value for name, value in asked.headers}


def test_what_the_client_signed_with_is_taken_out() -> None:
    theirs: list[tuple[bytes, bytes]] = [
        (b"authorization", b"AWS4-HMAC-SHA256 Credential=THEIRS/20260101/x, SignedHeaders=host, Signature=00"),
        (b"x-amz-security-token", b"theirs"),
        (b"x-amz-date", b"20200101T000000Z"),
        (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"),
        (b"x-amzn-bedrock-trace", b"ENABLED"),
        (b"user-agent", b"Boto3/1.0"),
    ]
    headers = signed(theirs)
    assert "THEIRS" not in headers["authorization"]
    assert "x-amz-security-token" not in headers
    assert (headers["x-amzn-bedrock-trace"], headers["user-agent"]) == ("ENABLED", "Boto3/1.0")
    assert is_signed("POST", TARGET.decode(), headers, BODY, SECRET)


def test_a_session_token_goes_along_and_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    headers = signed()
    assert headers["x-amz-security-token"] == TOKEN
    assert "x-amz-security-token" in headers["authorization"]
    assert is_signed("POST", TARGET.decode(), headers, BODY, SECRET)


def test_keys_of_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text("[bots]\naws_access_key_id = AKIDOTHER\naws_secret_access_key = other\n")
    monkeypatch.setenv("AWS_PROFILE", "bots")
    headers = signed()
    assert "Credential=AKIDOTHER/" in headers["authorization"]
    assert is_signed("POST", TARGET.decode(), headers, BODY, "other")


@pytest.mark.parametrize("profile", [None, "nowhere"])
def test_without_keys_nothing_is_signed(monkeypatch: pytest.MonkeyPatch, profile: str | None) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    if profile is not None:
        monkeypatch.setenv("AWS_PROFILE", profile)
    with pytest.raises(StoreError) as caught:
        signed()
    assert caught.value.code == "secret-missing"


def test_no_log_has_a_key_or_a_token(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    with caplog.at_level(logging.DEBUG):
        headers = signed()
    for secret in (SECRET, TOKEN, headers["authorization"].rpartition("=")[2]):
        assert secret not in caplog.text


ARN = "arn:aws:bedrock:eu-central-1:123456789012:inference-profile/eu.anthropic.claude-x-v1:0"


async def test_a_gateway_signs_for_its_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    async with FakeUpstream(whole(converse())) as upstream:
        store = make_store(tmp_path, upstream.url)
        with (store / "genealog.toml").open("a") as settings:
            settings.write('\n[upstreams.aws]\nsigv4_region = "eu-central-1"\n')
        home = Home.open(store)
        Deployments(home).deploy(NAME, model="tiny", upstream=upstream.url, credentials="aws", served_as=ARN)
        home.close()
        async with Process(store) as gateway:
            client = boto3.client(
                "bedrock-runtime", region_name="us-east-1", endpoint_url=gateway.url, aws_access_key_id="THEIRS",
                aws_secret_access_key="theirs", config=Config(retries={"total_max_attempts": 1}),
            )  # fmt: skip
            said = {"modelId": NAME, "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
            await asyncio.to_thread(client.converse, **said)
            client.close()
            assert await gateway.stop() == 0
        log = gateway.output.read_text()
    (asked,) = upstream.asked
    headers = by_name(asked)
    assert is_signed(asked.method, asked.path, headers, asked.body, SECRET)
    assert asked.path == f"/model/{quote(ARN, safe=':')}/converse"
    assert headers["x-amz-security-token"] == TOKEN
    assert f"Credential={KEY}/" in headers["authorization"]
    everything = log.encode() + b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    for secret in (SECRET, TOKEN, "THEIRS", headers["authorization"]):
        assert secret.encode() not in everything

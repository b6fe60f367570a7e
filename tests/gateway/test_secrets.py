"""No secret reaches the spool, the vault, the log, an error or the output of the gateway; our own goes nowhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Wire
from gateway.processes import NAME, Process, make_store
from genealog.core.call import GROUPS, CallLeaf
from genealog.core.canonical import decode
from genealog.errors import MissingError, StoreError
from genealog.gateway.upstreams import Secret
from genealog.ledger import Ledger
from genealog.store.api_keys import new_key
from genealog.store.home import Home
from genealog.store.vault.schema import BODIES

ID, OURS, DIGEST = new_key()
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJvdGhlciJ9.c2VjcmV0LXNpZ25hdHVyZQ"
UPSTREAM = "upstream-secret-4711"
PATHS = [
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/images/generations",
    "/v1/audio/speech", "/v1/messages", f"/v1beta/models/{NAME}:generateContent",
    f"/v1beta/models/{NAME}:streamGenerateContent", f"/v1beta/models/{NAME}:embedContent",
    f"/openai/deployments/{NAME}/chat/completions", f"/v2/models/{NAME}/infer", f"/v2/models/{NAME}/generate",
    "/api/chat", "/api/embed", f"/model/{NAME}/converse", f"/model/{NAME}/invoke", "/something/else",
]  # fmt: skip
SECRET_HEADERS = {
    "proxy-authorization": "Basic cHJveHk6c2VjcmV0",
    "cookie": "session=cookie-secret-1",
    "x-api-key": "sk-ant-secret-2",
    "api-key": "azure-secret-3",
    "x-goog-api-key": "AIzaSecret4",
    "ocp-apim-subscription-key": "sub-secret-5",
    "x-amz-security-token": "aws-secret-6",
    "x-auth-token": "token-secret-7",
    "x-client-secret": "client-secret-8",
    "x-hub-signature": "signature-secret-9",
    "x-amz-signature": "signature-secret-10",
}
AUTHORIZATIONS = [
    f"Bearer {JWT}", "Bearer sk-vendor-secret-11", "Basic dXNlcjpwYXNzd29yZC0xMg==",
    "AWS4-HMAC-SHA256 Credential=AKIASECRET13/20261122/x, Signature=deadbeef13", f"Bearer {OURS}",
]  # fmt: skip
QUERY = "key=AIzaQuerySecret14&access_token=query-secret-15"
ANSWERED = {"Set-Cookie": "answer=cookie-secret-16", "X-Auth-Token": "answer-secret-17"}
SECRETS = [
    "cHJveHk6c2VjcmV0", "cookie-secret-1", "sk-ant-secret-2", "azure-secret-3", "AIzaSecret4", "sub-secret-5",
    "aws-secret-6", "token-secret-7", "client-secret-8", "signature-secret-9", "signature-secret-10", JWT,
    JWT.rpartition(".")[2], "sk-vendor-secret-11", "dXNlcjpwYXNzd29yZC0xMg", "AKIASECRET13", "deadbeef13",
    OURS, OURS.split("_", 2)[2], "AIzaQuerySecret14", "query-secret-15", "cookie-secret-16", "answer-secret-17",
    UPSTREAM,
]  # fmt: skip


async def answer(wire: Wire, _asked: Asked) -> None:
    body = b'{"id": "x", "choices": []}'
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **ANSWERED}
    await wire.head(200, **headers)
    await wire.raw(body)


def leaks(data: bytes) -> list[str]:
    """Return the secrets that some bytes hold: as they are, and in base64."""
    coded = [(secret, base64.b64encode(secret.encode())[:-4]) for secret in SECRETS]
    return [secret for secret, spelled in coded if secret.encode() in data or spelled in data]


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield every file of a store, and what its vault says when it is opened."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()
    home = Home.open(folder / ".genealog")
    ledger = Ledger(home)
    ledger.drain()
    for name in home.call_log_names():
        for entry in home.log(name).entries():
            call = decode(entry, CallLeaf).call
            for group in GROUPS:
                yield f"{call} {group}", home.vault.get_groups(call)[group][1]
            for body in BODIES:
                try:
                    yield f"{call} {body}", home.vault.get_body(call, body)
                except MissingError:
                    continue
    home.close()


@pytest.mark.parametrize("principals", ["optional", "required"])
async def test_no_secret_is_anywhere(tmp_path: Path, principals: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_SECRET", UPSTREAM)
    async with FakeUpstream(answer) as upstream:
        store = make_store(tmp_path, upstream.url, credentials="vendor")
        with (store / "genealog.toml").open("a") as file:
            file.write(
                f'[gateway]\nprincipals = "{principals}"\ndefault = "{NAME}"\nrecord_headers = ["x-team"]\n'
                '[upstreams.vendor]\nheader = "authorization"\nprefix = "Basic "\nsecret = "env:UPSTREAM_SECRET"\n'
                f'[principals.app]\n[[principals.app.keys]]\nid = "{ID}"\nsha256 = "{DIGEST}"\n'
            )
        statuses = set()
        async with Process(store) as gateway, httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
            for path in PATHS:
                for authorization in AUTHORIZATIONS:
                    headers = {**SECRET_HEADERS, "authorization": authorization, "x-team": "blue"}
                    body = json.dumps({"model": NAME, "messages": [], "input": "x", "prompt": "x"}).encode()
                    got = await client.post(f"{path}?{QUERY}", headers=headers, content=body)
                    statuses.add(got.status_code)
                    if got.status_code >= 400:
                        assert leaks(got.content) == []
            for wrong in (OURS[:-1], f"{OURS}x", "gl_", f"gl_{ID}_"):
                got = await client.post("/v1/messages", headers={"x-api-key": wrong}, content=b"{}")
                assert (got.status_code, leaks(got.content)) == (401, [])
            got = await client.post(f"/v1/messages?key={OURS}", content=b'{"model": "nowhere"}')
            assert leaks(got.content) == []
        assert 200 in statuses
        assert (401 in statuses) == (principals == "required")
        assert upstream.asked
        for asked in upstream.asked:
            sent = f"{asked.path} {asked.headers}"
            assert OURS not in sent
            assert asked.header("authorization") == f"Basic {UPSTREAM}"
    seen = 0
    for place, data in everything(tmp_path):
        assert leaks(data) == [], place
        seen += b"blue" in data
    assert seen > 0  # what may be on record is: the search would have found it


@pytest.mark.parametrize(
    ("source", "got"), [("env:GENEALOG_NO_SUCH", "not set"), ("file:x", "No such file or directory")]
)
def test_a_secret_that_is_not_there_is_said_so_in_words(tmp_path: Path, source: str, got: str) -> None:
    with pytest.raises(StoreError, match="secret-missing") as caught:
        Secret(source, tmp_path).read()
    assert caught.value.got == f"{source}: {got}"

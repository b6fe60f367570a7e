"""The server that agents ask: bundles with long polling, and uploads of decisions."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploying_store import Store, opened
from genealog.policy.bundle import public_pem
from genealog.policy.bundle_server import LONG_POLL, MAX_UNZIPPED, PATH, BundleApp
from genealog.policy.decision_logs import stated
from genealog.registry import Registry
from genealog.store.home import Home
from policy.bundle_reading import verify

EVENT: dict[str, Any] = {
    "labels": {"id": "agent-1", "version": "1.20.0"}, "decision_id": "d-1", "path": "genealog/decision",
    "input": {"point": "serve", "subject": {"deployment": "prod/chat", "models": 1}}, "result": {"allow": True},
    "timestamp": "2026-03-01T00:00:00.123456789Z", "metrics": {"timer": 1.5e-3},
}  # fmt: skip


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


async def ask(
    app: BundleApp, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """Send one request, whole, and stay on the line."""
    sent: list[Any] = []
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if coming:
            return coming.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    fields = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    await app({"type": "http", "method": method, "path": path, "headers": fields}, receive, send)
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], told, b"".join(message["body"] for message in sent[1:]))


def zipped(*events: Any) -> bytes:
    return gzip.compress(json.dumps(events).encode())


GZIP = {"content-encoding": "gzip"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    yield from opened(tmp_path)


@pytest.fixture
def app(store: Store) -> Iterator[BundleApp]:
    app = BundleApp(store.home, store.registry.signer(), stating=store.registry.signer())
    yield app
    app.close()


async def test_the_bundle_is_served_once(store: Store, app: BundleApp) -> None:
    first = await ask(app, "GET", PATH)
    signer = store.registry.signer()
    assert (first.status, first.headers["content-type"]) == (200, "application/gzip")
    assert verify(first.body, {signer.keyid: public_pem(signer)})
    again = await ask(app, "GET", PATH, {"if-none-match": first.headers["etag"]})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    store.registry.revoke("one", reason="test")
    other = await ask(app, "GET", PATH, {"if-none-match": first.headers["etag"]})
    assert other.status == 200
    assert other.headers["etag"] != first.headers["etag"]


async def test_who_does_not_wait_is_answered_at_once(app: BundleApp) -> None:
    etag = (await ask(app, "GET", PATH)).headers["etag"]
    first = await ask(app, "GET", PATH, {"prefer": "modes=snapshot,delta;wait=60"})
    assert (first.status, first.headers["content-type"]) == (200, LONG_POLL)  # by this an agent knows long polling
    began = time.monotonic()
    same = await ask(app, "GET", PATH, {"prefer": "modes=snapshot,delta", "if-none-match": etag})
    assert same.status == 304
    assert time.monotonic() - began < 5


async def test_a_wait_ends_without_news(app: BundleApp) -> None:
    etag = (await ask(app, "GET", PATH)).headers["etag"]
    began = time.monotonic()
    same = await ask(app, "GET", PATH, {"prefer": "modes=snapshot,delta;wait=1", "if-none-match": etag})
    assert (same.status, same.headers["etag"]) == (304, etag)
    assert time.monotonic() - began >= 0.9


async def test_a_revocation_reaches_everybody_who_waits(store: Store, app: BundleApp) -> None:
    etag = (await ask(app, "GET", PATH)).headers["etag"]
    waiting = [
        asyncio.create_task(ask(app, "GET", PATH, {"prefer": "modes=snapshot,delta;wait=60", "if-none-match": etag}))
        for _ in range(5)
    ]
    await asyncio.sleep(0.3)
    assert not any(task.done() for task in waiting)
    other = Home.open(store.path)
    try:
        Registry(other).revoke("one", reason="test")
    finally:
        other.close()
    revoked = time.monotonic()
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 20)
    assert time.monotonic() - revoked < 5
    assert {(answer.status, answer.headers["content-type"]) for answer in answers} == {(200, LONG_POLL)}
    assert etag not in {answer.headers["etag"] for answer in answers}


async def test_without_the_token_nothing_is_told_or_taken(store: Store) -> None:
    app = BundleApp(store.home, store.registry.signer(), token="sesame", stating=store.registry.signer())
    for headers in ({}, {"authorization": "Bearer seasam"}, {"authorization": "sesame"}):
        for method, path in (("GET", PATH), ("POST", "/logs"), ("POST", "/status"), ("GET", "/nothing")):
            refused = await ask(app, method, path, headers, zipped(EVENT))
            assert (refused.status, refused.json["code"]) == (401, "policy-token")
    assert (await ask(app, "GET", "/healthz")).status == 200
    assert (await ask(app, "GET", PATH, {"authorization": "Bearer sesame"})).status == 200
    assert stated(store.home, store.registry) == []
    app.close()


@pytest.mark.parametrize("path", ["/logs", "/logs/prod"])
async def test_events_are_kept_before_they_are_acknowledged(store: Store, app: BundleApp, path: str) -> None:
    other = {**EVENT, "decision_id": "d-2", "result": {"allow": False}}
    taken = await ask(app, "POST", path, GZIP, zipped(EVENT, other))
    assert (taken.status, taken.json) == (200, {"events": 2, "new": 2})
    again = Home.open(store.path)
    try:
        found = stated(again, Registry(again))
    finally:
        again.close()
    assert [(each.event.decision_id, each.event.allowed) for each in found] == [("d-2", False), ("d-1", True)]


async def test_events_that_come_again_are_kept_once(store: Store, app: BundleApp) -> None:
    await ask(app, "POST", "/logs", GZIP, zipped(EVENT))
    size = store.home.registry_log().refresh()
    again = await ask(app, "POST", "/logs", GZIP, zipped(EVENT))
    assert (again.status, again.json) == (200, {"events": 1, "new": 0})
    assert store.home.registry_log().refresh() == size
    fresh = BundleApp(store.home, store.registry.signer(), stating=store.registry.signer())  # after a restart
    more = await ask(fresh, "POST", "/logs", GZIP, zipped(EVENT, {**EVENT, "decision_id": "d-3"}))
    assert more.json == {"events": 2, "new": 1}
    fresh.close()


@pytest.mark.parametrize(
    "body",
    [
        b"not gzip", b"\x1f\x8b\x08\x00", gzip.compress(b"{}"), gzip.compress(b"[1]"), gzip.compress(b"[{}]"),
        gzip.compress(b"[" * 100_000), gzip.compress(b'[{"decision_id": "\xff", "timestamp": "x"}]'),
        zipped(EVENT)[:-9], zipped(EVENT) + zipped(EVENT), zipped({**EVENT, "timestamp": "yesterday"}),
        zipped({**EVENT, "timestamp": "2026-02-31T00:00:00Z"}), zipped({**EVENT, "decision_id": ""}),
        zipped(EVENT, {**EVENT, "bundles": 3}), b"",
    ],
    ids=[
        "no-gzip", "cut-header", "object", "numbers", "empty-event", "too-deep", "no-utf8", "cut", "two-members",
        "no-time", "no-such-day", "no-id", "one-of-two", "nothing",
    ],
)  # fmt: skip
async def test_what_is_malformed_keeps_nothing(store: Store, app: BundleApp, body: bytes) -> None:
    size = store.home.registry_log().refresh()
    refused = await ask(app, "POST", "/logs", GZIP, body)
    assert (refused.status, refused.json["code"]) == (400, "decision-log-malformed")
    assert store.home.registry_log().refresh() == size


async def test_what_is_too_big_is_not_read(store: Store, app: BundleApp) -> None:
    bomb = gzip.compress(b" " * (MAX_UNZIPPED + 1))
    assert len(bomb) < 100_000
    big = os.urandom(5 * 1024 * 1024)
    size = store.home.registry_log().refresh()
    for body in (bomb, big):
        refused = await ask(app, "POST", "/logs", GZIP, body)
        assert (refused.status, refused.json["code"]) == (413, "upload-too-big")
    assert store.home.registry_log().refresh() == size


async def test_the_other_paths(app: BundleApp) -> None:
    assert (await ask(app, "POST", "/status", {}, b"{}")).status == 200
    assert app.counts["status"] == 1
    assert (await ask(app, "GET", "/logs")).status == 405
    assert (await ask(app, "POST", PATH)).status == 405
    assert (await ask(app, "GET", "/bundles/other.tar.gz")).status == 404
    assert (await ask(app, "POST", "/logs", {}, b"[]")).json == {"events": 0, "new": 0}


def test_the_command_serves_until_it_is_told_to_stop(store: Store, tmp_path: Path) -> None:
    environment = {**os.environ, "POLICY_TOKEN": "sesame", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "genealog", "policy", "serve-bundle", "--listen", "127.0.0.1:0",
               "--token", "env:POLICY_TOKEN", "--store", str(store.path)]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as run:
        try:
            assert run.stdout is not None
            url = run.stdout.readline().split()[-1]
            assert url.endswith(PATH)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(url, timeout=30)
            with caught.value:
                assert caught.value.code == 401
            request = urllib.request.Request(url, headers={"Authorization": "Bearer sesame"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                signer = store.registry.signer()
                assert verify(answer.read(), {signer.keyid: public_pem(signer)})
            logs = urllib.request.Request(
                url.replace(PATH, "/logs"), data=zipped(EVENT), method="POST",
                headers={"Authorization": "Bearer sesame", "Content-Encoding": "gzip"},
            )  # fmt: skip
            with urllib.request.urlopen(logs, timeout=30) as answer:
                assert json.load(answer) == {"events": 1, "new": 1}
        finally:
            run.send_signal(signal.SIGTERM)
            assert run.wait(30) == 0
    assert [each.event.decision_id for each in stated(store.home, store.registry)] == ["d-1"]

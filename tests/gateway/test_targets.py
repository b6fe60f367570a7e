"""Several targets behind one name: which one is asked, what happens when it fails, and what it is told."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.fake_upstream import Asked, FakeUpstream, Script, Wire, completion, whole
from gateway.kit import ADAPTER, LINEAGE, MODEL, NAME, FakeSource, Running, chat, running, spec
from genealog.core.ids import sha256_hex
from genealog.core.records import Pinned, ServingSpec, Target
from genealog.gateway import asking
from genealog.gateway.aims import Aim, Health, aims_of, order
from genealog.gateway.upstreams import Upstreams
from genealog.store.gateway_settings import Upstream
from genealog.store.units import Seconds

OTHER = "glf1:" + "d" * 64


def target(upstream: str, **changes: Any) -> Target:
    return Target(model=Pinned(artifact=OTHER, lineage=LINEAGE), upstream=upstream, **changes)


def deploy(source: FakeSource, first: str, *others: Target, **changes: Any) -> None:
    source.registry.add(OTHER)
    source.deploy(NAME, spec(first, others=others, **{"attempts": 1 + len(others), **changes}))


def aims(*weights: int) -> tuple[Aim, ...]:
    first, *others = weights
    body = ServingSpec(
        model=Pinned(artifact=MODEL, lineage=LINEAGE), upstream="http://a", weight=first,
        others=tuple(target(f"http://{at}", weight=weight) for at, weight in enumerate(others)),
    )  # fmt: skip
    return aims_of(body, Upstreams({}, Path()), Path())


def test_calls_are_spread_by_weight_and_by_their_own_bits() -> None:
    some = aims(3, 1, 0)
    firsts = Counter(order(some, lot * 7919, Health())[0].index for lot in range(4_000))
    assert firsts[2] == 0
    assert 2_850 < firsts[0] < 3_150
    assert order(some, 12345, Health()) == order(some, 12345, Health())
    assert all(order(some, lot, Health())[2].index == 2 for lot in range(50))


def test_a_target_that_fails_is_left_out_for_a_time_that_grows() -> None:
    now = [0.0]
    health = Health(clock=lambda: now[0])
    some = aims(1, 1)
    for _ in range(3):
        health.failed(some[0])
    assert {order(some, lot, health)[0].index for lot in range(20)} == {1}
    now[0] = 1.1
    assert {order(some, lot, health)[0].index for lot in range(20)} == {0, 1}
    health.failed(some[0])
    now[0] = 2.9
    assert health.out(some[0])
    health.worked(some[0])
    assert not health.out(some[0])
    for _ in range(3):
        health.failed(some[0])
        health.failed(some[1])
    assert len(order(some, 1, health)) == 2  # all are left out: none is


def die(after: bytes = b"") -> Script:
    async def script(wire: Wire, _: Asked) -> None:
        if after:
            await wire.head(Content_Type="application/json", Content_Length="100")
            await wire.raw(after)
            await asyncio.sleep(0.05)
        wire.die()

    return script


@pytest.mark.parametrize("fault", ["dead", "resets", 429, 502, 503, 504])
async def test_another_target_is_asked_and_each_attempt_is_a_call(tmp_path: Path, fault: str | int) -> None:
    source = FakeSource()
    bad = FakeUpstream(whole(b"no", fault, Retry_After="60") if isinstance(fault, int) else die())
    async with FakeUpstream(whole(completion())) as good, running(tmp_path, source) as gateway:
        await bad.start()
        if fault == "dead":
            await bad.stop()
        deploy(source, bad.url, target(good.url, weight=0, seller="acme"))
        status, headers, body = await gateway.ask(chat())
        (one, first), (two, second) = gateway.calls()
        await bad.stop()
    assert (status, body) == (200, completion())
    assert first is not None
    assert second is not None
    assert (one.attempt, one.trace, one.target, one.models) == (1, None, 0, (MODEL, ADAPTER))
    assert (two.attempt, two.trace, two.target, two.models, two.seller) == (2, one.call, 1, (OTHER,), "acme")
    assert (headers["Genealog-Call"], headers["Genealog-Trace"]) == (two.call, one.call)
    assert headers["Genealog-Model"] == OTHER
    assert (first.delivered, first.status) == (0, fault if isinstance(fault, int) else None)
    assert first.finish == ("complete" if fault == 429 else "upstream_error")
    assert (second.finish, second.delivered) == ("complete", len(body))
    assert good.asked[0].header("Genealog-Call") == two.call


async def test_the_last_answer_stands_when_no_target_does_better(tmp_path: Path) -> None:
    source = FakeSource()
    async with (
        FakeUpstream(whole(b"busy", 503)) as one,
        FakeUpstream(whole(b"full", 503)) as two,
        running(tmp_path, source) as gateway,
    ):
        deploy(source, one.url, target(two.url, weight=0))
        status, _, body = await gateway.ask(chat())
        finishes = [outcome and (outcome.finish, outcome.delivered) for _, outcome in gateway.calls()]
    assert (status, body) == (503, b"full")
    assert finishes == [("upstream_error", 0), ("upstream_error", 4)]


@pytest.mark.parametrize(("attempts", "script"), [(1, whole(b"no", 503)), (2, whole(b"no", 500))])
async def test_nothing_is_asked_again_where_it_must_not_be(tmp_path: Path, attempts: int, script: Script) -> None:
    """One attempt only; an error that may have done its work."""
    source = FakeSource()
    async with FakeUpstream(script) as bad, FakeUpstream(whole(b"")) as good, running(tmp_path, source) as gateway:
        deploy(source, bad.url, target(good.url, weight=0), attempts=attempts)
        status, headers, _ = await gateway.ask(chat())
        assert len(gateway.calls()) == 1
        assert good.asked == []
    assert status in (503, 500)
    assert "Genealog-Trace" not in headers


async def test_nothing_is_asked_again_once_the_client_has_a_byte(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(die(b"{")) as bad, FakeUpstream(whole(b"")) as good, running(tmp_path, source) as gateway:
        deploy(source, bad.url, target(good.url, weight=0))
        with pytest.raises(aiohttp.ClientPayloadError):
            await gateway.ask(chat())
        (call,) = gateway.calls()
    assert good.asked == []
    assert call[1] is not None
    assert (call[1].finish, call[1].error, call[1].delivered) == ("upstream_error", "upstream-died", 1)


async def _as(gateway: Running, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    sent = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with gateway.client.post(gateway.url + path, data=body, headers=sent) as response:
        return response.status, await response.read()


async def test_a_target_that_knows_the_model_by_another_name_is_asked_by_that(tmp_path: Path) -> None:
    source = FakeSource()
    body = b'{ "temperature":0.10,"model" : "prod\\/bot", "x": {"model": "inner"}, "n": 1e2 }\n'
    async with FakeUpstream(whole(completion(model="gpt-x"))) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url + "/base", served_as="gpt-x"))
        assert (await _as(gateway, "/v1/chat/completions", body))[0] == 200
        intent, outcome = gateway.last()
        await _as(gateway, "/v1beta/models/prod%2Fbot:generateContent?key=k", b"{}")
        google, _ = gateway.last()
        boundary = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nprod/bot\r\n--b--\r\n'
        form = "multipart/form-data; boundary=b"
        await _as(gateway, "/v1/audio/transcriptions", boundary, Content_Type=form)
    sent = body.replace(b'"prod\\/bot"', b'"gpt-x"')
    assert upstream.asked[0].body == sent
    assert upstream.asked[0].path == "/base/v1/chat/completions"
    assert (intent.request, intent.changed, intent.forwarded) == (body, ("model",), sha256_hex(sent))
    assert outcome.assurance == "A0"  # gpt-x is what was asked for
    assert upstream.asked[1].path == "/base/v1beta/models/gpt-x:generateContent?key=k"
    assert (google.deployment, google.changed, google.operation) == (
        NAME, ("model",), "/v1beta/models/prod%2Fbot:generateContent"
    )  # fmt: skip
    assert upstream.asked[2].body == boundary.replace(b"prod/bot", b"gpt-x")


async def test_the_gateway_shows_its_own_key_and_not_the_clients(tmp_path: Path) -> None:
    source = FakeSource()
    (tmp_path / "key").write_text("sk-first\n")
    section = Upstream(header="Authorization", prefix="Bearer ", secret="file:key")
    async with (
        FakeUpstream(whole(completion())) as upstream,
        running(tmp_path / "spool", source, upstreams={"vendor": section}, root=tmp_path) as gateway,
    ):
        source.deploy(NAME, spec(upstream.url, credentials="vendor"))
        await gateway.ask(chat(), Authorization="Bearer sk-client", X_Api_Key="sk-client")
        (tmp_path / "key").write_text("sk-second")
        credentials = gateway.plane.parts.upstreams.find("vendor")
        assert credentials is not None
        credentials._secret._looked = 0  # type: ignore[union-attr]
        await gateway.ask(chat())
        await _as(gateway, "/v1beta/models/prod%2Fbot:generateContent?alt=x&key=sk-client", b"{}")
        (tmp_path / "key").unlink()
        credentials._secret._looked = 0  # type: ignore[union-attr]
        status, _, answer = await gateway.ask(chat())
        refused = gateway.last()[1]
        source.deploy("other", spec(upstream.url, credentials="unknown"))
        missing = await gateway.ask(chat(model="other"))
    assert [asked.header("Authorization") for asked in upstream.asked] == [
        "Bearer sk-first", "Bearer sk-second", "Bearer sk-second"
    ]  # fmt: skip
    assert upstream.asked[0].header("X-Api-Key") is None
    assert upstream.asked[2].path.endswith(":generateContent?alt=x")
    assert (status, json.loads(answer)["code"], refused.finish) == (503, "secret-missing", "refused")
    assert (missing[0], json.loads(missing[2])["code"]) == (503, "credentials-missing")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "spool").rglob("*") if path.is_file())
    assert b"sk-" not in everything


@pytest.mark.parametrize("opaque", [False, True])
async def test_the_gateway_s_own_key_opens_only_what_a_dialect_knows(tmp_path: Path, opaque: bool) -> None:
    source = FakeSource()
    (tmp_path / "key").write_text("sk-ours")
    section = Upstream(header="Authorization", secret="file:key", opaque=opaque)
    async with (
        FakeUpstream(whole(completion())) as upstream,
        running(tmp_path / "spool", source, upstreams={"vendor": section}, root=tmp_path) as gateway,
    ):
        source.deploy(NAME, spec(upstream.url, credentials="vendor"))
        source.deploy("open", spec(upstream.url))
        headers = {"Genealog-Deployment": NAME}
        async with gateway.client.post(gateway.url + "/v1/files", data=b"x", headers=headers) as answer:
            status, said = answer.status, await answer.read()
        outcome = gateway.last()[1]
        async with gateway.client.post(
            gateway.url + "/v1/files", data=b"x", headers={"Genealog-Deployment": "open"}
        ) as answer:
            assert answer.status == 200
    if opaque:
        assert (status, len(upstream.asked)) == (200, 2)
    else:
        assert (status, json.loads(said)["code"], len(upstream.asked)) == (403, "opaque-not-allowed", 1)
        assert (outcome.finish, outcome.error) == ("refused", "opaque-not-allowed")


async def test_the_bytes_of_a_secret_cannot_be_two_headers(tmp_path: Path) -> None:
    source = FakeSource()
    (tmp_path / "key").write_text("sk\r\nX: y")
    section = Upstream(secret="file:key")
    async with (
        FakeUpstream(whole(b"")) as upstream,
        running(tmp_path / "spool", source, upstreams={"vendor": section}, root=tmp_path) as gateway,
    ):
        source.deploy(NAME, spec(upstream.url, credentials="vendor"))
        status, _, answer = await gateway.ask(chat())
    assert (status, json.loads(answer)["code"]) == (503, "secret-missing")
    assert b"sk" not in answer


@pytest.mark.parametrize("section", [True, False])
async def test_an_upstream_that_falls_silent_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: bool
) -> None:
    over = asyncio.Event()

    async def silent(_wire: Wire, _: Asked) -> None:
        await over.wait()

    soon = Upstream(read_timeout=Seconds(0.3))
    if not section:
        monkeypatch.setattr(asking, "_NO_SECTION", soon)
    source = FakeSource()
    async with FakeUpstream(silent) as first, FakeUpstream(whole(completion())) as second:
        async with running(tmp_path, source, upstreams={"vendor": soon}) as gateway:
            label = "vendor" if section else None
            deploy(source, first.url, target(second.url, weight=0), credentials=label)
            status, _, _ = await gateway.ask(chat())
            calls = gateway.calls()
        over.set()
    assert status == 200
    assert [(outcome.finish, outcome.error) for _, outcome in calls] == [
        ("upstream_error", "upstream-silent"), ("complete", None),
    ]  # fmt: skip

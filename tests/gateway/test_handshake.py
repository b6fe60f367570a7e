"""A3: what an engine must show before a call and after it, and what a call is worth when it does not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.fake_upstream import Asked, Engine, FakeUpstream, Wire, completion, events, stream, whole
from gateway.kit import ADAPTER, MODEL, NAME, WEIGHTS, FakeSource, Running, running, spec, until
from genealog.core.canonical import decode
from genealog.core.dsse import open_envelope
from genealog.core.ids import sha256_hex
from genealog.core.records import ENGINE_SIGNATURE, EngineSignature, Loaded
from genealog.errors import GenealogError
from genealog.gateway import handshake
from genealog.gateway.handshake import check_load, check_signature
from genealog.store.keys import KeySigner

CHAT = json.dumps({"model": NAME, "messages": []}).encode()
STREAM = json.dumps({"model": NAME, "messages": [], "stream": True}).encode()


def signer() -> KeySigner:
    return KeySigner(ec.generate_private_key(ec.SECP256R1()))


@dataclass
class Measured:
    """A gateway in front of an engine."""

    gateway: Running
    upstream: FakeUpstream
    engine: Engine
    source: FakeSource


@asynccontextmanager
async def measured(
    path: Path, *, load: dict[str, Any] | None = None, spec_changes: dict[str, Any] | None = None
) -> AsyncIterator[Measured]:
    async def script(wire: Wire, asked: Asked) -> None:
        await (stream(events()) if json.loads(asked.body).get("stream") else whole(completion()))(wire, asked)

    source, key = FakeSource(), signer()
    engine = Engine(key, source.load(key, **(load or {})))
    async with FakeUpstream(script, engine) as upstream, running(path, source) as gateway:
        source.deploy(NAME, spec(upstream.url, **(spec_changes or {})))
        await gateway.directory.renew()
        yield Measured(gateway, upstream, engine, source)


@pytest.mark.parametrize("request_body", [CHAT, STREAM])
async def test_a_call_of_an_engine_is_measured(tmp_path: Path, request_body: bytes) -> None:
    async with measured(tmp_path, spec_changes={"minimum_assurance": "A3"}) as setting:
        status, headers, body = await setting.gateway.ask(request_body)
        intent, outcome = setting.gateway.last()
    assert (status, headers["Genealog-Assurance"]) == (200, "A3")
    assert (intent.bound, outcome.assurance, outcome.error) == ("A3", "A3", None)
    assert outcome.engine is not None
    signed = decode(open_envelope(outcome.engine.signature, ENGINE_SIGNATURE)[0], EngineSignature)
    assert (signed.call, signed.load) == (intent.call, setting.engine.load)
    assert (signed.request, signed.response) == (sha256_hex(request_body), sha256_hex(body))
    assert signed.report == sha256_hex(outcome.engine.report)


async def test_one_handshake_serves_many_calls(tmp_path: Path) -> None:
    async with measured(tmp_path) as setting:
        await asyncio.gather(*(setting.gateway.ask(CHAT) for _ in range(8)))
        assert setting.engine.handshakes == 1
        setting.source.epoch += 1  # the registry has changed: a key may have been revoked
        await setting.gateway.directory.renew()
        await setting.gateway.ask(CHAT)
        assert setting.engine.handshakes == 2
    assert {outcome.assurance for _, outcome in setting.gateway.calls() if outcome} == {"A3"}


async def test_handshakes_are_renewed_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with measured(tmp_path) as setting:
        await setting.gateway.ask(CHAT)
        monkeypatch.setattr(handshake, "AGAIN", 0.01)
        parts = setting.gateway.plane.parts
        (aim,) = parts.aims(setting.source.live[NAME])
        shaking = handshake.Handshakes(parts.pool, setting.gateway.directory, lambda: [aim])
        await shaking.bind(aim)
        before = setting.engine.handshakes
        renewing = asyncio.create_task(shaking.renew_forever())

        async def renewed() -> bool:
            return setting.engine.handshakes >= before + 3

        async def unbound() -> bool:
            return (await shaking.bind(aim)).contradicted

        async def forgotten() -> bool:
            return not shaking._known

        await until(renewed)
        revoke(setting)
        await until(unbound)
        await setting.upstream.stop()
        await until(forgotten)
        renewing.cancel()


Change = Callable[[Measured], None]


def revoke(setting: Measured) -> None:
    keyid = setting.engine.signer.keyid
    setting.source.rows[keyid] = replace(setting.source.rows[keyid], revoked="stolen")


def demote(setting: Measured) -> None:
    keyid = setting.engine.signer.keyid
    setting.source.rows[keyid] = replace(setting.source.rows[keyid], role="signer")


def forget_key(setting: Measured) -> None:
    setting.source.rows.clear()


def forget_load(setting: Measured) -> None:
    setting.source.statements.clear()


def steal_load(setting: Measured) -> None:
    """Another key, registered as well, answers with a load statement that is not its own."""
    other = signer()
    setting.source.load(other)
    setting.engine.signer = other


def replay_nonce(setting: Measured) -> None:
    setting.engine.nonce = "0" * 64


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (revoke, "signer-revoked"),
        (demote, "signer-unknown"),
        (forget_key, "signer-unknown"),
        (forget_load, "unknown-entry"),
        (steal_load, "signer-unknown"),
        (replay_nonce, "challenge-mismatch"),
    ],
)
@pytest.mark.parametrize("minimum", ["A0", "A3"])
async def test_an_engine_that_does_not_verify_is_never_asked(
    tmp_path: Path, change: Change, reason: str, minimum: str
) -> None:
    async with measured(tmp_path, spec_changes={"minimum_assurance": minimum}) as setting:
        change(setting)
        status, _, body = await setting.gateway.ask(CHAT)
        intent, outcome = setting.gateway.last()
    assert (status, json.loads(body)["code"]) == (403, "upstream-contradicted")
    assert reason in json.loads(body)["error"]["message"]
    assert (intent.bound, outcome.finish) == ("A0", "refused")
    assert setting.upstream.asked == []


OTHER = Loaded(role="base", artifact="glf1:" + "9" * 64, weights=WEIGHTS)
BASE = Loaded(role="base", artifact=MODEL, weights=WEIGHTS)


@pytest.mark.parametrize(
    ("loaded", "reason"),
    [
        ((BASE,), "other-models"),
        ((OTHER, Loaded(role="adapter", artifact=ADAPTER, weights="glw1:" + "b" * 64)), "other-models"),
        ((BASE, Loaded(role="adapter", artifact=ADAPTER, weights="glw1:" + "9" * 64)), "other-weights"),
    ],
)
async def test_an_engine_with_other_models_is_not_bound(
    tmp_path: Path, loaded: tuple[Loaded, ...], reason: str
) -> None:
    async with measured(tmp_path, load={"loaded": loaded}) as setting:
        status, _, body = await setting.gateway.ask(CHAT)
    assert (status, json.loads(body)["code"]) == (403, "upstream-contradicted")
    assert setting.upstream.asked == []
    assert reason in json.loads(body)["error"]["message"]


async def test_an_ordinary_server_is_bound_at_a0_and_asked_once(tmp_path: Path) -> None:
    source = FakeSource()
    async with FakeUpstream(whole(completion(model="m-2026"))) as upstream, running(tmp_path, source) as gateway:
        source.deploy(NAME, spec(upstream.url, minimum_assurance="A1"))
        status, headers, _ = await gateway.ask(CHAT)
        intent, outcome = gateway.last()
    assert (status, headers["Genealog-Assurance"]) == (200, "A0")
    assert (intent.bound, outcome.assurance, outcome.error) == ("A0", "A1", None)


async def test_a_busy_server_is_served_at_a0_and_asked_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PATIENCE", 0.2)
    async with measured(tmp_path) as setting:
        setting.engine.patient.clear()
        _, headers, _ = await setting.gateway.ask(CHAT)
        assert headers["Genealog-Assurance"] == "A0"
        setting.engine.patient.set()
        setting.gateway.handshakes.forget(*setting.gateway.plane.parts.aims(setting.source.live[NAME]))
        _, headers, _ = await setting.gateway.ask(CHAT)
    assert headers["Genealog-Assurance"] == "A3"


Twist = Callable[[EngineSignature], EngineSignature]


@pytest.mark.parametrize(
    ("twist", "code"),
    [
        (lambda s: msgspec.structs.replace(s, call="01ARZ3NDEKTSV4RRFFQ69G5FAV"), "another-call"),
        (lambda s: msgspec.structs.replace(s, response="0" * 64), "other-bytes"),
        (lambda s: msgspec.structs.replace(s, request="0" * 64), "other-bytes"),
        (lambda s: msgspec.structs.replace(s, report="0" * 64), "other-report"),
        (lambda s: msgspec.structs.replace(s, load="0" * 64), "another-load"),
    ],
)
async def test_a_signature_over_something_else_costs_the_level(tmp_path: Path, twist: Twist, code: str) -> None:
    async with measured(tmp_path) as setting:
        setting.engine.twist = twist
        status, headers, body = await setting.gateway.ask(CHAT)
        intent, outcome = setting.gateway.last()
    assert (status, body, headers["Genealog-Assurance"]) == (200, completion(), "A3")
    assert (intent.bound, outcome.assurance, outcome.finish) == ("A3", "A0", "complete")
    assert (outcome.error, outcome.engine) == (code, None)


async def test_a_signature_by_another_key_costs_the_level(tmp_path: Path) -> None:
    async with measured(tmp_path) as setting:
        await setting.gateway.ask(CHAT)
        setting.engine.signer = signer()
        await setting.gateway.ask(CHAT)
        _, outcome = setting.gateway.last()
    assert (outcome.assurance, outcome.error, outcome.engine) == ("A0", "signer-unknown", None)


async def test_no_signature_costs_the_level(tmp_path: Path) -> None:
    async with measured(tmp_path) as setting:
        setting.engine.signs = False
        assert (await setting.gateway.ask(STREAM))[0] == 200
        _, outcome = setting.gateway.last()
    assert (outcome.assurance, outcome.error) == ("A0", "engine-signature-missing")


async def test_a_late_signature_costs_the_level_and_not_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "PATIENCE", 0.2)
    async with measured(tmp_path) as setting:
        await setting.gateway.ask(CHAT)
        setting.engine.patient.clear()
        status, _, body = await setting.gateway.ask(CHAT)
        _, outcome = setting.gateway.last()
    assert (status, body) == (200, completion())
    assert (outcome.assurance, outcome.error) == ("A0", "engine-signature-missing")


async def test_a_restarted_engine_is_recognised_by_its_new_load(tmp_path: Path) -> None:
    async with measured(tmp_path) as setting:
        await setting.gateway.ask(CHAT)
        await setting.upstream.stop()
        key = signer()
        load = setting.source.load(key)
        setting.source.epoch -= 1  # the gateway has not looked at the registry since
        setting.engine.signer, setting.engine.load = key, load
        await setting.upstream.start()
        status, _, _ = await setting.gateway.ask(CHAT)
        _, outcome = setting.gateway.last()
    assert status == 200
    assert (outcome.assurance, outcome.error) == ("A3", None)
    assert outcome.engine is not None
    assert outcome.engine.load == load


async def test_an_abandoned_call_is_not_measured(tmp_path: Path) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(b": one\n\n")
        await wire.gone.wait()

    async with measured(tmp_path) as setting:
        setting.upstream.script = script
        async with setting.gateway.client.post(setting.gateway.url + "/v1/chat/completions", data=STREAM) as response:
            await response.content.readexactly(7)
            response.close()

        async def ended() -> bool:
            return setting.gateway.calls()[-1][1] is not None

        await until(ended)
        intent, outcome = setting.gateway.last()
    assert (intent.bound, outcome.assurance, outcome.engine) == ("A3", "A0", None)


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"load":1}', b'{"load":"x","challenge":"!"}', b"\xff"])
def test_an_unreadable_answer_to_a_handshake(answer: bytes) -> None:
    source, key = FakeSource(), signer()
    leaf = source.load(key)
    with pytest.raises(GenealogError):
        check_load(answer, "0" * 64, spec("http://x"), source.statement(leaf), leaf, source.keys())


def test_a_challenge_of_the_wrong_type_does_not_count() -> None:
    """A signature of a call cannot be passed off as a handshake."""
    source, key = FakeSource(), signer()
    leaf = source.load(key)
    engine = Engine(key, leaf)
    engine.sign("01ARZ3NDEKTSV4RRFFQ69G5FAV", b"", b"")
    (kept,) = engine.kept.values()
    forged = json.dumps({"load": leaf, "challenge": json.loads(kept)["signature"]}).encode()
    with pytest.raises(GenealogError, match="wrong-payload-type"):
        check_load(forged, "0" * 64, spec("http://x"), source.statement(leaf), leaf, source.keys())


def test_a_signature_verifies_for_these_bytes_only() -> None:
    source, key = FakeSource(), signer()
    leaf = source.load(key)
    engine = Engine(key, leaf)
    nonce = "1" * 64
    binding = check_load(engine.challenge(nonce), nonce, spec("http://x"), source.statement(leaf), leaf, source.keys())
    call = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    engine.sign(call, b"in", b"out")
    answer = engine.kept[call]
    assert check_signature(answer, binding, call, sha256_hex(b"in"), sha256_hex(b"out")).load == leaf
    for request, response in ((b"in", b"ou"), (b"", b"out")):
        with pytest.raises(GenealogError, match="other-bytes"):
            check_signature(answer, binding, call, sha256_hex(request), sha256_hex(response))
    torn = json.loads(answer)
    torn["signature"] = base64.b64encode(base64.b64decode(torn["signature"])[:-9]).decode()
    with pytest.raises(GenealogError, match="not-json"):
        check_signature(json.dumps(torn).encode(), binding, call, sha256_hex(b"in"), sha256_hex(b"out"))

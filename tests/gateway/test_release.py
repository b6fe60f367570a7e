"""What policy makes of answers, on the wire and on record: scripted decisions against scripted upstreams."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.fake_upstream import Asked, Engine, FakeUpstream, Wire, completion, events, stream, whole
from gateway.kit import MODEL, NAME, FakeSource, chat, running, spec, until
from genealog.core.ids import sha256_hex
from genealog.core.policy import Mode
from genealog.errors import GenealogError, PolicyDenied, StoreError
from genealog.gateway.directory import Directory
from genealog.gateway.releasing import Question, Releasing
from genealog.policy.release import Released, Standing
from genealog.store.keys import KeySigner

FLAG = "traceable output-without-lineage"
FLAGGED = Released("allowed", flags=(FLAG,))
LABELLED = Released("labelled", flags=("marked unmarked-output",), label="ai-generated")
BLOCKED = Released("blocked", "output-without-lineage", (FLAG,), said="nobody knows where it comes from")
HELD = Released("held", "held-for-review", ("personal_data found-personal-data",))
SHORT, SSE = completion(), b"".join(events())
ANSWERS = {"whole": (whole(SHORT), SHORT), "stream": (stream(events()), SSE)}


@dataclass
class Judge:
    """Decides as it is told, once `ready`."""

    say: Released
    modes: dict[str, Mode] = field(default_factory=lambda: {"traceable": "deny"})
    detectors: tuple[str, ...] = ()
    ttl: float = 60.0
    questions: list[Question] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    fails: GenealogError | None = None

    def __post_init__(self) -> None:
        self.ready.set()

    def __call__(self, directory: Directory) -> Releasing:
        """Make what the gateway asks."""
        standing = Standing("prod", self.modes, detectors=self.detectors)
        return Releasing(directory, self.decide, lambda _: standing)

    async def decide(self, question: Question) -> tuple[Released, float]:
        """Decide."""
        self.questions.append(question)
        await self.ready.wait()
        if self.fails is not None:
            raise self.fails
        return self.say, self.ttl


@pytest.mark.parametrize("kind", ["whole", "stream"])
@pytest.mark.parametrize("before", [0, 1], ids=["asked", "known"])
@pytest.mark.parametrize("released", [FLAGGED, LABELLED], ids=["flagged", "labelled"])
async def test_an_answer_goes_out_with_what_policy_says_of_it(
    tmp_path: Path, released: Released, before: int, kind: str
) -> None:
    script, answer = ANSWERS[kind]
    judge, source = Judge(released), FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        for _ in range(before + 1):
            status, headers, body = await gateway.ask(chat(stream=kind == "stream"))
        _, outcome = gateway.last()
    assert (status, body) == (200, answer)
    assert headers["Genealog-Flags"] == released.flags[0]
    assert headers.get("Genealog-Label") == released.label
    assert (outcome.finish, outcome.delivered, outcome.error) == ("complete", len(answer), None)
    assert (outcome.release, outcome.release_flags) == (released.action, released.flags)
    assert len(judge.questions) == 1
    assert judge.questions[0].live.name == NAME
    assert judge.questions[0].aim.models[0] == MODEL


@pytest.mark.parametrize("kind", ["whole", "stream"])
@pytest.mark.parametrize("before", [0, 1], ids=["asked", "known"])
@pytest.mark.parametrize("released", [BLOCKED, HELD], ids=["blocked", "held"])
async def test_of_an_answer_that_does_not_go_out_the_record_has_all_and_the_client_nothing(
    tmp_path: Path, released: Released, before: int, kind: str
) -> None:
    script, answer = ANSWERS[kind]
    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source, releasing=Judge(released)) as gateway:
        source.deploy(NAME, spec(upstream.url))
        for _ in range(before + 1):
            status, headers, body = await gateway.ask(chat(stream=kind == "stream"))
        intent, outcome = gateway.last()
    problem = json.loads(body)
    assert (status, headers["Content-Type"], problem["code"]) == (403, "application/problem+json", released.code)
    assert headers["Genealog-Call"] == intent.call
    assert b"Hel" not in body
    if released is HELD:
        assert problem["hint"].endswith(f"/genealog/v1/answers/{intent.call}")
    assert (outcome.finish, outcome.status, outcome.response) == ("complete", 200, answer)
    assert (outcome.delivered, outcome.error) == (0, released.code)
    assert (outcome.release, outcome.release_flags) == (released.action, released.flags)


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_error_of_the_upstream_is_not_policys_business(tmp_path: Path, status: int) -> None:
    judge, source = Judge(BLOCKED), FakeSource()
    script = whole(b'{"error":1}', status)
    async with FakeUpstream(script) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(chat()))[::2] == (status, b'{"error":1}')
        assert gateway.last()[1].release is None
    assert judge.questions == []


async def test_where_no_policy_is_in_force_nobody_is_asked(tmp_path: Path) -> None:
    judge, source = Judge(BLOCKED, modes={}), FakeSource()
    async with FakeUpstream(whole(SHORT)) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        assert (await gateway.ask(chat()))[::2] == (200, SHORT)
        assert gateway.last()[1].release == "allowed"
    assert judge.questions == []


@pytest.mark.parametrize(
    ("fails", "modes", "action", "code"),
    [
        (PolicyDenied("policy-timeout", "late"), {"a": "deny", "b": "flag"}, "blocked", "policy-timeout"),
        (StoreError("log-altered", "gone"), {"a": "deny"}, "blocked", "policy-error"),
        (PolicyDenied("policy-timeout", "late"), {"a": "review", "b": "flag"}, "held", "held-for-review"),
        (PolicyDenied("policy-timeout", "late"), {"a": "label"}, "labelled", None),
        (PolicyDenied("policy-timeout", "late"), {"a": "flag"}, "allowed", None),
    ],
    ids=["deny", "store", "review", "label", "flag"],
)
async def test_an_engine_that_fails_has_said_no_for_every_policy(
    tmp_path: Path, fails: GenealogError, modes: dict[str, Mode], action: str, code: str | None
) -> None:
    judge, source = Judge(FLAGGED, modes=modes, fails=fails), FakeSource()
    async with FakeUpstream(whole(SHORT)) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        status, _, body = await gateway.ask(chat())
        outcome = gateway.last()[1]
        assert (outcome.release, outcome.error) == (action, code)
        assert outcome.release_flags == (f"engine {code if code == 'policy-error' else fails.code}",)
        assert (status == 200) == (body == SHORT) == (code is None)
        judge.fails = None
        assert (await gateway.ask(chat()))[0] == 200, "a failure is not kept"


async def test_a_decision_is_asked_for_again_when_it_is_old(tmp_path: Path) -> None:
    judge, source = Judge(FLAGGED, ttl=0.0), FakeSource()
    async with FakeUpstream(whole(SHORT)) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        for _ in range(2):
            await gateway.ask(chat())
    assert len(judge.questions) == 2


async def test_a_decision_is_asked_for_again_when_the_registry_has_changed(tmp_path: Path) -> None:
    judge, source = Judge(FLAGGED), FakeSource()
    async with FakeUpstream(whole(SHORT)) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        await gateway.ask(chat())
        judge.say = BLOCKED
        assert (await gateway.ask(chat()))[0] == 200
        source.epoch += 1

        async def asked_again() -> bool:
            status, _, _ = await gateway.ask(chat())
            return status == 403

        await until(asked_again)
    assert len(judge.questions) == 2


async def test_clients_that_policy_can_tell_apart_are_decided_about_apart(tmp_path: Path) -> None:
    judge, source = Judge(FLAGGED), FakeSource()
    async with FakeUpstream(whole(SHORT)) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        for tenant in ("acme", "other", "acme"):
            await gateway.ask(chat(), Genealog_Tenant=tenant)
        await gateway.ask(chat(), Genealog_Tenant="acme", Genealog_Purpose="support")
    assert [(each.who.facts["tenant"], each.who.purpose) for each in judge.questions] == [
        ("acme", ""), ("other", ""), ("acme", "support"),
    ]  # fmt: skip


@pytest.mark.parametrize("released", [FLAGGED, BLOCKED], ids=["out", "blocked"])
async def test_nothing_goes_out_while_nobody_has_decided(tmp_path: Path, released: Released) -> None:
    judge, source = Judge(released), FakeSource()
    judge.ready.clear()
    sent, go = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(events()[1])
        sent.set()
        await go.wait()
        for chunk in events()[2:]:
            await wire.chunk(chunk)
        await wire.end()

    async with FakeUpstream(script) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        asking = asyncio.create_task(gateway.ask(chat(stream=True)))
        await sent.wait()
        await asyncio.sleep(0.1)
        assert not asking.done()
        assert len(judge.questions) == 1
        judge.ready.set()
        go.set()
        status, _, body = await asking
        outcome = gateway.last()[1]
    assert outcome.response == b"".join(events()[1:])
    assert (status, body == outcome.response) == ((200, True) if released is FLAGGED else (403, False))


async def test_the_first_event_of_a_stream_does_not_wait_for_the_next(tmp_path: Path) -> None:
    source, go = FakeSource(), asyncio.Event()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(events()[1])
        await go.wait()
        for chunk in events()[2:]:
            await wire.chunk(chunk)
        await wire.end()

    async with FakeUpstream(script) as upstream, running(tmp_path, source, releasing=Judge(FLAGGED)) as gateway:
        source.deploy(NAME, spec(upstream.url))
        async with gateway.client.post(gateway.url + "/v1/chat/completions", data=chat(stream=True)) as response:
            assert response.headers["Genealog-Flags"] == FLAG
            assert await response.content.readany() == events()[1]
            go.set()
            assert await response.content.read() == b"".join(events()[2:])


@pytest.mark.parametrize("on_hangup", ["abort", "drain"])
@pytest.mark.parametrize("decided", [True, False])
async def test_a_client_that_hangs_up_while_its_answer_is_held(tmp_path: Path, on_hangup: str, decided: bool) -> None:
    judge, source = Judge(HELD), FakeSource()
    sent, go = asyncio.Event(), asyncio.Event()
    if not decided:
        judge.ready.clear()

    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        await wire.chunk(events()[1])
        sent.set()
        await go.wait()
        for chunk in events()[2:]:
            await wire.chunk(chunk)
        await wire.end()

    drains = on_hangup == "drain"
    async with FakeUpstream(script) as upstream, running(tmp_path, source, releasing=judge, drains=drains) as gateway:
        source.deploy(NAME, spec(upstream.url))
        asking = asyncio.create_task(gateway.ask(chat(stream=True)))
        await sent.wait()
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.sleep(0.05)
        go.set()

        async def ended() -> bool:
            return bool(gateway.calls()) and gateway.calls()[-1][1] is not None

        await until(ended)
        outcome = gateway.last()[1]
        judge.ready.set()
    assert (outcome.finish, outcome.error, outcome.delivered) == ("client_abandoned", "client-gone", 0)
    assert outcome.release == ("held" if decided else None)
    assert outcome.response == b"".join(events()[1:] if drains else events()[1:2])


@pytest.mark.parametrize("released", [FLAGGED, BLOCKED, HELD], ids=["out", "blocked", "held"])
async def test_an_upstream_that_dies_in_the_middle(tmp_path: Path, released: Released) -> None:
    async def script(wire: Wire, _: Asked) -> None:
        await wire.head(Content_Type="application/json", Content_Length="100")
        await wire.raw(b'{"half":')
        wire.die()

    source = FakeSource()
    async with FakeUpstream(script) as upstream, running(tmp_path, source, releasing=Judge(released)) as gateway:
        source.deploy(NAME, spec(upstream.url))
        for _ in range(2):
            try:
                _, _, body = await gateway.ask(chat())
            except aiohttp.ClientPayloadError:
                body = b""
        outcome = gateway.last()[1]
    assert (outcome.finish, outcome.response, outcome.release) == ("upstream_error", b'{"half":', released.action)
    assert (outcome.delivered > 0) == (body == b"") == released.out
    assert released.out or json.loads(body)["code"] == outcome.error


async def test_an_answer_that_is_kept_back_is_not_held_in_memory(tmp_path: Path) -> None:
    answer = b"x" * 300_000
    source = FakeSource()
    judge = Judge(BLOCKED)
    async with (
        FakeUpstream(whole(answer)) as upstream,
        running(tmp_path, source, releasing=judge, hold=1_000) as gateway,
    ):
        source.deploy(NAME, spec(upstream.url))
        for _ in range(2):
            assert (await gateway.ask(chat()))[0] == 403
        outcome = gateway.last()[1]
    assert outcome.whole is not None
    assert (outcome.whole.size, outcome.whole.sha256, outcome.whole.kept) == (len(answer), sha256_hex(answer), True)
    assert outcome.delivered == 0


@pytest.mark.parametrize("released", [LABELLED, BLOCKED], ids=["out", "blocked"])
async def test_an_answer_that_detectors_look_at_waits_until_it_is_whole(tmp_path: Path, released: Released) -> None:
    judge, source = Judge(released, detectors=("personal-data",)), FakeSource()
    async with FakeUpstream(stream(events())) as upstream, running(tmp_path, source, releasing=judge) as gateway:
        source.deploy(NAME, spec(upstream.url))
        for _ in range(2):
            status, _, body = await gateway.ask(chat(stream=True))
        outcome = gateway.last()[1]
    looked_at = [each.answer.body for each in judge.questions if each.answer is not None]
    assert looked_at == [SSE, SSE], "what one answer says decides about no other"
    assert (status, body == SSE) == ((200, True) if released is LABELLED else (403, False))
    assert outcome.release == released.action


@pytest.mark.parametrize("released", [LABELLED, HELD], ids=["out", "held"])
async def test_the_engine_vouches_for_an_answer_whether_it_goes_out_or_not(tmp_path: Path, released: Released) -> None:
    source = FakeSource()
    signer = KeySigner(ec.generate_private_key(ec.SECP256R1()))
    engine = Engine(signer, source.load(signer))
    judge = Judge(released)
    async with (
        FakeUpstream(whole(SHORT), engine) as upstream, running(tmp_path, source, releasing=judge) as gateway,
    ):  # fmt: skip
        source.deploy(NAME, spec(upstream.url, minimum_assurance="A3"))
        assert (await gateway.ask(chat()))[0] == (200 if released.out else 403)
        outcome = gateway.last()[1]
    assert (outcome.assurance, outcome.release) == ("A3", released.action)
    assert outcome.engine is not None
    assert judge.questions[0].bound == "A3"

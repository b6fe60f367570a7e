"""What policy says of calls: on record, in the answer, known again, and forgotten at once when the registry changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.fake_upstream import FakeUpstream, completion, whole
from gateway.kit import NAME, FakeSource, chat, running, spec, until
from gateway.processes import Process, make_store, on_record
from genealog.core.policy import Reason, Verdict
from genealog.errors import GenealogError, PolicyDenied
from genealog.gateway.checking import check
from genealog.gateway.policing import Court, Policing
from genealog.policy.assessing import assess
from genealog.policy.break_glass import Glass
from genealog.policy.decide import Judged
from genealog.registry import Registry
from genealog.store.home import Home

SET = "glf1:" + "5" * 64
CALL = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "x"}]}).encode()
GLASS = Glass(
    name="case-17", deployment="*", policies=("evaluated",), until="2026-01-01T00:00:00.000Z", reason="outage",
    at="2026-01-01T00:00:00.000Z", asked_by="Ada", index=1, leaf="0" * 64, agreed_by="Bob", state="open",
)  # fmt: skip
LATE = Reason("evaluated", "evaluation-missing", "tiny was never evaluated")
YES = Verdict(True, {"registered": "passed"})
NO = Verdict(False, {"evaluated": "denied"}, (LATE, Reason("licence_allowed", "licence-unknown", "nobody knows")))
FLAGGED = Verdict(True, {"evaluated": "denied"}, (), (("flag", LATE),))
BROKEN = Verdict(True, {"evaluated": "waived"})


class Bench:
    """A court that says what a test wants, and remembers who asked."""

    def __init__(self, verdict: Verdict, *, good: float = 60.0, glasses: tuple[Glass, ...] = ()) -> None:
        self.verdict = verdict
        self.seconds = good
        self.glasses = glasses
        self.asked: list[tuple[str, str, str]] = []
        self.error: GenealogError | None = None
        self.cuts = True
        self.closed = False

    def rule(self, live: Any, _aim: Any, bound: str, who: Any, _age: float) -> tuple[Judged, float]:
        self.asked.append((live.name, bound, who.purpose))
        if self.error is not None:
            raise self.error
        document: Any = None
        return Judged(document, self.verdict, SET, "fake", self.glasses), self.seconds

    def close(self) -> None:
        self.closed = True


async def policing(bench: Any) -> Policing:
    made = Policing(lambda: bench)
    await made.start()
    return made


async def asked(tmp_path: Path, bench: Bench) -> tuple[int, Mapping[str, str], dict[str, Any], Any, Any]:
    """Ask once; return what the client got, and what is on record."""
    source = FakeSource()
    made = await policing(bench)
    async with FakeUpstream(whole(completion())) as upstream:
        source.deploy(NAME, spec(upstream.url))
        async with running(tmp_path, source, policing=made) as gateway:
            status, headers, body = await gateway.ask(chat())
            intent, outcome = gateway.last()
            assert len(upstream.asked) == (status == 200)
    await made.stop()
    assert bench.closed
    return status, headers, json.loads(body), intent, outcome


async def test_a_no_is_a_refusal_with_every_reason_on_record(tmp_path: Path) -> None:
    status, headers, body, intent, outcome = await asked(tmp_path, Bench(NO))
    assert status == 403
    assert body["code"] == body["error"]["code"] == "evaluation-missing"
    assert body["policy"] == SET
    assert [(reason["policy"], reason["code"]) for reason in body["reasons"]] == [
        ("evaluated", "evaluation-missing"), ("licence_allowed", "licence-unknown"),
    ]  # fmt: skip
    assert headers["content-type"] == "application/problem+json"
    assert (outcome.finish, outcome.error) == ("refused", "evaluation-missing")
    assert intent.policy == SET
    assert headers["Genealog-Call"] == intent.call


async def test_a_yes_is_on_record_too(tmp_path: Path) -> None:
    status, headers, _, intent, _ = await asked(tmp_path, Bench(YES))
    assert status == 200
    assert (intent.policy, intent.flags, intent.waived) == (SET, (), ())
    assert "Genealog-Policy-Flags" not in headers


async def test_what_is_only_noted_stands_in_answer_and_record(tmp_path: Path) -> None:
    status, headers, _, intent, _ = await asked(tmp_path, Bench(FLAGGED))
    assert status == 200
    assert headers["Genealog-Policy-Flags"] == "evaluated evaluation-missing"
    assert intent.flags == ("evaluated evaluation-missing",)


async def test_a_break_glass_is_loud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    status, headers, _, intent, _ = await asked(tmp_path, Bench(BROKEN, glasses=(GLASS,)))
    assert status == 200
    assert headers["Genealog-Break-Glass"] == "case-17"
    assert intent.waived == ("evaluated",)
    assert "BREAK-GLASS" in caplog.text
    assert "Ada and Bob" in caplog.text


@pytest.mark.parametrize("error", [PolicyDenied("policy-timeout", "late"), RuntimeError("broken")], ids=["no", "own"])
async def test_what_cannot_be_decided_is_denied(tmp_path: Path, error: Any) -> None:
    bench = Bench(YES)
    bench.error = error
    status, _, body, _, outcome = await asked(tmp_path, bench)
    assert status == 403
    assert body["code"] == outcome.error == ("policy-timeout" if isinstance(error, PolicyDenied) else "policy-error")


async def test_calls_that_are_alike_are_asked_for_once_and_anew_with_each_epoch(tmp_path: Path) -> None:
    bench, source = Bench(YES), FakeSource()
    made = await policing(bench)
    async with FakeUpstream(whole(completion())) as upstream:
        source.deploy(NAME, spec(upstream.url))
        async with running(tmp_path, source, policing=made) as gateway:
            await asyncio.gather(*(gateway.ask(chat()) for _ in range(5)))
            assert len(bench.asked) == 1
            for _ in range(2):
                await gateway.ask(chat(), Genealog_Purpose="Support", Genealog_Data_Class="public")
            assert [purpose for _, _, purpose in bench.asked] == ["", "support"]
            assert gateway.last()[0].headers["genealog-purpose"] == "Support"
            bench.verdict = NO
            assert (await gateway.ask(chat()))[0] == 200
            source.deploy("other", spec(upstream.url))
            await gateway.directory.renew()
            assert (await gateway.ask(chat()))[0] == 403
            other = Bench(YES)
            await made.replace(lambda: other)  # type: ignore[arg-type, return-value]
            assert bench.closed
            assert (await gateway.ask(chat()))[0] == 200
    await made.stop()


async def test_a_ruling_is_over_in_time(tmp_path: Path) -> None:
    bench, source = Bench(YES, good=0.05), FakeSource()
    made = await policing(bench)
    async with FakeUpstream(whole(completion())) as upstream:
        source.deploy(NAME, spec(upstream.url))
        async with running(tmp_path, source, policing=made) as gateway:
            await gateway.ask(chat())
            await asyncio.sleep(0.1)
            await gateway.ask(chat())
    assert len(bench.asked) == 2
    await made.stop()


async def test_policies_that_cannot_be_loaded_leave_those_before(tmp_path: Path) -> None:
    bench = Bench(YES)
    made = await policing(bench)

    def broken() -> Court:
        raise PolicyDenied("policy-malformed", "no policy")

    with pytest.raises(PolicyDenied):
        await made.replace(broken)
    assert not bench.closed
    await made.stop()


async def ask(gateway: Process, **headers: str) -> tuple[int, str]:
    url = gateway.url + "/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, data=CALL, headers=headers) as response:
        return response.status, (await response.json(content_type=None)).get("code", "")


def settings(store: Path, text: str) -> None:
    file = store / "genealog.toml"
    file.write_text(file.read_text() + text)


async def test_a_real_store_decides_by_purpose_and_follows_an_assessment(tmp_path: Path) -> None:
    async with FakeUpstream(whole(completion())) as upstream:
        store = make_store(tmp_path, upstream.url)
        settings(store, '\n[policy.environments.prod]\ndeny = ["purpose_allowed"]\n')
        async with Process(store) as gateway:
            said = {"Genealog-Purpose": "support", "Genealog-Data-Class": "public"}
            assert (await ask(gateway))[0] == 403
            assert (await ask(gateway, **said))[0] == 403
            registry = Registry(Home.open(store))
            assess(registry, "tiny", purposes=("support",), data_classes=("public",))
            registry.home.close()

            async def followed() -> bool:
                return (await ask(gateway, **said))[0] == 200

            await until(followed, 20)
            assert await ask(gateway, **{**said, "Genealog-Purpose": "hiring"}) == (403, "purpose-not-allowed")
            settings(store, "\n[policy]\nfolder = 'nowhere'\n")  # cannot be used: what was read before holds
            await asyncio.sleep(1.5)
            assert await ask(gateway, **said) == (200, "")
            assert (await ask(gateway))[0] == 403
            assert "cannot be used" in gateway.output.read_text()
            assert await gateway.stop() == 0
        leaves = [each.leaf for calls in on_record(store).values() for each in calls]
    assert {leaf.finish for leaf in leaves} == {"refused", "complete"}


async def test_a_gateway_without_its_policies_does_not_start(tmp_path: Path) -> None:
    store = make_store(tmp_path, "http://127.0.0.1:1")
    (store / "policies").mkdir()
    (store / "policies" / "broken.rego").write_text("package genealog.policies.broken\n")
    settings(store, '\n[policy]\nfolder = "policies"\n')
    gateway = Process(store)
    with pytest.raises(AssertionError, match="policy-malformed"):
        await gateway.start()
    home = Home.open(store)
    (look,) = [look for look in await check(home) if look.what == "[policy]"]
    assert look.grade == "error"
    assert "policy-malformed" in look.found
    home.close()

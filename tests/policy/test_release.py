"""What becomes of an answer: by what policies say of it, and for applications that ask no gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import genealog
from gateway.fake_upstream import FakeUpstream, completion, whole
from gateway.kit import chat
from gateway.processes import NAME, Process, make_store
from gateway.tap import Tap
from genealog.core.policy import Mode, Reason, Verdict, no
from genealog.errors import UsageError
from genealog.policy.release import ALLOWED, Released, output_of, released
from genealog.store.home import Home
from policy.inputs import model

REASON = Reason("traceable", "output-without-lineage", "nobody knows where it comes from")
FLAG = "traceable output-without-lineage"


@pytest.mark.parametrize(
    ("modes", "action"),
    [
        ((), "allowed"), (("flag",), "allowed"), (("label",), "labelled"), (("flag", "label"), "labelled"),
        (("review",), "held"), (("label", "review", "flag"), "held"),
    ],
    ids=["none", "flag", "label", "flag-label", "review", "all"],
)  # fmt: skip
def test_the_strictest_counts(modes: tuple[Mode, ...], action: str) -> None:
    noted = tuple((mode, Reason(mode, "no-good", "no")) for mode in modes)
    found = released(Verdict(True, {}, (), noted), dict.fromkeys(("a", "b"), "deny"))
    assert found.action == action
    assert found.flags == tuple(f"{mode} no-good" for mode in modes)
    assert found.out == (action != "held")


def test_a_denial_outdoes_all_and_says_why() -> None:
    verdict = Verdict(False, {}, (REASON,), (("review", Reason("b", "no-good", "no")),))
    found = released(verdict, {"traceable": "deny", "b": "review"}, label=True)
    assert (found.action, found.code, found.flags) == ("blocked", REASON.code, (FLAG, "b no-good"))
    assert REASON.message in found.error().message
    assert found.headers == {"Genealog-Flags": f"{FLAG}, b no-good"}


def test_what_cannot_be_kept_for_review_is_blocked() -> None:
    verdict = Verdict(True, {}, (), (("review", REASON),))
    assert released(verdict, {"traceable": "review"}, keeps=False).code == "review-needs-bodies"


@pytest.mark.parametrize(
    ("modes", "action"), [(("deny", "flag"), "blocked"), (("review",), "held"), (("flag",), "allowed")],
    ids=["deny", "review", "flag"],
)  # fmt: skip
def test_an_engine_without_an_answer_has_said_no_for_every_policy(modes: tuple[Mode, ...], action: str) -> None:
    found = released(no("policy-timeout", "late"), {mode: mode for mode in modes})
    assert (found.action, found.flags) == (action, ("engine policy-timeout",))


def test_an_environment_that_marks_all_answers_marks_this_one() -> None:
    assert released(Verdict(True, {}), {"marked": "deny"}, label=True) == Released("labelled", label="ai-generated")
    assert released(Verdict(True, {}), {"marked": "deny"}) is ALLOWED


@pytest.mark.parametrize(
    ("models", "count", "complete"),
    [
        ((), 0, False), ((model("a"),), 1, True), ((model("a"),), 2, False), ((model("a"), model("b")), 1, False),
        ((model("a", lineage=model("a").lineage.__class__(complete=True, to_data=True, contradicted=1)),), 1, False),
    ],
    ids=["none", "one", "one-is-missing", "one-too-many", "refuted"],
)  # fmt: skip
def test_lineage_is_complete_where_it_is_for_every_model(
    models: tuple[object, ...], count: int, *, complete: bool
) -> None:
    found = output_of(models, count, recorded=True, assurance="A2", marked=False, detectors={"a": False, "b": True})  # type: ignore[arg-type]
    assert (found.lineage_complete, found.assurance) == (complete, 2)
    assert (found.detectors, found.alarms) == (("b",), 1)


async def test_an_application_gets_the_same_decision(tmp_path: Path) -> None:
    answer = completion("Jane")
    async with FakeUpstream(whole(answer)) as upstream:
        store = make_store(tmp_path, upstream.url)
        settings = '\n[policy.environments.prod]\ndeny = ["marked"]\nsink = "public"\nmarking = ["footer"]\n'
        with (store / "genealog.toml").open("a") as file:
            file.write(settings)
        async with Process(store) as gateway, Tap(gateway.port) as tap:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(tap.url.rpartition(":")[2]))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(chat())}\r\n"
            writer.write(head.encode() + b"content-type: application/json\r\nconnection: close\r\n\r\n" + chat())
            await reader.read()
            writer.close()
    call = tap.got[0].call
    assert tap.got[0].status == 403, "the gateway has no footer to put under it"
    home = Home.open(store)
    try:
        found = genealog.release("Jane", call=call, marked=["footer"], home=home)
        assert (found.action, found.flags) == ("allowed", (FLAG,))
        assert genealog.release(answer, call=call, marked=["footer"], home=home) == found
        assert genealog.release("Jane", call=call, home=home).code == "not-marked"
        other = genealog.release("Bob", call=call, marked=["footer"], home=home)
        assert other.flags == ("traceable output-not-recorded", FLAG), "the call did not say this"
        loose = genealog.release("Jane", deployment=NAME, models=["tiny", "nobody"], marked=["footer"], home=home)
        assert loose.flags == ("traceable output-not-recorded", FLAG)
        with pytest.raises(UsageError, match="made this"):
            genealog.release("Jane", home=home)
    finally:
        home.close()

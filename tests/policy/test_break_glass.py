"""Break-glass: two people, an end, in the log; and every way to have one alone, or longer, that we could think of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploying_store import START, Store, opened
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.errors import GenealogError, MissingError, PolicyDenied, UsageError, VerificationError
from genealog.policy.break_glass import BreakGlasses, Glass
from genealog.policy.sets import default_policies

BREAKABLE = tuple(name for name, policy in default_policies().items() if policy.breakable)
STRICT = '\n[policy.environments.prod]\ndeny = ["evaluated"]\n\n[policy.evaluations.safety]\nnewest = "30d"\n'
PROD = "prod/bot"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    for store in opened(tmp_path):
        for label, name in (("security", "Security"), ("ml-lead", "ML lead"), ("security-2", "Security")):
            store.registry.add_signer(label, name)
        store.configure(STRICT)
        yield store


def glasses(store: Store) -> BreakGlasses:
    return BreakGlasses(store.home, clock=store.time)


def ask(store: Store, name: str = "case", who: str = "security", **options: Any) -> Glass:
    options = {"deployment": "prod/*", "policies": ["evaluated"], "until": store.now + timedelta(hours=1)} | options
    glasses(store).ask(name, breakable=BREAKABLE, reason="outage", signer=store.signer(who), **options)
    return glasses(store).find(name)


def agree(store: Store, name: str = "case", who: str = "ml-lead") -> Glass:
    return glasses(store).agree(name, reason="seen", signer=store.signer(who))


def deploy(store: Store) -> str:
    return store.deploy(PROD, "one")


def refused(act: Callable[[], object], code: str, kind: type[GenealogError] = PolicyDenied) -> None:
    with pytest.raises(kind) as caught:
        act()
    assert caught.value.code == code


def denied(store: Store) -> None:
    with pytest.raises(PolicyDenied) as caught:
        deploy(store)
    assert caught.value.code == "evaluation-missing"


def decisions(store: Store) -> list[records.Decision]:
    found = []
    for position in range(store.home.registry_log().size):
        read = store.registry.statement(store.registry.leaf(position)).body
        found += [read] if isinstance(read, records.Decision) else []
    return found


def test_it_is_open_once_somebody_else_agreed(store: Store) -> None:
    denied(store)
    assert ask(store).state == "asked"
    denied(store)
    opened_ = agree(store)
    assert (opened_.state, opened_.asked_by, opened_.agreed_by) == ("open", "Security", "ML lead")
    assert glasses(store).open_now(PROD) == (opened_,)
    assert glasses(store).open_now("staging/bot") == ()
    deploy(store)
    last = decisions(store)[-1]
    assert (last.outcome, last.waived, last.break_glass) == ("allow", ("evaluated",), ("case",))
    assert "put aside" in last.message


def test_it_is_loud(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ask(store)
    agree(store)
    deploy(store)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "case: evaluated on prod/* until 2026-03-01T01:00:00.000Z, by Security and ML lead" in line


def test_a_move_that_does_not_need_it_does_not_name_it(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ask(store, deployment="*")
    agree(store)
    store.deploy("staging/bot", "one")
    assert decisions(store)[-1].break_glass == ()
    assert not caplog.records


def test_one_person_with_two_keys_is_one_person(store: Store) -> None:
    glass = ask(store)
    refused(lambda: agree(store, who="security-2"), "same-identity")
    refused(lambda: agree(store, who="security"), "same-identity")
    append(store, "security-2", action="agree", request=glass.leaf)  # round the command
    assert glasses(store).find("case").state == "asked"
    denied(store)


def append(store: Store, who: str, **fields: Any) -> None:
    body = records.BreakGlass(name="case", at=timestamp(store.now), reason="mine", **fields)
    store.registry.append(body, signer=store.signer(who), name="case")


@pytest.mark.parametrize("policy", ["registered", "not_revoked", "base_matches", "registry_fresh"])
def test_who_a_model_is_is_never_put_aside(store: Store, policy: str) -> None:
    refused(lambda: ask(store, policies=[policy]), "not-breakable")
    append(
        store, "security", action="request", deployment="prod/*", policies=(policy, "evaluated"),
        until=timestamp(store.now + timedelta(hours=1)),
    )  # fmt: skip
    agree(store)
    store.deploy(PROD, "one")
    assert decisions(store)[-1].waived == ("evaluated",)  # and nothing else was, though it was asked for


def test_what_is_revoked_is_not_deployed_with_it(store: Store) -> None:
    ask(store)
    agree(store)
    spec = store.deploy(PROD, "one")
    store.registry.revoke("one", reason="poisoned")
    refused(lambda: store.deployments.promote(PROD, "prod/other"), "model-revoked")
    assert store.deployments.history(PROD)[-1].spec == spec


@pytest.mark.parametrize("policies", [[], ["no_such"]])
def test_a_policy_that_is_not_there_is_not_put_aside(store: Store, policies: list[str]) -> None:
    refused(lambda: ask(store, policies=policies), "not-breakable")


@pytest.mark.parametrize("seconds", [0, -1, 4 * 3_600 + 1])
def test_it_has_an_end_soon(store: Store, seconds: int) -> None:
    refused(lambda: ask(store, until=store.now + timedelta(seconds=seconds)), "break-glass-too-long")


@pytest.mark.parametrize(("at", "hours"), [(0, 5), (100, 101), (-10, 1)])
def test_times_that_a_request_makes_up_are_not_believed(store: Store, at: int, hours: int) -> None:
    body = records.BreakGlass(
        name="case", action="request", at=timestamp(START + timedelta(hours=at)), reason="mine", deployment="prod/*",
        policies=("evaluated",), until=timestamp(START + timedelta(hours=hours)),
    )  # fmt: skip
    store.registry.append(body, signer=store.signer("security"), name="case")
    append(store, "ml-lead", action="agree", request=glasses(store).find("case").leaf)
    assert glasses(store).find("case").state == "refused"
    denied(store)


def test_it_ends_at_its_time(store: Store) -> None:
    ask(store)
    agree(store)
    store.tick(3_599)
    assert glasses(store).find("case").state == "open"
    store.tick(1)
    assert glasses(store).find("case").state == "over"
    denied(store)
    refused(lambda: agree(store), "break-glass-over")


def test_a_clock_that_goes_back_does_not_open_it_again(store: Store) -> None:
    ask(store)
    agree(store)
    store.tick(3_600)
    denied(store)  # this is in the log, with its time
    store.now = START + timedelta(minutes=5)
    assert glasses(store).find("case").state == "over"
    denied(store)


def test_a_clock_before_the_request_finds_it_shut(store: Store) -> None:
    ask(store)
    agree(store)
    store.now = START - timedelta(hours=1)
    assert glasses(store).find("case").state == "refused"


def test_it_is_ended_by_hand_and_an_agreement_sent_again_does_not_help(store: Store) -> None:
    ask(store)
    agree(store)
    entries = list(store.home.registry_log().entries())
    glasses(store).end("case", reason="mended", signer=store.signer("ml-lead"))
    store.registry.ledger.append(entries[-2:])  # the request and the agreement, word for word
    append(store, "ml-lead", action="agree", request=glasses(store).find("case").leaf)
    assert glasses(store).find("case").state == "ended"
    denied(store)
    refused(lambda: glasses(store).end("case", reason="x", signer=store.signer()), "break-glass-over")


def test_an_agreement_is_for_that_request_alone(store: Store) -> None:
    first = ask(store, policies=["no_incident"])
    glasses(store).end("case", reason="wrong policy", signer=store.signer("security"))
    ask(store)
    append(store, "ml-lead", action="agree", request=first.leaf)
    assert glasses(store).find("case").state == "asked"
    denied(store)


@pytest.mark.parametrize("who", ["security", "ml-lead"])
def test_a_revoked_key_shuts_it(store: Store, who: str) -> None:
    ask(store)
    agree(store)
    store.registry.revoke_key(store.signer(who).keyid, reason="lost")
    glass = glasses(store).find("case")
    assert (glass.state, "was revoked" in str(glass.why)) == ("revoked", True)
    denied(store)


def test_names_and_errors(store: Store) -> None:
    ask(store)
    refused(lambda: ask(store), "break-glass-exists", UsageError)
    refused(lambda: ask(store, "\n"), "bad-option", UsageError)
    refused(lambda: agree(store, "nobody"), "unknown-break-glass", MissingError)


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: b", "", "x" * 129, "a\x1b[2J"], ids=ascii)
def test_a_name_that_nobody_can_ask_for_opens_nothing(store: Store, name: str) -> None:
    until = timestamp(store.now + timedelta(hours=1))
    body = records.BreakGlass(
        name=name, action="request", at=timestamp(store.now), reason="r", deployment="*", policies=("evaluated",),
        until=until,
    )  # fmt: skip
    leaf = store.registry.append(body, signer=store.signer("security"), name="case").leaf  # round the command
    append(store, "ml-lead", action="agree", request=leaf)
    (glass,) = glasses(store).all()
    assert (glass.state, glass.why) == ("refused", "its name is none")
    denied(store)


def test_an_engine_breaks_no_glass(store: Store) -> None:
    body = records.BreakGlass(name="case", action="end", at=timestamp(store.now), reason="x")
    with pytest.raises(VerificationError, match="role-not-allowed"):
        store.registry.append(body, signer=store.home.keys.signer("engine"), name="case")


def test_past_ones_are_kept(store: Store) -> None:
    ask(store)
    agree(store)
    store.tick(3_600)
    ask(store, "again")
    assert [(glass.name, glass.state) for glass in glasses(store).all()] == [("case", "over"), ("again", "asked")]

"""Exhibits: whose word an entry is, at its place in the log; nothing raises, and order and copies change nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from golden_story import CHAIN, Story, Twist, at, key_body
from golden_world import QUORUM, Key, Log, seed, trust_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from genealog.core import records
from genealog.core.canonical import Record
from genealog.core.exhibits import Exhibit, Exhibits, examine_receipts, place
from genealog.core.note import NoteSigner
from genealog.core.receipt import Receipt
from genealog.core.statement import make_statement
from genealog.core.states import State
from genealog.core.trust import parse_trust
from genealog.errors import MalformedError

TRUST = parse_trust(trust_policy().encode())
STORY = Story()
RECEIPTS = tuple(STORY.receipt(label) for label in ("call", *CHAIN))
NOTE = records.Context(kind="project", name="atlas")

Told = Sequence[tuple[Record, str]]  # (body, who signs it)


def told(*entries: tuple[Record, str], witnesses: int = 3) -> tuple[Receipt, ...]:
    """Return the receipts of a registry that says this, each statement signed by the key of that label."""
    log = Log("golden.example/registry", QUORUM[:witnesses])
    for body, signer in entries:
        log.append(make_statement(body, Key(signer), name="x"))
    return tuple(log.receipt(index) for index in range(len(log.entries)))


def judged(*entries: tuple[Record, str]) -> list[tuple[State, str | None]]:
    return [(item.state, item.code) for item in examine_receipts(told(*entries), TRUST).all]


def summary(exhibits: Exhibits) -> dict[tuple[str, int], tuple[Any, ...]]:
    return {(i.origin, i.index): (i.state, i.code, i.signer, i.leaf) for i in exhibits.all}


FINE = (State.PROVEN, None)
OWNER = (key_body("owner"), "owner")
TRAINER = (key_body("trainer"), "owner")
ENGINE = (key_body("engine"), "owner")


def wrong(code: str) -> tuple[State, str]:
    return State.CONTRADICTED, code


def test_every_entry_of_a_sound_story_is_proven_and_has_a_signer() -> None:
    exhibits = examine_receipts(RECEIPTS, TRUST)
    assert {item.state for item in exhibits.all} == {State.PROVEN}
    signers = {item.position: item.signer for item in exhibits.all}
    assert signers["calls:0"] is None
    assert signers["registry:0"] == "owner@golden.example"
    assert signers["registry:4"] == "former@golden.example"  # before it was revoked
    assert signers["registry:17"] == "engine@golden.example"
    assert set(exhibits.revocations) == {("golden.example/registry", Key("former").keyid)}


def test_the_first_entry_vouches_for_itself_and_no_other_does() -> None:
    assert judged(OWNER) == [FINE]
    assert judged(OWNER, (key_body("usurper"), "usurper")) == [FINE, wrong("key-not-vouched-for")]
    assert judged((key_body("trainer"), "trainer")) == [wrong("key-not-vouched-for")]
    assert judged((NOTE, "owner"), OWNER)[1] == wrong("key-not-vouched-for")


def test_what_a_false_owner_vouches_for_is_false() -> None:
    usurped = judged(OWNER, (key_body("usurper"), "usurper"), (key_body("late"), "usurper"), (NOTE, "late"))
    assert usurped[2:] == [wrong("key-unsound"), wrong("key-unsound")]


def test_owners_vouch_for_owners_as_often_as_they_like() -> None:
    assert judged(OWNER, (key_body("usurper"), "owner"), (key_body("late"), "usurper"), (NOTE, "late")) == [FINE] * 4


MAY = {
    "owner": {"key", "note", "decision"}, "trainer": {"note", "decision"}, "engine": {"load", "decision"},
}  # fmt: skip
SAID: dict[str, Record] = {
    "key": key_body("late"), "note": NOTE, "load": STORY.bodies["load"],
    "decision": records.Decision(point="load", outcome="deny", code="x", subject="x", message="x", at="x"),
}  # fmt: skip


@pytest.mark.parametrize("signer", sorted(MAY))
@pytest.mark.parametrize("kind", sorted(SAID))
def test_each_role_may_say_its_own(signer: str, kind: str) -> None:
    *_, last = judged(OWNER, TRAINER, ENGINE, (SAID[kind], signer))
    assert last == (FINE if kind in MAY[signer] else wrong("role-not-allowed"))


def test_an_engine_signs_its_own_loads_only() -> None:
    second = replace(key_body("late"), role="engine")
    *_, last = judged(OWNER, ENGINE, (second, "owner"), (SAID["load"], "late"))
    assert last == wrong("role-not-allowed")


def test_a_key_counts_from_its_registration_to_its_revocation() -> None:
    revoke = (key_body("trainer", "revoke"), "owner")
    assert judged(OWNER, (NOTE, "trainer"), TRAINER, (NOTE, "trainer"), revoke, (NOTE, "trainer")) == [
        FINE, wrong("key-registered-later"), FINE, FINE, FINE, wrong("key-revoked"),
    ]  # fmt: skip
    assert judged(OWNER, TRAINER, revoke, TRAINER, (NOTE, "trainer"))[-1] == wrong("key-revoked")


def test_an_owner_can_revoke_itself_once() -> None:
    revoke = (key_body("owner", "revoke"), "owner")
    assert judged(OWNER, TRAINER, revoke, (NOTE, "trainer"), ENGINE) == [FINE] * 4 + [wrong("key-revoked")]


def test_who_may_not_revoke_revokes_nothing() -> None:
    revoke = (key_body("trainer", "revoke"), "engine")
    assert judged(OWNER, TRAINER, ENGINE, revoke, (NOTE, "trainer"))[3:] == [wrong("role-not-allowed"), FINE]
    unknown = (key_body("trainer", "revoke"), "stranger")
    missing, note = judged(OWNER, TRAINER, unknown, (NOTE, "trainer"))[2:]
    assert (missing, note) == ((State.MISSING, "signer-key-missing"), wrong("key-revoked"))  # to be safe


def test_a_second_registration_gives_a_key_no_other_role() -> None:
    promoted = (replace(key_body("engine"), role="signer"), "owner")
    assert judged(OWNER, ENGINE, promoted, (NOTE, "engine"))[-1] == wrong("role-not-allowed")


def test_a_statement_is_no_stronger_than_the_statement_of_its_key() -> None:
    entries = (OWNER, TRAINER, (NOTE, "trainer"))
    seen, unseen = told(*entries), told(*entries, witnesses=2)
    mixed = examine_receipts((unseen[0], seen[1], seen[2]), TRUST).all
    assert [(item.state, item.code) for item in mixed] == [(State.MISSING, "quorum-not-met")] * 3
    gone = examine_receipts(seen[1:], TRUST).all
    assert [(item.state, item.code) for item in gone] == [(State.MISSING, "signer-key-missing")] * 2
    assert gone[1].signer == "trainer@golden.example"


def test_a_key_of_another_registry_is_no_key_here() -> None:
    partner = Story(store="partner.example")
    ours = [STORY.receipt(label) for label in ("key owner", "code")]
    receipts = (*ours, partner.receipt("key owner"), partner.receipt("key trainer"))
    code = examine_receipts(receipts, TRUST).all[1]
    assert (code.state, code.code) == (State.MISSING, "signer-key-missing")


def test_the_key_of_a_key_statement_in_a_log_that_nobody_knows_vouches_for_nothing() -> None:
    forged = Log("golden.example/registry", QUORUM)
    forged.signer = NoteSigner(forged.origin, Ed25519PrivateKey.from_private_bytes(seed("another log key")))
    for label in ("owner", "stranger"):
        forged.append(make_statement(key_body(label), Key("owner"), name="x"))
    twisted = Story(Twist(signers={"adapter": "stranger"}))
    receipts = (twisted.receipt("key owner"), twisted.receipt("adapter"), forged.receipt(1))
    _, adapter, key = examine_receipts(receipts, TRUST).all
    assert (key.state, key.code) == wrong("checkpoint-signature-invalid")
    assert (adapter.state, adapter.code) == wrong("key-unsound")


def test_an_unknown_log_is_unchecked_and_stays_so() -> None:
    elsewhere = Story(store="elsewhere.example")
    item = place(elsewhere.receipt("code"), TRUST)
    assert (item.state, item.code) == (State.UNCHECKED, "unknown-log")
    assert place(elsewhere.receipt("code"), None).state is State.UNCHECKED
    assert place(STORY.receipt("code"), None).code is None
    false = place(replace(elsewhere.receipt("code"), entry=elsewhere.receipt("base").entry), TRUST)
    assert (false.state, false.code) == (State.CONTRADICTED, "inclusion-proof-mismatch")


def test_a_log_of_another_kind_is_not_understood() -> None:
    log = Log("golden.example/notes", QUORUM)
    log.append(b"entry")
    item = place(log.receipt(0), None)
    assert (item.state, item.code) == (State.UNCHECKED, "unknown-log-kind")


@pytest.mark.parametrize("trust", [TRUST, None])
def test_a_log_with_two_histories_is_caught(trust: Any) -> None:
    fork = Story(Twist(bodies={"key late": lambda key: replace(key, identity="somebody@else")}))
    same_size = examine_receipts((STORY.receipt("code"), fork.receipt("gguf")), trust)
    assert {item.code for item in same_size.all} == {"log-forked"}
    last = STORY.index["key late"]
    same_index = examine_receipts((STORY.receipt("key late", last + 1), fork.receipt("key late", last + 1)), trust)
    assert {item.state for item in same_index.all} == {State.CONTRADICTED}
    sizes = examine_receipts((STORY.receipt("code"), STORY.receipt("gguf", 10)), trust)
    assert State.CONTRADICTED not in {item.state for item in sizes.all if item.code != "signer-key-missing"}


@given(st.randoms(use_true_random=False), st.lists(st.sampled_from(RECEIPTS), max_size=3))
@settings(max_examples=10, deadline=None)
def test_order_and_copies_change_nothing(rng: random.Random, copies: list[Receipt]) -> None:
    shuffled = [*RECEIPTS, *copies]
    rng.shuffle(shuffled)
    assert summary(examine_receipts(tuple(shuffled), TRUST)) == summary(examine_receipts(RECEIPTS, TRUST))


def test_the_soundest_exhibit_is_found_first() -> None:
    good = STORY.receipt("code")
    unseen = Log("golden.example/registry", QUORUM[:1])
    unseen.entries = STORY.registry.entries
    keys = STORY.receipt("key owner"), STORY.receipt("key trainer")
    exhibits = examine_receipts((unseen.receipt(STORY.index["code"]), good, *keys), TRUST)
    found = exhibits.by_leaf(STORY.leaf["code"])
    assert found is not None
    assert (found.state, found.code) == (State.PROVEN, None)
    assert exhibits.by_leaf(STORY.leaf["code"], "partner.example/registry") is None
    about = exhibits.about(records.Artifact, STORY.ids["code"], "golden.example/registry")
    assert [item.state.rank for item in about] == sorted(item.state.rank for item in about)
    assert exhibits.about(records.Artifact, STORY.ids["code"], "partner.example/registry") == []


texts = st.text(max_size=8) | st.sampled_from(["golden.example/registry", "golden.example/calls", RECEIPTS[0].proof])


@given(st.lists(st.builds(Receipt, entry=texts | st.just(RECEIPTS[1].entry), origin=texts, proof=texts), max_size=4))
def test_nothing_raises(receipts: list[Receipt]) -> None:
    for trust in (TRUST, None):
        states = {item.state for item in examine_receipts(tuple(receipts), trust).all}
        assert states <= {State.UNCHECKED, State.CONTRADICTED, State.MISSING}


def test_a_worse_problem_is_named_before_an_earlier_one() -> None:
    item = Exhibit("x", 0, "", "", State.PROVEN)
    for state, code in ((State.UNCHECKED, "a"), (State.CONTRADICTED, "b"), (State.MISSING, "c")):
        item.blame(state, MalformedError(code, "x"))
    assert (item.state, item.code) == (State.CONTRADICTED, "b")


def revoked_since(minute: int, *, before: int | None = None) -> tuple[Record, str]:
    body = key_body("trainer", "revoke", 500)
    return replace(body, since=at(minute), before=before), "owner"


def note(minute: int, signer: str) -> tuple[Record, str]:
    body = records.Approval(deployment="d", spec="glr1:" + "0" * 64, at=at(minute))
    return body, signer


UNCLEAR = State.UNCHECKED, "key-compromise-unclear"


def test_a_key_that_leaked_counts_for_what_somebody_else_followed() -> None:
    story = [OWNER, TRAINER, note(5, "trainer"), note(6, "owner"), note(7, "trainer"), note(200, "trainer")]
    none_seen = examine_receipts(told(*story, revoked_since(100), witnesses=3), TRUST)
    states = [(item.state, item.code) for item in none_seen.all]
    assert states == [FINE, FINE, FINE, FINE, UNCLEAR, wrong("key-compromised"), FINE]
    assert none_seen.revocations["golden.example/registry", Key("trainer").keyid].since == at(100)


def test_a_key_that_leaked_counts_for_what_a_witness_saw_before() -> None:
    """The witnesses of these logs cosign at a time of their own: 2026-01-01, some minutes after the story began."""
    story = [OWNER, TRAINER, note(5, "trainer"), note(7, "trainer")]
    assert judged(*story, revoked_since(100))[2:4] == [UNCLEAR, UNCLEAR]
    seen = examine_receipts(told(*story, revoked_since(100)), TRUST).all[2].seen_at
    assert seen is not None
    later = replace(key_body("trainer", "revoke", 500), since="2099-01-01T00:00:00.000Z"), "owner"
    assert judged(*story, later)[2:4] == [FINE, FINE]
    lines = [line for line in trust_policy().splitlines() if not line.startswith("quorum")]
    alone = parse_trust("\n".join([*lines, "quorum none", ""]).encode())
    unseen = examine_receipts(told(*story, later, witnesses=0), alone)
    assert [(item.state, item.code) for item in unseen.all][2:4] == [UNCLEAR, UNCLEAR]


def test_the_owner_may_say_how_long_the_log_was_when_a_key_leaked() -> None:
    story = [OWNER, TRAINER, note(5, "trainer"), note(7, "trainer"), revoked_since(100, before=3)]
    assert judged(*story)[2:4] == [FINE, UNCLEAR]


def test_who_may_not_revoke_takes_nothing_back() -> None:
    story = [OWNER, TRAINER, note(5, "trainer"), (revoked_since(100)[0], "trainer")]
    assert judged(*story)[2] == FINE


def test_the_word_of_a_stranger_saves_nothing() -> None:
    story = [OWNER, TRAINER, note(5, "trainer"), note(6, "usurper"), revoked_since(100)]
    assert judged(*story)[2:4] == [UNCLEAR, (State.MISSING, "signer-key-missing")]


def test_the_word_of_another_key_that_leaked_saves_nothing() -> None:
    former = (key_body("former"), "owner")
    also = replace(key_body("former", "revoke", 500), since=at(100)), "owner"
    story = [OWNER, TRAINER, former, note(5, "trainer"), note(6, "former"), revoked_since(100), also]
    assert judged(*story)[3:5] == [UNCLEAR, UNCLEAR]

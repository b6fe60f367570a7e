"""Approvals: what counts, and every way round them that we could think of."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from deploying_store import Store, opened
from genealog.core import records
from genealog.core.canonical import encode, timestamp
from genealog.core.dsse import Signer
from genealog.errors import MissingError, PolicyDenied, StoreError, VerificationError
from genealog.policy.break_glass import BreakGlasses

PROD, STAGING = "prod/bot", "staging/bot"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    for store in opened(tmp_path):
        store.people()
        yield store


def refused(act: Callable[[], object], code: str = "approvals-missing") -> None:
    with pytest.raises(PolicyDenied) as caught:
        act()
    assert caught.value.code == code


def promote(store: Store) -> None:
    store.deployments.promote(STAGING, PROD, signer=store.signer("intern"))


def test_two_others_have_to_agree(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    refused(lambda: promote(store))
    store.approve(PROD, spec, "security")
    refused(lambda: promote(store))
    store.approve(PROD, spec, "ml-lead")
    promote(store)
    (move,) = store.deployments.history(PROD)
    given = store.deployments.approvals.of_move(move, PROD)
    assert [(each.identity, each.void) for each in given] == [("Security", None), ("ML lead", None)]
    body = store.registry.statement(move.leaf).body
    assert isinstance(body, records.Ref)
    assert body.approvals == tuple(each.leaf for each in given)


def test_nobody_counts_twice(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    store.approve(PROD, spec, "security", "security")
    refused(lambda: promote(store))
    store.registry.add_signer("security-2", "Security")  # another key of the same identity
    store.approve(PROD, spec, "security-2")
    refused(lambda: promote(store))
    status = store.deployments.approvals.status(PROD, spec, [])
    assert len(status.said) == 1
    assert status.rules[0].missing == ("ml-lead", "owner")


def test_whoever_promotes_does_not_approve_it(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    store.approve(PROD, spec, "owner", "security")
    refused(lambda: store.deployments.promote(STAGING, PROD, signer=store.signer("owner")))
    promote(store)  # by somebody else


def test_whoever_promotes_may_count_where_the_rule_says_so(store: Store) -> None:
    store.configure('\n[[approvals]]\ndeployment = "beta/*"\nrequired = 1\npromoter_counts = true\n')
    spec = store.deploy(STAGING, "one")
    refused(lambda: store.deployments.promote(STAGING, "beta/bot"))
    store.approve("beta/bot", spec, "owner")
    store.deployments.promote(STAGING, "beta/bot")


def test_only_those_whom_the_rule_names_count(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    store.approve(PROD, spec, "security", "intern")
    refused(lambda: store.deployments.promote(STAGING, PROD, signer=store.signer("owner")))


def test_every_rule_that_fits_has_to_be_met(store: Store) -> None:
    store.configure('\n[[approvals]]\ndeployment = "*/bot"\nrequired = 1\nfrom = ["intern"]\n')
    store.configure('\n[[approvals]]\ndeployment = "free/?"\nrequired = 1\n')
    spec = store.deploy("free/xx", "one")
    store.approve(PROD, spec, "security", "ml-lead")
    refused(lambda: store.deployments.promote("free/xx", PROD))
    store.approve(PROD, spec, "intern")
    store.deployments.promote("free/xx", PROD)


def test_an_approval_is_good_for_one_spec_on_one_deployment(store: Store) -> None:
    one = store.deploy(STAGING, "one")
    for deployment in ("prod/other", "prod/bo", "prod/bot2", STAGING):
        store.approve(deployment, one, "security", "ml-lead")
    refused(lambda: promote(store))
    store.approve(PROD, one, "security", "ml-lead")
    store.deploy(STAGING, "two")
    refused(lambda: promote(store))


def test_deploying_is_no_way_round(store: Store) -> None:
    refused(lambda: store.deploy(PROD, "one"))
    spec = store.deploy(STAGING, "one")
    refused(lambda: store.deploy(PROD, "one"))
    store.approve(PROD, spec, "security", "ml-lead")
    assert store.deploy(PROD, "one", signer=store.signer("intern")) == spec
    assert store.deployments.moves(PROD)[-1].approvals
    refused(lambda: store.deploy(PROD, "one", durability="D2"))  # another spec of the same model


def test_rolling_back_is_no_way_to_what_never_served(store: Store) -> None:
    one = store.deploy(STAGING, "one")
    two = store.deploy(STAGING, "two")
    store.approve(PROD, one, "security", "ml-lead")
    store.deployments.promote(STAGING, "free", signer=store.signer("intern"))
    store.deploy(PROD, "one", signer=store.signer("intern"))
    with pytest.raises(MissingError, match="nothing-to-roll-back"):
        store.deployments.rollback(PROD, to=two)
    store.approve(PROD, two, "security", "ml-lead")
    promote(store)
    assert store.deployments.rollback(PROD)[0].spec == one  # was live here: no approvals asked for
    assert store.deployments.moves(PROD)[-1].approvals == ()
    refused(lambda: promote(store))  # forth again: what went wrong is approved anew
    store.approve(PROD, two, "security", "ml-lead")
    promote(store)


def test_what_is_withdrawn_does_not_count(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    store.approve(PROD, spec, "security", "ml-lead")
    store.approve(PROD, spec, "security", withdraw=True)
    refused(lambda: promote(store))
    with pytest.raises(MissingError, match="no-approval"):
        store.approve(PROD, spec, "security", withdraw=True)
    entries = [entry for entry in store.home.registry_log().entries() if b"approval:v1" in _payload(entry)]
    store.registry.ledger.append(entries[:1])  # the old approval, sent again word for word
    refused(lambda: promote(store), "approval-replayed")
    store.approve(PROD, spec, "security")
    promote(store)


def _payload(entry: bytes) -> bytes:
    from genealog.core.dsse import open_envelope

    return open_envelope(entry)[0]


def test_a_key_that_is_revoked_in_between_does_not_count(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    store.approve(PROD, spec, "security", "ml-lead")
    store.registry.revoke_key(store.signer("security").keyid, reason="stolen")
    refused(lambda: promote(store))
    said = store.deployments.approvals.said(PROD, spec)
    assert {each.identity: each.void for each in said} == {"Security": "its key was revoked", "ML lead": None}
    with pytest.raises(VerificationError, match="signer-unknown"):
        store.approve(PROD, spec, "security")


def test_a_revocation_while_a_promotion_waits_is_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Approvals are judged where nobody else can append any more."""
    spec = store.deploy(STAGING, "one")
    store.approve(PROD, spec, "security", "ml-lead")
    deployments, other = store.deployments, store.other()
    seen = deployments._seen_by

    def overtaken(name: str, expect: str | None) -> object:
        other.registry.revoke_key(store.signer("security").keyid, reason="stolen")
        return seen(name, expect)

    monkeypatch.setattr(deployments, "_seen_by", overtaken)
    refused(lambda: deployments.promote(STAGING, PROD, signer=store.signer("intern")))


def test_a_move_that_asked_nobody_is_shown_as_resting_on_nothing(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    store.approve(STAGING, spec, "security")
    leaf = store.deployments.approvals.said(STAGING, spec)[0].leaf
    body = records.Ref(
        kind="deployment", name=PROD, to=spec, at=timestamp(store.now), action="promote", approvals=(leaf, "0" * 64)
    )
    store.registry.append(body, signer=store.signer("intern"), name=PROD)
    (move,) = store.deployments.history(PROD)
    voids = [each.void for each in store.deployments.approvals.of_move(move, PROD)]
    assert voids == ["for another deployment or spec", "no such approval in the log"]


def test_an_engine_cannot_approve(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    with pytest.raises(VerificationError, match="role-not-allowed"):
        store.deployments.approvals.say(PROD, spec, signer=store.home.keys.signer("engine"))


@pytest.mark.parametrize(
    "rule",
    [
        'deployment = "x"\nrequired = 0',
        'deployment = "x"\nrequired = 3\nfrom = ["security", "ml-lead"]',
        'deployment = "x"\nrequired = 2\nfrom = ["security", "security"]',
        "required = 1",
        'deployment = "x"\nrequired = 1\nform = ["security"]',
    ],
)
def test_a_rule_that_could_never_hold_is_refused(store: Store, rule: str) -> None:
    with pytest.raises(StoreError, match="config-malformed"):
        store.configure(f"\n[[approvals]]\n{rule}\n")


def test_a_rule_that_names_nobody_known_denies_what_it_guards_and_nothing_else(store: Store) -> None:
    spec = store.deploy(STAGING, "one")
    store.approve(PROD, spec, "security", "ml-lead")
    store.configure('\n[[approvals]]\ndeployment = "prod/*"\nrequired = 1\nfrom = ["security", "stranger"]\n')
    judged: tuple[Callable[[], object], ...] = (
        lambda: promote(store),
        lambda: store.deploy(PROD, "one"),
        lambda: store.approve(PROD, spec, "owner"),
        lambda: store.deployments.approvals.status(PROD, spec, []),
    )
    for act in judged:
        with pytest.raises(PolicyDenied, match="approver-unknown") as caught:
            act()
        assert caught.value.got == "stranger"
    assert store.deploy("staging/other", "two")
    store.registry.add_signer("stranger", "Not any more")
    promote(store)


def malleated(entry: bytes) -> bytes:
    """Return the same words under another signature of the same key, as anybody can make it of an ECDSA one."""
    value = json.loads(entry)
    (signature,) = value["signatures"]
    r, s = decode_dss_signature(base64.b64decode(signature["sig"]))
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signature["sig"] = base64.b64encode(encode_dss_signature(r, order - s)).decode()
    return encode(value)


@pytest.mark.parametrize("again", [bytes, malleated], ids=["same-bytes", "another-signature"])
def test_an_approval_sent_again_after_a_rollback_approves_nothing(
    store: Store, again: Callable[[bytes], bytes]
) -> None:
    store.deploy(PROD, "one", signer=approved(store, "one"))
    spec = store.deploy(STAGING, "two")
    store.approve(PROD, spec, "security", "ml-lead")
    entries = [bytes(entry) for entry in store.home.registry_log().entries() if b"approval:v1" in _payload(entry)]
    promote(store)
    store.deployments.rollback(PROD)
    refused(lambda: promote(store))
    store.registry.ledger.append([again(entry) for entry in entries[-2:]])
    refused(lambda: promote(store), "approval-replayed")
    store.approve(PROD, spec, "security", "ml-lead")
    promote(store)


def approved(store: Store, model: str) -> Signer:
    """Have others approve that PROD serves `model`, and return who may deploy it then."""
    spec = store.deploy("elsewhere", model)
    store.approve(PROD, spec, "security", "ml-lead")
    return store.signer("intern")


def moved(store: Store, spec: str, action: str = "set", approvals: tuple[str, ...] = ()) -> str | None:
    """Move PROD round our commands; return what a gateway is told of that."""
    head = store.deployments.moves(PROD)
    body = records.Ref(
        kind="deployment", name=PROD, to=spec, at=timestamp(store.time()), action=action,  # type: ignore[arg-type]
        previous=head[-1].leaf if head else None, approvals=approvals,
    )  # fmt: skip
    store.registry.append(body, signer=store.signer("intern"), name=PROD)
    live = store.deployments.snapshot().live[PROD]
    assert live.spec == spec
    return live.unapproved


def test_a_move_round_our_commands_is_told(store: Store) -> None:
    good = store.deploy(PROD, "one", signer=approved(store, "one"))
    assert store.deployments.snapshot().live[PROD].unapproved is None
    evil = store.deploy("elsewhere", "two")
    assert "0 of 2 (prod/*)" in str(moved(store, evil))
    assert moved(store, good) is None  # what others approve may come back
    assert moved(store, evil, "rollback") is not None  # it was live, and on no ground
    assert moved(store, good, "rollback") is None


def test_a_move_names_only_approvals_that_are_for_it(store: Store) -> None:
    store.deploy(PROD, "one", signer=approved(store, "one"))
    (move,) = store.deployments.history(PROD)
    evil = store.deploy("elsewhere", "two")
    assert moved(store, evil, "promote", move.approvals) is not None
    assert moved(store, evil, "promote", ("0" * 64, "1" * 64)) is not None


def test_a_rule_that_comes_later_is_met_by_approving_what_is_live(store: Store) -> None:
    first = store.deploy("test/bot", "one")
    second = store.deploy("test/bot", "two")
    store.configure('\n[[approvals]]\ndeployment = "test/*"\nrequired = 1\nfrom = ["security"]\n')

    def told() -> str | None:
        return store.deployments.snapshot().live["test/bot"].unapproved

    assert "0 of 1" in str(told())
    store.deployments.rollback("test/bot")  # what was live before there was a rule needs none to go back to
    assert told() is None
    store.approve("test/bot", second, "security")
    assert store.deploy("test/bot", "two") == second
    assert told() is None
    store.deployments.rollback("test/bot")
    assert (told(), store.deployments.history("test/bot")[-1].spec) == (None, first)


def test_a_revoked_key_takes_its_approval_from_what_is_live_only_if_it_came_first(store: Store) -> None:
    store.deploy(PROD, "one", signer=approved(store, "one"))
    store.registry.revoke_key(store.signer("security").keyid, reason="left the company")
    assert store.deployments.snapshot().live[PROD].unapproved is None  # it counted when the move was made


FOUR = '\n[policy.environments.strict]\ndeny = ["four_eyes"]\n'


def test_four_eyes_ask_for_somebody_who_did_not_make_it(store: Store) -> None:
    store.configure(FOUR)
    spec = store.deploy("elsewhere", "one")
    refused(lambda: store.deployments.promote("elsewhere", "strict/bot"), "approvals-missing")
    store.approve("strict/bot", spec, "owner")  # who registered it, and who moves it
    refused(lambda: store.deployments.promote("elsewhere", "strict/bot"), "approvals-missing")
    store.approve("strict/bot", spec, "security")
    store.deployments.promote("elsewhere", "strict/bot")
    assert store.deployments.snapshot().live["strict/bot"].unapproved is None


def test_a_promotion_round_four_eyes_is_told_unless_a_break_glass_was_open(store: Store) -> None:
    store.configure(FOUR)
    spec = store.deploy("elsewhere", "one")
    body = records.Ref(kind="deployment", name="strict/bot", to=spec, at=timestamp(store.time()), action="promote")
    store.registry.append(body, signer=store.signer("intern"), name="strict/bot")
    assert "0 of 1 (four_eyes)" in str(store.deployments.snapshot().live["strict/bot"].unapproved)
    glasses = BreakGlasses(store.home, clock=store.time)
    glasses.ask(
        "night", deployment="strict/*", policies=["four_eyes"], breakable=["four_eyes"],
        until=store.now + timedelta(hours=1), reason="nobody is awake", signer=store.signer("intern"),
    )  # fmt: skip
    glasses.agree("night", reason="but me", signer=store.signer("security"))
    store.deploy("elsewhere", "two")
    store.deployments.promote("elsewhere", "strict/bot", signer=store.signer("intern"))
    store.tick(7_200)  # over, and what was promoted stays
    assert store.deployments.snapshot().live["strict/bot"].unapproved is None

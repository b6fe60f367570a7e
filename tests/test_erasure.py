"""Erasing, holding and disclosing in a whole store: what is gone, what stays provable, what the log says.

Long because it holds every crash between decision, destruction and tombstone, and every way to be refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from call_node import Crash
from call_samples import answer, request
from erasing_store import START, Store, codes, days, tombstones
from genealog.answers import Answers
from genealog.core.bundle import Disclosure, encode_evidence, parse_file
from genealog.core.call import CallLeaf
from genealog.core.canonical import decode, encode
from genealog.core.chain import examine, examine_disclosure
from genealog.core.records import Hold
from genealog.core.states import State
from genealog.errors import MalformedError, MissingError, PolicyDenied, StoreError, VerificationError
from genealog.ledger import Ledger
from genealog.store.vault.erase import Eraser, digest_of

STANDALONE = Path(__file__).parents[1] / "tools" / "verify_standalone.py"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.spool.close()
    store.home.close()


# Erasing


def test_a_person_is_erased_and_the_log_stays_whole(store: Store) -> None:
    mine = [store.call("Ann likes tea", subject="ann"), store.call("Ann likes cake", subject="ann")]
    other = store.call("Bob likes coffee", subject="bob")
    answers = Answers(store.home)
    assert [found.call for found in answers.find("Ann likes tea")] == [mine[0]]
    receipts = [Ledger(store.home).receipt(Ledger(store.home).call(call)) for call in (*mine, other)]
    done = store.erase(subject="ann")
    assert (done.calls, [str(place.log) for place in done.positions]) == (2, ["registry"])
    assert store.here(*mine, other) == [False, False, True]
    assert answers.find("Ann likes tea") == ()
    assert [found.call for found in answers.find("Bob likes coffee")] == [other]
    assert answers.find("about Ann likes tea") == (), "nor by the prompt"
    (stone,) = tombstones(store)
    assert (stone.calls, stone.digest) == digest_of(mine)
    assert (stone.scope, stone.tenant, stone.reason) == ("subject", "acme", "her wish")
    assert stone.subject == store.home.vault.subject_digest("acme", "ann")
    assert b"ann" not in encode(stone)
    assert codes(store) == []
    for receipt, call in zip(receipts, (*mine, other), strict=True):
        report = examine_disclosure(Disclosure(receipt=receipt), store.home.trust)
        assert report.state is State.PROVEN
        assert report.hops[0].title == call


def test_no_key_or_text_of_the_person_is_left_in_any_byte(store: Store) -> None:
    call = store.call("Ann likes tea", subject="ann")
    store.call("Bob likes coffee", subject="bob")
    Ledger(store.home).drain()
    db = store.home.vault.db
    keys = [key for (key,) in db.run("SELECT key FROM subject ORDER BY id")]
    texts = [mac for (mac,) in db.run("SELECT mac FROM text WHERE call = ?", (call,))]
    assert len(keys) == 2
    assert len(texts) >= 4
    db.scrub()
    assert all(value in store.files() for value in (*keys, *texts))
    store.erase(subject="ann")
    files = store.files()
    assert not any(value in files for value in (keys[0], *texts))
    assert keys[1] in files


def test_why_says_missing_and_evidence_takes_the_tombstone_along(store: Store) -> None:
    call = store.call("Ann likes tea", subject="ann")
    before = Answers(store.home).why(call)
    assert before.hops[0].state is State.PROVEN
    position = store.erase(subject="ann").positions[0]
    report = Answers(store.home).why(call)
    output = report.hops[0]
    assert (output.state, output.code) == (State.MISSING, "erased")
    assert output.detail is not None
    assert output.detail.endswith(f"her wish ({position})")
    assert report.hops[1].state is State.PROVEN, "the call itself is as provable as before"
    evidence = Answers(store.home).evidence(call)
    assert evidence.groups == {}
    assert evidence.response is None
    assert len(evidence.receipts) == 3, "the call, the tombstone, the owner's key"
    stranger = examine(evidence, store.home.trust)
    assert (stranger.hops[0].state, stranger.hops[0].code) == (State.UNCHECKED, "response-sealed")


def test_one_call_and_a_whole_tenant(store: Store) -> None:
    calls = [store.call("one"), store.call("two"), store.call("three", tenant="other")]
    store.erase(call=calls[0])
    assert store.here(*calls) == [False, True, True]
    store.erase(tenant="acme")
    assert store.here(*calls) == [False, False, True]
    assert [(stone.scope, stone.tenant, stone.calls) for stone in tombstones(store)] == [
        ("call", None, 1), ("tenant", "acme", 1),
    ]  # fmt: skip
    assert codes(store) == []


def test_a_subject_of_all_tenants_leaves_a_tombstone_in_each(store: Store) -> None:
    calls = [store.call("one", subject="ann"), store.call("two", subject="ann", tenant="other"), store.call("three")]
    assert store.erase(subject="ann").calls == 2
    assert [stone.tenant for stone in tombstones(store)] == ["acme", "other"]
    assert len({stone.subject for stone in tombstones(store)}) == 2
    assert store.here(*calls) == [False, False, True]


def test_the_subject_in_the_body_counts_where_no_header_names_one(store: Store) -> None:
    bodies = [request(user="ann"), request(user="old", safety_identifier="ann"), request(user=7), request(user="bob")]
    calls = [store.call("x", body=body) for body in bodies]
    by_header = store.call("x", body=request(user="ann"), subject="bob")
    store.erase(subject="ann")
    assert store.here(*calls, by_header) == [False, False, True, True, True]


def test_calls_in_the_spool_are_erased_and_running_ones_are_not(store: Store) -> None:
    waiting = store.call("in the spool", subject="ann")
    running = store.recorder.open(request("still running"), store_context("ann"))
    store.erase(subject="ann")
    store.end(running, "Ann came late")
    Ledger(store.home).drain()
    assert store.here(waiting, running.id) == [False, True]
    assert codes(store) == []
    assert len(store.erasure().parts(subject="ann")) == 1, "what came later can be erased in its turn"


def store_context(subject: str) -> Any:
    from call_samples import context

    return context(who={"tenant": "acme", "subject": subject}, spec=None, models=(), bound="A0")


def test_what_is_not_there_or_not_said_is_refused(store: Store) -> None:
    call = store.call("x", subject="ann")
    for wrong in ({}, {"call": call, "tenant": "acme"}, {"subject": ""}):
        with pytest.raises(MalformedError, match="bad-option"):
            store.erase(**wrong)
    for nobody in ({"subject": "nobody"}, {"tenant": "nobody"}, {"call": "0" * 26}):
        with pytest.raises(MissingError, match="nothing-to-erase"):
            store.erase(**nobody)
    with pytest.raises(MalformedError, match="one line"):
        store.erase(subject="ann", reason="two\nlines")
    store.erase(call=call)
    with pytest.raises(MissingError, match="erased already"):
        store.erase(call=call)


def test_a_plan_changes_nothing(store: Store) -> None:
    call = store.call("x", subject="ann")
    plan = store.erasure().plan(store.erasure().parts(subject="ann"))
    assert [row.call for row in plan.calls] == [call]
    assert plan.size == len(answer("x")) + len(request("about x"))
    assert store.here(call) == [True]
    assert tombstones(store) == []


# Killed in between

STEPS = ("decided", "destroyed", "told", "noted")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_next_run_ends_it(store: Store, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    call = store.call("Ann likes tea", subject="ann")

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as broken:
        if step == "decided":
            broken.setattr(Eraser, "destroy", crash)
        elif step == "destroyed":
            broken.setattr(Ledger, "append", crash)
        elif step == "told":
            broken.setattr(Eraser, "told", crash)
        else:
            broken.setattr("genealog.erasure.Erased", crash)
        with pytest.raises(Crash):
            store.erase(subject="ann")
    store.reopen()
    if step != "noted":
        assert "erasure-unfinished" in codes(store)
    assert Answers(store.home).find("Ann likes tea") == ()
    assert store.here(call) == [False]
    assert len(tombstones(store)) == 1
    assert codes(store) == []


def test_what_was_decided_is_not_shown_though_its_bytes_cannot_be_destroyed_yet(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, other = store.call("Ann likes tea", subject="ann"), store.call("Bob")

    def busy(*_: object) -> None:
        raise StoreError("vault-busy", "somebody reads")

    with monkeypatch.context() as broken:
        broken.setattr(Eraser, "destroy", busy)
        with pytest.raises(StoreError, match="vault-busy"):
            store.erase(subject="ann")
        assert Answers(store.home).find("Ann likes tea") == ()
        assert Answers(store.home).why(call).hops[0].code == "erased"
        assert store.here(call, other) == [False, True]
        with pytest.raises(MissingError, match="her wish"):
            store.home.vault.get_body(call, "response")
        assert codes(store) == ["erasure-unfinished", "call-erased"]
        assert tombstones(store) == []
    Ledger(store.home).drain()
    assert codes(store) == []
    assert len(tombstones(store)) == 1


ERASER = """
import sys
from pathlib import Path
from genealog.erasure import Erasure
from genealog.registry import Registry
from genealog.store.home import Home

home = Home.open(Path(sys.argv[1]))
service = Erasure(home)
parts = service.parts(subject=sys.argv[2])
print("ready", flush=True)
service.erase(parts, reason="killed", signer=Registry(home).signer())
"""


KILLS = [("fdatasync", when) for when in range(1, 18, 3)] + [("pwrite64", when) for when in range(1, 112, 10)]


@pytest.mark.parametrize(("syscall", "when"), KILLS)
def test_kill_9_anywhere_leaves_no_tombstone_without_destruction_or_the_other_way_round(
    store: Store, syscall: str, when: int
) -> None:
    """An erasure makes about 17 of one call and 107 of the other; the last cases let it live."""
    calls = [store.call(f"Ann {number}", subject="ann") for number in range(3)]
    Ledger(store.home).drain()
    store.home.close()
    inject = f"{syscall}:signal=SIGKILL:when={when}"
    command = ["strace", "-f", "-o", "/dev/null", "-e", f"inject={inject}", sys.executable, "-c", ERASER]
    subprocess.run([*command, str(store.path), "ann"], capture_output=True, check=False, timeout=120)
    store.reopen()
    Ledger(store.home).drain()
    gone = [not here for here in store.here(*calls)]
    assert len(set(gone)) == 1, "all or none"
    assert len(tombstones(store)) == int(gone[0])
    assert gone[0] == (when > 1) or 1 < when < 50, "the first cases are killed early, the last ones late"
    assert codes(store) == []
    if not gone[0]:
        store.erase(subject="ann")
    assert store.here(*calls) == [False] * 3
    assert len(tombstones(store)) == 1


# What fsck says


def test_a_call_that_is_gone_without_a_tombstone_stays_a_warning(store: Store) -> None:
    call, _ = store.call("x"), store.call("y")
    Ledger(store.home).drain()
    store.home.vault.db.run("DELETE FROM call WHERE call = ?", (call,))
    assert codes(store) == ["call-not-in-vault"]


def test_a_forged_list_of_erased_calls_is_found(store: Store) -> None:
    call, other = store.call("x"), store.call("y")
    store.erase(call=call)
    db = store.home.vault.db
    db.run("DELETE FROM call WHERE call = ?", (other,))
    db.run("INSERT INTO erased(call, erasure) VALUES (?, 1)", (other,))
    assert codes(store) == ["tombstone-mismatch", "call-erased", "call-erased"]


def test_an_older_vault_that_was_put_back_is_found(store: Store, tmp_path: Path) -> None:
    call = store.call("x", subject="ann")
    Ledger(store.home).drain()
    store.home.vault.db.scrub()
    kept = (store.path / "vault" / "vault.sqlite").read_bytes()
    store.erase(subject="ann")
    store.home.close()
    (store.path / "vault" / "vault.sqlite").write_bytes(kept)
    store.reopen()
    assert store.here(call) == [True]
    assert codes(store) == ["erasure-undone"]


def test_a_vault_whose_tombstone_is_not_in_the_log_is_found(store: Store) -> None:
    store.erase(call=store.call("x"))
    store.home.vault.db.run("UPDATE erasure SET leaf = ?", ("00" * 32,))
    assert sorted(codes(store)) == ["call-erased", "erasure-undone", "tombstone-missing"]


# Holds


def test_a_hold_keeps_everything_that_it_selects_until_it_is_lifted(store: Store) -> None:
    calls = [store.call("one", subject="ann"), store.call("two", subject="bob"), store.call("three", tenant="other")]
    holds: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
        ({"calls": (calls[0],)}, {"subject": "ann"}, {"subject": "bob"}),
        ({"tenant": "acme"}, {"call": calls[1]}, {"tenant": "other"}),
        ({"tenant": "acme", "subject": "ann"}, {"tenant": "acme"}, {"subject": "bob"}),
        ({"since": START - days(1), "until": START + days(1)}, {"tenant": "other"}, {}),
    ]
    for number, (selector, forbidden, free) in enumerate(holds):
        name = f"case-{number}"
        service = store.erasure()
        position = service.place(name, reason="court order", signer=store.signer, **selector)
        assert [hold.name for hold in service.holds()] == [name]
        with pytest.raises(PolicyDenied, match=name) as caught:
            store.erase(override="by order of the boss", **forbidden)
        assert caught.value.code == "held"
        assert caught.value.got == str(position)
        plan = service.plan(service.parts(**forbidden))
        assert set(plan.held) == {name}
        if free:
            assert service.plan(service.parts(**free)).held == {}
        service.lift(name, reason="over", signer=store.signer)
        assert service.holds() == ()
    assert store.here(*calls) == [True] * 3
    store.erase(tenant="acme")
    assert store.here(*calls) == [False, False, True]


def test_a_hold_outside_its_time_holds_nothing(store: Store) -> None:
    call = store.call("x", subject="ann")
    store.erasure().place("later", reason="r", signer=store.signer, since=START + days(1), until=START + days(2))
    store.erase(subject="ann")
    assert store.here(call) == [False]


def test_a_subject_is_held_wherever_it_is_erased(store: Store) -> None:
    calls = [store.call("one", subject="ann"), store.call("two", subject="ann", tenant="other")]
    store.erasure().place("case", reason="court order", signer=store.signer, subject="ann")
    for tenant in (None, "acme", "other"):
        with pytest.raises(PolicyDenied, match="case"):
            store.erase(subject="ann", **({"tenant": tenant} if tenant else {}))
    assert store.here(*calls) == [True, True]


def test_a_tenant_is_not_erased_from_under_the_hold_of_a_subject_without_calls(store: Store) -> None:
    store.call("hers", subject="alice")
    service = store.erasure()
    service.place("case", reason="court order", signer=store.signer, tenant="acme", subject="bob")
    with pytest.raises(PolicyDenied, match="held"):
        store.erase(tenant="acme")
    store.erase(subject="alice")
    his = store.call("his", subject="bob")
    with pytest.raises(PolicyDenied, match="held"):
        store.erase(subject="bob", tenant="acme")
    store.call("others", tenant="other")
    store.erase(tenant="other")
    assert store.here(his) == [True]


def test_a_hold_of_what_is_no_digest_keeps_tenants_and_breaks_nothing(store: Store) -> None:
    store.call("one")
    body = Hold(action="place", name="odd", at="2026-03-01T00:00:00.000Z", reason="x", subjects=("abc",))
    store.registry.append(body, signer=store.signer, name="odd")
    with pytest.raises(PolicyDenied, match="held"):
        store.erase(tenant="acme")
    store.erasure().lift("odd", reason="done", signer=store.signer)
    store.erase(tenant="acme")


@pytest.mark.parametrize("whom", [{"subject": "\udcff"}, {"tenant": "\udcff"}, {"call": "\udcff"}])
def test_a_name_that_is_no_text_is_refused(store: Store, whom: dict[str, str]) -> None:
    with pytest.raises(MalformedError, match="text-not-unicode"):
        store.erase(**whom)
    chosen = {"calls": [whom["call"]]} if "call" in whom else whom
    with pytest.raises(MalformedError, match="text-not-unicode"):
        store.erasure().place("case", reason="x", signer=store.signer, **chosen)  # type: ignore[arg-type]


def test_holds_come_from_the_log_and_only_from_who_may_state_them(store: Store) -> None:
    call = store.call("x", subject="ann")
    store.erasure().place("case", reason="r", signer=store.signer, tenant="acme", subject="ann")
    store.home.close()
    (store.path / "index.sqlite").unlink()
    store.reopen()
    with pytest.raises(PolicyDenied, match="held"):
        store.erase(call=call)
    store.home.keys.create("stranger")
    stranger = store.home.keys.signer("stranger")
    with pytest.raises(VerificationError, match="signer-unknown"):
        store.erasure().place("more", reason="r", signer=stranger, tenant="acme")
    with pytest.raises(VerificationError, match="signer-unknown"):
        store.erasure().erase(store.erasure().parts(call=call), reason="r", signer=stranger)
    with pytest.raises(VerificationError, match="signer-unknown"):
        store.erasure().lift("case", reason="r", signer=stranger)
    with pytest.raises(PolicyDenied, match="held"):
        store.erase(call=call)


def test_holds_have_one_name_each_and_select_something(store: Store) -> None:
    service = store.erasure()
    service.place("case", reason="r", signer=store.signer, tenant="acme")
    with pytest.raises(StoreError, match="hold-exists"):
        service.place("case", reason="r", signer=store.signer, tenant="other")
    with pytest.raises(MissingError, match="unknown-hold"):
        service.lift("other", reason="r", signer=store.signer)
    wrong: list[dict[str, Any]] = [
        {}, {"since": START}, {"since": START, "until": START - days(1)}, {"subject": ""},
    ]  # fmt: skip
    for given in wrong:
        with pytest.raises(MalformedError, match="bad-option"):
            service.place("new", reason="r", signer=store.signer, **given)
    with pytest.raises(MissingError, match="unknown-call"):
        service.place("new", reason="r", signer=store.signer, calls=("0" * 26,))
    with pytest.raises(MalformedError, match="bad-option"):
        service.place("new\nline", reason="r", signer=store.signer, tenant="acme")


# Minimum


def test_a_minimum_is_kept_unless_it_is_overridden_in_the_open(store: Store) -> None:
    store.configure('[[retention]]\ntenant = "acme"\ndeployment = "prod/*"\nminimum = "30d"')
    young, free = store.call("x", subject="ann"), store.call("y", subject="bob", deployment="test/bot")
    store.now = START + days(29)
    with pytest.raises(PolicyDenied, match="2026-03-31T00:00:00") as caught:
        store.erase(subject="ann")
    assert caught.value.code == "retention-minimum"
    plan = store.erasure().plan(store.erasure().parts(tenant="acme"))
    assert (plan.young, plan.free) == (1, "2026-03-31T00:00:00.000Z")
    store.erase(subject="bob")
    store.erase(subject="ann", override="GDPR article 17, reviewed by legal")
    assert tombstones(store)[-1].override == "GDPR article 17, reviewed by legal"
    assert store.here(young, free) == [False, False]
    assert codes(store) == []


def test_after_its_minimum_a_call_is_free(store: Store) -> None:
    store.configure('[[retention]]\nminimum = "30d"')
    call = store.call("x", subject="ann")
    store.now = START + days(30)
    store.erase(subject="ann")
    assert store.here(call) == [False]


# Disclosing


def standalone(file: Path, trust: Path, output: Path | None = None) -> subprocess.CompletedProcess[str]:
    more = ["--output", str(output)] if output else []
    command = [sys.executable, str(STANDALONE), str(file), "--trust", str(trust), *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_disclosure_shows_its_groups_and_nothing_else(store: Store, tmp_path: Path) -> None:
    call = store.call("Ann likes tea", subject="ann")
    found = Answers(store.home).disclose(call, groups=("usage", "who"))
    data = encode_evidence(found)
    assert b"Ann" not in data
    value = json.loads(data)
    assert sorted(value) == ["groups", "receipt", "t"]
    assert sorted(value["groups"]) == ["usage", "who"]
    parsed = parse_file(data)
    assert isinstance(parsed, Disclosure)
    assert encode_evidence(parsed) == data
    report = examine_disclosure(parsed, store.home.trust)
    assert [(hop.role, hop.state) for hop in report.hops] == [
        ("call", State.PROVEN), ("group", State.PROVEN), ("group", State.PROVEN),
    ]  # fmt: skip
    assert examine_disclosure(parsed, None).state is State.UNCHECKED
    file = tmp_path / "part.json"
    file.write_bytes(data)
    assert standalone(file, store.path / "trust.policy").returncode == 0


def test_a_disclosed_answer_is_compared_with_what_somebody_holds(store: Store, tmp_path: Path) -> None:
    call = store.call("Ann likes tea")
    found = Answers(store.home).disclose(call, groups=("response", "request"), output=True, prompt=True)
    for held, state, status in ((b"Ann likes tea", State.PROVEN, 0), (b"Ann likes gin", State.CONTRADICTED, 1)):
        report = examine_disclosure(found, store.home.trust, output=held)
        assert report.state is state
        (tmp_path / "part.json").write_bytes(encode_evidence(found))
        (tmp_path / "held").write_bytes(held)
        done = standalone(tmp_path / "part.json", store.path / "trust.policy", tmp_path / "held")
        assert done.returncode == status, done.stdout


def test_both_verifiers_find_every_change_in_a_disclosure(store: Store, tmp_path: Path) -> None:
    call, other = store.call("Ann likes tea"), store.call("Bob")
    answers = Answers(store.home)
    entry = Ledger(store.home).receipt(Ledger(store.home).at(store.home.registry_log().leaf_hash(0).hex()))
    good = json.loads(encode_evidence(answers.disclose(call, groups=("request", "usage"), prompt=True)))
    theirs = json.loads(encode_evidence(answers.disclose(other, groups=("request", "usage"))))
    changes: list[tuple[str, dict[str, Any]]] = [
        ("seal-mismatch", {"groups": good["groups"] | {"usage": theirs["groups"]["request"]}}),
        ("seal-mismatch", {"groups": good["groups"] | {"who": good["groups"]["usage"]}}),
        ("unknown-group", {"groups": good["groups"] | {"whom": good["groups"]["usage"]}}),
        ("seal-mismatch", {"receipt": theirs["receipt"]}),
        ("request-mismatch", {"request": "AAAA"}),
        ("request-sealed", {"groups": {"usage": good["groups"]["usage"]}}),
        ("call-not-in-bundle", {"receipt": json.loads(encode(entry))}),
    ]
    for code, change in changes:
        data = encode(good | change)
        found = parse_file(data)
        assert isinstance(found, Disclosure)
        report = examine_disclosure(found, store.home.trust)
        assert report.weakest.code == code
        (tmp_path / "part.json").write_bytes(data)
        done = standalone(tmp_path / "part.json", store.path / "trust.policy")
        assert f"weakest: {report.state}" in done.stdout
        assert f"[{code}]" in done.stdout
    for wrong in ({"call": "00" * 32}, {"receipts": []}, {"groups": {}}, {"receipt": 7}, {"more": 1}):
        data = encode(good | wrong)
        with pytest.raises(MalformedError):
            parse_file(data)
        (tmp_path / "part.json").write_bytes(data)
        assert standalone(tmp_path / "part.json", store.path / "trust.policy").returncode == 1


def test_what_cannot_be_disclosed_is_refused(store: Store) -> None:
    call = store.call("x", subject="ann")
    answers = Answers(store.home)
    with pytest.raises(MalformedError, match="unknown-group"):
        answers.disclose(call, groups=("usage", "money"))
    for given in ({"groups": ()}, {"groups": ("usage",), "output": True}, {"groups": ("response",), "prompt": True}):
        with pytest.raises(MalformedError, match="bad-option"):
            answers.disclose(call, **given)  # type: ignore[arg-type]
    with pytest.raises(MissingError, match="unknown-call"):
        answers.disclose("0" * 26, groups=("usage",))
    store.erase(subject="ann")
    with pytest.raises(MissingError, match="her wish") as caught:
        answers.disclose(call, groups=("usage",))
    assert caught.value.code == "call-erased"


# Limits


def test_a_body_that_was_too_big_is_named_as_such(store: Store) -> None:
    store.configure('[vault]\nmax_body = "100B"')
    call = store.call("a long answer " * 20)
    report = Answers(store.home).why(call)
    assert (report.hops[0].state, report.hops[0].code) == (State.MISSING, "body-not-kept")
    assert report.hops[0].detail == "it is bigger than max_body in [vault]"
    assert Answers(store.home).not_kept(call) == "it is bigger than max_body in [vault]"
    text = ("a long answer " * 20).encode()
    assert Answers(store.home).why(call, output=text).hops[0].state is State.PROVEN
    assert codes(store) == []


def test_bodies_in_a_folder_are_erased_with_the_call(store: Store) -> None:
    store.configure('[vault]\nbodies = "folder"\ninline = "10B"')
    call = store.call("Ann", subject="ann")
    Ledger(store.home).drain()
    assert len(list((store.path / "vault" / "bodies").rglob("*"))) >= 3
    assert store.home.vault.get_body(call, "response") == answer("Ann")
    store.erase(subject="ann")
    assert [path for path in (store.path / "vault" / "bodies").rglob("*") if path.is_file()] == []


def test_who_it_is_about_stands_in_no_leaf_and_no_group(store: Store) -> None:
    call = store.call("x", subject="jane@example.org")
    position = Ledger(store.home).call(call)
    entry = store.home.log(position.log).entry(position.index)
    assert decode(entry, CallLeaf).call == call
    assert b"jane" not in entry
    assert all(b"jane" not in body for _, body in store.home.vault.get_groups(call).values())
    assert b"jane" not in store.files()

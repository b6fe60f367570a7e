"""The judge under attack: what is pinned is compared wherever it is met, and what others say counts for nothing."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from golden_story import ANSWER, BODY, CHAIN, Story, Twist, at, key_body
from golden_world import QUORUM, Log, seed, trust_policy
from msgspec.structs import replace

from genealog.core import records
from genealog.core.bundle import Evidence, Opened
from genealog.core.chain import Hop, Report, examine, examine_receipt
from genealog.core.ids import record_id
from genealog.core.states import State
from genealog.core.trust import Trust, parse_trust

POLICY = trust_policy()
TRUST = parse_trust(POLICY.encode())
STORY = Story()
FINISHED: dict[str, Any] = {"kind": "model", "registered_at": at(5)}


def told(story: Story, call: str = "call", **options: Any) -> Report:
    return examine(story.bundle(call, **options), TRUST)


def hops(report: Report, role: str) -> list[Hop]:
    return [hop for hop in report.hops if hop.role == role]


def judge(evidence: Evidence, trust: Trust | None = TRUST) -> Report:
    return examine(evidence, trust)


# --- A whole chain ----------------------------------------------------------------------------------------------------


def test_every_hop_of_a_whole_chain_is_told_in_order() -> None:
    report = told(STORY, request=True)
    assert [(hop.depth, hop.role, hop.state) for hop in report.hops] == [
        (0, "output", State.PROVEN),
        (1, "call", State.PROVEN),
        (2, "prompt", State.PROVEN),
        (2, "serving spec", State.STATED),
        (3, "load", State.STATED),
        (4, "adapter", State.STATED),
        (5, "run", State.STATED),
        (6, "base", State.STATED),
        (7, "run", State.STATED),
        (8, "base", State.STATED),
        (9, "source", State.CLAIMED),
        (8, "code", State.STATED),
        (8, "environment", State.STATED),
        (6, "data", State.STATED),
        (6, "code", State.STATED),
        (6, "environment", State.STATED),
        (4, "model", State.STATED),
    ]
    assert (report.state, report.weakest.code) == (State.CLAIMED, "outside-origin")
    assert {hop.signer for hop in hops(report, "load")} == {"engine@golden.example"}
    assert {hop.signer for hop in hops(report, "data")} == {"former@golden.example"}
    assert hops(report, "model")[0].detail == "as above"
    assert hops(report, "call")[0].position == "calls:0"


def test_without_trust_no_hop_is_better_than_unchecked() -> None:
    report = examine(STORY.bundle(), None, output=ANSWER.encode())
    assert {hop.state for hop in report.hops} == {State.UNCHECKED}
    assert report.weakest.code == "no-trust-policy"


def test_contradictions_are_seen_without_trust() -> None:
    bundle = STORY.bundle()
    altered = base64.b64encode(BODY.replace(b"Paris", b"Lyons")).decode()
    assert examine(replace(bundle, response=altered), None).weakest.code == "output-mismatch"


def test_a_chain_has_no_length_that_overflows_a_stack() -> None:
    story = Story()
    parent, generations = story.ids["base"], 400
    for number in range(generations):
        parent = generation(story, f"g{number}", parent)
    labels = [f"g{number}{part}" for number in range(generations) for part in ("", " start", " end")]
    pinned = records.Pinned(artifact=parent, lineage=story.leaf[f"g{generations - 1} end"])
    report = served(story, pinned, also=labels)
    assert len(hops(report, "run")) == generations + 1
    assert report.weakest.code in ("not-measured", "outside-origin")
    assert max(hop.depth for hop in report.hops) > 2 * generations


def generation(story: Story, label: str, parent: str, *, role: str = "base") -> str:
    """State a model that a run of its own made from `parent`. Returns its ID."""
    start = records.Execution(kind="finetune", started_at=at(1), nonce=seed(label).hex()[:32])
    story.state(f"{label} start", start)
    identifier = "glf1:" + seed(label).hex()
    story.state(label, records.Artifact(**FINISHED), artifact=identifier)
    events = (
        records.Event(artifact=parent, direction="in", role=role, state=State.STATED),
        records.Event(artifact=identifier, direction="out", role="model", state=State.STATED),
    )
    end = records.ExecutionEnd(execution=record_id(start), ended_at=at(2), exit="succeeded", events=events)
    story.state(f"{label} end", end)
    return identifier


def served(story: Story, *pinned: records.Pinned, also: Any = (), **options: Any) -> Report:
    """State a serving spec, have it called at A0, and judge that call."""
    spec = records.ServingSpec(model=pinned[0], adapters=pinned[1:], upstream="http://x")
    story.state("spec 2", spec)
    models = tuple(pin.artifact for pin in pinned)
    story.say("call 2", assurance="A0", intent={"spec": record_id(spec), "models": models})
    return told(story, "call 2", also=("spec 2", *also), **options)


# --- Pins -------------------------------------------------------------------------------------------------------------


def test_a_base_that_was_met_as_an_input_is_still_compared_with_its_pin() -> None:
    """The adapter's run is walked first, and shows the base: the pins of the base hold there too."""
    for change, code in (
        ({"weights": "glw1:" + "0" * 64}, "weights-mismatch"),
        ({"lineage": "0" * 64}, "lineage-not-in-bundle"),
        ({"lineage": ""}, "lineage-not-in-bundle"),
        ({"lineage": STORY.leaf["code"]}, "lineage-mismatch"),
        ({"lineage": STORY.leaf["finetune end"]}, "lineage-mismatch"),
    ):
        story = Story()
        base = replace(pins(story)[0], **change)
        report = served(story, base, pins(story)[1])
        found = [hop.code for hop in report.hops if hop.id == story.ids["base"]]
        assert found == [code, code]


def pins(story: Story) -> tuple[records.Pinned, records.Pinned]:
    spec = story.bodies["spec"]
    assert isinstance(spec, records.ServingSpec)
    return spec.model, spec.adapters[0]


def test_a_later_story_about_pinned_bytes_is_not_the_lineage() -> None:
    story = Story()
    start = records.Execution(kind="forge", started_at=at(1), nonce="0" * 32)
    story.state("forge", start, "late")
    made = records.Event(artifact=story.ids["base"], direction="out", role="model", state=State.STATED)
    end = records.ExecutionEnd(execution=record_id(start), ended_at=at(2), exit="succeeded", events=(made,))
    story.state("forge end", end, "late")
    report = told(story, also=("key late", "forge", "forge end"))
    assert [hop.title for hop in hops(report, "run")] == ["finetune finetune 1", "convert convert 1"]
    assert report.state is State.CLAIMED


def test_a_model_pinned_to_its_own_statement_has_the_lineage_that_it_says() -> None:
    story = Story()
    pinned = records.Pinned(artifact=story.ids["base"], lineage=story.leaf["base"])
    report = served(story, pinned)
    assert hops(report, "run") == []
    assert hops(report, "source")[0].code == "no-lineage"


def test_a_second_signature_under_a_version_is_welcome() -> None:
    story = Story()
    story.state("base again", story.bodies["base"], "late", artifact=story.ids["base"])
    report = told(story, also=("key late", "base again"))
    assert (report.state, report.weakest.code) == (State.CLAIMED, "outside-origin")


def test_an_artifact_stated_by_an_engine_too_is_a_contradiction_that_is_named() -> None:
    story = Story()
    story.state("base again", story.bodies["base"], "engine", artifact=story.ids["base"])
    report = told(story, also=("base again",))
    assert report.weakest.role == "receipt"
    assert report.weakest.code == "role-not-allowed"
    assert {hop.state for hop in report.hops if hop.id == story.ids["base"]} == {State.STATED}


def test_one_run_that_made_two_adapters_is_compared_for_both() -> None:
    story = Story()
    start = records.Execution(kind="finetune", started_at=at(1), nonce="1" * 32)
    story.state("twins", start)
    ids = ["glf1:" + seed(name).hex() for name in ("one", "two")]
    for name, identifier in zip(("one", "two"), ids, strict=True):
        story.state(name, records.Artifact(kind="adapter", registered_at=at(5)), artifact=identifier)
    events = [records.Event(artifact=story.ids["gguf"], direction="in", role="base", state=State.STATED)]
    events += [records.Event(artifact=i, direction="out", role="adapter", state=State.STATED) for i in ids]
    end = records.ExecutionEnd(execution=record_id(start), ended_at=at(2), exit="succeeded", events=tuple(events))
    leaf = story.state("twins end", end)
    adapters = [records.Pinned(artifact=identifier, lineage=leaf) for identifier in ids]
    report = served(story, pins(story)[0], *adapters, also=("twins", "one", "two", "twins end"))
    assert [hop.code for hop in hops(report, "run")][:2] == ["wrong-base", "wrong-base"]


# --- Lineage that leads nowhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_circle_is_no_origin(length: int) -> None:
    story = Story()
    ring = ["glf1:" + seed(f"ring {number}").hex() for number in range(length)]
    labels = []
    for number, identifier in enumerate(ring):
        start = records.Execution(kind="train", started_at=at(1), nonce=f"{number:032x}")
        events = (
            records.Event(artifact=ring[number - 1], direction="in", role="base", state=State.STATED),
            records.Event(artifact=identifier, direction="out", role="model", state=State.STATED),
        )
        end = records.ExecutionEnd(execution=record_id(start), ended_at=at(2), exit="succeeded", events=events)
        story.state(f"ring {number} start", start)
        story.state(f"ring {number}", records.Artifact(**FINISHED), artifact=identifier)
        story.state(f"ring {number} end", end)
        labels += [f"ring {number}{part}" for part in ("", " start", " end")]
    pinned = records.Pinned(artifact=ring[0], lineage=story.leaf["ring 0 end"])
    report = served(story, pinned, also=labels)
    assert (report.state, report.weakest.code) == (State.MISSING, "lineage-circular")
    assert len(hops(report, "run")) == length


def test_what_answers_needs_lineage_whatever_its_owner_calls_it() -> None:
    story = Story()
    identifier = "glf1:" + seed("disguised").hex()
    leaf = story.state("disguised", records.Artifact(kind="dataset", registered_at=at(5)), artifact=identifier)
    report = served(story, records.Pinned(artifact=identifier, lineage=leaf), also=("disguised",))
    assert (report.state, report.weakest.code) == (State.MISSING, "no-lineage")


def test_a_model_of_a_vendor_is_its_vendors_word() -> None:
    story = Story()
    body = {"model": "m-1", "vendor": "example"}
    leaf = story.state("vendor", records.Artifact(kind="external-model", registered_at=at(5), body=body))
    report = served(story, records.Pinned(artifact=record_id(body), lineage=leaf), also=("vendor",))
    assert (report.state, report.weakest.code) == (State.CLAIMED, "not-measured")
    assert hops(report, "source")[0].code == "outside-origin"


def test_an_unregistered_input_is_a_gap() -> None:
    story = Story()
    made = generation(story, "orphan", "glf1:" + "9" * 64)
    pinned = records.Pinned(artifact=made, lineage=story.leaf["orphan end"])
    report = served(story, pinned, also=("orphan", "orphan start", "orphan end"))
    assert (report.state, report.weakest.code) == (State.MISSING, "artifact-not-in-bundle")


# --- Other stores, other logs -----------------------------------------------------------------------------------------


def test_statements_of_another_store_count_for_nothing() -> None:
    """The partner's logs are trusted too, and say the very same under the same keys."""
    partner = Story(store="partner.example")
    mixed = replace(STORY.bundle(), receipts=(STORY.receipt("call"), *(partner.receipt(label) for label in CHAIN)))
    assert (judge(mixed).state, judge(mixed).weakest.code) == (State.MISSING, "spec-not-in-bundle")
    both = replace(STORY.bundle(), receipts=(*STORY.bundle().receipts, *(partner.receipt(label) for label in CHAIN)))
    assert judge(both).hops == told(STORY).hops
    for label, code in (
        ("load", "load-not-in-bundle"),
        ("adapter", "artifact-not-in-bundle"),
        ("spec", "spec-not-in-bundle"),
    ):
        borrowed = STORY.bundle(without=(label,))
        borrowed = replace(
            borrowed, receipts=(*borrowed.receipts, partner.receipt(label), partner.receipt("key owner"))
        )
        assert code in {hop.code for hop in judge(borrowed).hops}


def test_a_call_of_one_store_is_not_answered_by_the_engine_of_another() -> None:
    partner = Story(Twist(bodies={"load": lambda body: replace(body, nonce="11" * 16)}), store="partner.example")
    group = partner.sealed["call"].groups["engine"][1]
    lured = Story(Twist(groups={"engine": group}))
    bundle = lured.bundle()
    bundle = replace(bundle, receipts=(*bundle.receipts, *(partner.receipt(label) for label in CHAIN)))
    assert (judge(bundle).state, judge(bundle).weakest.code) == (State.MISSING, "load-not-in-bundle")


@pytest.mark.parametrize("kept", ["registry", "calls"])
def test_a_policy_that_knows_one_of_two_logs_settles_nothing(kept: str) -> None:
    lines = [line for line in POLICY.splitlines() if not line.startswith("log ") or f"golden.example/{kept}" in line]
    report = judge(STORY.bundle(), trust=parse_trust("\n".join([*lines, ""]).encode()))
    assert (report.state, report.weakest.code) == (State.UNCHECKED, "unknown-log")


def test_a_call_leaf_is_no_statement_and_a_statement_is_no_call() -> None:
    bundle = STORY.bundle()
    as_call = replace(bundle, call=STORY.leaf["load"])
    assert (judge(as_call).state, judge(as_call).weakest.code) == (State.MISSING, "call-not-in-bundle")
    registry = Log("golden.example/registry", QUORUM)
    registry.entries = [*STORY.registry.entries, STORY.calls.entries[0]]
    moved = [registry.receipt(STORY.index[label]) for label in CHAIN]
    misplaced = replace(bundle, receipts=(*moved, registry.receipt(len(registry.entries) - 1)))
    report = judge(misplaced)
    assert report.state is State.CONTRADICTED
    assert {hop.code for hop in report.hops} == {"call-not-in-bundle", "schema-mismatch"}
    assert (
        examine_receipt(replace(STORY.receipt("call"), origin="golden.example/registry"), TRUST).state
        is State.CONTRADICTED
    )


# --- The answer, the prompt, the engine -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "output", "state", "code"),
    [
        ("call", ANSWER.encode(), State.PROVEN, None),
        ("call", BODY, State.PROVEN, None),
        ("call", BODY[:-1], State.CONTRADICTED, "output-mismatch"),
        ("call", ANSWER.encode() + b"\n", State.CONTRADICTED, "output-mismatch"),
        ("call", b"", State.CONTRADICTED, "output-mismatch"),
        ("cut", BODY[:60], State.PROVEN, None),
        ("cut", BODY[:61], State.CONTRADICTED, "output-mismatch"),
        ("refused", None, State.PROVEN, None),
        ("refused", ANSWER.encode(), State.CONTRADICTED, "output-mismatch"),
        ("lost", None, State.MISSING, "end-not-seen"),
        ("lost", ANSWER.encode(), State.MISSING, "end-not-seen"),
        ("plain", None, State.UNCHECKED, "output-not-included"),
    ],
)
def test_an_output_is_this_answer_or_it_is_not(call: str, output: bytes | None, state: State, code: str | None) -> None:
    hop = examine(STORY.bundle(call, response=False), TRUST, output=output).hops[0]
    assert (hop.role, hop.state, hop.code) == ("output", state, code)


def test_a_refused_call_is_not_answered_by_something_else() -> None:
    sealed = STORY.bundle("refused", groups=(), response=False)
    assert examine(sealed, TRUST).state is State.PROVEN
    assert examine(sealed, TRUST, output=b"x").weakest.code == "response-sealed"


def test_a_prompt_is_compared_too() -> None:
    whole = STORY.bundle(request=True)
    assert hops(judge(whole), "prompt")[0].state is State.PROVEN
    assert hops(judge(STORY.bundle(request=True, groups=("engine", "response"))), "prompt")[0].code == "request-sealed"
    assert hops(judge(STORY.bundle()), "prompt") == []


def test_a_group_of_another_call_does_not_open_this_one() -> None:
    whole = STORY.bundle()
    salt, body = STORY.sealed["plain"].groups["response"]
    other = Opened(body=base64.b64encode(body).decode(), salt=salt.hex())
    for name in ("response", "engine", "who"):
        report = judge(replace(whole, groups={**whole.groups, name: other}))
        assert (report.state, report.weakest.code) == (State.CONTRADICTED, "seal-mismatch")


def test_an_engine_key_that_is_revoked_afterwards_has_signed() -> None:
    for minute, code in ((60, "engine-key-revoked"), (61, "engine-key-revoked"), (62, "outside-origin")):
        story = Story(Twist(more=[("revoke engine", key_body("engine", "revoke", minute), "owner")]))
        assert told(story, also=("revoke engine",)).weakest.code == code


def test_an_engine_that_loaded_other_weights_of_the_same_files_lied() -> None:
    def other(load: records.Load) -> records.Load:
        return replace(load, loaded=(replace(load.loaded[0], weights="glw1:" + "0" * 64), *load.loaded[1:]))

    report = told(Story(Twist(bodies={"load": other})))
    assert (report.state, report.weakest.code) == (State.CONTRADICTED, "load-not-spec")


@pytest.mark.parametrize("field", ["call", "load", "request", "response", "report"])
def test_an_engine_signs_one_exchange(field: str) -> None:
    report = told(Story(Twist(signature={field: "0" * 64})))
    assert (report.state, report.weakest.code) == (State.CONTRADICTED, "engine-signature-mismatch")


def test_a_missing_engine_key_is_missing_and_not_false() -> None:
    report = told(STORY, without=("key engine",))
    assert (report.state, report.weakest.code) == (State.MISSING, "signer-key-missing")


# --- A receipt alone --------------------------------------------------------------------------------------------------


def test_a_receipt_alone_proves_its_place_and_no_signer() -> None:
    report = examine_receipt(STORY.receipt("adapter"), TRUST)
    assert [(hop.role, hop.state, hop.signer, hop.position) for hop in report.hops] == [
        ("entry", State.PROVEN, None, "registry:13")
    ]
    assert examine_receipt(STORY.receipt("adapter"), None).weakest.code == "no-trust-policy"


def test_a_receipt_that_cannot_be_checked_is_not_proven() -> None:
    elsewhere = Story(store="elsewhere.example").receipt("adapter")
    report = examine_receipt(elsewhere, TRUST)
    assert (report.state, report.weakest.code) == (State.UNCHECKED, "unknown-log")
    unseen = Log("golden.example/registry", QUORUM[:1])
    unseen.entries = STORY.registry.entries
    report = examine_receipt(unseen.receipt(13), TRUST)
    assert (report.state, report.weakest.code) == (State.MISSING, "quorum-not-met")

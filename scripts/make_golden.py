"""Make `tests/golden`: evidence that holds, evidence that does not, and what every verifier must say of each.

    python scripts/make_golden.py [FOLDER]

The same files come out each time. What is expected stands here, beside each file, and is not asked of the judge.
A file that does not parse has no state: its exit is 1 and its code that of the parser.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from golden_story import ANSWER, BODY, CHAIN, Story, Twist, at, key_body
from golden_world import QUORUM, Key, Log, seed, trust_policy
from msgspec.structs import replace

from genealog.core import records
from genealog.core.bundle import Evidence, Opened, encode_evidence
from genealog.core.call_groups import EngineGroup
from genealog.core.canonical import Record, encode
from genealog.core.dsse import sign_envelope
from genealog.core.ids import record_id
from genealog.core.note import NoteSigner
from genealog.core.proof import parse_proof
from genealog.core.receipt import Receipt, encode_receipt
from genealog.core.states import State, exit_status

ALL = ("engine", "request", "response", "retrieval", "usage", "who")


@dataclass(frozen=True)
class Case:
    """A file, and what must be said of it. `output` is what its reader holds; no state: the file does not parse."""

    name: str
    data: Evidence | Receipt | bytes
    state: State | None
    code: str | None = None
    output: bytes | None = None


def good() -> Iterator[Case]:
    """Yield evidence that holds, from the strongest to what honestly cannot be told."""
    story = Story()
    yield Case("statement.receipt.json", story.receipt("adapter"), State.PROVEN)
    yield Case("call.receipt.json", story.receipt("call"), State.PROVEN)
    yield Case("first-entry.receipt.json", story.receipt("key owner", 1), State.PROVEN)
    yield Case("refused.genealog", story.bundle("refused"), State.PROVEN)
    scratch = Story(
        Twist(bodies={"convert end": _event("base", role="data", artifact=story.ids["facts"], weights=None)})
    )
    yield Case("from-scratch.genealog", scratch.bundle(), State.STATED)
    yield Case("answer.genealog", story.bundle(), State.CLAIMED, "outside-origin")
    yield Case("all-groups.genealog", story.bundle(groups=ALL, request=True), State.CLAIMED, "outside-origin")
    bare = story.bundle(response=False)
    yield Case("held-text.genealog", bare, State.CLAIMED, "outside-origin", ANSWER.encode())
    yield Case("held-body.genealog", bare, State.CLAIMED, "outside-origin", BODY)
    sizes = {label: story.index[label] + 1 + number % 3 for number, label in enumerate(CHAIN)}
    yield Case("many-sizes.genealog", story.bundle(sizes=sizes), State.CLAIMED, "outside-origin")
    yield Case("not-measured.genealog", story.bundle("plain"), State.CLAIMED, "not-measured")
    yield Case("cut.genealog", story.bundle("cut", response=False), State.CLAIMED, "not-measured", BODY[:60])
    failed = Story(Twist(bodies={"finetune end": lambda end: replace(end, exit="failed", error="OutOfMemory")}))
    yield Case("failed-run.genealog", failed.bundle(), State.CLAIMED, "run-failed")
    doubted = Story(Twist(bodies={"finetune end": _event("base", state=State.CLAIMED)}))
    yield Case("claimed-base.genealog", doubted.bundle(), State.CLAIMED, "edge-claimed")
    yield from _custody(story)
    yield Case("no-output.genealog", bare, State.UNCHECKED, "output-not-included")
    yield Case("sealed.genealog", story.bundle(groups=()), State.UNCHECKED, "response-sealed")
    yield Case("engine-sealed.genealog", story.bundle(groups=("response",)), State.UNCHECKED, "engine-sealed")
    yield Case("end-not-seen.genealog", story.bundle("lost", response=False), State.MISSING, "end-not-seen")


def _custody(story: Story) -> Iterator[Case]:
    """Yield bundles with events on the way, an execution that goes on, and findings that contradict nothing."""
    run, base, gguf = record_id(story.bodies["finetune"]), story.ids["base"], story.ids["gguf"]
    (event,) = (e for e in _ins(story.bodies["finetune end"]) if e.role == "base")
    way = records.ExecutionEvents(execution=run, at=at(15), events=(event,))
    told = Twist(bodies={"finetune end": _without("base")}, more=[("on the way", way, "trainer")])
    yield Case("events-on-the-way.genealog", Story(told).bundle(also=["on the way"]), State.CLAIMED, "outside-origin")
    chained = _chained(story).bundle(also=["first events", "last events"])
    yield Case("events-chained.genealog", chained, State.CLAIMED, "outside-origin")
    begun = records.Execution(kind="pretrain", started_at=at(1), nonce="5" * 32)
    made = records.Event(artifact=gguf, direction="out", role="model", state=State.STATED)
    open_ = records.ExecutionEvents(execution=record_id(begun), at=at(2), events=(made,))
    more: list[tuple[str, Record, str]] = [("pretrain", begun, "trainer"), ("pretrained", open_, "trainer")]
    running = Story(Twist(more=more)).bundle(also=["pretrain", "pretrained"])
    yield Case("run-open.genealog", running, State.CLAIMED, "run-open")
    noted = Story(Twist(more=[("finding", _finding(story, "base", base, state=State.PROVEN), "owner")]))
    yield Case("finding-noted.genealog", noted.bundle(also=["finding"]), State.CLAIMED, "outside-origin")
    elsewhere = Story(Twist(more=[("finding", _finding(story, "model", gguf, direction="out"), "owner")]))
    yield Case("finding-elsewhere.genealog", elsewhere.bundle(also=["finding"]), State.CLAIMED, "outside-origin")


def _chained(story: Story) -> Story:
    """Tell the story with the inputs of the fine-tuning on the way: one statement names the other, the end the last."""
    run, ins = record_id(story.bodies["finetune"]), {event.role: event for event in _ins(story.bodies["finetune end"])}
    first = records.ExecutionEvents(execution=run, at=at(15), events=(ins["data"],))
    more: list[tuple[str, Record, str]] = [("first events", first, "trainer")]
    leaf = Story(Twist(more=more)).leaf["first events"]  # a leaf hash is the same wherever an entry lies
    last = records.ExecutionEvents(execution=run, at=at(16), events=(ins["base"],), previous=leaf)
    more.append(("last events", last, "trainer"))
    leaf = Story(Twist(more=more)).leaf["last events"]

    def end(body: records.ExecutionEnd) -> records.ExecutionEnd:
        return replace(_without("base")(_without("data")(body)), previous=leaf)

    return Story(Twist(bodies={"finetune end": end}, more=more))


def _finding(story: Story, role: str, artifact: str, **changes: Any) -> records.Finding:
    """Return a finding about the fine-tuning: by default that an input is false."""
    values = {"direction": "in", "state": State.CONTRADICTED, "method": "shapes", "code": "wrong-base"} | changes
    return records.Finding(
        execution=record_id(story.bodies["finetune"]), artifact=artifact, role=role, at=at(40),
        detail="as somebody found", tools={"tool": "1.0"}, **values,
    )  # fmt: skip


def _ins(body: Record) -> list[records.Event]:
    assert isinstance(body, records.ExecutionEnd)
    return [event for event in body.events if event.direction == "in"]


def _without(role: str) -> Callable[[records.ExecutionEnd], records.ExecutionEnd]:
    """Return what leaves the inputs in this role out of an end statement."""
    return lambda end: replace(end, events=tuple(e for e in end.events if e.direction == "out" or e.role != role))


def bad_files() -> Iterator[Case]:
    """Yield files that are spelled wrongly: nothing in them is looked at."""
    data = encode_evidence(Story().bundle())
    text = data.decode()
    yield Case("truncated.genealog", data[:20_000], None, "not-json")
    yield Case("something-else.genealog", b'{"t":"genealog/promise/v1"}', None, "not-evidence")
    yield Case("white-space.genealog", text.replace('{"call":', '{"call": ', 1).encode(), None, "not-canonical")
    yield Case(
        "duplicate-key.genealog", text.replace('"call":', '"call":"x","call":', 1).encode(), None, "not-canonical"
    )
    yield Case(
        "unknown-field.genealog", text.replace('"groups":', '"extra":1,"groups":', 1).encode(), None, "schema-mismatch"
    )
    salt = json.loads(data)["groups"]["engine"]["salt"]
    yield Case("salt-in-capitals.genealog", text.replace(salt, salt.upper(), 1).encode(), None, "bad-hex")
    body = json.loads(data)["response"]
    yield Case("loose-base64.genealog", text.replace(body, body.rstrip("=") + "====", 1).encode(), None, "bad-base64")


def bad_receipts() -> Iterator[Case]:
    """Yield receipts whose proof does not hold, or proves something else."""
    story = Story()
    receipt = story.receipt("adapter")
    proof = parse_proof(receipt.proof.encode())

    def put(old: str, new: str) -> Receipt:
        assert old in receipt.proof
        return replace(receipt, proof=receipt.proof.replace(old, new, 1))

    entry = bytearray(base64.b64decode(receipt.entry))
    entry[100] ^= 1
    changed = replace(receipt, entry=base64.b64encode(entry).decode())
    yield Case("entry-byte.receipt.json", changed, State.CONTRADICTED, "inclusion-proof-mismatch")
    index = put(f"index {proof.index}\n", f"index {proof.index - 1}\n")
    yield Case("index.receipt.json", index, State.CONTRADICTED, "inclusion-proof-mismatch")
    first = base64.b64encode(proof.hashes[0]).decode()
    flipped = put(first, base64.b64encode(bytes([proof.hashes[0][0] ^ 1]) + proof.hashes[0][1:]).decode())
    yield Case("proof-hash.receipt.json", flipped, State.CONTRADICTED, "inclusion-proof-mismatch")
    yield Case("proof-shorter.receipt.json", put(first + "\n", ""), State.CONTRADICTED, "inclusion-proof-mismatch")
    cut = replace(receipt, proof=receipt.proof.partition("\n\n")[0])
    yield Case("proof-cut.receipt.json", cut, State.CONTRADICTED, "proof-malformed")
    line = receipt.proof.splitlines()[-4]
    mark = "B" if line[-10] == "A" else "A"
    signature = put(line, line[:-10] + mark + line[-9:])
    yield Case("log-signature.receipt.json", signature, State.CONTRADICTED, "checkpoint-signature-invalid")
    other = NoteSigner(story.registry.origin, Ed25519PrivateKey.from_private_bytes(seed("another log key")))
    resigned = put(line + "\n", other.sign(_text(proof.checkpoint)).decode())
    yield Case("unknown-log-key.receipt.json", resigned, State.CONTRADICTED, "checkpoint-signature-invalid")
    origin = replace(receipt, origin="golden.example/calls")
    yield Case("another-origin.receipt.json", origin, State.CONTRADICTED, "origin-mismatch")
    as_statement = replace(story.receipt("call"), origin=story.registry.origin)
    yield Case("call-as-statement.receipt.json", as_statement, State.CONTRADICTED, "origin-mismatch")
    misplaced = Log(story.registry.origin, QUORUM)
    misplaced.append(story.calls.entries[0])
    yield Case("call-in-registry.receipt.json", misplaced.receipt(0), State.CONTRADICTED, "schema-mismatch")
    alone = Log(story.registry.origin, QUORUM[:2])
    alone.entries = story.registry.entries
    yield Case("one-witness-short.receipt.json", alone.receipt(11), State.MISSING, "quorum-not-met")


def bad_bundles() -> Iterator[Case]:
    """Yield bundles of a sound story that were altered, or that leave something out."""
    story = Story()
    whole = story.bundle(request=True)

    def without(label: str) -> Evidence:
        return story.bundle(without=(label,))

    def opened(name: str, old: bytes, new: bytes) -> Evidence:
        group = whole.groups[name]
        body = base64.b64encode(base64.b64decode(group.body).replace(old, new, 1)).decode()
        return replace(whole, groups={**whole.groups, name: replace(group, body=body)})

    elsewhere = Story(store="elsewhere.example")
    yield Case("unknown-log.genealog", elsewhere.bundle(), State.UNCHECKED, "unknown-log")
    fork = Story(Twist(bodies={"key late": lambda key: replace(key, identity="somebody@golden.example")}))
    receipts = (*whole.receipts[:-1], fork.receipt("load"))
    yield Case("forked-log.genealog", replace(whole, receipts=receipts), State.CONTRADICTED, "log-forked")
    yield Case("no-call.genealog", without("call"), State.MISSING, "call-not-in-bundle")
    edited = opened("response", b'"status":200', b'"status":201')
    yield Case("group-edited.genealog", edited, State.CONTRADICTED, "seal-mismatch")
    more = {**whole.groups, "secrets": Opened(body="e30=", salt="00" * 32)}
    yield Case("one-group-more.genealog", replace(whole, groups=more), State.CONTRADICTED, "unknown-group")
    altered = base64.b64encode(BODY.replace(b"Paris", b"Lyons")).decode()
    yield Case("answer-edited.genealog", replace(whole, response=altered), State.CONTRADICTED, "output-mismatch")
    yield Case(
        "another-text.genealog", whole, State.CONTRADICTED, "output-mismatch", b"The capital of France is Lyons."
    )
    yield Case("prompt-edited.genealog", replace(whole, request=altered), State.CONTRADICTED, "request-mismatch")
    yield Case("no-spec.genealog", without("spec"), State.MISSING, "spec-not-in-bundle")
    yield Case("no-load.genealog", without("load"), State.MISSING, "load-not-in-bundle")
    yield Case("no-artifact.genealog", without("facts"), State.MISSING, "artifact-not-in-bundle")
    yield Case("no-execution.genealog", without("convert"), State.MISSING, "execution-not-in-bundle")
    yield Case("no-lineage-leaf.genealog", without("finetune end"), State.MISSING, "lineage-not-in-bundle")
    yield Case("no-signer-key.genealog", without("key trainer"), State.MISSING, "signer-key-missing")
    chained = _chained(story)
    for name, left in (("first", "last events"), ("last", "first events")):
        bundle = chained.bundle(also=[left])
        yield Case(f"no-{name}-events.genealog", bundle, State.MISSING, "events-not-in-bundle")
    partner = Story(store="partner.example")  # it states the very same things, under the same keys
    borrowed = replace(without("load"), receipts=(*without("load").receipts, partner.receipt("load")))
    yield Case("load-of-another-store.genealog", borrowed, State.MISSING, "load-not-in-bundle")


def bad_stories() -> Iterator[Case]:
    """Yield bundles of stories that went wrong before anybody made a bundle of them."""
    said = "finding-contradicted"
    say: dict[str, tuple[Twist, str]] = {
        "signature-wrong": (Twist(envelopes={"adapter": _flip_signature}), "signature-invalid"),
        "signed-twice": (Twist(envelopes={"adapter": _sign_twice}), "many-signatures"),
        "subject-of-another": (Twist(envelopes={"spec": _restate(Story().spec[5:], "0" * 64)}), "subject-mismatch"),
        "key-of-another": (
            Twist(envelopes={"key former": _restate(Key("former").keyid, Key("late").keyid, "owner")}), "key-mismatch",
        ),
        "engine-states-artifact": (Twist(signers={"adapter": "engine"}), "role-not-allowed"),
        "owner-states-load": (Twist(signers={"load": "owner"}), "role-not-allowed"),
        "key-revoked": (Twist(signers={"adapter": "former"}), "key-revoked"),
        "key-later": (Twist(signers={"adapter": "late"}), "key-registered-later"),
        "key-of-an-engine": (Twist(signers={"key trainer": "engine"}), "key-unsound"),
        "second-owner": (Twist(more=[("key usurper", key_body("usurper"), "usurper")]), "key-not-vouched-for"),
        "engine-key-revoked": (
            Twist(more=[("revoke engine", key_body("engine", "revoke", 50), "owner")]), "engine-key-revoked",
        ),
        "engine-is-another": (Twist(engine="stranger"), "engine-signer-unknown"),
        "engine-signature-wrong": (Twist(groups={"engine": _forged_engine_group()}), "engine-signature-invalid"),
        "engine-signed-another-call": (Twist(signature={"call": "0" * 26}), "engine-signature-mismatch"),
        "engine-signed-another-answer": (Twist(signature={"response": "0" * 64}), "engine-signature-mismatch"),
        "engine-silent": (Twist(groups={"engine": encode(EngineGroup(bound="A3"))}), "assurance-unfounded"),
        "load-of-others": (Twist(bodies={"load": _turn_loaded}), "load-not-spec"),
        "call-of-others": (Twist(intent={"models": ("glf1:" + "0" * 64,)}), "models-not-spec"),
        "group-malformed": (Twist(groups={"response": b'{"status": 200}'}), "group-malformed"),
        "wrong-base": (
            Twist(bodies={"finetune end": _event("base", artifact=Story().ids["gguf"], weights=None)}), "wrong-base",
        ),
        "other-weights": (
            Twist(bodies={"finetune end": _event("base", weights="glw1:" + "0" * 64)}), "weights-mismatch",
        ),
        "finding-false": (Twist(more=[("finding", _finding(Story(), "base", Story().ids["base"]), "owner")]), said),
        "finding-false-output": (
            Twist(more=[("finding", _finding(Story(), "adapter", Story().ids["adapter"], direction="out"), "owner")]),
            said,
        ),
        "finding-of-an-engine": (
            Twist(more=[("finding", _finding(Story(), "base", Story().ids["base"]), "engine")]), "role-not-allowed",
        ),
        "edge-false": (
            Twist(bodies={"finetune end": _event("base", state=State.CONTRADICTED, code="wrong-base")}),
            "edge-contradicted",
        ),
        "lineage-of-another": (Twist(bodies={"spec": _swap_lineage}), "lineage-mismatch"),
    }  # fmt: skip
    for name, (twist, code) in say.items():
        story = Story(twist)
        also = ("key late", *(label for label, _, _ in twist.more))
        yield Case(f"{name}.genealog", story.bundle(also=also), State.CONTRADICTED, code)
    base = Story().ids["base"]
    gaps: dict[str, tuple[Twist, str]] = {
        "key-unregistered": (Twist(signers={"adapter": "stranger"}), "signer-key-missing"),
        "base-unknown": (Twist(bodies={"finetune end": _event("base", role="teacher")}), "base-unknown"),
        "no-origin": (Twist(bodies={"gguf": lambda body: replace(body, source=None)}), "no-lineage"),
        "made-of-itself": (Twist(bodies={"convert end": _event("base", artifact=base)}), "lineage-circular"),
    }
    for name, (twist, code) in gaps.items():
        yield Case(f"{name}.genealog", Story(twist).bundle(), State.MISSING, code)
    attested = Story(Twist(intent={"bound": "A4"}, outcome={"assurance": "A4"}))
    yield Case("attested.genealog", attested.bundle(), State.UNCHECKED, "attestation-unchecked")


def build() -> dict[str, bytes]:
    """Return every golden file by its path."""
    files = {"trust.policy": trust_policy().encode()}
    expected: dict[str, dict[str, Any]] = {}
    folders = {"good": [good()], "bad": [bad_files(), bad_receipts(), bad_bundles(), bad_stories()]}
    for folder, groups in folders.items():
        for case in (case for group in groups for case in group):
            path = f"{folder}/{case.name}"
            assert path not in files
            match case.data:
                case Evidence():
                    files[path] = encode_evidence(case.data)
                case Receipt():
                    files[path] = encode_receipt(case.data)
                case bytes():
                    files[path] = case.data
            exit_ = 1 if case.state is None else exit_status(case.state)
            expected[path] = {"state": case.state, "exit": exit_, "code": case.code}
            if case.output is not None:
                held = f"{folder}/{case.name.partition('.')[0]}.output"
                files[held], expected[path]["output"] = case.output, held
    files["EXPECTED.json"] = json.dumps(expected, indent=2, sort_keys=True).encode() + b"\n"
    return files


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files, and remove others that an earlier version made."""
    for old in folder.glob("*/*"):
        if old.relative_to(folder).as_posix() not in files:
            old.unlink()
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def _event(wanted: str, **changes: Any) -> Callable[[records.ExecutionEnd], records.ExecutionEnd]:
    """Return what changes the event that goes into a run in the role `wanted`."""

    def change(end: records.ExecutionEnd) -> records.ExecutionEnd:
        events = (replace(e, **changes) if (e.role, e.direction) == (wanted, "in") else e for e in end.events)
        return replace(end, events=tuple(events))

    return change


def _turn_loaded(load: records.Load) -> records.Load:
    return replace(load, loaded=load.loaded[::-1])


def _swap_lineage(spec: records.ServingSpec) -> records.ServingSpec:
    (adapter,) = spec.adapters
    return replace(
        spec,
        model=replace(spec.model, lineage=adapter.lineage),
        adapters=(replace(adapter, lineage=spec.model.lineage),),
    )


def _flip_signature(envelope: bytes) -> bytes:
    value = json.loads(envelope)
    signature = bytearray(base64.b64decode(value["signatures"][0]["sig"]))
    signature[-1] ^= 1
    value["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    return encode(value)


def _sign_twice(envelope: bytes) -> bytes:
    value = json.loads(envelope)
    second = json.loads(sign_envelope(base64.b64decode(value["payload"]), Key("stranger")))
    return encode({**value, "signatures": [*value["signatures"], *second["signatures"]]})


def _restate(old: str, new: str, signer: str = "trainer") -> Callable[[bytes], bytes]:
    """Return what replaces a text, once, in a statement, and has the signer sign that instead."""

    def change(envelope: bytes) -> bytes:
        payload = base64.b64decode(json.loads(envelope)["payload"])
        assert old.encode() in payload
        return sign_envelope(payload.replace(old.encode(), new.encode(), 1), Key(signer))

    return change


def _forged_engine_group() -> bytes:
    """Return an engine group whose envelope names the engine's key, and was signed by another."""
    group = json.loads(Story(Twist(engine="stranger")).sealed["call"].groups["engine"][1])
    envelope = base64.b64decode(group["envelope"]).replace(Key("stranger").keyid.encode(), Key("engine").keyid.encode())
    return encode({**group, "envelope": base64.b64encode(envelope).decode()})


def _text(note: bytes) -> bytes:
    return note[: note.rindex(b"\n\n") + 1]


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden"), build())

"""The story that the golden files tell: one fine-tuned model, how it came to be, and what it said.

    gguf ─convert→ base ─finetune(facts, code, environment)→ adapter ─ serving spec ─ load ─ calls

A `Twist` says what goes wrong: another key signs, a body says something else, an engine signs another thing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from golden_world import KEYS, QUORUM, Key, Log, seed

from genealog.core import records
from genealog.core.bundle import Evidence, Opened
from genealog.core.call import GROUPS, CallLeaf, SealedCall, call_id, seal_call
from genealog.core.call_groups import Part, RequestFacts, ResponseFacts
from genealog.core.canonical import Record, encode, timestamp
from genealog.core.dsse import sign_envelope
from genealog.core.frames import EngineEvidence, Intent, Outcome
from genealog.core.ids import record_id, seal, sha256_hex
from genealog.core.manifest import FileEntry, encode_manifest, files_root
from genealog.core.merkle import leaf_hash
from genealog.core.receipt import Receipt
from genealog.core.statement import make_statement
from genealog.core.states import State
from genealog.core.weights import TensorEntry, encode_tensors, weights_root

START = datetime(2026, 1, 1, tzinfo=UTC)
ANSWER = "The capital of France is Paris."
PROMPT = (
    b'{"messages":[{"content":"Capital of France?","role":"user"}],"model":"prod/atlas","seed":7,"temperature":0.2}'
)
BODY = json.dumps(
    {"choices": [{"finish_reason": "stop", "message": {"content": ANSWER, "role": "assistant"}}]}
).encode()

ASKED = RequestFacts(
    parameters={"model": "prod/atlas", "seed": "7", "temperature": "0.2"},
    sampler={"seed": "7", "seed_source": "client", "temperature": "0.2"},
    parts=(Part(index=0, role="user", sha256=sha256_hex(b"Capital of France?"), type="text"),),
)
ANSWERED = ResponseFacts(content=ANSWER.encode(), texts=(ANSWER,), finish_reason="stop", model="atlas")
NOTHING: Mapping[str, Any] = {}

SHOWN = ("engine", "request", "response")
CHAIN = (  # the registry entries that the full bundle shows, by label
    "key owner", "key engine", "key trainer", "key former", "facts", "revoke former", "gguf", "code", "environment",
    "convert", "base", "convert end", "finetune", "adapter", "finetune end", "spec", "load",
)  # fmt: skip


def at(minutes: int) -> str:
    """Return the time so many minutes after the story began."""
    return timestamp(START + timedelta(minutes=minutes))


def key_body(label: str, action: Any = "add", minute: int = 0) -> records.Key:
    """Return the body that adds or revokes a key."""
    key = Key(label)
    public = base64.b64encode(key.public_der).decode() if action == "add" else None
    identity = f"{label}@golden.example"
    return records.Key(
        action=action, keyid=key.keyid, identity=identity, role=key.role, at=at(minute), public=public
    )  # fmt: skip


@dataclass(frozen=True)
class Twist:
    """What goes wrong in a story; by default nothing does."""

    signers: Mapping[str, str] = field(default_factory=dict)  # statement: who signs it instead
    bodies: Mapping[str, Callable[[Any], Record]] = field(default_factory=dict)  # statement: what it says instead
    envelopes: Mapping[str, Callable[[bytes], bytes]] = field(default_factory=dict)  # statement: its bytes instead
    more: Sequence[tuple[str, Record, str]] = ()  # statements at the end: (label, body, signer)
    engine: str = "engine"  # who signs for the engine
    signature: Mapping[str, str] = field(default_factory=dict)  # fields of the engine's signature
    intent: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, bytes] = field(default_factory=dict)  # bytes that are sealed instead


class Story:
    """The two logs of one store, told from start to end. `leaf` and `index` find a statement or call by its label."""

    def __init__(self, twist: Twist | None = None, store: str = "golden.example") -> None:
        self.twist = twist or Twist()
        self.registry = Log(f"{store}/registry", QUORUM)
        self.calls = Log(f"{store}/calls", QUORUM)
        self.keys = {label: Key(label) for label in KEYS}
        self.index: dict[str, int] = {}
        self.leaf: dict[str, str] = {}
        self.bodies: dict[str, Record] = {}
        self.ids: dict[str, str] = {}  # of artifacts with files
        self.sealed: dict[str, SealedCall] = {}
        self.responses: dict[str, bytes] = {}
        self._register()
        self._serve()
        for label, body, signer in self.twist.more:
            self.state(label, body, signer)
        self._answer()

    def state(self, label: str, body: Record, signer: str = "trainer", artifact: str | None = None) -> str:
        """Append a signed statement. Returns its leaf hash."""
        if label in self.twist.bodies:
            body = self.twist.bodies[label](body)
        key = self.keys[self.twist.signers.get(label, signer)]
        entry = make_statement(body, key, name=label, artifact=artifact)
        entry = self.twist.envelopes.get(label, bytes)(entry)
        self.index[label], self.bodies[label] = len(self.registry.entries), body
        self.leaf[label] = self.registry.append(entry)
        return self.leaf[label]

    def files(self, label: str, kind: str, *, tensors: bool = False, source: str | None = None) -> str:
        """State an artifact of one file, or of one file with tensors. Returns its ID."""
        entry = FileEntry(path=f"{label}.bin", sha256=sha256_hex(seed(label)), size=1000)
        manifest = encode_manifest([entry])
        weights = None
        if tensors:
            tensor = TensorEntry(dtype="F32", name="w", sha256=sha256_hex(seed(f"{label}/w")), shape=(250,))
            listing = encode_tensors([tensor])
            blob = records.Blob(sha256=sha256_hex(listing), size=len(listing))
            weights = records.Weights(id=weights_root([tensor]), tensors=1, list=blob)
        body = records.Artifact(
            kind=kind, registered_at=at(5), files=1, size=1000, source=source, weights=weights,
            manifest=records.Blob(sha256=sha256_hex(manifest), size=len(manifest)),
        )  # fmt: skip
        identifier = files_root([entry])
        self.state(label, body, artifact=identifier, signer="former" if label == "facts" else "trainer")
        self.ids[label] = identifier
        return identifier

    def weights(self, label: str) -> str | None:
        """Return the weights ID of an artifact that was stated, or None where it has no tensors."""
        body = self.bodies[label]
        return body.weights.id if isinstance(body, records.Artifact) and body.weights else None

    def run(self, label: str, start: Mapping[str, Any], events: Sequence[tuple[str, str, str]], output: str) -> str:
        """State an execution's start, its output by calling `files`, and its end. Returns the output's ID."""
        nonce = seed(label).hex()[:32]
        execution = records.Execution(kind=label, name=f"{label} 1", started_at=at(10), nonce=nonce, **start)
        self.state(label, execution)
        made = self.files(output, "adapter" if output == "adapter" else "model", tensors=True)
        ins: list[tuple[str, str, Any, str]] = [(role, artifact, "in", name) for role, artifact, name in events]
        end = records.ExecutionEnd(
            execution=record_id(self.bodies[label]), ended_at=at(20), exit="succeeded", measurements={"loss": "0.25"},
            events=tuple(
                records.Event(artifact=item, direction=way, role=role, state=State.STATED, weights=self.weights(name))
                for role, item, way, name in (*ins, ("model", made, "out", output))
            ),
        )  # fmt: skip
        self.state(f"{label} end", end)
        return made

    def _register(self) -> None:
        for label in ("owner", "engine", "trainer", "former"):
            self.state(f"key {label}", key_body(label), "owner")
        facts = self.files("facts", "dataset")
        self.state("revoke former", key_body("former", "revoke", minute=7), "owner")
        gguf = self.files("gguf", "model", source="https://models.example/atlas.gguf")
        code = self.files("code", "code")
        facts_of_place = {"kind": "environment", "platform": "linux", "python": "3.11.7"}
        self.state("environment", records.Artifact(kind="environment", registered_at=at(5), body=facts_of_place))
        start = {"code": code, "environment": record_id(facts_of_place)}
        base = self.run("convert", start, [("base", gguf, "gguf")], "base")
        self.run(
            "finetune", {**start, "parameters": {"learning_rate": "0.002"}, "seeds": {"torch": "7"}},
            [("base", base, "base"), ("data", facts, "facts")], "adapter",
        )  # fmt: skip

    def _pin(self, label: str, story: str) -> records.Pinned:
        return records.Pinned(artifact=self.ids[label], lineage=self.leaf[story], weights=self.weights(label))

    def _serve(self) -> None:
        spec = records.ServingSpec(
            model=self._pin("base", "convert end"), adapters=(self._pin("adapter", "finetune end"),),
            upstream="http://127.0.0.1:8001", minimum_assurance="A0", durability="D1",
        )  # fmt: skip
        self.state("spec", spec)
        self.spec = record_id(self.bodies["spec"])
        ref = records.Ref(kind="deployment", name="prod/atlas", to=self.spec, at=at(30))
        self.state("deployment", ref)
        loaded = [("base", self.ids["base"], "base"), ("adapter", self.ids["adapter"], "adapter")]
        load = records.Load(
            engine="golden engine", keyid=self.keys["engine"].keyid, loaded_at=at(31), nonce="00" * 16,
            loaded=tuple(records.Loaded(role=r, artifact=a, weights=str(self.weights(n))) for r, a, n in loaded),  # type: ignore[arg-type]
            files={"tokenizer.json": sha256_hex(seed("tokenizer"))}, numerics={"dtype": "float32", "threads": "1"},
        )  # fmt: skip
        self.state("load", load, "engine")
        self.state("key late", key_body("late"), "owner")

    def _answer(self) -> None:
        self.say("call", assurance="A3", intent=self.twist.intent, outcome=self.twist.outcome, groups=self.twist.groups)
        self.say("plain", assurance="A0")
        self.say("cut", assurance="A2", outcome={"finish": "client_abandoned", "delivered": 60})
        self.say("lost", assurance="A2", outcome=None)
        refusal = {"finish": "refused", "status": 404, "error": "unknown-deployment", "delivered": 0}
        self.say("refused", assurance="A0", response=b"", intent={"spec": None, "models": ()}, outcome=refusal)

    def say(
        self, label: str, *, assurance: Any, response: bytes = BODY, intent: Mapping[str, Any] = NOTHING,
        outcome: Mapping[str, Any] | None = NOTHING, groups: Mapping[str, bytes] = NOTHING,
    ) -> None:  # fmt: skip
        """Append a call, sealed as the sequencer seals it; its frames or groups may say something else."""
        number = len(self.calls.entries) + 1
        moment = START + timedelta(minutes=60 + number)
        call = call_id(int(moment.timestamp() * 1000), seed(label)[:10])
        report = self._report(call)
        signed = records.EngineSignature(
            call=call, load=self.leaf["load"], request=sha256_hex(PROMPT), response=sha256_hex(response),
            report=sha256_hex(encode(report)),
        )  # fmt: skip
        signed = msgspec.structs.replace(signed, **self.twist.signature)
        envelope = sign_envelope(encode(signed), self.keys[self.twist.engine], records.ENGINE_SIGNATURE)
        evidence = EngineEvidence(load=self.leaf["load"], signature=envelope, report=encode(report))
        first = Intent(
            n=2 * number - 1, call=call, seq=number, called_at=moment, deployment="prod/atlas", spec=self.spec,
            models=(self.ids["base"], self.ids["adapter"]), bound=assurance, durability="D1", capture="encrypted",
            dialect="openai", operation="/v1/chat/completions", who={"principal": "svc-a", "project": "atlas"},
            headers={}, request=PROMPT, salts=b"".join(seed(f"{label}/salt/{group}") for group in GROUPS),
        )  # fmt: skip
        last = Outcome(
            n=2 * number, call=call, ended_at=moment + timedelta(seconds=2), finish="complete", status=200,
            content_type="application/json", content_encoding=None, response=response, delivered=len(response),
            assurance=assurance, error=None, engine=evidence if assurance >= "A3" else None,
        )  # fmt: skip
        sealed = seal_call(
            msgspec.structs.replace(first, **intent),
            None if outcome is None else msgspec.structs.replace(last, **outcome),
            emitter="gateway-0", boot="00000001-0a1b2c3d", prev=self._previous(), asked=ASKED,
            answered=ANSWERED if response and outcome is not None else ResponseFacts(),
            report=report if assurance >= "A3" else None,
        )  # fmt: skip
        self.sealed[label], self.responses[label] = _reseal(sealed, groups), response
        self.index[label] = len(self.calls.entries)
        self.leaf[label] = self.calls.append(encode(self.sealed[label].leaf))

    def receipt(self, label: str, size: int | None = None) -> Receipt:
        """Return the receipt of a statement or call."""
        log = self.calls if label in self.sealed else self.registry
        return log.receipt(self.index[label], size)

    def bundle(
        self, call: str = "call", *, groups: Sequence[str] = SHOWN, without: Sequence[str] = (),
        also: Sequence[str] = (), response: bool = True, request: bool = False, sizes: Mapping[str, int] = NOTHING,
    ) -> Evidence:  # fmt: skip
        """Return the evidence of a call: the whole chain, less `without`, more `also`, under checkpoints of `sizes`."""
        sealed = self.sealed[call]
        labels = [label for label in (call, *CHAIN, *also) if label not in without]
        opened = {name: sealed.groups[name] for name in groups}
        return Evidence(
            call=self.leaf[call],
            receipts=tuple(self.receipt(label, sizes.get(label)) for label in labels),
            groups={n: Opened(body=base64.b64encode(b).decode(), salt=s.hex()) for n, (s, b) in opened.items()},
            request=base64.b64encode(PROMPT).decode() if request else None,
            response=base64.b64encode(self.responses[call]).decode() if response else None,
        )

    def _report(self, call: str) -> records.EngineReport:
        return records.EngineReport(
            call=call, prompt_tokens=6, prompt_sha256=sha256_hex(seed("prompt tokens")), tokens=(450, 7483, 13),
            logprobs=base64.b64encode(bytes(12)).decode(), finish_reason="stop", numerics={"dtype": "float32"},
            sampler={"name": "philox", "seed": "7", "seed_source": "client", "temperature": "0.2", "top_p": "1"},
        )  # fmt: skip

    def _previous(self) -> bytes | None:
        return leaf_hash(self.calls.entries[-1]) if self.calls.entries else None


def _reseal(sealed: SealedCall, groups: Mapping[str, bytes]) -> SealedCall:
    """Return the call as if a gateway had sealed other bytes."""
    opened = {name: (salt, groups.get(name, body)) for name, (salt, body) in sealed.groups.items()}
    seals = {name: seal(salt, body) for name, (salt, body) in opened.items()}
    leaf: CallLeaf = msgspec.structs.replace(sealed.leaf, seals=msgspec.structs.replace(sealed.leaf.seals, **seals))
    return SealedCall(leaf, opened)

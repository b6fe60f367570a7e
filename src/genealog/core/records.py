"""The bodies of our statements: what each predicate type says.

Lineage lives only in events (`ExecutionEnd.events`). Contexts group, refs point, statements prove; none of them
creates reachability. Every body is canonical; the ID of an execution, a serving spec, or an artifact that has no files
of its own is the hash of its body (`core.ids.record_id`).

Long because the vocabulary of the log is one list, to be read in one place.
"""

from __future__ import annotations

from typing import Any, Literal

from genealog.core.canonical import Record
from genealog.core.states import State

Direction = Literal["in", "out"]


class Blob(Record):
    """Bytes kept beside the log because they would not fit an entry."""

    sha256: str
    size: int


class Weights(Record):
    """The weights of an artifact: the root over its tensors, and where their list is kept."""

    id: str  # glw1:…
    tensors: int
    list: Blob
    tied: dict[str, str] = {}  # noqa: RUF012 - name that the files leave out → name of the same bytes


class RecordSet(Record):
    """The records of a dataset, in whatever files: the root that proves one inside or absent, and their list."""

    root: str  # gld1:…
    count: int
    leaves: int  # equal records are one
    list: Blob
    order: str  # hex SHA-256 over the record digests as they were read: the same root in another order is a reshuffle
    readings: tuple[str, ...]  # json, text: how a record is read before it is looked up


class Artifact(Record):
    """`artifact/v1`: these bytes exist, and this is what they are called and made of.

    Files have a `manifest`; an artifact without files of its own (an external model, an environment) has a `body`
    whose record ID is its ID. `source` is what its owner says about where it came from: a claim, shown as one.
    """

    kind: str
    registered_at: str
    files: int | None = None
    size: int | None = None
    manifest: Blob | None = None
    weights: Weights | None = None
    format: str | None = None
    excludes: tuple[str, ...] = ()
    body: dict[str, Any] | None = None
    source: str | None = None
    claims: dict[str, str] = {}  # noqa: RUF012 - msgspec copies an empty default
    warnings: tuple[str, ...] = ()
    records: RecordSet | None = None


class Execution(Record):
    """`execution/v1`: something started. The record ID of this body is the execution's ID.

    A crash leaves it open, and visible. Numbers are exact decimal strings; seeds too, for they pass 2^53.
    """

    kind: str
    started_at: str
    nonce: str  # 32 hex digits, so that two equal runs are two executions
    entry_point: str | None = None
    parameters: dict[str, str] = {}  # noqa: RUF012
    seeds: dict[str, str] = {}  # noqa: RUF012
    code: str | None = None  # artifact ID
    environment: str | None = None  # artifact ID
    hardware: dict[str, str] = {}  # noqa: RUF012
    name: str | None = None
    command: tuple[str, ...] = ()  # what was typed, secrets masked: `genealog reproduce` types it again
    folder: str | None = None  # where, relative to the root of the code tree
    determinism: dict[str, str] = {}  # noqa: RUF012 - switches, as they stood
    random: dict[str, str] = {}  # noqa: RUF012 - source → hex SHA-256 of its state at the start


class Event(Record):
    """An artifact went in or came out of an execution. `facts` are exact strings: a weight, a step, an order."""

    artifact: str
    direction: Direction
    role: str
    state: State
    weights: str | None = None  # glw1:… where the artifact has tensors, so that a base is pinned bit for bit
    path: str | None = None  # where it lay, from the execution's folder; outside of it, as the command names it
    facts: dict[str, str] = {}  # noqa: RUF012
    code: str | None = None  # why the state is not better


class ExecutionEnd(Record):
    """`execution-end/v1`: how it ended, and the events in and out."""

    execution: str
    ended_at: str
    exit: Literal["succeeded", "failed"]
    events: tuple[Event, ...] = ()
    error: str | None = None
    measurements: dict[str, str] = {}  # noqa: RUF012
    seeds: dict[str, str] = {}  # noqa: RUF012 - set while it ran: source → seed
    random: dict[str, str] = {}  # noqa: RUF012 - source → hex SHA-256 of its state when it appeared, kept as an object
    observed: dict[str, str] = {}  # noqa: RUF012 - hyperparameters that libraries were given, switches, data order
    warnings: tuple[str, ...] = ()  # lines `code: what`: what was not seen, and what does not fit
    previous: str | None = None  # hex leaf hash of the last `execution-events` of this execution


class ExecutionEvents(Record):
    """`execution-events/v1`: events of an execution that goes on: its checkpoints survive its crash.

    Each names the one before it, and the end names the last, so that a bundle cannot leave one out unseen.
    """

    execution: str
    at: str
    events: tuple[Event, ...]
    previous: str | None = None  # hex leaf hash of the `execution-events` before


class Finding(Record):
    """`finding/v1`: somebody checked one edge of an execution against bytes, and this is what came of it.

    For whoever reads it this is stated, not proven: who wants proof checks again. A contradiction is never taken back
    silently: a later finding stands beside it.
    """

    execution: str
    artifact: str
    direction: Direction
    role: str
    state: State
    method: str  # equal-bytes, equal-weights, recomputed, re-run, shapes, …
    at: str
    code: str | None = None
    detail: str | None = None
    tools: dict[str, str] = {}  # noqa: RUF012 - name → version of what recomputed it


class Signature(Record):
    """`signature/v1`: a foreign signature over an artifact, kept as it came; `signer` is whom it proved then."""

    artifact: str
    format: Literal["oms"]
    method: Literal["key", "certificate", "sigstore"]
    bundle: Blob
    signer: str
    at: str


class Approval(Record):
    """`approval/v1`: its signer agrees (or no longer agrees) that `deployment` may serve this spec.

    Where another registry keeps the name, it has no spec: what is approved is the model, and `spec` its artifact ID.
    """

    deployment: str
    spec: str
    at: str
    action: Literal["approve", "withdraw"] = "approve"
    reason: str | None = None


class Incident(Record):
    """`incident/v1`: something went wrong with what a deployment served; a hold of the same name pins the calls."""

    name: str
    action: Literal["open", "close"]
    at: str
    reason: str
    deployment: str | None = None
    specs: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None


class ExternalModel(Record, tag_field="kind", tag="external-model"):
    """A model that its vendor serves and nobody else has: all that is known of it is what the vendor says.

    The body of an artifact without files; its ID is the hash of this. A model that somebody registered says what is
    expected; one that an answer reported says what came, and is a version of its own.
    """

    vendor: str
    model: str
    snapshot: str | None = None
    fingerprint: str | None = None
    region: str | None = None


class Drift(Record):
    """`drift/v1`: a target of a deployment answers as another version than before, by what its answers report."""

    version: str  # ID of the external model that it says it is
    body: ExternalModel
    deployment: str
    spec: str
    call: str  # the first that showed it
    at: str
    target: int = 0
    previous: str | None = None  # what it said before; None: nobody had looked
    last: bool = False  # it shows a new one too often: no later ones are noted for this spec


class Context(Record):
    """`context/v1`: a group (project, department, experiment, tenant, session, incident case)."""

    kind: str
    name: str


class Ref(Record):
    """`ref/v1`: from now on this name means that ID. Promote, roll back and revoke are such moves.

    `previous` is the leaf hash of the move before, so that a chain of moves cannot lose one.
    """

    kind: Literal["name", "deployment", "revocation"]
    name: str
    to: str
    at: str
    action: Literal["set", "rollback", "promote"] = "set"
    previous: str | None = None
    reason: str | None = None
    incident: str | None = None
    approvals: tuple[str, ...] = ()  # leaf hashes of the approvals that a promotion rests on


class Pinned(Record):
    """A model version: its bytes, and the statement that tells its lineage (by leaf hash)."""

    artifact: str
    lineage: str
    weights: str | None = None


class Target(Record):
    """One place that can answer for a deployment, and what is served there.

    New calls are spread over the targets by `weight`; one of weight 0 is only asked when others failed.
    """

    model: Pinned
    upstream: str
    adapters: tuple[Pinned, ...] = ()
    weight: int = 1
    served_as: str | None = None  # what the upstream calls the model, where that is not what clients ask for
    seller: str | None = None  # whom its calls are paid to: a key of price tables
    endpoint: tuple[str, ...] = ()  # hex SHA-256 of the public keys (SPKI) that it may show in TLS
    credentials: str | None = None  # a label of [upstreams] in genealog.toml

    @property
    def models(self) -> tuple[str, ...]:
        """IDs of the model and its adapters, in order."""
        return (self.model.artifact, *(adapter.artifact for adapter in self.adapters))


class ServingSpec(Record):
    """`serving-spec/v1`: what a deployment serves. Immutable; its record ID is the hash of this body.

    The first target's fields stand in the spec itself; `others` has the rest.
    """

    model: Pinned
    upstream: str
    adapters: tuple[Pinned, ...] = ()
    minimum_assurance: str = "A0"
    durability: str = "D1"
    body_capture: Literal["encrypted", "hashes", "none"] = "encrypted"
    tokenizer: str | None = None
    template: str | None = None
    weight: int = 1
    served_as: str | None = None
    seller: str | None = None
    endpoint: tuple[str, ...] = ()
    credentials: str | None = None
    others: tuple[Target, ...] = ()
    attempts: int = 1  # at most, for one call of a client

    @property
    def targets(self) -> tuple[Target, ...]:
        """Every target, in order."""
        first = Target(
            model=self.model, upstream=self.upstream, adapters=self.adapters, weight=self.weight,
            served_as=self.served_as, seller=self.seller, endpoint=self.endpoint, credentials=self.credentials,
        )  # fmt: skip
        return (first, *self.others)

    @property
    def models(self) -> tuple[str, ...]:
        """IDs of all that may answer: models and adapters of every target, in order, each once."""
        return tuple(dict.fromkeys(artifact for target in self.targets for artifact in target.models))


class Loaded(Record):
    """What an engine hashed while loading it."""

    role: Literal["model", "base", "adapter"]
    artifact: str
    weights: str


class Load(Record):
    """`load/v1`: an engine's own word: these are the bytes I serve, and this key signs my answers."""

    engine: str
    keyid: str
    loaded: tuple[Loaded, ...]
    files: dict[str, str]  # path → sha256 of tokenizer, template and configuration files as loaded
    numerics: dict[str, str]  # engine and version, dtype, device class, batch invariance, attention backend, threads
    loaded_at: str
    nonce: str

    @property
    def models(self) -> tuple[str, ...]:
        """Artifact IDs of everything loaded: base or model first, then adapters in order."""
        return tuple(item.artifact for item in self.loaded)


class Key(Record):
    """`key/v1`: a key enters or leaves. The first entry of a registry is its owner's key, signed by itself."""

    action: Literal["add", "revoke"]
    keyid: str
    identity: str
    role: Literal["owner", "signer", "engine", "log"]  # a log's key signs checkpoints, never statements
    at: str
    public: str | None = None  # base64 of the DER SubjectPublicKeyInfo, with `add`
    reason: str | None = None
    since: str | None = None  # with `revoke`: from then on nothing counts that it signed, also what is logged already
    before: int | None = None  # with `since`: the log had so many entries by then, on the owner's word


class Decision(Record):
    """`decision/v1`: a gate said yes or no. One that a policy took says which, and from what."""

    point: Literal["deploy", "load", "serve", "release", "promote"]
    outcome: Literal["allow", "deny"]
    code: str
    subject: str
    message: str
    at: str
    policy: str | None = None  # glf1:… of the policy set that decided: its revision
    engine: str | None = None  # what evaluated it, with its version
    input: str | None = None  # hex SHA-256 of the canonical input document
    registry: str | None = None  # `<size>:<root>` of the registry log that the facts were read at
    reasons: tuple[str, ...] = ()  # lines `policy code`: what denied
    flags: tuple[str, ...] = ()  # the same of policies that only flag
    waived: tuple[str, ...] = ()  # policies that a break-glass put aside
    break_glass: tuple[str, ...] = ()  # names of those


class Assessment(Record):
    """`assessment/v1`: its signer says what an artifact is and may be used for. The last one that counts holds whole.

    An absent field was not assessed, and is not taken from an earlier assessment.
    """

    artifact: str
    at: str
    licence: str | None = None  # SPDX identifier, in lower case
    tier: Literal["minimal", "limited", "high", "systemic"] | None = None
    purposes: tuple[str, ...] = ()
    data_classes: tuple[str, ...] = ()
    reason: str | None = None


class BreakGlass(Record):
    """`break-glass/v1`: one of two signers puts policies aside for deployments that fit a pattern, until a time.

    It is open once another identity agreed to exactly what was asked (`request`: the leaf of that), and until it ends.
    """

    name: str
    action: Literal["request", "agree", "end"]
    at: str
    reason: str
    deployment: str | None = None  # with `request`: a pattern
    policies: tuple[str, ...] = ()
    until: str | None = None
    request: str | None = None  # with `agree`: hex leaf hash of the request


class Review(Record):
    """`review/v1`: a person looked at an answer that was held back, and says what becomes of it."""

    call: str
    verdict: Literal["release", "reject"]
    at: str
    reason: str


class DecisionLog(Record):
    """`decision-log/v1`: decisions that an Open Policy Agent took and sent, kept as they came: its word, not ours."""

    events: int
    denied: int
    body: Blob  # canonical JSON list of the events
    first: str  # of their times, as sent
    last: str
    revisions: tuple[str, ...]  # of the bundles that they name
    at: str
    source: str | None = None  # label `id` of the agent


class LogHead(Record):
    """`checkpoint/v1`: another log of this store stood here. Anchors it in the registry log, the one place to witness.

    `note` is the log's signed checkpoint, word for word; `keys` are its vkeys at that time. The first head of a call
    log names the log that it `continues`; a `closed` log gets no more entries.
    """

    log: str
    origin: str
    size: int
    root: str  # hex
    note: str
    keys: tuple[str, ...]
    at: str
    continues: str | None = None
    closed: bool = False


class Beat(Record):
    """How far one emitter had numbered its calls: `seq` is the last that is in the log, `leaf` its hex leaf hash."""

    emitter: str
    boot: str
    live: bool  # its process was running
    seq: int | None = None  # None: no call of this boot yet
    leaf: str | None = None


class Heartbeat(Record):
    """`heartbeat/v1`: at this time the log held `size` entries and these emitters stood here, also those that idle."""

    log: str
    size: int
    at: str
    emitters: tuple[Beat, ...]


class GapNote(Record):
    """`gap/v1`: frames of an emitter were lost, and this is all that is known about them.

    `store-refused`: the gateway let calls pass whose `frames` could not be written, between `since` and `until`.
    """

    log: str
    emitter: str
    boot: str
    after: str  # decimal: the last frame number before the loss
    reason: Literal["torn", "missing", "no-intent", "store-refused"]
    at: str
    frames: int | None = None
    size: int | None = None
    sha256: str | None = None
    call: str | None = None
    since: str | None = None
    until: str | None = None


class Hold(Record):
    """`hold/v1`: what an incident pins may not be erased, by nobody and no rule, until the hold is lifted.

    Empty selectors select nothing; a call is held if any selector takes it. Subjects stand as the vault's keyed
    digests, never as names.
    """

    action: Literal["place", "lift"]
    name: str  # of the incident
    at: str
    reason: str
    calls: tuple[str, ...] = ()
    tenants: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    since: str | None = None  # with `until`: every call that was made in this time
    until: str | None = None


class Tombstone(Record):
    """`tombstone/v1`: contents of the vault were destroyed, and by which right. The entries and their proofs stand.

    A subject stands as the vault's keyed digest: without the vault key nobody can tell who it was. `calls` counts
    them; `digest` is the hex SHA-256 over their IDs, sorted, each with a line feed.
    """

    scope: Literal["subject", "tenant", "call", "retention"]
    at: str
    reason: str
    calls: int
    digest: str
    subject: str | None = None
    tenant: str | None = None
    before: str | None = None  # retention: everything made before
    what: tuple[str, ...] = ("bodies", "groups", "texts")
    override: str | None = None  # why this was erased before its retention minimum


class EngineSignature(Record, tag_field="t", tag="genealog/engine-signature/v1"):
    """What an engine signs for each call, in a DSSE envelope of type `ENGINE_SIGNATURE`."""

    call: str
    load: str  # leaf hash of the load statement
    request: str  # hex SHA-256 of the request body as the engine got it
    response: str  # hex SHA-256 of the response body as the engine sent it
    report: str  # hex SHA-256 of the canonical report


ENGINE_SIGNATURE = "application/vnd.genealog.engine-signature+json"
LOAD_CHALLENGE = "application/vnd.genealog.load-challenge+json"


class LoadChallenge(Record, tag_field="t", tag="genealog/load-challenge/v1"):
    """What an engine signs to show that it holds the load key now, in an envelope of type `LOAD_CHALLENGE`."""

    load: str
    nonce: str


PREDICATES: dict[str, type[Record]] = {
    "urn:genealog:artifact:v1": Artifact,
    "urn:genealog:execution:v1": Execution,
    "urn:genealog:execution-events:v1": ExecutionEvents,
    "urn:genealog:execution-end:v1": ExecutionEnd,
    "urn:genealog:finding:v1": Finding,
    "urn:genealog:signature:v1": Signature,
    "urn:genealog:approval:v1": Approval,
    "urn:genealog:incident:v1": Incident,
    "urn:genealog:drift:v1": Drift,
    "urn:genealog:context:v1": Context,
    "urn:genealog:ref:v1": Ref,
    "urn:genealog:serving-spec:v1": ServingSpec,
    "urn:genealog:load:v1": Load,
    "urn:genealog:key:v1": Key,
    "urn:genealog:decision:v1": Decision,
    "urn:genealog:assessment:v1": Assessment,
    "urn:genealog:break-glass:v1": BreakGlass,
    "urn:genealog:review:v1": Review,
    "urn:genealog:decision-log:v1": DecisionLog,
    "urn:genealog:checkpoint:v1": LogHead,
    "urn:genealog:heartbeat:v1": Heartbeat,
    "urn:genealog:gap:v1": GapNote,
    "urn:genealog:hold:v1": Hold,
    "urn:genealog:tombstone:v1": Tombstone,
}

TYPES: dict[type[Record], str] = {kind: uri for uri, kind in PREDICATES.items()}


class EngineReport(Record, tag_field="t", tag="genealog/engine-report/v1"):
    """How an engine drew one answer: enough to judge it by log-probabilities and to draw its tokens again."""

    call: str
    sampler: dict[str, str]  # name, temperature, top_p, max_tokens, seed (decimal), seed_source
    prompt_tokens: int
    prompt_sha256: str  # over the prompt's token IDs, each as 4 little-endian bytes
    tokens: tuple[int, ...]
    logprobs: str  # base64 of float32 little-endian, one for each token
    finish_reason: str
    numerics: dict[str, str]

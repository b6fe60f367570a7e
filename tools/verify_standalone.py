"""Verify a Genealog receipt or evidence bundle with nothing but Python and `cryptography`.

    python verify_standalone.py FILE --trust POLICY [--output FILE]

It shares no code with Genealog, so that each can be held against the other. Read it from top to bottom: how bytes are
spelled, what a log proves, what an entry says and who may say it, and last the walk from an output back to the data.
Exit: 0 nothing fails, 1 something is false or malformed, 3 it cannot be told (always so without a policy).

It looks at what it uses: Genealog also refuses fields that it does not know, and policies that name somebody twice.
Logs and witnesses with Ed25519 keys only. Long because it is the whole judge, from bytes to verdict, in one file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace as Item  # an entry: where it is, what it says, its state and why that is not better
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

STATES = ["proven", "stated", "inferred", "claimed", "unchecked", "missing", "contradicted"]  # from strong to weak
EXIT = {"unchecked": 3, "missing": 3, "contradicted": 1}
UNSETTLED = {"unknown-log": "unchecked", "quorum-not-met": "unchecked", "unknown-log-kind": "unchecked",
             "signer-key-missing": "missing"}  # not false, only not to be told with this policy or bundle  # fmt: skip
SERVED = ("model", "adapter", "checkpoint", "base")  # what needs lineage; data, code and environments may begin one
BODIES = ("artifact", "execution", "execution-end", "context", "ref", "serving-spec", "load", "key", "decision")
STATEMENT, EXCHANGE = "application/vnd.in-toto+json", "application/vnd.genealog.engine-signature+json"
Json = dict[str, Any]
Verdict = tuple[str, str | None]  # a state, and the code that says why it is not better
Hop = tuple[int, str, str, str, str | None, "Item | None"]  # depth, role, what, state, code, entry


class Wrong(Exception):  # noqa: N818 - not an error of this program
    """Something does not hold. Its one argument is a stable code."""


def need(condition: object, code: str) -> None:
    if not condition:
        raise Wrong(code)


def worst(state: str, *checks: tuple[object, str, str | None]) -> Verdict:
    """Return the worst of `state` and of every check (holds, else this state, and this code) that fails."""
    failed: list[Verdict] = [(other, code) for holds, other, code in checks if not holds]
    return max([(state, None), *failed], key=lambda verdict: STATES.index(verdict[0]))


# Spelling: JSON in its one canonical form (RFC 8785), base64 in its one form.


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def b64(text: str, code: str = "bad-base64") -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Wrong(code) from None
    need(base64.b64encode(data).decode() == text, code)
    return data


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def read(data: bytes, strict: bool = True) -> Any:
    """Read JSON. Floats and integers beyond 53 bits become text, and so are not spelled as they came."""
    try:
        value = json.loads(data.decode(), parse_float=str, parse_int=lambda n: int(n) if len(n) < 17 else n)
        need(not strict or canonical(value) == data, "not-canonical")
    except (ValueError, RecursionError):
        raise Wrong("not-json") from None
    return value


def record_id(body: Any) -> str:
    return "glr1:" + digest(b"genealog/record/v1\0" + canonical(body))


# Logs: a checkpoint is a signed note; a policy says whose signatures count (C2SP signed-note, tlog-policy, tlog-proof).


class Policy:
    def __init__(self, data: bytes) -> None:
        self.logs: list[tuple[str, str, bytes]] = []  # name, key ID, public key
        self.witnesses: dict[str, tuple[str, str, bytes]] = {}
        self.groups: dict[str, tuple[int, list[str]]] = {}  # so many of these
        for word, *items in (line.split() for line in data.decode().split("\n") if line.strip()):
            if word == "log":
                self.logs.append(self.key(items[0], 1))
            elif word == "witness":
                self.witnesses[items[0]] = self.key(items[1], 4)
            elif word == "group":
                name, wanted, *members = items
                least = {"all": len(members), "any": 1}.get(wanted) or int(wanted)
                need(0 < least <= len({*members} & {*self.witnesses, *self.groups}) == len(members), "trust-malformed")
                self.groups[name] = least, members
            elif word == "quorum":
                self.quorum = items[0]
            else:
                need(word.startswith("#"), "trust-malformed")

    def key(self, vkey: str, kind: int) -> tuple[str, str, bytes]:
        name, key_id, encoded = vkey.split("+", 2)
        raw = b64(encoded, "trust-malformed")
        need(raw[0] == kind and digest(name.encode() + b"\n" + raw)[:8] == key_id, "trust-malformed")
        return name, key_id, raw[1:]

    def check(self, origin: str, text: bytes, signatures: list[tuple[str, bytes]]) -> None:
        """Check every signature by a key that is known here; then that the log and a quorum of witnesses signed."""
        logs, signed = [key for key in self.logs if key[0] == origin], set()
        need(logs, "unknown-log")
        for key in (*logs, *self.witnesses.values()):
            for blob in (blob[4:] for name, blob in signatures if (name, blob[:4].hex()) == key[:2]):
                cosigned = b"cosignature/v1\ntime %d\n" % int.from_bytes(blob[:8], "big") + text
                signature, message = (blob, text) if key in logs else (blob[8:], cosigned)
                try:
                    ed25519.Ed25519PublicKey.from_public_bytes(key[2]).verify(signature, message)
                except (InvalidSignature, ValueError):
                    raise Wrong("checkpoint-signature-invalid") from None
                signed.add(key)
        need(signed.intersection(logs), "checkpoint-signature-invalid")
        met = {"none", *(name for name, key in self.witnesses.items() if key in signed)}
        for name, (least, members) in self.groups.items():
            met |= {name} if len(met.intersection(members)) >= least else set()
        need(self.quorum in met, "quorum-not-met")


def parse_proof(proof: str) -> tuple[int, list[bytes], str, list[tuple[str, bytes]]]:
    """Return index, hashes, the text of the checkpoint, and its signatures (name, key ID and signature)."""
    form = r"c2sp\.org/tlog-proof@v1\n(?:extra (\S+)\n)?index (0|[1-9][0-9]{0,18})((?:\n\S{44}){0,63})\n\n((?s:.+))"
    if not (head := re.fullmatch(form, proof)):
        raise Wrong("proof-malformed")
    line = r"[^\x00-\x1f]+\n"
    form = rf"({line}(?:0|[1-9][0-9]{{0,18}})\n\S{{44}}\n(?:{line})*)\n((?:— [^\s+]+ \S+\n){{1,100}})"
    if not (note := re.fullmatch(form, head[4])):
        raise Wrong("note-malformed")
    signatures = [(words[1], b64(words[2], "note-malformed")) for words in map(str.split, note[2].strip().split("\n"))]
    hashes = [b64(word, "proof-malformed") for word in (head[1] or "", *head[3].split())]
    return int(head[2]), hashes[1:], note[1], signatures


def root_of(entry: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Return the root that an inclusion path leads to (RFC 9162, section 2.1.3.2)."""
    node, last, result = index, size - 1, hashlib.sha256(b"\0" + entry).digest()
    for sibling in path:
        need(last and len(sibling) == 32, "inclusion-proof-mismatch")
        left = node & 1 or node == last
        result = hashlib.sha256(b"\1" + (sibling + result if left else result + sibling)).digest()
        while left and node and not node & 1:
            node, last = node >> 1, last >> 1
        node, last = node >> 1, last >> 1
    need(last == 0 and index < size, "inclusion-proof-mismatch")
    return result


# Entries: what they say (DSSE, in-toto), and who says it.


def blame(item: Item, code: str, state: str = "contradicted") -> None:
    """Note a problem, unless a worse one is known."""
    state = UNSETTLED.get(code, state)
    if item.code is None or STATES.index(state) > STATES.index(item.state):
        item.state, item.code = max(item.state, state, key=STATES.index), code


@contextmanager
def blaming(item: Item) -> Iterator[None]:
    try:
        yield
    except Wrong as wrong:
        blame(item, wrong.args[0])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        blame(item, "schema-mismatch")


def open_envelope(data: bytes, kind: str) -> tuple[bytes, str, bytes]:
    """Return payload, key ID and signature of an envelope, which has one signature."""
    value = read(data)
    need(value["payloadType"] == kind, "wrong-payload-type")
    need(len(value["signatures"]) == 1, "many-signatures" if value["signatures"] else "unsigned")
    return b64(value["payload"]), value["signatures"][0]["keyid"], b64(value["signatures"][0]["sig"])


def check_signature(key: Json, signed: tuple[bytes, str, bytes], kind: str, code: str = "signature-invalid") -> None:
    payload, _, signature = signed
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    public = load_der_public_key(b64(key["public"]))
    try:
        if isinstance(public, ed25519.Ed25519PublicKey):
            public.verify(signature, message)
        elif isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1):
            public.verify(signature, message, ec.ECDSA(SHA256()))
        else:
            raise Wrong("bad-public-key")
    except InvalidSignature:
        raise Wrong(code) from None


def place(receipt: Json, policy: Policy | None) -> Item:
    """Find out where an entry is, whether that log is trusted, and what the entry says."""
    item = Item(origin=receipt["origin"], state="proven" if policy else "unchecked", code=None, used=False)
    item.index, item.leaf, item.tree, item.kind, item.name, item.body, item.about = -1, "", None, "", "", {}, []
    item.signed, item.key = (b"", "", b""), {}
    with blaming(item):
        entry = b64(receipt["entry"])
        item.index, path, text, signatures = parse_proof(receipt["proof"])
        item.leaf = digest(b"\0" + entry)
    if not item.leaf:
        return item
    with blaming(item):
        origin, size, root, *_ = text.split("\n")
        need(origin == item.origin, "origin-mismatch")
        need(root_of(entry, item.index, int(size), path) == b64(root), "inclusion-proof-mismatch")
        item.tree = (size, root)
        if policy:
            policy.check(origin, text.encode(), signatures)
    with blaming(item):
        parse_entry(item, entry, item.origin.rpartition("/")[2])
    return item


def parse_entry(item: Item, entry: bytes, log: str) -> None:
    """Read a call, or a statement, whose subjects have to be the IDs that its body is about."""
    need(log in ("calls", "registry"), "unknown-log-kind")
    if log == "calls":
        body = read(entry)
        need(body["t"] == "genealog/call/v1" and {"call", "finish", "assurance"} <= body.keys(), "schema-mismatch")
        item.kind, item.body = "call", body
        return
    item.signed = open_envelope(entry, STATEMENT)
    statement = read(item.signed[0])
    kind, body = statement["predicateType"].removeprefix("urn:genealog:").removesuffix(":v1"), statement["predicate"]
    need(kind in BODIES and statement["_type"] == "https://in-toto.io/Statement/v1", "unknown-predicate")
    given = [":".join(pair) for subject in statement["subject"] for pair in sorted(subject["digest"].items())]
    made = [event["artifact"] for event in body.get("events", []) if event["direction"] == "out"]
    if kind == "artifact":
        subjects = [record_id(body["body"])] if "body" in body else [name for name in given if name.startswith("glf1:")]
        subjects += [body["weights"]["id"]] if "weights" in body else []
    elif kind == "execution-end":
        subjects = [body["execution"], *made]
    elif kind == "load":
        subjects = [part[name] for part in body["loaded"] for name in ("artifact", "weights")]
    elif kind == "key":
        need(body["action"] == "revoke" or digest(b64(body["public"])) == body["keyid"], "key-mismatch")
        subjects = [f"sha256:{body['keyid']}"]
    else:
        subjects = [body["to"] if kind == "ref" else record_id(body)]
    need(given == subjects, "subject-mismatch")
    item.about = made if kind == "execution-end" else subjects[:1]
    item.kind, item.body, item.name = kind, body, statement["subject"][0]["name"]


def attribute(items: list[Item]) -> dict[str, Json]:
    """Find who signed the entries of one registry, in log order, and whether they might. Returns revocations by key."""
    added: dict[str, Item] = {}
    revoked: dict[str, Item] = {}
    shown = {item.body["keyid"]: item.index for item in items if item.kind == "key" and item.body["action"] == "add"}
    for item in items:
        keyid, adds = item.signed[1], item.kind == "key" and item.body["action"] == "add"
        holder = added.get(keyid) or (item if adds and item.body["keyid"] == keyid else None)
        with blaming(item):
            if holder is None:
                need(keyid in shown, "signer-key-missing")
                raise Wrong("key-registered-later" if shown[keyid] > item.index else "key-unsound")
            check_signature(holder.body, item.signed, STATEMENT)
            item.key, role = holder.body, holder.body["role"]
            if holder is item:  # the first entry of a registry is its owner's key, which vouches for itself
                need(item.index == 0 and role == "owner", "key-not-vouched-for")
            else:
                need(keyid not in revoked or revoked[keyid].index >= item.index, "key-revoked")
                need(item.kind != "key" or role == "owner", "role-not-allowed")
                need(role != "engine" or item.kind in ("load", "decision"), "role-not-allowed")
                need(item.kind != "load" or (role == "engine" and item.body["keyid"] == keyid), "role-not-allowed")
                if STATES.index(holder.state) > STATES.index(item.state):
                    blame(item, holder.code, holder.state)
        if item.kind == "key" and item.state != "contradicted":
            (added if adds else revoked).setdefault(item.body["keyid"], item)
    return {keyid: item.body for keyid, item in revoked.items()}


def compare_views(items: list[Item]) -> None:
    """A log that has two roots for one size, or two entries at one index, shows different histories."""
    views: dict[tuple[str, str, object], dict[str, list[Item]]] = {}
    for item in (item for item in items if item.tree and item.state != "contradicted"):
        for what, number, value in (("size", *item.tree), ("index", item.index, item.leaf)):
            views.setdefault((item.origin, what, number), {}).setdefault(value, []).append(item)
    for item in (item for view in views.values() if len(view) > 1 for same in view.values() for item in same):
        blame(item, "log-forked")


# The walk: output, call, serving spec, load, model and adapters, the runs that made them, what went in, and so on.


class Walk:
    def __init__(self, evidence: Json, policy: Policy | None, output: bytes | None) -> None:
        self.evidence, self.policy, self.output = evidence, policy, output
        self.hops: list[Hop] = []
        self.revoked: dict[str, dict[str, Json]] = {}
        self.pins: dict[str, Json] = {}  # what the serving spec pins, by artifact ID: the model first
        self.seen: set[str] = set()
        self.path: set[str] = set()  # the artifacts between the output and here
        self.todo: list[Callable[[], None]] = []  # lineage may be longer than Python's own stack
        items = [place(receipt, policy) for receipt in evidence["receipts"]]
        compare_views(items)
        for name in dict.fromkeys(item.origin for item in items):
            own = [item for item in items if item.origin == name and item.kind not in ("", "call")]
            self.revoked[name] = attribute(sorted(own, key=lambda item: (item.index, STATES.index(item.state))))
        self.items = sorted(items, key=lambda item: (STATES.index(item.state), item.index))  # the soundest first
        call = next((item for item in self.items if item.leaf == evidence["call"]), None)
        if call and call.kind == "call":
            self.registry = call.origin.removesuffix("calls") + "registry"  # of the same store, and no other
            self.call(call, call.body)
        else:
            self.add(0, "call", evidence["call"], ("missing", "call-not-in-bundle"))
        for item in items:
            if item.code and not item.used:
                self.add(0, "receipt", f"{item.origin} {item.index}", (item.state, item.code), item)

    def add(self, depth: int, role: str, what: str, verdict: Verdict, item: Item | None = None) -> None:
        """Add a hop, no stronger than the entry that it rests on, and without a policy `unchecked` at best."""
        if item is not None:
            item.used = True
            if item.code and STATES.index(item.state) >= STATES.index(verdict[0]):
                verdict = item.state, item.code
        if self.policy is None:
            verdict = max(verdict[0], "unchecked", key=STATES.index), verdict[1] or "no-trust-policy"
        self.hops.append((depth, role, what, *verdict, item))

    def find(self, kind: str, *, about: str | None = None, leaf: str | None = None) -> list[Item]:
        own = [item for item in self.items if item.origin == self.registry and kind in ("", item.kind)]
        return [item for item in own if about in (None, *item.about) and leaf in (None, item.leaf)]

    def call(self, item: Item, call: Json) -> None:
        groups: dict[str, Json] = {}
        verdict: Verdict = "proven", None
        for name, opened in sorted(self.evidence.get("groups", {}).items()):
            body = b64(opened["body"])
            sealed = digest(b"genealog/seal/v1\0" + bytes.fromhex(opened["salt"]) + body)
            try:
                need(name in call["seals"], "unknown-group")
                need(sealed == call["seals"][name], "seal-mismatch")
                groups[name] = read(body)
            except Wrong as wrong:
                verdict = "contradicted", wrong.args[0].replace("not-canonical", "group-malformed")
        request, refused = groups.get("request"), call["finish"] == "refused"
        self.add(0, "output", call["finish"], self.judge_output(call, groups.get("response"), refused))
        self.add(1, "call", call["call"], verdict, item)
        if "request" in self.evidence:
            same = request is None or request["wire"] == digest(b64(self.evidence["request"]))
            shown = request is not None
            verdict = worst(
                "proven", (shown, "unchecked", "request-sealed"), (same, "contradicted", "request-mismatch")
            )
            self.add(2, "prompt", "the request", verdict)
        if refused:
            return
        specs = self.find("serving-spec", about=call.get("spec", ""))
        if not specs:
            code = "spec-not-in-bundle" if "spec" in call else "spec-not-recorded"
            self.add(2, "serving spec", call.get("spec", "none"), ("missing", code))
            return
        pins = [specs[0].body["model"], *specs[0].body.get("adapters", [])]
        same = [pin["artifact"] for pin in pins] == call.get("models", [])
        self.add(2, "serving spec", specs[0].name, worst("stated", (same, "contradicted", "models-not-spec")), specs[0])
        self.load(call, groups, pins)
        self.pins = {pin["artifact"]: pin for pin in pins}
        for number, pin in enumerate(pins):  # a stack: the model comes last
            self.todo.append(partial(self.artifact, 4, "adapter" if number else "model", pin["artifact"]))
        while self.todo:
            self.todo.pop()()

    def judge_output(self, call: Json, response: Json | None, refused: bool) -> Verdict:
        """Compare the body in the bundle, and the output that somebody holds, with what the call says."""
        body, output = self.evidence.get("response"), self.output
        if response is None or "wire" not in response:
            unseen, silent = call["finish"] == "unknown" or response, refused and body is None and output is None
            return worst("proven", (silent, "unchecked", "response-sealed"), (not unseen, "missing", "end-not-seen"))
        bodies = (response["wire"], response.get("delivered", {}).get("sha256"))
        same = output is None or digest(output) in (*bodies, *response.get("text", []))
        same = same and (body is None or digest(b64(body)) in bodies)
        held = refused or body is not None or output is not None
        return worst("proven", (held, "unchecked", "output-not-included"), (same, "contradicted", "output-mismatch"))

    def load(self, call: Json, groups: dict[str, Json], pins: list[Json]) -> None:
        engine = groups.get("engine", {})
        item = next(iter(self.find("load", leaf=engine.get("load", ""))), None)
        verdict: Verdict
        if call["assurance"] < "A3":
            verdict = "claimed", "not-measured"
        elif not engine:
            verdict = "unchecked", "engine-sealed"
        elif "load" not in engine or "envelope" not in engine:
            verdict = "contradicted", "assurance-unfounded"
        elif item is None:
            verdict = "missing", "load-not-in-bundle"
        else:
            try:
                verdict = self.judge_engine(call, groups, pins, item) if item.key else (item.state, item.code)
            except Wrong as wrong:
                verdict = "contradicted", wrong.args[0]
        self.add(3, "load", item.body["engine"] if item else call["assurance"], verdict, item)

    def judge_engine(self, call: Json, groups: dict[str, Json], pins: list[Json], item: Item) -> Verdict:
        """Check the engine's signature over this very exchange, and that it loaded what the serving spec pins."""
        if "request" not in groups or "response" not in groups:
            return "unchecked", "response-sealed" if "request" in groups else "request-sealed"
        engine, loaded = groups["engine"], item.body["loaded"]
        signed = open_envelope(b64(engine["envelope"]), EXCHANGE)
        need(signed[1] == item.key["keyid"], "engine-signer-unknown")
        check_signature(item.key, signed, EXCHANGE, "engine-signature-invalid")
        exchange = {"t": "genealog/engine-signature/v1", "call": call["call"], "load": item.leaf}
        exchange |= {name: groups[name]["wire"] for name in ("request", "response")} | {"report": engine["report"]}
        need(read(signed[0]) == exchange, "engine-signature-mismatch")
        revoked = self.revoked[self.registry].get(signed[1])
        need(revoked is None or revoked["at"] > call["called_at"], "engine-key-revoked")
        need([part["artifact"] for part in loaded] == call.get("models", []), "load-not-spec")
        for pin, part in zip(pins, loaded, strict=False):
            need(pin.get("weights") in (None, part["weights"]), "load-not-spec")
        return worst("stated", (call["assurance"] == "A3", "unchecked", "attestation-unchecked"))

    def artifact(self, depth: int, role: str, name: str, weights: str | None = None, said: str = "stated") -> None:
        """Add an artifact, and go on to what made it. What is pinned is compared wherever it is met."""
        pin = self.pins.get(name)
        story = next(iter(self.find("", leaf=pin["lineage"])), None) if pin else None
        made, found = self.find("execution-end", about=name), self.find("artifact", about=name)
        if not found:
            self.add(depth, role, name, ("missing", "artifact-not-in-bundle"))
            return
        item = story if story in found else found[0]
        wanted = {weights, pin and pin.get("weights")} - {None}
        verdict = worst(
            "stated",
            (False, said, f"edge-{said}"),
            (wanted <= {item.body.get("weights", {}).get("id")}, "contradicted", "weights-mismatch"),
            (story is None or story in made + found, "contradicted", "lineage-mismatch"),
            (story or not pin, "missing", "lineage-not-in-bundle"),
        )
        self.add(depth, role, item.name, verdict, item)
        known, circle = name in self.seen, name in self.path
        made = [end for end in made if story in (None, end)]
        if (circle or not (known or made)) and (role in SERVED or item.body["kind"] in SERVED[:3]):
            gap = "lineage-circular" if circle else "no-lineage"
            outside = "source" in item.body or "body" in item.body
            verdict = ("claimed", "outside-origin") if outside else ("missing", gap)
            self.add(depth + 1, "source", item.body.get("source", "?"), verdict)
        if not known:
            self.seen.add(name)
            self.path.add(name)
            self.todo.append(partial(self.path.discard, name))
            self.todo += [partial(self.run, depth + 1, end, name) for end in reversed(made)]

    def run(self, depth: int, item: Item, output: str) -> None:
        """Add the execution that an artifact came out of, and go on to what went in."""
        end, events = item.body, item.body["events"]
        start = next(iter(self.find("execution", about=end["execution"])), None)
        into = [event for event in events if event["direction"] == "in"]
        said = [e["state"] for e in events if e["direction"] == "out" and e["artifact"] == output]
        bases = [event["artifact"] for event in into if event["role"] == "base"]
        model, *adapters = self.pins or [""]
        based = output not in adapters or model in bases
        verdict = worst(
            "stated",
            *((False, state, f"edge-{state}") for state in said),
            (False, start.state, start.code) if start else (False, "missing", "execution-not-in-bundle"),
            (end["exit"] == "succeeded", "claimed", "run-failed"),
            (based or bases, "missing", "base-unknown"),
            (based or not bases, "contradicted", "wrong-base"),
        )
        self.add(depth, "run", end["execution"], verdict, item)
        if item.leaf in self.seen:
            return
        self.seen.add(item.leaf)
        steps = [(event["role"], event["artifact"], event.get("weights"), event["state"]) for event in into]
        if start:
            start.used = True
            made_with = [(role, start.body[role]) for role in ("code", "environment") if role in start.body]
            shown = [event["artifact"] for event in into]
            steps += [(role, name, None, "stated") for role, name in made_with if name not in shown]
        self.todo += [partial(self.artifact, depth + 1, *step) for step in reversed(steps)]


def texts(value: Any, needed: str, optional: str = "") -> Json:
    """Return an object that has these fields, and maybe those, and no others; all of them are text."""
    need(isinstance(value, dict) and {*needed.split()} <= value.keys(), "schema-mismatch")
    need(value.keys() <= {*needed.split(), *optional.split()}, "schema-mismatch")
    need(all(isinstance(text, str) for text in value.values()), "schema-mismatch")
    return dict(value)


def verify(data: bytes, policy: Policy | None, output: bytes | None = None) -> list[Hop]:
    """Return every hop of a bundle, or the one of a receipt. Raises Wrong for a file that is neither."""
    value = read(data, strict=False)
    kind = value.get("t") if isinstance(value, dict) else None
    need(kind in ("genealog/receipt/v1", "genealog/evidence/v1"), "not-evidence")
    receipts = [value] if kind == "genealog/receipt/v1" else value.get("receipts")
    need(isinstance(receipts, list), "schema-mismatch")
    for receipt in receipts:
        need(texts(receipt, "entry origin proof t")["t"] == "genealog/receipt/v1", "schema-mismatch")
    if kind == "genealog/receipt/v1":
        read(data)
        item = place(value, policy)
        code = item.code or (None if policy else "no-trust-policy")
        return [(0, "entry", item.name or item.kind, item.state, code, item)]
    groups = value.get("groups", {})
    need(isinstance(groups, dict) and (groups or "groups" not in value), "schema-mismatch")
    told = texts(
        {name: value[name] for name in value if name not in ("groups", "receipts")}, "call t", "request response"
    )
    opened = [texts(group, "body salt") for group in groups.values()]
    for text in (told.get("request", ""), told.get("response", ""), *(group["body"] for group in opened)):
        b64(text)
    for text in (told["call"], *(group["salt"] for group in opened)):
        need(re.fullmatch("[0-9a-f]{64}", text), "bad-hex")
    read(data)
    return Walk(value, policy, output).hops


def main() -> int:
    parser = argparse.ArgumentParser(description="Verify a Genealog receipt or evidence bundle.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--trust", type=Path, help="logs and witnesses, in tlog-policy format")
    parser.add_argument("--output", type=Path, help="the answer that you hold")
    given = parser.parse_args()
    try:
        policy = Policy(given.trust.read_bytes()) if given.trust else None
        hops = verify(given.file.read_bytes(), policy, given.output.read_bytes() if given.output else None)
    except (Wrong, KeyError, TypeError, ValueError, AttributeError) as error:
        print(f"malformed [{error.args[0] if isinstance(error, Wrong) else 'schema-mismatch'}]")
        return 1
    for depth, role, what, state, code, item in hops:
        by = f"  by {item.key.get('identity', '(the log)')}, {item.origin} {item.index}" if item else ""
        line = f"{state:12}  {'  ' * min(depth, 40)}{role}  {what}{by}" + (f"  [{code}]" if code else "")
        print("".join(letter if letter.isprintable() else "?" for letter in line))
    _, role, what, state, code, _ = max(hops, key=lambda hop: STATES.index(hop[3]))
    print(f"weakest: {state}  {role}" + (f"  [{code}]" if code else ""))
    return EXIT.get(state, 0)


if __name__ == "__main__":
    sys.exit(main())

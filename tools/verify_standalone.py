"""Verify a Genealog receipt, disclosure or evidence bundle with nothing but Python and `cryptography`.

    python verify_standalone.py FILE --trust POLICY [--output FILE]

It shares no code with Genealog, so that each can be held against the other. Read it from top to bottom: what codes
mean, how bytes are spelled, what a log proves, what an entry says and who may say it, and last the walk from an output
back to the data. Every check names the code of its failure, and the code alone says how bad that is (`MEANING`).
Exit: 0 nothing fails, 1 something is false or malformed, 3 it cannot be told (always so without a policy).

It looks at what it uses: Genealog also refuses fields that it does not know, and policies that name somebody twice.
Logs with Ed25519 keys only, witnesses with ML-DSA-44 too; timestamps are not looked at. Long because it is the whole
judge, from bytes to verdict, in one file: seven formats, and more than fifty ways to fail, each of which has a name.
"""
# The formatter would give each argument of a long call a line, and bury the checks among them.
# fmt: off

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace as Item  # an entry: where it is, what it says, who signed it, `code`: what is wrong
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

Json = dict[str, Any]
Hop = tuple[int, str, str, str, str | None, Item | None]  # depth, role, what, state, code, entry
STATES = ["proven", "stated", "inferred", "claimed", "unchecked", "missing", "contradicted"]  # from strong to weak
EXIT = {"unchecked": 3, "missing": 3, "contradicted": 1}
MEANING = {None: "proven"} | {f"edge-{state}": state for state in STATES} | {code: state for state, codes in {
    "claimed": "not-measured outside-origin run-failed run-open",
    "unchecked": "attestation-unchecked engine-sealed key-compromise-unclear no-trust-policy output-not-included"
                 " request-sealed response-sealed signature-unsupported unknown-log unknown-log-kind",
    "missing": "artifact-not-in-bundle base-unknown call-not-in-bundle end-not-seen events-not-in-bundle no-lineage"
               " execution-not-in-bundle lineage-circular lineage-not-in-bundle load-not-in-bundle quorum-not-met"
               " signer-key-missing spec-not-in-bundle spec-not-recorded",
}.items() for code in codes.split()}  # every other code means: contradicted

class Wrong(Exception):  # noqa: N818 - not an error of this program
    """Something does not hold. Its one argument is a stable code."""

def need(condition: object, code: str) -> None:
    if not condition:
        raise Wrong(code)

def fault(step: Callable[..., object], *given: Any) -> str | None:
    """Take a step, and return the code of what fails in it. What is not shaped as it should be breaks in any way."""
    try:
        step(*given)
    except Wrong as wrong:
        return str(wrong.args[0])
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError, UnsupportedAlgorithm):
        return "schema-mismatch"
    return None

def rank(code: str | None) -> int:
    return STATES.index(MEANING.get(code, "contradicted"))

# Spelling: JSON in its one canonical form (RFC 8785), base64 in its one form, hashes of them, and signatures.
def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

def b64(text: str) -> bytes:
    data = base64.b64decode(text)
    need(base64.b64encode(data).decode() == text, "bad-base64")
    return data

def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")

def record_id(body: Any) -> str:
    return "glr1:" + digest(b"genealog/record/v1\0" + canonical(body))

def read(data: bytes) -> Any:
    """Read JSON. Floats and integers beyond 53 bits become text, and so are not spelled as they came."""
    try:
        value = json.loads(data.decode(), parse_float=str, parse_constant=str,
                           parse_int=lambda digits: int(digits) if abs(int(digits)) < 1 << 53 else digits)
    except (ValueError, RecursionError):
        raise Wrong("not-json") from None
    need(canonical(value) == data, "not-canonical")
    return value

def check_signature(der: bytes, signature: bytes, message: bytes, code: str) -> None:
    key = load_der_public_key(der)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
            key.verify(signature, message, ec.ECDSA(SHA256()))
        else:
            raise Wrong("bad-public-key")
    except InvalidSignature:
        raise Wrong(code) from None

# Logs: a checkpoint is a signed note; a policy says whose signatures count (C2SP signed-note, tlog-policy, tlog-proof).
ED25519 = bytes.fromhex("302a300506032b6570032100")  # what stands before the 32 bytes of such a key in DER
LINE, NUMBER = r"[^\x00-\x1f]+", "(?:0|[1-9][0-9]{0,18})"
CALL_LOG = re.compile(r"calls(?:-[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?)?(?:_[1-9][0-9]{0,5})?")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TIMES = ("at", "registered_at", "started_at", "ended_at", "loaded_at")  # what a statement gives itself
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
PROOF = re.compile(
    rf"c2sp\.org/tlog-proof@v1\n(?:extra [\w+/=]+\n)?index (?P<index>{NUMBER})\n(?P<path>(?:\S{{44}}\n){{0,63}})\n"
    rf"(?P<text>(?P<origin>{LINE})\n(?P<size>{NUMBER})\n(?P<root>\S{{44}})\n(?:{LINE}\n)*)\n"
    r"(?P<signatures>(?:— [^\s+]+ \S+\n){1,100})")

def check_note(name: str, key: bytes, blob: bytes, text: bytes) -> None:
    """Check one signature under a checkpoint: type 1 is the log's, 4 a cosignature, 6 one with ML-DSA-44."""
    code = "checkpoint-signature-invalid"
    if key[0] == 1:
        return check_signature(ED25519 + key[1:], blob, text, code)
    need(blob[:1] < b"\x80", code)  # times end at 2**63
    if key[0] == 4:
        cosigned = b"cosignature/v1\ntime %d\n" % int.from_bytes(blob[:8], "big") + text
        return check_signature(ED25519 + key[1:], blob[8:], cosigned, code)
    origin, size, root = text.split(b"\n")[:3]
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey  # not in every build
        whose = [bytes([len(word)]) + word for word in (name.encode(), origin)]
        subtree = whose[0] + blob[:8] + whose[1] + bytes(8) + int(size).to_bytes(8, "big") + base64.b64decode(root)
        MLDSA44PublicKey.from_public_bytes(key[1:]).verify(blob[8:], b"subtree/v1\n\0" + subtree)
    except (InvalidSignature, ValueError):
        raise Wrong(code) from None
    except (ImportError, UnsupportedAlgorithm):
        raise Wrong("signature-unsupported") from None
    return None

class Policy:
    """Whose signatures count: those of logs, and of a quorum of witnesses."""

    def __init__(self, data: bytes) -> None:
        self.keys: dict[tuple[str, str], tuple[str, bytes]] = {}  # by name and key ID: witness ("": log), type and key
        self.groups: dict[str, tuple[int, list[str]]] = {}  # so many of these
        names, free, seen, quorums = {"none"}, set[str](), set[tuple[str, bytes]](), list[str]()
        need(data.endswith(b"\n") and not CONTROL.search(data), "trust-malformed")  # cut, it could ask for less
        for line in data.decode().split("\n"):
            word, *items = re.split(r"[ \t]+", line.strip(" \t"))
            if word in ("log", "witness"):
                label = items[0] if word == "witness" else ""
                name, key_id, encoded = items[word == "witness"].split("+", 2)
                raw = b64(encoded)
                need(digest(name.encode() + b"\n" + raw)[:8] == key_id, "trust-malformed")
                need(raw[0] in {"log": (1,), "witness": (4, 6)}[word], "trust-malformed")
                need(len(raw) == (1313 if raw[0] == 6 else 33), "trust-malformed")
                need((word, raw) not in seen and label not in names, "trust-malformed")  # nobody counts twice
                self.keys[name, key_id] = label, raw
                seen.add((word, raw))
                names |= {label} - {""}
                free |= {label} - {""}
            elif word == "group":
                name, wanted, *members = items
                least = {"all": len(members), "any": 1}.get(wanted) or int(wanted)
                need(wanted in ("all", "any") or re.fullmatch("[1-9][0-9]{0,5}", wanted), "trust-malformed")
                need(0 < least <= len(free.intersection(members)) == len(members), "trust-malformed")
                need(name not in names, "trust-malformed")
                self.groups[name] = least, members
                names.add(name)
                free = free.difference(members) | {name}
            elif word == "quorum":
                need(len(items) == 1 and items[0] in names, "trust-malformed")
                quorums += items
            else:
                need(not word or word.startswith("#"), "trust-malformed")
        need(len(quorums) == 1, "trust-malformed")
        self.quorum = quorums[0]

    def check(self, origin: str, text: bytes, signatures: list[tuple[str, bytes]]) -> float:
        """Check every signature by a known key; then that log and quorum signed. Returns by when all witnesses had."""
        need((origin, "") in {(name, who) for (name, _), (who, _) in self.keys.items()}, "unknown-log")
        met, times = {"none"}, list[int]()
        for name, blob in signatures:
            who, key = self.keys.get((name, blob[:4].hex()), ("", b""))
            if key and (who or name == origin):
                check_note(name, key, blob[4:], text)
                met.add(who)
                times += [int.from_bytes(blob[4:12])] if who else []
        need("" in met, "checkpoint-signature-invalid")
        for name, (least, members) in self.groups.items():  # members stand above their group
            met |= {name} if len(met.intersection(members)) >= least else set()
        need(self.quorum in met, "quorum-not-met")
        return max(times, default=float("inf"))

def root_of(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Return the root that an inclusion path leads to (RFC 9162, section 2.1.3.2).

    Until the ways up from this leaf and from the last one meet, the index says on which side a sibling stands; above,
    all stand left, one for each bit of the index that is set.
    """
    need(index < size, "inclusion-proof-mismatch")
    apart = (index ^ (size - 1)).bit_length()
    need(len(path) == apart + (index >> apart).bit_count(), "inclusion-proof-mismatch")
    for level, sibling in enumerate(path):
        left = level >= apart or index >> level & 1
        leaf = hashlib.sha256(b"\1" + (sibling + leaf if left else leaf + sibling)).digest()
    return leaf

# Entries: what they say (DSSE, in-toto), and who says it.
STATEMENT, EXCHANGE = "application/vnd.in-toto+json", "application/vnd.genealog.engine-signature+json"
MAKING = ("execution-end", "execution-events")  # statements of what went in and what came out

SUBJECTS: dict[str, Callable[[Json], list[str]]] = {  # what a statement of each kind is about, as its body tells
    "artifact": lambda body: [body["weights"]["id"]] if "weights" in body else [],  # after its own ID: `parse_entry`
    "finding": lambda said: [said["execution"], said["artifact"]], "drift": lambda said: [said["version"]],
    "load": lambda body: [part[name] for part in body["loaded"] for name in ("artifact", "weights")],
    "key": lambda body: ["sha256:" + body["keyid"]],
    "ref": lambda said: [said["to"]], "approval": lambda a: [a["spec"]],
} | dict.fromkeys(["signature", "assessment"], lambda said: [said["artifact"]]) | dict.fromkeys(
    ["execution", "context", "serving-spec", "decision", "checkpoint", "heartbeat", "gap", "hold", "tombstone",
     "review", "incident", "break-glass", "decision-log"], lambda body: [record_id(body)]) | dict.fromkeys(
    MAKING, lambda b: [b["execution"], *(e["artifact"] for e in b.get("events", []) if e["direction"] == "out")])
MAY_STATE = {"owner": {*SUBJECTS} - {"load"}, "signer": {*SUBJECTS} - {"load", "key"}, "engine": {"load", "decision"}}

def place(receipt: Json, policy: Policy | None) -> Item:
    """Find out where an entry is and what it says, not yet who signed it."""
    item = Item(origin=receipt["origin"], index=-1, leaf="", tree=None, kind="", name="", about=[], key={}, used=False)
    item.at, item.seen = "", float("inf")
    item.code = max(fault(locate, item, receipt, policy), fault(parse_entry, item), key=rank)
    return item

def locate(item: Item, receipt: Json, policy: Policy | None) -> None:
    """Find out where an entry is, and whether that log is trusted."""
    entry, proof = b64(receipt["entry"]), PROOF.fullmatch(receipt["proof"])
    if proof is None:
        raise Wrong("proof-malformed")
    path, root, size = [b64(word) for word in proof["path"].split()], b64(proof["root"]), int(proof["size"])
    signatures = [(name, b64(blob)) for name, blob in re.findall(r"— (\S+) (\S+)\n", proof["signatures"])]
    item.entry, item.index, item.leaf = entry, int(proof["index"]), digest(b"\0" + entry)
    need(proof["origin"] == item.origin, "origin-mismatch")
    need(root_of(bytes.fromhex(item.leaf), item.index, size, path) == root, "inclusion-proof-mismatch")
    item.tree = size, root
    if policy:
        item.seen = policy.check(item.origin, proof["text"].encode(), signatures)

def open_envelope(data: bytes, kind: str) -> tuple[bytes, str, bytes, bytes]:
    """Return payload, key ID, signature, and the message signed, of an envelope, which has one signature."""
    value = read(data)
    need(value["payloadType"] == kind, "wrong-payload-type")
    need(len(value["signatures"]) == 1, "many-signatures")
    payload, signature = b64(value["payload"]), value["signatures"][0]
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    return payload, signature["keyid"], b64(signature["sig"]), message

def parse_entry(item: Item) -> None:
    """Read a call, or a statement, whose subjects have to be the IDs that its body is about."""
    log = item.origin.rpartition("/")[2]
    need(CALL_LOG.fullmatch(log) or log == "registry", "unknown-log-kind")
    if log != "registry":
        body = read(item.entry)
        need(body["t"] == "genealog/call/v1" and {"assurance", "finish", "seals"} <= body.keys(), "schema-mismatch")
        item.kind, item.name, item.body = "call", body["call"], body
        return
    item.signed = open_envelope(item.entry, STATEMENT)
    statement = read(item.signed[0])
    body, uri, subject = statement["predicate"], statement["predicateType"], statement["subject"]
    kind = uri.removeprefix("urn:genealog:").removesuffix(":v1")
    need(kind in SUBJECTS and uri == f"urn:genealog:{kind}:v1", "unknown-predicate")
    need(statement["_type"] == "https://in-toto.io/Statement/v1", "unknown-predicate")
    subjects = SUBJECTS[kind](body)
    if kind == "artifact":  # what has files is named in the statement alone
        subjects.insert(0, record_id(body["body"]) if "body" in body else "glf1:" + subject[0]["digest"]["glf1"])
    adds = kind == "key" and body["action"] == "add"
    need(not adds or digest(b64(body["public"])) == body["keyid"], "key-mismatch")
    need(kind != "key" or "since" not in body or TIME.fullmatch(body["since"]), "bad-time")
    item.at = next((body[name] for name in TIMES if TIME.fullmatch(str(body.get(name)))), "")
    given = [":".join(pair) for each in subject for pair in sorted(each["digest"].items())]
    need(given == subjects, "subject-mismatch")
    item.about = subjects[1:] if kind in MAKING else subjects[:1]
    item.kind, item.name, item.body = kind, subject[0]["name"], body

def compare_views(items: list[Item]) -> None:
    """A log that has two roots for one size, or two entries at one index, shows different histories."""
    views: dict[tuple[str, str, int], dict[object, list[Item]]] = {}
    for item in (item for item in items if item.tree and rank(item.code) < rank("log-forked")):
        for what, number, value in (("size", *item.tree), ("index", item.index, item.leaf)):
            views.setdefault((item.origin, what, number), {}).setdefault(value, []).append(item)
    for item in (item for view in views.values() if len(view) > 1 for same in view.values() for item in same):
        item.code = max(item.code, "log-forked", key=rank)

def judge_signers(items: list[Item]) -> dict[tuple[str, str, str], Item]:
    """Find who signed each statement, in log order, and whether they might. Returns keys shown, added and revoked."""
    added = [item for item in items if item.kind == "key" and item.body["action"] == "add"]
    keys = {("shown", item.origin, item.body["keyid"]): item for item in added}
    for item in items:
        item.code = max(item.code, fault(check_signer, item, keys), key=rank)
        if item.kind == "key" and rank(item.code) < rank("key-unsound"):
            keys.setdefault((item.body["action"], item.origin, item.body["keyid"]), item)
    for origin in {item.origin for item in items}:
        discount([item for item in items if item.origin == origin], keys)
    return keys

def discount(items: list[Item], keys: dict[tuple[str, str, str], Item]) -> None:
    """Take back what a key signed that is revoked since a time, if nobody shows that it was in the log before."""
    sound, since = [item for item in items if item.key and rank(item.code) < rank("key-unsound")], dict[str, Json]()
    for body in (item.body for item in sound if item.kind == "key" and item.body["action"] == "revoke"):
        if body.get("since", "~") < since.get(body["keyid"], {"since": "~"})["since"]:
            since[body["keyid"]] = body
    others = [item for item in sound if item.at and item.signed[1] not in since]
    for keyid, revoked in since.items():
        time, closed = revoked["since"], keys["revoke", items[0].origin, keyid]
        closed.since, limit = time, datetime.fromisoformat(time).timestamp()
        known = max([revoked.get("before", 0), *(item.tree[0] for item in sound if item.tree and item.seen < limit)])
        before = max((item.index for item in others if item.index < closed.index and item.at < time), default=-1)
        after = min((item.index for item in others if item.at >= time), default=closed.index)
        for item in (item for item in sound if item.signed[1] == keyid and known <= item.index < closed.index):
            late = item.at >= time or before < item.index > after
            code = "key-compromised" if late else "key-compromise-unclear" if item.index > before else None
            item.code = max(item.code, code, key=rank)

def check_signer(item: Item, keys: dict[tuple[str, str, str], Item]) -> None:
    """Check the signature of a statement, and that at this place in the log its key stands and may say such a thing."""
    _, keyid, signature, message = item.signed
    shown, added, revoked = (keys.get((fate, item.origin, keyid)) for fate in ("shown", "add", "revoke"))
    itself = item.kind == "key" and (item.body["action"], item.body["keyid"]) == ("add", keyid)
    holder: Any = added or (item if itself else None)
    if not holder:
        need(shown, "signer-key-missing")
        raise Wrong("key-registered-later" if shown and shown.index > item.index else "key-unsound")
    check_signature(b64(holder.body["public"]), signature, message, "signature-invalid")
    item.key, role = holder.body, holder.body["role"]
    if holder is item:  # the first entry of a registry is its owner's key, which vouches for itself
        need(item.index == 0 and role == "owner", "key-not-vouched-for")
        return
    need(revoked is None or revoked.index >= item.index, "key-revoked")
    need(item.kind in MAY_STATE[role] and (item.kind != "load" or item.body["keyid"] == keyid), "role-not-allowed")
    need(not holder.code, holder.code)

# The walk: output, call, serving spec, load, model and adapters, the runs that made them, what went in, and so on.
class Walk:
    """A walk back in time, depth first, on a stack of its own: lineage may be longer than Python's."""

    def __init__(self, policy: Policy | None, evidence: Json, output: bytes | None) -> None:
        self.policy, self.evidence, self.output = policy, evidence, output
        self.hops: list[Hop] = []
        self.found: dict[tuple[str, str], list[Item]] = {}  # statements by what they are about, the soundest first
        self.within: dict[tuple[str, str], list[Item]] = {}  # what tells of an execution, by kind and execution
        self.pins: dict[str, Json] = {}  # what the serving spec pins, by artifact ID: the model first
        self.seen: set[str] = set()
        self.path: set[str] = set()  # the artifacts between the output and here
        self.todo: list[Callable[[], None]] = []
        items = [place(receipt, policy) for receipt in evidence["receipts"]]
        if evidence.get("call", "") is None:
            self.disclosed(items[0])
            return
        if "call" not in evidence:  # a receipt travels without its signer's key
            self.add(0, "entry", items[0].name, "proven", items[0])
            return
        compare_views(items)
        said = [item for item in items if item.kind not in ("", "call")]
        self.keys = judge_signers(sorted(said, key=lambda item: (item.index, rank(item.code))))
        ranked = sorted(items, key=lambda item: (rank(item.code), item.index))
        call = next((item for item in ranked if item.leaf == evidence["call"]), None)
        if call and call.kind == "call":
            self.registry = call.origin.rpartition("/")[0] + "/registry"  # of the same store, and no other
            for item in (item for item in ranked if item.origin == self.registry and item.kind):
                for key in [("", item.leaf), *((item.kind, name) for name in (item.leaf, *item.about))]:
                    self.found.setdefault(key, []).append(item)
                if item.kind in (*MAKING, "finding"):
                    self.within.setdefault((item.kind, item.body["execution"]), []).append(item)
            self.call(call, call.body)
        else:
            self.add(0, "call", evidence["call"], "proven", None, "call-not-in-bundle")
        for item in (item for item in items if item.code and not item.used):
            self.add(0, "receipt", f"{item.origin} {item.index}", "proven", item)

    def add(self, depth: int, role: str, what: str, best: str, item: Item | None, *codes: Any) -> None:
        """Add a hop, no better than what is wrong with its entry, or else; without a policy `unchecked` at best."""
        if item:
            item.used, codes = True, (item.code, *codes)
        code = max((code for code in codes if code and rank(code) > STATES.index(best)), key=rank, default=None)
        state = max(best, MEANING.get(code, "contradicted"), key=STATES.index)
        if not self.policy:
            state, code = max(state, "unchecked", key=STATES.index), code or "no-trust-policy"
        self.hops.append((depth, role, what, state, code, item))

    def disclosed(self, item: Item) -> None:
        """Judge a part of one call: each group on its own, and the bodies by the groups that are opened."""
        self.add(0, "call", item.name, "proven", item, item.kind != "call" and "call-not-in-bundle")
        if item.kind != "call":
            return
        groups: dict[str, Json] = {}
        for name, (salt, body) in sorted(self.evidence["groups"].items()):
            problem = self.open_group(item.body, name, salt, body, groups)
            self.add(1, "group", name, "proven", None, problem)
        self.prompt(1, groups)
        if "response" in self.evidence or self.output is not None:
            self.add(1, "output", "the answer", "proven", None,
                     fault(self.check_output, item.body, groups.get("response")))

    def prompt(self, depth: int, groups: Json) -> None:
        if "request" in self.evidence:
            same = digest(self.evidence["request"]) == groups.get("request", {}).get("wire")
            code = "request-sealed" if "request" not in groups else None if same else "request-mismatch"
            self.add(depth, "prompt", "the request", "proven", None, code)

    def open_group(self, call: Json, name: str, salt: bytes, body: bytes, groups: dict[str, Json]) -> str | None:
        """Put a group that opens its seal among `groups`, or say what is wrong with it."""
        sealed = call["seals"].get(name) == digest(b"genealog/seal/v1\0" + salt + body)
        if sealed and not fault(read, body):
            groups[name] = read(body)
            return None
        return "group-malformed" if sealed else "seal-mismatch" if name in call["seals"] else "unknown-group"

    def first(self, kind: str, name: str | None) -> Item | None:
        return next(iter(self.found.get((kind, name or ""), [])), None)

    def call(self, item: Item, call: Json) -> None:
        """Open the groups, compare the answer and the prompt with them, and go on to what answered."""
        groups, problem = dict[str, Json](), ""
        for name, (salt, body) in sorted(self.evidence["groups"].items()):
            problem = self.open_group(call, name, salt, body, groups) or problem
        self.add(0, "output", call["finish"], "proven", None, fault(self.check_output, call, groups.get("response")))
        self.add(1, "call", call["call"], "proven", item, problem)
        self.prompt(2, groups)
        if call["finish"] == "refused":
            return
        spec = self.first("serving-spec", call.get("spec"))
        if not spec:
            self.add(2, "serving spec", call.get("spec", "none"), "stated", None,
                     "spec-not-in-bundle" if "spec" in call else "spec-not-recorded")
            return
        targets = [[each["model"], *each.get("adapters", [])] for each in (spec.body, *spec.body.get("others", []))]
        pins = next((pins for pins in targets if [p["artifact"] for p in pins] == call.get("models", [])), targets[0])
        self.pins = {pin["artifact"]: pin for pin in pins}
        others = [pin["artifact"] for pin in pins] != call.get("models", [])
        self.add(2, "serving spec", spec.name, "stated", spec, others and "models-not-spec")
        engine = groups.get("engine", {})
        load = self.first("load", engine.get("load")) if call["assurance"] >= "A3" and "envelope" in engine else None
        code = fault(self.check_engine, call, groups, pins, load)
        self.add(3, "load", load.body["engine"] if load else call["assurance"], "stated", load, code)
        for number, pin in enumerate(pins):  # a stack: the model comes last
            self.todo.append(partial(self.artifact, 4, "adapter" if number else "model", pin["artifact"]))
        while self.todo:
            self.todo.pop()()

    def check_output(self, call: Json, response: Json | None) -> None:
        """Compare the body in the bundle, and the output that somebody holds, with what the call says."""
        body, output, refused = self.evidence.get("response"), self.output, call["finish"] == "refused"
        held = body is not None or output is not None
        if response is None or "wire" not in response:
            need(call["finish"] != "unknown" and response is None, "end-not-seen")
            need(refused and not held, "response-sealed")
            return
        bodies = (response["wire"], response.get("delivered", {}).get("sha256"))
        need(output is None or digest(output) in (*bodies, *response.get("text", [])), "output-mismatch")
        need(body is None or digest(body) in bodies, "output-mismatch")
        need(refused or held, "output-not-included")

    def check_engine(self, call: Json, groups: dict[str, Json], pins: list[Json], load: Any) -> None:
        """Check the engine's signature over this very exchange, and that it loaded what the serving spec pins."""
        engine, models = groups.get("engine", {}), call.get("models", [])
        need(call["assurance"] >= "A3", "not-measured")
        need("engine" in groups, "engine-sealed")
        need({"load", "envelope"} <= engine.keys(), "assurance-unfounded")
        need(load, "load-not-in-bundle")
        need(load.key, load.code)
        for name in ("request", "response"):
            need(name in groups, f"{name}-sealed")
        payload, keyid, signature, message = open_envelope(b64(engine["envelope"]), EXCHANGE)
        need(keyid == load.key["keyid"], "engine-signer-unknown")
        check_signature(b64(load.key["public"]), signature, message, "engine-signature-invalid")
        exchange = {"t": "genealog/engine-signature/v1", "call": call["call"], "load": load.leaf}
        exchange |= {name: groups[name].get("wire") for name in ("request", "response")}
        need(read(payload) == exchange | {"report": engine.get("report")}, "engine-signature-mismatch")
        revoked = self.keys.get(("revoke", self.registry, keyid))
        ended = min(revoked.body["at"], getattr(revoked, "since", "~")) if revoked else "~"
        need(ended > call["called_at"], "engine-key-revoked")
        need([part["artifact"] for part in load.body["loaded"]] == models, "load-not-spec")
        for pin, part in zip(pins, load.body["loaded"], strict=False):
            need(pin.get("weights") in (None, part["weights"]), "load-not-spec")
        need(call["assurance"] == "A3", "attestation-unchecked")

    def artifact(self, depth: int, role: str, name: str, weights: str | None = None, said: str = "stated") -> None:
        """Add an artifact, and go on to what made it. What is pinned is compared wherever it is met."""
        pin = self.pins.get(name, {})
        story = self.first("", pin.get("lineage"))
        made, found = self.makers(name, story), self.found.get(("artifact", name), [])
        if not found:
            self.add(depth, role, name, "stated", None, "artifact-not-in-bundle")
            return
        item = story if story and story in found else found[0]
        wrong = {weights, pin.get("weights")} - {None, item.body.get("weights", {}).get("id")}
        self.add(depth, role, item.name, "stated", item, wrong and "weights-mismatch",
                 story and story not in made + found and "lineage-mismatch", f"edge-{said}",
                 pin and not story and "lineage-not-in-bundle")
        known, circle = name in self.seen, name in self.path
        made = [end for end in made if story in (None, end)]
        lineage = role in ("model", "adapter", "base") or item.body["kind"] in ("model", "adapter", "checkpoint")
        if lineage and (circle or not (known or made)):
            outside = "source" in item.body or "body" in item.body
            code = "outside-origin" if outside else "lineage-circular" if circle else "no-lineage"
            self.add(depth + 1, "source", item.body.get("source", "?"), "stated", None, code)
        if not known:
            self.seen.add(name)
            self.path.add(name)
            self.todo.append(partial(self.path.discard, name))
            self.todo += [partial(self.run, depth + 1, end, name) for end in reversed(made)]

    def makers(self, name: str, story: Item | None) -> list[Item]:
        """Return one statement for each execution that made an artifact: its end, or events of one that goes on."""
        made = [*self.found.get(("execution-end", name), [])]
        for item in self.found.get(("execution-events", name), []):
            execution = item.body["execution"]
            if item is story or execution not in (each.body["execution"] for each in made):
                made.append(item if item is story else self.within.get(("execution-end", execution), [item])[0])
        return made

    def run(self, depth: int, item: Item, output: str) -> None:
        """Add the execution that an artifact came out of, what was found about it, and go on to what went in."""
        execution = item.body["execution"]
        ends, way = (self.within.get((kind, execution), []) for kind in MAKING)
        parts = [item, *(part for part in ends[:item.kind != "execution-end"] + way if part is not item)]
        end = next((part.body for part in parts if part.kind == "execution-end"), None)
        start = self.first("execution", execution)
        events = [event for part in parts for event in part.body.get("events", [])]
        into = [event for event in events if event["direction"] == "in"]
        edges = [f"edge-{e['state']}" for e in events if e["direction"] == "out" and e["artifact"] == output]
        (model, *adapters), bases = self.pins or [""], [event["artifact"] for event in into if event["role"] == "base"]
        ending = "run-open" if end is None else end["exit"] != "succeeded" and "run-failed"
        untold = {part.body.get("previous") for part in parts} - {None, *(part.leaf for part in way)}
        self.add(depth, "run", execution, "stated", item, *edges, *(part.code for part in parts), ending,
                 start.code if start else "execution-not-in-bundle", untold and "events-not-in-bundle",
                 output in adapters and model not in bases and ("wrong-base" if bases else "base-unknown"))
        for part in filter(None, (*parts, start)):
            part.used = True
        first = execution not in self.seen
        for found in self.within.get(("finding", execution), []):  # a contradiction counts, all else is a note
            if first if found.body["direction"] == "in" else found.body["artifact"] == output:
                false = found.body["state"] == "contradicted"
                self.add(depth + 1, "finding", found.body["method"], "stated", found, false and "finding-contradicted")
        self.seen.add(execution)
        if item.leaf in self.seen:
            return
        self.seen.add(item.leaf)
        steps = [(event["role"], event["artifact"], event.get("weights"), event["state"]) for event in into]
        shown, body = {event["artifact"] for event in into}, start.body if start else {}
        steps += [(r, body[r], None, "stated") for r in ("code", "environment") if r in body and body[r] not in shown]
        self.todo += [partial(self.artifact, depth + 1, *step) for step in reversed(steps)]

def texts(value: Any, needed: set[str], *optional: str) -> Json:
    """Return an object that has these fields, and maybe those, and no others; all of them are text."""
    need(isinstance(value, dict) and needed <= value.keys() <= needed.union(optional), "schema-mismatch")
    need(all(isinstance(text, str) for text in value.values()), "schema-mismatch")
    return dict(value)

def verify(data: bytes, policy: Policy | None, output: bytes | None = None) -> list[Hop]:
    """Return every hop of a bundle or a disclosure, or the one of a receipt. Raises what `fault` catches else."""
    value, receipt = read(data), {"entry", "origin", "proof", "t"}
    kind = value.get("t") if isinstance(value, dict) else None
    part = kind == "genealog/disclosure/v1"  # of one call: its own receipt, and no story
    need(part or kind in ("genealog/receipt/v1", "genealog/evidence/v1"), "not-evidence")
    if kind == "genealog/receipt/v1":
        return Walk(policy, {"receipts": [texts(value, receipt, "timestamp")]}, None).hops
    if part:
        need("receipts" not in value and "call" not in value, "schema-mismatch")
        value["receipts"] = [value.pop("receipt")]
    need(isinstance(value["receipts"], list) and value.get("groups") != {}, "schema-mismatch")
    receipts = [texts(item, receipt, "timestamp") for item in value.pop("receipts")]
    need({item["t"] for item in receipts} <= {"genealog/receipt/v1"}, "schema-mismatch")
    groups = {name: texts(group, {"body", "salt"}) for name, group in value.pop("groups", {}).items()}
    told = texts(value, {"t"} if part else {"call", "t"}, "request", "response")
    for text in (told.get("call", "0" * 64), *(group["salt"] for group in groups.values())):
        need(re.fullmatch("[0-9a-f]{64}", text), "bad-hex")
    evidence: Json = {name: b64(told[name]) for name in ("request", "response") if name in told}
    evidence["groups"] = {name: (bytes.fromhex(group["salt"]), b64(group["body"])) for name, group in groups.items()}
    return Walk(policy, evidence | {"call": told.get("call"), "receipts": receipts}, output).hops

def main() -> int:
    parser = argparse.ArgumentParser(description="Verify a Genealog receipt or evidence bundle.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--trust", type=Path, help="logs and witnesses, in tlog-policy format")
    parser.add_argument("--output", type=Path, help="the answer that you hold")
    file, trust, output = (path and path.read_bytes() for path in vars(parser.parse_args()).values())
    hops: list[Hop] = []
    code = fault(lambda: hops.extend(verify(file, None if trust is None else Policy(trust), output)))
    if code:
        print(f"malformed [{code}]")
        return 1
    for depth, role, what, state, code, item in hops:
        by = f"  by {item.key.get('identity', '(the log)')}, {item.origin} {item.index}" if item else ""
        line = f"{state:12}  {'  ' * min(depth, 40)}{role}  {what}{by}" + (f"  [{code}]" if code else "")
        print("".join(letter if letter.isprintable() else "?" for letter in line))
    _, role, _, state, code, _ = max(hops, key=lambda hop: STATES.index(hop[3]))
    print(f"weakest: {state}  {role}" + (f"  [{code}]" if code else ""))
    return EXIT.get(state, 0)

if __name__ == "__main__":
    sys.exit(main())

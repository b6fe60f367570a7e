"""The exhibits of a bundle: every entry in it, with what is known of its place in a log and of who signed it.

Four questions, asked of each before anybody draws a conclusion from it: is it in a log that we trust, does that log
show everybody the same, does the entry parse, and does the key that signed it belong, at that place in the log, to
somebody who may say such a thing? The first entry of a registry is its owner's key, which vouches for itself; every
other key is vouched for by an owner's. A statement is never stronger than the statement of the key that signed it.

What a bundle leaves out, nobody sees: a key that was revoked looks sound to whoever is not shown the revocation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from msgspec import structs

from genealog.core import records
from genealog.core.call import CallLeaf, is_call_log
from genealog.core.canonical import Record, decode, timestamp
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.ids import record_id
from genealog.core.receipt import Receipt, check_receipt, entry_of
from genealog.core.standing import Word, discounted, since_of, time_of
from genealog.core.statement import Read, artifact_of, check_role, read_statement
from genealog.core.states import State, weakest
from genealog.core.trust import Trust
from genealog.errors import GenealogError, MalformedError, VerificationError

# What our trust policy or this version cannot settle leaves an entry unchecked; all else that fails contradicts it.
# Cosignatures that are not there are missing; one that is there and does not verify contradicts.
_UNSETTLED = frozenset({"unknown-log", "signature-unsupported", "unknown-log-kind"})
_ABSENT = frozenset({"quorum-not-met"})
_LEAKED = {
    "key-compromised": (State.CONTRADICTED, "its key was in other hands by then"),
    "key-compromise-unclear": (State.UNCHECKED, "nobody shows that it was in the log before its key leaked"),
}
_LAST_SECOND = 253_402_300_799  # of the year 9999


@dataclass(slots=True)
class Exhibit:
    """One entry. `state` is what we know of it, and `code` why it is not better; `signer` is the identity of `key`."""

    position: str
    index: int
    leaf: str
    origin: str
    state: State
    code: str | None = None
    message: str | None = None
    call: CallLeaf | None = None
    read: Read | None = None
    signer: str | None = None
    key: records.Key | None = None
    tree: tuple[int, bytes] | None = None  # size and root of the checkpoint that covers it
    grade: str | None = None  # "logged", or by whom it was witnessed and when; None if nobody trusted has signed
    used: bool = False
    seen_at: str | None = None  # by when every witness that cosigned its checkpoint had seen it

    def blame(self, state: State, error: GenealogError) -> None:
        """Record a problem, unless a worse one is known."""
        if state.rank > self.state.rank or self.code is None:
            self.state, self.code = weakest((self.state, state)), error.code
            self.message = error.message + error.facts


@dataclass(slots=True)
class Exhibits:
    """All of them, and ways to find one. Where several fit, the soundest comes first, then the earliest."""

    all: list[Exhibit] = field(default_factory=list)
    revocations: dict[tuple[str, str], records.Key] = field(default_factory=dict)  # by registry and key ID
    _leaves: dict[str, list[Exhibit]] = field(default_factory=dict)
    _named: dict[tuple[str, type[Record], str], list[Exhibit]] = field(default_factory=dict)
    _within: dict[tuple[str, type[Record], str], list[Exhibit]] = field(default_factory=dict)  # by execution

    def __post_init__(self) -> None:
        """Index by leaf hash, and by what a statement is about."""
        for item in sorted(self.all, key=lambda item: (item.state.rank, item.index)):
            self._leaves.setdefault(item.leaf, []).append(item)
            for name in _about(item.read):
                self._named.setdefault((item.origin, type(item.read.body), name), []).append(item)  # type: ignore[union-attr]
            match item.read.body if item.read else None:
                case records.ExecutionEnd() | records.ExecutionEvents() | records.Finding() as body:
                    self._within.setdefault((item.origin, type(body), body.execution), []).append(item)

    def by_leaf(self, leaf: str, origin: str | None = None) -> Exhibit | None:
        """Return the exhibit with this leaf hash, in the log `origin` if given."""
        return next((item for item in self._leaves.get(leaf, ()) if origin in (None, item.origin)), None)

    def about(self, kind: type[Record], identifier: str, registry: str) -> list[Exhibit]:
        """Return the statements of one kind, in one registry, about an artifact, execution or serving spec.

        An `ExecutionEnd` is about the artifacts that came out, and so are `ExecutionEvents`.
        """
        return self._named.get((registry, kind, identifier), [])

    def within(self, kind: type[Record], execution: str, registry: str) -> list[Exhibit]:
        """Return the ends, the events on the way, or the findings of one execution."""
        return self._within.get((registry, kind, execution), [])


def untold(parts: Sequence[Exhibit]) -> bool:
    """Say whether one of the statements that tell of an execution names another before it that is not among them."""
    bodies = [(item.leaf, item.read.body) for item in parts if item.read is not None]
    shown = {leaf for leaf, body in bodies if isinstance(body, records.ExecutionEvents)}
    return any(getattr(body, "previous", None) not in (None, *shown) for _, body in bodies)


def examine_receipts(receipts: tuple[Receipt, ...], trust: Trust | None) -> Exhibits:
    """Place, parse and attribute every entry. Nothing raises: what is wrong stands in the exhibit."""
    accepted: dict[bytes, str] = {}
    items = [place(receipt, trust, number, accepted) for number, receipt in enumerate(receipts)]
    _compare_views(items)
    registries: dict[str, list[tuple[Exhibit, Read]]] = {}
    for item in sorted(items, key=lambda item: (item.index, item.state.rank)):
        if item.read is not None:
            registries.setdefault(item.origin, []).append((item, item.read))
    revoked: dict[tuple[str, str], records.Key] = {}
    for origin, entries in registries.items():
        keys = _Keys(entries)
        for item, read in entries:
            keys.attribute(item, read)
        keys.discount(entries)
        revoked |= {(origin, keyid): key for keyid, (_, key) in keys.revoked.items()}
    return Exhibits(items, revoked)


def place(receipt: Receipt, trust: Trust | None, number: int = 0, accepted: dict[bytes, str] | None = None) -> Exhibit:
    """Find out where an entry is and what it says, not yet who signed it.

    `number` names one that has no place. `accepted` keeps the notes that `trust` believed, with their grade: most
    receipts share one.
    """
    item = Exhibit(f"receipt {number}", -1, "", receipt.origin, State.UNCHECKED if trust is None else State.PROVEN)
    try:
        entry, item.index, item.leaf = entry_of(receipt)
    except GenealogError as error:
        item.blame(State.CONTRADICTED, error)
        return item
    log = receipt.origin.rpartition("/")[2]
    item.position = f"{log}:{item.index}"
    try:
        _check_place(item, receipt, trust, {} if accepted is None else accepted)
    except GenealogError as error:
        item.blame(_settle(error), error)
    try:
        _parse(item, entry, log)
    except GenealogError as error:
        item.blame(_settle(error), error)
    return item


def _settle(error: GenealogError) -> State:
    if error.code in _ABSENT:
        return State.MISSING
    return State.UNCHECKED if error.code in _UNSETTLED else State.CONTRADICTED


def _check_place(item: Exhibit, receipt: Receipt, trust: Trust | None, accepted: dict[bytes, str]) -> None:
    proven = check_receipt(receipt)
    item.tree = (proven.checkpoint.size, proven.checkpoint.root)
    if trust is None:
        return
    if proven.note not in accepted:
        opened = trust.open_head(proven.note)
        item.grade = grade_of(opened.cosigned_at)
        trust.check_quorum(opened.cosigned_at)
        accepted[proven.note] = item.grade
    item.grade = accepted[proven.note]
    if item.grade != grade_of({}):
        item.seen_at = max(re.findall(r" at (\S+?)(?:,|$)", item.grade), default=None)


def grade_of(cosigned_at: Mapping[str, int]) -> str:
    """Return `logged`, or `witnessed by A at T, B at T`: who cosigned, and the times that they say."""
    if not cosigned_at:
        return "logged"
    return "witnessed by " + ", ".join(f"{name} at {_time(at)}" for name, at in sorted(cosigned_at.items()))


def _time(seconds: int) -> str:
    """Spell a POSIX time; one beyond the calendar stays a number."""
    if seconds > _LAST_SECOND:
        return str(seconds)
    return timestamp(datetime.fromtimestamp(seconds, UTC))


def _parse(item: Exhibit, entry: bytes, log: str) -> None:
    if is_call_log(log):
        item.call = decode(entry, CallLeaf)
    elif log == "registry":
        item.read = read_statement(entry)
    else:
        raise MalformedError("unknown-log-kind", "not a registry or call log", got=item.origin)


def _compare_views(items: list[Exhibit]) -> None:
    """A log has one root for each size and one entry at each index: two prove that it shows different histories."""
    views: dict[tuple[str, str, int], dict[object, list[Exhibit]]] = {}
    for item in items:
        if item.tree is not None and item.state is not State.CONTRADICTED:
            size, root = item.tree
            views.setdefault((item.origin, "size", size), {}).setdefault(root, []).append(item)
            views.setdefault((item.origin, "index", item.index), {}).setdefault(item.leaf, []).append(item)
    for (_, what, number), shown in views.items():
        if len(shown) > 1:
            error = _wrong("log-forked", f"this log shows different histories: they part at {what} {number}")
            for item in (item for view in shown.values() for item in view):
                item.blame(State.CONTRADICTED, error)


class _Keys:
    """The keys of one registry. Its entries are attributed in log order: who may sign one depends on those before."""

    def __init__(self, entries: Iterable[tuple[Exhibit, Read]]) -> None:
        self.added: dict[str, tuple[Exhibit, records.Key]] = {}
        self.revoked: dict[str, tuple[Exhibit, records.Key]] = {}
        self._revocations: list[tuple[int, records.Key]] = []  # all that are sound, in log order
        self._shown: dict[str, int] = {}  # where the bundle last shows a key being added, sound or not
        for item, read in entries:
            if isinstance(read.body, records.Key) and read.body.action == "add":
                self._shown[read.body.keyid] = item.index

    def attribute(self, item: Exhibit, read: Read) -> None:
        """Find who signed `item`, checking the signature and the key's standing at that place in the log."""
        body = read.body
        try:
            self._check(item, read)
        except GenealogError as error:
            item.blame(State.MISSING if error.code == "signer-key-missing" else State.CONTRADICTED, error)
        if isinstance(body, records.Key) and item.state is not State.CONTRADICTED:
            (self.added if body.action == "add" else self.revoked).setdefault(body.keyid, (item, body))
            if body.action == "revoke":
                self._revocations.append((item.index, body))

    def discount(self, entries: Iterable[tuple[Exhibit, Read]]) -> None:
        """Hold what a key signed to the time since when it is revoked, if its revocation gives one (`standing`)."""
        since = since_of(self._revocations)
        if not since:
            return
        sound = {item.index: item for item, _ in entries if item.signer and item.state is not State.CONTRADICTED}
        words = [Word(item.index, read.keyids[0], time_of(read.body)) for item, read in entries if item.index in sound]
        seen = [(item.tree[0], item.seen_at) for item in sound.values() if item.tree and item.seen_at]
        for index, code in discounted(words, since, seen).items():
            state, text = _LEAKED[code]
            for item in (item for item, _ in entries if item.index == index):
                item.blame(state, _wrong(code, text))
        for keyid, (item, key) in self.revoked.items():
            if keyid in since:
                self.revoked[keyid] = item, structs.replace(key, since=since[keyid].at)

    def _check(self, item: Exhibit, read: Read) -> None:
        keyid = read.keyids[0]
        holder, key = self.added.get(keyid) or self._itself(item, read.body, keyid)
        verify_envelope(read.envelope, {keyid: unb64(str(key.public))})
        item.key, item.signer = key, key.identity
        if holder is item:
            if item.index != 0 or key.role != "owner":
                raise _wrong(
                    "key-not-vouched-for", "a key that vouches for itself, and is not the registry's first entry"
                )
            return
        if keyid in self.revoked and self.revoked[keyid][0].index < item.index:
            raise _wrong("key-revoked", "signed by a key that was revoked before")
        check_role(read.body, role=key.role, keyid=key.keyid)
        if holder.state.rank > item.state.rank:
            item.blame(holder.state, _wrong(str(holder.code), f"the key that signed: {holder.message}"))

    def _itself(self, item: Exhibit, body: Record, keyid: str) -> tuple[Exhibit, records.Key]:
        if isinstance(body, records.Key) and body.action == "add" and body.keyid == keyid:
            return item, body
        if keyid not in self._shown:
            raise _wrong("signer-key-missing", "the statement of the key that signed is not here")
        if self._shown[keyid] > item.index:
            raise _wrong("key-registered-later", "signed by a key that was registered only afterwards")
        raise _wrong("key-unsound", "the statement of the key that signed does not hold")


def _about(read: Read | None) -> Iterable[str]:
    match read.body if read else None:
        case records.Artifact():
            return (artifact_of(read),)  # type: ignore[arg-type]
        case records.Execution() | records.ServingSpec() as body:
            return (record_id(body),)
        case records.ExecutionEnd() | records.ExecutionEvents() as body:
            return dict.fromkeys(event.artifact for event in body.events if event.direction == "out")
        case _:
            return ()


def _wrong(code: str, message: str) -> GenealogError:
    return VerificationError(code, message)

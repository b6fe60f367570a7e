"""The exhibits of a bundle: every entry in it, with what is known of its place in a log and of who signed it.

Three questions, asked of each before anybody draws a conclusion from it: is it in a log that we trust, does it parse,
and does the key that signed it belong, at that place in the log, to somebody who may say such a thing? The first entry
of a registry is its owner's key, which vouches for itself; every other key is vouched for by an owner's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from genealog.core import records
from genealog.core.call import CallLeaf
from genealog.core.canonical import Record, decode
from genealog.core.checkpoint import parse_checkpoint_text
from genealog.core.dsse import unb64, verify_envelope
from genealog.core.merkle import leaf_hash, verify_inclusion
from genealog.core.note import parse_note
from genealog.core.proof import parse_proof
from genealog.core.receipt import Receipt, entry_of, verify_receipt
from genealog.core.statement import Read, read_statement
from genealog.core.states import State, weakest
from genealog.core.trust import Trust
from genealog.errors import GenealogError, MalformedError

# What no trust policy can settle leaves an entry unchecked; anything else that fails is a contradiction.
_UNSETTLED = {"unknown-log": State.UNCHECKED, "quorum-not-met": State.UNCHECKED}
_ENGINE_MAY_SIGN = (records.Load, records.Decision)


@dataclass(slots=True)
class Exhibit:
    """One entry. `state` is what we know of it, and `code` why it is not better; `signer` is an identity."""

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
    used: bool = False

    def blame(self, state: State, error: GenealogError) -> None:
        """Record a problem, unless a worse one is known."""
        if state.rank > self.state.rank or self.code is None:
            self.state, self.code, self.message = weakest((self.state, state)), error.code, str(error)


@dataclass(slots=True)
class Exhibits:
    """All of them, and ways to find one."""

    all: list[Exhibit] = field(default_factory=list)

    def by_leaf(self, leaf: str) -> Exhibit | None:
        """Return the exhibit with this leaf hash."""
        return next((item for item in self.all if item.leaf == leaf), None)

    def of(self, kind: type[Record]) -> list[Exhibit]:
        """Return the statements of one kind, sound ones first."""
        found = [item for item in self.all if item.read is not None and isinstance(item.read.body, kind)]
        return sorted(found, key=lambda item: (item.state.rank, item.index))


def examine_receipts(receipts: tuple[Receipt, ...], trust: Trust | None) -> Exhibits:
    """Place, parse and attribute every entry. Nothing raises: what is wrong stands in the exhibit."""
    exhibits = Exhibits([_place(number, receipt, trust) for number, receipt in enumerate(receipts)])
    for item in exhibits.all:
        if item.read is not None:
            _attribute(item, exhibits)
    return exhibits


def _place(number: int, receipt: Receipt, trust: Trust | None) -> Exhibit:
    item = Exhibit(f"receipt {number}", -1, "", receipt.origin, State.UNCHECKED if trust is None else State.PROVEN)
    try:
        entry, item.index, item.leaf = entry_of(receipt)
        log = receipt.origin.rpartition("/")[2]
        item.position = f"{log}:{item.index}"
        if log == "calls":
            item.call = decode(entry, CallLeaf)
        elif log == "registry":
            item.read = read_statement(entry)
        else:
            raise MalformedError("unknown-log-kind", "not a registry or call log", got=receipt.origin)
    except GenealogError as error:
        item.blame(State.CONTRADICTED, error)
        return item
    try:
        if trust is None:
            _check_unsigned(receipt)
        else:
            verify_receipt(receipt, trust)
    except GenealogError as error:
        item.blame(_UNSETTLED.get(error.code, State.CONTRADICTED), error)
    return item


def _check_unsigned(receipt: Receipt) -> None:
    """Check a proof against its own checkpoint, whose signature nobody told us how to check."""
    entry, proof = unb64(receipt.entry), parse_proof(receipt.proof.encode())
    checkpoint = parse_checkpoint_text(parse_note(proof.checkpoint).text)
    verify_inclusion(leaf_hash(entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root)


def _attribute(item: Exhibit, exhibits: Exhibits) -> None:
    """Find who signed `item`, checking the signature and the key's standing at that place in the log."""
    assert item.read is not None  # noqa: S101
    try:
        item.signer = _signer(item, item.read, exhibits, depth=0)
    except GenealogError as error:
        item.blame(State.MISSING if error.code == "signer-key-missing" else State.CONTRADICTED, error)


def _signer(item: Exhibit, read: Read, exhibits: Exhibits, depth: int) -> str:
    home = [other for other in exhibits.of(records.Key) if other.origin == item.origin]
    for other in home:
        key = other.read.body if other.read else None
        if (
            not isinstance(key, records.Key)
            or key.action != "add"
            or key.keyid not in read.keyids
            or key.public is None
        ):
            continue
        verify_envelope(read.envelope, {key.keyid: unb64(key.public)})
        if other is not item:
            _check_standing(item, other, key, home, depth)
            if other.read is None or depth > 4:
                raise _wrong("key-chain-too-long", "keys vouch for each other in a circle")
            _signer(other, other.read, exhibits, depth + 1)
            _check_role(read.body, key)
        elif item.index != 0 or key.role != "owner":
            raise _wrong("key-not-vouched-for", "a key that vouches for itself, and is not the registry's first entry")
        return key.identity
    raise _wrong("signer-key-missing", "the statement of the key that signed is not here")


def _check_standing(item: Exhibit, other: Exhibit, key: records.Key, keys: list[Exhibit], depth: int) -> None:
    if other.index >= item.index:
        raise _wrong("key-registered-later", "signed by a key that was registered only afterwards")
    if other.state is State.CONTRADICTED and depth == 0:
        raise _wrong("key-unsound", "the statement of the key that signed does not hold")
    for revocation in keys:
        body = revocation.read.body if revocation.read else None
        revoked = isinstance(body, records.Key) and body.action == "revoke" and body.keyid == key.keyid
        if revoked and revocation.index < item.index:
            raise _wrong("key-revoked", "signed by a key that was revoked before")


def _check_role(body: Record, key: records.Key) -> None:
    if isinstance(body, records.Key) and key.role != "owner":
        raise _wrong("role-not-allowed", "only an owner vouches for keys")
    if key.role == "engine" and not isinstance(body, _ENGINE_MAY_SIGN):
        raise _wrong("role-not-allowed", "an engine may state loads and decisions, and nothing else")
    if isinstance(body, records.Load) and (key.role != "engine" or key.keyid != body.keyid):
        raise _wrong("role-not-allowed", "a load statement is signed by the engine's own key")


def _wrong(code: str, message: str) -> GenealogError:
    return GenealogError(code, message)

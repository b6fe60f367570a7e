"""Upgrade a receipt from *logged* to *witnessed*: the same entry under a checkpoint that others have cosigned.

The new checkpoint comes from the store that keeps cosigned heads, or from a published tree. Before it takes the place
of the one in the receipt, the log has to show that both are of one history: a receipt must not become proof of
another history than the one that its holder was given. Where they part, that is fork evidence, and it is kept.

What a receipt says of its entry never changes; who vouches for the log does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from genealog.core.bundle import Evidence
from genealog.core.exhibits import grade_of
from genealog.core.fork import Fork, forked
from genealog.core.merkle import HashReader, inclusion_path, verify_inclusion
from genealog.core.proof import TlogProof
from genealog.core.receipt import Proven, Receipt, check_receipt, make_receipt
from genealog.core.states import State
from genealog.core.trust import Trust, TrustedCheckpoint
from genealog.errors import GenealogError, MissingError
from genealog.remote import open_tree
from genealog.store.continuity import compare_heads
from genealog.store.home import Home
from genealog.store.static_export import log_reader
from genealog.store.static_tree import StaticTree

Keep = Callable[[Fork], Path]


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A receipt and its grade. `better`: it is not the one that came; `quorum`: the policy's is met."""

    receipt: Receipt
    grade: str
    better: bool
    quorum: bool


@dataclass(frozen=True, slots=True)
class _Offer:
    """A signed head to put a receipt under, with what it takes to compare it with others. `read` covers its tree."""

    note: bytes
    opened: TrustedCheckpoint
    read: HashReader
    read_old: HashReader | None
    timestamp: bytes | None
    where: str


def upgrade_from_store(receipt: Receipt, home: Home, trust: Trust) -> Upgraded:
    """Put a receipt of a log of this store under the best cosigned head that the store keeps.

    Raises: MissingError `not-witnessed` (nobody has cosigned a head above the entry yet), `no-log`; VerificationError
    `log-forked` with the evidence kept in the store; and what makes the receipt itself no proof.
    """
    proven = check_receipt(receipt)
    name = receipt.origin.removeprefix(f"{home.config.origin}/")
    if f"{home.config.origin}/{name}" != receipt.origin:
        raise MissingError("no-log", "the receipt is of a log that is not in this store", got=receipt.origin)
    log, heads = home.log(name), home.heads
    read = log_reader(log, log.refresh())
    notes = ((note, heads.token(name, size)) for size in heads.sizes(name) if (note := heads.note(name, size)))
    offers = (
        _Offer(note, opened, read, read, token, f"heads/{name}")
        for note, token in notes
        if (opened := _open(trust, note)) and opened.checkpoint.size <= log.size
    )
    return _upgrade(receipt, proven, trust, offers, heads.keep_fork)


def upgrade_from_tree(receipt: Receipt, place: str, trust: Trust, keep: Keep) -> Upgraded:
    """Put a receipt under the head of a published tree: a URL or a folder. `keep` gets fork evidence.

    Raises: as `upgrade_from_store`; VerificationError `unknown-log`, `checkpoint-signature-invalid`, `tree-altered`;
    MissingError `no-such-tree`, `no-checkpoint`, `tree-incomplete`; UpstreamError; MalformedError `bad-url`.
    """
    proven = check_receipt(receipt)
    with open_tree(place) as tree:
        return _from_tree(receipt, proven, tree, place, trust, keep)


def upgrade_evidence(evidence: Evidence, home: Home, trust: Trust, *, all_of_it: bool = True) -> Evidence:
    """Put every receipt of a bundle under the best cosigned head of this store.

    Without `all_of_it`, a receipt that no cosigned head covers stays as it is. Raises: as `upgrade_from_store`.
    """

    def upgraded(receipt: Receipt) -> Receipt:
        try:
            return upgrade_from_store(receipt, home, trust).receipt
        except MissingError as error:
            if all_of_it or error.code != "not-witnessed":
                raise
            return receipt

    return replace(evidence, receipts=tuple(upgraded(each) for each in evidence.receipts))


def _from_tree(receipt: Receipt, proven: Proven, tree: StaticTree, place: str, trust: Trust, keep: Keep) -> Upgraded:
    note = tree.note()
    opened = trust.open_head(note)
    read_old = None
    if proven.checkpoint.size > opened.checkpoint.size:
        try:
            read_old = tree.at(proven.checkpoint).read
        except GenealogError:
            read_old = None  # the tree is older than the receipt: nothing better can come of it
    offer = _Offer(note, opened, tree.at(opened.checkpoint).read, read_old, None, place)
    return _upgrade(receipt, proven, trust, [offer], keep)


def _upgrade(receipt: Receipt, proven: Proven, trust: Trust, offers: Iterable[_Offer], keep: Keep) -> Upgraded:
    now = trust.open_head(proven.note)
    fit = [each for each in offers if _fits(each, proven)]
    best = max(fit, key=lambda each: _rank(trust, each.opened, each.timestamp is not None), default=None)
    if (
        best is None
        or _rank(trust, best.opened, best.timestamp is not None)[:3]
        <= _rank(trust, now, receipt.timestamp is not None)[:3]
    ):
        if not now.cosigned_at:
            raise MissingError(
                "not-witnessed", "no witness that the policy knows has cosigned a head that covers this entry yet",
                got=f"entry {proven.index} of {receipt.origin}",
                hint="genealog witness collect, or try again later",
            )  # fmt: skip
        return Upgraded(receipt, grade_of(now.cosigned_at), better=False, quorum=_met(trust, now))
    found = compare_heads(
        proven.note, best.note, best.read, read_old=best.read_old, seen=("the checkpoint in the receipt", best.where)
    )
    if found.fork is not None:
        keep(found.fork)
        raise forked(found.fork)
    if found.state is not State.PROVEN and best.read_old is None:
        raise MissingError(
            "not-witnessed", "the head that is offered is older than the receipt, and nothing shows that they chain",
            got=f"size {best.opened.checkpoint.size}", expected=f"≥ {proven.checkpoint.size}",
        )  # fmt: skip
    size, root = best.opened.checkpoint.size, best.opened.checkpoint.root
    path = inclusion_path(proven.index, size, best.read)
    verify_inclusion(bytes.fromhex(proven.leaf), proven.index, size, path, root)
    proof = TlogProof(proven.index, path, best.note)
    upgraded = make_receipt(proven.entry, receipt.origin, proof, best.timestamp)
    return Upgraded(upgraded, grade_of(best.opened.cosigned_at), better=True, quorum=_met(trust, best.opened))


def _fits(offer: _Offer, proven: Proven) -> bool:
    head = offer.opened.checkpoint
    return head.origin == proven.checkpoint.origin and head.size > proven.index


def _rank(trust: Trust, opened: TrustedCheckpoint, stamped: bool) -> tuple[bool, bool, int, int]:
    """Return how good a head is: a quorum first, then a timestamp, then the number of witnesses, then the newest."""
    met = bool(opened.cosigned_at) and _met(trust, opened)
    return met, stamped, len(opened.cosigned_at), opened.checkpoint.size


def _met(trust: Trust, opened: TrustedCheckpoint) -> bool:
    try:
        trust.check_quorum(opened.cosigned_at)
    except GenealogError:
        return False
    return True


def _open(trust: Trust, note: bytes) -> TrustedCheckpoint | None:
    try:
        return trust.open_head(note)
    except GenealogError:
        return None

"""Publish a log of a store as files, and hold a log to a head that it signed earlier.

Whoever verifies needs no store: a published tree (a folder or a URL), a trust file and the old head are enough. With a
store, the log itself is read. Everything that a tree says is checked against the head that the log's key signed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from genealog.core.bundle import parse_file
from genealog.core.checkpoint import Checkpoint
from genealog.core.note import parse_note
from genealog.core.proof import parse_proof
from genealog.core.receipt import Receipt
from genealog.core.states import State
from genealog.core.trust import Trust
from genealog.errors import GenealogError, MalformedError, MissingError
from genealog.ledger import Ledger
from genealog.remote import open_tree
from genealog.store.continuity import Continuity, compare_heads
from genealog.store.forks import keep_fork
from genealog.store.home import REGISTRY, Home
from genealog.store.log_state import verify_note
from genealog.store.static_export import Exported, export_tree, log_reader, policy_lines
from genealog.store.static_tree import prove_tree

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LogVerified:
    """What a verification of a log found. `head` is the newest signed head, `since` the older one it was held to.

    `checked` tells what was read: "entries" (all of them, hashed again) or "hashes" (those that a proof needs).
    `proof` is the consistency proof; `fork` the file with the evidence of a contradiction.
    """

    state: State
    code: str | None
    head: Checkpoint
    since: Checkpoint | None
    checked: str
    proof: tuple[bytes, ...] = ()
    fork: Path | None = None
    detail: str = ""


def publish(
    home: Home,
    name: str,
    folder: Path,
    *,
    url: str | None = None,
    whole: bool = False,
    prune: bool = False,
    told: Told | None = None,
) -> Exported:
    """Bring the tree of the log `name` in `folder` up to date. Fork evidence goes to `forks/` in the store.

    Raises: as `export_tree`; MissingError `no-log`.
    """
    if name != REGISTRY:
        Ledger(home).drain()
    policy = policy_lines((home.path / "trust.policy").read_bytes())
    return export_tree(
        home.log(name), folder, verifiers=home.log_keys(name).verifiers, former=home.key_source(name).ever(),
        policy=policy, url=url, whole=whole, prune=prune, told=told,
        evidence=home.heads.keep_fork,
        cosigned=lambda size: home.heads.note(name, size),
    )  # fmt: skip


def verify_tree(
    place: str, trust: Trust, *, since: bytes | None = None, evidence: Path, told: Told | None = None
) -> LogVerified:
    """Prove a published log: against the head `since` that it signed earlier, else every entry against its own head.

    Raises: VerificationError `unknown-log`, `checkpoint-signature-invalid`, `tree-altered`, `origin-mismatch`;
    MissingError `tree-incomplete`, `no-checkpoint`; UpstreamError.
    """
    with open_tree(place) as tree:
        note = tree.note()
        view = tree.at(trust.open_head(note).checkpoint)
        if since is None:
            prove_tree(view, told and (lambda done: told(done, view.head.size)))
            return LogVerified(State.PROVEN, None, view.head, None, "entries")
        old = trust.open_head(since).checkpoint
        read_old = None
        if old.size > view.head.size:
            with suppress(GenealogError):  # tiles may be ahead of the head that stands beside them
                read_old = tree.at(old).read
        found = compare_heads(since, note, view.read, read_old=read_old, seen=("the head that you kept", place))
    return _verified(found, evidence, f"{place} has fewer entries: an old copy, or entries were lost")


def verify_log(home: Home, name: str, trust: Trust, *, since: bytes | None = None, evidence: Path) -> LogVerified:
    """As `verify_tree`, for a log of this store: without `since`, all its bytes are read again.

    Raises: MissingError `no-log`; StoreError as the log; VerificationError as `verify_tree`.
    """
    log = home.log(name)
    log.refresh()
    note = log.checkpoint()
    head = verify_note(note, home.log_keys(name).verifiers)
    if since is None:
        wrong = home.fsck_log(name)
        for finding in wrong:
            if finding.severity == "error":
                what = f"{finding.where}: {finding.message}"
                return LogVerified(State.CONTRADICTED, finding.code, head, None, "entries", detail=what)
        return LogVerified(State.PROVEN, None, head, None, "entries", detail="; ".join(f.message for f in wrong))
    trust.open_head(since)
    found = compare_heads(since, note, log_reader(log, head.size), seen=("the head that you kept", "the store"))
    if found.code == "log-behind":
        what = "this log has fewer entries than it signed: it was cut back, or restored from a backup"
        return LogVerified(State.CONTRADICTED, "log-rolled-back", found.new, found.old, "hashes", detail=what)
    return _verified(found, evidence, "")


def head_in(data: bytes) -> bytes:
    """Return the signed head in a file: a checkpoint, a tlog-proof, or a receipt. Raises: MalformedError."""
    if data.startswith(b"c2sp.org/tlog-proof@"):
        return parse_proof(data).checkpoint
    if data.startswith(b"{"):
        found = parse_file(data)
        if not isinstance(found, Receipt):
            raise MalformedError("no-head", "this file holds many heads", hint="give a checkpoint, or one receipt")
        return parse_proof(found.proof.encode()).checkpoint
    parse_note(data)
    return data


def _verified(found: Continuity, evidence: Path, behind: str) -> LogVerified:
    kept = None if found.fork is None else keep_fork(evidence, found.fork)
    what = {None: "", "log-behind": behind, "log-forked": "the log signed two histories"}[found.code]
    return LogVerified(found.state, found.code, found.new, found.old, "hashes", found.proof, kept, what)


def need_trust(home: Home | None, trust: Trust | None) -> Trust:
    """Return whom to believe: the trust file that was given, else the store's own. Raises: MissingError `no-trust`."""
    if trust is not None:
        return trust
    if home is None:
        raise MissingError(
            "no-trust", "nobody said which keys to believe", hint="give --trust FILE, from whoever runs the log"
        )
    return home.trust

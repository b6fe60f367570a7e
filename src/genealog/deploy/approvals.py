"""Approvals: who agrees that a deployment may serve a serving spec, and whether that is enough.

An approval is for one spec on one deployment, and is good for nothing else. It counts while its signer's key is not
revoked and its signer has not withdrawn it, until that spec is rolled back from: what went wrong is approved anew.
Whoever appends an approval a second time, the same bytes or the same words under another signature, says nothing: only
the first of equal words counts, where it stands (`approval-replayed`).
People are told apart by the identity that the log knows a key by: two keys of one identity are one approval.

The rules stand in `genealog.toml`; the approvals in the log. Whoever can append to the log with code of his own can
move a deployment without asking this module; the move then names no approvals, is shown so, and gateways do not serve
from it (`deploy.resting`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import select

from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.deploy.moves import Move, left_behind
from genealog.errors import GenealogError, MissingError, PolicyDenied, UsageError
from genealog.ledger import Position
from genealog.registry import Registry
from genealog.store import schema
from genealog.store.config import ApprovalRule
from genealog.store.home import REGISTRY, Home
from genealog.store.vault.patterns import fits


@dataclass(frozen=True, slots=True)
class Given:
    """What one identity last said of a spec on a deployment. `void` says why it does not count, if it does not."""

    identity: str
    keyid: str
    index: int
    leaf: str
    at: str
    reason: str | None
    void: str | None = None


@dataclass(frozen=True, slots=True)
class Ruled:
    """One rule, who has met it so far, and whose approval could still be had (labels; none: anybody who signs here)."""

    rule: ApprovalRule
    given: tuple[Given, ...]
    missing: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether enough others approve."""
        return len(self.given) >= self.rule.required


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that was said of a spec on a deployment, judged by the rules that fit the deployment."""

    deployment: str
    spec: str
    said: tuple[Given, ...]
    rules: tuple[Ruled, ...]
    replayed: tuple[Given, ...] = ()  # approvals that were appended again, and would count if that counted

    @property
    def met(self) -> bool:
        """Whether every rule is met."""
        return all(rule.met for rule in self.rules)


class Approvals:
    """The approvals in one store."""

    def __init__(self, home: Home, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.home = home
        self.registry = Registry(home)
        self.clock = clock

    def rules(self, deployment: str) -> tuple[ApprovalRule, ...]:
        """Return the rules that fit a deployment's name.

        Raises: PolicyDenied `approver-unknown`: whom a rule asks for and nobody knows, nobody can be.
        """
        rules = tuple(rule for rule in self.home.config.approvals if fits(deployment, rule.deployment))
        for rule in rules:
            for label in rule.from_:
                if label not in self.home.config.identities:
                    raise PolicyDenied(
                        "approver-unknown", f"the approvals rule for {rule.deployment} names somebody unknown here",
                        got=label, expected=", ".join(sorted(self.home.config.identities)),
                        hint=f"genealog signer add {label} --identity NAME, or mend [[approvals]] in genealog.toml",
                    )  # fmt: skip
        return rules

    def say(
        self, deployment: str, spec: str, *, signer: Signer, reason: str | None = None, withdraw: bool = False
    ) -> Position:
        """Approve that `deployment` serves `spec` (its whole ID), or withdraw that.

        Raises: MissingError `no-approval` (nothing to withdraw); VerificationError `signer-unknown`; PolicyDenied
        `approver-unknown`.
        """
        self.rules(deployment)  # what cannot be judged afterwards is not said
        with self.home.registry_log().exclusive():
            if withdraw:
                mine = self._identity(signer.keyid)
                if mine not in {given.identity for given in self.said(deployment, spec) if given.void is None}:
                    raise MissingError(
                        "no-approval", "this identity does not approve that now", got=mine,
                        hint=f"genealog approvals {deployment}",
                    )  # fmt: skip
            action: Literal["approve", "withdraw"] = "withdraw" if withdraw else "approve"
            at = self._new_time(deployment, spec, signer.keyid)
            body = records.Approval(deployment=deployment, spec=spec, at=at, action=action, reason=reason)
            return self.registry.append(body, signer=signer, name=deployment)

    def _new_time(self, deployment: str, spec: str, keyid: str) -> str:
        """Return the time, moved on until this key has said nothing of this then: no two words are alike."""
        said = {row["at"] for row, _ in self._told(deployment, spec) if row["keyid"] == keyid}
        now = self.clock()
        while timestamp(now) in said:
            now += timedelta(milliseconds=1)
        return timestamp(now)

    def said(self, deployment: str, spec: str, moves: Sequence[Move] | None = None) -> tuple[Given, ...]:
        """Return the last word of every identity, in log order. `moves` are those of the deployment that count."""
        left = left_behind(moves or (), spec)
        last: dict[str, Given] = {}
        for row, again in self._told(deployment, spec):
            if not again:
                last.pop(row["signer"], None)
                last[row["signer"]] = _given(row, _void(row, left))
        return tuple(last.values())

    def _told(self, deployment: str, spec: str) -> list[tuple[dict[str, Any], bool]]:
        """Return every approval and withdrawal in log order, and whether the same was said before, word for word."""
        table, entry, key = schema.approval, schema.entry, schema.key
        query = (
            select(table, entry.c.leaf, entry.c.signer, entry.c.keyid, key.c.revoked)
            .join(entry, entry.c.id == table.c.id)
            .join(key, key.c.keyid == entry.c.keyid)
            .where(table.c.deployment == deployment, table.c.spec == spec)
            .order_by(table.c.id)
        )
        said: set[tuple[str, ...]] = set()
        found = []
        for row in self.registry.ledger.index(REGISTRY).rows(query):
            words = (row["keyid"], row["action"], row["at"], row["reason"] or "")
            found.append((row, words in said))
            said.add(words)
        return found

    def _replayed(self, deployment: str, spec: str, said: Sequence[Given]) -> tuple[Given, ...]:
        """Return the approvals that stand in the log again, of identities whose own word does not count now."""
        counting = {each.identity for each in said if each.void is None}
        told = [(row, again) for row, again in self._told(deployment, spec) if row["signer"] not in counting]
        first, again = schema.entry.alias("first"), schema.entry.alias("again")
        bytes_ = (
            select(again.c.id, first.c.leaf)
            .join(first, (first.c.leaf == again.c.leaf) & (first.c.id < again.c.id))
            .where(first.c.leaf.in_([row["leaf"] for row, _ in told if row["action"] == "approve"]))
        )
        doubled = {row["leaf"] for row in self.registry.ledger.index(REGISTRY).rows(bytes_)} if told else set()
        return tuple(
            _given(row, "it was said before: appended again, it counts for nothing")
            for row, repeated in told
            if row["action"] == "approve" and (repeated or row["leaf"] in doubled)
        )

    def status(self, deployment: str, spec: str, moves: Sequence[Move], promoter: str | None = None) -> Status:
        """Judge what was said by the rules. `promoter` is the key that would move the deployment, if it is known."""
        said = self.said(deployment, spec, moves)
        mover = self._identity(promoter) if promoter is not None else None
        ruled = self.ruled(deployment, said, mover)
        met = all(rule.met for rule in ruled)
        return Status(deployment, spec, said, ruled, () if met else self._replayed(deployment, spec, said))

    def ruled(self, deployment: str, said: Sequence[Given], mover: str | None) -> tuple[Ruled, ...]:
        """Judge approvals by the rules for a deployment that the identity `mover` moves. Raises: as `rules`."""
        found = []
        for rule in self.rules(deployment):
            allowed = {label: self._identities(label) for label in dict.fromkeys(rule.from_)}
            everybody = {identity for names in allowed.values() for identity in names}
            given = tuple(
                each
                for each in said
                if each.void is None
                and (not rule.from_ or each.identity in everybody)
                and (rule.promoter_counts or each.identity != mover)
            )
            who = {each.identity for each in given}
            missing = tuple(
                label
                for label, names in allowed.items()
                if not names & who and (rule.promoter_counts or mover not in names)
            )
            found.append(Ruled(rule, given, missing))
        return tuple(found)

    def check(
        self, deployment: str, spec: str, moves: Sequence[Move], promoter: str, *, known: bool = True
    ) -> tuple[str, ...]:
        """Return the leaf hashes of the approvals that a move rests on: none where no rule fits.

        `known` says whether the spec is in the log, so that it can be approved.
        Raises: PolicyDenied `approvals-missing`, saying whose; `approval-replayed`; `approver-unknown`.
        """
        status = self.status(deployment, spec, moves, promoter)
        if status.replayed:
            raise PolicyDenied(
                "approval-replayed", f"an approval for {deployment} was appended again, which approves nothing",
                got=", ".join(f"{each.identity} (registry:{each.index})" for each in status.replayed[:5]),
                hint="who agrees now approves anew: genealog approve",
            )  # fmt: skip
        for ruled in status.rules:
            if not ruled.met:
                who = ", ".join(ruled.missing) or "others who sign here"
                raise PolicyDenied(
                    "approvals-missing", f"{deployment} gets a serving spec only when enough others approve it",
                    got=f"{len(ruled.given)} of {ruled.rule.required} approvals of {spec}; not from: {who}",
                    hint=f"genealog approve {deployment} --spec {spec.partition(':')[2][:12]} --as LABEL"
                    if known
                    else "deploy it under a name that no rule guards, let others approve it there, then promote it",
                )  # fmt: skip
        counted = {each.leaf: each.index for ruled in status.rules for each in ruled.given}
        return tuple(sorted(counted, key=counted.__getitem__))

    def waiting(self, deployment: str) -> tuple[str, ...]:
        """Return the specs that anybody has said something of on this deployment, newest last."""
        table = schema.approval
        query = select(table.c.spec).where(table.c.deployment == deployment).order_by(table.c.id)
        return tuple(dict.fromkeys(row["spec"] for row in self.registry.ledger.index(REGISTRY).rows(query)))

    def of_move(self, move: Move, deployment: str) -> tuple[Given, ...]:
        """Return the approvals that a move names, as they were when it was made: `void` where they bear nothing."""
        table, entry, key = schema.approval, schema.entry, schema.key
        query = (
            select(table, entry.c.leaf, entry.c.signer, entry.c.keyid, key.c.revoked)
            .join(entry, entry.c.id == table.c.id)
            .join(key, key.c.keyid == entry.c.keyid)
            .where(entry.c.leaf.in_(move.approvals))
            .order_by(table.c.id)
        )
        found = {row["leaf"]: row for row in self.registry.ledger.index(REGISTRY).rows(query)} if move.approvals else {}
        again = {row["leaf"] for row, repeated in self._told(deployment, move.spec) if repeated} if found else set()
        given = []
        for leaf in move.approvals:
            row = found.get(leaf)
            if row is None:
                given.append(Given("", "", -1, leaf, "", None, "no such approval in the log"))
                continue
            void = None
            if (row["deployment"], row["spec"]) != (deployment, move.spec):
                void = "for another deployment or spec"
            elif leaf in again:
                void = "it was said before: appended again, it counts for nothing"
            elif row["action"] != "approve" or row["id"] > move.index:
                void = "no approval before the move"
            elif row["revoked"] is not None and row["revoked"] < move.index:
                void = "its key was revoked before"
            given.append(_given(row, void))
        return tuple(given)

    def _identity(self, keyid: str) -> str:
        row = self.registry.keys().get(keyid)
        return row.identity if row is not None else ""

    def _identities(self, label: str) -> set[str]:
        """Return the names in the log that a label of `genealog.toml` stands for: by its name, and by its key."""
        person = self.home.config.identities[label]
        names = {person.name}
        with suppress(GenealogError):  # its key is on another machine: the name has to do
            names.add(self._identity(self.home.keys.signer(person.key).keyid))
        return names - {""}


def choose_spec(known: list[str], text: str) -> str:
    """Return the one ID that begins with `text`. Raises: MissingError `unknown-spec`; UsageError `ambiguous-ref`."""
    found = [spec for spec in known if spec.startswith(text) or spec.partition(":")[2].startswith(text)]
    if not found or not text:
        raise MissingError("unknown-spec", "no serving spec has this ID", got=text, hint="genealog show DEPLOYMENT")
    if len(set(found)) > 1:
        raise UsageError("ambiguous-ref", "more than one ID starts so", got=text, hint="give more digits")
    return found[0]


def _given(row: dict[str, Any], void: str | None) -> Given:
    return Given(row["signer"], row["keyid"], row["id"], row["leaf"], row["at"], row["reason"], void)


def _void(row: dict[str, Any], left: int) -> str | None:
    if row["action"] != "approve":
        return "withdrawn"
    if row["revoked"] is not None:
        return "its key was revoked"
    if row["id"] < left:
        return "this spec was rolled back from since"
    return None

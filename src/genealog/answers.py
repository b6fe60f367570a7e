"""Answers: why did it say that, where does this model come from, and the evidence to take away.

`evidence` gathers the receipts of a whole chain; `why` lets the judge (`core.chain`) read them. So what a store says of
itself is what a stranger with the file can check.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from genealog.core import records
from genealog.core.bundle import Disclosure, Evidence, Opened
from genealog.core.call import GROUPS, CallLeaf
from genealog.core.call_groups import EngineGroup
from genealog.core.canonical import decode
from genealog.core.chain import Hop, Report, examine
from genealog.core.lineage import Closure, Way
from genealog.core.receipt import Receipt
from genealog.core.statement import read_statement
from genealog.core.states import State
from genealog.errors import GenealogError, MissingError, UsageError
from genealog.ledger import Ledger, Position
from genealog.store import schema
from genealog.store.home import REGISTRY, Home
from genealog.store.lineage import Walk, closure, walk
from genealog.store.vault.erase import Eraser
from genealog.upgrading import upgrade_evidence

DEFAULT_GROUPS = ("engine", "request", "response")
_SEALED = ("engine-sealed", "request-sealed", "response-sealed")
_MANY = 500  # SQLite takes so many bound values without asking


@dataclass(frozen=True, slots=True)
class Found:
    """A call that a text came from. `how` is `exact` or `normalised` (white space aside)."""

    call: str
    which: str
    how: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A call's contents were erased: when, why, and where the log says so (None: it is about to)."""

    at: str
    reason: str
    position: Position | None


class Answers:
    """Questions to one store."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ledger = Ledger(home)

    def find(self, text: str) -> tuple[Found, ...]:
        """Return the calls that said `text`, newest first; exact matches before normalised ones."""
        self.ledger.drain()
        masked = self.ledger.redactor.forms(text) if self.ledger.redactor is not None else ()
        hits = dict.fromkeys(hit for each in (text, *masked) for hit in self.home.vault.find_text(each))
        found = [Found(call, which, how) for call, which, how in hits]
        ranked = sorted(found, key=lambda item: item.call, reverse=True)
        return tuple(sorted(ranked, key=lambda item: (item.which != "response", item.how != "exact")))

    def why(self, call: str, *, output: bytes | None = None) -> Report:
        """Walk back from a call to the training data, judged with the store's own trust policy.

        What a stranger would find sealed or not included is `missing` where the store knows that nobody has it any
        more: erased, or never kept. That is the store's own word, and makes no hop stronger.
        """
        evidence, trust = self.evidence(call), self.home.trust
        if trust.quorum is not None:
            evidence = upgrade_evidence(evidence, self.home, trust, all_of_it=False)
        report = examine(evidence, trust, output=output)
        gone, kept = self.erased(call), self.not_kept(call)
        if gone is None and kept is None:
            return report
        return Report(tuple(_told(hop, gone, kept) for hop in report.hops))

    def erased(self, call: str) -> Gone | None:
        """Return what is known of the erasure of a call's contents, None if they are here."""
        try:
            self.home.vault.get_groups(call)
        except MissingError as error:
            if error.code != "call-erased":
                return None
        else:
            return None
        (erasure, *_) = Eraser(self.home.vault).of_call(call)
        try:
            position = self.ledger.at(erasure.leaf)
        except MissingError:  # decided, and not in the log yet
            position = None
        return Gone(erasure.at, erasure.reason, position)

    def not_kept(self, call: str) -> str | None:
        """Return why the body of an answer is not in the vault, where its row says so."""
        try:
            self.home.vault.get_body(call, "response")
        except MissingError as error:
            told = error.code in ("body-not-kept", "body-redacted")
            return error.message.partition(": ")[2] or None if told else None
        return None

    def disclose(self, call: str, *, groups: Sequence[str], output: bool = False, prompt: bool = False) -> Disclosure:
        """Open a part of one call for somebody: its receipt, these groups, these bodies, and nothing else.

        Raises: MissingError `unknown-call`, `call-erased`, `call-not-in-vault`, `body-not-kept`; MalformedError
        `unknown-group`, `bad-option`: a body whose group is sealed could not be checked.
        """
        if unknown := set(groups) - set(GROUPS):
            raise UsageError(
                "unknown-group", "no such group", got=", ".join(sorted(unknown)), expected=", ".join(GROUPS)
            )
        if (output and "response" not in groups) or (prompt and "request" not in groups) or not groups:
            raise UsageError(
                "bad-option", "nobody can check a body whose group is sealed",
                expected="--groups with response for --answer, with request for --prompt",
            )  # fmt: skip
        position, vault = self.ledger.call(call), self.home.vault
        sealed = vault.get_groups(call)
        return Disclosure(
            receipt=self.ledger.receipt(position),
            groups={name: _opened(*sealed[name]) for name in groups},
            request=base64.b64encode(vault.get_body(call, "request")).decode() if prompt else None,
            response=base64.b64encode(vault.get_body(call, "response")).decode() if output else None,
        )

    def evidence(
        self, call: str, *, groups: Sequence[str] = DEFAULT_GROUPS, output: bool = True, prompt: bool = False
    ) -> Evidence:
        """Gather the receipts of the chain of a call, opening `groups`, with the answer's body and maybe the prompt's.

        Of a call whose contents were erased: its receipts, and that of the tombstone.

        Raises: MissingError `unknown-call`.
        """
        position = self.ledger.call(call)
        leaf = decode(self.ledger.entry(position), CallLeaf)
        sealed = self._groups(call)
        places: dict[Position, None] = {position: None}
        engine = decode(sealed["engine"][1], EngineGroup) if "engine" in sealed else None
        for place in self._chain(leaf, engine.load if engine else None):
            places[place] = None
        gone = self.erased(call)
        if gone is not None and gone.position is not None:
            places[gone.position] = None
        for place in self._keys(places):
            places[place] = None
        return Evidence(
            call=position.leaf,
            receipts=tuple(self.ledger.receipt(place) for place in places),
            groups={name: _opened(*group) for name, group in sealed.items() if name in groups},
            request=self._body(call, "request") if prompt else None,
            response=self._body(call, "response") if output else None,
        )

    def lineage(self, artifact: str, way: Way = "up", *, depth: int | None = None, at: int | None = None) -> Closure:
        """Return the closure of an artifact. `walk` does not hold it whole. Raises: UsageError `bad-depth`."""
        return closure(self.ledger.index(REGISTRY), artifact, way, depth=depth, at=at)

    def warnings(self, executions: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Return what the end statements of executions warn of, as far as they have any."""
        entry, execution, found = schema.entry, schema.execution, dict[str, tuple[str, ...]]()
        for batch in _batches(list(executions)):
            query = select(execution.c.digest, entry.c.leaf).join(entry, entry.c.id == execution.c.end)
            for row in self.ledger.index(REGISTRY).rows(query.where(execution.c.digest.in_(batch))):
                body = read_statement(self.ledger.entry(self.ledger.at(row["leaf"]))).body
                if isinstance(body, records.ExecutionEnd) and body.warnings:
                    found[row["digest"]] = body.warnings
        return found

    def registry_size(self) -> int:
        """Return how many entries of the registry log a question about lineage sees now."""
        return self.ledger.index(REGISTRY).size(REGISTRY)

    def walk(
        self, artifact: str, way: Way = "up", *, depth: int | None = None, at: int | None = None
    ) -> AbstractContextManager[Walk]:
        """Reach everything that an artifact came from, or that came of it, to be read while the context lasts."""
        return walk(self.ledger.index(REGISTRY), artifact, way, depth=depth, at=at)

    def ancestry(self, artifact: str) -> tuple[Receipt, ...]:
        """Return the receipts of everything that an artifact came from, itself first, and of the keys that signed."""
        places = dict.fromkeys(self._ancestry(artifact))
        places |= dict.fromkeys(self._keys(places))
        return tuple(self.ledger.receipt(place) for place in places)

    def _groups(self, call: str) -> dict[str, tuple[bytes, bytes]]:
        try:
            return dict(self.home.vault.get_groups(call))
        except MissingError:  # erased: the proofs stand, the groups stay closed
            return {}

    def _body(self, call: str, which: str) -> str | None:
        try:
            body = self.home.vault.get_body(call, which)
        except MissingError:
            return None
        return None if body is None else base64.b64encode(body).decode()

    def _chain(self, leaf: CallLeaf, load: str | None) -> Iterable[Position]:
        """Yield the statements that the chain of a call rests on, as far as they are here."""
        if leaf.spec is None:
            return
        spec = schema.spec
        rows = self.ledger.index().rows(
            select(schema.entry.c.id, schema.entry.c.leaf)
            .join(spec, spec.c.id == schema.entry.c.id)
            .where(spec.c.digest == leaf.spec)
            .limit(1)
        )
        yield from _positions(rows)
        for wanted in filter(None, [load]):
            try:
                yield self.ledger.at(wanted)
            except GenealogError:
                continue
        for model in leaf.models:
            yield from self._ancestry(model)

    def _ancestry(self, artifact: str) -> Iterable[Position]:
        """Return the statements of everything that an artifact came from, as one state of the log has them."""
        artifact_, execution, entry = schema.artifact, schema.execution, schema.entry
        places: list[Position] = []  # and not one by one: whoever takes them may write meanwhile
        with self.walk(artifact) as found:
            for wanted in (
                select(artifact_.c.entry).where(artifact_.c.id.in_(found.artifacts)),
                select(execution.c.start).where(execution.c.id.in_(found.executions)),
                select(execution.c.end).where(execution.c.id.in_(found.executions)),
                found.event_entries(),
                select(schema.finding.c.id).where(schema.finding.c.execution.in_(found.executions)),
            ):
                query = select(entry.c.id, entry.c.leaf).where(entry.c.id.in_(wanted)).order_by(entry.c.id)
                places += _positions(found.rows(query))
        return places

    def _beside(self, key: Mapping[str, Any]) -> Iterable[int | None]:
        """Return the entries that show what a key signed before and after it leaked, if it was revoked since a time."""
        if key["since"] is None:
            return ()
        entry, table = schema.entry, schema.key
        leaked = select(table.c.keyid).where(table.c.since.is_not(None))
        others = select(entry.c.id).where(
            entry.c.id < key["revoked"], entry.c.problem.is_(None), entry.c.keyid.not_in(leaked)
        )
        last = others.where(entry.c.at < key["since"]).order_by(entry.c.id.desc()).limit(1)
        first = others.where(entry.c.at >= key["since"]).order_by(entry.c.id).limit(1)
        return [row["id"] for query in (last, first) for row in self.ledger.index(REGISTRY).rows(query)]

    def _keys(self, places: Iterable[Position]) -> Iterable[Position]:
        """Yield the statements of every key that signed any of `places`, of the owner, and their revocations."""
        index, entry, key = self.ledger.index(), schema.entry, schema.key
        indexes = [place.index for place in places if place.log == REGISTRY]
        signers = {0}
        for batch in _batches(indexes):
            query = select(key).join(entry, entry.c.keyid == key.c.keyid).where(entry.c.id.in_(batch)).distinct()
            for row in index.rows(query):
                signers |= {row["added"], row["revoked"], *self._beside(row)} - {None}
        yield from _positions(
            index.rows(select(entry.c.id, entry.c.leaf).where(entry.c.id.in_(signers)).order_by(entry.c.id))
        )


def _opened(salt: bytes, body: bytes) -> Opened:
    return Opened(body=base64.b64encode(body).decode(), salt=salt.hex())


def _told(hop: Hop, gone: Gone | None, kept: str | None) -> Hop:
    """Say of a hop that is unchecked because something is not here that it never will be."""
    if gone is not None and hop.code in _SEALED:
        where = f" ({gone.position})" if gone.position else ""
        return replace(hop, state=State.MISSING, code="erased", detail=f"erased at {gone.at}: {gone.reason}{where}")
    if kept is not None and hop.code == "output-not-included":
        return replace(hop, state=State.MISSING, code="body-not-kept", detail=kept)
    return hop


def _positions(rows: Iterable[dict[str, object]]) -> Iterable[Position]:
    for row in rows:
        yield Position(REGISTRY, int(str(row["id"])), str(row["leaf"]))


def _batches(items: Sequence[object]) -> Iterable[Sequence[object]]:
    for start in range(0, len(items), _MANY):
        yield items[start : start + _MANY]

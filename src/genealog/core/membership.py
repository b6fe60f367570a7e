"""Was this record in that data? A proof to take away (`*.record.json`), and the one judge of it.

    {"receipts": [receipt, …], "record"?: base64, "sets": [{"artifact": id, "lookups": [lookup, …]}, …],
     "subject": id, "t": "genealog/membership/v1"}

`subject` is a dataset, or a model: then `sets` are the datasets that it came from, and the receipts tell of that. The
record stands in it as its digest, and as itself only if its owner wanted that. That a root holds or lacks a digest is
proven; that the root is of those files, and that those files went into that model, is stated by whoever signed it.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator

from genealog.core import records
from genealog.core.canonical import Record, decode, encode
from genealog.core.chain import Hop, Report
from genealog.core.data_record import READINGS, Reading, json_record, record_digest
from genealog.core.dsse import unb64
from genealog.core.exhibits import Exhibit, Exhibits, examine_receipts, untold
from genealog.core.ids import parse_id
from genealog.core.lineage import NEEDS_LINEAGE, unseen
from genealog.core.receipt import Receipt
from genealog.core.recordset import Lookup, verify_lookup
from genealog.core.states import State, weakest
from genealog.core.trust import Trust
from genealog.errors import GenealogError, MalformedError

NO_DATA = ("code", "environment")
"""Roles of what a run takes and learns nothing from."""

DATA = ("data", "train", "eval", "calibration", "validation", "test", "corpus")
"""What roles of data begin with: also what is registered as plain files may be read as data."""

_PARTS: tuple[type[Record], ...] = (records.ExecutionEnd, records.ExecutionEvents)


class SetProof(Record):
    """What the records root of one dataset says of a record, for each way in which its records are read."""

    artifact: str
    lookups: tuple[Lookup, ...]


class Membership(Record, tag_field="t", tag="genealog/membership/v1"):
    """The wire form. Making one checks how its values are spelled."""

    subject: str
    sets: tuple[SetProof, ...]
    receipts: tuple[Receipt, ...]
    record: str | None = None

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-id`, `bad-base64`."""
        for identifier in (self.subject, *(each.artifact for each in self.sets)):
            parse_id(identifier)
        if self.record is not None:
            unb64(self.record)


def encode_membership(membership: Membership) -> bytes:
    """Return the bytes of a proof file."""
    return encode(membership)


def parse_membership(data: bytes) -> Membership:
    """Read a proof file. Raises: MalformedError as `decode`."""
    return decode(data, Membership)


def is_membership(data: bytes) -> bool:
    """Say whether a file claims to be such a proof: canonical JSON ends with its tag."""
    return data.endswith(b'"t":"genealog/membership/v1"}')


def digests_of(record: bytes) -> dict[Reading, str]:
    """Return the hex digest of a record for each way in which it can be read: any text is one, not any is JSON.

    A text that ends its line is that line.
    """
    found: dict[Reading, str] = {}
    for reading in READINGS:
        try:
            data = json_record(record) if reading == "json" else record.removesuffix(b"\n").removesuffix(b"\r")
        except MalformedError:
            continue
        found[reading] = record_digest(reading, data).hex()
    return found


def covers(kept: records.RecordSet, lookups: tuple[Lookup, ...], possible: Collection[str]) -> bool:
    """Say whether absence is told for every way in which the records of a dataset are read, as far as it is `possible`.

    What is no JSON can be no record of JSON lines.
    """
    return {lookup.reading for lookup in lookups} >= set(kept.readings) & set(possible)


def examine_membership(membership: Membership, trust: Trust | None, *, record: bytes | None = None) -> Report:
    """Judge a proof. `record` is what somebody holds; without it, the proof speaks of a digest.

    Without `trust` no hop is better than `unchecked`.
    """
    return Report(tuple(_Judge(membership, trust, record).hops()))


class _Judge:
    def __init__(self, membership: Membership, trust: Trust | None, record: bytes | None) -> None:
        self._membership, self._trust, self._record = membership, trust, record
        self._exhibits: Exhibits = examine_receipts(membership.receipts, trust)
        named = [item for item in self._exhibits.all if self._is_artifact(item, membership.subject)]
        self._registry = named[0].origin if named else ""
        shown = unb64(membership.record) if membership.record is not None else record
        self._digests = digests_of(shown) if shown is not None else None
        self._said: set[tuple[str, str]] = {
            (lookup.reading, lookup.sha256) for each in membership.sets for lookup in each.lookups
        }

    def hops(self) -> Iterator[Hop]:
        sets = [list(self._set(number)) for number in range(len(self._membership.sets))]
        present = sum(hops[-1].role == "proof" and hops[-1].title.startswith("present") for hops in sets)
        yield self._answer(present)
        if not any(each.artifact == self._membership.subject for each in self._membership.sets):
            yield from self._subject(bool(present))
        for hops in sets:
            yield from hops
        for item in self._exhibits.all:
            if item.code is not None and not item.used:
                yield self._hop(0, "receipt", item.position, item.state, item.code, item, detail=item.message)

    def _answer(self, present: int) -> Hop:
        readings = [reading for reading, _ in self._said]
        if len(set(readings)) != len(readings) or not readings:
            return self._hop(0, "record", "no record", State.CONTRADICTED, "record-mismatch")
        title = f"present in {present} of {len(self._membership.sets)}" if present else "absent"
        digest = min(self._said)[1]
        if self._digests is None:
            detail = "told by its digest; give --record to compare it with one that you hold"
            return self._hop(0, "record", title, State.PROVEN, id=digest, detail=detail)
        ours = set(self._digests.items())
        if self._record is not None and set(digests_of(self._record).items()) != ours:
            return self._hop(0, "record", title, State.CONTRADICTED, "record-mismatch", detail="it is another record")
        if not self._said <= ours:
            return self._hop(0, "record", title, State.CONTRADICTED, "record-mismatch", detail="its digest is another")
        return self._hop(0, "record", title, State.PROVEN, id=digest, detail="the digest is that of the record")

    def _set(self, number: int) -> Iterator[Hop]:
        """Yield the dataset and what its root says; the last hop tells whether the record is present."""
        proof = self._membership.sets[number]
        item = self._about(proof.artifact)
        body = item.read.body if item and item.read else None
        if item is None or not isinstance(body, records.Artifact):
            yield self._hop(1, "data", "not in the proof", State.MISSING, "artifact-not-in-bundle", id=proof.artifact)
            return
        kept, title = body.records, _name(item)
        if kept is None:
            yield self._hop(1, "data", title, State.MISSING, "no-records-root", item, id=proof.artifact)
            return
        detail = f"{kept.count} records, {kept.leaves} of them different"
        yield self._hop(1, "data", title, State.STATED, None, item, id=proof.artifact, detail=detail)
        try:
            counts = [verify_lookup(lookup, kept.root) for lookup in proof.lookups]
            if any(lookup.size != kept.leaves for lookup in proof.lookups):
                raise MalformedError("absence-unproven", "the proof is for a tree of another size")
        except GenealogError as error:
            yield self._hop(2, "proof", "none", State.CONTRADICTED, error.code, id=kept.root, detail=error.message)
            return
        possible = set(self._digests) if self._digests is not None else set(READINGS)
        if any(counts):
            yield self._hop(2, "proof", f"present, {_times(sum(counts))}", State.PROVEN, id=kept.root)
        elif covers(kept, proof.lookups, possible):
            yield self._hop(2, "proof", "absent", State.PROVEN, id=kept.root)
        else:
            detail = f"its records are read as {' and '.join(kept.readings)}"
            if self._digests is None:
                detail += "; give --record if it can be read in one way only"
            yield self._hop(2, "proof", "absent", State.MISSING, "reading-not-covered", id=kept.root, detail=detail)

    def _subject(self, present: bool) -> Iterator[Hop]:
        """Yield the model and the runs that lead to data: what is left out of the proof is what it cannot exclude."""
        shown = {each.artifact for each in self._membership.sets}
        todo, seen = [self._membership.subject], set[str]()
        reached, plain, as_data = set[str](), dict[str, Exhibit](), set[str]()
        while todo:
            artifact = todo.pop()
            if artifact in seen:
                continue
            seen.add(artifact)
            item = self._about(artifact)
            body = item.read.body if item and item.read else None
            runs = self._makers(artifact)
            if item is None or not isinstance(body, records.Artifact):
                yield self._hop(1, "artifact", "not in the proof", State.MISSING, "artifact-not-in-bundle", id=artifact)
                continue
            if body.kind == "dataset":
                reached.add(artifact)
                if artifact not in shown and not present:
                    yield self._hop(1, "data", _name(item), State.MISSING, "no-records-root", item, id=artifact)
            elif body.kind in NEEDS_LINEAGE or artifact == self._membership.subject:
                yield self._hop(1, "model", f"{_name(item)} ({body.kind})", State.STATED, None, item, id=artifact)
                if not runs and not present:
                    code, state = ("no-lineage", State.MISSING)
                    detail = "what it learned from is not told here"
                    yield self._hop(2, "source", body.source or "no lineage recorded", state, code, detail=detail)
            else:
                plain[artifact] = item
            for run in runs:
                needed = not present and body.kind in NEEDS_LINEAGE
                ins = yield from self._run(run, present=present, needed=needed)
                todo += [event.artifact for event in ins]
                as_data |= {event.artifact for event in ins if event.role.startswith(DATA)}
        for artifact in sorted(plain.keys() & as_data) if not present else ():
            item = plain[artifact]
            yield self._hop(1, "data", _name(item), State.MISSING, "no-records-root", item, id=artifact)
        for artifact in sorted(shown - reached):
            yield self._hop(1, "data", "not of this model", State.CONTRADICTED, "lineage-mismatch", id=artifact)

    def _makers(self, artifact: str) -> list[str]:
        """Return the executions that an artifact came out of, as far as the proof shows them."""
        items = [item for kind in _PARTS for item in self._exhibits.about(kind, artifact, self._registry)]
        return list(dict.fromkeys(body.execution for _, body in _bodies(items)))

    def _run(self, execution: str, *, present: bool, needed: bool) -> Generator[Hop, None, list[records.Event]]:
        """Yield an execution and what was found about it, and return what went in: as it ended and on the way.

        Unless the record is `present`, statements that others name and that are left out are told, and what a run warns
        it may have read unseen; where it is `needed` to know all of it, a run that did not end or says of no input too.
        """
        ends = self._exhibits.within(records.ExecutionEnd, execution, self._registry)[:1]
        parts = [*ends, *self._exhibits.within(records.ExecutionEvents, execution, self._registry)]
        ins: list[records.Event] = []
        for part, body in _bodies(parts):
            mine = [event for event in body.events if event.direction == "in"]
            state = weakest([State.STATED, *(event.state for event in mine)])
            yield self._hop(2, "run", _name(part), state, None, part, id=execution)
            ins += mine
        for item in self._exhibits.within(records.Finding, execution, self._registry):
            found = item.read.body if item.read else None
            if isinstance(found, records.Finding) and found.state is State.CONTRADICTED:
                title = f"{found.direction} {found.role}, by {found.method}"
                code = "finding-contradicted"
                yield self._hop(3, "finding", title, State.CONTRADICTED, code, item, id=found.artifact)
        if not present and untold(parts):
            code, detail = "events-not-in-bundle", "what else went in is not told here"
            yield self._hop(3, "run", "not whole", State.MISSING, code, id=execution, detail=detail)
        warned = [line for _, body in _bodies(ends) if isinstance(body, records.ExecutionEnd) for line in body.warnings]
        for code in unseen(warned) if not present else ():
            detail = "it may have learned from what it does not name"
            yield self._hop(3, "run", "not seen whole", State.MISSING, code, id=execution, detail=detail)
        if needed and not ends:
            yield self._hop(3, "run", "not ended", State.MISSING, "run-open", id=execution)
        if needed and not any(event.role not in NO_DATA for event in ins):
            detail = "it says nothing of what it learned from"
            yield self._hop(
                3, "run", "without inputs", State.MISSING, "run-without-inputs", id=execution, detail=detail
            )
        return ins

    def _about(self, artifact: str) -> Exhibit | None:
        return next(iter(self._exhibits.about(records.Artifact, artifact, self._registry)), None)

    def _hop(
        self, depth: int, role: str, title: str, state: State, code: str | None = None, item: Exhibit | None = None, *,
        id: str | None = None, detail: str | None = None,  # noqa: A002
    ) -> Hop:  # fmt: skip
        signer = position = grade = None
        if item is not None:
            item.used = True
            signer, position, grade = item.signer, item.position, item.grade
            if item.state.rank > state.rank or (item.state is state and item.code):
                state, code, detail = item.state, item.code, item.message or detail
        if self._trust is None:
            state, code = weakest((state, State.UNCHECKED)), code or "no-trust-policy"
        return Hop(depth, role, title, state, id, signer, position, code, detail, grade)

    @staticmethod
    def _is_artifact(item: Exhibit, identifier: str) -> bool:
        if item.read is None or not isinstance(item.read.body, records.Artifact):
            return False
        algorithm, value = parse_id(identifier)
        return item.read.subjects[0].digest.get(algorithm) == value


def _bodies(items: Iterable[Exhibit]) -> Iterator[tuple[Exhibit, records.ExecutionEnd | records.ExecutionEvents]]:
    for item in items:
        body = item.read.body if item.read else None
        if isinstance(body, records.ExecutionEnd | records.ExecutionEvents):
            yield item, body


def _name(item: Exhibit) -> str:
    return item.read.subjects[0].name if item.read else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"

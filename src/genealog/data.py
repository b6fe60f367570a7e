"""Data: was this record in that dataset, or in any that this model came from? With proof, or a plain "cannot tell".

`present` and `absent` rest on records roots in the log. `unknown` is never hidden behind `absent`: a dataset whose
records were not read, a base from outside, a run that says nothing of its inputs, or that may have read what it does
not name, all leave the question open.

    import genealog.data
    genealog.data.snapshot("facts.jsonl").root          # gld1:…, the same for these records in any known format
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, BinaryIO, Literal, cast

from genealog.answers import Answers
from genealog.capture.data.asking import as_row, as_texts, delimiter_of, names_in
from genealog.capture.data.snapshot import Progress, take, take_dataset
from genealog.core import records
from genealog.core.lineage import NEEDS_LINEAGE, unseen
from genealog.core.manifest import FileEntry, decode_manifest
from genealog.core.membership import DATA, NO_DATA, Membership, SetProof, covers, digests_of
from genealog.core.recordset import Lookup, verify_lookup
from genealog.errors import MissingError
from genealog.kept_records import keep_dataset, open_records
from genealog.registry import Added, Registry, Version
from genealog.store.home import Home

Verdict = Literal["present", "absent", "unknown"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The records of a dataset: its records root, how many there are, and the digest of their order."""

    root: str
    count: int
    leaves: int
    order: str
    readings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InSet:
    """What one dataset says. `role` is how it went into a run, `code` why it cannot tell."""

    artifact: str
    name: str
    role: str | None
    verdict: Verdict
    count: int
    records: int | None
    code: str | None
    lookups: tuple[Lookup, ...]


@dataclass(frozen=True, slots=True)
class Contained:
    """The answer. `gaps` are (artifact, name, code): where lineage ends without telling what was learned from.

    `record` is what was looked up: what was asked for, or the form of it that a table of texts holds.
    """

    subject: Version
    verdict: Verdict
    digests: dict[str, str]
    sets: tuple[InSet, ...]
    gaps: tuple[tuple[str, str | None, str], ...]
    record: bytes = b""


def snapshot(source: str | PathLike[str] | Any, *, progress: Progress | None = None) -> Snapshot:
    """Read the records of a path, a `datasets.Dataset` or a `DatasetDict`. Nothing is stored.

    Raises: MalformedError `records-not-read`; MissingError `extra-not-installed`; StoreError `file-changed`.
    """
    with tempfile.TemporaryFile(prefix="genealog-records-") as file:
        out = cast("BinaryIO", file)
        if isinstance(source, str | PathLike):
            taken = take(source, out, progress=progress)
        else:
            taken = take_dataset(source, out)
    listed = taken.listed
    return Snapshot(listed.root, listed.count, listed.leaves, taken.order, taken.readings)


def register(registry: Registry, dataset: Any, *, name: str) -> Added:
    """Register a dataset that is in memory only: its ID is the hash of what identifies its records and their order.

    Raises: MalformedError `records-not-read`.
    """
    kept = keep_dataset(registry.home, dataset)
    body = {"count": kept.count, "kind": "dataset", "order": kept.order, "records": kept.root}
    return registry.add_record(body, kind="dataset", name=name, kept=kept)


class Data:
    """Questions about records to one store."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.registry = Registry(home)
        self.answers = Answers(home)

    def contains(self, ref: str, record: bytes) -> Contained:
        """Look a record up in a dataset, or in all datasets that a model came from.

        `record` is a JSON text or a line. CSV and TSV have texts only and a name for each: what is not there as it is
        given is looked for in their forms (`capture.data.asking`), and a line whose names nobody knows is `unknown`.
        Raises: MissingError `unknown-artifact`, `no-such-object`.
        """
        version = self.registry.resolve(ref)
        answer = self._contains(version, record)
        tables = {each.artifact: found for each in answer.sets if (found := self._tables(each))}
        if answer.verdict == "present" or not tables:
            return answer
        forms, nameless = as_texts(record), set[str]()
        if forms is None:
            forms, nameless = self._rows(tables, record)
        others = []
        for form in forms:
            others.append(self._contains(version, form))
            if others[-1].verdict == "present":
                return others[-1]
        if nameless:
            sets = tuple(
                replace(each, verdict="unknown", code="columns-unknown", lookups=())
                if each.artifact in nameless
                else each
                for each in answer.sets
            )
            return replace(answer, sets=sets, verdict=_verdict(sets, bool(answer.gaps)))
        return others[0] if others and len(tables) == len(answer.sets) else answer

    def _tables(self, each: InSet) -> dict[str, FileEntry]:
        """Return the tables of texts among the files of a dataset whose records were read, by their paths."""
        body = self._statement(self.registry.resolve(each.artifact))
        if body.records is None or body.manifest is None:
            return {}
        files = decode_manifest(self.home.objects.get(body.manifest.sha256)).files
        return {file.path: file for file in files if delimiter_of(file.path)}

    def _rows(self, tables: Mapping[str, Mapping[str, FileEntry]], line: bytes) -> tuple[tuple[bytes, ...], set[str]]:
        """Return the records that a line is in these tables, and the datasets of which no first line is at hand."""
        forms, nameless = list[bytes](), set[str]()
        for artifact, files in tables.items():
            place = self.home.location(artifact)
            for path, file in files.items():
                at = place / path if place is not None and place.is_dir() else place
                names = names_in(at, file.sha256) if at is not None else None
                if names is None:
                    nameless.add(artifact)
                elif row := as_row(line, names, delimiter_of(path) or ","):
                    forms.append(row)
        return tuple(dict.fromkeys(forms)), nameless

    def _contains(self, version: Version, record: bytes) -> Contained:
        digests = digests_of(record)
        asked = {str(reading): digest for reading, digest in digests.items()}
        if self._statement(version).records is not None or version.kind == "dataset":
            found = self._look_up(version, None, digests)
            return Contained(version, found.verdict, asked, (found,), (), record)
        closure = self.answers.lineage(version.id)
        roles = {link.artifact: link.role for link in closure.links if link.direction == "in"}
        as_data = {link.artifact for link in closure.links if link.direction == "in" and link.role.startswith(DATA)}
        sets = [
            self._look_up(self.registry.resolve(node.id), roles.get(node.id), digests)
            for node in closure.artifacts
            if node.kind == "dataset" or (node.id in as_data and node.kind not in (None, *NEEDS_LINEAGE))
        ]
        names = {node.id: node.name for node in closure.artifacts}
        kinds = {node.id: node.kind for node in closure.artifacts}
        gaps = [(gap.artifact, names.get(gap.artifact), str(gap.code)) for gap in closure.gaps if gap.artifact in names]
        told = {link.execution for link in closure.links if link.direction == "in" and link.role not in NO_DATA}
        gaps += [
            (link.artifact, names.get(link.artifact), "run-without-inputs")
            for link in closure.links
            if link.direction == "out" and link.execution not in told and kinds.get(link.artifact) in NEEDS_LINEAGE
        ]
        seen = {
            run: unseen(lines) for run, lines in self.answers.warnings(ran.id for ran in closure.executions).items()
        }
        gaps += [
            (link.artifact, names.get(link.artifact), code)
            for link in closure.links
            if link.direction == "out"
            for code in seen.get(link.execution, ())
        ]
        return Contained(version, _verdict(sets, bool(gaps)), asked, tuple(sets), tuple(dict.fromkeys(gaps)), record)

    def prove(self, contained: Contained, *, record: bytes | None = None) -> Membership:
        """Return what proves an answer to a stranger. `record` puts the record itself into it.

        Raises: MissingError `nothing-to-prove` where no dataset could tell.
        """
        proven = [each for each in contained.sets if each.lookups]
        if not proven:
            raise MissingError(
                "nothing-to-prove", "no dataset here has a records root: there is nothing to prove",
                got=contained.subject.name, hint="register the data again: genealog add PATH --kind dataset",
            )  # fmt: skip
        return Membership(
            subject=contained.subject.id,
            sets=tuple(SetProof(artifact=each.artifact, lookups=each.lookups) for each in proven),
            receipts=self.answers.ancestry(contained.subject.id),
            record=None if record is None else base64.b64encode(record).decode(),
        )

    def _statement(self, version: Version) -> records.Artifact:
        body = self.registry.statement(version.statement).body
        if not isinstance(body, records.Artifact):
            raise MissingError("unknown-artifact", "nothing is registered under this ID", got=version.id)
        return body

    def _look_up(self, version: Version, role: str | None, digests: dict[Any, str]) -> InSet:
        body = self._statement(version)
        kept = body.records
        if kept is None:
            return InSet(version.id, version.name, role, "unknown", 0, None, "no-records-root", ())
        listed = open_records(self.home, kept)
        wanted = [(reading, digest) for reading, digest in digests.items() if reading in kept.readings]
        if not wanted:  # no way to read it is a way in which these records are read: any one proves that it is not here
            wanted = list(digests.items())
        lookups = tuple(listed.look_up(reading, bytes.fromhex(digest)) for reading, digest in wanted)
        count = sum(verify_lookup(lookup, kept.root) for lookup in lookups)
        absent = covers(kept, lookups, set(digests))
        verdict: Verdict = "present" if count else "absent" if absent else "unknown"
        if verdict == "absent" and any(line.startswith("nested-records:") for line in body.warnings):
            return InSet(version.id, version.name, role, "unknown", 0, kept.count, "nested-records", ())
        return InSet(version.id, version.name, role, verdict, count, kept.count, None, lookups)


def _verdict(sets: Iterable[InSet], open_ends: bool) -> Verdict:
    verdicts = [each.verdict for each in sets]
    if "present" in verdicts:
        return "present"
    return "unknown" if open_ends or not verdicts or "unknown" in verdicts else "absent"

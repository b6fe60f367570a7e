"""One side of a comparison: a registered version, or files on a disk, as far as each can be known.

What is on record is read from the log and the store. Bytes are read only where they lie here, and count only if they
hash to what the side is: a file that was edited since is not at hand.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import select

from genealog.capture.files import scan_tree
from genealog.core import records
from genealog.core.canonical import Record
from genealog.core.manifest import FileEntry, files_root
from genealog.core.weights import TensorEntry, weights_root
from genealog.errors import GenealogError, MissingError, StoreError
from genealog.registry import Progress, Registry, left_out
from genealog.store import schema

MAX_TEXT = 128 << 20  # bytes of a tokenizer, the biggest text that is compared
Fact = tuple[str, tuple[int, ...], str]  # dtype, shape, sha256


class _Entry(Record, tag_field="t", tag="genealog/tensor/v1", gc=False):
    """`core.weights.TensorEntry` without its checks, which were made when the list was kept."""

    dtype: str
    name: str
    sha256: str
    shape: tuple[int, ...]


class _List(Record, tag_field="t", tag="genealog/tensors/v1"):
    tensors: tuple[_Entry, ...]


_DECODER = msgspec.json.Decoder(_List)


@dataclass(frozen=True, slots=True)
class Input:
    """What went into the run that made a version."""

    role: str
    artifact: str
    name: str | None
    kind: str | None
    weights: str | None


@dataclass(frozen=True, slots=True)
class Making:
    """The run that a version came out of; the newest, where several made these bytes."""

    id: str
    start: records.Execution
    inputs: tuple[Input, ...]
    others: int


@dataclass(slots=True)
class Side:
    """A version or a folder. `tensors` is None where none could be read; `place` is where its files may lie."""

    label: str
    id: str
    kind: str | None
    files: dict[str, FileEntry]
    tensors: dict[str, Fact] | None
    weights: str | None
    tied: Mapping[str, str]
    place: Path | None
    registered: bool
    statement: records.Artifact | None = None
    making: Making | None = None
    warnings: tuple[str, ...] = ()
    revoked: str | None = None  # the reason
    scanned: bool = False  # the bytes at `place` were hashed just now
    _texts: dict[str, bytes | None] = field(default_factory=dict)

    def read(self, path: str) -> bytes | None:
        """Return a file's bytes, None where they are not here or are others now."""
        if path not in self._texts:
            self._texts[path] = self._read(path)
        return self._texts[path]

    def json(self, path: str) -> dict[str, Any] | None:
        """Return a JSON object, None where it is not at hand or is none."""
        data = self.read(path)
        try:
            value = None if data is None else json.loads(data)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def _read(self, path: str) -> bytes | None:
        entry = self.files.get(path)
        if entry is None or self.place is None or entry.size > MAX_TEXT:
            return None
        try:
            data = (self.place / path if self.place.is_dir() else self.place).read_bytes()
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None


def side(registry: Registry | None, ref: str, *, progress: Progress | None = None) -> Side:
    """Return what `ref` means: a path if it has a slash or begins with a dot, else a name or an ID, else a path.

    Raises: MissingError `unknown-artifact`, `no-such-path`; as `capture.files.scan_tree`.
    """
    looks_like_a_path = "/" in ref or os.sep in ref or ref.startswith(".")
    if registry is not None and not looks_like_a_path:
        try:
            return _registered(registry, ref, ref)
        except MissingError as error:
            if error.code != "unknown-artifact" or not Path(ref).exists():
                raise
    return _on_disk(registry, ref, progress)


def _on_disk(registry: Registry | None, ref: str, progress: Progress | None) -> Side:
    path = Path(ref)
    if not path.exists():
        raise MissingError(
            "no-such-path", "there is no such file or directory, and nothing is registered under this name", got=ref,
            hint="look with genealog ls; a name needs its store: --store DIR",
        )  # fmt: skip
    tree = scan_tree(path, progress=progress, exclude=left_out(path))
    identifier = files_root(tree.entries)
    if registry is not None:
        try:
            known = _registered(registry, identifier, ref)
        except MissingError:
            pass
        else:
            known.place, known.scanned = path, True
            return known
    return Side(
        label=ref, id=identifier, kind=None, files={entry.path: entry for entry in tree.entries},
        tensors=_facts(tree.weights), weights=weights_root(tree.weights) if tree.weights else None, tied=tree.tied,
        place=path, registered=False, warnings=tree.warnings, scanned=True,
    )  # fmt: skip


def _registered(registry: Registry, ref: str, label: str) -> Side:
    version = registry.resolve(ref)
    body = registry.statement(version.statement).body
    if not isinstance(body, records.Artifact):
        raise StoreError("unexpected", "an artifact is registered by another kind of statement", got=version.statement)
    files: dict[str, FileEntry] = {}
    if version.id.startswith("glf1:"):
        files = {entry.path: entry for entry in registry.manifest(version).files}
    tensors = None
    if body.weights is not None:
        # Named by a digest in a signed statement, and hashed as it is read: no need to spell each entry again.
        listing = _DECODER.decode(registry.home.objects.get(body.weights.list.sha256))
        tensors = {entry.name: (entry.dtype, entry.shape, entry.sha256) for entry in listing.tensors}
    return Side(
        label=label, id=version.id, kind=version.kind, files=files, tensors=tensors, weights=version.weights,
        tied=body.weights.tied if body.weights else {}, place=registry.home.location(version.id), registered=True,
        statement=body, making=_making(registry, version.id), warnings=body.warnings, revoked=version.revoked,
    )  # fmt: skip


def _making(registry: Registry, artifact: str) -> Making | None:
    event, table, execution = schema.event, schema.artifact, schema.execution
    index = registry.ledger.index()
    made = (
        select(event.c.execution)
        .join(table, table.c.id == event.c.artifact)
        .where(table.c.digest == artifact, event.c.direction == "out")
    )
    rows = index.rows(select(execution).where(execution.c.id.in_(made), execution.c.start.is_not(None)))
    if not rows:
        return None
    row = max(rows, key=lambda item: item["start"])
    start = registry.statement(registry.leaf(row["start"])).body
    if not isinstance(start, records.Execution):
        return None
    query = (
        select(event.c.role, event.c.weights, table.c.digest, table.c.name, table.c.kind)
        .join(table, table.c.id == event.c.artifact)
        .where(event.c.execution == row["id"], event.c.direction == "in")
        .order_by(event.c.id)
    )
    inputs = tuple(Input(i["role"], i["digest"], i["name"], i["kind"], i["weights"]) for i in index.rows(query))
    return Making(row["digest"], start, inputs, len(rows) - 1)


def statement_of(registry: Registry | None, artifact: str | None) -> records.Artifact | None:
    """Return the statement that registers an artifact, None where there is none."""
    if registry is None or artifact is None:
        return None
    try:
        body = registry.statement(registry.resolve(artifact).statement).body
    except GenealogError:
        return None
    return body if isinstance(body, records.Artifact) else None


def _facts(tensors: tuple[TensorEntry, ...] | None) -> dict[str, Fact] | None:
    return None if tensors is None else {entry.name: (entry.dtype, entry.shape, entry.sha256) for entry in tensors}

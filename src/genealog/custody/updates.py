"""Online updates: version N+1 is version N with some files changed, and only those are read again.

    update(registry, "policy", folder, changed=["layer-3.safetensors"])      # → a new version, its `previous` on record

The caller says which files changed. The others are not hashed: their digests are those of the version before, their
sizes and the headers of their weights are held to it, and the event says how many were not read. `genealog check` reads
them all. An update costs the bytes that changed, and one line of hashing for each name in the two lists.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from genealog.capture.files import Tree, file_entries, hash_files, in_rank
from genealog.capture.formats.siblings import siblings_in
from genealog.capture.listing import Found, list_tree
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.ids import record_id, sha256_hex
from genealog.core.layout import Layout, Loose, Run
from genealog.core.manifest import FileEntry
from genealog.core.states import State
from genealog.core.ties import tied_by_config, with_tied
from genealog.core.weights import TensorEntry, decode_tensors, diff_tensors, encode_tensors
from genealog.custody.held import Held, layout_of
from genealog.custody.outcome import Outcome, few_names
from genealog.errors import GenealogError, MalformedError, MissingError, VerificationError
from genealog.registry import Body, Progress, Registry, left_out, new_nonce


@dataclass(frozen=True, slots=True)
class Updated:
    """A version made by an update: its IDs, the execution, the tensors that changed, how many bytes were read."""

    id: str
    weights: str | None
    execution: str
    tensors: tuple[str, ...]
    read: int


def update(
    registry: Registry,
    previous: str,
    folder: Path | str,
    changed: Iterable[str],
    *,
    name: str | None = None,
    parameters: Mapping[str, str] | None = None,
    data: Iterable[str] = (),
    signer: Signer | None = None,
    progress: Progress | None = None,
) -> Updated:
    """Register the files in `folder` as the next version of `previous`, reading only those `changed` (paths in it).

    `data` are registered refs that it learned from. `name` is by default that of `previous`, which moves on.
    Raises: MalformedError `unknown-file` (a changed path that is not there), `no-change`; VerificationError
    `bytes-differ` (a file not named as changed has another size, another header, is new or gone).
    """
    started = timestamp(datetime.now(UTC))
    folder = Path(folder)
    before = registry.resolve(previous)
    fresh = set(changed)
    listed, excludes = list_tree(folder, exclude=left_out(folder, registry.manifest(before)))
    if unknown := fresh - {file.path for file in listed}:
        raise MalformedError("unknown-file", "a file named as changed is not there", got=few_names(sorted(unknown)))
    old = {entry.path: entry for entry in registry.manifest(before).files}
    entries, tensors, format_, read = _next(registry, before.statement, listed, fresh, old, progress)
    if not fresh:
        raise MalformedError("no-change", "an update changes a file", hint="name the files that changed")
    last = _artifact(registry, before.statement)
    tied = _tied(last, tensors, folder / "config.json" if "config.json" in fresh else None)
    tensors = with_tied(tensors, tied) if tensors else ()
    moved = _moved(_tensors(registry, before.statement), tensors)
    tree = Tree(
        entries=entries, excludes=excludes, weights=tensors or None, format=format_ or last.format or "files",
        warnings=(), rehashed=False, tied=tied,
    )  # fmt: skip
    start = records.Execution(
        kind="online-update", name=name or before.name, started_at=started, nonce=new_nonce(),
        parameters=dict(parameters or {}),
    )  # fmt: skip
    facts = {"changed": str(len(moved)), "delta": _digest(moved), "not-rehashed": str(len(entries) - len(fresh))}
    ins = [_event(before.id, "in", "previous", before.weights, {})]
    ins += [_event(v.id, "in", "data", v.weights, {}) for v in map(registry.resolve, data)]

    def ended(identifier: str, weights: str | None) -> list[Body]:
        events = (*ins, _event(identifier, "out", before.kind, weights, facts))
        at = timestamp(datetime.now(UTC))
        end = records.ExecutionEnd(execution=record_id(start), ended_at=at, exit="succeeded", events=events)
        return [(start, start.kind, None), (end, start.kind, None)]

    added = registry.add_tree(
        tree, folder, kind=before.kind, name=name or before.name, signer=signer or registry.signer(), also=ended
    )
    return Updated(added.id, added.weights, record_id(start), tuple(moved), read)


def updated(out: Held, before: Held, event: records.Event) -> Outcome:
    """Return whether exactly the tensors that an update recorded as changed are those that differ, from bytes."""
    said = event.facts.get("delta")
    moved = _moved(before.tensors.values(), out.tensors.values())
    detail = f"{len(moved)} of {len(out.tensors)} tensors differ: {few_names(moved)}"
    if said is None:
        return Outcome(State.STATED, "shapes", None, f"{detail}; the run did not record which", roles=("previous",))
    if said != _digest(moved):
        detail = f"{detail}; recorded were {event.facts.get('changed', 'others')}"
        return Outcome(State.CONTRADICTED, "equal-weights", "update-mismatch", detail, roles=("previous",))
    return Outcome(State.PROVEN, "equal-weights", None, f"{detail}; all others are bit for bit", roles=("previous",))


def _next(
    registry: Registry, statement: str, listed: tuple[Found, ...], fresh: set[str],
    old: Mapping[str, FileEntry], progress: Progress | None,
) -> tuple[tuple[FileEntry, ...], tuple[TensorEntry, ...], str | None, int]:  # fmt: skip
    """Return the files and the tensors of the next version, their format, and how many bytes were read."""
    found = [file for file in listed if file.path in fresh]
    digests = hash_files(found, progress=progress)
    hashed = {entry.path: entry for entry in file_entries(found, digests)}
    entries = []
    for file in listed:
        entry = hashed.get(file.path) or old.get(file.path)
        if entry is None or entry.size != file.key.size:
            raise _changed(file.path)
        entries.append(entry)
    if lost := [path for path in old if path not in {file.path for file in listed}]:
        raise _changed(lost[0])
    kept = [(file, layout) for file in listed if file.path not in hashed and (layout := _laid(file, listed))]
    holding = [(one.format, one.unread) for one in digests if one.tensors or one.unread]
    holding += [(one.format, one.unread) for _, one in kept if one.runs or one.loose or one.unread]
    format_ = next(iter(in_rank(str(name) for name, _ in holding)), None)
    known = {entry.name: entry for entry in _tensors(registry, statement)}
    tensors = {t.name: t for digest in digests if digest.format == format_ for t in digest.tensors or ()}
    for file, layout in kept:
        if layout.format == format_:
            tensors |= _carried(file, layout, known)
    if (format_, True) in holding:  # as a whole scan has it: no weights ID over a part
        tensors = {}
    return tuple(entries), tuple(tensors[name] for name in sorted(tensors)), format_, sum(f.key.size for f in found)


def _laid(file: Found, listed: tuple[Found, ...]) -> Layout | None:
    return layout_of(Path(file.real), file.path, siblings=siblings_in(listed, file.path))


def _carried(file: Found, layout: Layout, known: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Return the entries of the tensors in a file that is not read, from its header and the version before."""
    kept = {}
    items: tuple[Run | Loose, ...] = (*layout.runs, *layout.loose)
    for item in items:
        entry = known.get(item.name)
        if entry is None or (entry.dtype, entry.shape) != (item.dtype, item.shape):
            raise _changed(file.path)
        kept[item.name] = entry
    return kept


def _changed(path: str) -> GenealogError:
    return VerificationError(
        "bytes-differ", "a file that is not named as changed is another one than before", got=path,
        hint="name it among the changed files, or register everything again: genealog add",
    )  # fmt: skip


def _artifact(registry: Registry, statement: str) -> records.Artifact:
    body = registry.statement(statement).body
    if not isinstance(body, records.Artifact) or body.manifest is None:
        raise MissingError("no-manifest", "what has no files of its own cannot be updated", got=statement)
    return body


def _tensors(registry: Registry, statement: str) -> tuple[TensorEntry, ...]:
    body = _artifact(registry, statement)
    return decode_tensors(registry.home.objects.get(body.weights.list.sha256)) if body.weights else ()


def _tied(last: records.Artifact, tensors: Iterable[TensorEntry], config: Path | None) -> dict[str, str]:
    """Return the names that the files leave out: as before, unless the configuration changed."""
    there = {entry.name for entry in tensors}
    tied = dict(last.weights.tied) if last.weights else {}
    if config is not None:
        try:
            said = json.loads(config.read_bytes())
        except (OSError, ValueError, RecursionError):
            said = None
        tied = dict(tied_by_config(said, tensors)) if isinstance(said, dict) else {}
    return {name: source for name, source in tied.items() if name not in there and source in there}


def _moved(before: Iterable[TensorEntry], after: Iterable[TensorEntry]) -> dict[str, TensorEntry | None]:
    """Return the tensors that differ, by name; None for one that is gone."""
    new = {entry.name: entry for entry in after}
    difference = diff_tensors(before, new.values())
    names = sorted((*difference.added, *difference.changed, *difference.removed))
    return {name: new.get(name) for name in names}


def _digest(moved: Mapping[str, TensorEntry | None]) -> str:
    """Return the SHA-256 over the list of tensors that changed; of none that is left, over their names."""
    kept = [entry for entry in moved.values() if entry is not None]
    gone = "".join(f"{name}\n" for name, entry in moved.items() if entry is None)
    return sha256_hex((encode_tensors(kept) if kept else b"") + gone.encode())


def _event(
    artifact: str, direction: records.Direction, role: str, weights: str | None, facts: dict[str, str]
) -> records.Event:
    return records.Event(
        artifact=artifact, direction=direction, role=role, state=State.STATED, weights=weights, facts=facts
    )

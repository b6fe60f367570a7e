"""Bytes at hand: a registered artifact whose files lie here now, and tensors read from them.

Every file is hashed before anything is said of it, and every tensor that is computed with is hashed again out of the
very buffer that is used: a file that is changed in between fails, whatever its name and times. Where a tool reads the
files by itself, they are hashed again after it (`Held.check_same`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genealog.capture.files import scan_tree
from genealog.capture.formats import reader_for
from genealog.capture.formats.siblings import siblings_in
from genealog.capture.listing import list_tree
from genealog.capture.reading import FileKey
from genealog.core import records
from genealog.core.layout import Layout, Run
from genealog.core.manifest import FileEntry, diff_files, few, files_root
from genealog.core.safetensors import data_start, parse_safetensors_header
from genealog.core.weights import TensorEntry, weights_root
from genealog.errors import GenealogError, MalformedError, MissingError, StoreError, VerificationError
from genealog.registry import Progress, Registry, Version, left_out

MAX_CONFIG = 16 << 20


@dataclass(frozen=True, slots=True)
class Held:
    """A registered artifact, its files as hashed just now at `path`."""

    version: Version
    path: Path
    files: Mapping[str, FileEntry]
    tensors: Mapping[str, TensorEntry]
    tied: Mapping[str, str]
    format: str | None
    runs: Mapping[str, tuple[Path, Run]]  # where the bytes of each tensor lie that lie in one piece
    others: bool = False  # it holds weights of another format too, which a loader may take instead
    excludes: tuple[str, ...] = ()  # what of the folder is not of this version

    @property
    def whole(self) -> bool:
        """Every tensor can be read in one piece."""
        return bool(self.tensors) and all(self.tied.get(name, name) in self.runs for name in self.tensors)

    def tensor(self, name: str) -> bytearray:
        """Return the bytes of one tensor, row-major and little-endian, hashed as they are.

        Raises: MissingError `tensor-not-readable`; VerificationError `bytes-differ`.
        """
        found = self.runs.get(self.tied.get(name, name))
        if found is None:
            raise MissingError("tensor-not-readable", "a tensor does not lie in one piece", got=name)
        path, run = found
        data = bytearray(run.stop - run.start)
        with path.open("rb") as file:
            file.seek(run.start)
            read = file.readinto(data)
        if read != len(data) or hashlib.sha256(data).hexdigest() != self.tensors[name].sha256:
            raise VerificationError("bytes-differ", "a file changed after it was hashed", got=path.name)
        return data

    def seen(self) -> list[tuple[str, FileKey]]:
        """Return the state of the folder and of every file in it, for `check_same` later. Raises: as `list_tree`."""
        listed, _ = list_tree(self.path, exclude=self.excludes)
        return [("", FileKey.of(self.path.stat())), *((file.real, file.key) for file in listed)]

    def check_same(self, seen: list[tuple[str, FileKey]]) -> None:
        """Hash every file again, and see that none was another since `seen`: a tool read them by itself.

        What was changed and put back shows in the times that a file system keeps; a folder above that was, does not.
        Raises: StoreError `file-changed`; as `scan_tree`.
        """
        tree = scan_tree(self.path, exclude=self.excludes)
        if files_root(tree.entries) != self.version.id or self.seen() != seen:
            raise StoreError(
                "file-changed", f"the files of {self.version.name} changed while a tool read them",
                got=str(diff_files(self.files.values(), tree.entries)), hint="try again when nobody writes to them",
            )  # fmt: skip

    def json(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the artifact, hashed as read. Raises: MissingError `no-such-file`; MalformedError."""
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError):
            raise MalformedError("not-json", "a configuration is not JSON", got=name) from None
        if not isinstance(value, dict):
            raise MalformedError("not-json", "a configuration is no JSON object", got=name)
        return value

    def read(self, name: str) -> bytes:
        """Return a small file of the artifact, hashed as read. Raises: MissingError `no-such-file`."""
        entry = self.files.get(name)
        if entry is None or entry.size > MAX_CONFIG:
            raise MissingError("no-such-file", f"{self.version.name} has no such file", got=name)
        data = (self.path / name if self.path.is_dir() else self.path).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise VerificationError("bytes-differ", "a file changed after it was hashed", got=name)
        return data


def hold(registry: Registry, version: Version, path: Path | None, *, progress: Progress | None = None) -> Held:
    """Find the files of a version (at `path`, else where this machine saw them last) and hash them.

    Raises: MissingError `bytes-not-at-hand` (no files known here, or other registered bytes lie there now);
    `weights-not-read` (its statement names tensors, and none can be read); VerificationError `bytes-differ` (what lies
    there is not registered), `weights-mismatch` (its statement names other tensors than its files hold); as
    `scan_tree`.
    """
    place = path or registry.home.location(version.id)
    if not version.id.startswith("glf1:") or place is None or not place.exists():
        raise MissingError(
            "bytes-not-at-hand", f"the files of {version.name} are not here", got=version.id,
            hint="say where they are: genealog check REF --at ROLE=PATH",
        )  # fmt: skip
    manifest = registry.manifest(version)
    exclude = left_out(place, manifest)
    tree = scan_tree(place, progress=progress, exclude=exclude)
    if (found := files_root(tree.entries)) != version.id:
        if path is None and _registered(registry, found):
            raise MissingError(
                "bytes-not-at-hand", f"another registered version lies now where {version.name} was", got=found,
                expected=version.id, hint="say where its files are: genealog check REF --at ROLE=PATH",
            )  # fmt: skip
        raise VerificationError(
            "bytes-differ", f"the files at {place.name} are not {version.name}",
            got=str(diff_files(manifest.files, tree.entries)), expected=version.id,
            hint="restore the registered bytes, or register these as a new version: genealog add",
        )  # fmt: skip
    if version.weights is not None and not tree.weights:  # its statement names tensors that nobody here can see
        raise MissingError(
            "weights-not-read", f"no tensors could be read in the files of {version.name}",
            got=few([*tree.warnings, tree.format]), expected=version.weights,
        )  # fmt: skip
    if version.weights is not None and weights_root(tree.weights or ()) != version.weights:
        raise VerificationError(
            "weights-mismatch", f"the tensors of {version.name} are not those that its statement names",
            got=weights_root(tree.weights or ()), expected=version.weights,
        )  # fmt: skip
    body = registry.statement(version.statement).body
    listing = body.weights if isinstance(body, records.Artifact) else None
    tensors = (tree.weights or ()) if listing else ()  # as read now: the list on record is a word of its signer
    return Held(
        version=version, path=place, files={entry.path: entry for entry in manifest.files},
        tensors={entry.name: entry for entry in tensors}, tied=dict(listing.tied) if listing else {},
        format=body.format if isinstance(body, records.Artifact) else None,
        runs=where(place, exclude) if listing else {},
        others=any(line.startswith("other-weights:") for line in tree.warnings), excludes=tuple(exclude),
    )  # fmt: skip


def where(path: Path, exclude: Collection[str] = ()) -> dict[str, tuple[Path, Run]]:
    """Return where the tensors in the files below `path` lie, from headers alone; later files do not win."""
    found: dict[str, tuple[Path, Run]] = {}
    listed, _ = list_tree(path, exclude=exclude)
    for file in listed:
        real = Path(file.real)
        try:
            layout = layout_of(real, file.path, siblings=siblings_in(listed, file.path))
        except GenealogError:  # not a weights file, or none that can be read: its tensors are not in one piece here
            continue
        for run in layout.runs if layout else ():
            found.setdefault(run.name, (real, run))
    return found


def layout_of(real: Path, path: str, *, siblings: Any) -> Layout | None:
    """Return the layout of one weights file, or None for another file. Raises: MalformedError by format."""
    size = real.stat().st_size
    with real.open("rb") as file:
        if path.lower().endswith(".safetensors"):
            start = data_start(file.read(8), size)
            file.seek(0)
            slots = parse_safetensors_header(file.read(start), size).slots
            return Layout("safetensors", tuple(Run(s.name, s.dtype, s.shape, s.start, s.stop) for s in slots))
        reader = reader_for(path, file.read(512))
        file.seek(0)
        return reader.layout_of(file, size, path=path, siblings=siblings) if reader else None


def _registered(registry: Registry, identifier: str) -> bool:
    try:
        registry.resolve(identifier)
    except GenealogError:
        return False
    return True

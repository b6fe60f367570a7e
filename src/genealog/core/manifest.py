"""Manifests: the files of an artifact, the artifact ID over them, and the proof that one file is inside.

    leaf = {"path":"config.json","sha256":"e346…","size":8,"t":"genealog/file/v1"}      glf1: root over the leaves

Leaves are sorted by the UTF-8 bytes of their path. A path is relative, with `/`, without `.`, `..` or empty parts;
its characters stay as they are (no Unicode normalisation: two spellings of é are two files, as on a disk).
What was left out of a tree (`.git`, signature bundles) is listed beside the files and does not enter the ID.
No file is opened here: `capture.files` makes the entries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from genealog.core.canonical import MAX_INTEGER, Record, decode, encode
from genealog.core.ids import ArtifactId, parse_id
from genealog.core.merkle import inclusion_path, leaf_hash, node_hash, tree_root, verify_inclusion
from genealog.errors import MalformedError, MissingError

MAX_PATH_BYTES = 4096
_HEX = re.compile(r"[0-9a-f]{64}")

E = TypeVar("E")


def check_path(path: str) -> None:
    """Refuse every path that is not one plain name below another. Raises: MalformedError `bad-path`.

    A manifest from elsewhere must not be able to name a file outside the directory that it is checked against.
    """
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise MalformedError("bad-path", "a path is not Unicode text", got=repr(path)) from None
    if size > MAX_PATH_BYTES:
        raise MalformedError("bad-path", "a path is too long", got=f"{size} bytes", expected=f"≤ {MAX_PATH_BYTES}")
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise MalformedError(
            "bad-path", "a path is not relative and normalised", got=repr(path), expected="names joined by /"
        )


def check_sha256(digest: str) -> None:
    """Refuse everything but 64 lower-case hex digits. Raises: MalformedError `bad-digest`."""
    if not _HEX.fullmatch(digest):
        raise MalformedError("bad-digest", "not a SHA-256 digest", got=repr(digest)[:80], expected="64 hex digits")


class FileEntry(Record, tag_field="t", tag="genealog/file/v1"):
    """One file of an artifact. Its canonical bytes are a leaf of the artifact ID. `size` is in bytes."""

    path: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        """Raises: MalformedError `bad-path`, `bad-digest`, `bad-size`."""
        check_path(self.path)
        check_sha256(self.sha256)
        if not 0 <= self.size <= MAX_INTEGER:
            raise MalformedError("bad-size", "a file size is out of range", got=self.size, expected="0 ≤ size < 2**53")


class Manifest(Record, tag_field="t", tag="genealog/manifest/v1"):
    """The files of one artifact, and the top-level names that were there and left out."""

    excludes: tuple[str, ...]
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        """Raises: MalformedError `empty-tree`, `not-sorted`, `bad-path`."""
        if not self.files:
            raise MalformedError("empty-tree", "an artifact has at least one file")
        for name in self.excludes:
            check_path(name)
        for keys in (self.excludes, tuple(entry.path for entry in self.files)):
            if any(a >= b for a, b in pairwise(keys)):
                raise MalformedError("not-sorted", "the paths of a manifest are not sorted, or one stands twice")


class FileProof(Record, tag_field="t", tag="genealog/file-proof/v1"):
    """Proof that a file is number `index` of the `size` files of an artifact: sibling hashes in hex, leaf's first."""

    hashes: tuple[str, ...]
    index: int
    size: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two lists of entries, by path or by tensor name. Each tuple is sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    @property
    def none(self) -> bool:
        """True when both lists are the same."""
        return not (self.added or self.removed or self.changed)

    def __str__(self) -> str:
        """Return one line for a person: `changed: a, b; added: c`, at most five names of each kind."""
        kinds = {"changed": self.changed, "added": self.added, "removed": self.removed}
        return "; ".join(f"{kind}: {few(names)}" for kind, names in kinds.items() if names) or "no difference"


def few(names: Sequence[str], limit: int = 5) -> str:
    """Return `names` for a person: the first ones with control characters escaped, and how many more there are."""
    more = len(names) - limit
    shown = ", ".join(repr(name)[1:-1] for name in names[:limit])
    return f"{shown} and {more} more" if more > 0 else shown


def in_order(entries: Iterable[E], name: Callable[[E], str], *, code: str) -> tuple[E, ...]:
    """Return `entries` sorted by the UTF-8 bytes of their `name`. Raises: MalformedError `code` if one stands twice."""
    ordered = tuple(sorted(entries, key=name))  # by code point, which is the order of the UTF-8 bytes
    for before, after in pairwise(ordered):
        if name(before) == name(after):
            raise MalformedError(code, "the same name stands twice", got=repr(name(before)))
    return ordered


def files_root(entries: Iterable[FileEntry]) -> ArtifactId:
    """Return the artifact ID over `entries`, in whatever order they come.

    Raises: MalformedError `empty-tree`, `duplicate-path`.
    """
    return ArtifactId("glf1:" + tree_root(_leaves(_sorted_files(entries))).hex())


def encode_manifest(entries: Iterable[FileEntry], excludes: Iterable[str] = ()) -> bytes:
    """Return the canonical manifest. Raises: MalformedError `empty-tree`, `duplicate-path`."""
    return encode(Manifest(excludes=in_order(excludes, str, code="duplicate-path"), files=_sorted_files(entries)))


def decode_manifest(data: bytes) -> Manifest:
    """Read a manifest in its one spelling. Raises: MalformedError, as `canonical.decode` and `Manifest` do."""
    return decode(data, Manifest)


def prove_file(entries: Iterable[FileEntry], path: str) -> tuple[FileEntry, FileProof]:
    """Return the entry of `path` and the proof that it belongs to `files_root(entries)`.

    Raises: MissingError `no-such-file`; MalformedError as `files_root` does.
    """
    files = _sorted_files(entries)
    index = next((i for i, entry in enumerate(files) if entry.path == path), None)
    if index is None:
        raise MissingError("no-such-file", "the artifact has no such file", got=repr(path))
    rows = [_leaves(files)]
    while len(rows[-1]) > 1:  # complete subtrees only: a lone right edge is no node
        row = rows[-1]
        rows.append([node_hash(*pair) for pair in zip(row[::2], row[1::2], strict=False)])
    hashes = inclusion_path(index, len(files), lambda level, number: rows[level][number])
    return files[index], FileProof(hashes=tuple(h.hex() for h in hashes), index=index, size=len(files))


def verify_file(entry: FileEntry, proof: FileProof, artifact: str) -> None:
    """Prove that `entry` is one file of `artifact` (a `glf1:` ID).

    Raises: VerificationError `inclusion-proof-mismatch`; MalformedError `bad-id`, `bad-digest`.
    """
    algorithm, root = parse_id(artifact)
    if algorithm != "glf1":
        raise MalformedError("bad-id", "files are proven inside a files root", got=algorithm, expected="glf1")
    for digest in proof.hashes:
        check_sha256(digest)
    hashes = [bytes.fromhex(digest) for digest in proof.hashes]
    verify_inclusion(leaf_hash(encode(entry)), proof.index, proof.size, hashes, bytes.fromhex(root))


def compare(old: Mapping[str, object], new: Mapping[str, object]) -> Difference:
    """Return what `new` adds to `old`, lacks, and holds with another value."""
    return Difference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name] != new[name])),
    )


def diff_files(old: Iterable[FileEntry], new: Iterable[FileEntry]) -> Difference:
    """Return the paths that differ between two artifacts."""
    return compare({entry.path: entry for entry in old}, {entry.path: entry for entry in new})


def _sorted_files(entries: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
    files = in_order(entries, lambda entry: entry.path, code="duplicate-path")
    if not files:
        raise MalformedError("empty-tree", "an artifact has at least one file")
    return files


def _leaves(files: Sequence[FileEntry]) -> list[bytes]:
    return [leaf_hash(encode(entry)) for entry in files]

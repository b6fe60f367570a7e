"""What an OMS signature says: these files have these digests. And how that differs from files that were read.

    {"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": …, "digest": {"sha256": ROOT}}],
     "predicateType": "https://model_signing/signature/v1.0",
     "predicate": {"resources": [{"name", "digest", "algorithm"}…],
                   "serialization": {"method", "hash_type", "allow_symlinks", "shard_size"?, "ignore_paths"?}}}

ROOT is SHA-256 over the digests, without the names: here names are always compared, and ROOT alone proves nothing. What
the signer left out (`ignore_paths`) is no fault and no proof: it is named. No file is opened here.
Source: ossf/model-signing-spec v1.0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from genealog.core.manifest import check_path
from genealog.errors import MalformedError, VerificationError
from genealog.interop.oms.bundle import MAX_BUNDLE, unsupported
from genealog.interop.oms.strict import malformed, member, read_json

PREDICATE = "https://model_signing/signature/v1.0"
STATEMENT = "https://in-toto.io/Statement/v1"
DEFAULT_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")  # top level, as the specification has it
DIGEST_BYTES = {"sha256": 32, "blake2b": 64, "blake3": 32}
MAX_RESOURCES = 1_000_000
_LEGACY = "https://model_signing/Digests/v0.1"
_SHARD = re.compile(r"(.*):(0|[1-9][0-9]{0,17}):([1-9][0-9]{0,17})", re.DOTALL)
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class Piece:
    """One signed digest: a file, or its bytes from `start` up to `end`."""

    path: str
    digest: str
    start: int = 0
    end: int | None = None

    @property
    def name(self) -> str:
        """Return how the statement names it."""
        return self.path if self.end is None else f"{self.path}:{self.start}:{self.end}"


@dataclass(frozen=True, slots=True)
class Signed:
    """The content of an OMS statement. `shard_size` is in bytes; None for whole files."""

    name: str
    root: str
    pieces: tuple[Piece, ...]
    hash_type: str
    shard_size: int | None
    allow_symlinks: bool
    ignore_paths: tuple[str, ...]

    def ignores(self, path: str) -> bool:
        """Say whether the signer left `path` out. What is signed by name is never left out."""
        parts = path.split("/")
        above = {"/".join(parts[:n]) for n in range(1, len(parts) + 1)} | {"."}
        return not above.isdisjoint(self.ignore_paths)


@dataclass(frozen=True, slots=True)
class Differs:
    """How files differ from what was signed: sorted paths."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]


def write_payload(
    name: str, files: Iterable[tuple[str, str]], *, ignore_paths: Iterable[str] = (), allow_symlinks: bool = False
) -> bytes:
    """Return the statement over whole files: (path, hex SHA-256) pairs, in any order. Raises: `oms-malformed`."""
    listed = sorted(files)
    if not listed:
        raise malformed("the statement", "no files to sign")
    root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, digest in listed)).hexdigest()
    serialization = {
        "method": "files", "hash_type": "sha256", "allow_symlinks": allow_symlinks,
        "ignore_paths": sorted(set(ignore_paths)),
    }  # fmt: skip
    resources = [{"name": path, "digest": digest, "algorithm": "sha256"} for path, digest in listed]
    value = {
        "_type": STATEMENT, "subject": [{"name": name, "digest": {"sha256": root}}], "predicateType": PREDICATE,
        "predicate": {"resources": resources, "serialization": serialization},
    }  # fmt: skip
    return json.dumps(value, indent=2, ensure_ascii=False).encode()


def read_payload(payload: bytes) -> Signed:
    """Read a statement, holding it to the specification and to itself.

    Raises: MalformedError `oms-malformed`, `oms-too-big`, `bad-path` for a name outside of the model; VerificationError
    `oms-root-mismatch`; MissingError `oms-unsupported` for other predicates, methods and hashes.
    """
    what = "the statement"
    value = read_json(payload, what, limit=MAX_BUNDLE)
    if value.get("_type") != STATEMENT:
        raise malformed(what, f"_type {str(value.get('_type'))[:80]!r}")
    kind = member(value, "predicateType", str, what)
    if kind != PREDICATE:
        raise unsupported("a statement of model-signing 0.2.0" if kind == _LEGACY else f"a statement of {kind[:80]!r}")
    subject = member(value, "subject", list, what)
    if len(subject) != 1 or not isinstance(subject[0], dict):
        raise malformed(what, f"{len(subject)} subjects; expected one")
    predicate = member(value, "predicate", dict, what)
    serialization = member(predicate, "serialization", dict, what)
    hash_type = {"blake2": "blake2b"}.get(found := member(serialization, "hash_type", str, what), found)
    method = member(serialization, "method", str, what)
    if method not in ("files", "shards") or hash_type not in DIGEST_BYTES:
        raise unsupported(f"{method[:40]} by {hash_type[:40]}")
    size = _whole(serialization.get("shard_size"), what) if method == "shards" else None
    ignored = serialization.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise malformed(what, "ignore_paths is no list of texts")
    pieces = tuple(_pieces(member(predicate, "resources", list, what), hash_type, size))
    root = member(member(subject[0], "digest", dict, what), "sha256", str, what)
    if (real := hashlib.sha256(b"".join(bytes.fromhex(piece.digest) for piece in pieces)).hexdigest()) != root:
        raise VerificationError(
            "oms-root-mismatch", "the digests do not give the model's digest", got=real, expected=root
        )
    return Signed(
        name=member(subject[0], "name", str, what), root=root, pieces=pieces, hash_type=hash_type, shard_size=size,
        allow_symlinks=member(serialization, "allow_symlinks", bool, what), ignore_paths=tuple(ignored),
    )  # fmt: skip


def _pieces(resources: list[Any], hash_type: str, size: int | None) -> Iterable[Piece]:
    what = "a signed file"
    if not 1 <= len(resources) <= MAX_RESOURCES:
        raise malformed("the statement", f"{len(resources)} signed files; expected 1 to {MAX_RESOURCES}")
    algorithms = {hash_type} if size is None else {hash_type, f"{hash_type}-sharded-{size}"}
    algorithms |= {"blake2" if hash_type == "blake2b" else hash_type}
    seen: set[str] = set()
    for resource in resources:
        if not isinstance(resource, dict):
            raise malformed(what, "not a JSON object")
        name, digest = member(resource, "name", str, what), member(resource, "digest", str, what)
        if member(resource, "algorithm", str, what) not in algorithms:
            raise malformed(what, f"algorithm {resource['algorithm'][:60]!r} beside hash_type {hash_type!r}")
        if not _HEX.fullmatch(digest) or len(digest) != 2 * DIGEST_BYTES[hash_type]:
            raise malformed(what, f"{digest[:80]!r} is no {hash_type} digest")
        if name in seen:
            raise malformed("the statement", f"{name[:200]!r} stands twice")
        seen.add(name)
        yield _piece(name, digest, size)


def _piece(name: str, digest: str, size: int | None) -> Piece:
    piece = Piece(name, digest)
    if size is not None:
        found = _SHARD.fullmatch(name)
        if found is None:
            raise malformed("a signed file", f"{name[:200]!r} is no shard")
        piece = Piece(found[1], digest, int(found[2]), int(found[3]))
        if piece.start % size or not piece.start < int(found[3]) <= piece.start + size:
            raise malformed("a signed file", f"{name[:200]!r} is no shard of {size} bytes")
    if piece.path != ".":  # a model that is one file
        check_path(piece.path)
    return piece


def compare(signed: Signed, found: Mapping[str, str]) -> Differs:
    """Compare signed pieces with found ones, both by their name; `found` has no path that the signer left out.

    A file counts as changed if any of its shards is, and as added if any of them is in no statement.
    """
    wanted = {piece.name: piece for piece in signed.pieces}
    path_of = {name: piece.path for name, piece in wanted.items()}
    for name in found:
        path_of.setdefault(name, name.rsplit(":", 2)[0] if signed.shard_size is not None else name)
    there, signed_paths = {path_of[name] for name in found}, {piece.path for piece in signed.pieces}
    changed = {path_of[name] for name, piece in wanted.items() if name in found and found[name] != piece.digest}
    changed |= {path_of[name] for name in wanted.keys() ^ found.keys() if path_of[name] in there & signed_paths}
    return Differs(tuple(sorted(changed)), tuple(sorted(signed_paths - there)), tuple(sorted(there - signed_paths)))


def _whole(value: object, what: str) -> int:
    """Return an integer; other writers turn it into a float on the way through protobuf."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**53:
        raise MalformedError("oms-malformed", f"{what} cannot be read", got=f"shard_size {str(value)[:40]}")
    return value

"""The registry: models, data, code and keys, each an ID computed from content, each a signed statement in the log.

Long because every verb of a registry is here, and one of them alone says little.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import structs
from sqlalchemy import select

from genealog.capture.files import Tree, rescan, scan_tree
from genealog.core import records
from genealog.core.canonical import Record, parse_timestamp, timestamp
from genealog.core.dsse import Signer, load_public_key, unb64, verify_signature
from genealog.core.ids import record_id
from genealog.core.manifest import Manifest, decode_manifest, encode_manifest, files_root
from genealog.core.merkle import leaf_hash
from genealog.core.statement import Read, check_role, make_statement, read_statement
from genealog.core.weights import encode_tensors, weights_root
from genealog.errors import MalformedError, MissingError, PolicyDenied, VerificationError
from genealog.kept_records import keep_records
from genealog.ledger import Ledger, Position
from genealog.store import listing, schema
from genealog.store.home import NAME, REGISTRY, Home
from genealog.store.scale.url import StoreUrl
from genealog.store.signers.source import open_signer

Progress = Callable[[int, int], None]
Body = tuple[Record, str, str | None]  # what a statement says, its name, the artifact ID if that has files
Also = Callable[[str, str | None], Sequence[Body]]  # (artifact ID, weights ID) → more bodies of the same batch
_PREFIX = re.compile(r"(gl[frwd]1:)?[0-9a-f]{8,64}")


@dataclass(frozen=True, slots=True)
class Version:
    """A registered artifact: what it is, and which statements tell of it."""

    id: str
    kind: str
    name: str
    weights: str | None
    statement: str  # hex leaf hash of its artifact statement
    lineage: str  # hex leaf hash of the execution end (or events on the way) that made it, else of its own statement
    index: int
    revoked: str | None  # the reason, if it was revoked
    source: str | None


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter was trained on, bit for bit."""

    artifact: str
    weights: str | None


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A registered key."""

    keyid: str
    identity: str
    role: str
    public_der: bytes
    revoked: str | None
    since: str | None = None  # nothing counts that it signed from then on


@dataclass(frozen=True, slots=True)
class Added:
    """What `add` did: `new` is false when these bytes were registered before."""

    id: str
    weights: str | None
    position: Position | None
    new: bool
    tree: Tree | None = None


class Registry:
    """Verbs over one store. Every write is signed, durable and indexed when it returns."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ledger = Ledger(home)

    @classmethod
    def init(cls, path: Path | StoreUrl, *, origin: str | None = None, identity: str = "owner") -> Registry:
        """Make a store, and put its owner's and its engine's keys in the log."""

        def introduce(home: Home) -> None:
            owner = home.keys.signer("owner")
            keys = [(owner, identity, "owner"), (home.keys.signer("engine"), "engine", "engine")]
            cls(home).ledger.append(
                [make_statement(_key_body(k, name, role), owner, name=name) for k, name, role in keys]
            )

        return cls(Home.create(path, origin=origin, identity=identity, first=introduce))

    def signer(self, label: str | None = None) -> Signer:
        """Return the signer of an identity in `genealog.toml` (default: its `signer`).

        Raises: MissingError `unknown-identity`; as `open_signer`.
        """
        label = label or self.home.config.signer
        identity = self.home.config.identities.get(label)
        if identity is None:
            known = ", ".join(sorted(self.home.config.identities))
            raise MissingError("unknown-identity", f"genealog.toml has no identity {label!r}", expected=known)
        return open_signer(identity.key, self.home.keys, secret=identity.secret)

    def owner(self) -> Signer:
        """Return the owner's signer, wherever its key is kept. Raises: as `signer`."""
        return self.signer("owner") if "owner" in self.home.config.identities else self.home.keys.signer("owner")

    def append(self, body: Record, *, signer: Signer, name: str, artifact: str | None = None) -> Position:
        """Sign `body` as a statement called `name` and append it."""
        return self.append_all([(body, name, artifact)], signer=signer)[0]

    def append_all(
        self, bodies: Sequence[tuple[Record, str, str | None]], *, signer: Signer, settle: bool = True
    ) -> tuple[Position, ...]:
        """Sign and append (body, name, artifact ID or None) in one durable batch. `settle`: as of `Ledger.place`."""
        self._check_signer([body for body, _, _ in bodies], signer)
        append = self.ledger.append if settle else self.ledger.place
        return append([make_statement(b, signer, name=n, artifact=a) for b, n, a in bodies])

    def append_told(
        self, bodies: Sequence[records.ExecutionEvents | records.ExecutionEnd], *, signer: Signer, name: str,
        previous: str | None,
    ) -> str:  # fmt: skip
        """Append what is told of one execution, in one durable batch, each naming the one before; returns the last.

        `previous` and what is returned are hex leaf hashes: of the last statement so far, and of the last one now.
        """
        self._check_signer(bodies, signer)
        entries = []
        for body in bodies:
            entries.append(make_statement(structs.replace(body, previous=previous), signer, name=name))
            previous = leaf_hash(entries[-1]).hex()
        return self.ledger.append(entries)[-1].leaf

    def _check_signer(self, bodies: Sequence[Record], signer: Signer) -> None:
        known = self.keys().get(signer.keyid)
        if known is None or known.revoked is not None:
            what = "revoked" if known else "not registered"
            raise VerificationError("signer-unknown", f"the key that would sign is {what}", hint="genealog signer add")
        for body in bodies:
            check_role(body, role=known.role, keyid=known.keyid)

    def add(
        self,
        path: Path,
        *,
        kind: str,
        name: str | None = None,
        source: str | None = None,
        claims: Mapping[str, str] | None = None,
        signer: Signer | None = None,
        progress: Progress | None = None,
    ) -> Added:
        """Register the files at `path` under the ID of their content, and give them a name.

        The name moves to this version if it meant another. Equal bytes are registered once.
        Raises: MalformedError for trees that have no identity: empty, links that leave the root, truncated safetensors.
        """
        signer = signer or self.signer()
        name = name or path.resolve().name
        tree = scan_tree(path, progress=progress, exclude=left_out(path))
        return self.add_tree(tree, path, kind=kind, name=name, source=source, claims=claims or {}, signer=signer)

    def add_tree(
        self, tree: Tree, path: Path | None, *, kind: str, name: str, source: str | None = None,
        claims: Mapping[str, str] | None = None, signer: Signer | None = None, also: Also | None = None,
    ) -> Added:  # fmt: skip
        """Register a tree that was scanned before. What `also` says of it goes into the same durable batch."""
        signer = signer or self.signer()
        identifier = files_root(tree.entries)
        weights = None
        if tree.weights:
            listing = self._keep(encode_tensors(tree.weights))
            weights = records.Weights(
                id=weights_root(tree.weights), tensors=len(tree.weights), list=listing, tied=dict(tree.tied)
            )
        kept, notes = None, tuple[str, ...]()
        if path is not None:
            self.home.remember(identifier, path)
            if kind == "dataset" and not self._known(identifier):
                kept, notes = keep_records(self.home, path, tree.entries, exclude=tree.excludes)
                tree = replace(tree, warnings=(*tree.warnings, *notes))
        body = records.Artifact(
            kind=kind, registered_at=_now(), files=len(tree.entries), size=sum(e.size for e in tree.entries),
            manifest=self._keep(encode_manifest(tree.entries, tree.excludes)),
            weights=weights, format=tree.format, excludes=tree.excludes, source=source, claims=dict(claims or {}),
            warnings=tree.warnings, records=kept,
        )  # fmt: skip
        return self._register(identifier, body, name=name, signer=signer, artifact=identifier, tree=tree, also=also)

    def add_record(
        self, body: Mapping[str, Any], *, kind: str, name: str, signer: Signer | None = None,
        kept: records.RecordSet | None = None, claims: Mapping[str, str] | None = None,
    ) -> Added:  # fmt: skip
        """Register an artifact without files: its ID is the hash of `body` (an environment, an external model)."""
        artifact = records.Artifact(
            kind=kind, registered_at=_now(), body=dict(body), records=kept, claims=dict(claims or {})
        )
        return self._register(record_id(body), artifact, name=name, signer=signer or self.signer())

    def _register(
        self, identifier: str, body: records.Artifact, *, name: str, signer: Signer,
        artifact: str | None = None, tree: Tree | None = None, also: Also | None = None,
    ) -> Added:  # fmt: skip
        weights = body.weights.id if body.weights else None
        batch: list[tuple[Record, str, str | None]] = []
        if not self._known(identifier):
            batch.append((body, name, artifact))
        move = self.last_ref("name", name)
        if move is None or move["to"] != identifier:
            batch.append((self.move("name", name, identifier), name, None))
        new = bool(batch) and isinstance(batch[0][0], records.Artifact)
        batch += also(identifier, weights) if also else ()
        if not batch:
            return Added(identifier, weights, None, new=False, tree=tree)
        position = self.append_all(batch, signer=signer)[0]
        return Added(identifier, weights, position, new=new, tree=tree)

    def sign(self, ref: str, *, signer: Signer) -> Position:
        """Put a second signature under a registered version: the same statement, stated by another identity."""
        version = self.resolve(ref)
        read = self.statement(version.statement)
        artifact = version.id if version.id.startswith("glf1:") else None
        return self.append(read.body, signer=signer, name=version.name, artifact=artifact)

    def revoke(self, ref: str, *, reason: str, signer: Signer | None = None) -> Position:
        """Withdraw a version: engines refuse to load it and gateways to serve it from here on."""
        version = self.resolve(ref)
        body = self.move("revocation", version.id, version.id, reason=reason)
        return self.append(body, signer=signer or self.signer(), name=version.name)

    def add_signer(self, label: str, identity: str, *, role: str = "signer", algorithm: str = "ecdsa-p256") -> Position:
        """Make a key for a new identity and register it, signed by the owner.

        Raises: MalformedError `bad-label`; StoreError `identity-exists`, `key-exists`.
        """
        self.home.check_label(label)
        key = self.home.keys.create(label, algorithm)
        position = self.append(_key_body(key, identity, role), signer=self.owner(), name=identity)
        self.home.add_identity(label, identity, label)
        return position

    def adopt_signer(
        self, label: str, identity: str, *, source: str, secret: str | None = None, role: str = "signer"
    ) -> Position:
        """Register a key that is kept elsewhere, in a token, a file or a variable, signed by the owner.

        It signs once, so that nobody registers a key that he cannot use. Raises: as `add_signer` and `open_signer`;
        MalformedError `bad-public-key` for a curve that statements are not signed by.
        """
        self.home.check_label(label)
        key = open_signer(source, self.home.keys, secret=secret)
        load_public_key(key.public_der)
        verify_signature(key.public_der, key.sign(b"genealog"), b"genealog")
        position = self.append(_key_body(key, identity, role), signer=self.owner(), name=identity)
        self.home.add_identity(label, identity, source, secret)
        return position

    def revoke_key(self, keyid: str, *, reason: str, since: str | None = None, before: int | None = None) -> Position:
        """Withdraw a key: what it signs from here on vouches for nothing. `keyid` may be cut to 8 digits or more.

        With `since`, a past time as `timestamp` writes it, nothing counts either that cannot be shown to have been in
        the log before (docs/adr/0022); `before` says how many entries the log had by then, on the owner's word.
        Raises: MissingError `unknown-key`; MalformedError `ambiguous-ref`, `bad-time`.
        """
        if since is not None and parse_timestamp(since) > datetime.now(UTC):
            raise MalformedError("bad-time", "a key is revoked since a time that has come", got=since)
        rows = [row for known, row in self.keys().items() if known.startswith(keyid)] if len(keyid) >= 8 else []
        if not rows:
            raise MissingError(
                "unknown-key", "no registered key has an ID that starts so", got=keyid, expected="8 digits or more",
                hint="genealog signer ls",
            )  # fmt: skip
        if len(rows) > 1:
            raise MalformedError("ambiguous-ref", "more than one ID starts so", got=keyid, hint="give more digits")
        (row,) = rows
        if row.role == "owner":
            raise PolicyDenied(
                "owner-key", "the owner's key vouches for every other: without it this store could sign nothing more",
                hint="if it leaked, make a new store and register your versions there under a new key",
            )  # fmt: skip
        if row.role == "log":
            raise PolicyDenied(
                "log-key", "the key of a log is replaced, not revoked", got=row.identity,
                hint="genealog log rotate-key NAME, then --retire",
            )  # fmt: skip
        body = records.Key(
            action="revoke", keyid=row.keyid, identity=row.identity, role=_role(row.role), at=_now(), reason=reason,
            since=since, before=before,
        )  # fmt: skip
        return self.append(body, signer=self.owner(), name=row.identity)

    def resolve(self, ref: str) -> Version:
        """Return the version that `ref` means: a name, an ID, or the start of one (≥ 8 hex digits).

        Raises: MissingError `unknown-artifact`; MalformedError `ambiguous-ref`.
        """
        index = self.ledger.index(REGISTRY)
        move = self.last_ref("name", ref)
        wanted = move["to"] if move else ref
        table = schema.artifact
        registered = select(table).where(table.c.entry.is_not(None))
        rows = index.rows(registered.where(table.c.digest == wanted))
        if not rows and _PREFIX.fullmatch(ref):
            algorithm, _, digits = ref.rpartition(":")
            rows = index.rows(registered.where(table.c.digest.like(f"{algorithm or 'gl__'}:{digits}%")))
        if not rows:
            raise MissingError(
                "unknown-artifact",
                "nothing is registered under this name or ID",
                got=ref,
                hint="look with genealog ls, or register it: genealog add PATH --kind KIND --name NAME",
            )
        if len(rows) > 1:
            raise MalformedError("ambiguous-ref", "more than one ID starts so", got=ref, hint="give more digits")
        return self._version(rows[0])

    def versions(self, *, limit: int | None = None) -> list[Version]:
        """Return the registered artifacts, or the newest of them, in log order."""
        rows = self.ledger.index(REGISTRY).rows(listing.versions(limit=limit))
        return [
            Version(
                id=row["digest"], kind=row["kind"], name=row["name"], weights=row["weights"],
                statement=row["statement"], lineage=row["made"] or row["statement"], index=row["entry"],
                revoked=(row["revoked"] or "revoked") if row["revocation"] is not None else None, source=row["source"],
            )
            for row in reversed(rows)
        ]  # fmt: skip

    def base_of(self, adapter: str) -> Base | None:
        """Return the base that the run which made `adapter` recorded, or None where no run did.

        What is contradicted counts for nothing, and a claim only where nobody states anything.
        """
        event, artifact = schema.event, schema.artifact
        query = (
            select(artifact.c.digest, event.c.weights)
            .join(artifact, artifact.c.id == event.c.artifact)
            .where(event.c.direction == "in", event.c.role == "base", event.c.execution.in_(_makers(adapter)))
            .where(event.c.state != "contradicted")
            .order_by(event.c.state == "claimed", event.c.id)
        )
        row = self.ledger.index(REGISTRY).first(query)
        return Base(row["digest"], row["weights"]) if row else None

    def is_made(self, artifact: str) -> bool:
        """Return whether an execution on record made `artifact`."""
        return self.ledger.index(REGISTRY).first(_makers(artifact)) is not None

    def keys(self) -> dict[str, KeyRow]:
        """Return every registered key by its ID."""
        return {
            row["keyid"]: KeyRow(
                row["keyid"], row["identity"], row["role"], unb64(row["public"]),
                (row["reason"] or "revoked") if row["revoked"] is not None else None, row["since"],
            )
            for row in self.ledger.index(REGISTRY).rows(select(schema.key))
        }  # fmt: skip

    def statement(self, leaf: str) -> Read:
        """Return the statement with this hex leaf hash. Raises: MissingError `unknown-entry`."""
        return read_statement(self.ledger.entry(self.ledger.at(leaf)))

    def manifest(self, version: Version) -> Manifest:
        """Return the files of a version, from the object that its statement names, held to the ID.

        Raises: MissingError `no-manifest`, `no-such-object`; VerificationError `manifest-mismatch`.
        """
        body = self.statement(version.statement).body
        if not isinstance(body, records.Artifact) or body.manifest is None:
            raise MissingError("no-manifest", f"{version.name} has no files of its own", got=version.id)
        manifest = decode_manifest(self.home.objects.get(body.manifest.sha256))
        if (found := files_root(manifest.files)) != version.id:  # whoever signed it may have named any list
            raise VerificationError(
                "manifest-mismatch", f"the list of files that {version.name} was registered with is not its own",
                got=found, expected=version.id,
            )  # fmt: skip
        return manifest

    def check(self, path: Path, ref: str, *, progress: Progress | None = None) -> Version:
        """Hash the files at `path` again and compare them with the registered version `ref`.

        Raises: VerificationError `bytes-differ`, naming the files; what `scan_tree` raises.
        """
        version = self.resolve(ref)
        manifest = self.manifest(version)
        difference = rescan(path, manifest.files, progress=progress, exclude=left_out(path, manifest))
        if not difference.none:
            raise VerificationError(
                "bytes-differ", f"the files at {path.name} are not {version.name}",
                got=str(difference), expected=version.id,
                hint="restore the registered bytes, or register these as a new version: genealog add",
            )  # fmt: skip
        return version

    def last_ref(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return the newest move of a ref (its row, with `leaf`), or None."""
        table = schema.ref
        return self.ledger.index(REGISTRY).first(
            select(table, schema.entry.c.leaf)
            .join(schema.entry, schema.entry.c.id == table.c.id)
            .where(table.c.kind == kind, table.c.name == name)
            .order_by(table.c.id.desc())
        )

    def move(self, kind: Any, name: str, to: str, *, reason: str | None = None, action: Any = "set") -> records.Ref:
        """Return the body of the next move of a ref, chained to the move before."""
        last = self.last_ref(kind, name)
        previous = last["leaf"] if last else None
        return records.Ref(kind=kind, name=name, to=to, at=_now(), previous=previous, reason=reason, action=action)

    def revocation(self, artifact: str) -> str | None:
        """Return why `artifact` was revoked, or None."""
        row = self.last_ref("revocation", artifact)
        return (row["reason"] or "revoked") if row else None

    def _keep(self, data: bytes) -> records.Blob:
        return records.Blob(sha256=self.home.objects.put(data), size=len(data))

    def _known(self, identifier: str) -> bool:
        row = self._artifact_row(identifier)
        return row is not None and row["entry"] is not None

    def _artifact_row(self, identifier: str) -> dict[str, Any] | None:
        return self.ledger.index(REGISTRY).first(select(schema.artifact).where(schema.artifact.c.digest == identifier))

    def _version(self, row: Mapping[str, Any]) -> Version:
        statement = self.leaf(row["entry"])
        return Version(
            id=row["digest"], kind=row["kind"], name=row["name"], weights=row["weights"], statement=statement,
            lineage=self._lineage(row["id"]) or statement, index=row["entry"],
            revoked=self.revocation(row["digest"]), source=row["source"],
        )  # fmt: skip

    def _lineage(self, artifact: int) -> str | None:
        """Return the leaf of the last end that made an artifact; of a run that goes on, of the first word of it."""
        event, execution = schema.event, schema.execution
        made = (
            select(execution.c.end, event.c.id)
            .join(execution, execution.c.id == event.c.execution)
            .where(event.c.artifact == artifact, event.c.direction == "out")
        )
        rows = self.ledger.index(REGISTRY).rows(made)
        if ends := [row["end"] for row in rows if row["end"] is not None]:
            return self.leaf(max(ends))
        return self.leaf(min(row["id"] for row in rows) >> schema.EVENT_BITS) if rows else None

    def leaf(self, index: int) -> str:
        """Return the hex leaf hash of an entry of the registry by its index, or an empty text."""
        row = self.home.index.first(select(schema.entry.c.leaf).where(schema.entry.c.id == index))
        return str(row["leaf"]) if row else ""


def left_out(path: Path, of: Manifest | records.Artifact | None = None) -> tuple[str, ...]:
    """Return what to leave out of the folder at `path`: a store in it, and what was left out of the version `of`.

    A trainer's output holds checkpoints, which are versions of their own. Whoever holds a folder to a version asks
    here. What is left out is under nobody's ID: it is not loaded either.
    """
    store = (NAME,) if (path / NAME).is_dir() else ()
    return (*store, *(name for name in (of.excludes if of else ()) if name not in store))


def _makers(artifact: str) -> Any:
    """Select the executions that an artifact came out of."""
    event = schema.event
    return (
        select(event.c.execution)
        .join(schema.artifact, schema.artifact.c.id == event.c.artifact)
        .where(schema.artifact.c.digest == artifact, event.c.direction == "out")
    )


def _key_body(key: Any, identity: str, role: str) -> records.Key:
    public = base64.b64encode(key.public_der).decode()
    return records.Key(action="add", keyid=key.keyid, identity=identity, role=_role(role), at=_now(), public=public)


def _role(text: str) -> Any:
    if text not in ("owner", "signer", "engine"):
        raise MalformedError("bad-role", "a key has one of three roles", got=text, expected="owner, signer or engine")
    return text


def _now() -> str:
    return timestamp(datetime.now(UTC))


def new_nonce() -> str:
    """Return 32 random hex digits: what makes two equal starts two executions."""
    return secrets.token_hex(16)

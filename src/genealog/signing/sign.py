"""Sign a model for other tools (OMS), and keep signatures of others with the version that they sign.

The digests of a registered version are those of its manifest: signing reads no file again, and one read gives both the
artifact ID and the signature of a folder. A bundle that is kept is an object of the store, and a `signature/v1`
statement names it. What is written for others leaves out what their tools leave out (`.git…`), and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from genealog.capture.files import file_entries, hash_files
from genealog.capture.listing import list_tree
from genealog.capture.signed_files import has_links
from genealog.core import records
from genealog.core.canonical import timestamp
from genealog.core.dsse import Signer
from genealog.core.manifest import files_root
from genealog.core.states import State
from genealog.core.timestamp import read_certificates
from genealog.errors import MissingError, VerificationError
from genealog.interop.oms.bundle import Method, key_hint, oms_key, signed_bytes, write_bundle
from genealog.interop.oms.payload import DEFAULT_IGNORED, write_payload
from genealog.ledger import Position
from genealog.registry import Registry, Version
from genealog.signing.believe import believed_by
from genealog.signing.examine import judge_bundle, judge_manifest, method_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SignedModel:
    """A bundle that was made or kept. `position` is of its statement; None where its bytes are registered nowhere."""

    data: bytes
    method: Method
    signer: str
    artifact: str
    left_out: tuple[str, ...]
    position: Position | None


def sign_oms(
    registry: Registry,
    target: Version | Path,
    *,
    label: str | None = None,
    out: Path | None = None,
    chain: bytes | None = None,
    progress: Progress | None = None,
) -> SignedModel:
    """Sign a registered version, or the files at a path, as the identity `label`; with `chain` (PEM) by certificate.

    `out` is where the bundle will lie: inside the model it is left out. Nothing is written there.
    Raises: MissingError `unknown-identity`, `no-manifest`, `empty-model`; MalformedError `bad-public-key`,
    `roots-malformed`; VerificationError `certificate-not-of-key`; as `open_signer`, `list_tree` and `hash_files`.
    """
    signer = registry.signer(label)
    public = oms_key(signer.public_der)
    certificates = read_certificates(chain) if chain is not None else ()
    if certificates:
        _check_leaf(certificates[0], signer)
    if isinstance(target, Version):
        manifest = registry.manifest(target)
        files, excludes, name, artifact = manifest.files, manifest.excludes, target.name, target.id
        place = registry.home.location(target.id)
    else:
        found, excludes = list_tree(target)
        files = file_entries(found, hash_files(found, tensors=False, progress=progress))
        name, place = target.resolve().name, target
        artifact = files_root(files)
    links = place is not None and place.is_dir() and has_links(place)
    ignored = {*DEFAULT_IGNORED, *excludes, *_name_of(out, place)}
    listed = {file.path: file.sha256 for file in files if file.path.split("/", 1)[0] not in ignored}
    if not listed:
        raise MissingError("empty-model", "there is nothing to sign but what others leave out", got=name)
    if place is not None and place.is_file():
        listed = {".": files[0].sha256}
    payload = write_payload(name, listed.items(), ignore_paths=ignored, allow_symlinks=links)
    data = write_bundle(payload, signer.sign(signed_bytes(payload)), public=public, chain=certificates)
    method: Method = "certificate" if certificates else "key"
    who = registry.home.config.identities[label or registry.home.config.signer].name
    position = _keep(registry, data, artifact, method=method, who=who, signer=signer)
    left = tuple(sorted({file.path for file in files} - listed.keys())) if "." not in listed else ()
    return SignedModel(data, method, f"{who} ({key_hint(public)[:12]})", artifact, left, position)


def keep_signature(registry: Registry, version: Version, data: bytes, *, label: str | None = None) -> SignedModel:
    """Keep a bundle of somebody else with the version that it signs, if he is trusted and signed these bytes.

    Raises: VerificationError `signature-not-kept`, saying why; as `judge_bundle`.
    """
    believed = believed_by(registry.home.config, registry.home.path)
    verdict, signed = judge_bundle(data, believed, at=datetime.now(UTC))
    differs = judge_manifest(signed, registry.manifest(version).files) if signed is not None else None
    if verdict.state is not State.PROVEN or differs is None or differs.changed or differs.missing or differs.added:
        why = verdict.detail or verdict.code or "it signs digests that the manifest does not have"
        if verdict.state is State.PROVEN and differs is not None:
            why = f"it signs other files: {', '.join((*differs.changed, *differs.missing, *differs.added))[:200]}"
        raise VerificationError(
            "signature-not-kept", "this signature proves nothing of this version", got=f"{verdict.signer}: {why}",
            hint="say whom you trust, as [trust.signers.LABEL] in genealog.toml",
        )  # fmt: skip
    who, method = verdict.label or verdict.signer, method_of(data)
    position = _keep(registry, data, version.id, method=method, who=who, signer=registry.signer(label))
    return SignedModel(data, method, f"{who} ({verdict.signer})", version.id, (), position)


def _keep(
    registry: Registry, data: bytes, artifact: str, *, method: Method, who: str, signer: Signer
) -> Position | None:
    """Keep a bundle and state it, by the same key where that one makes statements, else by the store's signer."""
    try:
        version = registry.resolve(artifact)
    except MissingError:
        return None
    known = registry.keys().get(signer.keyid)
    if known is None or known.revoked is not None or known.role not in ("owner", "signer"):
        signer = registry.signer()
    blob = records.Blob(sha256=registry.home.objects.put(data), size=len(data))
    body = records.Signature(
        artifact=version.id, format="oms", method=method, bundle=blob, signer=who,
        at=timestamp(datetime.now(UTC)),
    )  # fmt: skip
    return registry.append(body, signer=signer, name=version.name)


def _check_leaf(leaf: x509.Certificate, signer: Signer) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != signer.public_der:
        raise VerificationError(
            "certificate-not-of-key", "the first certificate is not that of the key that signs",
            got=leaf.subject.rfc4514_string(), hint="the chain begins with the signer's own certificate",
        )  # fmt: skip


def _name_of(out: Path | None, place: Path | None) -> tuple[str, ...]:
    if out is None or place is None or not place.is_dir():
        return ()
    inside, root = os.path.realpath(out), os.path.realpath(place)
    return (os.path.relpath(inside, root),) if inside.startswith(root + os.sep) else ()

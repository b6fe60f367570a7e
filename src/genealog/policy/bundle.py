"""The policy set and the facts of the registry as a bundle of Open Policy Agent: a signed tar.gz.

    .manifest          {"revision": "<tree size>:<root>", "roots": ["genealog"], "rego_version": 1, "metadata": …}
    .signatures.json   one JWT (ES256) over the hash of every other file
    data.json          {"genealog": {"settings": …, "registry": {"size", "root", "origin", "models": {ID: facts}}}}
    main.rego, lib.rego, policies/NAME.rego

An agent that has it decides as the store would at that state of the registry log, and each of its decisions names the
state. Everything but the signature is the same bytes for the same state, settings and hour: ages are counted up to the
end of the hour that the bundle was made in, so an agent never takes an evaluation for younger than it is.

A file whose name ends in `.json`, and the manifest, are hashed as what they mean: keys in the order of their bytes, no
white space, strings as Go writes them. Delta bundles are not made: an agent does not check a signature on one.
Source: openpolicyagent.org, Bundles, "Signing"; open-policy-agent/opa v1/bundle (hash, verify, bundle).
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from genealog.core.dsse import Signer, load_public_key
from genealog.core.ids import sha256_hex
from genealog.errors import StoreError
from genealog.policy.sets import PolicySet

ROOT: Final = "genealog"
SCOPE: Final = "genealog"  # of the signature: an agent that is told it takes no bundle signed for another
SIGNATURES: Final = ".signatures.json"
MANIFEST: Final = ".manifest"
HOUR: Final = 3_600_000_000_000


@dataclass(frozen=True)
class Bundle:
    """What an agent gets, before it is signed: `files` by their path."""

    revision: str
    policies: str  # ID of the policy set
    files: Mapping[str, bytes] = field(repr=False)

    @cached_property
    def hashes(self) -> list[dict[str, str]]:
        """What is signed of each file: name, hex SHA-256, algorithm."""
        return [
            {"name": path, "hash": sha256_hex(hashed(path, data)), "algorithm": "SHA-256"}
            for path, data in sorted(self.files.items())
        ]

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 over what is signed: two bundles are the same if theirs are."""
        return sha256_hex(_json(self.hashes))

    @property
    def etag(self) -> str:
        """The strong validator of this bundle in HTTP, with its quotes."""
        return f'"{self.revision}/{self.digest[:32]}"'

    def token(self, signer: Signer) -> str:
        """Return the JWT over the files. Raises: StoreError `bundle-key-unfit`."""
        key = p256_of(signer)
        head = {"alg": "ES256", "kid": signer.keyid, "typ": "JWT"}
        claims = {"files": self.hashes, "keyid": signer.keyid, "scope": SCOPE}
        said = f"{_b64url(_json(head))}.{_b64url(_json(claims))}"
        r, s = decode_dss_signature(signer.sign(said.encode()))
        width = (key.curve.key_size + 7) // 8
        return f"{said}.{_b64url(r.to_bytes(width, 'big') + s.to_bytes(width, 'big'))}"

    def pack(self, signer: Signer | None = None) -> bytes:
        """Return the tar.gz: signed, or without a signature. Raises: StoreError `bundle-key-unfit`."""
        files = dict(self.files)
        if signer is not None:
            files[SIGNATURES] = _json({"signatures": [self.token(signer)]})
        return tar_of(files)


def make_bundle(
    policies: PolicySet, *, size: int, root: str, origin: str, models: Mapping[str, Any], until: str
) -> Bundle:
    """Put a policy set and facts together. `models` are `document.Model` by ID, as JSON values; `until` is a time."""
    registry = {"size": size, "root": root, "origin": origin, "models": models}
    revision = f"{size}:{root}"
    manifest = {
        "revision": revision,
        "roots": [ROOT],
        "rego_version": 1,
        "metadata": {"policy_set": policies.id, "origin": origin, "ages_until": until},
    }
    files = {path: data for path, data in policies.files.items() if path.endswith(".rego")}
    files["data.json"] = _json({ROOT: {"settings": policies.settings, "registry": registry}})
    files[MANIFEST] = _json(manifest)
    return Bundle(revision, policies.id, files)


def p256_of(signer: Signer) -> ec.EllipticCurvePublicKey:
    """Return the public key of a signer that agents can check. Raises: StoreError `bundle-key-unfit`."""
    key = load_public_key(signer.public_der)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise StoreError(
            "bundle-key-unfit", "Open Policy Agent does not check signatures of this kind of key", got="Ed25519",
            expected="ECDSA P-256", hint="genealog signer add LABEL --identity NAME, then --as LABEL",
        )  # fmt: skip
    return key


def public_pem(signer: Signer) -> str:
    """Return the public key in PEM, as an agent is configured with it. Raises: StoreError `bundle-key-unfit`."""
    encoded = p256_of(signer).public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return encoded.decode()


def hashed(path: str, data: bytes) -> bytes:
    """Return the bytes that an agent hashes of a file."""
    if path.rpartition("/")[2] != MANIFEST and not path.endswith(".json"):
        return data
    return _json(json.loads(data))


def end_of_hour(now_ns: int) -> int:
    """Return the end of the hour that a time is in, both in nanoseconds of Unix time."""
    return (now_ns // HOUR + 1) * HOUR


def _json(value: Any) -> bytes:
    """Return JSON as Go spells it without its escapes for HTML; UTF-8 sorts as its code points do."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").encode()


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar.gz of files, the same bytes for the same files."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()

"""What strangers' tools say: runs in `.venv-peers`, imports `aics_tlog` and `aics_witness` and nothing of ours.

`python peer_side.py FUNCTION` reads a JSON object of arguments from standard input and prints what the function
returns. Bytes travel as base64. Each function is what a user of those packages would write after their documentation.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import aics_tlog as tlog
import aics_witness as witness
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def read_log(place: str, vkey: str, witnesses: list[str] | None = None, quorum: int = 0) -> dict[str, Any]:
    """Verify the head of a published log (URL or folder), then every tile and entry under it."""
    reader = tlog.HttpTileReader(tlog.remote.tile_source_url(place), proxies={})
    head = _head(reader.read_checkpoint(), vkey, witnesses, quorum)
    report = tlog.audit_tiles(reader, head.size, head.root)
    view = tlog.VerifiedTileReader(reader, head.size, head.root)
    entries = sha256()
    for index in range(head.size):
        entry = view.entry(index)
        entries.update(len(entry).to_bytes(2, "big") + entry)
    return {
        "size": head.size,
        "root": head.root.hex(),
        "tiles": report.tiles,
        "bundles": report.bundles,
        "witnesses": head.witnesses,
        "entries": entries.hexdigest(),
    }


def prove(place: str, vkey: str, index: int, old: int) -> dict[str, Any]:
    """Make an inclusion and a consistency proof from the tiles of a published log, each tile proven first."""
    reader = tlog.HttpTileReader(tlog.remote.tile_source_url(place), proxies={})
    head = _head(reader.read_checkpoint(), vkey)
    view = tlog.VerifiedTileReader(reader, head.size, head.root)
    return {
        "inclusion": [_b64(value) for value in tlog.inclusion_proof_from_tiles(view, index, head.size)],
        "consistency": [_b64(value) for value in tlog.consistency_proof_from_tiles(view, old, head.size)],
    }


def mirror(urls: list[str], vkey: str, folder: str) -> dict[str, Any]:
    """Copy a log from web servers with the package's own cache, which takes in only what is proven."""
    reader = tlog.HttpTileReader(urls, folder, cache_partials=True, proxies={})
    note = reader.read_checkpoint()
    head = _head(note, vkey)
    report = tlog.audit_tiles(reader, head.size, head.root)
    tlog.DirectoryTileStore(folder).write_checkpoint(note)
    return {"size": head.size, "tiles": report.tiles, "bundles": report.bundles, "stats": reader.stats}


def check_inclusions(proofs: list[list[Any]]) -> list[bool]:
    """Verify (entry, index, size, hashes, root) each."""
    return [
        tlog.verify_leaf_inclusion(_raw(entry), index, size, _raws(hashes), _raw(root))
        for entry, index, size, hashes, root in proofs
    ]


def check_consistencies(proofs: list[list[Any]]) -> list[bool]:
    """Verify (old size, new size, old root, new root, hashes) each."""
    return [
        tlog.verify_consistency(old, new, _raw(old_root), _raw(new_root), _raws(hashes))
        for old, new, old_root, new_root, hashes in proofs
    ]


def check_checkpoint(note: str, vkey: str, witnesses: list[str], quorum: int) -> dict[str, Any]:
    """Verify a signed and cosigned head under a policy; a refusal is an answer here."""
    found = tlog.verify_checkpoint(
        tlog.parse_note(_raw(note)), tlog.parse_vkey(vkey), [tlog.parse_vkey(key) for key in witnesses], quorum
    )
    return {"ok": found.ok, "error": found.error, "witnesses": found.witnesses, "timestamps": found.timestamps}


def write_log(folder: str, seed: str, origin: str, batches: list[list[str]]) -> dict[str, Any]:
    """Publish a log of its own: tiles after each batch, and a signed head at the end. Keeps every head it signed."""
    key = Ed25519PrivateKey.from_private_bytes(_raw(seed))
    store = tlog.DirectoryTileStore(folder)
    writer = tlog.IncrementalTileWriter(store)
    heads: list[str] = []
    for batch in batches:
        writer.append([_raw(entry) for entry in batch])
        note = tlog.sign_checkpoint(tlog.Checkpoint(origin, writer.size, writer.root()), key, origin).to_bytes()
        store.write_checkpoint(note)
        heads.append(_b64(note))
    return {
        "vkey": tlog.format_vkey(tlog.vkey_from_ed25519(origin, key.public_key().public_bytes_raw())),
        "heads": heads,
    }


def bundle(folder: str, vkey: str, index: int) -> str:
    """Return the package's offline bundle of one entry, as JSON text."""
    reader = tlog.FileSystemTileReader(folder)
    note = (Path(folder) / "checkpoint").read_bytes()
    head = _head(note, vkey)
    return tlog.bundle_from_tiles(tlog.VerifiedTileReader(reader, head.size, head.root), index, note).to_json()


def check_bundle(text: str, vkey: str) -> dict[str, Any]:
    """Verify an offline bundle."""
    found = tlog.verify_bundle(text, tlog.parse_vkey(vkey))
    return {"ok": found.ok, "error": found.error, "size": found.size, "index": found.index}


def cosign(note: str, seed: str, name: str, at: int) -> dict[str, str]:
    """Cosign a head with an Ed25519 key of a witness; return the line and the key."""
    key = Ed25519PrivateKey.from_private_bytes(_raw(seed))
    head = tlog.parse_checkpoint(tlog.parse_note(_raw(note)).text)
    _, line = tlog.sign_cosignature(key, name, at, head.origin, head.size, head.root, head.extension_lines)
    text = witness.protocol.format_signature_line(line)
    return {"line": text, "vkey": tlog.format_vkey(tlog.cosignature_vkey(name, key.public_key()))}


def submit(url: str, witness_vkey: str, state: str, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Collect cosignatures with the package's client, one head after the other; a refusal is an answer here.

    A step has a `note` and the consistency `proofs` that the log can make: old size to hashes.
    """
    answers: list[dict[str, Any]] = []
    with witness.WitnessClient(url, witness_vkey, state_path=state, max_attempts=1) as client:
        for step in steps:
            proofs = {int(old): _raws(hashes) for old, hashes in step["proofs"].items()}
            try:
                lines = client.submit(_raw(step["note"]), lambda old, _, proofs=proofs: proofs[old])
            except witness.FeederError as error:
                answers.append({"refused": type(error).__name__, "status": getattr(error, "status", None)})
            else:
                note = witness.merge_cosignatures(_raw(step["note"]), lines)
                answers.append({"lines": lines, "note": _b64(note)})
    return answers


def decide(name: str, seed: str, vkey: str, requests: list[str], folder: str, now: int) -> list[dict[str, Any]]:
    """Answer add-checkpoint requests with the package's witness, without HTTP and at a fixed time."""
    origin = tlog.parse_vkey(vkey).name
    key = Ed25519PrivateKey.from_private_bytes(_raw(seed))
    answers: list[dict[str, Any]] = []
    with witness.WitnessStore(Path(folder) / "w.db", create=True) as store:
        logs = [witness.LogConfig.from_strings(origin, [vkey])]
        it = witness.Witness(name, key, store, logs, clock=lambda: float(now))
        for request in requests:
            try:
                answers.append({"status": 200, "body": _b64(it.add_checkpoint(_raw(request)))})
            except witness.WitnessError as error:
                answers.append({"status": error.status, "body": _b64(error.body), "type": error.content_type})
    return answers


def parse_paths(paths: list[str]) -> list[bool]:
    """Tell which tile paths the package reads."""
    return [_accepts(lambda path=path: tlog.tiles.parse_tile_path(path)) for path in paths]


def parse_notes(notes: list[str]) -> list[bool]:
    """Tell which notes the package reads."""
    return [_accepts(lambda note=note: tlog.parse_note(_raw(note))) for note in notes]


def two_writers(folder: str) -> dict[str, Any]:
    """Open one store twice and append something else with each."""
    first, second = (tlog.IncrementalTileWriter(tlog.DirectoryTileStore(folder)) for _ in range(2))
    first.append([b"a"] * 2)
    second.append([b"b"] * 3)
    return {"first": [first.size, first.root().hex()], "second": [second.size, second.root().hex()]}


def crash_between(folder: str) -> str:
    """Append, lose the process before a head is published, and append something else from the last head."""
    store = tlog.DirectoryTileStore(folder)
    tlog.IncrementalTileWriter(store).append([b"a"] * 2)
    try:
        tlog.IncrementalTileWriter(tlog.DirectoryTileStore(folder), 0).append([b"b"] * 2)
    except tlog.TileConflictError as error:
        return type(error).__name__
    return "no error"


def _head(note: bytes, vkey: str, witnesses: list[str] | None = None, quorum: int = 0) -> Any:
    keys = [tlog.parse_vkey(key) for key in witnesses or []]
    found = tlog.verify_checkpoint(tlog.parse_note(note), tlog.parse_vkey(vkey), keys, quorum)
    if not found.ok:
        raise SystemExit(f"refused: {found.error}")
    return found


def _accepts(read: Any) -> bool:
    try:
        read()
    except ValueError:
        return False
    return True


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _raws(texts: list[str]) -> list[bytes]:
    return [_raw(text) for text in texts]


if __name__ == "__main__":
    os.umask(0o022)
    json.dump(globals()[sys.argv[1]](**json.load(sys.stdin)), sys.stdout)

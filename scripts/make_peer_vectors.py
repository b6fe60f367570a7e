"""Make `tests/vectors/peers`: what aics-tlog and aics-witness write and answer, to be checked where they cannot run.

    python scripts/make_peer_vectors.py        after `make bench-peers`

`log/` is a log that aics-tlog published; `told.json` holds its heads, proofs and a bundle, cosignatures, and what
aics-witness answered to a row of requests, one after the other. Keys and times are fixed, so the same bytes come out
each time. Nothing here is checked: `tests/interop/test_peer_vectors.py` does that.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from genealog.core.checkpoint import Checkpoint, sign_checkpoint
from genealog.core.merkle import consistency_path, leaf_hash, tree_root
from genealog.core.note import NoteSigner, format_vkey
from genealog.core.witness import AddCheckpoint

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests/vectors/peers"
SIDE = ROOT / "tests/interop/peer_side.py"
PYTHON = ROOT / ".venv-peers/bin/python"
NOW = 1_760_000_000
BATCHES = (255, 3)
INDEXES = (0, 254, 255, 256, 257)


def main() -> None:
    """Write the files."""
    for name, data in make().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def make() -> dict[str, bytes]:
    """Return every file by its name, as the peers make them now."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "log"
        told = _log(folder)
        files = {f"log/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        told |= _witness(Path(name))
    files["told.json"] = json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"
    return files


def _log(folder: Path) -> dict[str, Any]:
    """Have aics-tlog write a log and prove things about it."""
    entries = [b'{"n":%d}' % number for number in range(sum(BATCHES))]
    batches = [list(map(_b64, entries[: BATCHES[0]])), list(map(_b64, entries[BATCHES[0] :]))]
    made = _ask("write_log", folder=str(folder), seed=_seed("log"), origin="log.example/theirs", batches=batches)
    at = {"place": str(folder), "vkey": made["vkey"]}
    return {
        "log_vkey": made["vkey"],
        "heads": made["heads"],
        "proofs": {str(index): _ask("prove", **at, index=index, old=BATCHES[0]) for index in INDEXES},
        "bundle": json.loads(_ask("bundle", folder=str(folder), vkey=made["vkey"], index=256)),
    }


def _witness(folder: Path) -> dict[str, Any]:
    """Have aics-tlog cosign a head of ours, and ask aics-witness about a log of ours and its fork."""
    name = "log.example/ours"
    signer = NoteSigner(name, Ed25519PrivateKey.from_private_bytes(sha256(b"ours").digest()))
    leaves = [leaf_hash(b"%d" % number) for number in range(20)]
    forked = [*leaves[:7], *map(leaf_hash, [b"x"] * 13)]

    def note(size: int, of: list[bytes]) -> bytes:
        return sign_checkpoint(Checkpoint(name, size, tree_root(of[:size])), signer)

    def request(old: int, size: int, of: list[bytes]) -> bytes:
        path = consistency_path(old, size, lambda level, index: tree_root(of[index << level : index + 1 << level]))
        return AddCheckpoint(old, path, note(size, of)).encode()

    requests = {
        "first": request(0, 9, leaves),
        "from nothing again": request(0, 12, leaves),
        "a fork": request(9, 12, forked),
        "another root of the same size": request(9, 9, forked),
        "on": request(9, 20, leaves),
        "malformed": b"old 20\n" + note(20, leaves),
    }
    vkey = format_vkey(signer.verifier)
    witness = "witness.example/theirs"
    answers = _ask(
        "decide", name=witness, seed=_seed("witness"), vkey=vkey, folder=str(folder), now=NOW,
        requests=[_b64(each) for each in requests.values()],
    )  # fmt: skip
    head = note(20, leaves)
    cosigned = _ask("cosign", note=_b64(head), seed=_seed("witness"), name=witness, at=NOW + 1)
    exchange = [
        {"name": name, "request": _b64(body), **answer}
        for (name, body), answer in zip(requests.items(), answers, strict=True)
    ]
    return {
        "our_vkey": vkey, "witness_vkey": cosigned["vkey"], "our_head": _b64(head), "cosignature": cosigned["line"],
        "exchange": exchange,
    }  # fmt: skip


def _ask(function: str, **arguments: object) -> Any:
    told = json.dumps(arguments)
    done = subprocess.run([PYTHON, SIDE, function], input=told, text=True, capture_output=True, check=True)
    return json.loads(done.stdout)


def _seed(name: str) -> str:
    return _b64(sha256(name.encode()).digest())


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    main()

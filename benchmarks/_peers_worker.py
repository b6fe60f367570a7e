"""The peer's side of the benchmarks: runs in `.venv-peers` and knows `aics-tlog` and nothing of ours.

One request a line, `[function, arguments]`; one JSON value back. Its own public classes are used as its documentation
shows them: a directory store with fsync, an incremental writer, proofs from tiles in memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from hashlib import sha256
from typing import Any

from aics_tlog import (
    DirectoryTileStore,
    IncrementalTileWriter,
    MemoryTileStore,
    inclusion_proof_from_tiles,
    verify_leaf_inclusion,
)

_STATE: dict[str, Any] = {}
_PIECE = 4096  # entries appended at a time while a tree is built


def start_log(folder: str, entry: int, size: int) -> None:
    """Begin a durable log; its appends will be of `size` entries of `entry` bytes."""
    _STATE["writer"] = IncrementalTileWriter(DirectoryTileStore(folder, fsync=True))
    _STATE["batch"] = [os.urandom(entry) for _ in range(size)]


def append(appends: int) -> float:
    """Return the seconds that so many durable appends take. No checkpoint is signed or published."""
    writer, batch = _STATE["writer"], _STATE["batch"]
    start = time.perf_counter()
    for _ in range(appends):
        writer.append(batch)
    return time.perf_counter() - start


def start_tree(count: int) -> str:
    """Build a tree in memory of the entries that `proofs.leaf` makes too; return its root in hex."""
    store = MemoryTileStore()
    writer = IncrementalTileWriter(store)
    for start in range(0, count, _PIECE):
        writer.append([leaf(index) for index in range(start, min(count, start + _PIECE))])
    _STATE["tiles"], _STATE["size"], _STATE["root"] = store, count, writer.root()
    return str(writer.root().hex())


def prove(indexes: list[int]) -> float:
    """Return the seconds a proof takes, on average, from tiles in memory whose inner hashes are not kept."""
    start = time.perf_counter()
    proofs = [inclusion_proof_from_tiles(_STATE["tiles"], index, _STATE["size"]) for index in indexes]
    seconds = time.perf_counter() - start
    _STATE["proofs"] = list(zip(indexes, proofs, strict=True))
    return seconds / len(indexes)


def verify() -> float:
    """Return the seconds that one of the last proofs takes to verify against a root that is known."""
    if "proofs" not in _STATE:
        prove([0, _STATE["size"] - 1])
    work = [(leaf(index), index, proof) for index, proof in _STATE["proofs"]] * 500
    size, root = _STATE["size"], _STATE["root"]
    start = time.perf_counter()
    held = [verify_leaf_inclusion(entry, index, size, proof, root) for entry, index, proof in work]
    seconds = time.perf_counter() - start
    if not all(held):
        raise RuntimeError("a proof does not hold")
    return seconds / len(work)


def leaf(index: int) -> bytes:
    """Return the entry that stands at `index` of the trees here and in `proofs`."""
    return sha256(b"%d" % index).digest()


FUNCTIONS = {function.__name__: function for function in (start_log, append, start_tree, prove, verify)}


def main() -> None:
    """Answer until the pipe closes."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        sys.stdout.write(json.dumps(FUNCTIONS[name](**arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

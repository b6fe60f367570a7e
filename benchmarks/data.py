"""The records of a dataset: a million JSON lines to their root, and proofs out of the list.

The floor in the same rounds is what nobody can leave out: reading the lines, one SHA-256 each, a sort of the digests.
Memory is that of a process of its own, over that of one that has imported everything and read nothing; data (120 MB),
list (36 MB) are files. Proofs are made out of a list in memory, half of them of records that are absent, and verified.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import time
from pathlib import Path

from benchmarks.harness import Result, interleave, medians, ratio, scratch
from genealog.capture.data.snapshot import take
from genealog.core.data_record import record_digest
from genealog.core.recordset import RecordList, verify_lookup

_RECORDS = 1_000_000
_PROOFS = 500


def run(runs: int) -> Result:
    """Measure the snapshot against its floor, its memory, and proofs."""
    with scratch() as folder:
        path = folder / "data.jsonl"
        with path.open("w") as file:
            for number in range(_RECORDS):
                answer = f"the answer to question {number} is {number * 7919 % 1_000_003}"
                file.write(json.dumps({"id": number, "question": f"What is {number}?", "answer": answer}) + "\n")
        times = interleave({"snapshot": lambda: _snapshot(path), "floor": lambda: _floor(path)}, runs)
        root = _root(path)
        kept = RecordList((folder / "data.list").read_bytes())
        proofs = interleave({"prove": lambda: _prove(kept), "verify": lambda: _verify(kept, root)}, runs)
        peak = [_peak(path) - _peak(None) for _ in range(min(runs, 2))]
    middle = medians(times) | medians(proofs)
    figures = {
        "records_per_s": _RECORDS / middle["snapshot"],
        "snapshot_s": middle["snapshot"],
        "floor_s": middle["floor"],
        "memory_over_idle_mb": min(peak) / 2**20,
        "prove_us": middle["prove"],
        "verify_us": middle["verify"],
    }
    return Result("data", runs, figures, {"snapshot_over_floor": ratio(times["snapshot"], times["floor"])})


def _snapshot(path: Path) -> float:
    began = time.perf_counter()
    _root(path)
    return time.perf_counter() - began


def _root(path: Path) -> str:
    with path.with_suffix(".list").open("w+b") as out:
        return take(path, out).listed.root


def _floor(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb") as file:
        sorted(hashlib.sha256(line).digest() for line in file)
    return time.perf_counter() - began


def _asked() -> list[bytes]:
    dice = random.Random(5)
    texts = [f'{{"id":{dice.randrange(2 * _RECORDS)}}}'.encode() for _ in range(_PROOFS)]
    return [record_digest("json", text) for text in texts]


def _prove(kept: RecordList) -> float:
    digests = [kept.at(index)[0] for index in range(0, kept.size, kept.size // (_PROOFS // 2))] + _asked()[
        : _PROOFS // 2
    ]
    began = time.perf_counter()
    for digest in digests:
        kept.look_up("json", digest)
    return (time.perf_counter() - began) / len(digests) * 1e6


def _verify(kept: RecordList, root: str) -> float:
    lookups = [kept.look_up("json", digest) for digest in _asked()[:50]]
    began = time.perf_counter()
    for lookup in lookups:
        verify_lookup(lookup, root)
    return (time.perf_counter() - began) / len(lookups) * 1e6


def _peak(path: Path | None) -> float:
    """Return the most memory in bytes that a process of its own had resident."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure, (path,))


def _measure(path: Path | None) -> float:
    if path is not None:
        _root(path)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would tell of the process before exec, too
    return float(status.partition("VmHWM:")[2].split()[0]) * 1024

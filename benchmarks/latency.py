"""How long one caller waits for one entry: the 99th percentile of `append`, against a bare write and fdatasync.

A round is 300 bare appends of the same bytes and 300 appends of one entry of 512 bytes to the log, in changing order;
appends come back to back, so that the savings of hashes and state (every quarter of a second) fall into some of them
and stand in the percentile as they do in life. An append waits for one fdatasync, and the one that comes upon a saving
for up to eight more. The target: 99 of 100 callers wait for two syncs at most (`append_1_syncs_p99`). What that
is in time depends on the disk, whose own 99th percentile is often ten times its median: see the bare append.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.harness import Result, interleave, scratch
from genealog.core.note import NoteSigner
from genealog.store.journal import NO_DIGEST, encode_frame
from genealog.store.log import LocalLog

_ENTRY = 512  # bytes
_APPENDS = 300

Measure = Callable[[Sequence[float]], float]


def run(runs: int) -> Result:
    """Measure single appends, and count the syncs that they make."""
    entries = [os.urandom(_ENTRY)]
    frame = encode_frame(entries, {}, epoch=1, first=0, prev=NO_DIGEST)
    signer = NoteSigner("benchmark.example/log", Ed25519PrivateKey.generate())
    syncs: list[int] = []
    waits: dict[str, list[float]] = {"bare": [], "append": []}
    with scratch() as folder, LocalLog.create(folder / "log", signer=signer) as log:
        handle = os.open(folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

        def bare() -> None:
            os.write(handle, frame)
            os.fdatasync(handle)

        def contestant(name: str, append: Callable[[], object]) -> Callable[[], float]:
            return lambda: _waits(append, waits[name])

        def append() -> None:
            before = sum(counts.values())
            log.append(entries)
            syncs.append(sum(counts.values()) - before)

        with _counted_syncs() as counts:
            interleave({"bare": contestant("bare", bare), "append": contestant("append", append)}, runs)
        os.close(handle)
    figures = {
        "fdatasync_p50_ms": statistics.median(waits["bare"]) * 1e3,
        "fdatasync_p99_ms": _p99(waits["bare"]) * 1e3,
        "append_1_p50_ms": statistics.median(waits["append"]) * 1e3,
        "append_1_p99_ms": _p99(waits["append"]) * 1e3,
        "append_1_syncs_mean": statistics.mean(syncs),
        "append_1_syncs_p99": _p99(syncs),
        "append_1_syncs_max": max(syncs),
    }
    ratios = {
        "append_1_p99_over_fdatasync_p50": _over(waits, _p99, statistics.median),
        "append_1_p99_over_fdatasync_p99": _over(waits, _p99, _p99),
        "append_1_p50_over_fdatasync_p50": _over(waits, statistics.median, statistics.median),
    }
    return Result("latency", runs, figures, ratios)


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _over(waits: dict[str, list[float]], above: Measure, below: Measure) -> float:
    """Return the median over rounds of one measure of the appends over one of the bare ones; the first is warm-up."""
    rounds = range(_APPENDS, len(waits["append"]), _APPENDS)
    return statistics.median(
        above(waits["append"][start : start + _APPENDS]) / below(waits["bare"][start : start + _APPENDS])
        for start in rounds
    )


def _waits(append: Callable[[], object], into: list[float]) -> float:
    """Append `_APPENDS` times; return the seconds of all of them."""
    before = len(into)
    for _ in range(_APPENDS):
        started = time.perf_counter()
        append()
        into.append(time.perf_counter() - started)
    return sum(into[before:])


@contextmanager
def _counted_syncs() -> Iterator[dict[str, int]]:
    """Count the calls of fdatasync and fsync, the bare ones among them."""
    counts = {"fdatasync": 0, "fsync": 0}
    real = {name: getattr(os, name) for name in counts}

    def counting(name: str) -> Callable[[int], None]:
        def call(handle: int) -> None:
            counts[name] += 1
            real[name](handle)

        return call

    for name in counts:
        setattr(os, name, counting(name))
    try:
        yield counts
    finally:
        for name, function in real.items():
            setattr(os, name, function)
